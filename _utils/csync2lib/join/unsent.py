"""What a host that lost its database had changed, and not sent to all others."""

from __future__ import annotations

import contextlib
import sqlite3
import time
import urllib.parse
from collections.abc import Iterable, Mapping

from csync2lib import beneath, journal
from csync2lib.csync2.database import Database
from csync2lib.csync2.kept import last_copy
from csync2lib.group import Group

#: How many of them it names to the host that admits it: they go over the minion's bus.
MOST_UNSENT = 5000
#: Seconds that the watcher may take to judge a change, while a peer sends.
WATCHER_JUDGES = 2.0


def find_unsent(group: Group) -> dict[bytes, bool]:
    """
    ``{path: whole tree?}`` of the changes made here that others may lack, the last one last, if this host was
    established before.

    The files of one that never was are older than those of the group, whoever has changed them since.
    """
    if not group.was_established():
        return {}
    time.sleep(WATCHER_JUDGES)
    entries: dict[bytes, bool] = {}
    lost = last_copy(group.directory, group.database)
    if lost:
        with contextlib.suppress(sqlite3.Error), Database(lost) as copy:
            entries.update((path, False) for path, _, _ in copy.dirty())
    for path, tree in journal.unsent(group.journal).items():
        entries.pop(path, None)  # what changed last stands last
        entries[path] = tree
    # Where no directory is, or no longer, one may have been: what others have in it was deleted here.
    return {path: tree or not beneath.is_directory(path) for path, tree in entries.items()}


def as_text(entries: Mapping[bytes, bool]) -> list[str]:
    """The last of find_unsent() for another host: percent-encoded, with a "/" at the end of a whole tree."""
    last = list(entries.items())[-MOST_UNSENT:]
    return [urllib.parse.quote_from_bytes(path + b"/" if tree else path) for path, tree in last]


def from_text(lines: Iterable[str] | None) -> dict[bytes, bool]:
    """The reverse of as_text()."""
    raw = [urllib.parse.unquote_to_bytes(line) for line in lines or ()]
    return {path.rstrip(b"/"): path.endswith(b"/") for path in raw}
