"""The debounce: a changed path that has been quiet for a moment is ready to be judged."""

from __future__ import annotations

import heapq
import itertools
import time

from csync2lib.watch.changes import HOT, Change
from csync2lib.watch.groups import WatchedGroup
from csync2lib.watch.options import Options

#: After so many seconds without a change in a group, the next ones go out when it has been quiet for this share of
#: the option settle; of what follows them soon, or goes on for longer than that, each path waits on its own.
CALM, CALM_SHARE = 0.5, 0.25
#: Seconds that csync2 may keep one of its temporary files untouched.
TEMPORARY_QUIET = 2.0
#: Seconds between two looks at a path that csync2 may not have finished: at first, and at last.
COMMIT_POLL = (0.25, 1.0)
#: Changes that become ready in one slice.
READY_AT_ONCE = 2000


class Debounce:
    """Brings the changes of all groups up when they are due."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.heap: list[tuple[float, int, Change]] = []
        self.sequence = itertools.count()

    def note(self, group: WatchedGroup, path: bytes, now: float) -> Change:
        """A path changed: it becomes ready when it has been quiet."""
        changes = group.changes
        change = changes.pending.get(path)
        if change is not None:
            change.last = now
            return change
        if len(changes.pending) + len(changes.ready) + len(changes.out) >= self.options.max_paths:
            changes.clear()
            group.full_rescan = True
        change = changes.pending[path] = Change(changes, path, now)
        self._queue(change, self._due(change))
        return change

    def file_changed(self, change: Change, written: bool, finished: bool, now: float) -> None:
        """A file was written to, or a change of it is finished; or neither: its mode, owner or time has changed."""
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

    def covers(self, group: WatchedGroup, path: bytes) -> bool:
        """Tell whether a change that stands for this directory and everything below it is still waiting."""
        while path:
            change = group.changes.pending.get(path)
            if change is not None and change.tree:
                change.covers = True
                change.last = time.monotonic()
                return True
            path = path.rpartition(b"/")[0]
        return False

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
        """Bring a change up again in a moment; a newer one of the same path takes this one in."""
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
        """Look at a change at this time, and not when it was to be looked at before."""
        change.queued = due
        heapq.heappush(self.heap, (due, next(self.sequence), change))

    def _due(self, change: Change) -> float:
        """When a change is ready, as far as is known now."""
        longest = change.first + self.options.max_delay * (5 if change.writing or change.temporary else 1)
        quiet = max(self.options.settle, TEMPORARY_QUIET) if change.temporary else self.options.settle
        due = longest if change.writing else min(change.last + quiet, longest)
        if _is_early(change):
            due = change.changes.changed_at + self.options.settle * CALM_SHARE
        last, times = change.changes.recent.get(change.path, (0.0, 0))
        if times >= HOT:
            due = max(due, last + self.options.max_delay)
        return max(due, change.not_before)


def _is_early(change: Change) -> bool:
    """Tell whether a file was just changed, and surely not by csync2, in a group that was calm until then."""
    changes = change.changes
    return change.own and not change.writing and not change.temporary and changes.changed_at < changes.early_until
