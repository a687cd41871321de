"""
Send what is marked in csync2's database to the peers, to all of them at once.

Each peer gets runs of csync2 of its own, with a copy of its part of the database: runs that share a database wait for
each other by whole seconds, and keep csync2's server from writing into it. What the peer has taken is discharged in the
shared database after each run.

May call ``csync2`` (names, states, the database), ``csync2run`` and ``csync2sent``; knows nothing of Salt, so that it
may run in threads.
"""

import collections
import concurrent.futures
import contextlib
import logging
import os
import re
import shutil
import stat
import time

from csync2lib import waits
from csync2lib.csync2 import command
from csync2lib.csync2.database import Database, Entry
from csync2lib.csync2.names import TEMPDIR, decode, encode
from csync2lib.csync2.states import check_text, is_made_here
from csync2lib.errors import CommandError, Interrupted
from csync2lib.push import ledger

log = logging.getLogger(__name__)

#: Where a send keeps its copy of the peer's part of the database: in memory, because a crash loses nothing with it.
RUN_DIR = "/run/csyncsync"
#: Seconds that a peer that failed lately has to answer: a dead host costs the others next to nothing.
DOUBTFUL_WITHIN = 1.0
#: Bytes a second that a peer reads at least.
READ_RATE = 10_000_000
#: Peers that are sent to at once, and entries that one run of csync2 sends to one of them.
PEERS_AT_ONCE = 8
PART = 5000
#: Bytes of the largest file that a run sends up to which csync2's temporary files, which hold it too, are in memory,
#: and not beside the file, where each of them is some events for the watcher.
IN_MEMORY = 1 << 20
#: Bytes of such a temporary file at which csync2 is ended, and then run again without: the file that it is for may have
#: just begun to be written, and csync2 reads it to its end.
MOST_IN_MEMORY = 16 << 20
#: Runs of csync2 for one part, when something interrupts them; those that end at the same path; those in a row that the
#: peer ends, and that send nothing.
ATTEMPTS, ATTEMPTS_AT_ONE, ATTEMPTS_IN_VAIN = 20, 2, 4
#: Files for which a peer is asked why it does not take them, and paths for which it is asked what is above them.
ASKED_WHY, ASKED_ABOVE = 3, 1000
#: Entries that csync2 on the peer may not have committed when it dies: it commits after 1,000 queries, of which an
#: entry takes at least three (db.c, csync_db_maycommit()).
UNCOMMITTED = 400
#: linux/time.h; Python has no name for it.
CLOCK_REALTIME_COARSE = 5
#: Seconds after an interruption for which a peer's file counts as half made, if it has the content of the one here, or
#: the size of what was sent. Hosts boot for minutes.
COMPLETED_WITHIN = 600.0
#: The log of states before changes; paths of one check that it takes, and rows that are read at once.
BEFORE, NOTED, ROWS = "before", 5000, 200
#: Seconds from the note that an entry is to be sent until csync2 has read it, in a part of many.
SENT_WITHIN = 60.0


#: What a peer answers that cannot write a file (daemon.c: strerror(errno)), as csync2 tells it with three -v.
_CANNOT_WRITE = re.compile(
    rb"^response from peer\(.*\): \S+ \[\d+\] <- "
    rb"(No space left on device|Read-only file system|Disk quota exceeded|Input/output error)$",
    re.MULTILINE,
)


def send_all(group, database, notes, peers, members, since, changed, failed=None):
    """
    Send what is marked in a database to several peers at once. Returns ``{peer: why it could not be reached}``, with ""
    for one that answered, whatever it refused. Raises sqlite3.Error.

    members
        The addresses of all hosts of the group.
    notes
        A directory, made if it is missing, for the logs of what the peers were sent: they outlive a loss of power.
    since
        When csync2's check of this push began, by the kernel's clock (now()): what has changed after that stays marked.
    changed
        A set that takes the paths, as bytes, that are to be checked again, because csync2 has recorded another state
        than they have; also when an error is raised.
    failed
        ``{peer: how often in a row it stood still}`` of those that failed lately: they are asked first whether they
        answer, and get the more time the more often they stood still.
    """
    failed = failed or {}
    os.makedirs(notes, mode=0o700, exist_ok=True)

    def send(peer):
        if peer in failed and not command.answers(peer, DOUBTFUL_WITHIN):
            return f"Connection to {peer} failed: it does not answer"
        try:
            _Send(group, database, notes, peer, members, since, failed.get(peer, 0), changed).all()
        except CommandError as err:
            return str(err)
        return ""

    with concurrent.futures.ThreadPoolExecutor(max_workers=PEERS_AT_ONCE) as pool:
        return dict(zip(peers, pool.map(send, peers)))


