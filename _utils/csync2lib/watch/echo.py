"""
The echo filter: tells what csync2 itself wrote on this host from what somebody else did.

By two signs: how it was done (csync2 writes a temporary file and renames it), and what csync2 has recorded.
"""

import contextlib
import fcntl
import logging
import os
import sqlite3
import stat
import time

from csync2lib import journal, waits
from csync2lib.csync2 import connections, kept, temporary
from csync2lib.csync2.database import Database
from csync2lib.csync2.states import check_text, is_older
from csync2lib.watch.inotify import (
    IN_ATTRIB,
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_DELETE,
    IN_MODIFY,
    IN_MOVED_FROM,
    IN_MOVED_TO,
)

log = logging.getLogger(__name__)

#: What becomes of a path that is ready.
GO, ALONE, DROP, WAIT = "go", "alone", "drop", "wait"

#: While a peer sends to this host: seconds to wait for csync2's daemon to write down, commit and finish what it does
#: to a path (it commits every four seconds or so, later on a busy host).
COMMIT_WAIT = 60.0
RECORD_WAIT = 1.0
#: Seconds after which the watcher has read of an event as a rule.
READ_WITHIN = 1.0
#: A file that is touched when csync2's daemon dies (csync2-died@.service of the states), and seconds for which it is
#: not known what it did: its last transaction is gone. The peer sends all that again.
DIED, DIED_WAIT = "/run/csync2-died", 15.0
#: Seconds that a push may take from its last look at what is left to its end.
PUSH_ENDS = 0.2
#: The same for a file that looks as recorded, but was seen to be written to: in a directory that is new here, csync2's
#: rename may have come too early to be seen.
OWN_WAIT = 3.0
#: Seconds between csync2's rename of a file and its last write to it.
LANDING_WAIT = 2.0
#: Seconds that csync2 may write to one of its temporary files.
TEMPORARY_WAIT = 600.0
#: Seconds from one temporary file for a path to the next one.
NEXT_WAIT = 120.0
#: Paths that are looked at in a directory that was deleted and made again: some milliseconds.
LOOKED_AT = 1000


