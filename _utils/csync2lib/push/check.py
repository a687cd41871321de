"""The check, with which a push begins: what differs from csync2's records is recorded, and made dirty for all peers."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import urllib.parse
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from csync2lib import backups, beneath, journal, received, storage
from csync2lib.csync2 import excludes, unfinished
from csync2lib.csync2.command import run
from csync2lib.csync2.custody import unrecorded_for
from csync2lib.csync2.database import Database
from csync2lib.csync2.excludes import Excludes
from csync2lib.csync2.kept import last_copy
from csync2lib.csync2.namespace import is_below, outermost
from csync2lib.csync2.states import DIRECTORY
from csync2lib.group import AWAY, Group, GroupConfig
from csync2lib.local_changes import LOCAL
from csync2lib.push import ledger
from csync2lib.push.differences import TOO_LONG, Difference, Differences

#: Differences that are written at once: csync2's server waits meanwhile.
BATCH = 300
#: In a group's directory: what could not be looked at, or is not carried, as JSON; so many paths at most.
UNREAD, MOST_UNREAD = "unread.json", 1000
#: In a group's directory: what is left as it is recorded, because it looks like a lost disk.
HELD = "held"


class Checked(NamedTuple):
    """
    What a check has done: how many paths the journal named; what it left as it was, and why ("" if nothing); whether it
    was of the whole group; whether a file system is away.
    """

    named: int
    held: str
    full: bool
    away: bool


def check(group: Group, config: GroupConfig, full: bool, release: bool = False) -> Checked:
    """
    Record what has changed of what the journal names, make it dirty for all peers, and discharge the journal. Raises
    CsyncsyncError, sqlite3.Error, OSError.

    full
        Check the whole group, not only what the journal names.
    release
        Record deletions, too, that look like a lost disk.
    """
    guard = group.guard
    mounted = guard.mounts()
    lost, moved = ({}, {}) if release else (guard.problems(), guard.moved_mounts(mounted))
    files, entries, whole = journal.take(group.journal)
    full = full or whole
    with contextlib.suppress(sqlite3.OperationalError), group.open_database(write=True) as database:
        database.await_writer()  # csync2's server may not have committed yet what the last host to push has sent
    if full and config.backup_directory:
        backups.sweep(config.backup_directory, config.roots)
    # In the first check after a join records may never have been sent.
    with recording(group, config, base=not os.path.exists(group.path("recorded"))) as recorder:
        recorder.local = set() if config.receive_only else None
        recorder.leave(map(os.fsencode, lost))
        recorder.moved, recorder.rewritten = moved, journal.rewritten(files)
        same = recorder.named({**entries, **dict.fromkeys(moved, True)})
        recorder.received()
        if full:
            recorder.everything()
        sure = recorder.rewritten.intersection(same)  # all else csync2 has recorded since
        heard = {path: when for path, when in journal.heard(files if sure else ()).items() if path in sure}
        recorder.mark(sorted(sure - ledger.taken(group.path("sent"), config.peers, heard)))
        if not release:  # what has gone away while all was looked at
            recorder.leave(map(os.fsencode, {**guard.problems(), **lost}))
            recorder.moved = {**guard.moved_mounts(), **moved}
        held = [*lost.values(), *recorder.hold_moved(), *([] if release else recorder.hold_lost())]
        recorder.leave_hidden(release)
        recorder.delete()
        recorder.forget_roots()
        recorder.note_local()
    recorder.note_left()
    guard.note_mounts(mounted, recorder.held, recorder.found.unread)
    journal.discharge(files)
    group.forget("recorded", *([journal.UNWATCHED] if full else []))
    return Checked(len(entries), "; ".join(held), full, bool(recorder.away or recorder.unseen()))


@contextlib.contextmanager
def recording(group: Group, config: GroupConfig, base: bool = False) -> Iterator[Recorder]:
    """
    Yields what records the differences of a group.

    base
        The records that are replaced are what all hosts have, and noted as that.
    """
    with group.open_database(write=True) as database:
        recorder = Recorder(group, config, database, base)
        yield recorder
    recorder.end()


class Recorder:
    """Has csync2's records be what stands on the disk, and what was otherwise dirty for all peers."""

    def __init__(self, group: Group, config: GroupConfig, database: Database, base: bool) -> None:
        self.group, self.config, self.database = group, config, database
        self.found = Differences(database, Excludes(map(os.fsencode, config.exclude)), config.roots)
        self.base = ledger.Base(group.path("sent")) if base else None
        self.commands = _Commands(config)
        #: What is recorded last; a path may be found twice.
        self.gone: dict[bytes, Difference] = {}
        #: ``{mount point: what happened}`` where something else is mounted than was.
        self.moved: Mapping[bytes, str] = {}
        #: What is left as it is recorded, with all below it; of that, where a file system is away.
        self.held: set[bytes] = set()
        self.away: set[bytes] = set()
        #: Where the host only receives, what it has otherwise: its records stay those of what it has received.
        self.local: set[bytes] | None = None
        #: For whom what has changed becomes dirty.
        self.peers: Collection[str] = config.peers
        #: Tells what came from other hosts, and csync2 has not recorded.
        self.unrecorded = received.Unrecorded(group.directory)
        #: What of that was recorded here, as its csync2 is dead.
        self.came: set[bytes] = set()
        #: What is left to the next check, because csync2 records it, or may be about to. What others may have
        #: otherwise, though it is recorded as it is here.
        self.again, self.rewritten = set[bytes](), set[bytes]()

    def leave(self, places: Iterable[bytes]) -> None:
        """Leave what is at these include roots, and below, as it is recorded."""
        self.away.update(places)
        self.held |= self.away
        self.gone = {path: one for path, one in self.gone.items() if not self._is_left(path)}

    def _is_left(self, path: bytes) -> bool:
        return _is_below_any(path, self.held)

    def everything(self) -> None:
        """Of the whole group."""
        for root in outermost(self.config.roots):
            if not self._is_left(root):
                self._record(self.found.below(root))

    def named(self, entries: Mapping[bytes, bool]) -> list[bytes]:
        """
        Of ``{path: whole tree?}``, and of what is above and was not recorded, which csync2 would not send by itself.

        Returns the paths that stand there as they are recorded: rewritten within the second of their record.
        """
        same = []
        seen: set[bytes] = set()
        before = dict.fromkeys(storage.read_names(self.group.path(LOCAL)) if self.local is not None else (), False)
        left = dict.fromkeys(left_before(self.group), True)
        for path, tree in sorted({**before, **entries, **left}.items()):
            if self._is_left(path):
                continue
            for parent in reversed([top for top in beneath.above(path) if _is_below_any(top, self.found.roots)]):
                if parent not in seen and self.database.record(parent) is None and beneath.is_directory(parent):
                    self._record(self.found.at(parent))
                seen.add(parent)
            record, kind = self.database.record(path), beneath.is_directory(path)
            if tree or (record is None if kind else self.database.has_below(path)):
                self._record(self.found.below(path))
            elif not self._record(self.found.at(path)) and record is not None and beneath.exists(path):
                same.append(path)
        return same

    def received(self) -> None:
        """
        What csync2 did not record: the watcher may name it only later, when nothing tells whose it is any more. csync2
        itself may have made it dirty, when the peer sent it again (daemon.c, csync_check_dirty()).
        """
        paths = [path for path in sorted(self.unrecorded.paths) if not self._is_left(path)]
        paths = [path for path in paths if self.unrecorded.is_lost(path, self.database.record(path))]
        for path in paths:
            self._record(self.found.at(path))
        self.came.update(paths)
        self.database.clean(paths)

    def mark(self, paths: list[bytes]) -> None:
        """Make paths dirty for all peers, as they are recorded: csync2 then compares contents."""
        paths = [path for path in paths if path not in self.came]
        if paths and self.local is None:
            if self.base:
                self.base.note(self.database, {path: self.database.record(path) for path in paths})
            self.database.mark(paths, self.config.address, self.peers, self.commands.of(paths))

    # ---- Deletions, which are recorded last

    def hold_moved(self) -> list[str]:
        """Leave out those below mount points where something else is mounted by now; returns what is to be told."""
        told = []
        for point, what in self.moved.items():
            below = [path for path in self.gone if is_below(path, point)]
            if below:
                for path in below:
                    del self.gone[path]
                self.held.add(point)
                self.away.add(point)
                told.append(
                    f"{len(below)} paths of {os.fsdecode(point)} are missing, and {what}: they stay on the other hosts."
                    f" Put it back; or, to have them deleted on all hosts: salt-run csyncsync.release {self.group.name}"
                )
        return told

    def hold_lost(self) -> list[str]:
        """Leave all of them out if they look like a lost disk; returns what is to be told."""
        if self.local is not None:
            return []
        paths = {*self.gone}
        vanished = paths | self.group.guard.vanished(list(self.config.minions))
        why = self.group.guard.looks_lost(vanished, self.config.include, self.config.hold, paths)
        if not why:
            return []
        self.held |= {root for root in self.found.roots if any(is_below(path, root) for path in paths)}
        self.gone = {}
        return [why]

    def leave_hidden(self, release: bool) -> None:
        """
        Where a file system is away, or was until now, some things are nobody's deletions. The copy of the database,
        which is not renewed meanwhile, tells of them.

        csync2's server takes what is not there for deleted as soon as a peer sends it: its record is put back. And what
        came meanwhile was written into the bare directory, where the file system hides it: it is forgotten here.
        """
        before = storage.read_names(self.group.path(AWAY))
        back, unseen = set() if release else before - self.away, self.away | self.unseen()
        copy = last_copy(self.group.directory, self.group.database)
        if not (unseen or back) or copy is None:
            return
        with Database(copy) as known:
            lost = [path for path in self._missing_below(unseen) if not self.database.record(path)]
            self.database.put_back({path: known.record(path) for path in lost}, known.dirty())
            hidden = [path for path in self.gone if _is_below_any(path, back) and known.record(path) is None]
        self.database.forget(hidden)
        for path in hidden:
            del self.gone[path]

    def unseen(self) -> set[bytes]:
        """What could not be looked at now."""
        return {path for path, why in self.found.unread.items() if why != TOO_LONG}

    def _missing_below(self, places: Collection[bytes]) -> set[bytes]:
        """The paths below places that are dirty, and not there."""
        dirty = {path for path, _, _ in self.database.dirty() if _is_below_any(path, places)} if places else set()
        return {path for path in dirty if not beneath.exists(path)}

    def delete(self) -> None:
        """Record what is gone, and is not held."""
        gone = iter(self.gone.values())
        while batch := list(islice(gone, BATCH)):
            self._write(batch)

    # ---- One after the other

    def _record(self, differences: Iterator[Difference]) -> int:
        """Returns how many there were."""
        number = 0
        differences = (one for one in differences if not self._is_left(one.path))
        while found := list(islice(differences, BATCH)):
            number += len(found)
            self.unrecorded.look()
            came = [one for one in found if self.unrecorded.is_lost(one.path, one.before)]
            if came:
                self.came.update(one.path for one in came)
                self.database.take_in(came, self.config.address, ())
            batch = [one for one in found if one.path not in self.came]
            self.gone.update((one.path, one) for one in batch if one.now is None)
            # A mount point has the owner and mode of what is mounted there, or not; others are to have the directory.
            self._write([one for one in batch if one.now is not None and not (one.before and one.path in self.moved)])
        return number

    def forget_roots(self) -> None:
        """
        Forget includes that were deleted here: they stay on the other hosts, empty, and what these put into them is to
        arrive, which csync2 would take for a change of what was deleted here.
        """
        for root in self.found.roots:
            record = None if self._is_left(root) or beneath.kind(root) else self.database.record(root)
            if record is not None and record.endswith(DIRECTORY):
                self.database.forget([root])

    def note_local(self) -> None:
        """Note what is local, once csync2 has recorded what it has just received."""
        if self.local:
            within = unrecorded_for(self.group.database, self.found.roots)
            self.database.await_writer()
            found = [one for path in self.local for one in self.found.at(path)]
            self.again |= self._late(found, within)
            self.local = {one.path for one in found} - self.again
        if (self.local or set()) != storage.read_names(self.group.path(LOCAL)):
            storage.write_names(self.group.path(LOCAL), self.local or ())

    def _write(self, batch: list[Difference]) -> None:
        if self.local is not None:
            self.local.update(one.path for one in batch)
            return
        gone = [one.path for one in batch if one.now is None and b"type=reg" not in (one.before or b"")]
        self.again |= unfinished.patched(self.group.database, gone)
        batch = [one for one in batch if one.path not in self.again]
        if not batch:
            return
        began, within = time.monotonic(), unrecorded_for(self.group.database, self.found.roots)

        def leave(left: set[bytes]) -> set[bytes]:
            if self.peers:  # else it is recorded as it is, whoever did it
                left = left | self._late(batch, within and within + time.monotonic() - began)
            if self.base:
                self.base.note(self.database, {one.path: one.before for one in batch if one.path not in left})
            return left

        commands = self.commands.of(one.path for one in batch)
        self.again |= self.database.take_in(batch, self.config.address, self.peers, commands, leave)

    def _late(self, batch: list[Difference], within: float) -> set[bytes]:
        """
        What csync2 may be about to record, as it was changed within these seconds; or would have, and was killed just
        now. To be asked when it has nothing to commit.
        """
        self.unrecorded.look()
        return {
            one.path
            for one in batch
            if (within and abs(time.time() - beneath.last_changed(one.path)[0]) < within)
            or self.unrecorded.is_lost(one.path, one.before)
        }

    def end(self) -> None:
        """What is to be done when all is recorded, and the database is closed."""
        if self.again:
            lines = [path + (journal.REWRITTEN if path in self.rewritten else b"") for path in sorted(self.again)]
            journal.write(self.group.journal, lines, False, journal.AGAIN)
        if self.commands.due:
            run(self.group.name, "-M", fine=(0, 2))  # any run of csync2's ends with the commands that are due
        left = self.found.unfinished
        opened = unfinished.opened() if left else set()  # rsync.c renames its temporary file before it closes it
        for path, status in left.items():  # what csync2 left, unseen by a watcher
            if unfinished.is_left(path, status, opened):
                unfinished.delete(path, status.st_ino)

    def note_left(self) -> None:
        """Note, after a check, what is left as it is recorded, and what could not be read."""
        for name, places in ((HELD, self.held), (AWAY, self.away)):
            if places != storage.read_names(self.group.path(name)):
                storage.write_names(self.group.path(name), places)
        unread = sorted(self.found.unread.items())[:MOST_UNREAD]
        now = {urllib.parse.quote_from_bytes(path): why for path, why in unread}
        if now != storage.read_json(self.group.path(UNREAD), {}):
            storage.write_json(self.group.path(UNREAD), now, durable=False)


