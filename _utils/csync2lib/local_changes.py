"""
What a host that only receives has otherwise than its group: it is never sent, and stays until others change the same.

The records of such a host stay those of what it has received; so whatever differs from its record is local.
"""

from __future__ import annotations

import os
import urllib.parse
from itertools import islice

from csync2lib import storage
from csync2lib.csync2.database import Database
from csync2lib.csync2.states import GONE, stands

#: In a group's directory: the paths, as the last check found them.
LOCAL = "local"
#: Records that are read at once.
AT_ONCE = 500


def changes(directory: str, database: str, most: int) -> dict[str, str]:
    """``{percent-encoded path: "changed", "deleted" or "new"}`` of so many local changes. Raises sqlite3.Error."""
    names, found = iter(sorted(storage.read_names(os.path.join(directory, LOCAL)))), dict[str, str]()
    while (some := list(islice(names, AT_ONCE))) and len(found) < most:
        with Database(database, timeout=2) as opened:
            records, _ = opened.records(some)
        for path in some:
            now = stands(path)
            if now != records.get(path, GONE) and len(found) < most:  # others may have sent it since
                kind = "deleted" if now == GONE else "changed" if path in records else "new"
                found[urllib.parse.quote_from_bytes(path)] = kind
    return found
