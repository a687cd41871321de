"""
One pusher at a time: a group's lease names the host that pushes now, and its record those that wait.

The lease is for speed, and nothing relies on it: a host that nobody calls asks again, and in the end pushes by itself.
Events are only hints. No function here waits for a minion unless its docstring says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from typing import Any

from csync2lib import waits
from csync2lib.csync2.names import is_group_name
from csync2lib.errors import CsyncsyncError
from csync2lib.master.cluster import Cluster, aside
from csync2lib.master.commands import progress
from csync2lib.master.record import Lease, Record

#: Seconds after which a push is so long that who waits for it is told so at once.
TOLD_AFTER = 1.0

# --- A host that asks ------------------------------------------------------------------------------------


def serve(cluster: Cluster, group: Any, host: Any) -> bool:
    """What ask() does, for the runner: raises CsyncsyncError if the host is no member."""
    if not ask(cluster, group, host):
        raise CsyncsyncError(f"{host!r:.80} is no member of {group!r:.80}, or its key is not accepted")
    return True


def ask(cluster: Cluster, group: Any, host: Any) -> bool:
    """
    Note that a host has something to push, and call it if no other one of the group pushes. Returns whether it is a
    member.
    """
    known = was_member(cluster, group, host)
    if not known and not renew(cluster, group, host):
        return False
    stale = None
    with cluster.record(group) as record:
        impatient = _impatient(record, host)
        if host not in record.waiting:
            record.waiting.append(host)
        if record.lease and record.lease.is_stale():
            stale = record.lease = dataclasses.replace(record.lease, checked=time.time())
        else:
            _call_next(cluster, group, record)
    if impatient:
        cluster.client().run_job(impatient, "csyncsync.wait", [group], tgt_type="list", ret="")
    if stale:
        aside(_free_if_left, cluster, group, stale)
    call_behind(cluster, group)
    if known:
        renew(cluster, group, host)
    return True


def was_member(cluster: Cluster, group: Any, host: Any) -> bool:
    """
    Tell whether this host was a member when it last asked, and its key is accepted.

    Its pillar takes longer to read than all else here, so renew() does that after the host has been called.
    """
    if not (is_group_name(group) and isinstance(host, str) and group in cluster.recorded()):
        return False
    with cluster.record(group) as record:
        known = record.known
    return host in known and cluster.is_accepted(host)


def renew(cluster: Cluster, group: Any, host: Any) -> bool:
    """
    Read a host's pillar. Note the group's options as they stand there, and whether the host is a member. Returns that.
    """
    options = cluster.member(group, host)
    if options is None and group not in cluster.recorded():
        return False
    with cluster.record(group) as record:
        others = [minion for minion in record.known if minion != host]
        record.known = sorted([*others, host]) if options else others
        if options:
            record.options = dict(options)
    return options is not None


def _impatient(record: Record, host: str) -> list[str]:
    """
    Waiting hosts to tell that they are queued, so that they do not take the master for dead and push by themselves.

    They are told when one of them asks again while another host pushes; the first time only if that push takes long, or
    a process here has the lease, which is to work with a group in which nobody pushes.
    """
    now, lease = time.time(), record.lease
    if lease and (lease.pid or (host not in record.waiting and host != lease.host and now - lease.since > TOLD_AFTER)):
        return [host]
    if not lease or host not in record.waiting or 0 <= now - record.told < waits.WAITING_TOLD:
        return []
    record.told = now
    return [minion for minion in record.waiting if minion != lease.host]


def _call_next(cluster: Cluster, group: str, record: Record) -> None:
    """If nobody pushes, and no process here waits for the lease, call the host that has waited longest."""
    if record.lease or not record.waiting or is_runner(record.next):
        return
    host = record.waiting.pop(0)
    kwarg: dict[str, Any] = {} if record.paused is None else {"paused": record.paused}
    if host in record.anew:
        kwarg["anew"] = True
    job = cluster.client().run_job([host], "csyncsync.push", [group], tgt_type="list", kwarg=kwarg, ret="")
    if job and job.get("jid"):
        record.lease = Lease(host, job["jid"])


def have_join_anew(cluster: Cluster, group: str, hosts: list[str]) -> None:
    """
    Have hosts join anew that another one says it has dropped for a while: what has changed meanwhile, nobody has kept
    for them. If they were off, they have heard of nothing.
    """
    with cluster.record(group) as record:
        new = [host for host in hosts if host in record.admitted and host not in record.anew]
        record.anew = sorted({*record.anew, *new})
    for host in new:
        ask(cluster, group, host)


# --- The end of a lease ----------------------------------------------------------------------------------


def release(cluster: Cluster, group: str, jid: Any, host: str | None = None) -> None:
    """
    End a lease and call the next host.

    host
        An event says that this host has ended its push. Anybody can send it, so it ends no lease but one of a push: two
        of these at once are slower, and no more.
    """
    with cluster.record(group) as record:
        held = record.lease
        if held and held.jid == jid and (host is None or (host == held.host and held.pid is None)):
            record.lease = None
        if record.next == os.getpid():
            record.next = None
        _call_next(cluster, group, record)


def _free_if_left(cluster: Cluster, group: str, lease: Lease) -> None:
    """Take a lease from a holder that no longer pushes, and call the next host. Waits for the holder's answer."""
    # A process has it, of a join for example, or a host's job.
    if not (is_runner(lease.pid) if lease.pid else cluster.running([lease.host], lease.jid, waits.LEASE_ANSWER)):
        release(cluster, group, lease.jid)


