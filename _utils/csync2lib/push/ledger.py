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
from collections.abc import Collection, Iterable, Iterator, Mapping
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


class Sent(NamedTuple):
    """A state in which a name was sent, and when that began, in seconds since the epoch; b"" and 0: it is not known."""

    state: bytes
    when: float


_NEVER = Sent(b"", 0)


class Log:
    """
    A file with a line when an entry begins to be sent, and one with what came of it.

    It only grows, and is read only once a peer refuses something, so it costs a push two short writes. A line that was
    cut off, by a full disk or a loss of power, is none. Names are encoded and states are csync2's: neither holds white
    space.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self._read: dict[bytes, tuple[Sent, list[Sent]]] | None = None

    def begin(self, states: Mapping[bytes, bytes]) -> None:
        """Note ``{encoded name: state}`` before it is sent."""
        self._append((_BEGUN, name, state) for name, state in states.items())

    def end(self, taken: Iterable[bytes], not_sent: Iterable[bytes]) -> None:
        """Note which of the names that have begun the peer has taken, and which it was not sent, or has refused."""
        self._append([*((_TAKEN, name) for name in taken), *((_NOT_SENT, name) for name in not_sent)])

    def take(self, states: Mapping[bytes, bytes]) -> None:
        """Note ``{encoded name: state}`` that both hosts had."""
        self._append(line for name, state in states.items() for line in ((_BEGUN, name, state), (_TAKEN, name)))

    def taken(self, name: bytes) -> Sent:
        """What was taken last."""
        return self._entries().get(name, (_NEVER, []))[0]

    def all_taken(self) -> dict[bytes, Sent]:
        return {name: taken for name, (taken, _) in self._entries().items()}

    def begun(self, name: bytes, seconds: float = KEPT) -> list[Sent]:
        """What began within the last seconds, to an end that is unknown."""
        _, begun = self._entries().get(name, (_NEVER, []))
        return [one for one in begun if time.time() - one.when < seconds]

    def history(self, names: Collection[bytes]) -> dict[bytes, set[bytes]]:
        """All states in which names have begun to be sent, or stood here before a change."""
        found: dict[bytes, set[bytes]] = {name: set() for name in names}
        for words in self._lines():
            if len(words) == 4 and words[1] == _BEGUN and words[2] in found:
                found[words[2]].add(words[3])
        return found

    def _append(self, entries: Iterable[tuple[bytes, ...]]) -> None:
        now = b"%.6f" % time.time()
        text = b"".join(b"\n" + b" ".join((now, *entry)) for entry in entries)
        if not text:
            return
        self._read = None
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        with open(self.path, "ab") as file:
            file.write(text)
            full = file.tell() > MOST
        if full:
            os.replace(self.path, f"{self.path}.old")

    def _entries(self) -> dict[bytes, tuple[Sent, list[Sent]]]:
        """``{encoded name: (what was taken last, what has begun since)}``."""
        if self._read is None:
            self._read = {}
            for words in self._lines():
                _take(self._read, words)
        return self._read

    def _lines(self) -> Iterator[list[bytes]]:
        for path in (f"{self.path}.old", self.path):
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                yield from (line.split(b" ") for line in file.read().split(b"\n"))


def _take(entries: dict[bytes, tuple[Sent, list[Sent]]], words: list[bytes]) -> None:
    """Take in the words of one line."""
    if len(words) < 3 or not _NUMBER.match(words[0]) or not -1 < time.time() - float(words[0]) < KEPT:
        return
    when, what, name, *state = words
    taken, begun = entries.get(name, (_NEVER, []))
    if what == _BEGUN and len(state) == 1:
        entries[name] = (taken, [*begun, Sent(state[0], float(when))])
    elif begun and not state:
        entries[name] = (begun[-1], []) if what == _TAKEN else (taken, begun[:-1])


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
        clean = [path for path in names if path not in dirty]
        states = {encode(path): records[path] or (GONE if is_made_here(path) else UNKNOWN) for path in clean}
        Log(os.path.join(self.notes, BEFORE)).take(states)


def made_here(notes: str, peers: Iterable[str], records: Mapping[bytes, bytes | None]) -> dict[bytes, set[bytes]]:
    """
    ``{path: states in which it was known here before}`` of the paths, of ``{path: record}``, whose state this host has
    made, as far as is known; others came from hosts.
    """
    logs, before = [Log(os.path.join(notes, peer)) for peer in peers], Log(os.path.join(notes, BEFORE))

    def is_own(name: bytes, state: bytes) -> bool:
        if before.taken(name).state == state:
            return False  # all had it, or it was found to have come from another host
        if any(state in {log.taken(name).state, *(one.state for one in log.begun(name))} for log in logs):
            return True
        if state == GONE:  # csync2's server notes nothing of what it deletes
            return before.taken(name).state not in (b"", GONE)
        with contextlib.suppress(OSError):
            return beneath.lstat(decode(name)).st_ctime <= before.taken(name).when
        return False

    own = {name: state for path, record in records.items() if is_own(name := encode(path), state := record or GONE)}
    found = [log.history(own) for log in (*logs, before)] if own else []
    return {decode(name): set[bytes]().union(*(one[name] for one in found)) - {own[name]} for name in own}


def note_received(notes: str, peers: Iterable[str], records: Mapping[bytes, bytes | None]) -> None:
    """
    Given ``{path: record}``, note what came from other hosts as what all had: it is newer than anything that was sent
    from here before, so who still, or again, has that has not missed a change of this host.
    """
    own = made_here(notes, peers, records)
    received = {encode(path): record or GONE for path, record in records.items() if path not in own}
    Log(os.path.join(notes, BEFORE)).take(received)


def taken(notes: str, peers: Iterable[str], heard: Mapping[bytes, float]) -> set[bytes]:
    """
    The paths that all these peers have taken from here since the watcher last heard of a change of them.

    heard
        ``{path: when that was, in seconds since the epoch}``.

    The watcher may hear of a file only after a check of its directory has found it, and it has been sent. Sent again,
    it would be in conflict with what another host has made of it since.
    """
    logs = [Log(os.path.join(notes, peer)) for peer in peers]

    def has(log: Log, name: bytes, state: bytes, when: float) -> bool:  # and nothing after that
        last = log.taken(name)
        return last.state == state and last.when > when and not log.begun(name)

    found = {path: (encode(path), stands(path)) for path in heard}
    return {path for path, when in heard.items() if all(has(log, *found[path], when) for log in logs)}


def there(notes: str, peers: Iterable[str], since: float) -> dict[bytes, bytes]:
    """``{path: state}`` of what peers have taken from here since then: GONE only if all of them have that."""
    logs = [Log(os.path.join(notes, peer)) for peer in peers]
    found = [(name, one.state) for log in logs for name, one in log.all_taken().items() if one.when >= since]
    return {decode(name): state for name, state in sorted(found, key=lambda one: one[1] != GONE)}
