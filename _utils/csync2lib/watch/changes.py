"""The changed paths of a group on their way to its journal."""

from __future__ import annotations

import collections
import os
import time

from csync2lib.csync2 import temporary

#: A path that went out so many times in a row, each within max_delay, is hot.
HOT = 3
#: What a change that waits leaves to a newer one of the same path.
_MERGED = ("tree", "moved", "deleted", "came", "covers", "own", "written", "compare", "told", "csync2s")


class Change:
    """A changed path that waits until it is ready."""

    __slots__ = (
        "came",
        "changes",
        "commits",
        "compare",
        "covers",
        "csync2s",
        "deleted",
        "first",
        "judged",
        "last",
        "moved",
        "not_before",
        "own",
        "path",
        "queued",
        "received",
        "temporary",
        "told",
        "tree",
        "writing",
        "written",
    )

    def __init__(self, changes: Changes, path: bytes, now: float) -> None:
        self.changes = changes
        self.path = path
        self.first = self.last = now
        self.writing = False
        #: written to in place, at any time
        self.written = False
        #: not csync2's work: csync2 writes to a temporary file, renames it, and closes it
        self.own = False
        #: came with the directory above it, and what csync2 recorded here was another file
        self.compare = False
        #: an event told of it, not only a walk: it may have changed since the check of the directory above it
        self.told = False
        #: the directory and everything below it
        self.tree = False
        #: came, or left its place to another, so its content need not be what csync2 recorded
        self.moved = False
        #: a directory that was deleted, and may have been made again
        self.deleted = False
        #: a directory that was moved here
        self.came = False
        #: something below it was not noted on its own, because this change stands for it
        self.covers = False
        #: a temporary file that was made as only csync2 does; a file that had the name of such a one until now
        self.csync2s = self.received = False
        self.temporary = temporary.is_temporary(os.path.basename(path))
        #: when it was first found ready (0: never), and the number of the database's commit then (-1: not looked at)
        self.judged = 0.0
        self.commits = -1
        self.not_before = 0.0
        #: when the heap brings it up
        self.queued = 0.0

    def take_in(self, older: Change) -> None:
        """Become what an older change of the same path was, too."""
        for name in _MERGED:
            setattr(self, name, getattr(self, name) or getattr(older, name))
        self.judged = older.judged


class Changes:
    """All of them of one group."""

    def __init__(self) -> None:
        self.pending: dict[bytes, Change] = {}
        self.ready: collections.deque[Change] = collections.deque()
        #: (path, whether it stands for all below it, whether it is to be named in any case) of each to be written, and
        #: when the last event of these was read
        self.out: list[tuple[bytes, bool, bool]] = []
        self.heard = 0.0
        #: path -> when it went out last, and how many times in a row
        self.recent: dict[bytes, tuple[float, int]] = {}
        #: when a file was changed last, and until when that is only the beginning after a calm
        self.changed_at = self.early_until = 0.0

    def clear(self) -> None:
        """Forget all of it."""
        self.pending.clear()
        self.ready.clear()
        self.out.clear()

    def put_out(self, change: Change, named: bool, max_delay: float) -> None:
        """Have a change written into the journal."""
        now = time.monotonic()
        last, times = self.recent.get(change.path, (0.0, 0))
        self.recent[change.path] = (now, times + 1 if now - last < max_delay * 1.5 else 0)
        self.out.append((change.path, change.tree, named))
        self.heard = max(self.heard, change.last)

    def hot(self) -> list[bytes]:
        """At most ten paths that keep changing."""
        return sorted([path for path, (_, times) in self.recent.items() if times >= HOT][:10])

    def forget_old(self, before: float) -> None:
        """What has not gone out since then is not hot."""
        self.recent = {path: value for path, value in self.recent.items() if value[0] > before}
