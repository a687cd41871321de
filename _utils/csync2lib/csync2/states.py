"""
The state of a file as csync2 writes it: a line of text with type, owner, mode, size and whole seconds.

A *record* is the state in csync2's database. A peer tells of its own without the time.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from typing import NamedTuple

from csync2lib import beneath
from csync2lib.csync2.custody import UID
from csync2lib.csync2.names import decode, encode

#: The fields of a state: ``{b"type": b"reg", b"mode": b"33188", …}``.
Fields = dict[bytes, bytes]

#: How the states of a directory and of a socket end, and what tells that of a regular file from others.
DIRECTORY, SOCKET, FILE = b":type=dir", b":type=sock", b":type=reg:"
#: The state of a place where there is nothing.
GONE = b"---"
#: Instead of a state that is not known. No peer has anything in such a state.
UNKNOWN = b"?"

#: What csync2 calls the types of all but regular files.
_TYPES = {stat.S_IFDIR: "dir", stat.S_IFLNK: "lnk", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "sock"}
_TYPES |= {stat.S_IFCHR: "chr", stat.S_IFBLK: "blk"}

#: A state with a time, as csync2 records it of all but directories and links (checktxt.c).
_TIME = re.compile(rb"^v1:mtime=(-?[0-9]+):")


# --- What stands here ------------------------------------------------------------------------------------


def check_text(path: bytes, status: os.stat_result) -> bytes:
    """
    Given a path and its lstat, return the state that csync2 would record (checktxt.c, version 1).

    Two states of one file that differ only within a second, at the same size, have the same text. UNKNOWN if there was
    a link, and something else is there by now.
    """
    mode = status.st_mode
    if stat.S_ISREG(mode):  # nearly all: a check of a million files makes as many texts
        owner = (_as_int(status.st_uid), _as_int(status.st_gid))
        about = (status.st_mtime_ns // 10**9, mode, *owner, status.st_size)
        return b"v1:mtime=%d:mode=%d:uid=%d:gid=%d:type=reg:size=%d" % about
    kind = _TYPES[stat.S_IFMT(mode)]
    time = "" if kind in ("dir", "lnk") else f":mtime={status.st_mtime_ns // 10**9}"
    device = f":dev={_as_int(status.st_rdev)}" if kind in ("chr", "blk") else ""
    whose = f"uid={_as_int(status.st_uid)}:gid={_as_int(status.st_gid)}"
    text = f"v1{time}:mode={mode}:{whose}:type={kind}{device}".encode()
    try:
        return text + b":target=" + encode(beneath.readlink(path)[:4095]) if kind == "lnk" else text
    except OSError:
        return UNKNOWN


def _as_int(number: int) -> int:
    """A number as C's ``%d`` prints it: an id above 2147483647 is negative there."""
    return (number + 2**31) % 2**32 - 2**31


def stands(path: bytes) -> bytes:
    """The state of what is there, as csync2 would record it; UNKNOWN if it cannot be told."""
    try:
        return check_text(path, beneath.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return GONE
    except OSError:
        return UNKNOWN


def is_file(name: bytes) -> bool:
    """Given an encoded name, tell whether there is a regular file."""
    return beneath.kind(decode(name)) == stat.S_IFREG


def is_socket(path: bytes) -> bool:
    """Tell whether there is a socket."""
    return beneath.kind(path) == stat.S_IFSOCK


def is_made_here(path: bytes) -> bool:
    """Tell whether there is a file that was surely made here: csync2 gives its own a time without a fraction."""
    try:
        status = beneath.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_mtime_ns % 10**9 != 0


# --- What a state says -----------------------------------------------------------------------------------


def fields(state: bytes) -> Fields:
    """The fields of a state."""
    pairs = (field.partition(b"=") for field in state.split(b":"))
    return {key: value for key, _, value in pairs}


def time_of(state: bytes) -> int | None:
    """The time in a state, in seconds since the epoch; None if it has none."""
    found = _TIME.match(state)
    return int(found.group(1)) if found else None


def as_told(record: bytes) -> bytes:
    """Given a record, return it as a peer tells of its own: without a time."""
    return _TIME.sub(b"v1:mtime=0:", record)


def _what(of: Fields) -> tuple[bytes | None, bytes | None]:
    return of.get(b"type"), of.get(b"target")


def _owner(of: Fields) -> tuple[bytes | None, bytes | None]:
    return of.get(b"uid"), of.get(b"gid")


# --- What a peer has -------------------------------------------------------------------------------------

_NOTHING = fields(GONE)


class PeerState(NamedTuple):
    """What a peer has at a place."""

    #: the encoded name of the place
    name: bytes
    #: the state, without a time
    text: bytes
    #: whether the content is that of the file here
    same_content: bool

    @property
    def path(self) -> bytes:
        return decode(self.name)

    @property
    def fields(self) -> Fields:
        return fields(self.text)

    @property
    def is_directory(self) -> bool:
        return self.fields.get(b"type") == b"dir"

    def is_half_made(self, fresh: bool, before: Iterable[bytes] = ()) -> bool:
        """
        Tell whether csync2 made it, of what stands here, and has not given it its mode yet, which comes after its owner
        (daemon.c). If fresh, it may have other ones: a file that is replaced keeps the old one's until then (rsync.c).

        before
            The states that the peer may have had.
        """
        here, there = fields(stands(self.path)), self.fields
        if here == _NOTHING:
            return False
        if there == _NOTHING:  # csync2 first deletes what is there, unless a file replaces a file (csync_unlink())
            return fresh and {here[b"type"], *(fields(state).get(b"type", b"reg") for state in before)} != {b"reg"}
        if not self.same_content or _what(there) != _what(here):
            return False
        return self.is_begun(here) or (fresh and here[b"type"] == b"reg")

    def is_begun(self, wanted: Fields) -> bool:
        """Tell whether it may be what csync2 makes of these fields, and has not given its mode yet."""
        there, kind = self.fields, wanted.get(b"type")
        if not kind or _what(there) != _what(wanted) or there.get(b"size") != wanted.get(b"size"):
            return False
        made = {b"lnk": 0o777, b"reg": 0o600}.get(kind, 0o700)
        owned = there.get(b"uid") == b"%d" % UID or _owner(there) == _owner(wanted)
        return owned and int(there[b"mode"]) & 0o7777 == made

    def is_replaced(self, wanted: Fields, old: Fields) -> bool:
        """
        Tell whether it may be what csync2 makes of these fields in place of an old file: it has that one's owner and
        mode until it is given its own, one after the other (rsync.c).
        """
        there = self.fields
        if not _what(there) == _what(wanted) == _what(old) or there.get(b"type") != b"reg":
            return False
        same = there.get(b"size") == wanted.get(b"size") and there.get(b"mode") == old.get(b"mode")
        return same and _owner(there) in (_owner(old), _owner(wanted))
