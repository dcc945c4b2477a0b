"""Steps that an owner's tool makes: ufw, firewalld, systemd. Its own inverse takes them back; its files are then
compared.

A tool may add comments, sort, or renumber: after the inverse, files that are not what they were get their bytes back
and `reload` is run. Where somebody has changed the files since, bytes are not put back (they would take the other's
change away): if every line that our step added is still there, and none that it took away, the inverse alone is exact.

What firewalld lets in at run time is in no file. What was there before the step is put on record and left by the
inverse; where a crash left no account, and no file tells that the step was made, it may be the administrator's: it is
left and noted.
"""

from __future__ import annotations

import shlex
from collections import Counter

from ..host import HostError
from ..steps import Argv, Run
from . import firewalld, scaffold
from .files import capture, resolve, restore, unlike, written_meanwhile
from .records import File, Saved, Text
from .work import Context, StepFailed, command, plain, substitute

#: The name of a saved text: an addition at run time that somebody else had made.
_THERE = "there already"


class Commands:
    """Run."""

    def __init__(self, context: Context, step: Run) -> None:
        self.context, self.host, self.step = context, context.host, step
        self.met: list[Argv] = []  # somebody was quicker than our addition

    def save(self) -> Saved:
        files = tuple(self._before(path) for path in self.step.files)
        there = firewalld.there(self.context, tuple(self._named(argv) for argv in self.step.commands))
        return Saved(self.host.now(), files=files, texts=(*self._tables(), *map(_theirs, there)))

    def _tables(self) -> tuple[Text, ...]:
        """The filter tables that the tool writes, as `TOOL-restore` takes them."""
        return tuple(Text(tool, scaffold.table_text(self.context, tool)) for tool in self.step.tables)

    def _before(self, path: str) -> File:
        if not self.host.exists(path.rpartition("/")[0]):
            return File(path, False)  # the tool makes the directory, too
        return capture(self.host, resolve(self.host, path))

    def _named(self, argv: Argv) -> Argv:
        return tuple(substitute(word, self.context.change) for word in argv)

    def _run(self, argv: Argv) -> None:
        named = self._named(argv)
        added = firewalld.add(self.context, named)
        if added is None:
            ran = command(self.context, named, owner=self.step.owner)
            added = firewalld.ALREADY.encode() not in ran.err
        if not added and firewalld.at_run_time(named):
            self.met.append(named)

    def make(self, saved: Saved) -> None:
        for argv in self.step.commands:
            self._run(argv)

    def seal(self, saved: Saved) -> Saved:
        texts = (*saved.texts, *map(_theirs, self.met))
        return saved._replace(made=True, texts=texts, left_files=self._now(saved), left_texts=self._tables())

    def _now(self, saved: Saved) -> tuple[File, ...]:
        return tuple(capture(self.host, file.path) for file in saved.files)

    def difference(self, saved: Saved) -> str:
        texts = []
        for number, now in enumerate(self._now(saved)):
            before = saved.files[number]
            if not unlike(now, before):
                continue
            if saved.made:
                left = saved.left_files[number]
                if unlike(now, left) and not _ours_stands(before, left, now):
                    texts.append(unlike(now, left))
            elif not written_meanwhile(self.host, before, saved) and not _backup(now, saved):
                texts.append(unlike(now, before))
        return "\n".join(texts)

    def undoing(self, saved: Saved) -> Saved:
        """What the record says while the inverse is at work: as of a step that was begun, for a tool that is killed
        leaves what nobody knows. Not where others have changed the same since: that is never put back."""
        if self._shared(saved) or not self._untouched(saved):
            return saved
        if self.step.owner == "firewalld" and not saved.files:
            return saved  # no file would tell that the step was made
        return saved._replace(time=self.host.now(), made=False)

    def _shared(self, saved: Saved) -> bool:
        """Whether somebody else has changed the files, too."""
        return saved.made and any(
            unlike(now, left) and unlike(now, before)
            for now, left, before in zip(self._now(saved), saved.left_files, saved.files)
        )

    def revert(self, saved: Saved) -> tuple[str, ...]:
        shared = self._shared(saved)
        exact = bool(self.step.tables) and not shared and self._untouched(saved)
        complaint, notes = self._invert(saved)
        after = self._now(saved)
        if shared:
            return (*notes, *self._check_shared(saved, after, complaint))
        wrong = [before for before, now in zip(saved.files, after) if unlike(now, before)]
        for file in wrong:
            restore(self.host, file)
        for argv in self.step.reload if wrong and not exact else ():
            self._run(argv)
        # ufw's reload leaves chains that its files do not name as they are: the tables themselves are exact.
        for text in saved.texts if exact else ():
            scaffold.put_table(self.context, text.name, text.content)
        # A tool that will not take back what is not there complains of nothing that matters.
        if complaint and saved.made and not saved.files:
            raise StepFailed(complaint)
        if not self.step.inverse and not self.step.files:
            return tuple(f"not taken back, it has no inverse: {' '.join(argv)}" for argv in self.step.commands)
        return notes

    def _invert(self, saved: Saved) -> tuple[str, tuple[str, ...]]:
        """Runs the inverse; gives what its tool complained of first, and notes on what was left.

        Files get their bytes back all the same; what firewalld does at run time is in no file. That comes first: where
        it fails nothing has been touched yet, and all can be tried again. Raises StepFailed there.
        """
        removals, notes = self._at_run_time(saved)
        for argv in removals:
            try:
                self._run(argv)
            except StepFailed as error:
                if not firewalld.nothing_there(error):
                    raise
        complaint = ""
        for argv in self.step.inverse:
            if firewalld.at_run_time(argv):
                continue
            try:
                self._run(argv)
            except StepFailed as error:
                complaint = complaint or str(error)
        return complaint, notes

    def _at_run_time(self, saved: Saved) -> tuple[list[Argv], tuple[str, ...]]:
        """What takes back what is ours in the running firewalld, and notes on what may be somebody else's."""
        removals = [argv for argv in map(self._named, self.step.inverse) if firewalld.at_run_time(argv)]
        removals = [argv for argv in removals if _theirs(firewalld.addition(argv)) not in saved.texts]
        # The running configuration is changed first: where the files are, it was.
        begun = any(unlike(now, before) for now, before in zip(self._now(saved), saved.files))
        if saved.made or begun or not self.context.crashed:
            return removals, ()
        there = firewalld.there(self.context, tuple(map(firewalld.addition, removals)))
        return [], tuple(f"left as it is, for nobody knows who ran it: {shlex.join(argv)}" for argv in there)

    def _untouched(self, saved: Saved) -> bool:
        """Whether the tables are what our step left (after a crash: nobody knows; it was a moment ago)."""
        now = self._tables()
        return not saved.made or [plain(text.content) for text in now] == [plain(t.content) for t in saved.left_texts]

    def _check_shared(self, saved: Saved, after: tuple[File, ...], complaint: str) -> tuple[str, ...]:
        for before, left, now in zip(saved.files, saved.left_files, after):
            if _ours_stands(before, left, now) and unlike(left, before):
                raise StepFailed(f"{now.path}: its own tool did not take the change back; {complaint}")
        return ("the files were changed by others meanwhile; only our part was taken back",)

    def stands(self, saved: Saved) -> bool:
        try:
            now = self._now(saved)
        except HostError:
            return True  # cannot be looked at: keep the record
        return any(
            unlike(file, before) and _ours_stands(before, left, file)
            for before, left, file in zip(saved.files, saved.left_files, now)
        )


def _theirs(argv: Argv) -> Text:
    return Text(_THERE, shlex.join(argv).encode())


def _backup(now: File, saved: Saved) -> bool:
    """Whether it holds what another of the files held before: the tool renamed that one, which keeps its time."""
    return now.exists and any(now.content == file.content for file in saved.files)


def _lines(file: File) -> Counter[bytes]:
    return Counter(line.strip() for line in (file.content or b"").splitlines())


def _ours_stands(before: File, left: File, now: File) -> bool:
    """Whether all that our step added is still in the file, and nothing of what it took away is back."""
    was, ours, current = _lines(before), _lines(left), _lines(now)
    added, removed = ours - was, was - ours
    return not added - current and all(current[line] <= ours[line] for line in removed)
