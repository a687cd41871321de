"""
Temporary files that csync2 left behind unfinished, because the disk was full or it was killed.

The watcher and a push ask one question: is this file csync2's? A user's file must never be mistaken for one. Paths are
bytes.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Collection, Iterable

from csync2lib import waits

#: A suffix that looks random, as eleven of twelve of mkstemp()'s do; .backup does not.
_CHANCE = rb"(?=[^.]*[a-z])(?=[^.]*[A-Z])[A-Za-z0-9]{6}"
_BY_CHANCE = re.compile(rb".*\." + _CHANCE + rb"\Z", re.DOTALL)
#: rsync.c, get_tmpname(): a dot, the name without a leading or trailing one, a dot and mkstemp()'s six characters. Of a
#: name that has to be cut, all bytes above 127 before the cut go, too, so that nothing may be left of it.
_TEMPORARY = re.compile(rb"\.(?:.*\.[A-Za-z0-9]{6}|" + _CHANCE + rb")\Z", re.DOTALL)
#: rsync.c: NAME_MAX without the dots and the suffix
UNCUT = 246
#: Files that were made beside each other within so many seconds were made by one program.
TOGETHER = 60.0


def is_temporary(name: bytes) -> bool:
    """Tell whether a name is like those of csync2's temporary files."""
    return _TEMPORARY.match(name) is not None


def is_unfinished(status: os.stat_result) -> bool:
    """Tell whether a file is as mkstemp() made it for csync2, which never sets owner and mode before the rename."""
    regular = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
    return regular and (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o600, 0, 0)


def open_paths() -> set[bytes]:
    """The paths of all that any process has open, as a set."""
    found: set[bytes] = set()
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), os.scandir(os.fsencode(f"/proc/{process}/fd")) as descriptors:
            for descriptor in descriptors:
                with contextlib.suppress(OSError):
                    found.add(os.readlink(descriptor.path))
    return found


def by_chance(paths: Iterable[bytes]) -> set[bytes]:
    """The files whose suffix is random: it looks so, or that of a file does which was made beside it at that time."""
    made: dict[bytes, list[bytes]] = {}
    chosen: list[bytes] = []
    for path in paths:
        (made.setdefault(os.path.dirname(path), []) if _BY_CHANCE.match(path) else chosen).append(path)
    times = {directory: [_made(path) for path in there if _is_unfinished(path)] for directory, there in made.items()}
    found = {path for there in made.values() for path in there}
    for path in chosen:
        if any(abs(_made(path) - time_) < TOGETHER for time_ in times.get(os.path.dirname(path), ())):
            found.add(path)
    return found


def is_to_be_held(path: bytes, since: float, chance: bool) -> bool:
    """Tell whether a file may be csync2's, and has not been quarantined for long enough since that time."""
    return _is_unfinished(path) and 0 <= time.time() - since < (waits.HELD_FOR if chance else waits.CHOSEN_HELD_FOR)


def is_left(path: bytes, opened: Collection[bytes]) -> bool:
    """
    Given a path with a random suffix, and what is open, tell whether the file may be deleted as csync2's.

    It may if it holds nothing that is not in the file which it was to become: then nothing is lost, whoever made it.
    """
    if path in opened or not _is_unfinished(path) or time.time() - _made(path) < waits.LEFT_AFTER:
        return False
    try:
        return any(_begins_with(final, path) for final in _finals(path))
    except OSError:
        return False


def delete(path: bytes) -> bool:
    """Delete a file. Tells whether that could be done."""
    try:
        os.unlink(path)
    except OSError:
        return False
    return True


def _is_unfinished(path: bytes) -> bool:
    try:
        return is_temporary(os.path.basename(path)) and is_unfinished(os.lstat(path))
    except OSError:
        return False


def _made(path: bytes) -> float:
    """When a file was made, or last changed; never, if it is gone."""
    try:
        return os.lstat(path).st_ctime
    except OSError:
        return float("inf")


def _finals(path: bytes) -> list[bytes]:
    """The files that a temporary one may have been to become."""
    directory, name = os.path.split(path)
    stem = name[1:-7]
    names = [before + stem + after for before in (b"", b".") for after in (b"", b".")] if stem else []
    names += [name for name in os.listdir(directory) if _is_cut(name) and name.removeprefix(b".").startswith(stem)]
    return [os.path.join(directory, name) for name in names]


def _is_cut(name: bytes) -> bool:
    return len(name.removeprefix(b".")) > UNCUT


def _begins_with(path: bytes, start: bytes) -> bool:
    """Tell whether a regular file begins with the content of another one."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return False
        with open(path, "rb") as whole, open(start, "rb") as part:
            while chunk := part.read(1 << 16):
                if whole.read(len(chunk)) != chunk:
                    return False
    except OSError:
        return False
    return True
