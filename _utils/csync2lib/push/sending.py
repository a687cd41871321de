"""
Entries go to one peer, by runs of csync2; and what of its answers is believed.

A peer that cannot write a file does not read what it is sent of that file as content, but as commands. Its answers are
for something else from then on, whatever they say: what it seems to have taken after that has to be sent again.
"""

from __future__ import annotations

import collections
import os
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from csync2lib import beneath, waits
from csync2lib.csync2.database import Database, DirtyEntry
from csync2lib.csync2.names import decode
from csync2lib.csync2.output import GAVE_UP, STAYS, UpdateOutput
from csync2lib.csync2.states import DIRECTORY, FILE, check_text
from csync2lib.errors import CommandError, Interrupted
from csync2lib.push.ledger import PeerLedger
from csync2lib.push.refusals import Refusals
from csync2lib.push.runs import Peer

#: Bytes a second that a peer reads at least, from its disk and of holes; seconds that it may take at most.
READ_RATE, HOLE_RATE, MOST_READING = 10_000_000, 30_000_000, 300.0
#: If the largest file of a run has at most so many bytes, csync2's temporary files, copies of the files that it sends,
#: are in memory: beside the files, each of them would be some events for the watcher.
IN_MEMORY = 1 << 20
#: Bytes of a temporary file in memory at which csync2 is ended, and run again without: the file may grow while csync2
#: reads it to its end.
MOST_IN_MEMORY = 16 << 20
#: How many runs of csync2 for one part may be interrupted: in all; at the same path; in a row by the peer, with
#: nothing sent.
ATTEMPTS, ATTEMPTS_AT_ONE, ATTEMPTS_IN_VAIN = 20, 2, 4
#: Paths in one directory that a peer cannot write, after which it is taken to be able to write none there.
UNWRITTEN = 5
#: Entries that csync2 on the peer may not have committed when it dies: it commits after 1,000 queries, of which an
#: entry takes at least three (db.c, csync_db_maycommit()).
UNCOMMITTED = 400

#: What tells a directory from another one that has taken its place: inode, mode, owner and group.
Identity = tuple[int, int, int, int]


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
    #: ``{place: whether only deletions}`` of places below which nothing, or no deletion, is sent
    held: Mapping[bytes, bool]
    #: is filled with ``{peer: {path: its own words}}`` of what peers cannot write
    cannot_write: dict[str, dict[bytes, str]]
    #: is filled with large files, which are not sent; None: they are sent as others are
    apart: set[bytes] | None = None


class Run(NamedTuple):
    """What came of one run of csync2: encoded names. What is in neither set is still to be sent."""

    taken: set[bytes]
    #: refused, by a peer that was asked why
    refused: set[bytes]
    #: the first that the peer cannot write, and its own words
    unwritten: bytes | None
    words: str
    #: why the run was interrupted, if it was, and the name at which it ended
    why: Interrupted | None
    last: bytes | None