class _Send:
    """
    What one peer is sent. Its methods raise CommandError when the peer cannot be reached.

    Entries are csync2.Entry; names are as csync2 writes them into its database. ``changed`` takes the paths that are to
    be checked again.
    """

    def __init__(self, group, database, notes, peer, members, since, stalled, changed):
        self.group, self.database, self.peer, self.members = group, database, peer, members
        self.since, self.stalled, self.changed = since, stalled, changed
        self.directory = os.path.join(RUN_DIR, group, peer)
        self.blocked = _Blocked(f"{self.directory}.blocked")
        #: what directory stood at each place when the last run began
        self.seen = {}
        #: directories that the peer lacks, those that were marked because of that, and this host's own encoded address
        self.lacking, self.marked, self.own = set(), set(), b""
        #: the logs of what was sent, and of what stood here before it was changed; and the states in which the entries
        #: of the last run stand in the first one
        self.sent, self.before = (ledger.Log(os.path.join(notes, name)) for name in (peer, BEFORE))
        self.noted = {}

    def all(self):
        """Send all that is marked."""
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(os.path.join(self.directory, TEMPDIR), mode=0o700)
        try:
            left, held = self._parts()
            while self._mark_lacking():
                left, held = self._parts()
            if left or held:  # directories that only now are empty, and what replaces them
                left, _ = self._parts()
            if self._find_lacking(left):
                left, _ = self._parts()
            self._ask_why(left)
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _find_lacking(self, paths):
        """Mark the directories above what the peer has left that are none there. Returns whether there were any."""
        above = {parent for path in paths[:ASKED_ABOVE] for parent in _above(path)}
        with self._shared() as shared:
            ours = [path for path in sorted(above) if _is_directory(path) and shared.record(path)]
            ours = [path for path in ours if not shared.is_dirty(path)]
        peer = encode(self.peer.encode())
        entries = [Entry(0, encode(path), 0, self.own, peer) for path in ours]
        states = self._ask(entries) if entries else {}
        self.lacking |= {decode(name) for name, state in states.items() if not state.is_directory}
        return self._mark_lacking()

    def _mark_lacking(self):
        """
        Mark directories that the peer turned out to lack, and all that is in them. Returns whether there were any.

        csync2 does that, too, but not in a copy of the database without the files' records.
        """
        lacking, self.lacking = self.lacking - self.marked, set()
        if not lacking:
            return False
        self.marked |= lacking
        with Database(self.database, timeout=20, write=True) as shared:
            found = {path for directory in lacking for path in shared.below(directory)}
            shared.mark(sorted(found), decode(self.own).decode(), self.peer)
        return bool(found)

    def _parts(self):
        """
        Send part after part. Returns the paths that the peer, which answers, has left, and whether anything was held.

        What replaces a directory goes after what was in the directory, and only if all that is gone: csync2's two sides
        wait for each other for good when a file is sent to a place where the peer has a directory that is not empty.
        """
        after, left, held = b"", [], False
        while True:
            with self._shared() as shared:
                part = shared.part(self.peer, after, PART)
                if not part:
                    return left, held
                above = shared.above_dirty(self.peer, part[0].name, part[-1].name)
            late = {entry for entry in part if entry.name in above and _replaces(entry.name)}
            after, self.own = part[-1].name, part[-1].own
            left += self._entries([entry for entry in part if entry not in late])
            if late:
                with self._shared() as shared:
                    above = shared.above_dirty(self.peer, part[0].name, part[-1].name)
                ready = [entry for entry in late if entry.name not in above]
                held = held or len(ready) < len(late)
                left += self._entries(ready)

    def _entries(self, entries):
        """Send some entries of the database. Returns the paths that the peer has left, but for blocked ones."""
        waiting = [entry for entry in entries if not self._is_blocked(entry.name)]
        ended_at, in_vain = collections.Counter(), 0
        for attempt in range(1, ATTEMPTS + 1):
            if not waiting:
                break
            kept, why, at = self._once(waiting)
            in_vain = in_vain + 1 if why and why.by_peer and len(kept) >= len(waiting) else 0
            if why and (attempt == ATTEMPTS or in_vain == ATTEMPTS_IN_VAIN):
                raise why
            waiting = [entry for entry in waiting if entry.name in kept]
            if not why:
                break
            ended_at[at] += 1
            if at and ended_at[at] == ATTEMPTS_AT_ONE:
                self.blocked.add([at])
            waiting = [entry for entry in waiting if not self._is_blocked(entry.name)]
        waiting = self._complete(self._without_gone(waiting))
        return [decode(entry.name) for entry in waiting]

    def _once(self, entries):
        """One run of csync2. Returns (names that are still to be sent, why it was interrupted, the last name)."""
        copy, why = self._copy(self.directory, entries), None
        self._note(entries)
        self.seen = {name: _identity(name) for name, state in self.noted.items() if state.endswith(_DIRECTORY)}
        largest = max(map(_size, self.noted.values()))
        patience = (waits.TRANSFER_STALLED_AFTER + largest / READ_RATE) * 2**self.stalled
        where = self._in_memory(copy) if largest <= IN_MEMORY else {}
        try:
            output = self._run(self.directory, patience=patience, hopeless=lambda: self._waits(copy, entries), **where)
        except Interrupted as err:
            output, why = err.output, err
        except CommandError as err:
            self._note_outcome(entries, (), _Told(err.output, self.peer).sent)
            raise
        told = _Told(output, self.peer)
        with Database(copy, timeout=20) as sent:
            kept = sent.dirty_names()
        if told.is_cut_off and not why:
            problem = f"{self.peer} closed the connection, each time: is its disk full?"
            why = Interrupted(problem, output, by_peer=True)
        if why and why.by_peer:
            kept |= set(told.names[-UNCOMMITTED:])  # csync2 there may not have committed these
        done = {entry.name for entry in entries} - kept
        self._note_outcome(entries, done, told.sent if why else ())
        if told.unreachable:
            raise CommandError(told.unreachable)
        self.lacking |= told.lacking
        self._discharge([entry for entry in entries if entry.name in done], told.deleted)
        return kept, why, told.names[-1] if told.names else None

    def _note(self, entries):
        """
        Note what is sent before it is sent, and in which state: csync2 sends what stands here, as recorded or not.

        Should csync2 die, here or there, or this process, then csync2 there may not know what it has done, or half
        done, also after it has said that all is well: it takes that for changes of its own host.
        """
        self.noted = {entry.name: stands(decode(entry.name)) for entry in entries}
        self.sent.begin(self.noted)

    def _note_outcome(self, entries, done, interrupted):
        """
        Given names, note what the peer has taken, and what it has not been sent: neither done nor interrupted. In which
        state it took what has changed meanwhile is unknown; what was interrupted may have gone as it is by now.
        """
        names = {entry.name for entry in entries}
        states = {name: stands(decode(name)) for name in names & {*done, *interrupted}}
        taken = {name for name in states if name in done and states[name] == self.noted[name]}
        self.sent.end(taken, names - states.keys())
        changed = {name: now for name, now in states.items() if name not in done and now != self.noted[name]}
        self.sent.begin(changed)

    def _discharge(self, entries, deleted):
        """Discharge entries, but for those that csync2 has recorded otherwise than they were sent."""
        if not entries:
            return
        with Database(self.database, timeout=20, write=True) as shared:
            differ = {entry for entry in entries if self._differs(shared, entry.name, deleted)}
            shared.discharge(self.peer, [entry for entry in entries if entry not in differ])
        self.changed.update(decode(entry.name) for entry in differ)

    def _differs(self, shared, name, deleted):
        """
        Tell whether the peer may have been sent another state of a path than csync2 has recorded. ``deleted`` tells of
        names that were sent whether their deletion was.

        A path that changes while it is sent, and changes back, would be taken for one that the peer has: nobody would
        send it again. So would one that is not recorded, because it was made after the check, and is gone by the next
        one. Files that are written to need no such care, unless they stand for something else: who writes is seen
        (csync2echo), but not whether it was csync2 that made a link.
        """
        path = decode(name)
        record = shared.record(path)
        if name in deleted and deleted[name] != (record is None):
            return True
        try:
            status = os.lstat(path)
        except OSError:
            return record is not None
        if record is None:
            return False
        if _FILE in record and stat.S_ISREG(status.st_mode) and status.st_mtime >= self.since:
            return False
        if stat.S_ISDIR(status.st_mode):  # its time tells of the files in it, csync2's temporary ones too
            changed = self.seen.get(name) != _identity(name)
        else:
            changed = status.st_ctime >= self.since
        return changed or record != check_text(path, status)

    # ---- What a peer refuses without a conflict

    def _without_gone(self, entries):
        """
        Discharge deletions below a path that is no directory, here and on the peer: there is nothing to delete.

        csync2 refuses them for good: the peer cannot even look ("Not a directory"). Returns the other entries.
        """
        tops = {entry: top for entry in entries if (top := no_directory_above(entry.name))}
        if not tops:
            return entries
        states = self._ask({top: entry._replace(name=top) for entry, top in tops.items()}.values())
        gone = {entry for entry, top in tops.items() if top in states and not states[top].is_directory}
        self._discharge(gone, {})
        return [entry for entry in entries if entry not in gone]

    def _complete(self, entries):
        """
        Send once more, whatever the peer says of it, what it has as both hosts had it, or half made: nobody has changed
        that there. It has a mark for a third host, or its csync2 has died. Returns the other entries.
        """
        doubtful = [entry for entry in entries if self._common(entry.name)]
        if not doubtful:
            return entries
        states = self._ask(doubtful)
        ours = {entry for entry in doubtful if entry.name in states and self._is_ours(entry.name, states[entry.name])}
        if ours:
            log.info(
                "csyncsync: %s refuses %d paths that nobody has changed there; they are sent again",
                self.peer,
                len(ours),
            )
            kept, _, _ = self._once([entry._replace(forced=1) for entry in ours])
            ours = {entry for entry in ours if entry.name not in kept}
            paths, own = [decode(entry.name) for entry in ours], decode(self.own).decode()
            with Database(self.database, timeout=20, write=True) as shared:
                for other in {*self.members} - {own, self.peer}:  # the peer may have handed on what it had
                    shared.mark(paths, own, other)
        return [entry for entry in entries if entry not in ours]

    def _common(self, name):
        """
        The states, as a set, in which the peer may have a name if nobody has changed it there: what it took last from
        here, or what stood here when it was changed after that; and what it was sent since.
        """
        (sent, when), (before, changed) = self.sent.taken(name), self.before.taken(name)
        last = sent if when >= changed else before
        return {state for state, _ in self.sent.begun(name)} | ({last} if last else set())

    def _is_ours(self, name, state):
        """
        Tell whether a peer's state is one that both hosts had, which may have changed here since.
        """
        begun = self.sent.begun(name, COMPLETED_WITHIN)
        if state.is_half_made(bool(begun)) and self.sent.begun(name):
            return True
        if any(state.is_begun(fields(text)) for text, _ in begun):
            return True
        common = self._common(name)
        same = {sent for sent in common if as_told(sent) == state.told}
        replaced = [
            when for text, when in begun if any(state.is_replaced(fields(text), fields(old)) for old in common - {text})
        ]
        if not replaced and (not same or None in map(_time, same)):
            return bool(same)
        recorded = self._recorded(state.path)
        written = _time(recorded) or -1
        # What is written to while it is sent may have been sent in a later state than the one that was noted.
        later = any(_time(text) <= written <= when + SENT_WITHIN for text, when in begun if text in same)
        return recorded in same or later or any(int(when) <= written <= when + SENT_WITHIN for when in replaced)

    def _recorded(self, path):
        """
        The state that csync2 on the peer has recorded of a path, empty if it does not say.

        It tells a file's time, which the states that it is asked for do not; and it is what stands there, because
        csync2 looks before it refuses something.
        """
        own = decode(self.own).decode()
        try:
            output = command.run(
                self.group, "-v", "-v", "-T", own, self.peer, path, peer=self.peer, fine=(0, 2), hopeless=lambda: True
            )
        except CommandError:
            return b""
        found = re.search(rb"^Fetched tuple from peer: " + re.escape(path) + rb" \[(\S+)\]$", output, re.MULTILINE)
        return found.group(1) if found else b""

    def _waits(self, copy, entries):
        """Ask the peer which of the files that are still to be sent are directories there: both sides wait for good."""
        with Database(copy, timeout=20) as sent:
            waiting = sent.dirty_names()
        states = self._ask([entry for entry in entries if entry.name in waiting and _is_file(entry.name)])
        blocked = [name for name, state in states.items() if state.is_directory]
        self.blocked.add(blocked)
        if blocked:
            log.warning("csyncsync: %s has directories in place of %d files", self.peer, len(blocked))
        return bool(blocked)

    def _is_blocked(self, name):
        return name in self.blocked and _is_file(name)

    def _ask(self, entries):
        """``{name: _State}``: what the peer has where these entries go, as far as it says (a dry run)."""
        probe = os.path.join(self.directory, "probe")
        os.makedirs(probe, exist_ok=True)
        self._copy(probe, [entry._replace(forced=0) for entry in entries])
        try:
            output = self._run(probe, "-v", "-d", hopeless=lambda: True)
        except Interrupted as err:  # it takes its time, over a large file perhaps
            output = err.output
        except CommandError:
            return {}
        return _Told(output, self.peer).states()

    def _ask_why(self, paths):
        """Raise CommandError, with the peer's own words, if it cannot write some of the files that it has left."""
        with self._shared() as shared:
            part = shared.part(self.peer, b"", PART)
        some = {encode(path) for path in paths}
        asked = [entry for entry in part if entry.name in some and _is_file(entry.name)][:ASKED_WHY]
        if not asked:
            return
        self._copy(self.directory, asked)
        why = None
        self._note(asked)  # it may take them now
        try:
            # With three -v csync2 tells what the peer answers; and the key, so this output goes nowhere.
            output = self._run(self.directory, "-v", "-v")
        except CommandError as err:
            output, why = err.output, err
        told = _Told(output, self.peer)
        self._note_outcome(asked, (), told.sent if why or told.is_cut_off else ())
        if problem := re.search(_CANNOT_WRITE, output):
            raise CommandError(f"{self.peer} cannot write: {problem.group(1).decode()}")

    # ---- Running csync2

    def _run(self, directory, *flags, **options):
        flags = ("-v", "-D", directory, "-u", *flags, "-P", self.peer)
        return command.run(self.group, *flags, peer=self.peer, fine=(0, 1), **options)

    def _in_memory(self, copy):
        """Options of csync2run.run() with which csync2 has its temporary files beside its database, in memory."""
        return {"cwd": self.directory, "largest": MOST_IN_MEMORY + os.path.getsize(copy)}

    def _shared(self):
        return Database(self.database, timeout=20)

    def _copy(self, directory, entries):
        path = os.path.join(directory, os.path.basename(self.database))
        with self._shared() as shared:
            shared.copy(path, entries)
        return path


