"""
What a peer refuses for another reason than a conflict: found by asking the peer, and by what it was sent before.

``transfer`` asks this, and does something about it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Collection, Iterable, Sequence

from csync2lib import beneath, storage, waits
from csync2lib.csync2.database import Database, DirtyEntry
from csync2lib.csync2.names import decode, encode
from csync2lib.csync2.output import UpdateOutput
from csync2lib.csync2.states import GONE, PeerState, as_told, fields, is_file, stands, time_of
from csync2lib.errors import CommandError
from csync2lib.push.ledger import PeerLedger
from csync2lib.push.runs import Peer, directory

log = logging.getLogger(__name__)

#: What the name of the file with what is Blocked ends with.
BLOCKED = ".blocked"
#: Paths for which a peer is asked what is above them.
ASKED_ABOVE = 1000
#: Deletions for which a peer is asked whether they are of directories that it cannot empty.
ASKED_EMPTY = 100
#: Seconds after an interruption for which a peer's file counts as half made, if it has the content of the one here, or
#: the size of what was sent. Hosts boot for minutes.
COMPLETED_WITHIN = 600.0
#: Seconds from the note that an entry is to be sent until csync2 has read it, in a part of many.
SENT_WITHIN = 60.0


class Refusals:
    """What one peer refuses. Entries are those of csync2's database, names are encoded."""

    def __init__(self, peer: Peer, ledger: PeerLedger) -> None:
        self.peer, self.ledger = peer, ledger
        self.blocked = Blocked(f"{peer.directory}{BLOCKED}")

    # ---- Files that the peer cannot take now

    def is_blocked(self, name: bytes) -> bool:
        """Tell whether a name is left alone for a while: also below a directory that the peer cannot make."""
        if name in self.blocked:
            return self.blocked.is_unwritten(name) or is_file(name)
        above = beneath.above(decode(name)) if self.blocked.names else ()
        return any((top := encode(path)) in self.blocked and self.blocked.is_unwritten(top) for path in above)

    def both_wait(self, copy: str, entries: Iterable[DirtyEntry]) -> bool:
        """
        Tell whether both sides wait forever, because the peer has a directory where a file is still to be sent. These
        files are blocked for a while.
        """
        with Database(copy, timeout=20) as sent:
            waiting = sent.dirty_names()
        states = self.peer.ask([entry for entry in entries if entry.name in waiting and is_file(entry.name)])
        blocked = [name for name, state in states.items() if state.is_directory]
        self.blocked.add(blocked)
        if blocked:
            log.warning("csyncsync: %s has directories in place of %d files", self.peer.address, len(blocked))
        return bool(blocked)

    def _answers(self, entries: list[DirtyEntry]) -> UpdateOutput:
        """Send entries once more, and return what the peer answered."""
        if not entries:
            return UpdateOutput((), self.peer.address)
        self.peer.copy(entries)
        why = None
        self.ledger.begin(entry.name for entry in entries)  # it may take them now
        try:
            # With three -v csync2 tells what the peer answers; and the key, so this output goes nowhere.
            output: Sequence[bytes] = self.peer.run("-v", "-v")
        except CommandError as err:
            output, why = err.output, err
        told = UpdateOutput(output, self.peer.address)
        self.ledger.end((), told.sent if why or told.is_cut_off else ())
        return told

    # ---- Directories that the peer lacks

    def lacking(self, paths: list[bytes]) -> set[bytes]:
        """The directories above these paths that the peer lacks, although they are not dirty for it."""
        above = {parent for path in paths[:ASKED_ABOVE] for parent in beneath.above(path)}
        with self.peer.shared() as shared:
            ours = [path for path in sorted(above) if beneath.is_directory(path) and shared.record(path)]
            ours = [path for path in ours if not shared.is_dirty(path)]
        address = encode(self.peer.address.encode())
        entries = [DirtyEntry(0, encode(path), 0, self.peer.own, address) for path in ours]
        states = self.peer.ask(entries) if entries else {}
        return {decode(name) for name, state in states.items() if not state.is_directory}

    def gone(self, entries: Iterable[DirtyEntry]) -> set[DirtyEntry]:
        """
        Of these entries, the deletions below a path that is no directory, neither here nor on the peer: there is
        nothing to delete.

        The peer refuses them each time, because it cannot even look there ("Not a directory").
        """
        tops = {entry: top for entry in entries if (top := no_directory_above(entry.name))}
        if not tops:
            return set()
        states = self.peer.ask({top: entry._replace(name=top) for entry, top in tops.items()}.values())
        return {entry for entry, top in tops.items() if top in states and not states[top].is_directory}

    def not_empty(self, entries: list[DirtyEntry]) -> set[DirtyEntry]:
        """
        Of these entries, the deletions of directories in which the peer has only what it was never sent, and will not
        send, as a socket: csync2 cannot remove them. If it will send something, the directory comes back with it.
        """
        gone = [entry for entry in entries if not beneath.exists(decode(entry.name))]
        if not gone:
            return set()
        with self.peer.shared() as shared:
            names = [entry.name for entry in gone]
            above = shared.above_dirty(self.peer.address, min(names), max(names))
        found = self._answers([entry for entry in gone if entry.name not in above][:ASKED_EMPTY]).not_empty
        return {entry for entry in gone if entry.name in found}

    def nothing_at(self, entries: Collection[DirtyEntry]) -> set[DirtyEntry]:
        """Of these entries, those of paths at which the peer has nothing."""
        states = self.peer.ask(entries) if entries else {}
        return {entry for entry in entries if entry.name in states and states[entry.name].text == GONE}

    # ---- What nobody has changed there

    def unchanged(self, entries: Iterable[DirtyEntry]) -> set[DirtyEntry]:
        """
        Of these entries, those that nobody has changed on the peer: it has them as both hosts had them, or half made.
        It refuses them because they are dirty there for a third host, or because its csync2 has died.
        """
        doubtful = [entry for entry in entries if self.ledger.base(entry.name)]
        if not doubtful:
            return set()
        states = self.peer.ask(doubtful)
        return {entry for entry in doubtful if entry.name in states and self._is_base(states[entry.name])}

    def _is_base(self, state: PeerState) -> bool:
        """Tell whether a peer's state is one that both hosts had, which may have changed here since."""
        name, sent = state.name, self.ledger.sent
        begun = sent.begun(name, COMPLETED_WITHIN)
        base = self.ledger.base(name)
        if state.is_half_made(bool(begun), base) and sent.begun(name):
            return True
        if any(state.is_begun(fields(text)) for text, _ in begun):
            return True
        same = {text for text in base if as_told(text) == state.text}
        if begun and begun[-1].state == stands(state.path) and not state.same_content:
            begun = []  # it is nothing that was sent of this
        replaced = [
            when for text, when in begun if any(state.is_replaced(fields(text), fields(old)) for old in base - {text})
        ]
        if not replaced and (not same or None in map(time_of, same)):
            return bool(same)
        recorded = self.peer.recorded(state.path)
        written = time_of(recorded) or -1
        # What is written to while it is sent may have been sent in a later state than the one that was noted.
        later = any((time_of(text) or 0) <= written <= when + SENT_WITHIN for text, when in begun if text in same)
        return recorded in same or later or any(int(when) <= written <= when + SENT_WITHIN for when in replaced)


