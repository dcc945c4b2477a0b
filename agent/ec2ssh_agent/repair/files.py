"""Steps on files: new content, mode and owner, a directory, host keys."""

from __future__ import annotations

import stat
from typing import Optional

from ..host import Denied, Host, HostError
from ..steps import Directory, HostKeys, Mode, Write
from .records import CHANGES, File, Saved, sweep
from .work import Context, StepFailed, command

_CAP = 16 << 20
#: A tool that outlived its agent has ended by then, seconds after the step was saved.
STRAGGLER = 120.0


def guard(host: Host, path: str) -> None:
    """Raises StepFailed unless every directory above `path` is root's, no symlink, and writable by root alone."""
    above = path
    while above not in ("/", ""):
        above = above.rpartition("/")[0] or "/"
        status = host.stat(above, follow=False)
        if status is None:
            raise StepFailed(f"{path}: no directory {above}")
        if not status.directory:
            raise StepFailed(f"{path}: {above} is not a directory (a symlink is not followed)")
        if status.uid != 0 or stat.S_IMODE(status.mode) & 0o022:
            raise StepFailed(f"{path}: others than root can write {above}")


def resolve(host: Host, path: str) -> str:
    """Where a write to `path` goes: itself, or, for a symlink in /etc to a file of root's in /etc, that file.

    An administrator who keeps /etc/hosts.allow as a link to /etc/site/hosts.allow expects that file to be changed; to
    replace the link would cut it loose. Raises StepFailed for any other symlink, HostError.
    """
    guard(host, path)
    status = host.stat(path, follow=False)
    if status is None or not status.symlink:
        return path
    target = host.readlink(path)
    if not target.startswith("/"):
        target = f"{path.rpartition('/')[0]}/{target}"
    parts: list[str] = []
    for part in target.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    target = "/" + "/".join(parts)
    guard(host, target)
    found = host.stat(target, follow=False)
    ours = found is not None and found.regular and found.uid == 0 and not stat.S_IMODE(found.mode) & 0o022
    if not (path.startswith("/etc/") and target.startswith("/etc/") and ours):
        raise StepFailed(f"{path}: a symlink to {target}, which is not a file of root's in /etc; not followed")
    return target


def capture(host: Host, path: str, *, content: bool = True) -> File:
    """The file as it is now. A symlink is not followed. Raises HostError."""
    status = host.stat(path, follow=False)
    if status is None:
        return File(path, False)
    data: Optional[bytes] = None
    if content:
        data = host.read(path, cap=_CAP, follow=False)
    return File(path, True, data, stat.S_IMODE(status.mode), status.uid, status.gid)


def restore(host: Host, file: File) -> None:
    """Puts a captured file's content back, or removes what was not there. Raises StepFailed, HostError."""
    sweep(host, file.path)
    now = capture(host, file.path)
    if (now.exists, now.content) == (file.exists, file.content):
        return
    try:
        if not file.exists:
            host.remove(file.path)
            return
        assert file.content is not None
        host.replace(file.path, file.content, mode=file.mode)
        if not now.exists and (file.uid, file.gid) != (0, 0):
            host.chown(file.path, file.uid, file.gid)
    except Denied as error:
        raise denied(host, file.path, error) from error


def denied(host: Host, path: str, error: HostError) -> StepFailed:
    """Root was refused: nearly always chattr +i, which is somebody's will."""
    try:
        flags = host.run(("lsattr", "-d", path), deadline=5.0).text.split(" ")[0]
    except HostError:
        flags = ""
    return StepFailed(f"{path}: immutable (chattr +i)" if "i" in flags else str(error))


def unlike(now: File, then: File) -> str:
    """A unified diff of two contents of one file, 40 lines at most; "" where they are alike."""
    if (now.exists, now.content) == (then.exists, then.content):
        return ""
    if not now.exists:
        return f"{now.path}: removed since"
    import difflib

    old, new = ((file.content or b"").decode("utf-8", "replace").splitlines() for file in (then, now))
    lines = list(difflib.unified_diff(old, new, f"{now.path} (as left)", f"{now.path} (now)", n=1, lineterm=""))
    return "\n".join(lines[:40]) or f"{now.path}: changed since in its line ends"


