"""
What a host still knows of a group's files when csync2's database is lost, and what was changed here since; and what a
check that died had not yet written into it.

Two things are kept of a database, in the group's directory: a second name (a hard link), which says all if the file is
deleted, and now and then a copy, for the case that the file itself is truncated or damaged. May call ``csync2`` (the
database) and ``csync2journal``; knows nothing of Salt.
"""

import collections
import contextlib
import logging
import os
import sqlite3
import stat
import time

import csync2
import csync2journal

log = logging.getLogger(__name__)

#: Bytes of a database that is copied after each push (some 15,000 files, 8 ms), and for how many bytes more the next
#: copy waits a second longer: copies take less than a thousandth of the time.
COPIED, PER_SECOND = 4_000_000, 400_000
#: How many of the paths that were recorded last are looked at, to find the one that a check recorded last.
LOOKED_AT = 50_000


def keep_link(directory, path):
    """Keep a second name of a group's database, given the group's directory and the database's path."""
    kept = csync2.kept_database(directory, path)
    if os.path.exists(kept):
        if os.path.samefile(path, kept):
            return
        os.unlink(kept)
    with contextlib.suppress(OSError):  # on another file system
        os.link(path, kept)


def keep_copy(directory, path):
    """Keep a copy of a sound database, unless it is large and was copied only just now; if there is room."""
    kept = csync2.copied_database(directory, path)
    temporary = f"{kept}.tmp"
    try:
        rest = (os.stat(path).st_size - COPIED) / PER_SECOND
        if os.path.exists(kept) and 0 <= time.time() - os.stat(kept).st_mtime < rest:
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        with csync2.Database(path) as database:
            database.backup(temporary, durable=False)
        with csync2.Database(temporary) as copy:
            sound = copy.is_sound()
        if sound:
            os.replace(temporary, kept)
    except (OSError, sqlite3.Error) as err:  # locked, damaged, or a full disk: the next push tries again
        log.info("csyncsync: cannot copy %s: %s", path, err)
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def put_aside(directory, path):
    """Put a damaged database aside, and forget its second name: that is as damaged."""
    os.replace(path, f"{path}.damaged")
    with contextlib.suppress(FileNotFoundError):
        os.replace(f"{path}-journal", f"{path}-journal.damaged")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(csync2.kept_database(directory, path))


def changed_since(lost, since):
    """
    Given the path of what is left of a lost database, return ``{path: whole tree?}`` of what is otherwise now than it
    says, as far as somebody on this host seems to have done it since then (in seconds since the epoch): not csync2, nor
    who restored a backup.

    csync2 sets whole seconds as a file's time. A backup brings older files than there were; what is missing then was
    not deleted, nor was what is missing from a directory that has not been changed since. Raises sqlite3.Error.
    """
    changed, missing, restored = {}, {}, False
    with csync2.Database(lost) as before:
        for path, record in before.states():
            status, text = _state(path)
            if status is None:
                if not csync2journal.is_among(missing, path):
                    missing[path] = True
            elif csync2.is_older(status, record):
                restored = True
            elif text != record and status.st_ctime >= since and not _may_be_csync2s(status):
                changed[path] = False
    deleted = {} if restored else {path: True for path in missing if _has_changed(os.path.dirname(path), since)}
    return {**deleted, **changed}


def half_marked(database, entries, peers):
    """
    Given an open database, and ``{path: whole tree?}`` of what events have told of, return the path that a check which
    died may have recorded, and not marked for all of these peers' addresses; None if there is none.

    csync2 records a path before it marks it, peer by peer (check.c, csync_check_mod()), and may commit in between: then
    the next check finds it as recorded. It is the last one that was recorded, but for what csync2's daemon has recorded
    since: that is marked for all, or was received.
    """
    marked = collections.Counter(path for path, _, _ in database.dirty(peers))
    for path in database.latest(LOOKED_AT):
        if marked[path] < len(peers) and (csync2journal.is_among(entries, path) or csync2.is_made_here(path)):
            return path
    return None


def _state(path):
    """(a path's lstat, its state as csync2 records it); (None, None) if nothing is there."""
    try:
        status = os.lstat(path)
        return status, csync2.check_text(path, status)
    except (FileNotFoundError, NotADirectoryError):
        return None, None


def _may_be_csync2s(status):
    return stat.S_ISREG(status.st_mode) and status.st_mtime_ns % 10**9 == 0


def _has_changed(directory, since):
    """Tell whether names came to, or left, a directory (or the next one above that is there) since then."""
    status, _ = _state(directory)
    while status is None and directory != b"/":
        directory = os.path.dirname(directory)
        status, _ = _state(directory)
    return status is not None and status.st_mtime >= since