def is_pushing(directory):
    """Tell whether a push holds the lock of a group, given the group's directory."""
    try:
        handle = os.open(os.path.join(directory, "lock"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


class Filter:
    """What is known of csync2's work on this host, for all groups."""

    def __init__(self):
        #: cookie -> when: the first halves of renames of files that are named as csync2's temporary ones
        self.renaming = {}
        #: path -> when: files that were renamed from such a name, and not closed since; those that were closed, and
        #: whose rename nobody can have seen
        self.landing, self.landed = {}, {}
        #: path -> when: temporary files that were made, and nothing else since
        self.made = {}
        #: path of a temporary file without its suffix -> when such a one was unlinked before anything was written to it
        self.unlinked = {}
        self.receiving, self.receiving_at = False, 0.0

    def came_from_temporary(self, mask, cookie, name, now):
        """Given an event of any file: tell whether the file had a name of csync2's temporary ones until now."""
        if mask & IN_MOVED_FROM and temporary.is_temporary(name):
            self.renaming[cookie] = now
        return bool(mask & IN_MOVED_TO) and self.renaming.pop(cookie, None) is not None

    def see(self, entry, mask, renamed, now, since):
        """
        Given an event of a path whose directory is new since then (0: it is not), note in its entry what csync2 would
        not have done.
        """
        if entry.temporary:
            self._see_temporary(entry, mask, now)
        writing = mask & (IN_MODIFY | IN_CLOSE_WRITE)
        if writing and not entry.own and now - since < LANDING_WAIT and entry.path not in self.landed:
            self.landing.setdefault(entry.path, now)  # its rename may have come before there was a watch
        if renamed:
            self.landing[entry.path] = now
            entry.received, entry.own = True, False  # a link that csync2 made here before looked like a user's file
        elif writing and entry.path in self.landing:
            # rsync.c, csync_rs_patch(): the file gets its name before its buffers are written and it is closed.
            if mask & IN_CLOSE_WRITE:
                self.landed[entry.path] = self.landing.pop(entry.path)
        elif mask & (IN_MODIFY | IN_CLOSE_WRITE | IN_CREATE | IN_MOVED_TO):
            entry.own = True
            entry.written = entry.written or bool(mask & IN_MODIFY)

    def _see_temporary(self, entry, mask, now):
        """
        Note in its entry a temporary file that only csync2 can have made.

        It makes at least one other for a path before the one that it may leave, and unlinks that as soon as it is open
        (rsync.c, csync_rs_patch()). Whoever else makes temporary files closes them first, or renames them.
        """
        path, stem = entry.path, entry.path.rpartition(b".")[0]
        if mask & IN_CREATE:
            self.made[path] = now
            entry.csync2s = entry.csync2s or stem in self.unlinked
        elif not mask & IN_ATTRIB and self.made.pop(path, None) is not None and mask & IN_DELETE:
            self.unlinked[stem] = now
        elif mask & IN_MOVED_FROM:
            self.unlinked.pop(stem, None)

    def forget_old(self, now):
        """What began too long ago will not go on."""
        self.made = {path: when for path, when in self.made.items() if now - when < LANDING_WAIT}
        self.unlinked = {stem: when for stem, when in self.unlinked.items() if now - when < NEXT_WAIT}
        self.renaming = {cookie: when for cookie, when in self.renaming.items() if now - when < LANDING_WAIT}
        self.landing = {path: when for path, when in self.landing.items() if now - when < LANDING_WAIT}
        self.landed = {path: when for path, when in self.landed.items() if now - when < LANDING_WAIT}

    def look(self, group, paths, settle):
        """Look at what a group's database says of paths that settle in so many seconds, as a context manager."""
        return Look(group, paths, self.is_receiving(settle))

    def is_receiving(self, settle=0.1):
        """Tell whether a peer's csync2 is connected; looked up again before the next path can have settled."""
        now = time.monotonic()
        if now - self.receiving_at > min(0.05, settle / 2):
            self.receiving_at, self.receiving = now, connections.is_connected()
        return self.receiving


class Look:
    """One look at what csync2 has recorded, for the verdicts on some paths: it is read at once."""

    def __init__(self, group, paths, receiving):
        self.group, self.path, self.receiving = group, group.database, receiving
        #: the paths; what is recorded of them, and which of them are to be sent
        self.paths, self.records, self.dirty = paths, {}, set()
        self.died = _is_young(DIED, DIED_WAIT)
        # Looked at before the database is: what is committed in between then shows as a difference that waits.
        self.commits = _commits(self.path)
        #: None with ``locked``: one is there that cannot be read now; with ``lost``: it joins anew, and ``before`` is
        #: what may be left of the one that it had; the new one has taken in all that was there at ``recorded``
        self.database, self.locked, self.lost, self.before, self.recorded = None, False, False, None, None
        #: what is open, once somebody has asked
        self.opened = None

    def __enter__(self):
        if self.path:
            try:
                self._open()
            except sqlite3.Error:
                self.__exit__()
                self.locked = True
        return self

    def _open(self):
        if os.path.exists(self.path):
            self.database = Database(self.path)
            self.records, self.dirty = self.database.records(self.paths)
            state = self.database.state()
            if state == Database.ESTABLISHED:
                return
            if state == Database.RECORDED:
                self.recorded = journal.mtime(os.path.join(self.group.directory, "recorded"))
        if os.path.exists(os.path.join(self.group.directory, "established")):
            self.__exit__()
            self.lost = True
            before = kept.lost_database(self.group.directory, self.path)
            with contextlib.suppress(sqlite3.Error):
                self.before = Database(before) if before else None

    def __exit__(self, *_):
        for database in (self.database, self.before):
            if database is not None:
                database.__exit__(None, None, None)
        self.database = self.before = None

    def verdict(self, entry):
        """
        Given a ready entry, return what becomes of it: GO, ALONE (named in the journal, whatever tree it is in), DROP
        (csync2's own write), or WAIT.
        """
        if entry.commits is None:
            entry.commits = self.commits
        try:
            status = os.lstat(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            status = None
        except OSError:
            return GO
        verdict = self._judge(entry, status)
        if verdict in (GO, ALONE) and (self.receiving or self.died) and self._may_be_csync2s(entry, status, verdict):
            return WAIT
        return verdict

    def _judge(self, entry, status):
        """
        Given an entry and its lstat, None if it is gone, return GO, ALONE, DROP, or WAIT if the database is locked.
        When in doubt it goes.
        """
        if status is None or not stat.S_ISREG(status.st_mode):
            entry.own = False
        elif entry.csync2s and temporary.is_unfinished(status):
            return self._clear(entry)
        if self.lost:
            return self._compare_with_before(entry, status)
        if self.database is None and not self.locked:
            return DROP if status is None and entry.temporary else GO
        try:
            if self.database is not None:
                return self._compare(entry, status)
        except sqlite3.Error:
            pass
        except (OSError, ValueError):
            return GO
        return GO if entry.own or time.monotonic() - entry.judged >= COMMIT_WAIT else WAIT

    def _clear(self, entry):
        """
        csync2 leaves its temporary file when the disk is full, or when it is killed, and another one at the next try.

        Delete one that was made as only csync2 does, is still as mkstemp() made it, and is open nowhere.
        """
        if time.monotonic() - entry.judged < waits.LEFT_AFTER:
            return WAIT
        self.opened = temporary.open_paths() if self.opened is None else self.opened
        if entry.path in self.opened or not temporary.delete(entry.path):
            return WAIT  # a disk that can only be read, say
        log.info("csyncsync: deleted a temporary file that csync2 had left")
        return DROP

    def _compare(self, entry, status):
        """Compare a path's state with csync2's record of it."""
        record = self.records.get(entry.path)
        if status is None:
            # Most that comes and goes are csync2's temporary files, three for each that arrives: nothing is below them.
            below = (entry.tree or not entry.temporary) and self.database.has_below(entry.path)
            return GO if record is not None or below else self._drop(entry)
        text = check_text(entry.path, status)
        if record is not None and status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            entry.group.linked = entry.group.linked or entry.written or text != record
        if entry.came:
            entry.came = self.database.has_below(entry.path)
        if record is None or text != record:
            return DROP if entry.compare and not entry.told else GO
        if stat.S_ISDIR(status.st_mode):
            return GO if entry.moved or (entry.deleted and self._lacks(entry.path)) else self._drop(entry)
        if stat.S_ISLNK(status.st_mode):
            return self._drop(entry)
        # csync2's own check cannot see a change that leaves size, second, mode and owner as they were recorded.
        if entry.own or entry.compare:
            return ALONE
        if status.st_mtime_ns % 10**9 == 0:
            return self._drop(entry)
        return DROP if temporary.is_unfinished(status) else ALONE

    def _lacks(self, directory):
        """
        Tell whether something is recorded below a directory that is not there: csync2 has not made it again.

        What is deleted is told on its own, unless the directory was gone before it could be watched.
        """
        below = self.database.below(directory)
        return len(below) > LOOKED_AT or not all(map(os.path.lexists, below))

    def _compare_with_before(self, entry, status):
        """
        Compare a path's state with what was recorded before csync2's database was lost, and with what csync2 has
        written down since: its daemon does that with all that it makes of what others send.
        """
        if status is None and entry.temporary:
            return DROP
        known, record = self._recorded_before(entry.path)
        if record and status is not None and is_older(status, record):
            return DROP  # from a backup: the others' versions replace it
        text = status and check_text(entry.path, status)
        written = self.records.get(entry.path)
        if not entry.own and written == text and (text or self._was_there(entry)):
            return DROP
        # csync2 sets whole seconds: a file that has such a time may have been written by it, any other was not.
        if status is not None and stat.S_ISREG(status.st_mode) and status.st_mtime_ns % 10**9 == 0:
            if known and record == text:
                return DROP
            return GO if known and entry.own else WAIT  # until it has joined, and recorded what it has
        if entry.moved or entry.deleted or entry.own:
            return GO
        if status is not None and stat.S_ISDIR(status.st_mode) and record is None:
            return DROP  # a new one that csync2 did not make is sent all the same: this host alone has it
        return DROP if known and record == text else GO

    def _was_there(self, entry):
        """
        Tell whether a path was still there when all was recorded anew, so that csync2 has forgotten it since. Not if in
        doubt: events may be read late.
        """
        heard = time.time() - (time.monotonic() - entry.last)
        return self.recorded is not None and heard > self.recorded + READ_WITHIN

    def _recorded_before(self, path):
        """(whether that is known, the state that was recorded of a path before the loss)."""
        if self.before is None:
            return False, None
        try:
            return True, self.before.record(path)
        except sqlite3.Error:
            return False, None

    def _drop(self, entry):
        """
        DROP, unless csync2's daemon has taken in a user's change: it checks a path before it refuses it to a peer.

        What is to be sent then is in its table alone. A push that is under way, or has left something, sees to it.
        """
        if entry.path not in self.dirty:
            return DROP
        if is_pushing(entry.group.directory):
            return DROP if time.monotonic() - entry.judged >= PUSH_ENDS else WAIT
        return DROP if os.path.exists(os.path.join(entry.group.directory, "left")) else GO

    def _may_be_csync2s(self, entry, status, verdict):
        """
        While a peer sends: tell whether csync2's daemon may still be about to write down, commit, or finish what it
        did to this path. It takes several steps: content, owner, mode, time.
        """
        age = time.monotonic() - entry.judged
        if entry.temporary:
            return age < TEMPORARY_WAIT
        if verdict == ALONE:
            return not entry.compare and age < (OWN_WAIT if entry.own else COMMIT_WAIT)
        if entry.own or age >= COMMIT_WAIT:
            return False
        if self.receiving and (entry.received or _is_new_directory(status)):
            return True  # on a busy host seconds pass between two of the steps
        if self.died:
            return age < DIED_WAIT
        uncommitted = os.path.exists(self.path or "") and os.path.exists(f"{self.path}-journal")
        # What was open when the path was first looked at, and the transaction after it, are committed by then.
        return age < RECORD_WAIT or (uncommitted and self.commits - entry.commits < 2)


def _is_new_directory(status):
    """Tell whether it is a directory with the mode that csync2 gives it first (daemon.c, A_MKDIR)."""
    return status is not None and stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o700


def _is_young(path, seconds):
    """Tell whether a file was changed within the last seconds."""
    try:
        return 0 <= time.time() - os.stat(path).st_mtime < seconds
    except OSError:
        return False


def _commits(database):
    """How many transactions have been committed to a database of SQLite (its header's file change counter)."""
    try:
        with open(database or "", "rb") as file:
            return int.from_bytes(file.read(28)[24:], "big")
    except OSError:
        return 0
