"""What a full push would send, without sending anything."""

from __future__ import annotations

import os
import urllib.parse
from typing import Any

from csync2lib.csync2.database import Database
from csync2lib.csync2.excludes import Excludes
from csync2lib.csync2.states import is_socket
from csync2lib.group import Group
from csync2lib.push.differences import Differences

#: Paths of each host that are named.
TOLD = 1000


def preview(group: Group) -> dict[str, Any]:
    """
    What a full push would send to whom: what is dirty, and what differs from its record.

    Returns what ``csyncsync.push`` with ``test`` does. Raises CsyncsyncError, sqlite3.Error.
    """
    config = group.config
    problems = group.guard.problems()
    result = {"group": group.name, "state": "test", "send": {}, "comment": "; ".join(problems.values())}
    not_joined = {**result, "comment": "this host has not joined the group yet"}
    if not os.path.exists(group.database):
        return not_joined
    with group.open_database() as database:
        if database.state() != Database.ESTABLISHED:
            return not_joined
        differences = Differences(database, Excludes(map(os.fsencode, config.exclude)), config.roots)
        roots = [os.fsencode(root) for root in config.include if root not in problems]
        changed = {one.path for root in roots for one in differences.below(root)}
        dirty = {(path, peer) for path, peer, _ in database.dirty(config.peers) if not is_socket(path)}
    dirty.update((path, peer) for path in changed for peer in config.peers)
    send: dict[str, dict[str, Any]] = {}
    for path, peer in sorted(dirty):
        told = send.setdefault(config.minions[peer], {"entries": 0, "paths": []})
        told["entries"] += 1
        told["paths"] += [urllib.parse.quote_from_bytes(path)] if len(told["paths"]) < TOLD else []
    return {**result, "send": send}