class Sender:
    """What goes to one peer in one push. Its methods raise CommandError when the peer cannot be reached."""

    def __init__(self, job: Job, peer: Peer, ledger: PeerLedger, refusals: Refusals, stalled: int) -> None:
        """``stalled``: how often in a row the peer stood still."""
        self.job, self.peer, self.ledger, self.refusals, self.stalled = job, peer, ledger, refusals, stalled
        #: what directory stood at each place when the last run began
        self.seen: dict[bytes, Identity | None] = {}
        #: directories that the peer lacks
        self.lacking: set[bytes] = set()
        #: how many names in each directory the peer cannot write
        self.unwritten: collections.Counter[bytes] = collections.Counter()

    def send(self, entries: Iterable[DirtyEntry]) -> list[DirtyEntry]:
        """
        Send entries; returns what the peer refuses. What it cannot write is left out for a while, and then comes after
        all else: nothing waits for it.
        """
        first, last = list[DirtyEntry](), list[DirtyEntry]()
        for entry in entries:
            (last if entry.name in self.refusals.blocked.before else first).append(entry)
        return self._attempts(first) + self._attempts(last)

    def _attempts(self, waiting: list[DirtyEntry]) -> list[DirtyEntry]:
        """
        Run csync2, again and again if it is interrupted, or something stays: then the peer is asked why.

        Deletions, which csync2 sends last, go first then: they may be what makes room there.
        """
        refused, deletions, left_out, in_vain = list[DirtyEntry](), list[DirtyEntry](), 0, 0
        ended_at: collections.Counter[bytes | None] = collections.Counter()
        for attempt in range(1, ATTEMPTS + 1):
            if not waiting:
                break
            some, deletions = deletions, []
            sending = some or waiting
            run = self.run(sending, asking=attempt > 1)
            refused += [entry for entry in sending if entry.name in run.refused]
            waiting = [entry for entry in waiting if entry.name not in run.taken | run.refused]
            in_vain = in_vain + 1 if run.why and run.why.by_peer and not run.taken else 0
            ended_at[run.last] += bool(run.why)
            if run.unwritten or (run.last and ended_at[run.last] == ATTEMPTS_AT_ONE):
                self._leave_out(run.unwritten or run.last or b"", run.words, [entry.name for entry in waiting])
                left_out, in_vain = left_out + 1, 0
            if run.why and not left_out and (attempt == ATTEMPTS or in_vain == ATTEMPTS_IN_VAIN):
                raise run.why
            waiting = [entry for entry in waiting if not self.refusals.is_blocked(entry.name)]
            if attempt == 1:
                deletions = [entry for entry in waiting if not beneath.exists(decode(entry.name))]
        return refused

    def _leave_out(self, unwritten: bytes, words: str, others: Collection[bytes]) -> None:
        """Leave out what the peer cannot write; if it is many of one directory, all that is in this directory."""
        directory = os.path.dirname(unwritten)
        self.unwritten[directory] += 1
        many = self.unwritten[directory] >= UNWRITTEN
        names = {name for name in others if many and os.path.dirname(name) == directory}
        self.refusals.blocked.add({unwritten, *names}, unwritten=True)
        self.job.cannot_write.setdefault(self.peer.address, {})[decode(unwritten)] = words or GAVE_UP

    # ---- One run

    def run(self, entries: list[DirtyEntry], asking: bool = False) -> Run:
        """
        One run of csync2. If it is asking, the peer's answers are wanted: what stays may just be refused, as it was
        changed there, too. Without them nothing is believed after the first thing that stays.
        """
        copy = self.peer.copy(entries)
        self.ledger.begin(entry.name for entry in entries)
        noted = self.ledger.noted
        self.seen = {name: identity(name) for name, state in noted.items() if state.endswith(DIRECTORY)}
        try:
            output, why = self._csync2(copy, entries, ("-v", "-v") if asking else ())
        except CommandError as err:
            self.ledger.end((), UpdateOutput(err.output, self.peer.address).sent)
            raise
        told = UpdateOutput(output, self.peer.address)
        with Database(copy, timeout=20) as sent:
            kept = sent.dirty_names()
        if told.is_cut_off and not why:
            problem = f"{self.peer.address} closed the connection, each time: is its disk full?"
            why = Interrupted(problem, output, by_peer=True)
        if told.unreachable:
            self.ledger.end((), told.sent)
            raise CommandError(told.unreachable)
        run, end = _believed({entry.name for entry in entries}, kept, told, why, asking)
        in_doubt = {entry.name for entry in entries} - kept - run.taken
        self.ledger.end(run.taken, in_doubt | (told.sent if why else set()))
        told.cut(end)
        self.lacking |= told.lacking
        self.discharge([entry for entry in entries if entry.name in run.taken], told.deleted)
        return run

    def _csync2(
        self, copy: str, entries: list[DirtyEntry], flags: Sequence[str]
    ) -> tuple[Sequence[bytes], Interrupted | None]:
        """Run csync2 with a copy of entries. Returns its messages, and why it was interrupted, if it was."""
        cwd, limit, sizes = "/", None, [file_size(entry.name) for entry in entries]
        largest = max(size for size, _ in sizes)
        reading = max(there / READ_RATE + size / HOLE_RATE for size, there in sizes)
        if largest <= IN_MEMORY:  # csync2's temporary files are where it runs, beside the copy
            cwd, limit = self.peer.directory, MOST_IN_MEMORY + os.path.getsize(copy)
        try:
            output = self.peer.run(
                *flags,
                patience=(waits.TRANSFER_STALLED_AFTER + min(reading, MOST_READING)) * 2**self.stalled,
                hopeless=lambda: self.refusals.both_wait(copy, entries),
                cwd=cwd,
                largest=limit,
            )
        except Interrupted as err:
            return err.output, err
        return output, None

    def discharge(self, entries: Collection[DirtyEntry], deleted: Mapping[bytes, bool]) -> None:
        """Discharge entries, but for those that the peer may hold in another state than our record."""
        if not entries:
            return
        with self.peer.shared(write=True) as shared:
            differ = {entry for entry in entries if may_differ(shared, entry.name, deleted, self.seen, self.job.since)}
            shared.discharge([entry for entry in entries if entry not in differ])
        self.job.changed.update(decode(entry.name) for entry in differ)


