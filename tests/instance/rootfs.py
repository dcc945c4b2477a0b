"""What instances are made of: root file systems, the package of this tree as a layer over them, and commands to do it.

A root file system is made once by mmdebstrap and kept in CACHE; what the package of this tree installs is a layer over
it, made once for each content of the package.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path("/var/cache/ec2ssh-agent")
WORK = Path("/var/tmp")

PACKAGES = (
    "systemd systemd-sysv dbus openssh-server openssh-client iproute2 iptables nftables ufw firewalld ipset procps "
    "python3 python3-psutil python3-systemd python3-requests python3-jeepney python3-iptables sudo e2fsprogs"
).split()

UBUNTU = ("noble",)

# What an instance's own packages would do by themselves and a test must not meet: firewalld is enabled by its package.
CUSTOMISE = """set -e
systemctl --root="$1" -q disable firewalld.service
systemctl --root="$1" -q mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service \
    dpkg-db-backup.timer systemd-tmpfiles-clean.timer man-db.timer fstrim.timer
echo nameserver 127.0.0.1 > "$1/etc/resolv.conf"
echo instance > "$1/etc/hostname"
printf '127.0.0.1 localhost instance\\n::1 localhost\\n' > "$1/etc/hosts"
mkdir -p -m 0700 "$1/root/.ssh"
# OpenSSH 9.8 and later refuse for a while whoever connects often without logging in, as the tests' clients do.
if chroot "$1" /usr/sbin/sshd -T -o PerSourcePenalties=no >/dev/null 2>&1; then
    echo PerSourcePenaltyExemptList 10.0.5.0/24,203.0.113.0/24,198.51.100.0/24,2001:db8::/32 \
        > "$1/etc/ssh/sshd_config.d/10-test-clients.conf"
fi
rm -f "$1"/etc/machine-id "$1"/var/log/*.log
"""


class Done(NamedTuple):
    """What a command gave: exit status (negative: the signal), both outputs as text."""

    code: int
    out: str
    err: str


def execute(
    argv: Sequence[object], *, check: bool = True, stdin: Optional[bytes] = None, deadline: float = 120.0
) -> Done:
    """Runs a program of this machine in a process group of its own, which is killed at the deadline (seconds)."""
    words = [str(word) for word in argv]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        # Files, not pipes: a daemon that a command leaves behind would hold a pipe open for ever.
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            process.communicate(stdin, timeout=deadline)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise AssertionError(
                    f"no end within {deadline:g} s: {' '.join(words)}\n{_text(out)}{_text(err)}"
                ) from None
            raise
        done = Done(process.returncode, _text(out), _text(err))
    if check and done.code:
        raise AssertionError(f"exit status {done.code}: {' '.join(words)}\n{done.out}{done.err}")
    return done


def _text(file: object) -> str:
    assert hasattr(file, "seek") and hasattr(file, "read")
    file.seek(0)
    return bytes(file.read()).decode("utf-8", "replace")


def wait_for(what: str, look: Callable[[], bool], seconds: float = 60.0, *, every: float = 0.05) -> float:
    """Polls until `look` is true; gives the seconds it took. Raises AssertionError after `seconds`."""
    started = time.monotonic()
    while not look():
        if time.monotonic() - started > seconds:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(every)
    return time.monotonic() - started


# -- root file systems


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _ubuntu() -> list[str]:
    """What mmdebstrap needs for a release of Ubuntu: its keys, which Debian's archive vouches for, and `universe`."""
    keys = CACHE / "ubuntu-keyring"
    if not keys.is_dir():
        new = keys.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        execute(["mmdebstrap", "--quiet", "--variant=extract", "--include=ubuntu-keyring", "trixie", new])
        new.rename(keys)
    return [f"--keyring={keys}/usr/share/keyrings/ubuntu-archive-keyring.gpg", "--components=main,universe"]


def rootfs(suite: str = "bookworm", extra: Sequence[str] = ()) -> Path:
    """A root file system of a release with what PACKAGES and `extra` name; made once, then only read."""
    packages = sorted({*PACKAGES, *extra})
    digest = hashlib.sha256("\n".join([suite, *packages, CUSTOMISE]).encode()).hexdigest()[:12]
    made = CACHE / f"rootfs-{suite}-{digest}"
    with _locked(f"rootfs-{suite}"):
        if not made.is_dir():
            new = made.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            argv = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}"]
            argv += _ubuntu() if suite in UBUNTU else []
            execute([*argv, suite, new], deadline=1200)
            execute(["sh", "-c", CUSTOMISE, "sh", new])
            new.rename(made)
    return made


def tree_digest() -> str:
    """The content of everything that the package is built from."""
    digest = hashlib.sha256()
    for directory in ("agent", "packaging", "systemd"):
        for path in sorted((ROOT / directory).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(ROOT)}\0{path.stat().st_mode:o}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def package() -> Path:
    """The .deb of this tree, built once for each content."""
    directory = CACHE / "packages" / tree_digest()
    with _locked("package"):
        found = sorted(directory.glob("*.deb"))
        if not found:
            directory.mkdir(parents=True, exist_ok=True)
            found = [Path(execute([ROOT / "packaging" / "build-deb", directory]).out.strip())]
    return found[0]


def agent_layer(base: Path) -> Path:
    """What installing the package adds to a root file system, as a layer over it."""
    deb = package()
    made = CACHE / "layers" / f"{base.name}-{tree_digest()}"
    with _locked("layer"):
        if not made.is_dir():
            made.parent.mkdir(parents=True, exist_ok=True)
            for old in sorted(made.parent.glob(f"{base.name}-*"), key=lambda path: path.stat().st_mtime)[:-24]:
                shutil.rmtree(old, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=made.parent, prefix="new-") as name:
                top, work, merged = (Path(name) / part for part in ("top", "work", "merged"))
                for directory in (top, work, merged):
                    directory.mkdir(mode=0o755)
                with overlay([base], top=top, work=work, at=merged):
                    shutil.copy(deb, merged / "tmp" / deb.name)
                    execute(["chroot", merged, "dpkg", "-i", f"/tmp/{deb.name}"], deadline=300)
                    (merged / "tmp" / deb.name).unlink()
                top.rename(made)
    return made


@contextlib.contextmanager
def overlay(lower: Sequence[Path], *, top: Path, work: Path, at: Path) -> Iterator[None]:
    options = f"lowerdir={':'.join(map(str, lower))},upperdir={top},workdir={work}"
    execute(["mount", "-t", "overlay", "-o", options, "overlay", at])
    try:
        yield
    finally:
        unmount(at)


def unmount(path: Path) -> None:
    def gone() -> bool:
        return execute(["umount", path], check=False).code == 0 or not os.path.ismount(path)

    wait_for(f"umount {path}", gone, 30)
