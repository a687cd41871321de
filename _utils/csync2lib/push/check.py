"""The check, with which a push begins: csync2 records what the journal names, and makes it dirty for all peers."""

from __future__ import annotations

import collections
import contextlib
import os
import sqlite3
import stat
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from csync2lib import backups, beneath, journal, storage
from csync2lib.csync2 import unfinished
from csync2lib.csync2.command import run, run_paths
from csync2lib.csync2.database import Database
from csync2lib.csync2.states import check_text, is_made_here
from csync2lib.group import Group, GroupConfig
from csync2lib.push import ledger, sockets

#: In a group's directory while a check runs.
CHECKING = "checking"
#: At most so many of the last records are searched for the one that a check which died wrote last.
LOOKED_AT = 50_000


def check(group: Group, config: GroupConfig, full: bool) -> int:
    """
    Have csync2 check what the journal names, then discharge the journal. Returns how many paths it named.

    full
        Check the whole group, not only what the journal names.
    """
    files, entries, whole = journal.take(group.journal)
    number, full = len(entries), full or whole
    with contextlib.suppress(sqlite3.OperationalError), group.open_database(write=True) as database:
        database.await_writer()  # csync2's server may not have committed yet what the last host to push has sent
    paths, trees, same, unrecorded = _sort(group, config, entries)
    same = _without_sent(group, config, same, files)
    if not os.path.exists(group.path("recorded")):  # in the first check after a join records may never have been sent
        ledger.note_before(config.database, group.path("sent"), paths + same, trees)
    if os.path.exists(group.path(CHECKING)):
        _mark_half_marked(group, config, entries)
    known_sockets = sockets.known(group)
    storage.write(group.path(CHECKING), "", durable=False)
    if full:
        if config.backup_directory:
            backups.sweep(config.backup_directory, config.roots)
        run(group.name, "-cr", "/")
    else:
        run_paths(group.name, ["-c"], paths)
        run_paths(group.name, ["-cr"], trees)
    run_paths(group.name, ["-m"], same)
    _forget_unfinished(group)
    sockets.take_out(group, known_sockets, unrecorded)
    journal.discharge(files)
    group.forget("recorded", CHECKING)
    if full:
        journal.forget_unwatched(group.directory)
    return number


# --- What the journal names ------------------------------------------------------------------------------


class _Sorted(NamedTuple):
    """
    The journal's paths: those that csync2 is to check alone (``-c``) or with all below them (``-cr``), and files whose
    state is the same as their record (``-m``).

    Such a file was rewritten within the second of its record, which a check cannot see. So it is made dirty without a
    check, and csync2 compares its content with the peer's. Sockets without a record are not checked.
    """

    paths: list[bytes]
    trees: list[bytes]
    same: list[bytes]
    sockets: list[bytes]


def _sort(group: Group, config: GroupConfig, entries: Mapping[bytes, bool]) -> _Sorted:
    """
    Sort ``{path: whole tree?}``.

    A parent that csync2 has not recorded is checked too: csync2 does not send the parents of a path by itself.
    """
    found, roots, seen = _Sorted([], [], [], []), config.roots, set()
    with group.open_database() as database:
        for path, tree in sorted(entries.items()):
            for parent in _parents(path, roots):
                if parent not in seen and database.record(parent) is None and beneath.is_directory(parent):
                    found.paths.append(parent)
                seen.add(parent)
            try:
                status = beneath.lstat(path)
            except OSError:
                (found.trees if tree or database.has_below(path) else found.paths).append(path)
                continue
            record = database.record(path)
            if stat.S_ISSOCK(status.st_mode) and record is None:
                found.sockets.append(path)
            elif tree or (stat.S_ISDIR(status.st_mode) and record is None):
                found.trees.append(path)
            elif record is not None and record == check_text(path, status):
                found.same.append(path)
            else:
                found.paths.append(path)
    return found


def _parents(path: bytes, roots: Collection[bytes]) -> Iterator[bytes]:
    """The directories above a path, from its include root downwards."""
    found = []
    while path not in roots and len(path) > 1:
        path = os.path.dirname(path)
        found.append(path)
    return reversed(found) if path in roots else iter(())


def _without_sent(group: Group, config: GroupConfig, same: list[bytes], files: list[str]) -> list[bytes]:
    """Leave out of ``same`` what all peers have taken since the last event that these journal files tell of."""
    if not same:
        return []
    left = set(same)
    heard = {path: when for path, when in journal.heard(files).items() if path in left}
    return sorted(left - ledger.taken(group.path("sent"), config.peers, heard))


def _forget_unfinished(group: Group) -> None:
    """
    Take what csync2 has not finished out of its database, where it was when the check came by: that is no change of
    this host. csync2's daemon records it when it is finished; what it has left, unseen by a watcher, is deleted.
    """
    found: dict[bytes, os.stat_result] = {}
    with group.open_database(write=True) as database:
        for path in {path for path, _, _ in database.dirty()}:
            with contextlib.suppress(OSError):
                status = beneath.lstat(path)
                if unfinished.is_unfinished(status):
                    found[path] = status
        if found:
            database.forget([*found])
    opened = unfinished.opened() if found else set()  # rsync.c renames its temporary file before it closes it
    for path, status in found.items():
        if unfinished.is_left(path, status, opened):
            unfinished.delete(path, status.st_ino)


# --- A check that died -----------------------------------------------------------------------------------


def _mark_half_marked(group: Group, config: GroupConfig, entries: Mapping[bytes, bool]) -> None:
    """Make dirty for all peers the path that a check which died may have recorded, and not made dirty for all."""
    with group.open_database(write=True) as database:
        path = half_marked(database, entries, config.peers)
        if path is not None:
            for peer in config.peers:
                database.make_dirty([path], config.address, peer)


def half_marked(database: Database, entries: Mapping[bytes, bool], peers: Collection[str]) -> bytes | None:
    """
    Given an open database, and ``{path: whole tree?}`` of what events have told of, return the path that a check which
    died may have recorded, and not made dirty for all of these peers' addresses; None if there is none.

    csync2 records a path, then makes it dirty, peer by peer (check.c, csync_check_mod()), and may commit in between:
    then the next check takes the path for unchanged. Only the last record of that check can be such a one. Records that
    csync2's daemon has written since are skipped: their paths are dirty for all peers, or were received.
    """
    marked = collections.Counter(path for path, _, _ in database.dirty(peers))
    for path in database.latest(LOOKED_AT):
        if marked[path] < len(peers) and (journal.is_among(entries, path) or is_made_here(path)):
            return path
    return None