def note_before(database, notes, paths, trees):
    """
    Note in which state a check is about to find changed these paths, and all that is recorded below these trees: all
    hosts have it so, unless it is marked already. What is not recorded may have come from another host, and csync2 may
    have died before it wrote that down: then none is known.

    Not for the first check of a host that has joined: what was recorded before may have been changed here since the
    database was lost, and be on no other host.
    """
    names = [*paths]
    with Database(database, timeout=20) as shared:
        for tree in trees:
            names += {tree, *shared.below(tree)}
        records, dirty = {}, set()
        for start in range(0, min(len(names), NOTED), ROWS):
            found, marked = shared.records(names[start : start + ROWS])
            records.update(found)
            dirty |= marked
    clean = [path for path in names[:NOTED] if path not in dirty]
    common = {encode(path): records.get(path) or _unrecorded(path) for path in clean}
    os.makedirs(notes, mode=0o700, exist_ok=True)
    ledger.Log(os.path.join(notes, BEFORE)).take(common)


def _unrecorded(path):
    return _GONE if is_made_here(path) else _UNKNOWN


def noted_before(notes):
    """The paths, as a set, of what note_before() noted lately: names of what was deleted with its directory, too."""
    return {decode(name) for name in ledger.Log(os.path.join(notes, BEFORE)).names()}


