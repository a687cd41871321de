"""
What a host has when it comes into a group: recorded once, before it is compared with another host. A lost database of
csync2's is put back: from its second name, which is all of it, or from its last copy (``csync2/kept.py``).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time

from csync2lib import beneath, journal, received, storage, waits
from csync2lib.csync2 import custody
from csync2lib.csync2.database import Database
from csync2lib.csync2.kept import is_copied, kept_databases
from csync2lib.csync2.namespace import is_below
from csync2lib.csync2.states import GONE, UNKNOWN, is_made_here
from csync2lib.group import ANEW, DATABASE_WAIT, ONLY_HERE, Group
from csync2lib.local_changes import LOCAL
from csync2lib.push import ledger
from csync2lib.push.check import Known, recording
from csync2lib.push.differences import Difference


def record(group: Group) -> None:
    """
    Take this host's files into csync2's database, once, all of them as dirty; a member's database that is lost is put
    back. Raises CsyncsyncError, sqlite3.Error, OSError.

    That is what protects them: csync2 refuses to overwrite a file that is dirty on the receiver, too.
    """
    if group.state() == Database.NEW and not put_back(group):
        group.forget(ONLY_HERE, journal.UNWATCHED)
        group.guard.note_mounts(group.guard.mounts())
        with recording(group, group.config) as recorder:
            recorder.everything()
        with group.open_database(write=True) as database:
            database.set_state(Database.RECORDED)
        storage.write(group.path("recorded"), "")


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
        lost = next(
            (kept for kept in kept_databases(group.directory, group.database) if is_copied(kept, temporary)), None
        )
        if lost is None:
            return False
        copied = os.stat(lost).st_mtime
        custody.end_all()  # who has the lost one open records into that
        own = _Own(group, copied)
        _record(group, temporary, own)  # as long as nobody else sees it
        with Database(temporary) as found:
            own.received.update(_received_since(group.database))
            found.backup(group.database)
    finally:
        storage.remove(temporary)
    group.pin(group.config)
    _record(group, group.database, own)  # what has come meanwhile
    journal.write(group.journal, [], whole=True)
    return True


def _record(group: Group, path: str, own: _Own) -> None:
    """Have a database's records be what stands on the disk, but for the host's own changes."""
    with Database(path, timeout=DATABASE_WAIT, write=True) as database:
        recorder = Known(group, group.config, database, own)
        recorder.moved = group.guard.moved_mounts()
        recorder.everything()
        recorder.hold_moved()
        recorder.hold_lost()
        recorder.delete()
        database.put_back(own.deleted(database), database.dirty())


def _received_since(path: str) -> dict[bytes, bytes]:
    """
    ``{path: record}`` of what csync2 has received since, given the database that it has made in place of the lost one.
    It makes dirty what it finds there that it does not know.
    """
    with contextlib.suppress(sqlite3.Error), Database(path, timeout=DATABASE_WAIT) as database:
        dirty = {path for path, _, _ in database.dirty()}
        return {path: state for path, state in database.states() if path not in dirty}
    return {}


class _Own:
    """
    Tells of a path that differs whether that was done here, and some other host lacks it; given when the database was
    written last that is put back.
    """

    def __init__(self, group: Group, copied: float) -> None:
        self.group, self.copied = group, copied - waits.TOLD_WITHIN
        if not (journal.is_watched(group.directory) and storage.read_json(group.path("watch.json"), {}).get("ready")):
            journal.note_unwatched(group.directory)
        since = journal.unwatched_since(group.directory)
        if since is None:  # what was done just before is in the journal soon; what is done meanwhile, its times tell
            since = time.time()
            time.sleep(waits.TOLD_WITHIN)
        self.since, self.unsent = since, journal.unsent(group.journal)
        self.local, self.unrecorded = storage.read_names(group.path(LOCAL)), received.Unrecorded(group.directory)
        self.received = _received_since(group.database)

    def __call__(self, one: Difference) -> bool:
        if self.unrecorded.is_lost(one.path, one.before) or (one.now and one.now == self.received.get(one.path)):
            return False
        if one.path in self.local or journal.is_among(self.unsent, one.path):
            return True
        # Changed since then, and no file that csync2 may have made; or nothing is there, and names left the directory.
        when, status = beneath.last_changed(one.path)
        return when >= self.since and (status is None or is_made_here(one.path) or not stat.S_ISREG(status.st_mode))

    def deleted(self, database: Database) -> dict[bytes, bytes | None]:
        """
        ``{path: record}`` of what came, or was sent, after the database was copied, and was then deleted here: nothing
        else tells of it. With the record the check finds it gone.
        """
        config = self.group.config
        there = ledger.there(self.group.path("sent"), config.peers, self.copied)
        return {
            path: there.get(path, UNKNOWN)
            for path in {**journal.unsent(self.group.journal, self.copied), **there}
            if there.get(path) != GONE
            and any(is_below(path, root) for root in config.roots)
            and not beneath.exists(path)
            and database.record(path) is None
            and self(Difference(path, None, None))
        }
