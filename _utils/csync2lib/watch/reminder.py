"""While something is left to push: the event again and again, and at last a push without the master."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import time

from csync2lib import journal, waits
from csync2lib.watch.flush import Flusher
from csync2lib.watch.groups import WatchedGroup
from csync2lib.watch.options import Options

log = logging.getLogger(__name__)

#: How often the time between two events of a group doubles.
MOST_REPEATS = 10


class Reminder:
    """Looks at what is left of all groups."""

    def __init__(self, options: Options, flusher: Flusher) -> None:
        self.options, self.flusher = options, flusher

    def remind(self, group: WatchedGroup, now: float) -> None:
        """While something is left, fire the event again and again, more and more slowly."""
        reminders = group.reminders
        oldest, full_rescan = journal.oldest(group.journal)
        left = journal.mtime(os.path.join(group.directory, "left"))
        if oldest is None and left is None:
            reminders.repeats = 0
            return
        if group.flushes.running is not None:
            return
        if now - group.flushes.last_fired >= min(self.options.retry * 2**reminders.repeats, waits.RETRY_CAP):
            reminders.repeats = min(reminders.repeats + 1, MOST_REPEATS)
            self.flusher.fire(group, 0, full_rescan)
        late = _is_master_late(group, oldest, left)
        if late and now >= reminders.push_at and not group.is_pushing():
            reminders.push_at = now + random.uniform(*waits.ALONE_INTERVAL)
            self._push(group)

    def _push(self, group: WatchedGroup) -> None:
        """No master answers: start the push here."""
        log.info("csyncsync: no push of group %s has been asked for; starting it here", group.name)
        command = ["systemctl", "start", "--no-block", f"csyncsync-push@{group.name}.service"]

        def done(err: Exception | None) -> None:
            if err:
                log.error("csyncsync: cannot start the push of group %s: %s", group.name, err)

        self.flusher.aside.run(lambda: subprocess.run(command, stdin=subprocess.DEVNULL, check=True), done)


def _is_master_late(group: WatchedGroup, oldest: float | None, left: float | None) -> bool:
    """
    Tell whether no master is expected to answer any more, given since when the journal, and what a push has left, wait.

    Not while the master lets this host wait for another one (of what came later it has not heard), nor when the host's
    own long push has only just ended.
    """
    patience = group.reminders.patience
    if not _is_older(oldest, patience) and not _is_older(left, waits.LEFT_ALONE_AFTER):
        return False
    for name, seconds in (("waits", waits.LEFT_ALONE_AFTER), ("push.json", patience)):
        told = journal.mtime(os.path.join(group.directory, name))
        unheard = name == "waits" and told is not None and oldest is not None and told < oldest
        if told is not None and not unheard and not _is_older(told, seconds):
            return False
    return True


def _is_older(when: float | None, seconds: float) -> bool:
    """Tell whether this was longer ago (None: it never was). A time in the future says that the clock was set back."""
    return when is not None and not 0 <= time.time() - when <= seconds