def written_meanwhile(host: Host, file: File, saved: Saved) -> bool:
    """Whether the last write of a file may have been our step's (see the package: what a crash leaves)."""
    status = host.stat(file.path, follow=False)
    return status is not None and saved.time - 2.0 <= status.mtime_ns / 1e9 <= saved.time + STRAGGLER


class Content:
    """Write."""

    def __init__(self, context: Context, step: Write) -> None:
        self.host, self.step = context.host, step

    def save(self) -> Saved:
        file = capture(self.host, resolve(self.host, self.step.path))
        if self.step.read is not None and self.step.read != (file.content or b""):
            raise StepFailed(f"{file.path}: changed since it was looked at")
        return Saved(self.host.now(), files=(file,))

    def make(self, saved: Saved) -> None:
        path = saved.files[0].path
        if unlike(capture(self.host, path), saved.files[0]):
            raise StepFailed(f"{path}: changed since it was saved")
        try:
            self.host.replace(path, self.step.content)
        except Denied as error:
            raise denied(self.host, path, error) from error

    def seal(self, saved: Saved) -> Saved:
        return saved._replace(made=True, left_files=(capture(self.host, saved.files[0].path),))

    def difference(self, saved: Saved) -> str:
        now = capture(self.host, saved.files[0].path)
        if not unlike(now, saved.files[0]):
            return ""
        return unlike(now, saved.left_files[0] if saved.made else now._replace(content=self.step.content))

    def revert(self, saved: Saved) -> tuple[str, ...]:
        restore(self.host, saved.files[0])
        return ()

    def stands(self, saved: Saved) -> bool:
        now = capture(self.host, saved.files[0].path)
        return now.content == self.step.content and bool(unlike(now, saved.files[0]))


class Permissions:
    """Mode."""

    def __init__(self, context: Context, step: Mode) -> None:
        self.host, self.step = context.host, step

    def save(self) -> Saved:
        guard(self.host, self.step.path)
        status = self.host.stat(self.step.path, follow=False)
        if status is None or not (status.regular or status.directory):
            raise StepFailed(f"{self.step.path}: neither a file nor a directory")
        return Saved(self.host.now(), files=(capture(self.host, self.step.path, content=False),))

    def _set(self, mode: int, uid: int, gid: int) -> None:
        try:
            now = capture(self.host, self.step.path, content=False)
            if (now.uid, now.gid) != (uid, gid):
                self.host.chown(self.step.path, uid, gid)
            self.host.chmod(self.step.path, mode)
        except Denied as error:
            raise denied(self.host, self.step.path, error) from error

    def make(self, saved: Saved) -> None:
        self._set(self.step.mode, self.step.uid, self.step.gid)

    def seal(self, saved: Saved) -> Saved:
        return saved._replace(made=True, left_files=(capture(self.host, self.step.path, content=False),))

    def difference(self, saved: Saved) -> str:
        now, before = capture(self.host, self.step.path, content=False), saved.files[0]
        # A crash between chown and chmod leaves one old and one new part.
        owner = (now.uid, now.gid) in ((before.uid, before.gid), (self.step.uid, self.step.gid))
        if now.exists and owner and now.mode in (before.mode, self.step.mode):
            return ""
        if not now.exists:
            return f"{now.path}: removed since"
        return f"{now.path}: {now.mode:04o} {now.uid}:{now.gid} now, left as {self.step.mode:04o}"

    def revert(self, saved: Saved) -> tuple[str, ...]:
        before = saved.files[0]
        if capture(self.host, self.step.path, content=False) != before:
            self._set(before.mode, before.uid, before.gid)
        return ()

    def stands(self, saved: Saved) -> bool:
        now = capture(self.host, self.step.path, content=False)
        return now.exists and now != saved.files[0] and now.mode == self.step.mode