def taken(notes, peers, heard):
    """
    Those of some paths, as a set, that all these peers have taken from here since the watcher last heard of a change.

    heard
        ``{path: when that was, in seconds since the epoch}``.

    The watcher may tell of a file only after a check of its directory has found it, and it has been sent: sent once
    more, it would be in conflict with what another host has made of it since.
    """
    logs = [ledger.Log(os.path.join(notes, peer)) for peer in peers]
    found = {path: (encode(path), stands(path)) for path in heard}
    return {path for path, when in heard.items() if all(_has(log, *found[path], when) for log in logs)}


def _has(log, name, state, since):
    """Tell whether a peer has taken a name that began to be sent in this state since then, and nothing after that."""
    last, when = log.taken(name)
    return last == state and when > since and not log.begun(name)


def now():
    """The time, in seconds since the epoch, that the kernel would give a file now: that of its last tick."""
    return time.clock_gettime(CLOCK_REALTIME_COARSE)


#: How csync2 says that a path is still to be sent.
_STAYS = b"File stays in dirty state. Try again later...\n"


class _Told:
    """What csync2 -v -u said about each path (update.c). Names are raw there, and may hold newlines."""

    def __init__(self, output, peer):
        begin = rb"^(Updating|Deleting) (.+?) on " + re.escape(peer.encode()) + rb" \.\.\.\n"
        self.before, *sections = re.split(begin, output, flags=re.DOTALL | re.MULTILINE)
        #: encoded names, in the order in which they were sent
        self.names = [encode(name) for name in sections[1::3]]
        self.sections = sections[2::3]
        #: {encoded name: whether a deletion was sent}
        self.deleted = {name: verb == b"Deleting" for name, verb in zip(self.names, sections[::3])}

    @property
    def sent(self):
        """Names, as a set, of what the peer has taken, as far as it said so, and of what was under way at the end."""
        taken = {name for name, told in zip(self.names, self.sections) if _STAYS not in told}
        return taken | set(self.names[-1:])

    @property
    def unreachable(self):
        """The line in which csync2 says that it could not talk to the peer ("" if there is none)."""
        for line in b"\n".join([self.before, *self.sections]).decode("utf-8", "backslashreplace").splitlines():
            if re.match(r"ERROR: Connection to |SSL: |Peer did ", line):
                return line[:200]
        return ""

    @property
    def lacking(self):
        """The directories, as paths, that the peer lacks, and into which something was to go."""
        sections = zip(self.names, self.sections)
        return {os.path.dirname(decode(name)) for name, told in sections if b"\nmissing parent dir : " in told}

    @property
    def is_cut_off(self):
        """
        Tell whether the peer closed the connection in the middle.

        Each path that fails is one error and one line; a goodbye that nobody answers is an error without a line.
        """
        text = b"\n".join(self.sections)
        errors = re.search(rb"(?:^|\n)Finished with (\d+) errors\.\n", text)
        failed = text.count(_STAYS)
        return bool(self.names) and (errors is None or int(errors.group(1)) > failed)

    def states(self):
        """``{encoded name: _State}`` of what csync2 -v -v said the peer has."""
        found = {}
        for name, section in zip(self.names, self.sections):
            text = re.search(rb"^>>> PEER: +(.*)$", section, re.MULTILINE)
            same = b"File is different on peer (rsync sig).\n" not in section
            if text:
                found[name] = _State(name, text.group(1), same)
            elif not same or b"File is already up to date on peer.\n" in section:
                found[name] = _State(name, None, same)
        return found


