"""Copies of csync2's databases: each push makes one of what was sent; here they follow what was received."""

from __future__ import annotations

import math
import os

from csync2lib.csync2.database import commits
from csync2lib.csync2.kept import keep_copy
from csync2lib.group import AWAY
from csync2lib.guard import Guard
from csync2lib.watch.aside import Aside
from csync2lib.watch.groups import WatchedGroup

#: Seconds between two looks at a database, and so the age of what may be missing from its copy.
COPY_EVERY = 5.0


def keep(aside: Aside, group: WatchedGroup, now: float) -> None:
    """Copy a group's database, if it has changed."""
    path = group.config.database
    if path is None or now < group.copy_at:
        return
    group.copy_at, found = now + COPY_EVERY, commits(path)
    if found == group.copied or group.is_pushing():
        return

    def work() -> None:
        guard = Guard(group.name, group.directory, path)
        # What csync2 makes of a place where a file system is away is in no copy: that tells what was there.
        away = os.path.exists(os.path.join(group.directory, AWAY)) or guard.problems() or guard.moved_mounts()
        if not away and keep_copy(group.directory, path):
            group.copied = found

    def done(_: Exception | None) -> None:
        group.copy_at = now + COPY_EVERY

    group.copy_at = math.inf
    aside.run(work, done)
