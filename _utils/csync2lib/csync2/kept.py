"""What is kept of csync2's database in case it is lost: a second name (a hard link), and a copy."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time

from csync2lib.csync2.database import Database

log = logging.getLogger(__name__)


def kept_database(directory: str, path: str) -> str:
    """Where csyncsync keeps a second name (a hard link) of a group's database, given the group's directory."""
    return os.path.join(directory, os.path.basename(path))


def copied_database(directory: str, path: str) -> str:
    """Where csyncsync keeps a copy of a group's database, given the group's directory."""
    return kept_database(directory, path) + ".copy"


def lost_database(directory: str, path: str) -> str | None:
    """
    What is left of the database that a group had before it was deleted, truncated, or made anew: its second name, which
    is all of it, or a copy, which may be some minutes old. None if nothing is.
    """
    kept = kept_database(directory, path)
    return kept if not _is_same_file(kept, path) and _is_whole(kept) else last_copy(directory, path)


def last_copy(directory: str, path: str) -> str | None:
    """The last copy of a group's database, None if there is none."""
    copied = copied_database(directory, path)
    return copied if os.path.exists(copied) else None


def _is_same_file(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except FileNotFoundError:
        return False


def _is_whole(path: str) -> bool:
    """Tell whether a database of SQLite is as long as its header says (fileformat2.html, 1.3: bytes 16 and 28)."""
    try:
        with open(path, "rb") as file:
            header = file.read(32)
            size = os.fstat(file.fileno()).st_size
    except OSError:
        return False
    page = int.from_bytes(header[16:18], "big")
    return len(header) == 32 and size >= (page if page > 1 else 65536) * int.from_bytes(header[28:32], "big") > 0


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


def keep_copy(directory: str, path: str) -> None:
    """Keep a copy of a sound database, unless it is large and was copied only just now; if there is room."""
    kept = copied_database(directory, path)
    temporary = f"{kept}.tmp"
    try:
        rest = (os.stat(path).st_size - COPIED) / PER_SECOND
        if os.path.exists(kept) and 0 <= time.time() - os.stat(kept).st_mtime < rest:
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        with Database(path) as database:
            database.backup(temporary, durable=False)
        with Database(temporary) as copy:
            sound = copy.is_sound()
        if sound:
            os.replace(temporary, kept)
    except (OSError, sqlite3.Error) as err:  # locked, damaged, or a full disk: the next push tries again
        log.info("csyncsync: cannot copy %s: %s", path, err)
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def put_aside(directory: str, path: str) -> None:
    """Put a damaged database aside, and forget its second name: that is as damaged."""
    os.replace(path, f"{path}.damaged")
    with contextlib.suppress(FileNotFoundError):
        os.replace(f"{path}-journal", f"{path}-journal.damaged")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(kept_database(directory, path))
