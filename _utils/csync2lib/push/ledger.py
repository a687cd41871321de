"""
What peers are last known to have: logs of what each was sent last, and of what stood here before a change.

csync2 refuses what is sent to a peer on which the path is dirty. It need not have been changed there: it may be dirty
for a third host that is away, or because csync2 died there before it committed what it had received. If the peer has
the path in a state of its *base*, that is, what both hosts had before, then nobody has changed it there.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from csync2lib import beneath
from csync2lib.csync2.database import Database
from csync2lib.csync2.names import decode, encode
from csync2lib.csync2.states import GONE, UNKNOWN, is_made_here, stands

#: Bytes of a log until it becomes the old one, which is kept until the next one is full: some 10,000 entries each.
MOST = 1_500_000
#: Seconds for which an entry counts: a host that loses power may be off for hours.
KEPT = 86400.0
#: The log of states before changes; and paths of one check that it takes.
BEFORE, NOTED = "before", 5000

_NUMBER = re.compile(rb"[0-9]+(\.[0-9]*)?\Z")
_BEGUN, _TAKEN, _NOT_SENT = b"+", b"=", b"-"


class Taken(NamedTuple):
    """The state in which a peer took a name last; None and 0 if that is not known."""

    state: bytes | None
    #: when it began to be sent, in seconds since the epoch
    when: float


class Begun(NamedTuple):
    """A state in which a name began to be sent, to an end that is unknown."""

    state: bytes
    #: seconds since the epoch
    when: float


_NEVER = Taken(None, 0)


class Log:
    """
    A file with a line when an entry begins to be sent, and one with what came of it.

    It only grows, and is read only once a peer refuses something, so it costs a push two short writes. A line that was
    cut off, by a full disk or a loss of power, is none. Names are encoded and states are csync2's: neither holds white
    space.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self._read: dict[bytes, tuple[Taken, list[Begun]]] | None = None

    def begin(self, states: Mapping[bytes, bytes]) -> None:
        """Note ``{encoded name: state}`` before it is sent."""
        self._append((_BEGUN, name, state) for name, state in states.items())

    def end(self, taken: Iterable[bytes], not_sent: Iterable[bytes]) -> None:
        """Note which of the names that have begun the peer has taken, and which it was not sent, or has refused."""
        self._append([*((_TAKEN, name) for name in taken), *((_NOT_SENT, name) for name in not_sent)])

    def take(self, states: Mapping[bytes, bytes]) -> None:
        """Note ``{encoded name: state}`` that both hosts had."""
        self._append(line for name, state in states.items() for line in ((_BEGUN, name, state), (_TAKEN, name)))

    def taken(self, name: bytes) -> Taken:
        """What was taken last."""
        return self._entries().get(name, (_NEVER, []))[0]

    def begun(self, name: bytes, seconds: float = KEPT) -> list[Begun]:
        """What began within the last seconds."""
        _, begun = self._entries().get(name, (_NEVER, []))
        return [one for one in begun if time.time() - one.when < seconds]

    def _append(self, entries: Iterable[tuple[bytes, ...]]) -> None:
        now = b"%.6f" % time.time()
        text = b"".join(b"\n" + b" ".join((now, *entry)) for entry in entries)
        if not text:
            return
        self._read = None
        with open(self.path, "ab") as file:
            file.write(text)
            full = file.tell() > MOST
        if full:
            os.replace(self.path, f"{self.path}.old")

    def _entries(self) -> dict[bytes, tuple[Taken, list[Begun]]]:
        """``{encoded name: (what was taken last, what has begun since)}``."""
        if self._read is None:
            self._read = {}
            for path in (f"{self.path}.old", self.path):
                try:
                    with open(path, "rb") as file:
                        lines = file.read().split(b"\n")
                except FileNotFoundError:
                    continue
                for line in lines:
                    _take(self._read, line.split(b" "))
        return self._read


def _take(entries: dict[bytes, tuple[Taken, list[Begun]]], words: list[bytes]) -> None:
    """Take in the words of one line."""
    if len(words) < 3 or not _NUMBER.match(words[0]) or not -1 < time.time() - float(words[0]) < KEPT:
        return
    when, what, name, *state = words
    taken, begun = entries.get(name, (_NEVER, []))
    if what == _BEGUN and len(state) == 1:
        entries[name] = (taken, [*begun, Begun(state[0], float(when))])
    elif begun and not state:
        entries[name] = (Taken(*begun[-1]), []) if what == _TAKEN else (taken, begun[:-1])


