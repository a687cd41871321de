"""How a host comes into a group: it records its files, another host admits it, and it is established."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from csync2lib import beneath, journal, storage
from csync2lib.csync2.database import Database
from csync2lib.errors import CsyncsyncError
from csync2lib.group import ONLY_HERE, Group, GroupConfig
from csync2lib.join.compare import compare, unlike
from csync2lib.join.record import record
from csync2lib.join.unsent import MOST_UNSENT, as_text, find_unsent
from csync2lib.push import ledger


def join(
    group: Group,
    source: str | None = None,
    keep: bool = False,
    admitted: bool = False,
    digests: Sequence[str] | None = None,
) -> dict[str, Any]:
    """What ``csyncsync.join`` does, and returns. Raises CsyncsyncError, sqlite3.Error."""
    unsent: dict[bytes, bool] = {}
    with group.exclusive(roots=True) as config:
        if group.state() == Database.ESTABLISHED:  # what is dirty here, others are to get
            return _joined(group, "established", unsent)
        if why := config.why_no_source(source or group.host.minion):
            raise CsyncsyncError(why)
        if admitted and not os.path.exists(group.path(ONLY_HERE)):
            raise CsyncsyncError("this host lost its database while it joined")
        record(group)
        unsent = {} if config.receive_only or not (source or keep) else find_unsent(group)
        if source is None:
            if keep:
                _mark_deleted(group, config, config.peers, unsent)
            _establish(group, lambda path, peer: keep)
            return _joined(group, "established", {})
        peer = config.address_of(source)
        if not admitted:
            _keep_dirty(group, config, peer, keep, digests, unsent)
            return _joined(group, "recorded", unsent)
        _finish(group, config, peer, unsent)
    return _joined(group, "established", unsent)


def _joined(group: Group, state: str, unsent: Mapping[bytes, bool]) -> dict[str, Any]:
    return {"group": group.name, "state": state, "unsent": as_text(unsent)}


def _keep_dirty(
    group: Group,
    config: GroupConfig,
    peer: str,
    keep: bool,
    digests: Sequence[str] | None,
    unsent: Mapping[bytes, bool],
) -> None:
    """
    The first step: of what is dirty here, keep the unsent changes. With ``keep``, also what this host alone has, and,
    for the source, what may differ there. Notes what this host alone has.

    Equal contents make a path clean; others are a conflict.
    """
    # What the source is not told of: it is to bring nothing back that was deleted here.
    untold = list(unsent)[:-MOST_UNSENT]
    _mark(group, config, [path for path in untold if not beneath.exists(path)])
    found = compare(group, config, peer)
    storage.write_json(group.path(ONLY_HERE), {"paths": sorted(map(os.fsdecode, found.only_here))})
    kept: Collection[bytes] = found.only_here if keep else ()
    different: Collection[bytes] = found.different | set(unlike(group, digests)) if keep else ()

    def wanted(path: bytes, to: str) -> bool:
        return journal.is_among(unsent, path) or path in kept or (to == peer and path in different)

    with group.open_database(write=True) as database:
        database.keep_dirty(wanted)


def _finish(group: Group, config: GroupConfig, peer: str, unsent: Mapping[bytes, bool]) -> None:
    """The second step: the source has sent what it has. What is dirty now is what others lack, or have to delete."""
    found, noted = compare(group, config, peer), storage.read_json(group.path(ONLY_HERE), {})["paths"]
    # What is here alone only by now was deleted by the source meanwhile; or made here, and then the check finds it.
    only_here = found.only_here & set(map(os.fsencode, noted))
    there, silent = _only_elsewhere(group, config, peer, unsent)
    there |= found.only_there
    deleted = {path for path in there if journal.is_among(unsent, path)}
    _mark(group, config, sorted(only_here | deleted))
    gone = _mark_deleted(group, config, silent, unsent) if silent else set()
    gone |= {path for path in found.only_here if not beneath.exists(path)}
    if config.receive_only:  # what it has otherwise is its own business (see local_changes.py)
        with group.open_database(write=True) as database:
            database.forget(sorted(found.only_here | found.different))
    # What is on no other host has passed the guard once, or was made and deleted here since the database was lost.
    group.guard.let_through(gone - there)
    _establish(group, lambda path, to: path in deleted or to in silent or beneath.exists(path))


def _mark(group: Group, config: GroupConfig, paths: list[bytes]) -> None:
    with group.open_database(write=True) as database:
        database.mark(paths, config.address, config.peers)


def _only_elsewhere(
    group: Group, config: GroupConfig, source: str, unsent: Mapping[bytes, bool]
) -> tuple[set[bytes], set[str]]:
    """
    (what hosts beside the source have, and this one does not; the addresses of those that do not answer): with unsent
    changes, some may not have got the deletions that the source got.
    """
    there: set[bytes] = set()
    silent: set[str] = set()
    for peer in sorted(config.peers - {source} if unsent else ()):
        try:
            there |= compare(group, config, peer).only_there
        except CsyncsyncError:
            silent.add(peer)
    return there, silent


def _mark_deleted(
    group: Group, config: GroupConfig, peers: Collection[str], unsent: Mapping[bytes, bool]
) -> set[bytes]:
    """
    Make unsent deletions dirty for peers that may have the files. Returns their paths.

    The journal names a deleted directory only; what was in it was noted when csync2 found that it is gone.
    """
    names = {*unsent, *ledger.noted_before(group.path("sent"))}
    gone = {path for path in names if journal.is_among(unsent, path) and not beneath.exists(path)}
    with group.open_database(write=True) as database:
        for peer in peers:
            database.make_dirty(sorted(gone), config.address, peer)
    return gone


def _establish(group: Group, wanted: Callable[[bytes, str], bool]) -> None:
    """Let this host push from now on, with what is dirty reduced to what is wanted, and the whole group checked."""
    with group.open_database(write=True) as database:
        database.keep_dirty(wanted)
        database.set_state(Database.ESTABLISHED)
    storage.write(group.path("established"), group.host.name)
    group.forget(ONLY_HERE)
    journal.mark_whole(group.journal)
