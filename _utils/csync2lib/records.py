"""
Digests of what csync2 has recorded of a group on this host: where all hosts are in sync, all of them are the same.

"Nothing to send" would be no proof of that: a host that has missed something has nothing to send either.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import urllib.parse
import zlib
from collections.abc import Collection, Iterable, Iterator

from csync2lib import beneath, storage
from csync2lib.csync2.database import Database, commits
from csync2lib.csync2.names import decode, encode
from csync2lib.csync2.states import DIRECTORY, SOCKET
from csync2lib.group import Group

#: How many digests stand for all records: few enough for each status, so many that few paths are behind each.
DIGESTS = 256
#: In a group's directory: the digests, and what the database was when they were made.
NOTED = "records.json"
#: Of the way in which they are made.
VERSION = 2
_SOCKET, _DIRECTORY = encode(SOCKET), encode(DIRECTORY)


def digests(group: Group) -> list[str] | None:
    """
    DIGESTS digests, of 16 hexadecimal digits each, of all records but those of includes that are directories: an empty
    one need not be like another host's. They are kept until the database is changed; None if that is meanwhile. Raises
    CsyncsyncError, sqlite3.Error, OSError.
    """
    roots = group.config.roots
    before = [VERSION, _change(group.database), sorted(urllib.parse.quote_from_bytes(root) for root in roots)]
    noted = storage.read_json(group.path(NOTED), {})
    if noted.get("of") == before:
        found: list[str] = noted["digests"]
        return found
    slots = [hashlib.blake2b(digest_size=8) for _ in range(DIGESTS)]
    for name, record in _records(group):  # in the order of names, on all hosts
        slots[zlib.crc32(name) % DIGESTS].update(name + b" " + record)
    if _change(group.database) != before[1]:
        return None
    found = [slot.hexdigest() for slot in slots]
    with contextlib.suppress(OSError):  # a full disk
        storage.write_json(group.path(NOTED), {"of": before, "digests": found}, durable=False)
    return found


def entries(group: Group, slots: Collection[int], most: int) -> dict[str, str]:
    """
    ``{percent-encoded path: digest}`` of the records behind some digests, with a "/" at the end of a directory; at most
    so many. Raises sqlite3.Error.
    """
    wanted, found = set(slots), dict[str, str]()
    for name, record in _records(group):
        if zlib.crc32(name) % DIGESTS in wanted and len(found) < most:
            path = decode(name) + (b"/" if record.endswith(_DIRECTORY) else b"")
            found[urllib.parse.quote_from_bytes(path)] = _digest(record)
    return found


def digest(state: bytes) -> str:
    """The digest of one record, as entries() gives it, of a path in this state."""
    return _digest(encode(state))


def _digest(record: bytes) -> str:
    return hashlib.blake2b(record, digest_size=8).hexdigest()


def kept(group: Group, directories: Iterable[bytes]) -> list[str]:
    """
    Of these directories, percent-encoded and with a "/" at the end, those that hold something which csync2 has not
    recorded: when others delete them, they stay here. Raises sqlite3.Error.
    """
    with group.open_database() as database:
        found = [directory for directory in directories if _holds_more(database, directory)]
    return [urllib.parse.quote_from_bytes(path) + "/" for path in found]


def _holds_more(database: Database, directory: bytes) -> bool:
    """Tell whether something below a directory is not recorded, or cannot be seen."""
    todo = [directory]
    while todo:
        top = todo.pop()
        try:
            with beneath.directory(top) as handle, beneath.scan(handle) as entries:
                there = {top + b"/" + os.fsencode(one.name): one.is_dir(follow_symlinks=False) for one in entries}
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return True
        if there.keys() - database.records(there)[0].keys():
            return True
        todo += [path for path, is_directory in there.items() if is_directory]
    return False


def recorded(group: Group) -> Iterator[tuple[bytes, bytes]]:
    """
    ``(name, record)`` as csync2 encodes them, without white space, in the order of names: the same on all hosts. Not of
    sockets, which are not carried. Raises sqlite3.Error.
    """
    with group.open_database() as database:
        for name, record in database.raw_states():
            if not record.endswith(_SOCKET):
                yield name, record


def _records(group: Group) -> Iterator[tuple[bytes, bytes]]:
    """The same but for includes that are directories."""
    roots = {encode(root) for root in group.config.roots}
    return (one for one in recorded(group) if not (one[0] in roots and one[1].endswith(_DIRECTORY)))


def _change(path: str) -> list[int]:
    """What tells one state of a database from the next. Raises OSError."""
    return [os.stat(path).st_ino, commits(path)]
