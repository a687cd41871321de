"""
One push: what changed on this host goes to the group's other hosts.

The journal names what changed; csync2 checks that, and makes it dirty for all peers in its database (``check``); then
csync2 sends to each peer what is dirty for it (``peers``, ``transfer``). A push holds the group's lock on this host.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from csync2lib import confinement, journal, pauses, storage
from csync2lib.csync2.database import Database
from csync2lib.csync2.kept import keep_copy, keep_link, put_aside
from csync2lib.errors import CsyncsyncError
from csync2lib.group import ANEW, Group, GroupConfig
from csync2lib.push import check, large, peers, refusals, transfer

log = logging.getLogger(__name__)

#: Seconds to wait for the lock: the watcher takes it for a moment, to find out whether a push is under way.
LOCK_PROBE = 0.2
#: Files in a group's directory: this host has to ask for another push; the master has asked for one, or knows that this
#: host wants it; the result of the last push.
LEFT, ASKED, HEARD, LAST = "left", "asked", "waits", "push.json"
#: Takes the files of a host that is not established into csync2's database, or puts a lost one back (``join``).
Record = Callable[[Group], None]


class Asked(NamedTuple):
    """What is asked of a push (see ``csyncsync.push``)."""

    full: bool = False
    release: bool = False
    anew: bool = False
    #: what is paused, as the master has it; None if the master did not say
    paused: pauses.Pauses | None = None
    #: the id of this job: by it the runner knows the lease that the event ``pushed`` ends
    job: str | None = None


class PushResult(NamedTuple):
    """The result of a push; ``csyncsync.push`` tells what its states mean."""

    group: str
    state: str = "pushed"
    #: how many paths the journal named
    checked: int = 0
    #: ``{address: entries}`` that the other hosts are still to get
    left: dict[str, int] = {}
    #: ``{minion id: [percent-encoded path, …]}`` of the first paths that each host did not take though it answered
    refused: dict[str, list[str]] = {}
    #: why nothing, or not all, was sent
    comment: str = ""
    #: whether the whole group was checked, now or since the master last asked for a push
    full: bool = False
    seconds: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """What the job returns; without ``seconds`` if another push is under way."""
        return {key: value for key, value in self._asdict().items() if value is not None}


def push(group: Group, asked: Asked, record: Record, tell: Callable[[str, dict[str, Any]], None]) -> PushResult:
    """
    Send what changed on this host to the group's other hosts, and tell the master: ``tell`` sends it an event, given
    the tag and the data. Raises CsyncsyncError.
    """
    config = group.config
    if asked.paused is not None:
        pauses.take(group.directory, asked.paused)
    began = time.monotonic()
    with group.lock(LOCK_PROBE) as mine:
        before = storage.read_json(group.path(LAST), {})
        result = PushResult(group.name, refused=before.get("refused") or {})
        if mine:
            if asked.job:
                storage.write(group.path(ASKED), "", durable=False)
            result = _Push(group, config, asked, record, result).run()
            unheard = before.get("alone") or before.get("state") != "pushed"
            full = result.full or bool(unheard and before.get("full"))
            result = result._replace(full=full, seconds=round(time.monotonic() - began, 3))
            _note(group, result, alone=not asked.job)
        else:
            result = result._replace(state="running", comment="another push of this group is under way here")
    if result.state in ("held", "error") and result.state != before.get("state"):
        # Salt cannot render a reactor SLS with every character (those beyond U+FFFF).
        comment = result.comment.encode("ascii", "backslashreplace").decode("ascii")
        tell(f"csyncsync/{group.name}/{result.state}", {"group": group.name, "comment": comment})
    told = {key: value for key, value in result.as_dict().items() if key != "comment"}
    tell(f"csyncsync/{group.name}/pushed", {**told, "jid": asked.job})
    return result


class _Push:
    """A push under way. ``result`` is up to date at each step, so it is right when an error ends the push, too."""

    def __init__(self, group: Group, config: GroupConfig, asked: Asked, record: Record, result: PushResult) -> None:
        self.group, self.config, self.asked, self.record, self.result = group, config, asked, record, result

    def run(self) -> PushResult:
        try:
            if why := self.group.why_paused():
                self._set(state="paused", comment=why)
                return self.result
            self.group.guard.renew_roots(self.asked.release)
            confinement.await_current(self.group.host)
            if self._is_established():
                self._push()
        except (CsyncsyncError, sqlite3.Error, OSError) as err:
            self._set(state="error", comment=f"{err}{_put_aside_if_damaged(self.group)}")
        return self.result

    def _set(self, **results: Any) -> None:
        self.result = self.result._replace(**results)

    def _is_established(self) -> bool:
        """Tell whether this host has joined the group; else have its files recorded, which is the first step."""
        group = self.group
        if group.state() != Database.ESTABLISHED and (problems := group.guard.problems()):
            self._set(state="held", comment="; ".join(problems.values()))
            return False
        if self.asked.anew and group.state() == Database.ESTABLISHED:
            # It keeps its own changes that it has not sent yet; after the check all of them are dirty in the copy.
            check.check(group, self.config, full=True)
            keep_copy(group.directory, group.database)
            storage.write(group.path(ANEW), "")
            with group.open_database(write=True) as database:
                database.empty()
        if group.state() == Database.ESTABLISHED:
            return True
        self.record(group)
        if group.state() == Database.ESTABLISHED:  # a lost database was put back
            return True
        self._set(state="joining", comment="waits for the master to have an established host admit it")
        return False

    def _push(self) -> None:
        group, config, guard = self.group, self.config, self.group.guard
        keep_link(group.directory, group.database)
        since = transfer.now()
        checked = check.check(group, config, self.asked.full, self.asked.release)
        self._set(checked=checked.named, full=checked.full)
        if config.receive_only:  # nobody would take it
            with group.open_database(write=True) as database:
                database.keep_dirty(lambda path, peer: False)
        if self.asked.full:
            refusals.try_all(group.name, config.peers)
        due = peers.due(group, config)
        vanished = guard.vanished(list(config.minions))
        # What somebody's own csync2 -c has recorded, or an older version.
        recorded = guard.looks_lost(vanished, config.include, config.hold)
        if recorded and not self.asked.release:
            self._set(state="held", comment=recorded)
            return
        guard.let_through(vanished)
        left, large_files = peers.send(group, config, due, since)
        self._set(left=left)
        if large_files:
            large.start(group)
        self._set(refused=peers.refused(group, config, self.result.refused))
        if checked.held:
            self._set(state="held", comment=checked.held)
        if not checked.away:
            keep_copy(group.directory, group.database)


def _put_aside_if_damaged(group: Group) -> str:
    """Put a damaged database aside, so that the host joins anew. Returns what was done, to be added to an error."""
    path = group.database
    try:
        with group.open_database() as database:
            if database.is_sound():
                return ""
    except sqlite3.OperationalError:  # missing, or locked: not for this to judge
        return ""
    except sqlite3.DatabaseError:
        pass
    put_aside(group.directory, path)
    log.error("csyncsync: %s is damaged; its last copy is put back", path)
    return f"; {path} is damaged and was put aside as {path}.damaged: its last copy is put back"


def _note(group: Group, result: PushResult, alone: bool) -> None:
    """Write the result for the status, and ``left`` if this host has to ask for another push. A full disk is logged."""
    before, now, since = storage.read_json(group.path(LAST), {}), time.time(), None
    pushes, errors = before.get("pushes", 0) + 1, before.get("errors", 0) + (result.state == "error")
    try:
        if result.left or result.state != "pushed":
            since = journal.waiting_since(group.journal, before) or now - (result.seconds or 0)
            storage.write(group.path(LEFT), "")
        else:
            journal.forget(group.journal)
            group.forget(LEFT)
        said = {**result.as_dict(), "alone": alone, "time": now, "pushes": pushes, "errors": errors, "since": since}
        storage.write_json(group.path(LAST), said, durable=False)
    except OSError as err:
        log.error("csyncsync: cannot note the push of group %s: %s", group.name, err)


def note_heard(group: Group) -> None:
    """Note that the master knows that this host wants to push. Raises CsyncsyncError if the group is not here."""
    storage.write(group.require().path(HEARD), "")
