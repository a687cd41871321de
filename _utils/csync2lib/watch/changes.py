"""The changed paths of a group, and the debounce: a path that has been quiet for a moment is ready to go out."""

from __future__ import annotations

import collections
import heapq
import itertools
import time

from csync2lib.watch.options import Options

#: A group without a change for CALM seconds is calm. The first changes after a calm are ready once the group has been
#: quiet for CALM_SHARE of the option settle; any other change is ready once its own path has been quiet for all of it.
CALM, CALM_SHARE = 0.5, 0.25
#: Seconds between two looks at a path that csync2 may not have finished: at least, and at most.
COMMIT_POLL = (0.25, 1.0)
#: A path that went out so many times in a row, each within max_delay, is hot.
HOT = 3
#: Changes that become ready in one slice.
READY_AT_ONCE = 2000
#: What a newer change of the same path takes over from one that is put back.
_MERGED = ("tree", "moved", "deleted", "came", "covers", "own", "written", "compare", "told")


class Change:
    """A changed path that waits until it is ready."""

    __slots__ = (
        *("came", "changes", "commits", "compare", "covers", "deleted", "first", "judged", "last"),
        *("moved", "not_before", "own", "path", "queued", "received", "told", "tree", "writing", "written"),
    )

    def __init__(self, changes: Changes, path: bytes, now: float) -> None:
        self.changes = changes
        self.path = path
        self.first = self.last = now
        self.writing = False
        #: written to in place, at any time
        self.written = False
        #: surely not csync2's work, which is to write to a temporary file, rename it, and close it
        self.own = False
        #: came with a directory that was moved here: csync2's record is of another file that was here before
        self.compare = False
        #: an event told of it, not only a walk: it may have changed since the check of the directory above it
        self.told = False
        #: stands for the directory and everything below it
        self.tree = False
        #: a directory that was moved, here or away, so what is in it need not be what csync2 recorded
        self.moved = False
        #: a directory that was deleted, and may have been made again
        self.deleted = False
        #: a directory that was moved here
        self.came = False
        #: something below it was not noted on its own, because this change stands for it
        self.covers = False
        #: a file that was renamed from a name like those of csync2's temporary files
        self.received = False
        #: when it was first found ready (0: never), and how many commits the database had then (-1: not looked at)
        self.judged = 0.0
        self.commits = -1
        self.not_before = 0.0
        #: its time in the heap; an entry of the heap with another time is out of date
        self.queued = 0.0

    def take_in(self, older: Change) -> None:
        """Take over what an older change of the same path had noted."""
        for name in _MERGED:
            setattr(self, name, getattr(self, name) or getattr(older, name))
        self.judged = older.judged


class Changes:
    """The changes of one group: pending (not quiet yet), ready (to be judged), and out (to go into the journal)."""

    def __init__(self) -> None:
        self.pending: dict[bytes, Change] = {}
        self.ready: collections.deque[Change] = collections.deque()
        #: (path, whether it stands for all below it, whether it is to be named even if a tree covers it), and when the
        #: last event of these was read
        self.out: list[tuple[bytes, bool, bool]] = []
        self.heard = 0.0
        #: path -> when it went out last, and how many times in a row
        self.recent: dict[bytes, tuple[float, int]] = {}
        #: when a file was last changed, and until when changes count as the first ones after a calm
        self.changed_at = self.early_until = 0.0
        #: whether the next push is to check the whole group
        self.full_rescan = False

    def clear(self) -> None:
        """Forget all of it."""
        self.pending.clear()
        self.ready.clear()
        self.out.clear()

    def covers(self, path: bytes) -> bool:
        """Tell whether a change that stands for this directory and everything below it is still waiting."""
        while path:
            change = self.pending.get(path)
            if change is not None and change.tree:
                change.covers = True
                change.last = time.monotonic()
                return True
            path = path.rpartition(b"/")[0]
        return False

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


class Debounce:
    """Moves the changes of all groups from pending to ready when they are due, with one heap for all groups."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.heap: list[tuple[float, int, Change]] = []
        self.sequence = itertools.count()

    def note(self, changes: Changes, path: bytes, now: float) -> Change:
        """A path changed: it becomes ready when it has been quiet."""
        change = changes.pending.get(path)
        if change is not None:
            change.last = now
            return change
        if len(changes.pending) + len(changes.ready) + len(changes.out) >= self.options.max_paths:
            changes.clear()
            changes.full_rescan = True
        change = changes.pending[path] = Change(changes, path, now)
        self._queue(change, self._due(change))
        return change

    def file_changed(self, change: Change, written: bool, finished: bool, now: float) -> None:
        """A file was written to, or a change of it is finished; if neither, only its mode, owner or time changed."""
        changes = change.changes
        if now - changes.changed_at > CALM:
            changes.early_until = now + self.options.settle
        changes.changed_at = now
        if written:
            change.writing = True
        elif finished:
            change.writing = False
            due = self._due(change)
            if due < change.queued:
                self._queue(change, due)

    def release(self, now: float) -> None:
        """Move the changes that are due from pending to ready."""
        for _ in range(READY_AT_ONCE):
            if not self.heap or self.heap[0][0] > now:
                return
            queued, _, change = heapq.heappop(self.heap)
            changes = change.changes
            if queued != change.queued or changes.pending.get(change.path) is not change:
                continue
            due = self._due(change)
            if due > now:
                self._queue(change, due)
                continue
            del changes.pending[change.path]
            change.judged = change.judged or now
            changes.ready.append(change)

    def put_back(self, change: Change) -> None:
        """Have a change judged again in a moment. A newer one of the same path, if there is one, takes it over."""
        pending = change.changes.pending
        newer = pending.get(change.path)
        if newer is not None:
            newer.take_in(change)
            return
        now = time.monotonic()
        change.not_before = now + min(max(COMMIT_POLL[0], now - change.judged), COMMIT_POLL[1])
        pending[change.path] = change
        self._queue(change, change.not_before)

    def _queue(self, change: Change, due: float) -> None:
        """Look at a change at this time, instead of any that was set before."""
        change.queued = due
        heapq.heappush(self.heap, (due, next(self.sequence), change))

    def _due(self, change: Change) -> float:
        """When a change is ready, as far as is known now."""
        longest = change.first + self.options.max_delay * (5 if change.writing else 1)
        due = longest if change.writing else min(change.last + self.options.settle, longest)
        changes = change.changes
        if change.own and not change.writing and changes.changed_at < changes.early_until:
            # It is surely not csync2's, and one of the first after a calm of its group.
            due = changes.changed_at + self.options.settle * CALM_SHARE
        last, times = changes.recent.get(change.path, (0.0, 0))
        if times >= HOT:
            due = max(due, last + self.options.max_delay)
        return max(due, change.not_before)
