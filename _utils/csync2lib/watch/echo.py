"""
The echo filter: tells what csync2 itself wrote on this host from what somebody else did.

By two signs: how it was done (csync2 writes a temporary file and renames it), seen here; and what csync2 has recorded,
which ``verdict`` compares.
"""

from __future__ import annotations

from csync2lib.csync2.unfinished import is_temporary
from csync2lib.watch.changes import Change
from csync2lib.watch.inotify import IN_CLOSE_WRITE, IN_CREATE, IN_MODIFY, IN_MOVED_FROM, IN_MOVED_TO

#: Seconds between csync2's rename of a file and its last write to it.
LANDING_WAIT = 2.0


class Filter:
    """What is known of csync2's work on this host, for all groups."""

    def __init__(self) -> None:
        #: cookie -> when: the first halves of renames of files with names like csync2's temporary files
        self.renaming: dict[int, float] = {}
        #: path -> when: files that were renamed from such a name, and not closed since; those that were closed, and
        #: whose rename nobody can have seen
        self.landing: dict[bytes, float] = {}
        self.landed: dict[bytes, float] = {}

    def came_from_temporary(self, mask: int, cookie: int, name: bytes, now: float) -> bool:
        """Given an event of any file, tell whether it renames a file that was named like csync2's temporary files."""
        if mask & IN_MOVED_FROM and is_temporary(name):
            self.renaming[cookie] = now
        return bool(mask & IN_MOVED_TO) and self.renaming.pop(cookie, None) is not None

    def see(self, change: Change, mask: int, renamed: bool, now: float, since: float) -> None:
        """
        Given an event of a path, note in its change what csync2 would not have done. ``since`` is when the directory
        was first watched (0: it is not new).
        """
        writing = mask & (IN_MODIFY | IN_CLOSE_WRITE)
        if writing and not change.own and now - since < LANDING_WAIT and change.path not in self.landed:
            self.landing.setdefault(change.path, now)  # its rename may have come before there was a watch
        if renamed:
            self.landing[change.path] = now
            change.received, change.own = True, False  # a link that csync2 made here before looked like a user's file
        elif writing and change.path in self.landing:
            # rsync.c, csync_rs_patch(): the file gets its name before its buffers are written and it is closed.
            if mask & IN_CLOSE_WRITE:
                self.landed[change.path] = self.landing.pop(change.path)
        elif mask & (IN_MODIFY | IN_CLOSE_WRITE | IN_CREATE | IN_MOVED_TO):
            change.own = True
            change.written = change.written or bool(mask & IN_MODIFY)

    def forget_old(self, now: float) -> None:
        """What began too long ago will not go on."""
        self.renaming = {cookie: when for cookie, when in self.renaming.items() if now - when < LANDING_WAIT}
        self.landing = {path: when for path, when in self.landing.items() if now - when < LANDING_WAIT}
        self.landed = {path: when for path, when in self.landed.items() if now - when < LANDING_WAIT}
