"""The walks through the watched directories, in small steps: they watch what is there, and find what came unheard."""

from __future__ import annotations

import collections
import contextlib
import errno
import logging
import os
import time
from collections.abc import Generator, Iterator
from typing import NamedTuple

from csync2lib import beneath, waits
from csync2lib.watch import inotify
from csync2lib.watch.groups import WatchedGroup
from csync2lib.watch.inotify import Node, Place
from csync2lib.watch.listener import Listener

log = logging.getLogger(__name__)

#: Why a directory is walked: for the first time; it is new below a watched one; it was moved (walked only if its watch
#: is not its own); events were lost; to note every single path in it; to have the files in it compared.
FIRST, NEW, MOVED, AGAIN, NOTE, COMPARE = "first", "new", "moved", "again", "note", "compare"


class Look(NamedTuple):
    """A look at a directory, made before all events had been read that were there already."""

    node: Node
    mode: str
    #: Watches.told() and Walks.renames at the time
    told: int
    renames: int
    #: whether the directory was missing
    missing: bool


class Walks:
    """
    Walks directories in small steps, and forgets directories in the same way, because that takes as many steps.

    A walk sees the disk as it is, and the events that are still to be read tell of the past: where a walk looks for a
    directory, there may be another one by now, or none. If those events tell of a rename, the look is repeated.
    """

    def __init__(self, watches: inotify.Watches, groups: dict[str, WatchedGroup], listener: Listener) -> None:
        self.watches, self.groups, self.listener = watches, groups, listener
        #: cookie -> (Node, when to give it up): the first halves of renames of directories; kept by the tree, as is
        #: how many renames of directories events have told
        self.moving: dict[int, tuple[Node, float]] = {}
        self.renames = 0
        #: to be judged when the events before them are read
        self.looks: collections.deque[Look] = collections.deque()
        #: what could not be looked at while it, or what it is in, was in ``moving``
        self.put_off: list[tuple[Node, str]] = []
        self.chores: collections.deque[Iterator[None]] = collections.deque()
        self.new: collections.deque[tuple[Node, str]] = collections.deque()
        #: the groups' great walks
        self.great: list[tuple[Node, str, WatchedGroup]] = []
        self.scan: Iterator[None] | None = None

    # --- What is to be done

    def walking(self) -> bool:
        """Tell whether there is something to walk."""
        return bool(self.chores or self.new or self.great or self.scan or self._is_look_over())

    def is_busy(self) -> bool:
        """Tell whether something is to be walked, or it is not known yet where it is."""
        return bool(self.walking() or self.moving or self.looks or self.put_off)

    def walk_on(self, deadline: float) -> None:
        """Walk until the deadline: new directories before the great walks."""
        while self.walking():
            self._judge_looks()
            if self.scan is None and (self.chores or self.new or self.great):
                self.scan = self._next_scan()
            for _ in self.scan or ():
                if time.monotonic() >= deadline:
                    return
            self.scan = None
            if time.monotonic() >= deadline:
                return

    def push(self, node: Node, mode: str, group: WatchedGroup) -> None:
        """Make a directory, and what is below it, part of its group's great walk."""
        group.walking += 1
        self.great.append((node, mode, group))

    def take_up(self) -> None:
        """Look at what was put off: what it is in has come to a new place, or is gone."""
        self.new.extend(self.put_off)
        self.put_off = []

    def again(self) -> None:
        """Events were lost: look at every directory again."""
        for group in self.groups.values():
            group.changes.full_rescan = True
            for root in group.roots.values():
                if root is not None:
                    self.push(root, AGAIN, group)

    def watch_unwatched(self, group: WatchedGroup) -> None:
        """Try again what could not be watched; the end of the walk asks for a full rescan."""
        group.rewalk_at = time.monotonic() + waits.REWALK
        nodes, group.unwatched = group.unwatched, set()
        for node in nodes:
            self.push(node, FIRST, group)

    def _next_scan(self) -> Iterator[None]:
        if self.chores:
            return self.chores.popleft()
        return self._scan(*self.new.popleft()) if self.new else self._scan_counted(*self.great.pop())

    def _scan_counted(self, node: Node, mode: str, group: WatchedGroup) -> Iterator[None]:
        """A step of a group's great walk; the last one ends it."""
        try:
            yield from self._scan(node, mode)
        except Exception:  # pylint: disable=broad-except
            log.exception("csyncsync: cannot walk a directory of group %s", group.name)
        group.walking -= 1
        if not group.walking:
            self.listener.walked(group)

    # --- Looks that were ahead of the events

    def _note_look(self, node: Node, mode: str, missing: bool = False) -> None:
        """Note a look at a directory that was ahead of the events, or to which it was missing."""
        told = self.watches.told()
        if not isinstance(node, inotify.Root) and (missing or told > self.watches.taken):
            mode = NEW if mode in (FIRST, AGAIN) else mode
            self.looks.append(Look(node, mode, told, self.renames, missing))

    def _is_look_over(self) -> bool:
        return bool(self.looks) and self.looks[0].told <= self.watches.taken

    def _judge_looks(self) -> None:
        """All events before a look are known: it is repeated if they told of renames, else it was right."""
        while self._is_look_over():
            look = self.looks.popleft()
            if look.renames != self.renames:
                self.new.append((look.node, look.mode))
            elif look.missing:
                self.drop(look.node)

    # --- One directory

    def _scan(self, node: Node, mode: str) -> Generator[None, None, None]:
        """
        Watch a directory, then read it: what is made in between comes as an event, so nothing is missed.
        A generator: the walk can stop at each of its steps.
        """
        place = self._place(node, mode)
        if place is None or node.excluded:
            return
        with contextlib.ExitStack() as opened:
            try:
                handle = opened.enter_context(beneath.directory(place.path))
            except OSError as err:
                missing = err.errno in (errno.ENOENT, errno.ENOTDIR)
                if not missing:
                    self._unwatched(node, place.group, err.errno or errno.EIO)
                self._note_look(node, mode, missing)
            else:
                yield from self._scan_open(node, mode, place, handle)

    def _scan_open(self, node: Node, mode: str, place: Place, handle: int) -> Generator[None, None, None]:
        """The same of a directory that is open."""
        group, before = place.group, node.wd
        problem, displaced = self.watches.add(node, place.path, handle)
        for other in displaced:  # what is known to be in it is in this directory
            self._drop_children(other)
            self.new.append((other, NEW))
        if problem:
            self._unwatched(node, group, problem)
        else:
            group.unwatched.discard(node)
            node.since = time.monotonic() if mode == NEW else 0.0
        if before not in (None, node.wd):
            self._drop_children(node)
        elif mode == MOVED and before is not None:
            self._note_look(node, mode)
            return
        if place.root.only is None:
            yield from self._read(node, NEW if mode == MOVED else mode, handle)

    @staticmethod
    def _unwatched(node: Node, group: WatchedGroup, problem: int) -> None:
        group.unwatched.add(node)
        group.problem = problem
        group.rewalk_at = time.monotonic() + waits.REWALK

    def _place(self, node: Node, mode: str) -> Place | None:
        """Where a directory is that is to be scanned. It is put off if its place may only be unknown yet."""
        place = inotify.locate(node)
        if place is None and self.moving:
            self.put_off.append((node, mode))
        return place

    def _read(self, node: Node, mode: str, handle: int) -> Iterator[None]:
        self._note_look(node, mode)
        before, seen = dict(node.children), set[bytes]()
        with beneath.scan(handle) as entries:
            yield from self._scan_entries(node, mode, entries, seen)
        if mode == AGAIN:
            for name, child in before.items():
                if name not in seen and node.children.get(name) is child:
                    self.drop(child)

    def _scan_entries(
        self, node: Node, mode: str, entries: Iterator[os.DirEntry[str]], seen: set[bytes]
    ) -> Iterator[None]:
        place = inotify.locate(node)
        covered = place is not None and mode == NEW and place.group.changes.covers(place.path)
        try:
            for number, item in enumerate(entries):
                if number % 16 == 0:
                    yield
                    # Meanwhile, the directory may have been moved, or what covers it may have gone out.
                    place = self._place(node, mode)
                    if place is None:
                        return
                    covered = mode == NEW and place.group.changes.covers(place.path)
                assert place is not None
                if item.is_dir(follow_symlinks=False):
                    name = os.fsencode(item.name)
                    seen.add(name)
                    self._scan_child(node, mode, place.group, place.path + b"/" + name, covered)
                elif mode in (NEW, NOTE, COMPARE) and not covered:
                    name = os.fsencode(item.name)
                    path = place.path + b"/" + name
                    if not place.group.excludes.match(path, name):
                        self.listener.found(place.group, path, compare=mode == COMPARE)
        except OSError as err:
            log.debug("csyncsync: cannot read a directory to its end: %s", err.strerror)

    def _scan_child(self, parent: Node, mode: str, group: WatchedGroup, path: bytes, covered: bool) -> None:
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
            self.push(child, mode, group)
        else:
            if not covered and mode != COMPARE:
                self.listener.found(group, path, tree=True)
            self.new.append((child, mode))

    # --- Letting go

    def drop(self, node: Node) -> None:
        """Forget a directory and everything below it."""
        if node.parent is not None and node.parent.children.get(node.name) is node:
            del node.parent.children[node.name]
        node.parent = None
        self.drop_watches(node)

    def drop_watches(self, node: Node) -> None:
        """Give back the watches of a directory and of everything below it, in slices."""
        self._unwatch(node)
        self._drop_children(node)

    def exclude_below(self, top: Node) -> None:
        """Apply the excludes anew to a directory and what is below it, in slices, without reading the disk."""
        self.chores.append(self._exclude_all([top]))

    def _drop_children(self, node: Node) -> None:
        """Forget everything below a directory."""
        children, node.children = list(node.children.values()), {}
        for child in children:
            child.parent = None
        if children:
            self.chores.append(self._unwatch_all(children))

    def _unwatch_all(self, stack: list[Node]) -> Iterator[None]:
        while stack:
            node = stack.pop()
            stack.extend(node.children.values())
            self._unwatch(node)
            yield

    def _unwatch(self, node: Node) -> None:
        for group in self.groups.values():
            group.unwatched.discard(node)
        if node.wd is not None:
            self.watches.disown(node)

    def _exclude_all(self, stack: list[Node]) -> Iterator[None]:
        while stack:
            node = stack.pop()
            place = inotify.locate(node)
            if place is None or place.root.only is not None:
                continue
            excluded = place.group.excludes.match(place.path, os.path.basename(place.path))
            if excluded and not node.excluded:
                self.drop_watches(node)
            elif node.excluded and not excluded:
                node.excluded = False
                self.push(node, FIRST, place.group)
            else:
                stack.extend(node.children.values())
            node.excluded = excluded
            yield