class Known(Recorder):
    """
    Records what other hosts know already: nothing becomes dirty.

    is_own
        Tells of a path whether they do not: it is left as it is recorded.
    """

    def __init__(
        self, group: Group, config: GroupConfig, database: Database, is_own: Callable[[Difference], bool]
    ) -> None:
        super().__init__(group, config, database, base=True)
        self.peers, self.is_own = (), is_own
        self.commands = _Commands(config._replace(rules={}))  # they are for the host's own changes

    def _record(self, differences: Iterator[Difference]) -> int:
        return super()._record(one for one in differences if not self.is_own(one))


def left_before(group: Group) -> set[bytes]:
    """What the last check left as it was recorded. It may have come back: no event tells of that."""
    unread = map(urllib.parse.unquote_to_bytes, storage.read_json(group.path(UNREAD), {}))
    return {*unread, *storage.read_names(group.path(HELD))}


def _is_below_any(path: bytes, places: Collection[bytes]) -> bool:
    return any(is_below(path, place) for place in places)


class _Commands:
    """The commands that the config has csync2 run on this host for its own changes (``do-local``)."""

    def __init__(self, config: GroupConfig) -> None:
        self.due = False
        self.actions = [
            ([excludes.of_path(os.fsencode(pattern)) for pattern in action["pattern"]], action["exec"])
            for action in config.rules.get("actions", ())
            if action["do_local"] or action["do_local_only"]
        ]

    def of(self, paths: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        """``(path, command)`` of what these paths make due."""
        found = [
            (path, os.fsencode(command))
            for path in (paths if self.actions else ())
            for patterns, commands in self.actions
            if not patterns or excludes.matches(patterns, path)
            for command in commands
        ]
        self.due = self.due or bool(found)
        return found
