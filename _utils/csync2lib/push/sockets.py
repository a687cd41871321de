"""
Sockets: csync2 records them as it does files, and carries none.

A socket that was never anything else is no change for anybody. One that replaced a file stays dirty, without a record,
until the other hosts have nothing there: for a socket csync2 deletes what a peer has, and makes nothing (daemon.c).
"""

from __future__ import annotations

from collections.abc import Iterable

from csync2lib import storage
from csync2lib.csync2.states import is_socket
from csync2lib.group import Group

#: In a group's directory: the sockets that are known, since each check of a whole tree would take them for new.
KNOWN = "sockets"


def known(group: Group) -> dict[bytes, bool]:
    """``{path: dirty for any peer?}`` of the sockets that are known and still there, before a check."""
    paths = {path for path in storage.read_names(group.path(KNOWN)) if is_socket(path)}
    with group.open_database() as database:
        return {path: database.is_dirty(path) for path in paths}


def take_out(group: Group, before: dict[bytes, bool], nobody_has: Iterable[bytes] | None) -> None:
    """
    After a check: take sockets out of csync2's records, and those that are nobody's change out of what is dirty.

    before
        What known() returned before the check.
    nobody_has
        Paths that had no record before it; None if no other host has anything from here.
    """
    with group.open_database(write=True) as database:
        found = database.dirty_sockets()
        none = {path for path in found if nobody_has is None or before.get(path) is False}
        if found:
            database.forget(sorted(none))
            database.forget(sorted(found - none), dirty=False)
    now = {path for path in (*before, *found, *(nobody_has or ())) if is_socket(path)}
    if now != storage.read_names(group.path(KNOWN)):
        storage.write_names(group.path(KNOWN), now)
