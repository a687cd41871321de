"""
What a lost database still tells: what was changed on this host since.

Two things are kept of a database, in the group's directory (``csync2/kept.py``): a second name (a hard link), which
says all if the file is deleted, and now and then a copy, for the case that the file itself is truncated or damaged.
"""

from __future__ import annotations

import os
import stat

from csync2lib import beneath, journal
from csync2lib.csync2.database import Database
from csync2lib.csync2.states import check_text, is_older


def changed_since(lost: str, since: float) -> dict[bytes, bool]:
    """
    Given the path of what is left of a lost database, return ``{path: whole tree?}`` of what is otherwise now than it
    says, as far as somebody on this host seems to have done it since then (in seconds since the epoch): not csync2, nor
    who restored a backup.

    csync2 sets whole seconds as a file's time. A backup brings older files than there were; what is missing then was
    not deleted, nor was what is missing from a directory that has not been changed since. Raises sqlite3.Error.
    """
    changed: dict[bytes, bool] = {}
    missing: dict[bytes, bool] = {}
    restored = False
    with Database(lost) as before:
        for path, record in before.states():
            status, text = _state(path)
            if status is None:
                if not journal.is_among(missing, path):
                    missing[path] = True
            elif is_older(status, record):
                restored = True
            elif text != record and status.st_ctime >= since and not _may_be_csync2s(status):
                changed[path] = False
    deleted = {} if restored else {path: True for path in missing if _has_changed(os.path.dirname(path), since)}
    return {**deleted, **changed}


def _state(path: bytes) -> tuple[os.stat_result | None, bytes | None]:
    """(a path's lstat, its state as csync2 records it); (None, None) if nothing is there."""
    try:
        status = beneath.lstat(path)
        return status, check_text(path, status)
    except (FileNotFoundError, NotADirectoryError):
        return None, None


def _may_be_csync2s(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_mtime_ns % 10**9 == 0


def _has_changed(directory: bytes, since: float) -> bool:
    """Tell whether names came to, or left, a directory (or the next one above that is there) since then."""
    status, _ = _state(directory)
    while status is None and directory != b"/":
        directory = os.path.dirname(directory)
        status, _ = _state(directory)
    return status is not None and status.st_mtime >= since
