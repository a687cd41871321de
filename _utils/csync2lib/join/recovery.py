"""
A lost database of csync2's is put back: from its second name, which is all of it, or from its last copy.

Two things are kept of a database, in the group's directory (``csync2/kept.py``): a second name (a hard link), which
says all if the file is deleted, and a copy, some seconds old, for the case that the file is truncated or damaged.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable

from csync2lib import beneath, journal, storage, waits
from csync2lib.csync2.database import Database
from csync2lib.csync2.kept import is_copied, kept_databases
from csync2lib.csync2.states import is_made_here
from csync2lib.group import ANEW, DATABASE_WAIT, Group
from csync2lib.local_changes import LOCAL
from csync2lib.push.check import Known
from csync2lib.push.differences import NOT_THERE


def put_back(group: Group) -> bool:
    """
    Put back the database that a member of the group has lost. Returns whether there is one; the caller has the lock.

    What stands on the disk otherwise than the database says came from other hosts, or all of them have got it: it is
    recorded, and goes to nobody. Not so what was changed here and is still to be sent: the journal names that; of what
    was changed while nobody watched, or just now, the times of files and directories tell, if csync2 cannot have set
    them. That is left to the check, which makes it dirty. If something is neither, the comparison of all hosts' records
    finds it.

    Raises CsyncsyncError, sqlite3.Error, OSError.
    """
    if not group.was_established() or os.path.exists(group.path(ANEW)):
        return False
    temporary = group.path(f"put-back.tmp{os.getpid()}")
    try:
        if not any(is_copied(lost, temporary) for lost in kept_databases(group.directory, group.database)):
            return False
        is_own = _own_changes(group)
        _record(group, temporary, is_own)  # as long as nobody else sees it
        with Database(temporary) as found:
            found.backup(group.database)
    finally:
        storage.remove(temporary)
    group.pin(group.config)
    _record(group, group.database, is_own)  # what has come meanwhile
    journal.mark_whole(group.journal)
    return True


def _record(group: Group, path: str, is_own: Callable[[bytes], bool]) -> None:
    """Have a database's records be what stands on the disk, but for the host's own changes."""
    with Database(path, timeout=DATABASE_WAIT, write=True) as database:
        recorder = Known(group, group.config, database, is_own)
        recorder.moved = group.guard.moved_mounts()
        recorder.everything()
        recorder.hold_moved()
        recorder.hold_lost()
        recorder.delete()


def _own_changes(group: Group) -> Callable[[bytes], bool]:
    """What tells of a path that differs whether that was done here, and some other host lacks it."""
    if not (journal.is_watched(group.directory) and storage.read_json(group.path("watch.json"), {}).get("ready")):
        journal.note_unwatched(group.directory)
    since = journal.unwatched_since(group.directory)
    if since is None:  # what was done just before is in the journal in a moment; what is done meanwhile, its times tell
        since = time.time()
        time.sleep(waits.TOLD_WITHIN)
    unsent = journal.unsent(group.journal)
    local = storage.read_names(group.path(LOCAL))

    def is_own(path: bytes) -> bool:
        is_known = path in local or journal.is_among(unsent, path)
        return is_known or _has_changed(path, since)

    return is_own


def _has_changed(path: bytes, since: float) -> bool:
    """
    Tell whether what stands at a path was changed since then, and is no file that csync2 may have made; or, if nothing
    does, names left the directory.
    """
    for place in (path, *beneath.above(path)):
        try:
            status = beneath.lstat(place)
        except NOT_THERE:
            continue
        if place == path:
            return status.st_ctime >= since and (is_made_here(path) or not stat.S_ISREG(status.st_mode))
        return status.st_mtime >= since
    return False
