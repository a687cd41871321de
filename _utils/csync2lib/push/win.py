"""Have this host send some paths although it has sent them: so that its version wins, or because hosts differ."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable

from csync2lib import beneath, records, storage
from csync2lib.errors import CsyncsyncError
from csync2lib.group import DIFFERENCES, Group, GroupConfig
from csync2lib.push import ledger
from csync2lib.push.check import recording


def win(group: Group, names: Iterable[str], host: str | None = None) -> int:
    """
    Have what stands here at percent-encoded paths, or that nothing does, sent to all (or to one host), whatever they
    have; with the next push. Returns how many entries are to be sent. Raises CsyncsyncError.
    """
    config = group.config
    paths = set(config.in_includes(names).values())
    if why := config.why_no_source(group.host.minion):
        raise CsyncsyncError(why)
    with group.exclusive():
        with recording(group, config) as recorder:
            recorder.leave(map(os.fsencode, group.guard.problems()))
            recorder.moved = group.guard.moved_mounts()
            recorder.named({path: True for path in paths if beneath.exists(path)})
            recorder.hold_moved()
            recorder.delete()
        with group.open_database(write=True) as database:
            paths.update(path for top in tuple(paths) for path in database.below(top))
            for peer in [config.address_of(host)] if host else config.peers:
                database.force(sorted(paths), config.address, peer)
        storage.write(group.path("left"), "")
    return len(paths)


def mark(group: Group, names: Collection[str], test: bool = False) -> dict[str, list[str]]:
    """
    Have percent-encoded paths sent once more that hosts have differently: who has what all had before gets what is
    newer, and what is neither is a conflict. Returns ``{path: digests of records that were its ones before}`` of those
    that this host has made as it has them. Raises CsyncsyncError, sqlite3.Error.

    test
        Only tell that, if it could be done: all hosts have to, as who has not marked takes what is older.
    """
    with group.exclusive(established="this host is not established itself") as config:
        known = config.in_includes(names)
        paths = sorted({*known.values()})
        if config.receive_only or not paths:
            return {}
        with group.open_database() as database:
            own = ledger.made_here(group.path("sent"), config.peers, {path: database.record(path) for path in paths})
        if not test:
            paths = _mark(group, config, paths, {known[name] for name in known if name.endswith("/")} - own.keys())
            total = storage.read_json(group.path(DIFFERENCES), {}).get("total", 0) + len(paths)
            storage.write_json(group.path(DIFFERENCES), {"total": total}, durable=False)
            storage.write(group.path("left"), "")
    return {name: sorted(map(records.digest, own[path])) for name, path in known.items() if path in own}


def _mark(group: Group, config: GroupConfig, paths: list[bytes], directories: set[bytes]) -> list[bytes]:
    """Given the directories, among the paths, whose state this host has not made, return what it has marked."""
    with recording(group, config) as recorder:
        recorder.named(dict.fromkeys(paths, False))
    with group.open_database(write=True) as database:
        # What is recorded and missing is for the next check: it may be a disk that is away.
        paths = [path for path in paths if beneath.exists(path) or database.record(path) is None]
        # Who lacks a directory, and has not deleted it, is to get it: nothing tells how old one is.
        paths = [path for path in paths if path not in directories or beneath.exists(path)]
        here = {path: database.record(path) for path in paths if not database.is_dirty(path)}
        ledger.note_received(group.path("sent"), config.peers, here)
        database.mark(paths, config.address, config.peers)
    return paths
