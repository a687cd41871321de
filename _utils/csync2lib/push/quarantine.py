"""
The quarantine of files that may be csync2's unfinished ones: with a full disk, csync2 leaves one at each try.

Delete what is proven to be csync2's: the watcher does if it has seen csync2 make the file, a push if the file holds
nothing that is not in the finished one. Quarantine the rest for ten minutes; then send it, as it may be a user's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import NamedTuple

from csync2lib import storage
from csync2lib.csync2 import temporary
from csync2lib.group import Group

#: In a group's directory: what is quarantined, and, while a check runs, which temporary names were there before it.
HELD, KNOWN = "held.json", "known"


class Held(NamedTuple):
    """Since when a file is quarantined (seconds since the epoch), and whether chance has made its suffix."""

    since: float
    by_chance: bool


def read(group: Group) -> dict[bytes, Held]:
    """``{path: Held}`` of what is quarantined."""
    held = storage.read_json(group.path(HELD), {})
    return {os.fsencode(path): Held(*why) for path, why in held.items()}


def note_known(group: Group, paths: Iterable[bytes], trees: Iterable[bytes]) -> set[bytes]:
    """
    Before a check, return the paths named like temporary files that are in csync2's database already: all dirty ones,
    and the recorded ones among these paths and below these trees. Other hosts may have them.

    They are noted in a file until judge() has seen what the check finds. If that file is still there, the last check
    failed, or was killed: what it added is not in the file, and does not count as known.
    """
    paths, note = list(filter(_is_temporary, paths)), group.path(KNOWN)
    with group.open_database() as database:
        to_send = set(filter(_is_temporary, database.hidden()))
        known = {path for path in paths if database.record(path) is not None}
        known |= set(filter(_is_temporary, database.hidden(trees)))
    unjudged = to_send - storage.read_names(note) if os.path.exists(note) else set()
    known = (known | to_send) - unjudged
    storage.write_names(note, known)
    return known


def judge(group: Group, known: set[bytes], held: dict[bytes, Held]) -> None:
    """
    Take the unfinished files that the check has just found out of csync2's database, and delete or quarantine them.

    What was known before the check is left alone: other hosts have it already.
    """
    now = time.time()
    with group.open_database(write=True) as database:
        new = set(filter(_is_temporary, database.hidden())) - known
        by_chance = temporary.by_chance(new) | {path for path in new if path in held and held[path].by_chance}
        gone = delete_left(by_chance) | {path for path in new if not os.path.lexists(path)}
        hold = {path: Held(held[path].since if path in held else now, path in by_chance) for path in new - gone}
        hold = {path: why for path, why in hold.items() if temporary.is_to_be_held(path, *why)}
        if hold != held:
            storage.write_json(group.path(HELD), {os.fsdecode(path): why for path, why in hold.items()})
        if gone or hold:
            database.forget([*gone, *hold])
    os.unlink(group.path(KNOWN))


def delete_left(paths: set[bytes]) -> set[bytes]:
    """Delete those of these files, with suffixes that chance has made, that csync2 left. Returns them."""
    opened = temporary.open_paths() if paths else set()
    return {path for path in paths if temporary.is_left(path, opened) and temporary.delete(path)}


def _is_temporary(path: bytes) -> bool:
    return temporary.is_temporary(os.path.basename(path))