class PeerLedger:
    """What one peer is sent, noted around each run of csync2, and what follows from that. Names are encoded."""

    def __init__(self, notes: str, peer: str) -> None:
        """``notes`` is the directory of the logs."""
        #: the logs of what was sent, and of what stood here before it was changed
        self.sent, self.before = (Log(os.path.join(notes, name)) for name in (peer, BEFORE))
        #: the states in which the names of the last run stand in the first log
        self.noted: dict[bytes, bytes] = {}

    def begin(self, names: Iterable[bytes]) -> None:
        """
        Note names before they are sent, and in which state: csync2 sends what stands here, as recorded or not.

        If a process dies during a transfer, the peer may have applied a change, or half of it, without committing it,
        even after reporting success. It then treats the change as its own.
        """
        self.noted = {name: stands(decode(name)) for name in names}
        self.sent.begin(self.noted)

    def end(self, done: Collection[bytes], interrupted: Collection[bytes]) -> None:
        """
        Note what the peer has taken (``done``), and what it was not sent (neither done nor ``interrupted``). If a path
        has changed meanwhile, nobody knows in which state the peer took it; if it was interrupted, it may have been
        sent as it is now.
        """
        names = self.noted.keys()
        states = {name: stands(decode(name)) for name in names & {*done, *interrupted}}
        taken = {name for name in states if name in done and states[name] == self.noted[name]}
        self.sent.end(taken, names - states.keys())
        changed = {name: now for name, now in states.items() if name not in done and now != self.noted[name]}
        self.sent.begin(changed)

    def base(self, name: bytes) -> set[bytes]:
        """
        The states in which the peer may have a path if nobody has changed it there: what it last took from here, or,
        if that is newer, what stood here before the last change; and all that it may have been sent since.
        """
        sent, before = self.sent.taken(name), self.before.taken(name)
        last = sent.state if sent.when >= before.when else before.state
        return {one.state for one in self.sent.begun(name)} | ({last} if last else set())


# --- What stood here, and what all have taken ------------------------------------------------------------


class Base:
    """
    Takes the records that a check is about to replace: all hosts have these states, unless the path is dirty already. A
    path without a record may have come from another host, if csync2 died before it could record it: then the state
    before is unknown.

    Not for the first check of a host that has joined: its records may be of changes that it made after it lost its
    database, and that no other host has.
    """

    def __init__(self, notes: str) -> None:
        self.notes, self.left = notes, NOTED

    def note(self, database: Database, records: Mapping[bytes, bytes | None]) -> None:
        """Note ``{path: record}``, some hundred."""
        names = list(records)[: self.left]
        if not names:
            return
        self.left -= len(names)
        _, dirty = database.records(names)
        states = {encode(path): records[path] or _unrecorded(path) for path in names if path not in dirty}
        os.makedirs(self.notes, mode=0o700, exist_ok=True)
        Log(os.path.join(self.notes, BEFORE)).take(states)


def note_received(notes: str, peers: Iterable[str], records: Mapping[bytes, bytes | None]) -> None:
    """
    Given ``{path: record}``, note what came from other hosts as what all had: it is newer than anything that was sent
    from here before, so who still, or again, has that has not missed a change of this host.
    """
    logs, before = [Log(os.path.join(notes, peer)) for peer in peers], Log(os.path.join(notes, BEFORE))

    def is_own(name: bytes, state: bytes) -> bool:
        if any(state in {log.taken(name).state, *(one.state for one in log.begun(name))} for log in logs):
            return True
        if state == GONE:
            return _was_found_gone(before, name)
        changed = _changed(decode(name))
        return bool(changed and changed <= before.taken(name).when)

    states = {encode(path): record or GONE for path, record in records.items()}
    received = {name: state for name, state in states.items() if not is_own(name, state)}
    os.makedirs(notes, mode=0o700, exist_ok=True)
    before.take(received)


def found_gone(notes: str, paths: Iterable[bytes]) -> set[bytes]:
    """Of these paths, those that were deleted on this host, and not by csync2's server: that notes nothing."""
    before = Log(os.path.join(notes, BEFORE))
    return {path for path in paths if _was_found_gone(before, encode(path))}


def _was_found_gone(before: Log, name: bytes) -> bool:
    return before.taken(name).state not in (None, GONE)


def _changed(path: bytes) -> float | None:
    """When what stands at a path was changed last; None if nothing is there."""
    with contextlib.suppress(OSError):
        return beneath.lstat(path).st_ctime
    return None


def _unrecorded(path: bytes) -> bytes:
    return GONE if is_made_here(path) else UNKNOWN


def taken(notes: str, peers: Iterable[str], heard: Mapping[bytes, float]) -> set[bytes]:
    """
    The paths that all these peers have taken from here since the watcher last heard of a change of them.

    heard
        ``{path: when that was, in seconds since the epoch}``.

    The watcher may hear of a file only after a check of its directory has found it, and it has been sent. Sent again,
    it would be in conflict with what another host has made of it since.
    """
    logs = [Log(os.path.join(notes, peer)) for peer in peers]
    found = {path: (encode(path), stands(path)) for path in heard}
    return {path for path, when in heard.items() if all(_has(log, *found[path], when) for log in logs)}


def _has(log: Log, name: bytes, state: bytes, since: float) -> bool:
    """Tell whether a peer has taken a name that began to be sent in this state since then, and nothing after that."""
    last = log.taken(name)
    return last.state == state and last.when > since and not log.begun(name)
