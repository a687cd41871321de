"""How a host comes into a group: it records its files, another host admits it, and it is established."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from csync2lib import beneath, journal, storage
from csync2lib.csync2.database import Database
from csync2lib.csync2.kept import last_copy
from csync2lib.errors import CsyncsyncError
from csync2lib.group import ANEW, ONLY_HERE, Group, GroupConfig
from csync2lib.join.compare import compare, unlike
from csync2lib.join.record import record
from csync2lib.join.unsent import MOST_UNSENT, as_text, find_unsent


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
        if group.state() == Database.ESTABLISHED:  # its lost database was put back
            return _joined(group, "established", unsent)
        unsent = {} if config.receive_only or not (source or keep) else find_unsent(group)
        if source is None:
            if keep:
                _mark(group, config, [path for path in unsent if not beneath.exists(path)])
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
    deleted = deleted_here(group, found.only_there, unsent)
    _mark(group, config, sorted(only_here | deleted))
    if config.receive_only:  # what it has otherwise is its own business (see local_changes.py)
        with group.open_database(write=True) as database:
            database.forget(sorted(found.only_here | found.different))
    # What is not on the source was made and deleted here since all was recorded.
    group.guard.let_through({path for path in found.only_here if not beneath.exists(path)})
    _establish(group, lambda path, to: path in deleted or beneath.exists(path))


def deleted_here(group: Group, paths: Iterable[bytes], unsent: Mapping[bytes, bool]) -> set[bytes]:
    """
    Of these paths, which are not here, those that were deleted on this host, given find_unsent(). Others may have made
    something in a directory that came into being here, and still stands: of that the copy of the database tells.
    """
    among = {path for path in paths if journal.is_among(unsent, path)}
    within = {path: next(top for top in beneath.above(path) if unsent.get(top)) for path in among - unsent.keys()}
    doubtful = {path for path, top in within.items() if beneath.is_directory(top)}
    copy = last_copy(group.directory, group.database)
    if not doubtful or copy is None:
        return among - doubtful
    with Database(copy) as known:
        return among - {path for path in doubtful if known.record(path) is None}


def _mark(group: Group, config: GroupConfig, paths: list[bytes]) -> None:
    with group.open_database(write=True) as database:
        database.mark(paths, config.address, config.peers)


def _establish(group: Group, wanted: Callable[[bytes, str], bool]) -> None:
    """Let this host push from now on, with what is dirty reduced to what is wanted, and the whole group checked."""
    with group.open_database(write=True) as database:
        database.keep_dirty(wanted)
        database.set_state(Database.ESTABLISHED)
    storage.write(group.path("established"), group.host.name)
    group.forget(ANEW, ONLY_HERE)
    journal.write(group.journal, [], whole=True)
