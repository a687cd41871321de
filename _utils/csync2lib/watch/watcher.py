"""
The watcher: what changes in the groups' directories goes into their journals, and a push is asked for.

It is a process of its own (``service``), and does its work in small slices:

1. The tree reads the kernel's events, and the listener notes each changed path (``tree``, ``listener``).
2. A path that has been quiet for a moment is ready (``changes``).
3. What csync2 itself has written is left out (``echo``, ``verdict``).
4. The rest is written into the group's journal, and one event asks the master for a push (``flush``, ``notify``).

Once a second it looks at the groups' configs, include roots and journals, and at what is left to push (``groups``,
``reminder``, ``status``).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from csync2lib import journal, storage, waits
from csync2lib.csync2.excludes import Excludes
from csync2lib.watch import copies, groups, status, verdict
from csync2lib.watch.aside import Aside
from csync2lib.watch.changes import Change, Debounce
from csync2lib.watch.echo import Filter
from csync2lib.watch.flush import Flusher
from csync2lib.watch.groups import WatchedGroup
from csync2lib.watch.inotify import Watches
from csync2lib.watch.listener import Listener
from csync2lib.watch.notify import Notifier
from csync2lib.watch.options import Options
from csync2lib.watch.reminder import remind
from csync2lib.watch.tree import Tree
from csync2lib.watch.walk import COMPARE, NOTE

log = logging.getLogger(__name__)

#: Seconds of work in one callback of the event loop, so that events are read in between.
SLICE = 0.015
#: While much happens: seconds between two readings of events, and between two looks at what is ready. Many at once
#: cost a fraction of what they cost one by one.
READ_PACE, WORK_PACE = 0.01, 0.05
#: Seconds between looks at configs, include roots and journals.
HOUSEKEEPING = 1.0
#: Paths judged with one opening of csync2's database.
BATCH = 200
#: Seconds of walking and judging that are finished before the watcher is closed.
FINISH_WITHIN = 2.0


class Watcher:
    """Watches all groups of a directory with one inotify descriptor, in slices, on the running event loop."""

    def __init__(self, state_dir: str, options: Options, notifier: Notifier) -> None:
        self.state_dir, self.options = state_dir, options
        self.closed = False
        self.groups: dict[str, WatchedGroup] = {}
        self.watches = Watches()
        self.echo = Filter()
        self.debounce = Debounce(options)
        self.tree = Tree(self.watches, self.groups, Listener(self.debounce, self.echo, self._walked))
        self.aside = Aside(self._arm)
        self.flusher = Flusher(options, self.aside, notifier)
        self.metrics = status.Metrics(state_dir, self.aside)
        self.timer: asyncio.TimerHandle | None = None
        self.house_timer: asyncio.TimerHandle | None = None
        self.timer_at = self.read_at = self.worked_at = 0.0

    def start(self) -> None:
        """Begin to watch, or go on with what was kept (see ``handover``)."""
        self.loop = asyncio.get_running_loop()
        if self.watches.fd < 0:
            self.watches.open()
        self._listen()
        self._housekeep_again()

    def close(self) -> None:
        """Write all waiting changes into the journals, what is not judged by then unjudged; keep the descriptor."""
        if self.closed:
            return
        end = time.monotonic() + FINISH_WITHIN
        while (self._read() or self._is_busy()) and time.monotonic() < end:
            self._guarded(self._work, time.monotonic() + SLICE)
            time.sleep(READ_PACE)
        self.closed = True
        for timer in (self.timer, self.house_timer):
            if timer is not None:
                timer.cancel()
        if self.watches.fd >= 0:
            self.loop.remove_reader(self.watches.fd)
        for group in self.groups.values():
            self.flusher.close(group)

    def _is_busy(self) -> bool:
        """Tell whether something is to be walked, or waits to be judged."""
        waiting = any(group.changes.pending or group.changes.ready for group in self.groups.values())
        return waiting or self.tree.walks.is_busy()

    # --- The event loop

    def _housekeep_again(self) -> None:
        if self.closed:
            return
        self._guarded(self._housekeep)
        self.house_timer = self.loop.call_later(HOUSEKEEPING, self._housekeep_again)
        self._arm()

    def _listen(self) -> None:
        """Have the loop say when there are events."""
        if self.watches.fd >= 0 and not self.closed:
            self.loop.add_reader(self.watches.fd, self._readable)

    def _readable(self) -> None:
        """The loop says that there are events."""
        if self.closed:
            return
        self._read()
        self._arm()
        before, self.read_at = self.read_at, time.monotonic()
        if self.read_at - before < READ_PACE and self.watches.fd >= 0:
            self.loop.remove_reader(self.watches.fd)
            self.loop.call_later(READ_PACE, self._listen)

    def _read(self) -> bool:
        """Read and handle one buffer of events. Returns True if there may be more."""
        buffer = self.watches.read()
        if not buffer:
            return False
        self._guarded(self.tree.handle, buffer)
        return True

    def _run(self) -> None:
        """The loop says that something is due."""
        self.timer = None
        if self.closed:
            return
        self.worked_at = time.monotonic()
        more = self._guarded(self._work, self.worked_at + SLICE)
        if more or any(group.changes.early_until > self.worked_at for group in self.groups.values()):
            self.worked_at = 0.0
        self._arm()

    def _arm(self) -> None:
        """Set the timer to when there is something to do next, unless it goes off earlier anyway."""
        if self.closed:
            return
        due = self._next_due()
        if due is None:
            return
        due = max(due, self.worked_at + WORK_PACE)
        if self.timer is not None:
            if self.timer_at <= due:
                return
            self.timer.cancel()
        self.timer_at = due
        # Never at once: the loop's other callbacks come in between.
        self.timer = self.loop.call_later(max(0.002, due - time.monotonic()), self._run)

    def _next_due(self) -> float | None:
        """When there is something to do next (None: nothing)."""
        if self.tree.walks.walking() or any(group.changes.ready for group in self.groups.values()):
            return time.monotonic()
        due = [self.debounce.heap[0][0]] if self.debounce.heap else []
        due += [end for _, end in self.tree.walks.moving.values()]
        for group in self.groups.values():
            due += [when for when, _ in self.flusher.due(group)]
        return min(due) if due else None

    def _guarded(self, work: Callable[..., Any], *args: object) -> Any:
        """Do some work. An unforeseen error must not end the watching: log it, and ask for full rescans."""
        try:
            return work(*args)
        except Exception:  # pylint: disable=broad-except
            log.exception("csyncsync: the watcher failed at something; the groups will be checked as a whole")
            for group in self.groups.values():
                group.changes.full_rescan = True
            return None

    # --- A slice of work

    def _work(self, deadline: float) -> bool:
        """One slice of everything that is due. Returns True if there is more."""
        now = time.monotonic()
        self.tree.end_moves(now)
        self.tree.walks.walk_on(deadline)
        self.debounce.release(now)
        deadline = time.monotonic() + SLICE
        for group in tuple(self.groups.values()):
            self._judge_batch(group, deadline)
            self.flusher.work(group)
        return self.tree.walks.walking() or any(group.changes.ready for group in self.groups.values())

    def _judge_batch(self, group: WatchedGroup, deadline: float) -> None:
        """Decide about the ready paths of a group, with csync2's database opened once, until the deadline."""
        ready = group.changes.ready
        if not ready:
            return
        paths = [change.path for change in itertools.islice(ready, BATCH)]
        with verdict.Judge(group, paths) as judge:
            for number in range(len(paths)):
                if not ready or (number % 16 == 15 and time.monotonic() >= deadline):
                    break
                change = ready.popleft()
                self._carry_out(group, change, judge.verdict(change))

    def _carry_out(self, group: WatchedGroup, change: Change, what: str) -> None:
        if what == verdict.WAIT:
            self.debounce.put_back(change)
        elif what == verdict.DROP:
            if change.tree and change.covers:
                self.tree.walk_below(group, change.path, NOTE)
        else:
            if change.tree and change.came:
                self.tree.walk_below(group, change.path, COMPARE)
            group.changes.put_out(change, what == verdict.GO_NAMED, self.options.max_delay)

    # --- Once a second

    def _housekeep(self) -> None:
        """Look at configs, include roots and what is left to push, and write the status."""
        if self.options.read(self.state_dir):
            for group in self.groups.values():  # perhaps no minion could hear before
                group.flushes.last_fired = 0.0
        now = time.monotonic()
        if self.watches.fd < 0 and any(now >= group.rewalk_at for group in self.groups.values()):
            self.watches.open()
            self._listen()
        self._read_configs()
        for group in tuple(self.groups.values()):
            for path in group.config.include:
                self.tree.check_root(group, path)
            if group.unwatched and not group.walking:
                if not group.error_told:
                    self._tell_unwatched(group)
                if now >= group.rewalk_at:
                    self.tree.walks.watch_unwatched(group)
            if group.is_database_new():
                group.changes.full_rescan = True
            if group.doubted and not group.is_pushing() and group.lost_its_database():  # no master is needed for that
                log.error("csyncsync: csync2's database of group %s was lost", group.name)
                group.doubted, group.changes.full_rescan = False, True
                self.aside.run(functools.partial(self.flusher.start_push, group), lambda err: None)
            group.changes.forget_old(now - 3 * self.options.max_delay)
            if group.linked and now - group.flushes.last_rescan >= waits.LINKED_INTERVAL:
                group.linked, group.changes.full_rescan = False, True
            remind(self.flusher, group, now)
            status.write_status(group, self.watches)
            status.note_watched(group, now)
            copies.keep(self.aside, group, now)
        self.metrics.write([*self.groups.values()], self.options.id, now)
        self.echo.forget_old(now)

    def _read_configs(self) -> None:
        """Read configs that are new or have changed, and stop watching groups that have none any more."""
        found = groups.find(self.state_dir)
        if found is None:
            return
        for name in [name for name in self.groups if name not in found]:
            group = self.groups.pop(name)  # its directory is left alone
            group.gone = True
            for path in list(group.roots):
                self.tree.remove_root(group, path)
            group.changes.clear()
        for name, signature in found.items():
            if name not in self.groups:
                group = self.groups[name] = WatchedGroup(name, os.path.join(self.state_dir, name))
                status.write_status(group, self.watches, force=True)
            group = self.groups[name]
            if group.signature != signature:
                group.signature = signature
                self._configure(group)

    def _configure(self, group: WatchedGroup) -> None:
        """Read a group's config and watch the differences."""
        excluded = group.config.exclude
        if not group.read_config():
            return
        databases = [os.path.dirname(group.config.database)] if group.config.database else []
        for directory in (group.directory, group.journal, *databases):
            storage.sweep(directory)
        include = group.config.include
        for gone in [path for path in group.roots if path not in include]:
            self.tree.remove_root(group, gone)
        if group.config.exclude != excluded:
            group.excludes = Excludes(group.config.exclude)
            for root in filter(None, group.roots.values()):
                self.tree.walks.exclude_below(root)
            group.changes.full_rescan = group.changes.full_rescan or group.walked
        for path in include:
            self.tree.check_root(group, path)
        if not group.walking and not group.walked:
            self._walked(group)  # nothing is there to be watched yet

    # --- What is watched

    def _walked(self, group: WatchedGroup) -> None:
        """All of a group is watched from now on; a full rescan finds what happened before."""
        if group.gone:
            return
        if not group.walked:
            with contextlib.suppress(OSError):  # before this watcher leaves its first sign
                journal.note_unwatched(group.directory)
        group.changes.full_rescan = True
        group.walked = True
        group.walks += 1
        self._tell_unwatched(group)
        status.write_status(group, self.watches, force=True)

    def _tell_unwatched(self, group: WatchedGroup) -> None:
        """Say once, where it can be seen, that not everything could be watched."""
        if not group.unwatched:
            group.error, group.error_told = None, False
            return
        group.error = self.tree.unwatched_text(group)
        if not group.error_told:
            group.error_told = True
            log.error("csyncsync: %s", group.error)
            self.flusher.fire(group, 0, True, group.error)
