"""What is kept of csync2's database in case it is lost: a second name (a hard link), and a copy."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time

from csync2lib import storage
from csync2lib.csync2.database import Database

log = logging.getLogger(__name__)


def kept_database(directory: str, path: str) -> str:
    """Where csyncsync keeps a second name (a hard link) of a group's database, given the group's directory."""
    return os.path.join(directory, os.path.basename(path))


def copied_database(directory: str, path: str) -> str:
    """Where csyncsync keeps a copy of a group's database, given the group's directory."""
    return kept_database(directory, path) + ".copy"


def kept_databases(directory: str, path: str) -> list[str]:
    """
    What is left of the database that a group had before it was deleted, truncated, or made anew, the best first: its
    second name, which is all of it; a copy, which may be some seconds old.
    """
    both = kept_database(directory, path), copied_database(directory, path)
    lost = not os.path.exists(path)
    return [kept for kept in both if os.path.exists(kept) and (lost or not os.path.samefile(kept, path))]


def last_copy(directory: str, path: str) -> str | None:
    """The last copy of a group's database, None if there is none."""
    copied = copied_database(directory, path)
    return copied if os.path.exists(copied) else None


#: Bytes of a database that is copied after each push (some 15,000 files, 8 ms), and for how many bytes more the next
#: copy waits a second longer: copies take less than a thousandth of the time.
COPIED, PER_SECOND = 4_000_000, 400_000


def keep_link(directory: str, path: str) -> None:
    """Keep a second name of a group's database, given the group's directory and the database's path."""
    kept = kept_database(directory, path)
    if os.path.exists(kept):
        if os.path.samefile(path, kept):
            return
        os.unlink(kept)
    with contextlib.suppress(OSError):  # on another file system
        os.link(path, kept)


def keep_copy(directory: str, path: str) -> bool:
    """Keep a copy of a member's sound database, if there is room, and it was not just copied. Tells whether it did."""
    kept = copied_database(directory, path)
    temporary = f"{kept}.tmp{os.getpid()}"
    try:
        rest = (os.stat(path).st_size - COPIED) / PER_SECOND
        if os.path.exists(kept) and 0 <= time.time() - os.stat(kept).st_mtime < rest:
            return False
        if is_copied(path, temporary):
            os.replace(temporary, kept)
            return True
    except OSError as err:
        log.info("csyncsync: cannot copy %s: %s", path, err)
    with contextlib.suppress(OSError):
        os.unlink(temporary)
    return False


def is_copied(path: str, to: str) -> bool:
    """Copy a database; returns whether that could be done, and the copy is sound, and a member's. Raises OSError."""
    storage.remove(to)
    try:
        with Database(path) as database:
            database.backup(to, durable=False)
        with Database(to) as copy:
            return copy.is_sound() and copy.state() == Database.ESTABLISHED
    except sqlite3.Error as err:  # locked, damaged, or a full disk
        log.info("csyncsync: cannot copy %s: %s", path, err)
        return False


def put_aside(directory: str, path: str) -> None:
    """Put a damaged database aside, and forget its second name: that is as damaged."""
    os.replace(path, f"{path}.damaged")
    with contextlib.suppress(FileNotFoundError):
        os.replace(f"{path}-journal", f"{path}-journal.damaged")
    storage.remove(kept_database(directory, path))
