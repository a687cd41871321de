"""What csync2's check has to take in before a push sends anything."""

import collections

from csync2lib import journal
from csync2lib.csync2.states import is_made_here

#: How many of the paths that were recorded last are looked at, to find the one that a check recorded last.
LOOKED_AT = 50_000


def half_marked(database, entries, peers):
    """
    Given an open database, and ``{path: whole tree?}`` of what events have told of, return the path that a check which
    died may have recorded, and not marked for all of these peers' addresses; None if there is none.

    csync2 records a path before it marks it, peer by peer (check.c, csync_check_mod()), and may commit in between: then
    the next check finds it as recorded. It is the last one that was recorded, but for what csync2's daemon has recorded
    since: that is marked for all, or was received.
    """
    marked = collections.Counter(path for path, _, _ in database.dirty(peers))
    for path in database.latest(LOOKED_AT):
        if marked[path] < len(peers) and (journal.is_among(entries, path) or is_made_here(path)):
            return path
    return None
