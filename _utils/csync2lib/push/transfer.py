"""
Send what is dirty in csync2's database to the peers, to all of them at once.

Each run of csync2 sends to one peer, from a small database of its own (``runs``). What the peer has taken is then
deleted from the group's database, here the *shared* one. May be called in threads.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import logging
import math
import os
import stat
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from csync2lib import beneath, storage, waits
from csync2lib.csync2 import command
from csync2lib.csync2.database import Database, DirtyEntry
from csync2lib.csync2.names import decode, encode
from csync2lib.csync2.namespace import is_below
from csync2lib.csync2.output import UpdateOutput
from csync2lib.csync2.states import DIRECTORY, is_socket
from csync2lib.errors import CommandError, Interrupted
from csync2lib.push.ledger import PeerLedger
from csync2lib.push.refusals import Refusals
from csync2lib.push.runs import PART, Peer
from csync2lib.push.taken import Identity, identity, may_differ
from csync2lib.push.withheld import without_missing

log = logging.getLogger(__name__)

#: Seconds that a peer that failed lately has to answer: a dead host costs the others next to nothing.
DOUBTFUL_WITHIN = 1.0
#: Bytes a second that a peer reads at least, from its disk and of holes; seconds that it may take at most.
READ_RATE, HOLE_RATE, MOST_READING = 10_000_000, 30_000_000, 300.0
#: Bytes from which on a file is sent beside the pushes (``large``): a second or two of csync2's.
LARGE = 32 << 20
#: Peers that are sent to at once.
PEERS_AT_ONCE = 8
#: If the largest file of a run has at most so many bytes, csync2's temporary files, copies of the files that it sends,
#: are in memory: beside the files, each of them would be some events for the watcher.
IN_MEMORY = 1 << 20
#: Bytes of a temporary file in memory at which csync2 is ended, and run again without: the file may grow while csync2
#: reads it to its end.
MOST_IN_MEMORY = 16 << 20
#: How many runs of csync2 for one part may be interrupted: in all; at the same path; in a row by the peer, with
#: nothing sent.
ATTEMPTS, ATTEMPTS_AT_ONE, ATTEMPTS_IN_VAIN = 20, 2, 4
#: How often in one push the rest is sent after something was found that a peer cannot write.
ROUNDS = 20
#: Paths in one directory that a peer cannot write, after which it is taken to be able to write none there.
UNWRITTEN = 5
#: Entries that csync2 on the peer may not have committed when it dies: it commits after 1,000 queries, of which an
#: entry takes at least three (db.c, csync_db_maycommit()).
UNCOMMITTED = 400
#: linux/time.h; Python has no name for it.
CLOCK_REALTIME_COARSE = 5


def now() -> float:
    """The time, in seconds since the epoch, that the kernel would give a file now: that of its last tick."""
    return time.clock_gettime(CLOCK_REALTIME_COARSE)


class Job(NamedTuple):
    """What is the same for all peers in one push."""

    group: str
    #: csync2's database
    database: str
    #: the directory of the peers' ledgers
    notes: str
    #: the addresses of all hosts of the group
    members: Collection[str]
    #: when csync2's check of this push began, by now(): what changes later is to be checked again
    since: float
    #: is filled with paths that are to be checked again, because the peer may hold another state than our record
    changed: set[bytes]
    #: is filled with large files, which are not sent; None: they are sent as others are
    apart: set[bytes] | None = None
    #: ``{place: whether only deletions}`` of places below which nothing, or no deletion, is sent
    held: Mapping[bytes, bool] = {}
    #: is filled with ``{peer: {path: its own words}}`` of what peers cannot write
    cannot_write: dict[str, dict[bytes, str]] = {}


def send_all(
    group: str,
    database: str,
    notes: str,
    peers: Collection[str],
    members: Collection[str],
    since: float,
    changed: set[bytes],
    failed: Mapping[str, int] | None = None,
    apart: set[bytes] | None = None,
    large: str | None = None,
    held: Mapping[bytes, bool] | None = None,
    cannot_write: dict[str, dict[bytes, str]] | None = None,
) -> dict[str, str]:
    """
    Send what is dirty in a database to several peers at once. Returns ``{peer: why it could not be reached}``, with ""
    for one that answered, even if it refused everything. Raises sqlite3.Error.

    notes
        Made if it is missing.
    changed
        Is filled also when an error is raised.
    failed
        ``{peer: how often in a row it stood still}`` of those that failed lately: they are asked first whether they
        answer, and get twice the time for each time that they stood still.
    large
        Given the group's lock, which the caller does not hold then: send large files alone, one after the other.

    Job explains the others.
    """
    told = {} if cannot_write is None else cannot_write
    job, doubtful = Job(group, database, notes, members, since, changed, apart, held or {}, told), failed or {}
    os.makedirs(notes, mode=0o700, exist_ok=True)

    def send(peer: str) -> str:
        if peer in doubtful and not command.answers(peer, DOUBTFUL_WITHIN):
            return f"Connection to {peer} failed: it does not answer"
        try:
            transfer = Transfer(job, peer, doubtful.get(peer, 0), bool(large))
            transfer.large(large) if large else transfer.all()
        except CommandError as err:
            return str(err)
        return ""

    with concurrent.futures.ThreadPoolExecutor(max_workers=PEERS_AT_ONCE) as pool:
        return dict(zip(peers, pool.map(send, peers)))


class Parts(NamedTuple):
    """What came of sending part after part."""

    #: the paths that the peer did not take though it answers, without blocked ones
    left: list[bytes]
    #: whether something waits until what stands below it is gone
    postponed: bool


class Run(NamedTuple):
    """What came of one run of csync2."""

    #: the names that are still to be sent
    kept: set[bytes]
    #: why it was interrupted, if it was
    why: Interrupted | None
    #: the name at which it ended
    last: bytes | None


class Transfer:
    """What one peer is sent. Its methods raise CommandError when the peer cannot be reached. Names are encoded."""

    def __init__(self, job: Job, peer: str, stalled: int = 0, large: bool = False) -> None:
        """``stalled``: how often in a row the peer stood still."""
        self.job, self.stalled = job, stalled
        self.peer = Peer(job.group, job.database, peer, large)
        self.ledger = PeerLedger(job.notes, peer)
        self.refusals = Refusals(self.peer, self.ledger)
        #: what directory stood at each place when the last run began
        self.seen: dict[bytes, Identity | None] = {}
        #: directories that the peer lacks; those that were made dirty because of that
        self.lacking, self.sent_anew = set[bytes](), set[bytes]()
        #: names at which csync2 on the peer has given up
        self.unwritten: list[bytes] = []

    def all(self) -> None:
        """Send all that is dirty."""
        with self.peer.prepared():
            left = self._all()
            for _ in range(ROUNDS):
                if not self._note_why(left):
                    break
                left = self._all()  # it has not understood what came after something that it cannot write

    def _all(self) -> list[bytes]:
        """Returns the paths that the peer did not take."""
        parts = self._parts()
        while self._send_lacking():
            parts = self._parts()
        left = parts.left
        if parts.left or parts.postponed:  # directories that are empty only now, and what replaces them
            left = self._parts().left
        self.lacking |= self.refusals.lacking(left)
        return self._parts().left if self._send_lacking() else left

    def large(self, lock: str) -> None:
        """
        Send the large files that are dirty, the smallest first.

        No push begins to send one, or its deletion, while it is sent here, as what arrives last would stay. No push is
        under way when it begins.
        """
        sizes, after = {}, b""
        with self.peer.prepared():
            while part := self._part(after):
                after, self.peer.own = part[-1].name, part[-1].own
                part = [entry for entry in part if not self._is_held(entry)]
                sizes.update({entry: size for entry in part if (size := file_size(entry.name)[0]) > LARGE})
            left: list[bytes] = []
            for entry in sorted(sizes, key=lambda entry: sizes[entry]):
                storage.write(self.peer.sending, entry.name, durable=False)
                with contextlib.ExitStack() as stack:
                    with storage.locked(lock, math.inf), self.peer.shared(write=True) as shared:
                        claimed = shared.claim(entry)
                        stack.enter_context(storage.locked(self.peer.sending))
                    left += self._entries([claimed] if claimed else [])
            self.lacking |= self.refusals.lacking(left)
            self._send_lacking()  # the next push sends it
            self._note_why(left)

    def _note_why(self, left: list[bytes]) -> bool:
        """Note what the peer cannot write, and leave that out for a while. Returns whether any of it was left."""
        told = self.job.cannot_write.setdefault(self.peer.address, {})
        why = self.refusals.ask_why([*left, *(decode(name) for name in self.unwritten if decode(name) not in told)])
        told.update(why)
        names = [encode(path) for path in why if path in left]
        for name in names:
            self._leave_out(name, map(encode, left))
        return bool(names)

    def _part(self, after: bytes) -> list[DirtyEntry]:
        with self.peer.shared() as shared:
            return shared.part(self.peer.address, after, PART)

    def _is_held(self, entry: DirtyEntry) -> bool:
        return any(is_below(decode(entry.name), place) for place, deletions in self.job.held.items() if not deletions)

    def _send_lacking(self) -> bool:
        """
        Make dirty the directories that the peer turned out to lack, and all in them. Returns whether there were any.

        csync2 would do that itself, but the database of its run has no records.
        """
        lacking, self.lacking = self.lacking - self.sent_anew, set()
        if not lacking:
            return False
        self.sent_anew |= lacking
        with self.peer.shared(write=True) as shared:
            found = {path for directory in lacking for path in shared.below(directory)}
            shared.make_dirty(sorted(found), self.peer.own_address, self.peer.address)
        return bool(found)

    # ---- Parts, and the entries of one

    def _parts(self) -> Parts:
        """
        Send part after part.

        What replaces a directory goes after what was in the directory, and only if all that is gone: csync2's two sides
        wait for each other for good when a file is sent to a place where the peer has a directory that is not empty.
        """
        peer, after, postponed = self.peer.address, b"", False
        left: list[bytes] = []
        while True:
            part, being_sent = self._part(after), self.peer.being_sent()
            if not part:
                return Parts(left, postponed)
            with self.peer.shared() as shared:
                above = shared.above_dirty(peer, part[0].name, part[-1].name)
            late = {entry for entry in part if entry.name in above and beneath.is_no_directory(decode(entry.name))}
            after, self.peer.own = part[-1].name, part[-1].own
            apart = {entry for entry in part if being_sent and (entry.name + b"/").startswith(being_sent + b"/")}
            apart.update(filter(self._is_held, part))
            if self.job.apart is not None:
                apart |= {entry for entry in part if file_size(entry.name)[0] > LARGE}
                self.job.apart.update(decode(entry.name) for entry in apart)
            part, late = [entry for entry in part if entry not in apart], late - apart
            left += self._entries([entry for entry in part if entry not in late])
            if late:
                with self.peer.shared() as shared:
                    above = shared.above_dirty(peer, part[0].name, part[-1].name)
                ready = [entry for entry in late if entry.name not in above]
                postponed = postponed or len(ready) < len(late)
                left += self._entries(ready)

    def _entries(self, entries: list[DirtyEntry]) -> list[bytes]:
        """Send some entries. Returns the paths that the peer did not take, without blocked ones."""
        entries, missed = without_missing(entries, self.job.held, self.peer)
        self.job.changed.update(missed)
        sockets = {entry for entry in entries if is_socket(decode(entry.name))}
        waiting = self._sent_by_runs(self._not_blocked(entry for entry in entries if entry not in sockets))
        waiting = self._send_unchanged(self._without_gone(waiting))
        waiting = self._without_kept(waiting) + self._send_sockets([*sockets])
        return [decode(entry.name) for entry in waiting]

    def _sent_by_runs(self, waiting: list[DirtyEntry]) -> list[DirtyEntry]:
        """
        Run csync2, again and again if it is interrupted. Returns what the peer did not take.

        A peer that cannot write a file closes the connection (it has not read what comes behind), so that file is left
        out for a while. Deletions, which csync2 sends last, go first then: they may be what makes room there.
        """
        ended_at: collections.Counter[bytes | None] = collections.Counter()
        in_vain, deletions = 0, list[DirtyEntry]()
        for attempt in range(1, ATTEMPTS + 1):
            if not waiting:
                break
            some, deletions = deletions, []
            sending = some or waiting
            kept, why, last = self._run(sending)
            in_vain = in_vain + 1 if why and why.by_peer and len(kept) >= len(sending) else 0
            if why and (attempt == ATTEMPTS or in_vain == ATTEMPTS_IN_VAIN):
                raise why
            taken = {entry.name for entry in sending} - kept
            waiting = [entry for entry in waiting if entry.name not in taken]
            if not why and not some:
                break
            ended_at[last] += bool(why)
            if last and ended_at[last] == ATTEMPTS_AT_ONE:
                waiting, in_vain = self._without_unwritten(waiting, last), 0
            waiting = self._not_blocked(waiting)
            if attempt == 1:
                deletions = [entry for entry in waiting if not beneath.exists(decode(entry.name))]
        return waiting

    def _without_unwritten(self, entries: list[DirtyEntry], last: bytes) -> list[DirtyEntry]:
        """Leave out what the peer cannot write."""
        names = self._leave_out(last, (entry.name for entry in entries))
        return [entry for entry in entries if entry.name not in names]

    def _leave_out(self, unwritten: bytes, others: Iterable[bytes]) -> set[bytes]:
        """Of many of one directory, leave out all that is in this directory. Returns what is left out now."""
        directory = os.path.dirname(unwritten)
        self.unwritten.append(unwritten)
        many = sum(os.path.dirname(name) == directory for name in self.unwritten) >= UNWRITTEN
        names = {name for name in others if os.path.dirname(name) == directory} if many else {unwritten}
        self.refusals.blocked.add(names, unwritten=True)
        return names

    def _not_blocked(self, entries: Iterable[DirtyEntry]) -> list[DirtyEntry]:
        return [entry for entry in entries if not self.refusals.is_blocked(entry.name)]

    def _without_gone(self, entries: list[DirtyEntry]) -> list[DirtyEntry]:
        """Discharge deletions of what the peer cannot have. Returns the other entries."""
        gone = self.refusals.gone(entries)
        self._discharge(gone, {})
        return [entry for entry in entries if entry not in gone]

    def _without_kept(self, entries: list[DirtyEntry]) -> list[DirtyEntry]:
        """Discharge deletions of directories that the peer has to keep. Returns the other entries."""
        kept = self.refusals.not_empty(entries)
        if kept:
            log.warning("csyncsync: %s keeps %d directories with what is only there", self.peer.address, len(kept))
            self._discharge(kept, {})
        return [entry for entry in entries if entry not in kept]

    def _send_sockets(self, entries: list[DirtyEntry]) -> list[DirtyEntry]:
        """Have the peer delete what sockets have replaced. Returns the entries of what it did not delete."""
        for attempt in range(2):
            nothing = self.refusals.nothing_at(entries)
            with self.peer.shared(write=True) as shared:
                shared.discharge(self.peer.address, nothing)
            entries = [entry for entry in entries if entry not in nothing]
            if entries and not attempt:
                self._run(entries)
        return entries

    def _send_unchanged(self, entries: list[DirtyEntry]) -> list[DirtyEntry]:
        """Send by force what the peer refuses though nobody has changed it there. Returns the other entries."""
        ours = self.refusals.unchanged(entries)
        if ours:
            log.info(
                "csyncsync: %s refuses %d paths that nobody has changed there; they are sent again",
                self.peer.address,
                len(ours),
            )
            kept = self._run([entry._replace(forced=1) for entry in ours]).kept
            ours = {entry for entry in ours if entry.name not in kept}
            paths, own = [decode(entry.name) for entry in ours], self.peer.own_address
            with self.peer.shared(write=True) as shared:
                for other in {*self.job.members} - {own, self.peer.address}:  # the peer may have handed on what it had
                    shared.make_dirty(paths, own, other)
        return [entry for entry in entries if entry not in ours]

    # ---- One run

    def _run(self, entries: list[DirtyEntry]) -> Run:
        """One run of csync2."""
        copy = self.peer.copy(entries)
        self.ledger.begin(entry.name for entry in entries)
        noted = self.ledger.noted
        self.seen = {name: identity(name) for name, state in noted.items() if state.endswith(DIRECTORY)}
        try:
            output, why = self._csync2(copy, entries)
        except CommandError as err:
            self.ledger.end((), UpdateOutput(err.output, self.peer.address).sent)
            raise
        told = UpdateOutput(output, self.peer.address)
        with Database(copy, timeout=20) as sent:
            kept = sent.dirty_names()
        if told.is_cut_off and not why:
            problem = f"{self.peer.address} closed the connection, each time: is its disk full?"
            why = Interrupted(problem, output, by_peer=True)
        if why and why.by_peer:
            kept |= set(told.names[-UNCOMMITTED:])  # csync2 there may not have committed these
        done = {entry.name for entry in entries} - kept
        self.ledger.end(done, told.sent if why else ())
        if told.unreachable:
            raise CommandError(told.unreachable)
        self.lacking |= told.lacking
        self._discharge([entry for entry in entries if entry.name in done], told.deleted)
        return Run(kept, why, told.ended_at)

    def _csync2(self, copy: str, entries: list[DirtyEntry]) -> tuple[Sequence[bytes], Interrupted | None]:
        """Run csync2 with a copy of entries. Returns its messages, and why it was interrupted, if it was."""
        cwd, limit, sizes = "/", None, [file_size(entry.name) for entry in entries]
        largest = max(size for size, _ in sizes)
        reading = max(there / READ_RATE + size / HOLE_RATE for size, there in sizes)
        if largest <= IN_MEMORY:  # csync2's temporary files are where it runs, beside the copy
            cwd, limit = self.peer.directory, MOST_IN_MEMORY + os.path.getsize(copy)
        try:
            output = self.peer.run(
                patience=(waits.TRANSFER_STALLED_AFTER + min(reading, MOST_READING)) * 2**self.stalled,
                hopeless=lambda: self.refusals.both_wait(copy, entries),
                cwd=cwd,
                largest=limit,
            )
        except Interrupted as err:
            return err.output, err
        return output, None

    # ---- What the peer has taken

    def _discharge(self, entries: Collection[DirtyEntry], deleted: Mapping[bytes, bool]) -> None:
        """Discharge entries, but for those that the peer may hold in another state than our record."""
        if not entries:
            return
        with self.peer.shared(write=True) as shared:
            differ = {entry for entry in entries if may_differ(shared, entry.name, deleted, self.seen, self.job.since)}
            shared.discharge(self.peer.address, [entry for entry in entries if entry not in differ])
        self.job.changed.update(decode(entry.name) for entry in differ)


def file_size(name: bytes) -> tuple[int, int]:
    """Given an encoded name, return (a regular file's bytes, those of its blocks): less in one with holes."""
    try:
        status = beneath.lstat(decode(name))
    except OSError:
        return 0, 0
    return (status.st_size, min(status.st_size, status.st_blocks * 512)) if stat.S_ISREG(status.st_mode) else (0, 0)