class _State:
    """What a peer has at a place. Without a text (a state as csync2 writes it): as here, but for the content."""

    def __init__(self, name, text, same_content):
        self.path, self.text, self.same_content = decode(name), text, same_content
        self.fields = fields(text) if text else None

    @property
    def is_directory(self):
        if self.fields is None:  # what stands here
            return _is_directory(self.path)
        return self.fields.get(b"type") == b"dir"

    @property
    def told(self):
        """Its text; without one that of what stands here."""
        return self.text or as_told(stands(self.path))

    def is_half_made(self, fresh):
        """
        Tell whether csync2 made it, of what stands here, and has not given it its mode yet, which comes after its owner
        (daemon.c).

        fresh
            Also if it has other ones: a file that is replaced keeps those of the old one until then (rsync.c).
        """
        here = fields(stands(self.path))
        if here == _NOTHING:
            return False
        if self.fields == _NOTHING:
            return fresh  # to make something else of it, csync2 first deletes what is there
        if not self.fields or not self.same_content or _what(self.fields) != _what(here):
            return False
        return self.is_begun(here) or (fresh and here[b"type"] == b"reg")

    def is_begun(self, wanted):
        """Tell whether it may be what csync2 makes of these fields, and has not given its mode yet."""
        there, kind = self.fields, wanted.get(b"type")
        if not there or not kind or _what(there) != _what(wanted) or there.get(b"size") != wanted.get(b"size"):
            return False
        made = {b"lnk": 0o777, b"reg": 0o600}.get(kind, 0o700)
        return _owner(there) in ((b"0", b"0"), _owner(wanted)) and int(there[b"mode"]) & 0o7777 == made

    def is_replaced(self, wanted, old):
        """
        Tell whether it may be what csync2 makes of these fields in place of an old file: it has that one's owner and
        mode until it is given its own, one after the other (rsync.c).
        """
        there = self.fields
        if not there or not _what(there) == _what(wanted) == _what(old) or there.get(b"type") != b"reg":
            return False
        same = there.get(b"size") == wanted.get(b"size") and there.get(b"mode") == old.get(b"mode")
        return same and _owner(there) in (_owner(old), _owner(wanted))


