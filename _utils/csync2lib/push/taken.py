"""Whether a peer has taken what is recorded here: what it was sent may have changed while it was sent."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from typing import NamedTuple

from csync2lib import beneath
from csync2lib.csync2.database import Database
from csync2lib.csync2.names import decode
from csync2lib.csync2.states import FILE, check_text


class Identity(NamedTuple):
    """What tells a directory from another one that has taken its place."""

    inode: int
    mode: int
    uid: int
    gid: int


def identity(name: bytes) -> Identity | None:
    """Given an encoded name, tell what stands there; None if nothing does."""
    try:
        status = beneath.lstat(decode(name))
    except OSError:
        return None
    return Identity(status.st_ino, status.st_mode, status.st_uid, status.st_gid)


def may_differ(
    shared: Database, name: bytes, deleted: Mapping[bytes, bool], seen: Mapping[bytes, Identity | None], since: float
) -> bool:
    """
    True if the peer may hold another state than our record.

    deleted
        ``{name: whether its deletion was sent}``
    seen
        What directory stood at a name when it began to be sent, by identity().
    since
        When the check before that began, in seconds since the epoch.

    csync2 sends what is on the disk, not what it has recorded. If a path changes while it is sent, and changes
    back, or is made after the check and gone before the next one, then that check finds nothing to send, and the
    peer would keep the state in between. A file that is merely written to needs no such care: the watcher knows who
    wrote. It does not know whether it was csync2 that made a link.
    """
    path = decode(name)
    record = shared.record(path)
    if name in deleted and deleted[name] != (record is None):
        return True
    try:
        status = beneath.lstat(path)
    except OSError:
        return record is not None
    if record is None:
        return False
    if FILE in record and stat.S_ISREG(status.st_mode) and status.st_mtime >= since:
        return False
    if record != check_text(path, status):
        return True
    if stat.S_ISDIR(status.st_mode):  # its time tells of the files in it, csync2's temporary ones too
        return seen.get(name) != identity(name)
    return status.st_ctime >= since