def _believed(
    names: set[bytes], kept: set[bytes], told: UpdateOutput, why: Interrupted | None, asking: bool
) -> tuple[Run, bytes | None]:
    """
    What came of a run, given the names that were to be sent, and those that csync2 has kept; and the name after which
    nothing is believed.
    """
    unwritten, words = next(iter(told.cannot_write.items()), (None, "")) if asking else (None, "")
    stays = next((name for name, section in zip(told.names, told.sections) if STAYS in section), None)
    end = unwritten if asking else stays
    believed = names if end is None else set(told.names[: told.names.index(end)])
    last = told.names[-1] if asking and told.names else told.ended_at
    refused = believed & kept - ({last} if why and last else set()) if asking else set()
    if why:
        refused &= set(told.names)
    taken = believed - kept
    if why and why.by_peer:
        taken -= set(told.names[-UNCOMMITTED:])  # csync2 there may not have committed these
    return Run(taken, refused, unwritten, words, why, last), end


def file_size(name: bytes) -> tuple[int, int]:
    """Given an encoded name, return (a regular file's bytes, those of its blocks): less in one with holes."""
    try:
        status = beneath.lstat(decode(name))
    except OSError:
        return 0, 0
    return (status.st_size, min(status.st_size, status.st_blocks * 512)) if stat.S_ISREG(status.st_mode) else (0, 0)


# --- Whether a peer has taken what is recorded here ------------------------------------------------------


def identity(name: bytes) -> Identity | None:
    """Given an encoded name, tell what stands there; None if nothing does."""
    try:
        status = beneath.lstat(decode(name))
    except OSError:
        return None
    return status.st_ino, status.st_mode, status.st_uid, status.st_gid


def may_differ(
    shared: Database, name: bytes, deleted: Mapping[bytes, bool], seen: Mapping[bytes, Identity | None], since: float
) -> bool:
    """
    True if the peer may hold another state than our record; given ``{name: whether its deletion was sent}``, what
    directory stood at a name when it began to be sent, and when the check before that began.

    csync2 sends what is on the disk, not what it has recorded. If a path changes while it is sent, and changes
    back, or is made after the check and gone before the next one, then that check finds nothing to send, and the
    peer would keep the state in between. A file that is merely written to needs no such care: the watcher knows who
    wrote. It does not know whether it was csync2 that made a link.
    """
    path = decode(name)
    record = shared.record(path)
    if name in deleted and deleted[name] != (record is None):
        return True
    try:
        status = beneath.lstat(path)
    except OSError:
        return record is not None
    if record is None:
        return False
    if FILE in record and stat.S_ISREG(status.st_mode) and status.st_mtime >= since:
        return False
    if record != check_text(path, status):
        return True
    if stat.S_ISDIR(status.st_mode):  # its time tells of the files in it, csync2's temporary ones too
        return seen.get(name) != identity(name)
    return status.st_ctime >= since
