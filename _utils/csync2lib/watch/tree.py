"""The tree of watched directories: its includes, and how it follows what the kernel tells."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time

from csync2lib import beneath, waits
from csync2lib.csync2.namespace import is_below, mounted_below
from csync2lib.watch import inotify
from csync2lib.watch.groups import WatchedGroup
from csync2lib.watch.inotify import Node, Place
from csync2lib.watch.listener import Listener
from csync2lib.watch.walk import FIRST, MOVED, NEW, Walks

log = logging.getLogger(__name__)

#: Seconds to wait for the second half of a rename.
MOVE_WAIT = 0.5


class Tree:
    """
    The directories of all groups: kept by the kernel's events, and walked in small steps.

    Of each group it reads ``excludes`` and keeps ``roots`` and what stands beside them; ``changes.full_rescan`` is set
    when events were lost, and ``changes.covers()`` asked whether what is below a directory is to be noted by itself.
    """

    def __init__(self, watches: inotify.Watches, groups: dict[str, WatchedGroup], listener: Listener) -> None:
        self.watches, self.groups, self.listener = watches, groups, listener
        self.walks = Walks(watches, groups, listener)

    # --- Roots

    def check_root(self, group: WatchedGroup, path: bytes) -> None:
        """Watch an include that has appeared, let go of one that has vanished, or both if it is another now."""
        root = group.roots.get(path)
        only, identity = _root_identity(path, root)
        if root is not None and root.identity == identity and root.only == only:
            return
        if root is not None:
            self.remove_root(group, path)
        group.roots[path] = None
        if identity is None:
            # A push finds, and tells, that it has to be held.
            group.changes.full_rescan = group.changes.full_rescan or root is not None
            return
        root = group.roots[path] = inotify.Root(group, path, only, identity)
        root.excluded = group.excludes.match(path, os.path.basename(path))
        self.walks.push(root, FIRST, group)

    def remove_root(self, group: WatchedGroup, path: bytes) -> None:
        """Let go of an include."""
        root = group.roots.pop(path, None)
        if root is not None:
            self.walks.drop_watches(root)
            root.group = None

    def walk_below(self, group: WatchedGroup, path: bytes, mode: str) -> None:
        """Walk a directory, if it is known."""
        node = _find(group, path)
        if node is not None:
            self.walks.new.append((node, mode))

    def unwatched_text(self, group: WatchedGroup) -> str:
        """Why not everything of a group is watched, in words."""
        watched, missing = len(self.watches.nodes), sum(len(other.unwatched) for other in self.groups.values())
        if self.watches.fd < 0:
            reason = os.strerror(self.watches.fd_error)
            return f"group {group.name} is not watched: inotify: {reason} (fs.inotify.max_user_instances?)"
        reason = os.strerror(group.problem)
        if group.problem == errno.ENOSPC:
            reason = (
                f"fs.inotify.max_user_watches is {inotify.watch_limit()}, {watched} are in use here and at least"
                f" {watched + missing} are needed (pillar csyncsync:max_user_watches)"
            )
        return (
            f"{len(group.unwatched)} directories of group {group.name} are not watched: {reason};"
            f" until then the whole group is checked every {waits.REWALK:.0f} seconds"
        )

    # --- Events

    def handle(self, buffer: bytes) -> None:
        """Given a buffer of inotify events, follow what they say, and tell the listener."""
        now = time.monotonic()
        places: dict[Node, Place | None] = {}
        offset, end = 0, len(buffer)
        while offset < end:
            wd, mask, cookie, length = inotify.EVENT.unpack_from(buffer, offset)
            offset += inotify.EVENT.size
            name = buffer[offset : offset + length].rstrip(b"\0") if length else b""
            offset += length
            if mask & inotify.IN_Q_OVERFLOW:
                log.warning("csyncsync: events were lost (fs.inotify.max_queued_events); checking everything")
                self.walks.again()
                continue
            for node in self.watches.of(wd):
                if mask & inotify.IN_IGNORED:
                    self.watches.disown(node, removed=True)
                    self._look_again(node)
                elif not name:
                    self._self_event(node, mask, now)
                elif mask & inotify.IN_ISDIR:
                    self._directory_event(node, mask, cookie, name, now)
                    places.clear()
                else:
                    if node not in places:
                        places[node] = inotify.locate(node)
                    place = places[node]
                    if place is not None:
                        self.listener.file_event(place, mask, cookie, name, now, node.since)

    def _look_again(self, node: Node) -> None:
        """A directory is gone. Another one may stand there by now, even with its inode."""
        if not isinstance(node, inotify.Root):
            self.walks.new.append((node, NEW))
        elif node.group is not None:
            node.identity = ()
            self.check_root(node.group, node.path)

    def _self_event(self, node: Node, mask: int, now: float) -> None:
        """Only a root has nobody above it who hears of its own changes."""
        if not isinstance(node, inotify.Root) or node.only is not None or node.group is None:
            return
        if mask & inotify.IN_ATTRIB and not mask & (inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF):
            if not node.excluded:
                self.listener.directory_event(node.group, node.path, mask, now)
        elif mask & (inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF | inotify.IN_UNMOUNT):
            self.check_root(node.group, node.path)

    def _directory_event(self, parent: Node, mask: int, cookie: int, name: bytes, now: float) -> None:
        """Something happened to a directory in a watched directory."""
        if mask & (inotify.IN_MOVED_FROM | inotify.IN_MOVED_TO):
            self.walks.renames += 1
        place = inotify.locate(parent)
        if place is None and not self.walks.moving:
            return
        if place is not None and place.root.only is not None:
            if place.root.only == name:
                self.check_root(place.group, place.root.path)
            return
        excluded = False
        if place is not None:
            path = place.path + b"/" + name
            excluded = place.group.excludes.match(path, name)
        if mask & (inotify.IN_MOVED_FROM | inotify.IN_DELETE):
            node = parent.children.pop(name, None)
            if node is not None:
                node.parent = None
                if mask & inotify.IN_MOVED_FROM:
                    self.walks.moving[cookie] = (node, now + MOVE_WAIT)
                else:
                    self.walks.drop(node)
        elif mask & (inotify.IN_CREATE | inotify.IN_MOVED_TO):
            self._directory_came(parent, name, excluded, cookie if mask & inotify.IN_MOVED_TO else 0)
        if place is not None and not excluded:
            self.listener.directory_event(place.group, path, mask, now)

    def _directory_came(self, parent: Node, name: bytes, excluded: bool, cookie: int) -> None:
        """A directory was made, or moved here (then with a cookie)."""
        node, _ = self.walks.moving.pop(cookie, (None, 0.0))
        there = parent.children.get(name)
        if node is None and there is not None and there.wd is not None and not cookie:
            return  # a walk was faster than the event
        if there is not None:
            self.walks.drop(there)
        if node is None:
            node = inotify.Node(name, parent)
            mode = NEW
        else:
            node.name, node.parent = name, parent
            # Other patterns may exclude what is below its new name; new directories may be in it.
            self.walks.exclude_below(node)
            mode = MOVED
        parent.children[name] = node
        if excluded:
            self.walks.drop_watches(node)
        else:
            self.walks.new.append((node, mode))
        node.excluded = excluded
        self.walks.take_up()

    # --- Renames of directories

    def end_moves(self, now: float) -> None:
        """Directories whose rename has no second half were moved out."""
        for cookie, (node, end) in tuple(self.walks.moving.items()):
            if now >= end:
                del self.walks.moving[cookie]
                self.walks.drop(node)
                self.walks.take_up()


def _root_identity(path: bytes, root: inotify.Root | None) -> tuple[bytes | None, inotify.Identity | None]:
    """
    What there is to watch for an include, as ``(only, identity)`` of a Root, given the one that it has; an identity of
    None: nothing.
    """
    try:
        status = beneath.lstat(path)
    except OSError:
        status = None
    if status is not None and stat.S_ISDIR(status.st_mode):
        # What is mounted below is watched, too, and no event tells of a mount.
        return None, (status.st_dev, status.st_ino, *(mount[:4] for mount in mounted_below(path)))
    if status is not None or (root is not None and root.only is not None):
        # A file may be gone for a moment, while another is renamed to its name.
        return os.path.basename(path), inotify.identity(os.path.dirname(path))
    return None, None


def _find(group: WatchedGroup, path: bytes) -> Node | None:
    """The node of a directory, None if it is not known."""
    for root in group.roots.values():
        if root is None or root.only is not None:
            continue
        if is_below(path, root.path):
            node: Node | None = root
            for name in filter(None, path[len(root.path) :].split(b"/")):
                node = node.children.get(name) if node is not None else None
            return node
    return None
