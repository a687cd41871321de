"""While something is left to push: the event again and again, and at last a push without the master."""

from __future__ import annotations

import os
import time

from csync2lib import journal, waits
from csync2lib.watch.flush import Flusher
from csync2lib.watch.groups import WatchedGroup

#: How often the time between two events of a group doubles.
MOST_REPEATS = 10
#: What becomes of a host's patience with the master in each second in which nothing waits.
CALMS = 0.9


def remind(flusher: Flusher, group: WatchedGroup, now: float) -> None:
    """While something is left of a group, fire the event again and again, more and more slowly."""
    reminders = group.reminders
    oldest, full_rescan = journal.oldest(group.journal)
    left = journal.mtime(os.path.join(group.directory, "left"))
    if oldest is None and left is None:
        reminders.repeats = 0
        reminders.patience = max(reminders.patience * CALMS, waits.ALONE_AFTER[0])
        return
    if group.flushes.running is not None:
        return
    # Of what a push itself leaves in the journal no change tells.
    ends = f"-{journal.AGAIN}.paths", f"-{journal.CHANGED}.paths"
    left_by_push = [name for name in journal.names(group.journal) if name.endswith(ends)]
    silence = now - group.flushes.last_fired
    is_new = any(0 <= time.time() - int(name[:20]) / 10**9 < silence for name in left_by_push)
    if is_new or silence >= min(flusher.options.retry * 2**reminders.repeats, waits.RETRY_CAP):
        reminders.repeats = min(reminders.repeats + 1, MOST_REPEATS)
        flusher.fire(group, 0, full_rescan)
    is_late = reminders.is_alone(group.directory) or _is_master_late(group, oldest, left)
    if is_late and not reminders.is_tried(oldest, group.directory) and not group.is_pushing():
        flusher.aside.run(lambda: flusher.push_alone(group, oldest), lambda err: None)


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
