"""
All access of csyncsync to what stands below an include, or a ``backup_directory``: through no symlink, ever.

A user who can write there may swap a directory for a symlink at any moment, also between two system calls. So a path
is never given to the kernel as it is: its directory is opened such that a symlink anywhere above fails, and what is in
it is reached by that descriptor.

Paths are absolute, bytes or text; none is too long. Below a symlink there is nothing, as for csync2: functions raise
NotADirectoryError then, and other kinds of OSError as those of ``os`` do.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterator
from typing import Union

Path = Union[bytes, str]
Entries = contextlib.AbstractContextManager[Iterator[os.DirEntry[str]]]

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: openat2(2), of Linux 5.6: its number is the same on all architectures that Salt runs on; RESOLVE_NO_SYMLINKS is 4.
_OPENAT2, _HOW = 437, struct.pack("QQQ", _DIRECTORY, 0, 4)
#: A pipe in place of a file would else be waited for.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
#: Bytes that are read at once.
PART = 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
_libc.syscall.restype = ctypes.c_long


# --- Directories -----------------------------------------------------------------------------------------


def open_parent(path: Path) -> tuple[int, bytes]:
    """
    Open the directory that a path is in. Returns (its descriptor, which is good for ``dir_fd`` alone and is to be
    closed, the name in it).
    """
    path = os.fsencode(path)
    above, _, name = path.rpartition(b"/")
    if b"\0" in path or (b".." in path and b".." in path.split(b"/")):
        raise FileNotFoundError(errno.ENOENT, "is no path", path)
    handle = _libc.syscall(_OPENAT2, -1, b"/" + above, _HOW, len(_HOW))
    if handle < 0:
        number = ctypes.get_errno()
        try:
            handle = -1 if number == errno.ENOENT else _step_by_step(above)  # which says what is wrong, or can do it
        except OSError as err:
            number = err.errno or errno.EIO
        if handle < 0:
            raise OSError(number, os.strerror(number), path)
    return handle, name or b"."


def _step_by_step(path: bytes) -> int:
    """Open a directory without openat2, or of a path that is too long for the kernel."""
    handle = os.open(b"/", _DIRECTORY)
    for name in filter(None, path.split(b"/")):
        above = handle
        try:
            handle = os.open(name, _DIRECTORY, dir_fd=above)
        finally:
            os.close(above)
    return handle


@contextlib.contextmanager
def parent(path: Path) -> Iterator[tuple[int, bytes]]:
    """The same, for a ``with`` statement, which closes the directory."""
    handle, name = open_parent(path)
    try:
        yield handle, name
    finally:
        os.close(handle)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Yield a descriptor (O_PATH) of whatever is there, but for a symlink."""
    with parent(path) as (above, name):
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=above)
    try:
        if stat.S_ISLNK(os.fstat(handle).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def directory(path: Path) -> Iterator[int]:
    """Yield the descriptor of a directory, which can be listed and synchronized, too."""
    with parent(path) as (above, name):
        handle = open_directory(above, name)
    try:
        yield handle
    finally:
        os.close(handle)


def open_directory(above: int, name: bytes) -> int:
    """Open a directory in an open directory. Returns its descriptor, which is to be closed."""
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)


def scan(handle: int) -> Entries:
    """The entries of a directory that is, and stays, open, as os.scandir() gives them: with names as text."""
    return os.scandir(handle)


def names(handle: int) -> list[str]:
    """The names in an open directory, as text."""
    return os.listdir(handle)


def make_directories(path: Path, mode: int = 0o755) -> None:
    """Make a directory of this mode, and those above it that are missing."""
    if is_directory(path):
        return
    make_directories(os.path.dirname(path))
    with parent(path) as (above, name), contextlib.suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=above)


# --- What is there ---------------------------------------------------------------------------------------


def lstat(path: Path) -> os.stat_result:
    handle, name = open_parent(path)
    try:
        return os.lstat(name, dir_fd=handle)
    finally:
        os.close(handle)


def lstat_in(handle: int, name: bytes) -> os.stat_result:
    """Of what is in an open directory."""
    return os.lstat(name, dir_fd=handle)


def kind(path: Path) -> int:
    """
    The type of what is there, as stat.S_IFMT() tells it; 0 if nothing is, or it cannot be reached. Raises OSError if
    this process cannot look: it has no descriptor left.
    """
    try:
        return stat.S_IFMT(lstat(path).st_mode)
    except OSError as err:
        if err.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        return 0


def above(path: bytes) -> Iterator[bytes]:
    """The directories that a path is in, the innermost first."""
    while len(path) > 1:
        path = os.path.dirname(path)
        yield path


def last_changed(path: bytes) -> tuple[float, os.stat_result | None]:
    """
    When what is at a path was changed last, and its lstat; if nothing is there, when a name last left or came into the
    innermost directory above it, and None. In seconds since the epoch. Raises OSError if nobody can look there.
    """
    for place in (path, *above(path)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            status = lstat(place)
            return (status.st_ctime, status) if place == path else (status.st_mtime, None)
    return 0.0, None


def exists(path: Path) -> bool:
    """Tell whether anything is there."""
    return kind(path) != 0


def is_directory(path: Path) -> bool:
    return kind(path) == stat.S_IFDIR


def is_no_directory(path: Path) -> bool:
    """Tell whether there is anything but a directory."""
    return kind(path) not in (0, stat.S_IFDIR)


def no_directory_in(path: bytes) -> bytes | None:
    """Of a path and all above it, the outermost that is anything but a directory; None if there is none."""
    return next((place for place in reversed((path, *above(path))) if is_no_directory(place)), None)


def readlink(path: Path) -> bytes:
    """What a symlink leads to."""
    with parent(path) as (above, name):
        return os.readlink(name, dir_fd=above)


# --- Files -----------------------------------------------------------------------------------------------


def open_file(above: int, name: bytes) -> int:
    """Open a regular file in an open directory, and nothing else. Returns its descriptor, which is to be closed."""
    handle = os.open(name, _FILE, dir_fd=above)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "is no file", name)
    return handle


def content(above: int, name: bytes) -> Iterator[bytes]:
    """Yield the content of a regular file in an open directory, part by part."""
    handle = open_file(above, name)
    try:
        while part := os.read(handle, PART):
            yield part
    finally:
        os.close(handle)
