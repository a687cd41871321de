"""
What may be an unfinished file of csync2 is quarantined: it is not sent until it is known whose it is, or for some time.

When the disk is full, csync2 leaves one at each try. The watcher deletes those that it has seen, and a push does what
it can prove; what nobody knows anything of is sent in the end.
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
    Return what has the name of a temporary file, and stands in csync2's database before the check: those that are
    recorded, of these paths and of all below these trees, and all that are to be sent.

    That is noted until judge() has seen what the check finds: if the check fails, or is killed, in between, what it has
    added is not known, and the rest is: others may have it.
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
    Take what the check has just found, and what may be an unfinished file of csync2, out of what is to be sent.

    What was known before the check has been sent, and goes on.
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
