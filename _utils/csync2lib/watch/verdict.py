"""
The verdict on a changed path that is ready: whether csync2 itself made the change, or somebody else.

csync2 has recorded what it wrote, and commits that late. So what differs from its record is a user's change, unless
csync2 may still be about to record it. What it did not record, because it was killed, the check knows (``received``).
"""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import time

from csync2lib import beneath, journal, waits
from csync2lib.csync2 import unfinished
from csync2lib.csync2.custody import awaits_database, serving
from csync2lib.csync2.database import Database, commits
from csync2lib.csync2.states import check_text
from csync2lib.watch.changes import Change
from csync2lib.watch.groups import WatchedGroup

log = logging.getLogger(__name__)

#: What becomes of a path that is ready: it goes out; it goes out and is named even if a tree covers it; it is left out,
#: because csync2 wrote it; it is judged again later.
GO, GO_NAMED, DROP, WAIT = "go", "go named", "drop", "wait"

#: While a peer sends to this host: seconds to wait until csync2's daemon has finished, recorded and committed what it
#: does to a path (it commits about every four seconds, later on a busy host).
COMMIT_WAIT = 60.0
RECORD_WAIT = 1.0
#: The same for a file that looks as recorded, but was seen to be written to: in a directory that is new here, csync2's
#: rename may have come too early to be seen.
OWN_WAIT = 3.0
#: Seconds within which the watcher has normally read an event.
READ_WITHIN = 1.0
#: Paths that are looked at, at most, in a directory that was deleted and made again: that takes some milliseconds.
LOOKED_AT = 1000


