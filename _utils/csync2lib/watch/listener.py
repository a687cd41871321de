"""From what the tree tells (events, and what a walk came to) to changes in the debounce."""

from __future__ import annotations

import time
from collections.abc import Callable

from csync2lib.backups import make_room, make_way
from csync2lib.watch import inotify
from csync2lib.watch.changes import Debounce
from csync2lib.watch.echo import Filter
from csync2lib.watch.groups import WatchedGroup
from csync2lib.watch.inotify import Place


class Listener:
    """Notes what the tree tells; ``walked`` is called with a group at the end of its great walk."""

    def __init__(self, debounce: Debounce, echo: Filter, walked: Callable[[WatchedGroup], None]) -> None:
        self.debounce, self.echo, self.walked = debounce, echo, walked

    def file_event(self, place: Place, mask: int, cookie: int, name: bytes, now: float, since: float) -> None:
        """Something happened to a file (or link, socket …) in a watched directory, which is new since then."""
        renamed = self.echo.came_from_temporary(mask, cookie, name, now)
        root, group, directory = place
        if root.only is not None and root.only != name:
            return
        path = root.path if root.only else directory + b"/" + name
        if path not in group.changes.pending and group.excludes.match(path, name):
            return
        # Also what came and went at once is judged: a check of the directory may have seen, and sent, it in between.
        change = self.debounce.note(group.changes, path, now)
        change.told = True
        self.echo.see(change, mask, renamed, now, since)
        if group.config.backups and (renamed or mask & inotify.IN_DELETE):
            make_room(group.config.backups, path, group.config.generations)
        written = bool(mask & inotify.IN_MODIFY)
        self.debounce.file_changed(change, written, not mask & inotify.IN_ATTRIB, now)

    def directory_event(self, group: WatchedGroup, path: bytes, mask: int, now: float) -> None:
        """Something happened to a directory."""
        change = self.debounce.note(group.changes, path, now)
        change.told = True
        if not mask & inotify.IN_ATTRIB:
            change.tree = True
            change.moved = change.moved or bool(mask & (inotify.IN_MOVED_FROM | inotify.IN_MOVED_TO))
            change.deleted = change.deleted or bool(mask & inotify.IN_DELETE)
            change.came = change.came or bool(mask & inotify.IN_MOVED_TO)
            if group.config.backups:
                make_way(group.config.backups, path)

    def found(self, group: WatchedGroup, path: bytes, tree: bool = False, compare: bool = False) -> None:
        """A walk came to a path that may have changed before anybody could hear of it."""
        change = self.debounce.note(group.changes, path, time.monotonic())
        change.tree = change.tree or tree
        change.compare = change.compare or compare
