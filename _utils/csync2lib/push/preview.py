"""What a full push would send, without sending anything."""

from __future__ import annotations

import os
import urllib.parse
from typing import Any

from csync2lib.csync2.command import run
from csync2lib.csync2.database import Database
from csync2lib.group import Group

#: Paths of each host that are named.
TOLD = 1000


def preview(group: Group) -> dict[str, Any]:
    """
    What a full push would send to whom: csync2 checks the group in a copy of its database.

    Returns what ``csyncsync.push`` with ``test`` does. Raises CsyncsyncError.
    """
    minions = group.config.minions
    send: dict[str, dict[str, Any]] = {}
    result = {"group": group.name, "state": "test", "send": send, "comment": "; ".join(group.guard.root_problems())}
    if not os.path.exists(group.database):
        return {**result, "comment": "this host has not joined the group yet"}
    with group.copied_database() as (directory, path):
        with Database(path) as copy:
            if copy.state() != Database.ESTABLISHED:
                return {**result, "comment": "this host has not joined the group yet"}
        run(group.name, "-D", directory, "-cr", "/")
        with Database(path) as copy:
            sockets = copy.dirty_sockets()
            for name, peer in ((name, peer) for name, peer, _ in copy.dirty(minions) if name not in sockets):
                told = send.setdefault(minions[peer], {"entries": 0, "paths": []})
                told["entries"] += 1
                told["paths"] += [urllib.parse.quote_from_bytes(name)] if len(told["paths"]) < TOLD else []
    return result
