"""
The echo filter: tells what csync2 itself wrote on this host from what somebody else did.

By two signs: how it was done (csync2 writes a temporary file and renames it), seen here; and what csync2 has recorded,
which ``verdict`` compares.
"""

from __future__ import annotations

import time

from csync2lib.csync2 import connections, temporary
from csync2lib.watch.changes import Change
from csync2lib.watch.inotify import (
    IN_ATTRIB,
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_DELETE,
    IN_MODIFY,
    IN_MOVED_FROM,
    IN_MOVED_TO,
)

#: Seconds between csync2's rename of a file and its last write to it.
LANDING_WAIT = 2.0
#: Seconds from one temporary file for a path to the next one.
NEXT_WAIT = 120.0


class Filter:
    """What is known of csync2's work on this host, for all groups."""

    def __init__(self) -> None:
        #: cookie -> when: the first halves of renames of files with names like csync2's temporary files
        self.renaming: dict[int, float] = {}
        #: path -> when: files that were renamed from such a name, and not closed since; those that were closed, and
        #: whose rename nobody can have seen
        self.landing: dict[bytes, float] = {}
        self.landed: dict[bytes, float] = {}
        #: path -> when: temporary files that were made, and nothing else since
        self.made: dict[bytes, float] = {}
        #: path of a temporary file without its suffix -> when such a file was unlinked with nothing written to it
        self.unlinked: dict[bytes, float] = {}
        self.receiving, self.receiving_at = False, 0.0

    def came_from_temporary(self, mask: int, cookie: int, name: bytes, now: float) -> bool:
        """Given an event of any file, tell whether it renames a file that was named like csync2's temporary files."""
        if mask & IN_MOVED_FROM and temporary.is_temporary(name):
            self.renaming[cookie] = now
        return bool(mask & IN_MOVED_TO) and self.renaming.pop(cookie, None) is not None

    def see(self, change: Change, mask: int, renamed: bool, now: float, since: float) -> None:
        """
        Given an event of a path, note in its change what csync2 would not have done. ``since`` is when the directory
        was first watched (0: it is not new).
        """
        if change.temporary:
            self._see_temporary(change, mask, now)
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

    def _see_temporary(self, change: Change, mask: int, now: float) -> None:
        """
        Note in its change a temporary file that only csync2 can have made.

        It makes at least one other for a path before the one that it may leave, and unlinks that as soon as it is open
        (rsync.c, csync_rs_patch()). Whoever else makes temporary files closes them first, or renames them.
        """
        path, stem = change.path, change.path.rpartition(b".")[0]
        if mask & IN_CREATE:
            self.made[path] = now
            change.csync2s = change.csync2s or stem in self.unlinked
        elif not mask & IN_ATTRIB and self.made.pop(path, None) is not None and mask & IN_DELETE:
            self.unlinked[stem] = now
        elif mask & IN_MOVED_FROM:
            self.unlinked.pop(stem, None)

    def forget_old(self, now: float) -> None:
        """What began too long ago will not go on."""
        self.made = {path: when for path, when in self.made.items() if now - when < LANDING_WAIT}
        self.unlinked = {stem: when for stem, when in self.unlinked.items() if now - when < NEXT_WAIT}
        self.renaming = {cookie: when for cookie, when in self.renaming.items() if now - when < LANDING_WAIT}
        self.landing = {path: when for path, when in self.landing.items() if now - when < LANDING_WAIT}
        self.landed = {path: when for path, when in self.landed.items() if now - when < LANDING_WAIT}

    def is_receiving(self, quiet: float) -> bool:
        """Tell whether a peer's csync2 is connected; looked up again at least once in this time."""
        now = time.monotonic()
        if now - self.receiving_at > min(0.05, quiet / 2):
            self.receiving_at, self.receiving = now, connections.is_connected()
        return self.receiving
