"""The check, with which a push begins: what differs from csync2's records is recorded, and made dirty for all peers."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from csync2lib import backups, beneath, journal, storage
from csync2lib.csync2 import excludes, unfinished
from csync2lib.csync2.command import run
from csync2lib.csync2.database import Database
from csync2lib.csync2.excludes import Excludes
from csync2lib.group import Group, GroupConfig
from csync2lib.push import ledger
from csync2lib.push.differences import Difference, Differences

#: Differences that are written at once: csync2's server waits meanwhile.
BATCH = 300
#: A path that is received while it is looked at is looked at again, so many times at most.
ROUNDS = 5
#: In a group's directory: what could not be looked at, or is not carried, as JSON; so many paths at most.
UNREAD, MOST_UNREAD = "unread.json", 1000


def check(group: Group, config: GroupConfig, full: bool) -> int:
    """
    Record what has changed of what the journal names, make it dirty for all peers, and discharge the journal. Returns
    how many paths it named. Raises sqlite3.Error, OSError.

    full
        Check the whole group, not only what the journal names.
    """
    files, entries, whole = journal.take(group.journal)
    full = full or whole
    with contextlib.suppress(sqlite3.OperationalError), group.open_database(write=True) as database:
        database.await_writer()  # csync2's server may not have committed yet what the last host to push has sent
    if full and config.backup_directory:
        backups.sweep(config.backup_directory, config.roots)
    # In the first check after a join records may never have been sent.
    with recording(group, config, base=not os.path.exists(group.path("recorded"))) as recorder:
        same = recorder.named(entries)
        if full:
            recorder.everything()
        recorder.mark(_without_sent(group, config, same, files))
    journal.discharge(files)
    group.forget("recorded")
    if full:
        journal.forget_unwatched(group.directory)
    return len(entries)


def _without_sent(group: Group, config: GroupConfig, same: list[bytes], files: list[str]) -> list[bytes]:
    """Leave out of ``same`` what all peers have taken since the last event that these journal files tell of."""
    if not same:
        return []
    left = set(same)
    heard = {path: when for path, when in journal.heard(files).items() if path in left}
    return sorted(left - ledger.taken(group.path("sent"), config.peers, heard))


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

    def everything(self) -> None:
        """Of the whole group."""
        roots = sorted(self.config.roots)
        for root in roots:
            if not any(root.startswith(other + b"/") for other in roots):
                self._record(self.found.below(root))

    def named(self, entries: Mapping[bytes, bool]) -> list[bytes]:
        """
        Of ``{path: whole tree?}``, and of what is above and was not recorded, which csync2 would not send by itself.

        Returns the paths that stand there as they are recorded: rewritten within the second of their record.
        """
        same = []
        seen: set[bytes] = set()
        for path, tree in sorted({**entries, **self._unread_before()}.items()):
            for parent in _parents(path, self.found.roots):
                if parent not in seen and self.database.record(parent) is None and beneath.is_directory(parent):
                    self._record(self.found.at(parent))
                seen.add(parent)
            record, kind = self.database.record(path), beneath.is_directory(path)
            if tree or (record is None if kind else self.database.has_below(path)):
                self._record(self.found.below(path))
            elif not self._record(self.found.at(path)) and record is not None and beneath.exists(path):
                same.append(path)
        return same

    def mark(self, paths: list[bytes]) -> None:
        """Make paths dirty for all peers, as they are recorded: csync2 then compares contents."""
        if paths:
            if self.base:
                self.base.note(self.database, {path: self.database.record(path) for path in paths})
            self.database.mark(paths, self.config.address, self.config.peers, self.commands.of(paths))

    def _record(self, differences: Iterator[Difference]) -> int:
        """Returns how many there were."""
        number = 0
        while batch := list(islice(differences, BATCH)):
            number += len(batch)
            for _ in range(ROUNDS):
                if not batch:
                    break
                if self.base:
                    self.base.note(self.database, {one.path: one.before for one in batch})
                paths = [one.path for one in batch]
                commands = self.commands.of(paths)
                late = self.database.take_in(batch, self.config.address, self.config.peers, commands)
                batch = [one for path in late for one in self.found.at(path)]
        return number

    def end(self) -> None:
        """What is to be done when all is recorded, and the database is closed."""
        if self.commands.due:
            run(self.group.name, "-M", fine=(0, 2))  # any run of csync2's ends with the commands that are due
        self._note_unread()
        left = self.found.unfinished
        opened = unfinished.opened() if left else set()  # rsync.c renames its temporary file before it closes it
        for path, status in left.items():  # what csync2 left, unseen by a watcher
            if unfinished.is_left(path, status, opened):
                unfinished.delete(path, status.st_ino)

    def _unread_before(self) -> dict[bytes, bool]:
        """What could not be looked at before may have come back: no event tells of that."""
        return {urllib.parse.unquote_to_bytes(name): True for name in storage.read_json(self.group.path(UNREAD), {})}

    def _note_unread(self) -> None:
        unread = sorted(self.found.unread.items())[:MOST_UNREAD]
        now = {urllib.parse.quote_from_bytes(path): why for path, why in unread}
        if now != storage.read_json(self.group.path(UNREAD), {}):
            storage.write_json(self.group.path(UNREAD), now, durable=False)


def _parents(path: bytes, roots: Iterable[bytes]) -> Iterator[bytes]:
    """The directories above a path, from its include root downwards."""
    found = []
    while path not in roots and len(path) > 1:
        path = os.path.dirname(path)
        found.append(path)
    return reversed(found) if path in roots else iter(())


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
