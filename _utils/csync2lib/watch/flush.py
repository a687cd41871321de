"""From changes that go out to lines in a group's journal, and the push that is asked for."""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import time
from collections.abc import Callable

from csync2lib import journal
from csync2lib.watch.aside import Aside
from csync2lib.watch.groups import WatchedGroup, signs
from csync2lib.watch.notify import Notifier
from csync2lib.watch.options import Options

log = logging.getLogger(__name__)

#: Seconds between looks whether a push has taken the journal, while more has been written into it.
ASK_AGAIN = 0.2
#: Seconds until a journal that could not be written is written again.
FLUSH_AGAIN = 1.0
#: Seconds that systemctl may take.
SYSTEMCTL = 5.0


class Flusher:
    """Writes the journals of all groups, and asks for pushes."""

    def __init__(self, options: Options, aside: Aside, notifier: Notifier) -> None:
        self.options, self.aside, self.notifier = options, aside, notifier
        self.sequence = itertools.count()

    def due(self, group: WatchedGroup) -> list[tuple[float, Callable[[WatchedGroup], None]]]:
        """What there is to do for a group, and when: to flush it; to ask for a push."""
        if group.flushes.running is not None or group.gone:
            return []
        found: list[tuple[float, Callable[[WatchedGroup], None]]] = []
        flushes = group.flushes
        if group.changes.out or group.changes.full_rescan:  # once in settle; a full rescan alone once in max_delay
            alone = 0.0 if group.changes.out else flushes.last_rescan + self.options.max_delay
            found.append((max(flushes.last + self.options.settle, alone), self._flush))
        if group.flushes.unasked:
            found.append((group.flushes.ask_at, self._ask_aside))
        return found

    def work(self, group: WatchedGroup) -> None:
        """Do what is due."""
        for when, do in self.due(group):
            if when <= time.monotonic():
                do(group)
                return

    def close(self, group: WatchedGroup) -> None:
        """Write down all that waits, unjudged; if that cannot be done, the group still needs a full rescan."""
        changes, running = group.changes, group.flushes.running
        if running is not None:
            running.join(5)
        unjudged = (*changes.pending.values(), *changes.ready)
        changes.out += [(change.path, change.tree, not change.tree) for change in unjudged]
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

    def push_alone(self, group: WatchedGroup, oldest: float | None) -> None:
        """No master answers: start the push of what was noted then (None: not in the journal) here; may block."""
        reminders = group.reminders
        if not reminders.alone:
            log.info("csyncsync: no push of group %s has been asked for; starting it here", group.name)
            reminders.alone, reminders.heard = True, signs(group.directory)
        reminders.note_tried(oldest, group.directory)
        self.start_push(group)

    def start_push(self, group: WatchedGroup) -> None:
        """Start a push here. Blocks for some milliseconds."""
        command = ["systemctl", "start", "--no-block", f"csyncsync-push@{group.name}.service"]
        try:
            subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=SYSTEMCTL)
        except (OSError, subprocess.SubprocessError) as err:
            log.error("csyncsync: cannot start the push of group %s: %s", group.name, err)

    # --- The journal

    def _take(self, group: WatchedGroup) -> tuple[list[bytes], bool, int]:
        """What the next flush writes: lines, whether for a full rescan, when its last event was read (see journal)."""
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
        oldest = next((name for name in journal.names(group.journal) if name.endswith(".paths")), None)
        count, flushes.unasked, flushes.asked = flushes.unasked, 0, oldest
        if count or full_rescan:
            self._fire(group, count, full_rescan)
            if group.reminders.is_alone(group.directory) and not group.is_pushing():  # else the reminder does it
                self.push_alone(group, journal.oldest(group.journal)[0])
