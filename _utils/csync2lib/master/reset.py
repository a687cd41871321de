"""All databases of a group are rebuilt, and one host's content wins."""

from __future__ import annotations

from typing import Any

from csync2lib import contents
from csync2lib.config import membership
from csync2lib.errors import CsyncsyncError
from csync2lib.master.cluster import Cluster
from csync2lib.master.commands import SILENT, progress, with_exit_code
from csync2lib.master.lease import leased
from csync2lib.master.verify import verify


def reset(cluster: Cluster, group: str, source: str, test: bool) -> dict[str, Any]:
    """
    Have the source's content win; test: only tell what would be replaced and deleted.

    Returns ``{minion id: what was done}``. Raises CsyncsyncError.
    """
    options = cluster.group(group)
    members = cluster.members(options)
    if source not in members or membership.receives_only(options, source):
        raise CsyncsyncError(f"source= is to be a host that sends: one of {', '.join(members)}")
    if test:
        return _would_reset(cluster, group, members, source)
    answers = cluster.statuses(group, members)
    silent = [minion for minion in members if minion not in answers]
    if silent:
        raise CsyncsyncError(
            f"{', '.join(silent)} did not answer; start it, or take it out of csyncsync:groups:{group}:members"
        )
    with leased(cluster, group, source):
        return _reset(cluster, group, [source, *(minion for minion in members if minion != source)])


def _reset(cluster: Cluster, group: str, hosts: list[str]) -> dict[str, Any]:
    """Rebuild the databases of hosts; the first one's content wins."""
    source, result, failed = hosts[0], {}, False
    with cluster.record(group) as record:
        # Nobody is a founder, whose files count; nobody is waited for.
        record.founders, record.admitted, record.missed, record.returning = [], [], [], {}
        record.refused, record.conflicts = {}, []
    for number, host in enumerate(hosts):
        progress(f"{group}: {number + 1} of {len(hosts)} databases, {host}")
        try:
            cluster.step(host, "csyncsync.reset", [group], kind=bool)
            result[host] = "its content wins" if host == source else _take_content(cluster, group, source, host)
            if host == source:
                cluster.step(host, "csyncsync.join", [group])
            with cluster.record(group) as record:
                record.admitted = sorted({*record.admitted, host})
        except CsyncsyncError as err:
            result[host] = f"not done: {err}; it joins by itself and keeps what it alone has, or run this again"
            failed = True
            if host == source:
                break
    return with_exit_code(result, failed)


def _take_content(cluster: Cluster, group: str, source: str, host: str) -> str:
    """Have a host take the content of the source. Returns what was done, in words."""
    cluster.step(host, "csyncsync.join", [group, source])
    digests = cluster.step(host, "csyncsync.digests", [group])["digests"]
    done = cluster.step(source, "csyncsync.admit", [group, host, digests, [], False, True])
    cluster.step(host, "csyncsync.join", [group, f"source={source}", "admitted=True"])
    return f"got {done['marked'] - done['left']} entries from {source}"


def _would_reset(cluster: Cluster, group: str, members: list[str], source: str) -> dict[str, Any]:
    found = verify(cluster, group, members)
    result: dict[str, Any] = dict.fromkeys(found["silent"], SILENT)
    for minion in found["hosts"]:
        told: dict[str, list[str]] = {"replaced": [], "deleted": [], "made": []}
        for path, versions in found["differences"].items():
            there, wanted = versions[minion], versions[source]
            if contents.compared(there) != contents.compared(wanted):
                kind = {"nothing": "deleted"}.get(wanted["type"], "made" if there["type"] == "nothing" else "replaced")
                told[kind].append(path)
        result[minion] = "its content wins" if minion == source else {k: v for k, v in told.items() if v} or "the same"
    return with_exit_code(result, found["silent"])
