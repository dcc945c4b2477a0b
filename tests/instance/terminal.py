"""A console for an instance: a pseudo-terminal of its own, mounted over its /dev/console as container managers do."""

from __future__ import annotations

from harness import Instance, wait_for

_HELD = "/root/console.out"
#: Holds the terminal open, and keeps what is written there.
_HOLD = f"""\
import os, pty
master, terminal = pty.openpty()
name = os.ttyname(terminal)
open("/dev/console", "a").close()
assert not os.system("mount --bind " + name + " /dev/console")
with open("{_HELD}", "wb", 0) as held, open("/root/console.name", "w") as said:
    said.write(name)
    said.flush()
    while True:
        held.write(os.read(master, 4096))
"""


class Terminal:
    """`name` is its path in the instance, such as /dev/pts/3."""

    def __init__(self, made: Instance) -> None:
        self.made = made
        made.write("/root/console.py", _HOLD)
        made.run("rm -f /root/console.name; systemd-run -q --unit=test-console python3 /root/console.py")
        wait_for("the console", lambda: made.run("cat /root/console.name", check=False).out.startswith("/dev/"), 30)
        self.name = made.read("/root/console.name")

    def text(self) -> str:
        return self.made.read(_HELD).replace("\r", "")

    def login(self) -> None:
        """A shell has it as its controlling terminal, and waits."""
        self._has("test-login", "sh -c 'read line'")

    def logout(self) -> None:
        self.made.run("systemctl stop test-login")

    def getty(self) -> None:
        """What waits for somebody to log in."""
        self._has("test-getty", "agetty --noclear - dumb")

    def _has(self, unit: str, command: str) -> None:
        self.made.run(
            f"systemd-run -q --unit={unit} -p TTYPath={self.name} -p StandardInput=tty -p StandardOutput=tty {command}"
        )
        pid = f"$(systemctl show -P MainPID {unit})"
        tty = self.name.removeprefix("/dev/")
        wait_for(
            f"{unit} on its terminal", lambda: self.made.run(f"ps -o tty= -p {pid}", check=False).out.strip() == tty, 30
        )
