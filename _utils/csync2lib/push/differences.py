"""
How what stands on the disk differs from csync2's records of it.

csync2's own check takes whatever it cannot see for deleted, and tells neither why nor what it left out. Here only what
the kernel says not to be there counts as deleted. Disk and records are read in the same order, that of csync2's names,
so that neither all files nor all records are ever in memory. Paths are bytes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from csync2lib import beneath
from csync2lib.csync2 import unfinished
from csync2lib.csync2.database import Database
from csync2lib.csync2.excludes import Excludes
from csync2lib.csync2.names import decode, encode
from csync2lib.csync2.states import DIRECTORY, SOCKET, UNKNOWN, check_text

#: Bytes of a path that csync2 carries: the kernel takes 4,095, and csync2 has a temporary file of a longer name.
LONGEST = 4000
#: What is wrong with a longer one.
TOO_LONG = f"its path is longer than csync2 carries ({LONGEST} bytes)"
#: What the kernel says where there is nothing.
NOT_THERE = (FileNotFoundError, NotADirectoryError)


class Difference(NamedTuple):
    """A path whose record is not what stands there."""

    path: bytes
    #: the record, as it is to be; None if nothing is there that csync2 carries
    now: bytes | None
    #: the record, as it is; None if there is none
    before: bytes | None


class _Opened(NamedTuple):
    """A directory that is walked through: a user may make them as deep as a path is long."""

    handle: int
    entries: Iterator[tuple[bytes, bytes]]
    path: bytes
    name: bytes


class Differences:
    """Looks for differences below the includes of a group."""

    def __init__(self, database: Database, excludes: Excludes, roots: Iterable[bytes]) -> None:
        self.database, self.excludes, self.roots = database, excludes, frozenset(roots)
        #: ``{path: why}`` of what could not be looked at, or is not carried; what is below it is not named
        self.unread: dict[bytes, str] = {}
        #: ``{path: lstat}`` of what csync2 has made and not finished, which is left as it is
        self.unfinished: dict[bytes, os.stat_result] = {}

    def at(self, path: bytes) -> Iterator[Difference]:
        """Of a path, and nothing below it."""
        if self._is_excluded(path):
            return
        if len(path) > LONGEST:
            if beneath.exists(path):
                self.unread.setdefault(path, TOO_LONG)
            return
        record = self.database.record(path)
        try:
            status = beneath.lstat(path)
        except OSError:
            yield from self._missing(path, record)
            return
        if path in self.roots and stat.S_ISLNK(status.st_mode):  # nothing is below it, and nobody else is to have it
            return
        yield from self._compared(path, self._text(path, status), record)

    def below(self, path: bytes) -> Iterator[Difference]:
        """Of a path, and all below it."""
        yield from self.at(path)
        if self._is_excluded(path):
            return
        records = self.database.states_below(path)
        name, record = next(records, (None, None))
        for there, text in self._walk(path, encode(path)):
            while name is not None and name < there:
                yield from self._missing(decode(name), record)
                name, record = next(records, (None, None))
            known = record if name == there else None
            if name == there:
                name, record = next(records, (None, None))
            yield from self._compared(decode(there), text, known)
        while name is not None:
            yield from self._missing(decode(name), record)
            name, record = next(records, (None, None))

    # ---- What stands there

    def _walk(self, path: bytes, name: bytes) -> Iterator[tuple[bytes, bytes | None]]:
        """``(name, state)`` of all below a directory, in the order of names; without a state if it is left as it is."""
        opened: list[_Opened] = []
        try:
            try:
                with beneath.parent(path) as (above, base):
                    self._enter(opened, above, base, path, name)
            except OSError as err:
                self._unless_gone(path, err)
            while opened:
                last = opened[-1]
                entry = next(last.entries, None)
                if entry is None:
                    os.close(opened.pop().handle)
                    continue
                key, base = entry
                there = last.path + b"/" + base
                if len(there) > LONGEST:
                    self.unread.setdefault(there, TOO_LONG)
                elif self.excludes.match(there, base):
                    continue
                elif key.endswith(b"/"):
                    self._enter(opened, last.handle, base, there, last.name + b"/" + key[:-1])
                else:
                    text: bytes | None = None
                    try:
                        text = self._text(there, beneath.lstat_in(last.handle, base))
                    except NOT_THERE:
                        continue
                    except OSError as err:
                        self._note(there, err)
                    yield last.name + b"/" + key, text
        finally:
            for one in opened:
                os.close(one.handle)

    def _enter(self, opened: list[_Opened], above: int, base: bytes, path: bytes, name: bytes) -> None:
        """Go on in a directory of an open directory, if it can be read."""
        handle = -1
        try:
            handle = beneath.open_directory(above, base)
            opened.append(_Opened(handle, iter(self._entries(handle)), path, name))
        except OSError as err:
            self._unless_gone(path, err)
            if handle >= 0:
                os.close(handle)

    def _unless_gone(self, path: bytes, err: OSError) -> None:
        if not isinstance(err, NOT_THERE):
            self._note(path, err)

    @staticmethod
    def _entries(handle: int) -> list[tuple[bytes, bytes]]:
        """
        ``(encoded, name)`` of what is in a directory, in the order of csync2's names, and ``(encoded with "/", name)``
        of each directory, where what is in it stands in that order.
        """
        found = []
        with beneath.scan(handle) as entries:
            for entry in entries:
                base = os.fsencode(entry.name)
                key = encode(base)
                found.append((key, base))
                if entry.is_dir(follow_symlinks=False):
                    found.append((key + b"/", base))
        return sorted(found)

    def _text(self, path: bytes, status: os.stat_result) -> bytes | None:
        """The state of what is there; None if it is left as it is."""
        if unfinished.is_unfinished(status):
            self.unfinished[path] = status
            return None
        text = check_text(path, status)
        return None if text == UNKNOWN else text  # somebody swaps it just now, which is an event of its own

    # ---- What that means

    def _compared(self, path: bytes, text: bytes | None, record: bytes | None) -> Iterator[Difference]:
        if text is None:
            return
        now = None if text.endswith(SOCKET) else text  # csync2 carries none
        if now != record:
            yield Difference(path, now, record)

    def _missing(self, path: bytes, record: bytes | None) -> Iterator[Difference]:
        """Of a path that was not found where the walk came by, or cannot be looked at: only the kernel can say why."""
        try:
            status = beneath.lstat(path)
        except NOT_THERE:
            # An include stays on the other hosts, empty: csync2 could not delete it there, and it is to be shared on.
            emptied = path in self.roots and record is not None and record.endswith(DIRECTORY)
            if record is not None and not emptied and not self._is_excluded(path):
                yield Difference(path, None, record)
        except OSError as err:
            self._note(path, err)
        else:
            if stat.S_ISSOCK(status.st_mode) and record is not None and not self._is_excluded(path):
                yield Difference(path, None, record)

    def _is_excluded(self, path: bytes) -> bool:
        while path and path not in self.roots:
            if self.excludes.match(path, os.path.basename(path)):
                return True
            path = os.path.dirname(path) if len(path) > 1 else b""
        return bool(path) and self.excludes.match(path, os.path.basename(path))

    def _note(self, path: bytes, err: OSError) -> None:
        if self.unread.keys().isdisjoint((path, *beneath.above(path))):
            self.unread[path] = os.strerror(err.errno or 0)
