"""The tree of watched directories: kept by the kernel's events, and walked in small steps."""

import collections
import errno
import logging
import os
import stat
import time

from csync2lib import waits
from csync2lib.watch import inotify

log = logging.getLogger(__name__)

#: Seconds to wait for the second half of a rename.
MOVE_WAIT = 0.5


# --- The tree --------------------------------------------------------------------------------------------

#: How a directory is walked: its first time, new below a watched one, moved (only if its watch is not its own), again
#: after lost events, to note every single path in it, and to have the files in it compared.
FIRST, NEW, MOVED, AGAIN, NOTE, COMPARE = "first", "new", "moved", "again", "note", "compare"
#: What a look at a directory came to: Watches.told() and Tree.renames at the time, and whether it was missing.
_Look = collections.namedtuple("_Look", "node mode told renames missing")


class Tree:
    """
    The directories of all groups: kept by the kernel's events, and walked in small steps.

    groups
        The watcher's groups by name. Of each, the tree reads ``excludes`` and keeps ``roots`` and what stands beside
        them; ``whole`` is set when events were lost.
    listener
        Hears of what happens: ``file_event()`` and ``directory_event()`` of what the kernel tells, ``found()`` of what
        a walk came to, ``walked()`` of the end of a group's great walk. ``covers()`` is asked whether what is below a
        directory need not be noted on its own.

    A walk sees the disk as it is, and the events tell what it was before: where a walk looks for a directory there may
    be another one by now, or none. So a look that was ahead of events is repeated if they tell of a rename.
    """

    def __init__(self, watches, groups, listener):
        self.watches, self.groups, self.listener = watches, groups, listener
        #: cookie -> (Node, when to give it up): the first halves of renames of directories
        self.moving = {}
        #: how many renames of directories events have told; looks to be judged when the events before them are read;
        #: what could not be looked at while it, or what it is in, was in ``moving``
        self.renames = 0
        self.looks = collections.deque()
        self.put_off = []
        self.chores = collections.deque()
        self.new = collections.deque()
        self.walk = []
        self.scan = None

    # --- Roots

    def check_root(self, group, path):
        """Watch an include that has appeared, let go of one that has vanished, or both if it is another now."""
        try:
            status = os.lstat(path)
        except OSError:
            status = None
        root = group.roots.get(path)
        if status is not None and stat.S_ISDIR(status.st_mode):
            only, identity = None, (status.st_dev, status.st_ino)
        elif status is not None or (root is not None and root.only is not None):
            # A file may be gone for a moment, while another is renamed to its name.
            only, identity = os.path.basename(path), inotify.identity(os.path.dirname(path))
        else:
            only = identity = None
        if root is not None and root.identity == identity and root.only == only:
            return
        if root is not None:
            self.remove_root(group, path)
        group.roots[path] = None
        if identity is None:
            group.whole = group.whole or root is not None  # a push finds, and tells, that it has to be held
            return
        root = group.roots[path] = inotify.Root(group, path, only, identity)
        root.excluded = group.excludes.match(path, os.path.basename(path))
        self._push_walk(root, FIRST, group)

    def remove_root(self, group, path):
        """Let go of an include."""
        root = group.roots.pop(path, None)
        if root is not None:
            self._drop_watches(root)
            root.group = None

    def exclude_again(self, group):
        """Apply a group's new excludes."""
        for root in group.roots.values():
            if root is not None:
                self.chores.append(self._exclude_below(root))

    # --- Events

    def handle(self, buffer):
        """Given a buffer of inotify events, follow what they say, and tell the listener."""
        now = time.monotonic()
        places = {}
        offset, end = 0, len(buffer)
        while offset < end:
            wd, mask, cookie, length = inotify.EVENT.unpack_from(buffer, offset)
            offset += inotify.EVENT.size
            name = buffer[offset : offset + length].rstrip(b"\0") if length else b""
            offset += length
            if mask & inotify.IN_Q_OVERFLOW:
                log.warning("csyncsync: events were lost (fs.inotify.max_queued_events); checking everything")
                self._walk_again()
                continue
            for node in self.watches.of(wd):
                if mask & inotify.IN_IGNORED:
                    self.watches.disown(node, removed=True)
                    if not isinstance(node, inotify.Root):  # another one may stand there by now
                        self.new.append((node, NEW))
                elif not name:
                    self._self_event(node, mask, now)
                elif mask & inotify.IN_ISDIR:
                    self._directory_event(node, mask, cookie, name, now)
                    places.clear()
                else:
                    if node not in places:
                        places[node] = inotify.locate(node)
                    root, directory = places[node]
                    if root is not None:
                        self.listener.file_event(root, directory, mask, cookie, name, now, node.since)

    def _self_event(self, node, mask, now):
        """Only a root has nobody above it who hears of its own changes."""
        if not isinstance(node, inotify.Root) or node.only is not None or node.group is None:
            return
        if mask & inotify.IN_ATTRIB and not mask & (inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF):
            if not node.excluded:
                self.listener.directory_event(node.group, node.path, mask, now)
        elif mask & (inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF | inotify.IN_UNMOUNT):
            self.check_root(node.group, node.path)

    def _directory_event(self, parent, mask, cookie, name, now):
        """Something happened to a directory in a watched directory."""
        if mask & (inotify.IN_MOVED_FROM | inotify.IN_MOVED_TO):
            self.renames += 1
        root, directory = inotify.locate(parent)
        if root is None and not self.moving:
            return
        if root is not None and root.only is not None:
            if root.only == name:
                self.check_root(root.group, root.path)
            return
        path = directory and directory + b"/" + name
        excluded = root is not None and root.group.excludes.match(path, name)
        if mask & (inotify.IN_MOVED_FROM | inotify.IN_DELETE):
            node = parent.children.pop(name, None)
            if node is not None:
                node.parent = None
                if mask & inotify.IN_MOVED_FROM:
                    self.moving[cookie] = (node, now + MOVE_WAIT)
                else:
                    self._drop(node)
        elif mask & (inotify.IN_CREATE | inotify.IN_MOVED_TO):
            self._directory_came(parent, name, excluded, cookie if mask & inotify.IN_MOVED_TO else 0)
        if root is not None and not excluded:
            self.listener.directory_event(root.group, path, mask, now)

    def _directory_came(self, parent, name, excluded, cookie):
        """A directory was made, or moved here (then with a cookie)."""
        node, _ = self.moving.pop(cookie, (None, None))
        known = parent.children.get(name)
        if node is None and known is not None and known.wd is not None and not cookie:
            return  # a walk was faster than the event
        if known is not None:
            self._drop(known)
        if node is None:
            node = inotify.Node(name, parent)
            mode = NEW
        else:
            node.name, node.parent = name, parent
            # Other patterns may exclude what is below its new name; new directories may be in it.
            self.chores.append(self._exclude_below(node))
            mode = MOVED
        parent.children[name] = node
        if excluded:
            self._drop_watches(node)
        else:
            self.new.append((node, mode))
        node.excluded = excluded
        self._take_up()

    def moves_end(self):
        """When the first halves of renames are to be given up."""
        return [end for _, end in self.moving.values()]

    def end_moves(self, now):
        """Directories whose rename has no second half were moved out."""
        for cookie, (node, end) in tuple(self.moving.items()):
            if now >= end:
                del self.moving[cookie]
                self._drop(node)
                self._take_up()

    def _take_up(self):
        """Look at what was put off: what it is in has come to a new place, or is gone."""
        self.new.extend(self.put_off)
        self.put_off = []

    # --- Letting go

    def _drop(self, node):
        """Forget a directory and everything below it."""
        if node.parent is not None and node.parent.children.get(node.name) is node:
            del node.parent.children[node.name]
        node.parent = None
        self._drop_watches(node)

    def _drop_watches(self, node):
        """Give back the watches of a directory and of everything below it, in slices."""
        self._unwatch(node)
        self._drop_children(node)

    def _drop_children(self, node):
        """Forget everything below a directory."""
        children, node.children = list(node.children.values()), {}
        for child in children:
            child.parent = None
        if children:
            self.chores.append(self._unwatch_all(children))

    def _unwatch_all(self, stack):
        while stack:
            node = stack.pop()
            stack.extend(node.children.values())
            self._unwatch(node)
            yield

    def _unwatch(self, node):
        for group in self.groups.values():
            group.unwatched.discard(node)
        if node.wd is not None:
            self.watches.disown(node)

    # --- Walking

    def walking(self):
        """Tell whether there is something to walk."""
        return bool(self.chores or self.new or self.walk or self.scan or self._is_look_over())

    def walk_on(self, deadline):
        """Walk until the deadline: new directories before the great walks."""
        while self.walking():
            self._judge_looks()
            if self.scan is None and (self.chores or self.new or self.walk):
                self.scan = self._next_scan()
            for _ in self.scan or ():
                if time.monotonic() >= deadline:
                    return
            self.scan = None
            if time.monotonic() >= deadline:
                return

    def walk_below(self, group, path, mode):
        """Walk a directory, if it is known."""
        node = self._find(group, path)
        if node is not None:
            self.new.append((node, mode))

    def watch_unwatched(self, group):
        """Try again what could not be watched; the end of the walk marks the whole group."""
        group.rewalk_at = time.monotonic() + waits.REWALK
        nodes, group.unwatched = group.unwatched, set()
        for node in nodes:
            self._push_walk(node, FIRST, group)

    def unwatched_text(self, group):
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

    def _next_scan(self):
        if self.chores:
            return self.chores.popleft()
        if self.new:
            node, mode = self.new.popleft()
            return self._scan(node, mode)
        node, mode, group = self.walk.pop()
        return self._scan_counted(node, mode, group)

    def _push_walk(self, node, mode, group):
        group.walking += 1
        self.walk.append((node, mode, group))

    def _scan_counted(self, node, mode, group):
        """A step of a group's great walk; the last one ends it."""
        try:
            yield from self._scan(node, mode)
        except Exception:  # pylint: disable=broad-except
            log.exception("csyncsync: cannot walk a directory of group %s", group.name)
        group.walking -= 1
        if not group.walking:
            self.listener.walked(group)

    def _walk_again(self):
        """Events were lost: look at every directory again."""
        for group in self.groups.values():
            group.whole = True
            for root in group.roots.values():
                if root is not None:
                    self._push_walk(root, AGAIN, group)

    def _look(self, node, mode, missing=False):
        """Note a look at a directory that was ahead of the events, or to which it was missing."""
        told = self.watches.told()
        if not isinstance(node, inotify.Root) and (missing or told > self.watches.taken):
            mode = NEW if mode in (FIRST, AGAIN) else mode
            self.looks.append(_Look(node, mode, told, self.renames, missing))

    def _is_look_over(self):
        return bool(self.looks) and self.looks[0].told <= self.watches.taken

    def _judge_looks(self):
        """All events before a look are known: it is repeated if they told of renames, else it was right."""
        while self._is_look_over():
            look = self.looks.popleft()
            if look.renames != self.renames:
                self.new.append((look.node, look.mode))
            elif look.missing:
                self._drop(look.node)

    def _scan(self, node, mode):
        """
        Watch a directory, then read it: what is made in between comes as an event, so nothing is missed.
        A generator: the walk can stop at each of its steps.
        """
        root, path = self._place(node, mode)
        if root is None or node.excluded:
            return
        group, before = root.group, node.wd
        problem, lost = self.watches.add(node, path)
        for other in lost:  # what is known to be in it is in this directory
            self._drop_children(other)
            self.new.append((other, NEW))
        if problem in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            self._look(node, mode, missing=True)
            return
        if problem:
            group.unwatched.add(node)
            group.problem = problem
            group.rewalk_at = time.monotonic() + waits.REWALK
        else:
            group.unwatched.discard(node)
            node.since = time.monotonic() if mode == NEW else 0.0
        if before not in (None, node.wd):
            self._drop_children(node)
        elif mode == MOVED and before is not None:
            self._look(node, mode)
            return
        if root.only is None:
            yield from self._read(node, NEW if mode == MOVED else mode, path)

    def _place(self, node, mode):
        """The root and the path of a directory that is to be scanned, as _locate() returns them."""
        root, path = inotify.locate(node)
        if root is None and self.moving:
            self.put_off.append((node, mode))
        return root, path

    def _read(self, node, mode, path):
        try:
            entries = os.scandir(path)
        except OSError as err:
            log.debug("csyncsync: cannot read a directory: %s", err.strerror)
            self._look(node, mode)
            return
        self._look(node, mode)
        before, seen = dict(node.children), set()
        with entries:
            yield from self._scan_entries(node, mode, entries, seen)
        if mode == AGAIN:
            for name, child in before.items():
                if name not in seen and node.children.get(name) is child:
                    self._drop(child)

    def _scan_entries(self, node, mode, entries, seen):
        root, path = inotify.locate(node)
        covered = mode == NEW and self.listener.covers(root.group, path)
        try:
            for number, item in enumerate(entries):
                if number % 16 == 0:
                    yield
                    # Meanwhile, the directory may have been moved, or what covers it may have gone out.
                    root, path = self._place(node, mode)
                    if root is None:
                        return
                    covered = mode == NEW and self.listener.covers(root.group, path)
                name = item.name
                if item.is_dir(follow_symlinks=False):
                    seen.add(name)
                    self._scan_child(node, mode, root.group, path + b"/" + name, covered)
                elif mode in (NEW, NOTE, COMPARE) and not covered:
                    inner = path + b"/" + name
                    if not root.group.excludes.match(inner, name):
                        self.listener.found(root.group, inner, compare=mode == COMPARE)
        except OSError as err:
            log.debug("csyncsync: cannot read a directory to its end: %s", err.strerror)

    def _scan_child(self, parent, mode, group, path, covered):
        """The walk came to a directory in a directory."""
        name = os.path.basename(path)
        child = parent.children.get(name)
        if child is None:
            child = parent.children[name] = inotify.Node(name, parent)
            child.excluded = group.excludes.match(path, name)
        elif mode in (FIRST, NEW):
            return  # somebody has it in hand already
        if child.excluded:
            return
        if mode in (FIRST, AGAIN):
            self._push_walk(child, mode, group)
        else:
            if not covered and mode != COMPARE:
                self.listener.found(group, path, tree=True)
            self.new.append((child, mode))

    def _exclude_below(self, top):
        """Apply the excludes anew to a directory and what is below it, without reading the disk."""
        stack = [top]
        while stack:
            node = stack.pop()
            root, path = inotify.locate(node)
            if root is None or root.only is not None:
                continue
            excluded = root.group.excludes.match(path, os.path.basename(path))
            if excluded and not node.excluded:
                self._drop_watches(node)
            elif node.excluded and not excluded:
                node.excluded = False
                self._push_walk(node, FIRST, root.group)
            else:
                stack.extend(node.children.values())
            node.excluded = excluded
            yield

    def _find(self, group, path):
        """The node of a directory, None if it is not known."""
        for root in group.roots.values():
            if root is None or root.only is not None:
                continue
            if path == root.path:
                return root
            if path.startswith(root.path + b"/"):
                node = root
                for name in path[len(root.path) + 1 :].split(b"/"):
                    node = node.children.get(name)
                    if node is None:
                        return None
                return node
        return None