class Blocked:
    """A set of encoded names that is kept in a file, and forgets each name after some time."""

    def __init__(self, path: str) -> None:
        self.path = path
        #: {name: (when it came, for how many seconds, whether the peer cannot write it)}: those that count, and of what
        #: it could not write also those that counted lately
        self.names: dict[bytes, tuple[float, float, bool]] = {}
        self.before: dict[bytes, tuple[float, float, bool]] = {}
        with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
            for when, seconds, what, name in (line.split(b" ") for line in file.read().splitlines()):
                age, entry = time.time() - float(when), (float(when), float(seconds), what == b"w")
                if 0 <= age <= entry[1]:  # others are old, or the clock was set back
                    self.names[name] = entry
                elif entry[2] and entry[1] < age <= 3 * entry[1]:
                    self.before[name] = entry

    def __contains__(self, name: bytes) -> bool:
        return name in self.names

    def is_unwritten(self, name: bytes) -> bool:
        """Tell whether the peer cannot write a name that is in the set."""
        return self.names[name][2]

    def add(self, names: Collection[bytes], unwritten: bool = False) -> None:
        """Take in names, from now on; what the peer cannot write for twice the time whenever it comes again."""
        if not names:
            return
        first, most = waits.BLOCKED_FOR
        for name in names:
            _, seconds, _ = self.names.get(name) or self.before.pop(name, (0.0, 0.0, False))
            longer = seconds if name in self.names else min(2 * seconds, most) if unwritten else first
            self.names[name] = time.time(), max(first, longer), unwritten
        with open(f"{self.path}.new", "wb") as file:
            for name, (when, seconds, what) in (*self.before.items(), *self.names.items()):
                file.write(b"%a %a %s %s\n" % (when, seconds, b"w" if what else b"-", name))
        os.replace(f"{self.path}.new", self.path)


def try_all(group: str, peers: Iterable[str]) -> None:
    """Have peers be sent what they could not write before, too."""
    for peer in peers:
        for large in (False, True):
            storage.remove(f"{directory(group, peer, large)}{BLOCKED}")


def no_directory_above(name: bytes) -> bytes | None:
    """Given an encoded name, return that of the outermost thing above it that is no directory, or None."""
    found = beneath.no_directory_in(os.path.dirname(decode(name)))
    return encode(found) if found else None