def is_runner(pid: int | None) -> bool:
    """Tell whether a process still runs, and is not another one that was given the same number."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        return b"csyncsync." in file.read()
    return False


# --- A process on the master that has the lease ----------------------------------------------------------


@contextlib.contextmanager
def leased(cluster: Cluster, group: str, host: str, seconds: float = float("inf")) -> Iterator[None]:
    """
    Hold the lease while this process works with a host. Waits for it.

    After so many seconds it goes on beside a host that pushes, which may take hours: no other is called meanwhile. It
    does not go on beside another process on the master, a join or a reset, which relies on its steps. Raises
    CsyncsyncError.
    """
    began = told = time.monotonic()
    try:
        while holder := _take(cluster, group, host):
            if time.monotonic() - began >= seconds:
                if not holder.pid:
                    break
                raise CsyncsyncError(f"another command works on {group} (process {holder.pid}); try again when it ends")
            if time.monotonic() - told > waits.WAITING_TOLD:
                told = time.monotonic()
                progress(f"{group} {host}: waits until another host has pushed")
            time.sleep(0.2)
        yield
    finally:
        release(cluster, group, _name())


def _name() -> str:
    """What stands for a job id in a lease of this process."""
    return f"process {os.getpid()}"


def _take(cluster: Cluster, group: str, host: str) -> Lease | None:
    """Take the lease, if it is free. Else returns it, and no host is called before this process has had it."""
    with cluster.record(group) as record:
        held = record.lease
        record.next = os.getpid() if held else None
        if not held:
            record.lease = Lease(host, _name(), pid=os.getpid())
            return None
        stale = held.is_stale()
        if stale:
            record.lease = dataclasses.replace(held, checked=time.time())
    if stale:
        _free_if_left(cluster, group, held)
    return held


def keep(cluster: Cluster, group: str, jid: str) -> bool:
    """Take over the lease of a host's job, if that job still has it. Returns whether it had."""
    with cluster.record(group) as record:
        if record.lease is None or record.lease.jid != jid:
            return False
        record.lease = dataclasses.replace(record.lease, checked=time.time(), pid=os.getpid())
        return True


# --- Hosts that have not read new keys yet ---------------------------------------------------------------


def call_behind(cluster: Cluster, group: str) -> None:
    """Have hosts read pillar and mine that did not answer when keys changed: in a thread, they may still be silent."""
    with cluster.record(group) as record:
        now = time.time()
        due = [minion for minion, called in record.behind.items() if not 0 <= now - called < waits.BEHIND_AGAIN]
        record.behind.update(dict.fromkeys(due, now))
    if due:
        aside(_refresh_behind, cluster, group, due)


def _refresh_behind(cluster: Cluster, group: str, minions: list[str]) -> None:
    with cluster.record(group) as record:
        members = cluster.members(record.options) if record.options else []
    called, accepted = [minion for minion in minions if minion in members], cluster.not_gone({group: members})
    answers = cluster.call(called, "csyncsync.refresh", [], accepted=accepted)
    with cluster.record(group) as record:
        record.behind = {m: at for m, at in record.behind.items() if m in members and answers.get(m) != []}
