"""
What is not sent now although it is dirty: csync2 has a peer delete whatever it cannot see here when its turn comes.

That may be a disk that has gone since, or a record that csync2's own server has given up because a peer sent the path.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from csync2lib import beneath
from csync2lib.csync2.database import DirtyEntry
from csync2lib.csync2.names import decode
from csync2lib.csync2.namespace import is_below
from csync2lib.csync2.unfinished import is_unfinished
from csync2lib.group import Group
from csync2lib.push.check import left_before
from csync2lib.push.differences import NOT_THERE
from csync2lib.push.runs import Peer


def held(group: Group) -> dict[bytes, bool]:
    """``{place: whether only deletions}`` of the places below which nothing, or no deletion, is sent now."""
    deletions = left_before(group) | group.guard.moved_mounts().keys()
    return {**dict.fromkeys(deletions, True), **dict.fromkeys(map(os.fsencode, group.guard.problems()), False)}


def without_missing(
    entries: Sequence[DirtyEntry], held: Mapping[bytes, bool], peer: Peer
) -> tuple[list[DirtyEntry], list[bytes]]:
    """
    Leave out what csync2 would wrongly take for deleted: what the kernel cannot tell, what is missing below a place
    where deletions are held, and what is missing and still recorded. Returns (the other entries, the paths of the last
    kind, which the next check is to look at).

    What csync2 has begun here, and was killed before its end, is no longer dirty: csync2 itself makes it so, when the
    peer sends it again, and would refuse it for that.
    """
    left: set[DirtyEntry] = set()
    missing = list[DirtyEntry]()
    begun = list[bytes]()
    for entry in entries:
        path = decode(entry.name)
        try:
            if is_unfinished(beneath.lstat(path)):
                left.add(entry)
                begun.append(path)
        except NOT_THERE:
            missing.append(entry)
        except OSError:
            left.add(entry)
    left.update(entry for entry in missing if any(is_below(decode(entry.name), place) for place in held))
    recorded = list[DirtyEntry]()
    if begun or missing:
        with peer.shared(write=True) as shared:
            shared.clean(begun)
            recorded = [one for one in missing if one not in left and shared.record(decode(one.name)) is not None]
    left.update(recorded)
    return [entry for entry in entries if entry not in left], [decode(entry.name) for entry in recorded]
