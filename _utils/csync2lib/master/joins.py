"""
A host that has recorded its files is admitted to its group, as the runner's ``join`` says.

The first host of a new group is the seed, or the first by name of those that send and have recorded their files; who
was a member then say pillar and accepted keys. All of it in a process of its own, because it waits for hosts; under the
group's lease, and under a lock, because two decisions at once would each find nobody established. What is decided here
comes from the hosts' answers, and from no event.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from salt.exceptions import CommandExecutionError, SaltException

from csync2lib import storage, waits
from csync2lib.config import membership
from csync2lib.errors import CsyncsyncError
from csync2lib.master import facts, lease, record, shapes
from csync2lib.master.cluster import Cluster, Options, aside
from csync2lib.report.words import one_line, readable

log = logging.getLogger(__name__)

#: Joins that run at once, in all groups.
JOINS = 3
#: Characters that are noted of why a host has not joined.
WHY = 1000


# --- The process of a join -------------------------------------------------------------------------------


def start(cluster: Cluster, group: str, host: str, jid: str) -> int:
    """Start a join as a program: a fork of the reactor, which has threads, may wait forever. Returns its pid."""
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "salt-run")
    command = [beside if os.path.exists(beside) else "salt-run", "-c", os.path.dirname(cluster.opts["conf_file"])]
    # As JSON, because the command line is read as YAML, and a job id is no number.
    arguments = [f"{name}={json.dumps(value)}" for name, value in (("group", group), ("host", host), ("jid", jid))]
    command += ["csyncsync.join", *arguments]
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, start_new_session=True, stdin=null, stdout=null, stderr=null)
    aside(process.wait)
    return process.pid


@contextlib.contextmanager
def alone(cluster: Cluster, group: str) -> Iterator[None]:
    """One process at a time decides who of a group is the first host, and who has joined. Raises CsyncsyncError."""
    with storage.locked(os.path.join(record.directory(cluster.opts), f"{group}.join.lock"), waits.JOIN_WAIT) as mine:
        if not mine:
            raise CsyncsyncError(f"another host joins {group}")
        yield


def join(cluster: Cluster, group: str, host: str, jid: str | None = None) -> str:
    """What the runner's ``join`` does; ``jid`` is that of the host's job that has the lease. Raises CsyncsyncError."""
    options = cluster.member(group, host)
    if options is None:
        if jid:
            lease.release(cluster, group, jid)
        raise CsyncsyncError(f"{host} is no member of {group}: salt-run csyncsync.status tells who is")
    done = "failed"
    with contextlib.ExitStack() as stack:
        if jid is None:
            stack.enter_context(lease.leased(cluster, group, host))
        elif lease.keep(cluster, group, jid):
            stack.callback(lease.release, cluster, group, jid)
        else:
            return f"its turn is over; {host} asks again"
        try:
            with alone(cluster, group), _turn(cluster):
                done = _join(cluster, group, host, options)
        except (CsyncsyncError, SaltException) as err:
            done = f"not yet: {err}"
        finally:
            log.info("csyncsync: %s joins %s: %s", host, group, one_line(done))
            with cluster.record(group) as notes:
                since = notes.joining.pop(host, {}).get("since", time.time())
                if done != "joined":
                    why = done.partition("not yet: ")[2] or done
                    notes.joining[host] = {"since": since, "why": one_line(why)[:WHY]}
                elif host not in notes.waiting:
                    notes.waiting.insert(0, host)
    if done != "joined":
        raise CsyncsyncError(f"{host} has not joined {group}, {done}")
    return done


@contextlib.contextmanager
def _turn(cluster: Cluster) -> Iterator[None]:
    """
    Wait for one of a few turns: a join asks all hosts of its group, and many at once keep them from answering in time.
    It may also take hours, and groups are not to wait for each other: so the wait has an end.
    """
    until = time.monotonic() + waits.JOIN_WAIT
    directory = record.directory(cluster.opts)
    with contextlib.ExitStack() as stack:
        names = [os.path.join(directory, f"join{number}.lock") for number in range(JOINS)]
        files = [stack.enter_context(open(name, "w", encoding="utf-8")) for name in names]
        while not any(storage.try_lock(file.fileno()) for file in files) and time.monotonic() < until:
            time.sleep(0.2)
        yield


# --- The steps of a join ---------------------------------------------------------------------------------


def _join(cluster: Cluster, group: str, host: str, options: Options) -> str:
    members = cluster.members(options)
    statuses = cluster.statuses(group, members)
    states = {minion: status.get("state") for minion, status in statuses.items()}
    with cluster.record(group) as notes:
        # An empty list says that all founders have joined; None that nobody has joined yet, as far as is known here.
        founders = list(members if notes.founders is None else notes.founders)
        admitted = list(notes.admitted)
    if states.get(host) == "established":
        note_established(cluster, group, host)
        return "joined"
    if not states.get(host):
        raise CsyncsyncError(f"{host} does not answer, or does not have the group")
    # What a host has that only receives may be older than the others', and they would not take it from there.
    senders = [minion for minion in members if not membership.receives_only(options, minion)]
    established = [minion for minion in senders if states.get(minion) == "established"]
    silent = [minion for minion in admitted if minion in senders and minion not in states]
    if established:
        keep = host in founders and not options["seed"]
        source = _most_up_to_date(established, statuses, options["seed"])
        alike = [minion for minion in senders if minion in founders and states.get(minion) == "recorded"]
        if keep and host in _establish_equal(cluster, group, source, alike, founders):
            return "joined"
        _receive(cluster, group, host, source, established, keep, silent if host in admitted else None)
        told = [minion for minion, status in statuses.items() if host in status.get("anew", ())]
        cluster.call(told, "csyncsync.returned", [group, host])
        note_established(cluster, group, host, founders)
        return "joined"
    if silent:
        raise CsyncsyncError(f"waits for {', '.join(silent)}: no established host that sends answers")
    receivers = [minion for minion in members if states.get(minion) == "established"]
    recorded = [minion for minion in senders if states.get(minion) == "recorded"]
    if receivers or not recorded:
        membership.require_sender(group, options, members, host, "the first host to join")
    if receivers and host not in admitted:
        if others := [minion for minion in admitted if minion in senders]:
            raise CsyncsyncError(f"waits for {', '.join(others)}: no other established host sends")
        raise CsyncsyncError(
            f"no established host sends: {', '.join(receivers)} only receives (csyncsync:groups:{group}:receive_only)."
            " Take it out of there, or have all take the files of"
            f" {host}: salt-run csyncsync.reset {group} source={host}"
        )
    seed = options["seed"] if options["seed"] in members else None
    first = _found(cluster, group, [host] if receivers else recorded, seed, bool(receivers))
    # Of a group that begins anew, too: whose files then count are those who have not joined it before.
    note_established(cluster, group, first, [minion for minion in members if minion not in receivers])
    if first != host:
        with cluster.record(group) as notes:
            notes.waiting = [first, host, *(minion for minion in notes.waiting if minion not in (first, host))]
        raise CsyncsyncError(f"{first} is the first host, and {host} asks again")
    return "joined"


def _establish_equal(cluster: Cluster, group: str, source: str, hosts: list[str], founders: list[str]) -> list[str]:
    """
    Establish, all at once, those of a new group's hosts that have the same as an established one: there is nothing to
    send, and nothing that could be a conflict. Returns them.
    """
    equal = hosts
    for of in ("records", "all"):  # no file is read where csync2's records differ
        found = cluster.call(equal and [source, *equal], "csyncsync.digests", [group, of], shape=shapes.ONE_DIGEST)
        equal = [minion for minion in equal if minion in found and found[minion] == found.get(source)]
    answers = cluster.call(equal, "csyncsync.join", [group])
    joined = [minion for minion, done in answers.items() if done["state"] == "established"]
    for minion in joined:
        note_established(cluster, group, minion, [founder for founder in founders if founder not in joined])
    with cluster.record(group) as notes:
        notes.waiting += [minion for minion in joined if minion not in notes.waiting]
    return joined


def note_established(cluster: Cluster, group: str, host: str, founders: list[str] | None = None) -> None:
    """Note that a host says that it is established; with ``founders``, whose files count, that it has just joined."""
    with cluster.record(group) as notes:
        notes.admitted = sorted({*notes.admitted, host})
        notes.returning.pop(host, None)
        notes.joining.pop(host, None)
        if founders is not None:  # only then: one that is to join anew says that it is established, too
            notes.founders = founders
            notes.anew = [minion for minion in notes.anew if minion != host]
        if notes.founders is not None:
            notes.founders = [minion for minion in notes.founders if minion != host]


def _found(cluster: Cluster, group: str, recorded: list[str], seed: str | None, send: bool) -> str:
    """
    Establish the first host of a group that sends: the seed, or the first by name that can be, whichever has asked.
    With ``send``, others are established, and are to get all that it has. Returns the host. Raises CsyncsyncError.
    """
    if seed and seed not in recorded:
        raise CsyncsyncError(f"waits for the seed, {seed}")
    problem: Exception = CsyncsyncError("no host has recorded its files")
    for first in [seed] if seed else recorded:
        with cluster.record(group) as notes:  # its answer may get lost: nobody else is to be the first one, too
            before = notes.admitted
            notes.admitted = sorted({*before, first})
        try:
            cluster.step(first, "csyncsync.join", [group, None, send])
            return first
        except CsyncsyncError as err:
            status = cluster.statuses(group, [first]).get(first, {})
            if status.get("state") != "recorded":
                raise
            problem = err
        with cluster.record(group) as notes:
            notes.admitted = before
    raise problem


def _receive(
    cluster: Cluster, group: str, host: str, source: str, established: list[str], keep: bool, silent: list[str] | None
) -> None:
    """
    Have a host get what the source has and it lacks. With ``keep`` what it has otherwise stays, and becomes a conflict.
    ``silent`` are hosts that were admitted and do not answer; None if this one has not been admitted before.
    """
    # What the source has not got yet, the host may have already: it is to get no old version, nor what was deleted.
    late = _hand_over(cluster, group, source, [minion for minion in established if minion != source])
    _have_patience(cluster, group, host, late + (silent or []))
    theirs = cluster.step(source, "csyncsync.digests", [group])["digests"] if keep else None
    unsent = cluster.step(host, "csyncsync.join", [group, source, keep, False, theirs])["unsent"]
    digests = cluster.step(host, "csyncsync.digests", [group])["digests"]
    try:
        admit(cluster, group, source, host, digests, unsent, keep)
    except CsyncsyncError:
        # It may not know the host: the event that says so can get lost, or be left out of a flood.
        with contextlib.suppress(CsyncsyncError, CommandExecutionError):
            facts.apply(cluster, group)
        raise
    late = _hand_over(cluster, group, host, established)
    if silent is not None:
        _have_patience(cluster, group, host, late)
    cluster.step(host, "csyncsync.join", [group], source=source, keep=keep, admitted=True)


def admit(
    cluster: Cluster,
    group: str,
    source: str,
    host: str,
    digests: list[str],
    unsent: list[str],
    keep: bool = False,
    remove: bool = False,
) -> int:
    """
    Have a source send what it has and a host lacks (``csyncsync.admit``). Returns how many entries it took. Raises
    CsyncsyncError if any other is left than those that are a conflict: both hosts show these.
    """
    done = cluster.step(source, "csyncsync.admit", [group, host, digests, unsent, keep, remove])
    if not done["left"]:
        return int(done["marked"])
    claims = cluster.step(host, "csyncsync.claims", [group, done["refused"]])
    missing = [path for path in done["refused"] if path not in claims]
    if missing or (done["left"] > len(done["refused"]) and not keep):
        path = readable([*missing, *done["refused"], "…"][0])
        raise CsyncsyncError(
            f"{host} does not take {done['left']} entries from {source}, as {path}: can it write there?"
        )
    if keep or "place" not in claims.values():
        return int(done["marked"] - done["left"])
    # What is to go where the host has a directory with files of its own stays to be sent, so that it is seen.
    changed = [path for path, claim in claims.items() if claim == "changed"]
    return admit(cluster, group, source, host, digests, [*unsent, *changed], True, remove)


def _most_up_to_date(established: list[str], statuses: dict[str, dict[str, Any]], seed: str | None) -> str:
    """
    The host that the other ones have the least to send to; of several the seed, or the first by name. Raises
    CsyncsyncError if all are paused: they send nothing.
    """
    awake = [minion for minion in established if not statuses[minion].get("paused")]
    if not awake:
        raise CsyncsyncError(f"waits for {', '.join(established)}: paused, and no other established host sends")

    def missing(host: str) -> int:
        return sum(statuses[other].get("dirty", {}).get(host, 0) for other in established if other != host)

    return min(awake, key=lambda host: (missing(host), host != seed, host))


def _have_patience(cluster: Cluster, group: str, host: str, late: list[str]) -> None:
    """Raise CsyncsyncError while others may have something for a host that joins, for some time."""
    with cluster.record(group) as notes:
        since = notes.returning.setdefault(host, time.time())
    if late and 0 <= time.time() - since < waits.RETURN_PATIENCE:
        raise CsyncsyncError(f"{', '.join(late)} may have newer files, or have deleted what {host} still has")


def _hand_over(cluster: Cluster, group: str, host: str, others: list[str]) -> list[str]:
    """
    Have others push what they have for a host, deletions above all: a join would bring the deleted files back. Returns
    those that did not reach it, or did not answer.
    """
    before = cluster.statuses(group, others)
    senders = [
        minion for minion, status in before.items() if status.get("dirty", {}).get(host) or status.get("journal")
    ]
    for minion in senders:
        cluster.call([minion], "csyncsync.push", [group])
    after = cluster.statuses(group, senders)
    late = [minion for minion in senders if host in after.get(minion, {}).get("unreachable", {host: "it is silent"})]
    return late + [minion for minion in others if minion not in before]
