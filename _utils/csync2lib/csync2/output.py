"""What csync2 prints, read: of what it sends (update.c), of what it compares, and of what a peer answers."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import NamedTuple

from csync2lib.csync2.names import decode, encode
from csync2lib.csync2.states import PeerState

#: How csync2 says that a path is still to be sent.
STAYS = b"File stays in dirty state. Try again later...\n"

#: What a peer answers that cannot write a file (daemon.c: strerror(errno)), as csync2 tells it with three -v.
_CANNOT_WRITE = re.compile(
    rb"^response from peer\(.*\): \S+ \[\d+\] <- "
    rb"(No space left on device|Read-only file system|Disk quota exceeded|Input/output error)$",
    re.MULTILINE,
)


class UpdateOutput:
    """What csync2 -v -u said about each path. Names are raw there, and may hold newlines."""

    def __init__(self, output: bytes, peer: str) -> None:
        begin = rb"^(Updating|Deleting) (.+?) on " + re.escape(peer.encode()) + rb" \.\.\.\n"
        self.before, *sections = re.split(begin, output, flags=re.DOTALL | re.MULTILINE)
        #: encoded names, in the order in which they were sent
        self.names = [encode(name) for name in sections[1::3]]
        self.sections = sections[2::3]
        #: {encoded name: whether a deletion was sent}
        self.deleted = {name: verb == b"Deleting" for name, verb in zip(self.names, sections[::3])}

    @property
    def sent(self) -> set[bytes]:
        """The names of what the peer has taken, as far as it said so, and of what was under way at the end."""
        taken = {name for name, told in zip(self.names, self.sections) if STAYS not in told}
        return taken | set(self.names[-1:])

    @property
    def unreachable(self) -> str:
        """The line in which csync2 says that it could not talk to the peer ("" if there is none)."""
        for line in b"\n".join([self.before, *self.sections]).decode("utf-8", "backslashreplace").splitlines():
            if re.match(r"ERROR: Connection to |SSL: |Peer did ", line):
                return line[:200]
        return ""

    @property
    def lacking(self) -> set[bytes]:
        """The directories, as paths, that the peer lacks, and into which something was to go."""
        sections = zip(self.names, self.sections)
        return {os.path.dirname(decode(name)) for name, told in sections if b"\nmissing parent dir : " in told}

    @property
    def is_cut_off(self) -> bool:
        """
        Tell whether the peer closed the connection in the middle.

        Each path that fails is one error and one line; a goodbye that nobody answers is an error without a line.
        """
        text = b"\n".join(self.sections)
        errors = re.search(rb"(?:^|\n)Finished with (\d+) errors\.\n", text)
        failed = text.count(STAYS)
        return bool(self.names) and (errors is None or int(errors.group(1)) > failed)

    def states(self) -> dict[bytes, PeerState]:
        """``{encoded name: state}`` of what the peer has, as csync2 says with two -v."""
        found = {}
        for name, section in zip(self.names, self.sections):
            text = re.search(rb"^>>> PEER: +(.*)$", section, re.MULTILINE)
            same = b"File is different on peer (rsync sig).\n" not in section
            if text:
                found[name] = PeerState(name, text.group(1), same)
            elif not same or b"File is already up to date on peer.\n" in section:
                found[name] = PeerState(name, None, same)
        return found


def cannot_write(output: bytes) -> str:
    """Given what csync2 -u printed with three -v, return why the peer cannot write a file ("" if it can)."""
    found = _CANNOT_WRITE.search(output)
    return found.group(1).decode() if found else ""


def fetched_record(output: bytes, path: bytes) -> bytes:
    """Given what csync2 -T printed with two -v, return what the peer has recorded of a path, empty if nothing."""
    found = re.search(rb"^Fetched tuple from peer: " + re.escape(path) + rb" \[(\S+)\]$", output, re.MULTILINE)
    return found.group(1) if found else b""


class Compared(NamedTuple):
    """How the records of two hosts differ: paths."""

    different: set[bytes]
    only_here: set[bytes]
    only_there: set[bytes]


def read_comparison(output: bytes, me: str, peer: str, ends: Collection[bytes]) -> Compared:
    """
    Given what csync2 -T printed for two addresses, return how they differ, without the paths that mark the end.

    csync2 reads both lists in the order of encoded names, and compares names: where that is another one, it tells of a
    path that both have as if each had it alone. Then it may differ.
    """
    found: dict[bytes, set[bytes]] = {b"L": set(), b"R": set(), b"X": set()}
    prefix = b"\t%s\t%s\t" % (me.encode(), peer.encode())
    kind, path = b"", b""
    for line in [*output.removesuffix(b"\n").split(b"\n"), b"L" + prefix]:
        if line[:1] in found and line[1:].startswith(prefix):
            if kind:
                found[kind].add(path)
            kind, path = line[:1], line[1 + len(prefix) :]
        else:
            path += b"\n" + line  # csync2 prints names as they are: this one holds a newline
    here, there = found[b"L"].difference(ends), found[b"R"]
    return Compared(found[b"X"] | (here & there), here - there, there - here)
