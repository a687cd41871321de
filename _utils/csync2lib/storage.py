"""
Files that are whole or as they were before, whatever breaks while they are written; and locks.

Every file that the project keeps for itself is written, and every lock is taken, here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from typing import Any, Union

log = logging.getLogger(__name__)

Path = Union[str, "os.PathLike[str]"]

#: Hidden until it is whole, with the number of the process that writes it.
_TEMPORARY = re.compile(r"\.tmp([0-9]+)(-journal)?\Z")  # SQLite has one beside a database that is written
#: Seconds between two attempts to get a lock.
_LOCK_POLL = 0.1


# --- Reading ---------------------------------------------------------------------------------------------


def read(path: Path) -> str | None:
    """A file's text, None if there is no file."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def read_json(path: Path, default: Any = None) -> Any:
    """What a file of JSON says; the default if it says nothing, or is damaged: who writes it makes it anew."""
    try:
        return json.loads(read(path) or "null") or default
    except ValueError:
        log.warning("%s is damaged; it is made anew", path)
        return default


def read_names(path: Path) -> set[bytes]:
    """The paths in a file that holds them with NULs between them; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return {name for name in file.read().split(b"\0") if name}
    except OSError:
        return set()


# --- Writing ---------------------------------------------------------------------------------------------


def write(path: Path, content: str | bytes, mode: int = 0o600, durable: bool = True, new: bool = False) -> None:
    """
    Write a file whole or not at all; ``durable``: also when the power fails; ``new``: only if there is none yet. Raises
    OSError, FileExistsError.
    """
    directory, name = os.path.split(os.fspath(path))
    # Another host may share the directory, and a process there, or a thread here, have the same number.
    temporary = os.path.join(directory, f".{name}.{os.urandom(4).hex()}.tmp{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(content if isinstance(content, bytes) else content.encode())
            file.flush()
            if durable:
                os.fsync(fd)
        (os.link if new else os.replace)(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def write_json(path: Path, value: Any, durable: bool = True) -> None:
    """Write a value as JSON, as write() does."""
    write(path, json.dumps(value, indent=1, sort_keys=True) + "\n", durable=durable)


def write_names(path: Path, names: Iterable[bytes]) -> None:
    """Write paths for read_names(); a loss of power may take them. Raises OSError."""
    write(path, b"\0".join(sorted(names)), durable=False)


def sync_directory(path: Path) -> None:
    """Have the names in a directory on the disk, also when the power fails."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file that may be missing."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def sweep(directory: Path) -> None:
    """Remove what writers that were killed have left half-written in a directory."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            left = _TEMPORARY.search(name)
            if left and not os.path.exists(f"/proc/{left.group(1)}"):
                path = os.path.join(directory, name)
                with contextlib.suppress(OSError):
                    (shutil.rmtree if os.path.isdir(path) else os.unlink)(path)


# --- Locks -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(path: Path, wait: float = 0.0) -> Iterator[bool]:
    """Hold a lock file, waiting for it that many seconds (math.inf: as long as it takes); yields whether it is held."""
    with open(path, "ab") as file:
        if wait == math.inf:  # the kernel wakes this at once
            fcntl.flock(file, fcntl.LOCK_EX)
        until = time.monotonic() + wait
        while not (mine := try_lock(file.fileno())) and time.monotonic() < until:
            time.sleep(_LOCK_POLL)
        yield mine


def try_lock(handle: int) -> bool:
    """Lock an open file, if nobody else has it. Tells whether that was done."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Tell whether somebody holds a lock file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not try_lock(handle)
    finally:
        os.close(handle)
