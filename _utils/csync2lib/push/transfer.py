"""
Send what is dirty in csync2's database to the peers, to all of them at once.

Each run of csync2 sends to one peer, from a small database of its own (``runs``). What the peer has taken is then
deleted from the group's database, here the *shared* one. May be called in threads.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import math
import time
from collections.abc import Collection, Mapping

from csync2lib import beneath, storage
from csync2lib.csync2 import command
from csync2lib.csync2.database import DirtyEntry
from csync2lib.csync2.names import decode
from csync2lib.csync2.namespace import is_below
from csync2lib.csync2.states import is_socket
from csync2lib.errors import CommandError
from csync2lib.push.ledger import PeerLedger
from csync2lib.push.refusals import Refusals
from csync2lib.push.runs import PART, Peer
from csync2lib.push.sending import Job, Sender, file_size
from csync2lib.push.withheld import without_missing

log = logging.getLogger(__name__)

#: Seconds that a peer that failed lately has to answer: a dead host costs the others next to nothing.
DOUBTFUL_WITHIN = 1.0
#: Bytes from which on a file is sent beside the pushes (``large``): a second or two of csync2's.
LARGE = 32 << 20
#: Peers that are sent to at once.
PEERS_AT_ONCE = 8
#: linux/time.h; Python has no name for it.
CLOCK_REALTIME_COARSE = 5


def now() -> float:
    """The time, in seconds since the epoch, that the kernel would give a file now: that of its last tick."""
    return time.clock_gettime(CLOCK_REALTIME_COARSE)


def send_all(
    job: Job, peers: Collection[str], failed: Mapping[str, int] | None = None, large: str | None = None
) -> dict[str, str]:
    """
    Send what is dirty in a database to several peers at once. Returns ``{peer: why it could not be reached}``, with ""
    for one that answered, even if it refused everything. Raises sqlite3.Error; ``job.changed`` is filled all the same.

    failed
        ``{peer: how often in a row it stood still}`` of those that failed lately: they are asked first whether they
        answer, and get twice the time for each time that they stood still.
    large
        Given the group's lock, which the caller does not hold then: send large files alone, one after the other.
    """
    doubtful = failed or {}

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


class Transfer:
    """What one peer is sent. Its methods raise CommandError when the peer cannot be reached. Names are encoded."""

    def __init__(self, job: Job, peer: str, stalled: int = 0, large: bool = False) -> None:
        self.job = job
        self.peer = Peer(job.group, job.database, peer, large)
        self.ledger = PeerLedger(job.notes, peer)
        self.refusals = Refusals(self.peer, self.ledger)
        self.sender = Sender(job, self.peer, self.ledger, self.refusals, stalled)
        #: directories that the peer lacks, which were made dirty because of that
        self.sent_anew: set[bytes] = set()

    def all(self) -> None:
        """Send all that is dirty."""
        with self.peer.prepared():
            left, postponed = self._parts()
            while self._send_lacking():
                left, postponed = self._parts()
            if left or postponed:  # directories that are empty only now, and what replaces them
                left, _ = self._parts()
            self.sender.lacking |= self.refusals.lacking(left)
            if self._send_lacking():
                self._parts()

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
            self.sender.lacking |= self.refusals.lacking(left)
            self._send_lacking()  # the next push sends it

    def _part(self, after: bytes) -> list[DirtyEntry]:
        with self.peer.shared() as shared:
            return shared.part(self.peer.address, after, PART)

    def _is_held(self, entry: DirtyEntry) -> bool:
        return any(is_below(decode(entry.name), place) for place, deletions in self.job.held.items() if not deletions)

    def _send_lacking(self) -> bool:
        """
        Make dirty the directories that the peer turned out to lack. Returns whether there were any. Not what else is in
        them: the peer may have deleted that, and its deletions are on the way.
        """
        lacking, self.sender.lacking = self.sender.lacking - self.sent_anew, set()
        self.sent_anew |= lacking
        with self.peer.shared(write=True) as shared:
            found = [path for path in sorted(lacking) if shared.record(path)]
            shared.make_dirty(found, self.peer.own_address, self.peer.address)
        return bool(found)

    # ---- Parts, and the entries of one

    def _parts(self) -> tuple[list[bytes], bool]:
        """
        Send part after part. Returns (the paths that the peer did not take though it answers, without blocked ones;
        whether something waits until what stands below it is gone).

        What replaces a directory goes after what was in the directory, and only if all that is gone: csync2's two sides
        wait for each other for good when a file is sent to a place where the peer has a directory that is not empty.
        """
        peer, after, postponed = self.peer.address, b"", False
        left: list[bytes] = []
        while True:
            part, being_sent = self._part(after), self.peer.being_sent()
            if not part:
                return left, postponed
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
        ready = [entry for entry in entries if entry not in sockets and not self.refusals.is_blocked(entry.name)]
        waiting = self.sender.send(ready)
        waiting = self._send_unchanged(self._discharged(waiting, self.refusals.gone(waiting)))
        kept = self.refusals.not_empty(waiting)
        if kept:
            log.warning("csyncsync: %s keeps %d directories with what is only there", self.peer.address, len(kept))
        waiting = self._discharged(waiting, kept) + self._send_sockets([*sockets])
        return [decode(entry.name) for entry in waiting]

    def _discharged(self, entries: list[DirtyEntry], needless: set[DirtyEntry]) -> list[DirtyEntry]:
        """Discharge deletions of what the peer cannot have, or has to keep. Returns the other entries."""
        self.sender.discharge(needless, {})
        return [entry for entry in entries if entry not in needless]

    def _send_sockets(self, entries: list[DirtyEntry]) -> list[DirtyEntry]:
        """Have the peer delete what sockets have replaced. Returns the entries of what it did not delete."""
        for attempt in range(2):
            nothing = self.refusals.nothing_at(entries)
            with self.peer.shared(write=True) as shared:
                shared.discharge(nothing)
            entries = [entry for entry in entries if entry not in nothing]
            if entries and not attempt:
                self.sender.run(entries)
        return entries

    def _send_unchanged(self, entries: list[DirtyEntry]) -> list[DirtyEntry]:
        """Send by force what the peer refuses though nobody has changed it there. Returns the other entries."""
        ours = self.refusals.unchanged(entry for entry in entries if not self.refusals.is_blocked(entry.name))
        if ours:
            log.info(
                "csyncsync: %s refuses %d paths that nobody has changed there; they are sent again",
                self.peer.address,
                len(ours),
            )
            taken = self.sender.run([entry._replace(forced=1) for entry in ours]).taken
            ours = {entry for entry in ours if entry.name in taken}
            paths, own = [decode(entry.name) for entry in ours], self.peer.own_address
            with self.peer.shared(write=True) as shared:
                for other in {*self.job.members} - {own, self.peer.address}:  # the peer may have handed on what it had
                    shared.make_dirty(paths, own, other)
        return [entry for entry in entries if entry not in ours]
