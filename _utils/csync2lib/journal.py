"""
The journal of a group: what has changed on this host, and csync2 has not checked yet.

The watcher writes it, and a push reads it. It is a directory with a file for each flush of the watcher,
``WRITTEN-COUNTER-HEARD.paths``: when it was written, and when the last event of what is in it was read (left out if
unknown), both in ns. The file holds absolute paths as bytes, each ended by a NUL. A path that ends with ``/`` stands
for a directory and everything below it. The empty file ``whole`` asks for a full rescan: a check of the whole group. A
file ``….received`` is the server's (``received``). Files whose names begin with a dot are not finished.

The journal survives a loss of power, and a loss of csync2's database: after its check a push moves what it has read
into ``.checked``, and keeps it there until all has been sent.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from csync2lib import beneath, storage

#: The directory of what is checked and not yet sent, and how many flushes it keeps: a peer may be away for days.
CHECKED, MOST_CHECKED = ".checked", 1000
#: How the names of the server's files end.
RECEIVED = ".received"
#: The end of a line of which the watcher is sure: somebody has written the file, and it stands as it is recorded.
REWRITTEN = b"/."
#: Instead of a number, in the names of files that name what has changed while it was sent: others may have another
#: state; and what a check has left to csync2.
CHANGED, AGAIN = "push", "again"
#: Beside the journal: the file that the watcher touches as a sign of life, and seconds between two touches; the file
#: that says since when there was no watcher (seconds since the epoch), until a full rescan has been done.
WATCHED, WATCHED_EVERY, UNWATCHED = "watched", 10.0, "unwatched"


def lock_of_watcher(state_dir: str) -> str:
    """The file that the watcher holds locked while it lives, given the directory of csyncsync's state."""
    return os.path.join(state_dir, "watcher.lock")


def is_watched(directory: str) -> bool:
    """Tell, given a group's directory, whether there is a watcher."""
    return storage.is_locked(lock_of_watcher(os.path.dirname(directory)))


# --- Writing ---------------------------------------------------------------------------------------------


def lines(out: Iterable[tuple[bytes, bool, bool]]) -> list[bytes]:
    """
    Given [(path, tree, alone), …], return the lines of a journal file. What is below a tree of the same flush
    is left out, unless it must be named alone: it is REWRITTEN.
    """
    out = list(out)
    trees = {path for path, tree, _ in out if tree}
    found: dict[bytes, None] = {}
    for path, tree, alone in out:
        if trees and not alone and not trees.isdisjoint(beneath.above(path)):
            continue
        found[path + (b"/" if tree else REWRITTEN if alone else b"")] = None
    return list(found)


def write(directory: str, content: list[bytes], whole: bool, number: int | str = 0, heard: int | None = None) -> None:
    """
    Write one flush: the lines into a new file, and ``whole`` if the whole group is to be checked. Survives a power cut.

    heard
        When the last event of what is in the lines was read, in nanoseconds since the epoch.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    if content:
        name = f"{time.time_ns():020d}-{number}{f'-{heard}' if heard else ''}.paths"
        storage.write(os.path.join(directory, name), b"".join(line + b"\0" for line in content))
    if whole:
        storage.write(os.path.join(directory, "whole"), b"")
    storage.sync_directory(directory)


@contextlib.contextmanager
def checked_again(directory: str) -> Iterator[set[bytes]]:
    """Yields a set: paths that are added to it are checked by the next push, even if an error is raised."""
    paths: set[bytes] = set()
    try:
        yield paths
    finally:
        if paths:
            write(directory, sorted(paths), False, CHANGED)


def note_watched(directory: str) -> None:
    """Touch the sign of life of the watcher in a group's directory. Raises OSError."""
    path = os.path.join(directory, WATCHED)
    try:
        os.utime(path)
    except FileNotFoundError:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))


def note_unwatched(directory: str) -> None:
    """Before the watcher begins: note since when nobody has watched, if that is known and no earlier time is noted."""
    last = mtime(os.path.join(directory, WATCHED))
    if last is not None and unwatched_since(directory) is None:
        with open(os.path.join(directory, UNWATCHED), "w", encoding="ascii") as file:
            file.write(f"{last - WATCHED_EVERY:.3f}")


# --- Looking ---------------------------------------------------------------------------------------------


