"""From changes that go out to lines in a group's journal, and the push that is asked for."""

from __future__ import annotations

import itertools
import logging
import os
import time

from csync2lib import journal
from csync2lib.watch.aside import Aside
from csync2lib.watch.groups import WatchedGroup
from csync2lib.watch.notify import Notifier
from csync2lib.watch.options import Options

log = logging.getLogger(__name__)

#: Seconds between looks whether a push has taken the journal, while more has been written into it.
ASK_AGAIN = 0.2
#: Seconds until a journal that could not be written is written again.
FLUSH_AGAIN = 1.0


class Flusher:
    """Writes the journals of all groups, and asks for pushes."""

    def __init__(self, options: Options, aside: Aside, notifier: Notifier) -> None:
        self.options, self.aside, self.notifier = options, aside, notifier
        self.sequence = itertools.count()

    def due(self, group: WatchedGroup) -> list[float]:
        """When there is something to do for a group."""
        due = [self._flush_due(group)] if self._is_to_flush(group) else []
        return [*due, group.flushes.ask_at] if self._is_to_ask(group) else due

    def work(self, group: WatchedGroup) -> None:
        """Do what is due."""
        if self._is_to_flush(group) and self._flush_due(group) <= time.monotonic():
            self._flush(group)
        elif self._is_to_ask(group) and group.flushes.ask_at <= time.monotonic():
            self._ask_aside(group)

    def close(self, group: WatchedGroup) -> None:
        """Write down all that waits, unjudged; if that cannot be done, the group still needs a full rescan."""
        changes, running = group.changes, group.flushes.running
        if running is not None:
            running.join(5)
        changes.out += [(change.path, change.tree, False) for change in (*changes.pending.values(), *changes.ready)]
        lines, full_rescan, _ = self._take(group)
        group.flushes.unasked += len(lines)
        changes.full_rescan = running is not None and running.is_alive()
        if lines or full_rescan:
            try:
                journal.write(group.journal, lines, full_rescan, next(self.sequence))
            except OSError as err:
                changes.full_rescan = True
                log.error("csyncsync: cannot write the journal of group %s: %s", group.name, err)

    def fire(self, group: WatchedGroup, count: int, full_rescan: bool, error: str | None = None) -> None:
        """Fire an event alone."""
        self.aside.run(lambda: self._fire(group, count, full_rescan, error), lambda err: None)

    def _fire(self, group: WatchedGroup, count: int, full_rescan: bool, error: str | None = None) -> None:
        """Fire an event; the reminder soon repeats one that no minion has taken."""
        group.flushes.last_fired = time.monotonic()
        if not self.notifier.fire(group.name, count, full_rescan, error):
            group.flushes.last_fired = 0.0

    # --- The journal

    def _is_to_flush(self, group: WatchedGroup) -> bool:
        return bool(group.changes.out or group.changes.full_rescan) and group.flushes.running is None and not group.gone

    def _flush_due(self, group: WatchedGroup) -> float:
        """When a group may be flushed: once in the option settle, a full rescan alone once per max_delay."""
        due = group.flushes.last + self.options.settle
        return due if group.changes.out else max(due, group.flushes.last_rescan + self.options.max_delay)

    def _take(self, group: WatchedGroup) -> tuple[list[bytes], bool, int]:
        """
        What the next flush writes: (lines, whether for a full rescan, when the last event of it was read, in ns since
        the epoch).
        """
        changes = group.changes
        heard = time.time_ns() - int((time.monotonic() - changes.heard) * 10**9)
        out, changes.out, changes.heard = changes.out, [], 0.0
        lines, full_rescan = journal.lines(out), group.changes.full_rescan
        group.changes.full_rescan = False
        if len(lines) > self.options.max_paths:
            lines, full_rescan = [], True
        return lines, full_rescan, heard

    def _flush(self, group: WatchedGroup) -> None:
        """Write what is ready into the group's journal, then fire the event."""
        flushes = group.flushes
        lines, full_rescan, heard = self._take(group)
        now = time.monotonic()
        flushes.last, group.changes.early_until = now, 0.0
        flushes.last_rescan = now if full_rescan else flushes.last_rescan
        number = next(self.sequence)
        flushes.unasked += len(lines)

        def work() -> None:
            try:
                journal.write(group.journal, lines, full_rescan, number, heard)
            except OSError:
                group.changes.full_rescan = True
                raise
            self._ask(group, full_rescan)

        def done(err: Exception | None) -> None:
            flushes.running = None
            if err is not None and not group.gone:
                log.error("csyncsync: cannot write the journal of group %s: %s", group.name, err)
                flushes.last = flushes.last_rescan = time.monotonic() + FLUSH_AGAIN

        flushes.running = self.aside.run(work, done)

    # --- Asking for a push

    def _is_to_ask(self, group: WatchedGroup) -> bool:
        return bool(group.flushes.unasked) and group.flushes.running is None and not group.gone

    def _is_asked(self, group: WatchedGroup) -> bool:
        """Tell whether the journal is as old as when a push was asked for: that push will take all of it."""
        asked = group.flushes.asked
        return asked is not None and os.path.exists(os.path.join(group.journal, asked))

    def _ask_aside(self, group: WatchedGroup) -> None:
        """Ask for a push of what was written while the one before was taking the journal, or look again later."""
        group.flushes.ask_at = time.monotonic() + ASK_AGAIN
        if self._is_asked(group):
            return

        def done(_: Exception | None) -> None:
            group.flushes.running = None

        group.flushes.running = self.aside.run(lambda: self._ask(group), done)

    def _ask(self, group: WatchedGroup, full_rescan: bool = False) -> None:
        """Ask for a push, unless that was done already."""
        flushes = group.flushes
        flushes.ask_at = time.monotonic() + ASK_AGAIN
        if self._is_asked(group) and not full_rescan:
            return
        count, flushes.unasked, flushes.asked = flushes.unasked, 0, journal.first(group.journal)
        if count or full_rescan:
            self._fire(group, count, full_rescan)