def fields(text):
    """Given a state as csync2 writes it, return its fields."""
    return dict(field.partition(b"=")[::2] for field in text.split(b":"))


#: A state with a time, as csync2 records it of all but directories and links (checktxt.c).
_TIME = re.compile(rb"^v1:mtime=(-?[0-9]+):")


def _time(record):
    """The time in a recorded state, in seconds since the epoch; None if it has none."""
    found = _TIME.match(record)
    return int(found.group(1)) if found else None


def as_told(record):
    """Given a recorded state, return it as a peer tells of its own: without a time."""
    return _TIME.sub(b"v1:mtime=0:", record)


def _what(fields):
    return fields.get(b"type"), fields.get(b"target")


def _owner(fields):
    return fields.get(b"uid"), fields.get(b"gid")


#: How the state of a directory ends, and what tells that of a regular file from others.
_DIRECTORY, _FILE = b":type=dir", b":type=reg:"
#: What a peer says of a place where it has nothing.
_GONE = b"---"
#: Instead of a state that was common: it is not known. No peer has anything in such a state.
_UNKNOWN = b"?"
_NOTHING = fields(_GONE)


class _Blocked:
    """Encoded names, as a set, that a file remembers for some time."""

    def __init__(self, path):
        #: {name: when it came}
        self.path, self.names = path, {}
        with contextlib.suppress(OSError), open(path, "rb") as file:
            for when, name in (line.split(b" ") for line in file.read().splitlines()):
                if 0 <= time.time() - float(when) <= waits.BLOCKED_FOR:  # others are old, or the clock was set back
                    self.names[name] = float(when)

    def __contains__(self, name):
        return name in self.names

    def add(self, names):
        """Take in names, from now on."""
        if not names:
            return
        self.names.update(dict.fromkeys(names, time.time()))
        with open(f"{self.path}.new", "wb") as file:
            file.writelines(b"%a %s\n" % (when, name) for name, when in self.names.items())
        os.replace(f"{self.path}.new", self.path)


