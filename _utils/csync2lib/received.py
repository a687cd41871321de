"""
What csync2 has received on this host and has not recorded, because it was killed first, or gave up at its database.

csync2 commits its records some seconds after it has written the files. What it has written and not recorded looks like
a change that somebody made here: it would be sent on, over what is newer elsewhere, and be in conflict with what
deletes it. So the server notes each path that csync2 receives, also in a file, in case that the whole host goes down.
When a csync2 ends badly, they go into the journals of their groups (``TIME-server.received``), and the next check
records what nobody has touched since as what it is.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from typing import NamedTuple

from csync2lib import beneath, journal, storage
from csync2lib.csync2 import custody
from csync2lib.csync2.names import decode, encode
from csync2lib.csync2.namespace import is_below
from csync2lib.host import ThisHost

#: Bytes of a file until what is recorded by now is left out.
MOST = 4_000_000
#: Seconds after which csync2 has recorded what it received: it commits after 3 s with its next path, else after 10 s
#: (db.c), and may wait for its database first.
RECORDED_WITHIN = custody.RECORDED_LATE + 11.0
#: Seconds from the last note until owner, mode and time are set.
SET_WITHIN = 5.0
_LINE = re.compile(rb"([0-9]+\.[0-9]+) ([0-9]+\.[0-9]+) ([0-9]+) ([0-9]+) ([^ ]+)\Z")


class Path(NamedTuple):
    """A path that csync2 has received. Times are in seconds since the epoch."""

    #: the type of what was there then (stat.S_IFMT); 0 if nothing was, as csync2 had deleted it
    kind: int
    #: when csync2 had written it
    written: float
    #: when csync2 was dead; 0 while it lives
    died: float = 0.0
    #: of what was there then
    inode: int = 0


class _Process:
    """What one csync2 receives, and the file in which that stands, too."""

    def __init__(self, file: str) -> None:
        self.file = file
        #: the oldest first
        self.paths: dict[bytes, Path] = {}
        self.lines: list[bytes] = []
        self.size, self.most = 0, MOST

    def write(self) -> None:
        lines, self.lines = self.lines, []
        since = time.time() - RECORDED_WITHIN
        while self.paths and self.paths[oldest := next(iter(self.paths))].written < since:
            del self.paths[oldest]
        if anew := self.size > self.most:
            lines = [_line(path, one) for path, one in self.paths.items()]
            storage.remove(self.file)
        with contextlib.suppress(OSError), open(self.file, "ab") as file:
            file.writelines(lines)
            self.size = file.tell()
            self.most = max(MOST, 2 * self.size) if anew else self.most


class Received:
    """What the csync2 processes of this host receive, until they have ended well."""

    def __init__(self, host: ThisHost) -> None:
        self.host, self.directory = host, in_flight(host.state)
        self.by_process: dict[int, _Process] = {}
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        # What the server before this one had not seen to its end was killed with it, or with the host.
        for entry in tuple(os.scandir(self.directory)):
            self._lose(_read(entry.path), min(time.time(), entry.stat().st_mtime + SET_WITHIN))
            storage.remove(entry.path)

    def note(self, pid: int, path: bytes) -> None:
        """A csync2 has written, or deleted, this path; write() has it on the disk."""
        process = self.by_process.setdefault(pid, _Process(os.path.join(self.directory, str(pid))))
        process.paths.pop(path, None)
        with contextlib.suppress(OSError):
            process.paths[path] = one = _look(path)
            process.lines.append(_line(path, one))

    def ended(self, pid: int, recorded: bool) -> None:
        """A csync2 has ended; whether it has recorded what it received."""
        if process := self.by_process.pop(pid, None):
            if not recorded:
                self._lose(process.paths, time.time())
            storage.remove(process.file)

    def write(self) -> None:
        """Have what was noted in files: for who checks, and, as far as the kernel is concerned, on the disk."""
        for process in self.by_process.values():
            if process.lines:
                process.write()

    def _lose(self, paths: dict[bytes, Path], died: float) -> None:
        for group, config in self.host.configs().items() if paths else ():
            roots = [os.fsencode(root) for root in config.get("include", ())]
            lost = {path: one for path, one in paths.items() if any(is_below(path, root) for root in roots)}
            lines = [_line(path, one._replace(died=died)) for path, one in lost.items()]
            name = f"{time.time_ns():020d}-server{journal.RECEIVED}"
            with contextlib.suppress(OSError):
                if lines:
                    storage.write(os.path.join(self.host.state, group, "journal", name), b"".join(lines), durable=False)


def in_flight(state: str) -> str:
    """The directory with what is received now, given that of all groups: a file for each csync2."""
    return os.path.join(state, "csync2.received")


def _look(path: bytes) -> Path:
    try:
        status = beneath.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Path(0, time.time())
    return Path(stat.S_IFMT(status.st_mode), time.time(), inode=status.st_ino)


def _line(path: bytes, one: Path) -> bytes:
    return b"%.6f %.6f %d %d %s\n" % (one.written, one.died, one.kind, one.inode, encode(path))


def _read(file: str) -> dict[bytes, Path]:
    try:
        with open(file, "rb") as opened:
            found = [*filter(None, map(_LINE.match, opened.read().split(b"\n")))]
    except OSError:
        return {}
    return {decode(one[5]): Path(int(one[3]), float(one[1]), float(one[2]), int(one[4])) for one in found}


# --- What is not recorded ---------------------------------------------------------------------------------


class Unrecorded:
    """
    Tells of a path and its record (None if it has none) whether what stands there, or that nothing does, is csync2's
    work, and nobody has changed it since; given a group's directory.
    """

    def __init__(self, directory: str) -> None:
        self.journal = os.path.join(directory, "journal")
        self.files: list[str] = []
        self.paths: dict[bytes, Path] = {}
        self.look()

    def look(self) -> None:
        """Read what has come: a csync2 may be killed at any time."""
        custody.await_noted()
        files = [file for file in journal.waiting(self.journal) if file.endswith(journal.RECEIVED)]
        for file in files:
            if file not in self.files:
                self.paths.update(_read(file))
        self.files = files

    def is_lost(self, path: bytes, record: bytes | None) -> bool:
        """It was received, and not recorded."""
        one = self.paths.get(path)
        return one is not None and _is_as_csync2_left_it(path, record, one)


def _is_as_csync2_left_it(path: bytes, record: bytes | None, one: Path) -> bool:
    try:
        status = beneath.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return not one.kind
    except OSError:
        return False
    if (stat.S_IFMT(status.st_mode), status.st_ino) != (one.kind, one.inode):
        return False
    if stat.S_ISDIR(status.st_mode) and record is None:
        return True  # what was made in it since has changed its times
    # It gives a file a time without a fraction last of all: what has one, it had not finished.
    is_finished = not stat.S_ISREG(status.st_mode) or status.st_mtime_ns % 10**9 == 0
    return status.st_ctime <= (one.died if is_finished else one.written)