class Judge:
    """One look at what csync2 has recorded, for the verdicts on some paths: it is read at once."""

    def __init__(self, group: WatchedGroup, paths: list[bytes]) -> None:
        self.group, self.path = group, group.config.database
        #: the paths; what is recorded of them, and which of them are to be sent
        self.paths = paths
        self.records: dict[bytes, bytes] = {}
        self.dirty: set[bytes] = set()
        # Looked at before the database is: what is committed in between then shows as a difference that waits.
        self.commits = commits(self.path) if self.path else 0
        #: the csync2s to which peers send; whether one of them cannot record now what it has done
        self.receiving = serving(self.path) if self.path else []
        self.late = any(map(awaits_database, self.receiving))
        #: None with ``locked``: one is there that cannot be read now
        self.database: Database | None = None
        self.locked = False
        #: whether a member has lost its database; or when one that joins anew had recorded all that was there
        self.lost = False
        self.recorded: float | None = None
        #: what csync2 has open, once somebody has asked
        self.opened: set[tuple[int, int]] | None = None

    def __enter__(self) -> Judge:
        if self.path:
            try:
                self._open(self.path)
            except sqlite3.Error:
                self.__exit__()
                self.locked = True
        return self

    def _open(self, path: str) -> None:
        if os.path.exists(path):
            self.database = Database(path)
            self.records, self.dirty = self.database.records(self.paths)
            if self.database.state() != Database.NEW:
                self.recorded = journal.mtime(os.path.join(self.group.directory, "recorded"))
                return
        self.lost = os.path.exists(os.path.join(self.group.directory, "established"))

    def __exit__(self, *_: object) -> None:
        if self.database is not None:
            self.database.__exit__(None, None, None)
        self.database = None

    def verdict(self, change: Change) -> str:
        """Given a ready change, return what becomes of it: GO, GO_NAMED, DROP, or WAIT."""
        if change.commits < 0:
            change.commits = self.commits
        try:
            status = beneath.lstat(change.path)
        except (FileNotFoundError, NotADirectoryError):
            status = None
        except OSError:
            return GO
        if status is not None and unfinished.is_unfinished(status):
            return self._unfinished(change, status)
        verdict = self._judge(change, status)
        # What came and is gone may be a deletion of what csync2 is about to record.
        may_wait = verdict != DROP or (status is None and not _is_temporary(change))
        if may_wait and self.receiving and self._may_be_csync2s(change, verdict):
            return WAIT
        # What somebody wrote while a peer sent it csync2 may record as received.
        return GO_NAMED if verdict == GO and change.own and self.receiving else verdict

    def _unfinished(self, change: Change, status: os.stat_result) -> str:
        """
        What csync2 has not finished waits for its owner. If none comes it is no change of anybody: the peer sends it
        again. csync2 leaves a temporary file when the disk is full, or when it is killed, and another one at each try.
        """
        age = time.monotonic() - change.judged
        if age < waits.LEFT_AFTER:
            return WAIT
        self.opened = unfinished.opened() if self.opened is None else self.opened
        if change.path in self.records or not unfinished.is_left(change.path, status, self.opened):
            return WAIT if age < COMMIT_WAIT else DROP
        if not unfinished.delete(change.path, status.st_ino):
            return WAIT  # a disk that can only be read, say
        log.info("csyncsync: deleted a temporary file that csync2 had left")
        return DROP

    def _judge(self, change: Change, status: os.stat_result | None) -> str:
        """Given a change and its lstat (None: it is gone), return what becomes of it. When in doubt it goes."""
        if status is None or not stat.S_ISREG(status.st_mode):
            change.own = False
        if self.lost:
            # csync2 deletes and replaces nothing that it does not know. What is new may be csync2's, and is left to the
            # database's return, which takes all that the journal does not name for received.
            if status is not None:
                return GO_NAMED if change.own else DROP
            return DROP if _is_temporary(change) else GO
        if self.database is None and not self.locked:
            return DROP if status is None and _is_temporary(change) else GO
        try:
            if self.database is not None:
                return self._compare(self.database, change, status)
        except sqlite3.Error:
            pass
        except (OSError, ValueError):
            return GO
        if change.own:
            return GO_NAMED
        return GO if time.monotonic() - change.judged >= COMMIT_WAIT else WAIT

    def _compare(self, database: Database, change: Change, status: os.stat_result | None) -> str:
        """Compare a path's state with csync2's record of it."""
        record = self.records.get(change.path)
        if status is None:
            # Most that comes and goes are csync2's temporary files, three for each that arrives: nothing is below them.
            below = not _is_temporary(change) and database.has_below(change.path)
            return GO if record is not None or below or self._was_never_recorded(change) else self._drop(change)
        text = check_text(change.path, status)
        if record is not None and status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            self.group.linked = self.group.linked or change.written or text != record
        if change.came:
            change.came = database.has_below(change.path)
        if record is None or text != record:
            return DROP if change.compare and not change.told else GO
        if stat.S_ISDIR(status.st_mode):
            return GO if change.moved or (change.deleted and _lacks(database, change.path)) else self._drop(change)
        if stat.S_ISLNK(status.st_mode):
            return self._drop(change)
        # csync2's own check cannot see a change that leaves size, second, mode and owner as they were recorded.
        if change.own or change.compare:
            return GO_NAMED
        return self._drop(change) if status.st_mtime_ns % 10**9 == 0 else GO_NAMED

    def _was_never_recorded(self, change: Change) -> bool:
        """Tell whether a path was gone before all was recorded anew: nobody here knows whether it was ever there."""
        heard = time.time() - (time.monotonic() - change.last)
        return self.recorded is not None and not _is_temporary(change) and heard <= self.recorded + READ_WITHIN

    def _drop(self, change: Change) -> str:
        """
        DROP, unless csync2's daemon has recorded a user's change: it checks a path before it refuses it to a peer.

        Only csync2's table of dirty paths tells of that change then. If a push leaves it, ``left`` asks for the next
        one; else the path goes out.
        """
        if change.path not in self.dirty:
            return DROP
        if self.group.is_pushing():
            return WAIT
        return DROP if os.path.exists(os.path.join(self.group.directory, "left")) else GO

    def _may_be_csync2s(self, change: Change, verdict: str) -> bool:
        """
        While a peer sends: tell whether csync2's daemon may not yet have finished, recorded or committed what it did to
        this path. It takes several steps: content, owner, mode, time.
        """
        age = time.monotonic() - change.judged
        if verdict == GO_NAMED:
            return not change.compare and age < (OWN_WAIT if change.own else COMMIT_WAIT)
        if change.own or age >= COMMIT_WAIT:
            return False
        if change.received or self.late:
            return True  # seconds may pass between two of the steps on a busy host
        uncommitted = os.path.exists(self.path or "") and os.path.exists(f"{self.path}-journal")
        # After two more commits the transaction that was open at the first look is committed, and the next one, too.
        return age < RECORD_WAIT or (uncommitted and self.commits - change.commits < 2)


def _is_temporary(change: Change) -> bool:
    """Tell whether it is named like the temporary files of csync2, most of what comes and goes: nothing is in these."""
    return not change.tree and unfinished.is_temporary(os.path.basename(change.path))


def _lacks(database: Database, directory: bytes) -> bool:
    """
    Tell whether something that is recorded below a directory is missing: then csync2 did not make the directory again.

    Events tell of what was deleted in it, unless the directory was gone before it could be watched.
    """
    below = database.below(directory)
    return len(below) > LOOKED_AT or not all(map(beneath.exists, below))
