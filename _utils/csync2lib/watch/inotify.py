"""
inotify: the C library, and which watched directory has which watch.

A watched directory is a ``Node``; its path follows renames, because it is made from its parents. Paths are bytes.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import termios
from collections.abc import Sequence
from typing import Any, NamedTuple

from csync2lib import beneath, storage

# --- The C library ---------------------------------------------------------------------------------------

IN_MODIFY = 0x2
IN_ATTRIB = 0x4
IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_UNMOUNT = 0x2000
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x1000000
IN_EXCL_UNLINK = 0x4000000
IN_ISDIR = 0x40000000

#: What is asked for.
MASK = IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE
MASK |= IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR | IN_EXCL_UNLINK
EVENT = struct.Struct("iIII")

libc = ctypes.CDLL(None, use_errno=True)
libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
libc.inotify_rm_watch.argtypes = (ctypes.c_int, ctypes.c_int)


def watch_limit() -> int:
    """How many directories one user may watch; 0 if unknown."""
    return int(storage.read("/proc/sys/fs/inotify/max_user_watches") or 0)


# --- What is watched -------------------------------------------------------------------------------------


#: What tells that something else stands at a place: device, inode, and perhaps more.
Identity = Sequence[Any]


class Node:
    """A directory. Its path is made from its parents, so that a rename changes one place."""

    __slots__ = ("children", "excluded", "name", "parent", "since", "wd")

    def __init__(self, name: bytes, parent: Node | None) -> None:
        self.name = name
        self.parent = parent
        self.children: dict[bytes, Node] = {}
        self.wd: int | None = None
        #: since when it is watched, if it is new
        self.since = 0.0
        self.excluded = False


class Root(Node):
    """An include. For one that is no directory, its parent directory is watched for that one name (``only``)."""

    __slots__ = ("group", "identity", "only", "path")

    def __init__(self, group: Any, path: bytes, only: bytes | None, identity: Identity) -> None:
        super().__init__(os.path.dirname(path) if only else path, None)
        #: the WatchedGroup; None when it was let go of
        self.group = group
        self.path = path
        self.only = only
        self.identity = identity


class Place(NamedTuple):
    """Where a directory is: in which include of which WatchedGroup, and its path."""

    root: Root
    group: Any
    path: bytes


def locate(node: Node) -> Place | None:
    """Where a node is; None if it hangs on no root (any more)."""
    names = []
    while node.parent is not None:
        names.append(node.name)
        node = node.parent
    if not isinstance(node, Root) or node.group is None:
        return None
    names.append(node.name)
    return Place(node, node.group, b"/".join(reversed(names)))


def identity(path: bytes) -> Identity | None:
    """Device and inode of a path, None if it is not there."""
    try:
        status = beneath.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


# --- Watches ---------------------------------------------------------------------------------------------


class Watches:
    """One inotify descriptor, and which directory has which of its watches."""

    def __init__(self) -> None:
        #: watch descriptor -> the Node that has it, or several (one directory seen at two places: a bind mount)
        self.nodes: dict[int, tuple[Node, ...]] = {}
        self.fd = -1
        self.fd_error = 0
        #: bytes of events that were read
        self.taken = 0

    def open(self) -> None:
        """Get a descriptor; on failure every watch fails with the same error."""
        ctypes.set_errno(0)
        self.fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        self.fd_error = ctypes.get_errno() if self.fd < 0 else 0

    def read(self) -> bytes:
        """Read one buffer of events; b"" if there are none."""
        if self.fd < 0:
            return b""
        try:
            buffer = os.read(self.fd, 32768)
        except BlockingIOError:
            return b""
        self.taken += len(buffer)
        return buffer

    def told(self) -> int:
        """Bytes of events that there have been so far, read or not (inotify(7), FIONREAD)."""
        if self.fd < 0:
            return self.taken
        waiting: int = struct.unpack("i", fcntl.ioctl(self.fd, termios.FIONREAD, bytes(4)))[0]
        return self.taken + waiting

    def of(self, wd: int) -> tuple[Node, ...]:
        """The nodes that have a watch."""
        return self.nodes.get(wd, ())

    def add(self, node: Node, path: bytes, handle: int) -> tuple[int, list[Node]]:
        """
        Watch an open directory, which was at a path. Returns the error's number (0: none), and the nodes that have lost
        the watch to it.
        """
        if self.fd < 0:
            return self.fd_error, []
        wd = libc.inotify_add_watch(self.fd, b"/proc/self/fd/%d" % handle, MASK)
        if wd < 0:
            return ctypes.get_errno(), []
        if node.wd == wd:
            return 0, []
        if node.wd is not None:
            self.disown(node)
        displaced = self._take_over(wd, path)
        self.give(node, wd)
        return 0, displaced

    def give(self, node: Node, wd: int) -> None:
        """Note that a node has a watch."""
        node.wd = wd
        self.nodes[wd] = (*self.of(wd), node)

    def _take_over(self, wd: int, path: bytes) -> list[Node]:
        """
        A directory that was watched under another path is no longer there (it was moved while nobody heard of
        it), unless it can be seen at both places. Returns the nodes that are not this directory.
        """
        displaced = []
        for other in self.of(wd):
            place, here = locate(other), identity(path)
            if place is None or here is None or identity(place.path) != here:
                self.disown(other, keep=True)
                displaced.append(other)
        return displaced

    def disown(self, node: Node, removed: bool = False, keep: bool = False) -> None:
        """Take the watch from a node, and back from the kernel if no other node has it."""
        wd, node.wd = node.wd, None
        if wd is None or node not in self.of(wd):
            return
        self.nodes[wd] = tuple(other for other in self.of(wd) if other is not node)
        if self.nodes[wd]:
            return
        del self.nodes[wd]
        if not removed and not keep and self.fd >= 0:
            libc.inotify_rm_watch(self.fd, wd)
