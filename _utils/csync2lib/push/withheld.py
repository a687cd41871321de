"""
What is not sent now although it is dirty: csync2 has a peer delete whatever it cannot see here when its turn comes.

That may be a disk that has gone since, or a record that csync2's own server has given up because a peer sent the path.
"""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Mapping, Sequence

from csync2lib import beneath, storage
from csync2lib.csync2.database import DirtyEntry
from csync2lib.csync2.names import decode
from csync2lib.csync2.namespace import is_below
from csync2lib.group import Group
from csync2lib.push.check import HELD, UNREAD
from csync2lib.push.differences import NOT_THERE
from csync2lib.push.runs import Peer


def held(group: Group) -> dict[bytes, bool]:
    """``{place: whether only deletions}`` of the places below which nothing, or no deletion, is sent now."""
    unread = map(urllib.parse.unquote_to_bytes, storage.read_json(group.path(UNREAD), {}))
    deletions = {*storage.read_names(group.path(HELD)), *group.guard.moved_mounts(), *unread}
    return {**dict.fromkeys(deletions, True), **dict.fromkeys(map(os.fsencode, group.guard.problems()), False)}


def without_missing(
    entries: Sequence[DirtyEntry], held: Mapping[bytes, bool], peer: Peer
) -> tuple[list[DirtyEntry], list[bytes]]:
    """
    Leave out what csync2 would wrongly take for deleted: what the kernel cannot tell, what is missing below a place
    where deletions are held, and what is missing and still recorded. Returns (the other entries, the paths of the last
    kind, which the next check is to look at).
    """
    left: set[DirtyEntry] = set()
    missing = list[DirtyEntry]()
    for entry in entries:
        try:
            beneath.lstat(decode(entry.name))
        except NOT_THERE:
            missing.append(entry)
        except OSError:
            left.add(entry)
    left.update(entry for entry in missing if any(is_below(decode(entry.name), place) for place in held))
    recorded = list[DirtyEntry]()
    if missing:
        with peer.shared() as shared:
            recorded = [one for one in missing if one not in left and shared.record(decode(one.name)) is not None]
    left.update(recorded)
    return [entry for entry in entries if entry not in left], [decode(entry.name) for entry in recorded]