class Folder:
    """Directory: made where it is missing; taken back where it is still empty."""

    def __init__(self, context: Context, step: Directory) -> None:
        self.host, self.step = context.host, step

    def save(self) -> Saved:
        guard(self.host, self.step.path)
        before = capture(self.host, self.step.path, content=False)
        if before.exists and not self._present():
            raise StepFailed(f"{self.step.path}: not a directory")
        return Saved(self.host.now(), files=(before,))

    def _present(self) -> bool:
        status = self.host.stat(self.step.path, follow=False)
        return status is not None and status.directory

    def make(self, saved: Saved) -> None:
        self.host.mkdir(self.step.path, self.step.mode)

    def seal(self, saved: Saved) -> Saved:
        return saved._replace(made=True, left_files=(capture(self.host, self.step.path, content=False),))

    def difference(self, saved: Saved) -> str:
        if saved.files[0].exists or not self._present() or not self.host.listdir(self.step.path):
            return ""
        return f"{self.step.path}: no longer empty"

    def revert(self, saved: Saved) -> tuple[str, ...]:
        if not saved.files[0].exists and self._present():
            self.host.rmdir(self.step.path)
        return ()

    def stands(self, saved: Saved) -> bool:
        return not saved.files[0].exists and self._present()


class Keys:
    """HostKeys: each made in the change's own directory, then put into place by a rename, the private part last.

    sshd asks for the private part; with it there, the pair is whole. A private part that exists is never replaced.
    """

    def __init__(self, context: Context, step: HostKeys) -> None:
        self.context, self.host, self.step = context, context.host, step

    def save(self) -> Saved:
        files: list[File] = []
        for _, path in self.step.keys:
            guard(self.host, path)
            files += [capture(self.host, f"{path}.pub"), capture(self.host, path, content=False)]
        return Saved(self.host.now(), files=tuple(files))

    def make(self, saved: Saved) -> None:
        for number, (kind, path) in enumerate(self.step.keys):
            if saved.files[2 * number + 1].exists:
                continue
            temporary = f"{CHANGES}/{self.context.change}/key"
            self._discard(temporary)
            command(self.context, ("ssh-keygen", "-q", "-N", "", "-t", kind, "-f", self.host.path(temporary)))
            try:
                for suffix, mode in ((".pub", 0o644), ("", 0o600)):
                    content = self.host.read(temporary + suffix, follow=False)
                    self.host.replace(path + suffix, content, mode=mode, like=False)
            except Denied as error:
                raise denied(self.host, path, error) from error
            finally:
                self._discard(temporary)
            if self.host.program("restorecon"):
                self.host.run(("restorecon", path, f"{path}.pub"))

    def _discard(self, temporary: str) -> None:
        for suffix in ("", ".pub"):
            self.host.remove(temporary + suffix)

    def seal(self, saved: Saved) -> Saved:
        # The private part's bytes are nobody's business, not even the record's: its public part stands for it.
        files = tuple(capture(self.host, f.path, content=f.path.endswith(".pub")) for f in saved.files)
        return saved._replace(made=True, left_files=files)

    def difference(self, saved: Saved) -> str:
        for number in range(0, len(saved.files), 2):
            public, private = saved.files[number : number + 2]
            if private.exists:
                continue
            if saved.made:
                now = capture(self.host, public.path)
                if self.host.exists(private.path) and now.content != saved.left_files[number].content:
                    return f"{private.path}: another key since"
            elif self.host.exists(private.path) and not written_meanwhile(self.host, private, saved):
                return f"{private.path}: written since"
        return ""

    def revert(self, saved: Saved) -> tuple[str, ...]:
        self._discard(f"{CHANGES}/{self.context.change}/key")
        for public, private in zip(saved.files[::2], saved.files[1::2]):
            if not private.exists:
                sweep(self.host, private.path)
                self.host.remove(private.path)
                restore(self.host, public)
        return ()

    def stands(self, saved: Saved) -> bool:
        return any(not file.exists and self.host.exists(file.path) for file in saved.files[1::2])
