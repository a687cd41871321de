"""
What csync2 says, read: of what it sends (update.c), of what it compares, and of what a peer answers.

It prints names as they are, with newlines and with its own words in them. So its output is never read as one text: a
message is what csync2 wrote at once (``command.run()``), and is recognized as a whole, by how it begins and ends.
"""

from __future__ import annotations

import heapq
import itertools
import operator
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from csync2lib.csync2.names import decode, encode, printable
from csync2lib.csync2.namespace import is_below
from csync2lib.csync2.states import GONE, SOCKET, PeerState, as_told

#: How csync2 says that a path is still to be sent, and that the peer has what stands here.
STAYS = b"File stays in dirty state. Try again later...\n"
_SAME = b"File is already up to date on peer.\n"
#: That contents differ; that a directory is missing above a path (its name follows).
_OTHER_CONTENT, _LACKS = b"File is different on peer (rsync sig).\n", b"missing parent dir : "
#: How a message begins that says that what the peer sends of a file makes no sense (rsync.c): why, it says to its own
#: journal alone.
_BROKEN, GAVE_UP = b"I/O Error '", "its csync2 gives up there; what it says: journalctl -t csync2"
#: How many errors there were; the state of what a peer has, which holds no white space.
_FINISHED = re.compile(rb"Finished with (\d+) errors\.\n")
_PEER_HAS, _TOLD = b">>> PEER:  ", re.compile(rb">>> PEER:  (\S+)\n>>> LOCAL: ")
#: How messages begin that tell of a peer to which csync2 cannot talk.
_UNREACHABLE = (b"ERROR: Connection to ", b"SSL: ", b"Peer did ")

#: What a peer answers that cannot write something (csync2.h: 8 is CR_ERROR; daemon.c: strerror(errno)), as csync2 tells
#: it with three -v, after the name.
_ANSWER, _CANNOT_WRITE = b"response from peer(%s): ", re.compile(rb"\S+ \[8\] <- ([^\n]{1,200})\n")
#: ENOTEMPTY; ENOTDIR, ENOENT, and ELOOP, as it follows no symlink: it has no directory above the path. csync2 speaks
#: English.
NOT_EMPTY = "Directory not empty"
NO_PLACE = ("Not a directory", "No such file or directory", "Too many levels of symbolic links")
_NOT_EMPTY = re.compile(rb"response from peer\(.*\): \S+ \[\d+\] <- Directory not empty\n", re.DOTALL)
#: A record of a peer's: a name, and a state.
_RECORD = re.compile(rb"Fetched tuple from peer: (.+) \[(\S+)\]\n", re.DOTALL)


