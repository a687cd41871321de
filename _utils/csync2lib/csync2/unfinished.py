"""
What csync2 has made and not finished: it belongs to csync2's own user (``custody``) until csync2 gives it to its owner.

Such a path is never judged, recorded or sent. A temporary file that csync2 left, because the disk was full, or it was
killed, or it could not give it its name, is deleted; nothing else ever is. Paths are bytes.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable

from csync2lib import beneath
from csync2lib.csync2 import custody

#: rsync.c, get_tmpname(): a dot, the name without a leading or trailing one, a dot and mkstemp()'s six characters. Of a
#: name that has to be cut, all bytes above 127 before the cut go, too, so that nothing may be left of it.
_TEMPORARY = re.compile(rb"\.(?:.*\.)?[A-Za-z0-9]{6}\Z", re.DOTALL)
#: rsync.c: NAME_MAX without the dots and the suffix
UNCUT = 246
#: rsync.c, csync_rs_patch(): what csync2 says when it cannot give a temporary file its name, and leaves it. All of it
#: counts: a name may be any of csync2's own messages.
_NOT_RENAMED = re.compile(
    rb"I/O Error '[^'\n]*' while renaming tmp file to to be patched file in rsync-patch: (/.*)", re.DOTALL
)
#: Seconds by which the time of a file may be older than the clock was when it was set: it is that of the last tick.
TICK = 0.1


def is_temporary(name: bytes) -> bool:
    """Tell whether a name is like those of csync2's temporary files; others use such names, too."""
    return _TEMPORARY.match(name) is not None


def is_unfinished(status: os.stat_result | None) -> bool:
    """Given the status of what is at a path, tell whether csync2 has made it, and not given it to its owner yet."""
    return status is not None and status.st_uid == custody.UID


def is_left(path: bytes, status: os.stat_result, opened: set[tuple[int, int]]) -> bool:
    """Given what csync2 has open, tell whether this is a temporary file that it has left."""
    temporary = stat.S_ISREG(status.st_mode) and is_temporary(os.path.basename(path))
    return temporary and is_unfinished(status) and (status.st_dev, status.st_ino) not in opened


def opened() -> set[tuple[int, int]]:
    """(device, inode) of all that a csync2 on this host has open."""
    found = set()
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{process}").st_uid == custody.UID:
                for name in os.listdir(f"/proc/{process}/fd"):
                    with contextlib.suppress(OSError):
                        status = os.stat(f"/proc/{process}/fd/{name}")
                        found.add((status.st_dev, status.st_ino))
    return found


def delete(path: bytes, inode: int) -> bool:
    """Delete a temporary file that csync2 has left, if it still is that. Tells whether that was done."""
    with contextlib.suppress(OSError), beneath.parent(path) as (above, name):
        status = os.lstat(name, dir_fd=above)
        if is_unfinished(status) and status.st_ino == inode:
            os.unlink(name, dir_fd=above)
            return True
    return False


# --- What csync2 could not give its name -----------------------------------------------------------------


def not_renamed(said: bytes) -> bytes | None:
    """Given a message of csync2's, return the path that it could not rename a temporary file to; else None."""
    found = _NOT_RENAMED.fullmatch(said)
    return found[1] if found else None


def delete_not_renamed(path: bytes, since: float) -> bool:
    """
    Delete the temporary file that csync2 has said it could not rename to a path since then (in seconds since the
    epoch). Tells whether that was done.

    It has the owner and mode of what stands at the path by then. csync2 has left one, so the only one that may be it is
    it. If there are more, they stay.
    """
    with contextlib.suppress(OSError), beneath.directory(os.path.dirname(path)) as above:
        name = os.path.basename(path)
        there, begin = beneath.lstat_in(above, name), _without_suffix(name)
        found = [
            base
            for base in map(os.fsencode, beneath.names(above))
            if base.startswith(begin) and len(base) == len(begin) + 6 and is_temporary(base)
            for status in [beneath.lstat_in(above, base)]
            if (status.st_mode, status.st_uid, status.st_gid) == (there.st_mode, there.st_uid, there.st_gid)
            and status.st_ctime >= since - TICK
        ]
        if stat.S_ISREG(there.st_mode) and len(found) == 1:
            os.unlink(found[0], dir_fd=above)
            return True
    return False


def patched(database: str, paths: Iterable[bytes]) -> set[bytes]:
    """
    Of these paths, those at which csync2 receives a file now: it deletes what is no file there first (daemon.c), and
    what it has received so far is in a temporary file beside it, which is deleted (rsync.c).
    """
    found = (one for pid in custody.serving(database) for _, one in custody.descriptors(pid))
    there = {os.fsencode(one)[: -6 - len(custody.DELETED)] for one in found if one.endswith(custody.DELETED)}
    begins = {path: os.path.join(os.path.dirname(path), _without_suffix(os.path.basename(path))) for path in paths}
    return {path for path, begin in begins.items() if begin in there}


def _without_suffix(name: bytes) -> bytes:
    """What the name of a temporary file begins with, up to mkstemp()'s six characters (rsync.c, get_tmpname())."""
    begin = name[1:] if name.startswith(b".") else name
    kept = begin[:UNCUT]
    if begin[UNCUT : UNCUT + 1] >= b"\x80":
        kept = re.sub(rb"[\x80-\xff]+\Z", b"", kept)
    return (b"." + kept).removesuffix(b".") + b"."