# --- What stands here ------------------------------------------------------------------------------------


def _above(path):
    """The directories that a path is in, the innermost first."""
    while len(path) > 1:
        path = os.path.dirname(path)
        yield path


def stands(path):
    """The state of what is there, as csync2 would record it."""
    try:
        return check_text(path, os.lstat(path))
    except OSError:
        return _GONE


def _is_directory(path):
    """Tell whether there is a directory, not a symlink to one."""
    return os.path.isdir(path) and not os.path.islink(path)


def _is_file(name):
    """Given an encoded name, tell whether there is a regular file."""
    path = decode(name)
    return os.path.isfile(path) and not os.path.islink(path)


def _size(state):
    """The bytes of a file in this state."""
    return int(state.rpartition(b":size=")[2]) if _FILE in state else 0


def _identity(name):
    """
    Given an encoded name, return what tells a directory from another one that looks the same, and from anything else;
    None if nothing is there.
    """
    try:
        status = os.lstat(decode(name))
    except OSError:
        return None
    return status.st_ino, status.st_mode, status.st_uid, status.st_gid


def _replaces(name):
    """Given an encoded name, tell whether there is anything but a directory."""
    path = decode(name)
    return os.path.lexists(path) and not _is_directory(path)


def no_directory_above(name):
    """Given an encoded name, return that of the outermost thing above that is no directory, None if there is none."""
    found = None
    for path in _above(decode(name)):
        if os.path.lexists(path) and not _is_directory(path):
            found = path
    return found and encode(found)
