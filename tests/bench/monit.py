"""Monit as somebody would set it up for the same end: each second, what the agent looks at, and a script that mends.

Monit speaks to sshd on the instance's own address, so it meets what the firewall does to everybody, but nothing that is
for one interface, or lets the loopback in, as most rulesets do: such faults it cannot see.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "instance"))

from harness import SERVER4, Instance, wait_for  # noqa: E402

_CONFIG = f"""\
set daemon 1
set log /var/log/monit.log
set pidfile /run/monit.pid
set statefile /run/monit.state
set idfile /run/monit.id
check process sshd with pidfile /run/sshd.pid
    start program = "/usr/bin/systemctl restart ssh.service"
    stop program = "/usr/bin/systemctl stop ssh.service"
check host outside with address {SERVER4}
    if failed port 22 protocol ssh with timeout 1 seconds then exec "/usr/local/sbin/mend-ssh"
check file sshd_config with path /etc/ssh/sshd_config
    if changed checksum then alert
check file hosts_deny with path /etc/hosts.deny
    if changed checksum then exec "/usr/local/sbin/mend-ssh"
check file hosts_allow with path /etc/hosts.allow
    if changed checksum then exec "/usr/local/sbin/mend-ssh"
check directory keys with path /etc/ssh
    if changed timestamp then alert
"""
_MEND = """\
#!/bin/sh
iptables -C INPUT -p tcp --dport 22 -j ACCEPT || iptables -I INPUT -p tcp --dport 22 -j ACCEPT
grep -qs '^sshd: ALL: allow$' /etc/hosts.allow || echo 'sshd: ALL: allow' >> /etc/hosts.allow
sleep 0.3
timeout 1 bash -c 'exec 3<>/dev/tcp/127.0.0.1/22; read -r line <&3' || systemctl restart ssh.service
"""
UNDO = "iptables -D INPUT -p tcp --dport 22 -j ACCEPT; : > /etc/hosts.allow"


def start(made: Instance) -> int:
    """Starts it; gives its process id, seen from this machine."""
    made.run("systemctl stop monit.service; touch /etc/hosts.allow /etc/hosts.deny")
    made.write("/usr/local/sbin/mend-ssh", _MEND, 0o755)
    made.write("/etc/monit/monitrc", _CONFIG, 0o600)
    made.run("systemctl start monit.service")
    wait_for("Monit", lambda: made.run("grep -q started /var/log/monit.log", check=False).code == 0, 30)
    inner = made.run("cat /run/monit.pid").out.strip()
    for status in Path("/proc").glob("[0-9]*/status"):
        text = status.read_text() if status.exists() else ""
        if "Name:\tmonit\n" in text and f"\t{inner}\n" in text and same(made, status.parent):
            return int(status.parent.name)
    raise AssertionError("Monit's process is not to be seen")


def same(made: Instance, process: Path) -> bool:
    """Whether it is one of the instance's."""
    return (process / "ns/pid").readlink() == Path(f"/proc/{made._init}/ns/pid").readlink()