class UpdateOutput:
    """What csync2 -v -u said about each path, as messages."""

    def __init__(self, messages: Iterable[bytes], peer: str) -> None:
        begins = re.compile(rb"(Updating|Deleting) (.+) on %s \.\.\.\n" % re.escape(peer.encode()), re.DOTALL)
        #: encoded names, in the order in which they were sent, and what was said of each
        self.names: list[bytes] = []
        self.sections: list[list[bytes]] = []
        #: {encoded name: whether a deletion was sent}
        self.deleted: dict[bytes, bool] = {}
        self.messages = list(messages)
        for message in self.messages:
            if begin := begins.fullmatch(message):
                self.names.append(encode(begin.group(2)))
                self.sections.append([])
                self.deleted[self.names[-1]] = begin.group(1) == b"Deleting"
            elif self.sections:
                self.sections[-1].append(message)

    def cut(self, end: bytes | None) -> None:
        """Leave out what was said after this name, if there is one."""
        if end is not None:
            at = self.names.index(end) + 1
            self.names, self.sections = self.names[:at], self.sections[:at]

    @property
    def sent(self) -> set[bytes]:
        """The names of what the peer has taken, as far as it said so, and of what was under way at the end."""
        taken = {name for name, told in zip(self.names, self.sections) if STAYS not in told}
        return taken | set(self.names[-1:])

    @property
    def unreachable(self) -> str:
        """The message in which csync2 says that it could not talk to the peer ("" if there is none)."""
        found = (printable(message.strip())[:200] for message in self.messages if message.startswith(_UNREACHABLE))
        return next(found, "")

    @property
    def lacking(self) -> set[bytes]:
        """The directories, as paths, that the peer lacks, and into which something was to go."""
        sections = zip(self.names, self.sections)
        return {os.path.dirname(decode(name)) for name, told in sections if any(m.startswith(_LACKS) for m in told)}

    @property
    def not_empty(self) -> set[bytes]:
        """The encoded names of the directories that the peer could not remove, as csync2 says with three -v."""
        sections = zip(self.answered, self.sections)
        return {name for name, told in sections if any(map(_NOT_EMPTY.fullmatch, told))}

    @property
    def cannot_write(self) -> dict[bytes, str]:
        """
        ``{encoded name: the peer's own words, or GAVE_UP}`` of the first that it cannot write, as csync2 says with
        three -v; printable. After that, what it answers is for something else: it takes content for commands. Not if it
        says at once that it has no place for it, as something else stands there.
        """
        for name, told in zip(self.names, self.sections):
            before = _ANSWER % decode(name)
            if any(message.startswith(_BROKEN) for message in told):
                return {name: GAVE_UP}
            answers = [message[len(before) :] for message in told if message.startswith(before)]
            for number, answer in enumerate(answers):
                words = printable(found.group(1)) if (found := _CANNOT_WRITE.fullmatch(answer)) else NOT_EMPTY
                if words != NOT_EMPTY and (number or words not in NO_PLACE):
                    return {name: words}
        return {}

    @property
    def ended_at(self) -> bytes | None:
        """
        The name at which a connection that was cut off has ended: the first one that stays, as the peer reads no more
        of a file once it has failed (rsync.c), and nothing makes sense to it after that; else the last one.
        """
        stays = (name for name, told in zip(self.names, self.sections) if STAYS in told)
        return next(stays, self.names[-1] if self.names else None)

    @property
    def answered(self) -> list[bytes]:
        """The names that the peer has said something about."""
        for unwritten in self.cannot_write:
            return self.names[: self.names.index(unwritten) + 1]
        if not self.is_cut_off:
            return self.names
        stays = [at for at, told in enumerate(self.sections) if STAYS in told]
        return self.names[: stays[0] + 1] if stays else self.names[:-1]

    @property
    def is_cut_off(self) -> bool:
        """
        Tell whether the peer closed the connection in the middle.

        Each path that fails is one error and one message; a goodbye that nobody answers is an error without one.
        """
        errors = [int(found.group(1)) for found in map(_FINISHED.fullmatch, self.messages) if found]
        failed = sum(told.count(STAYS) for told in self.sections)
        return bool(self.names) and (not errors or errors[-1] > failed)

    def states(self, here: Mapping[bytes, bytes]) -> dict[bytes, PeerState]:
        """
        ``{encoded name: state}`` of what the peer has, as csync2 says with two -v; given the same of what has stood
        here all the while, as a peer that has that names no state.
        """
        found: dict[bytes, PeerState] = {}
        for name, told in zip(self.names, self.sections):
            same = _OTHER_CONTENT not in told
            if states := [message for message in told if message.startswith(_PEER_HAS)]:
                if text := _TOLD.match(states[0]):
                    found[name] = PeerState(name, text.group(1), same)
            elif not same or _SAME in told:
                if name in here:
                    found[name] = PeerState(name, as_told(here[name]), same)
            elif any(message.startswith(_LACKS) for message in told):
                found[name] = PeerState(name, GONE, False)
        return found


# --- What a peer has recorded ----------------------------------------------------------------------------


def records(messages: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Given what csync2 -T said with two -v, yield the peer's records: ``(path, state)``, in the order of names."""
    return ((found.group(1), found.group(2)) for found in map(_RECORD.fullmatch, messages) if found)


class Compared(NamedTuple):
    """How the records of two hosts differ: paths."""

    different: set[bytes]
    only_here: set[bytes]
    only_there: set[bytes]


def compared(
    here: Iterable[tuple[bytes, bytes]], there: Iterable[tuple[bytes, bytes]], roots: Sequence[bytes]
) -> Compared:
    """
    How the records of this host differ from those of another: each is ``(path, state)``, in the order of names.

    Sockets are nobody's content, and what is in none of these include roots is no path of the group. If a peer names
    paths in another order, those may differ.
    """
    found: tuple[set[bytes], set[bytes], set[bytes]] = set(), set(), set()
    ours = ((encode(path), True, state) for path, state in here if not state.endswith(SOCKET))
    theirs = ((encode(path), False, state) for path, state in there if not state.endswith(SOCKET))
    for name, rows in itertools.groupby(heapq.merge(ours, theirs), operator.itemgetter(0)):
        path, states = decode(name), {mine: state for _, mine, state in rows}
        if len(states) == 1:
            found[1 if True in states else 2].add(path)
        elif states[True] != states[False]:
            found[0].add(path)
    different, only_here, only_there = (
        {path for path in paths if any(is_below(path, root) for root in roots) and os.path.normpath(path) == path}
        for paths in found
    )
    return Compared(different | (only_here & only_there), only_here - only_there, only_there - only_here)