def names(directory: str) -> list[str]:
    """What is in a journal, the oldest flush first; nothing if it is not there."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(name for name in os.listdir(directory) if not name.startswith("."))
    return []


def waiting(directory: str) -> list[str]:
    """The files of a journal, the oldest flush first."""
    return [os.path.join(directory, name) for name in names(directory)]


def oldest(directory: str) -> tuple[float | None, bool]:
    """When the oldest entry of a journal was made (None: it is empty), and whether it asks for a full rescan."""
    there = names(directory)
    asked = [when for name in ("whole", "whole.taken") if (when := mtime(os.path.join(directory, name))) is not None]
    return min([*_times(there), *asked], default=time.time()) if there else None, bool(asked)


def waiting_since(directory: str, last: Mapping[str, Any]) -> float | None:
    """
    When the oldest change that others may lack was seen (seconds since the epoch), as far as is known; else None. The
    ``since`` in ``push.json`` of the last push covers what no journal names, as what a full rescan found.
    """
    times = [*_times(map(os.path.basename, _checked(directory))), oldest(directory)[0], last.get("since")]
    return min((when for when in times if when is not None), default=None)


def _times(there: Iterable[str]) -> list[float]:
    """When these flushes were written."""
    return [int(name[:20]) / 10**9 for name in there if name[:20].isdigit()]


def mtime(path: str) -> float | None:
    """When a file was changed, None if it is not there."""
    try:
        return os.stat(path).st_mtime
    except OSError:
        return None


def unwatched_since(directory: str) -> float | None:
    """
    Given a group's directory, return since when (seconds since the epoch) nobody watched before the watcher began; None
    if that is unknown, or a full rescan has been done since.
    """
    try:
        with open(os.path.join(directory, UNWATCHED), encoding="ascii") as file:
            return float(file.read())
    except (OSError, ValueError):
        return None


# --- Taking ----------------------------------------------------------------------------------------------


def take(directory: str) -> tuple[list[str], dict[bytes, bool], bool]:
    """
    Returns (journal files, {path: whole tree?}, whole group?). Renames ``whole``, so that a request for a full rescan
    that comes while the check runs is not deleted with this one.
    """
    with contextlib.suppress(FileNotFoundError):
        os.replace(os.path.join(directory, "whole"), os.path.join(directory, "whole.taken"))
    files = waiting(directory)
    return files, _read(files), os.path.join(directory, "whole.taken") in files


def _read(files: Iterable[str]) -> dict[bytes, bool]:
    """``{path: whole tree?}`` of what stands in some journal files; what changed last stands last."""
    entries: dict[bytes, bool] = {}
    for file_name in files:
        if file_name.endswith(".paths"):
            with open(file_name, "rb") as file:
                for path in file.read().split(b"\0"):
                    if path.startswith(b"/"):
                        name = path.removesuffix(REWRITTEN).rstrip(b"/")
                        entries[name] = entries.pop(name, False) or path.endswith(b"/")
    return entries


def rewritten(files: Iterable[str]) -> set[bytes]:
    """The paths that others may have otherwise although they stand as they are recorded, as these journal files say."""
    found = {*_read(file for file in files if _is_by(file, CHANGED))}
    for file_name in files:
        if file_name.endswith(".paths"):
            with open(file_name, "rb") as file:
                lines = file.read().split(b"\0")
            found.update(path.removesuffix(REWRITTEN) for path in lines if path.endswith(REWRITTEN))
    return found


def _is_by(file: str, number: str) -> bool:
    return file.endswith(f"-{number}.paths")


def heard(files: Iterable[str]) -> dict[bytes, float]:
    """``{path: when the last event that told of it was read, in seconds since the epoch}``, of some journal files."""
    found: dict[bytes, float] = {}
    for file in files:
        _, _, when = os.path.basename(file).removesuffix(".paths").partition("-")[2].partition("-")
        found.update(dict.fromkeys(_read([file]), int(when) / 10**9 if when.isdigit() else math.inf))
    return found


def discharge(files: list[str]) -> None:
    """Move these files to ``.checked``: csync2's check has recorded what they name."""
    for path in files:
        if path.endswith(".paths") and not _is_by(path, AGAIN):
            checked = os.path.join(os.path.dirname(path), CHECKED)
            os.makedirs(checked, mode=0o700, exist_ok=True)
            os.replace(path, os.path.join(checked, os.path.basename(path)))
        else:
            os.unlink(path)
    for path in _checked(os.path.dirname(files[0]))[:-MOST_CHECKED] if files else ():
        os.unlink(path)


def forget(directory: str) -> None:
    """Empty ``.checked``: all that it names has been sent."""
    for path in _checked(directory):
        os.unlink(path)


def unsent(directory: str, since: float = 0.0) -> dict[bytes, bool]:
    """
    ``{path: whole tree?}`` of what changed here (and was noted since then) and may not have been sent to all others;
    what changed last last.
    """
    files = [*_checked(directory), *(file for file in waiting(directory) if not _is_by(file, AGAIN))]
    return _read(file for file in files if max(_times([os.path.basename(file)]), default=since) >= since)


def _checked(directory: str) -> list[str]:
    return waiting(os.path.join(directory, CHECKED))


def is_among(entries: Mapping[bytes, bool], path: bytes) -> bool:
    """Tell whether a path is one of ``{path: whole tree?}``, or is in one of the trees (b"" stands for all paths)."""
    if path in entries:
        return True
    while path:
        path = path.rpartition(b"/")[0]
        if entries.get(path):
            return True
    return False
