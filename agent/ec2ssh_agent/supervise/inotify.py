"""Changes in directories: inotify(7) by ctypes, which costs less memory than any package.

Directories, not files, are watched: a file's watch dies with one `sed -i`. Of a directory that does not exist, the
nearest one above is watched for the missing name. Where a symbolic link leads to a directory or to a named file, the
link is watched where it lies, and the file where it leads to. The one file is XTABLES_LOCK, whose every close is told:
whoever has used iptables-legacy, to change or to list, has ended.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from ..plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ATTRIB, _CLOSE_WRITE, _CLOSE_NOWRITE = 0x4, 0x8, 0x10
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF = 0x400, 0x800
_OVERFLOW, _IGNORED = 0x4000, 0x8000
_ONLYDIR = 0x01000000
_CHANGES = _CLOSE_WRITE | _ATTRIB | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
_EVENT = struct.Struct("=iIII")
_OPEN_NOT_FOLLOWED = os.O_CLOEXEC | os.O_NONBLOCK  # inotify_init1(2) takes the same bits

_LINKS = 40  # on the way to one file: path_resolution(7)

XTABLES_LOCK = "/run/xtables.lock"

Entry = tuple[str, tuple[str, ...], str]  # directory, names (empty: any), reason


class Inotify:
    """`wanted` holds what was asked for, `missing` what could not be watched: path → why."""

    def __init__(self) -> None:
        """Raises OSError where the kernel or a limit forbids it."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._call("inotify_init1", _OPEN_NOT_FOLLOWED)
        self._watches: dict[int, list[Entry]] = {}
        self._wanted: tuple[Entry, ...] = ()
        self.missing: dict[str, str] = {}

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)

    def _call(self, name: str, *arguments: object) -> int:
        result = int(getattr(self._libc, name)(*arguments))
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result

    def watch(self, entries: Iterable[Entry]) -> tuple[str, ...]:
        """From now on these, and nothing else. A directory that stays keeps its watch: no event is lost.

        Gives the reasons of those that were not watched till now: what changed there was not seen. (Of the first ones
        none: nothing was looked at before.)
        """
        earlier, self._wanted = self._wanted, tuple(entries)
        before, self._watches, self.missing = self._watches, {}, {}
        for entry in self._wanted:
            self._add(entry)
            for led in _led_to(entry):
                self._add(led)
        for number in before.keys() - self._watches.keys():
            try:
                self._call("inotify_rm_watch", self._fd, number)
            except OSError as error:
                if error.errno != errno.EINVAL:  # the kernel was first: the directory is gone
                    raise
        known = frozenset(earlier)
        fresh = (
            reason
            for path, names, reason in self._wanted
            if earlier and known.isdisjoint(((path, names, reason), (path, (), reason)))
        )
        return tuple(dict.fromkeys(fresh))

    def _add(self, entry: Entry, *, again: bool = True) -> None:
        path, names, reason = entry
        while True:
            try:
                number = self._call("inotify_add_watch", self._fd, os.fsencode(path), self._mask(path))
                break
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR) or path == "/":
                    self.missing[path] = str(error.strerror)
                    return
            path, _, name = path.rpartition("/")
            path, names = path or "/", (name,)
        self._watches.setdefault(number, []).append((path, names, reason))
        if again and path != entry[0] and os.path.isdir(f"{path}/{names[0]}"):
            self._add(entry, again=False)  # it came before the directory above was watched

    @staticmethod
    def _mask(path: str) -> int:
        if path == XTABLES_LOCK:
            return _CLOSE_WRITE | _CLOSE_NOWRITE | _DELETE_SELF | _MOVE_SELF
        return _CHANGES | _ONLYDIR

    def read(self) -> tuple[str, ...]:
        """The reasons of the changes since, each once. Re-arms where a name came or went: it may be a directory's, or
        a link's that leads elsewhere now, and what follows there is not to be missed."""
        reasons: dict[str, None] = {}
        renamed = False
        try:
            data = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return ()
        at = 0
        while at < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, at)
            name = os.fsdecode(data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0"))
            at += _EVENT.size + length
            if mask & _OVERFLOW:
                reasons.update((reason, None) for _, _, reason in self._wanted)
                renamed = True
                continue
            for _, names, reason in self._watches.get(number, ()):
                if mask & (_DELETE_SELF | _MOVE_SELF | _IGNORED) or not names or name in names:
                    reasons[reason] = None
                    renamed = renamed or not mask & (_CLOSE_WRITE | _CLOSE_NOWRITE | _ATTRIB)
        if renamed:
            self.watch(self._wanted)
        return tuple(reasons)


def _led_to(entry: Entry) -> Iterator[Entry]:
    """The symbolic links on the way to what an entry names, each where it lies, and what they lead to."""
    path, names, reason = entry
    for way in [f"{path}/{name}" for name in names] or [path]:
        at, rest, left = "", way.split("/"), _LINKS
        while rest and left:
            name = rest.pop(0)
            if name in ("", ".", ".."):
                at = at.rpartition("/")[0] if name == ".." else at
                continue
            try:
                target = os.readlink(f"{at}/{name}")
            except (OSError, ValueError):  # no link, or nothing is there, or it is no name
                at = f"{at}/{name}"
                continue
            yield at or "/", (name,), reason
            rest, left = target.split("/") + rest, left - 1
            at = "" if target.startswith("/") else at
        if left < _LINKS and not rest:  # a circle leads nowhere
            above, _, name = at.rpartition("/")
            yield (above or "/", (name,), reason) if names else (at or "/", (), reason)
