"""
A group's files on all its hosts, read from the disks and compared, csync2's databases are not asked; and all databases
rebuilt, with one host's content.
"""

from __future__ import annotations

import json
import time
from typing import Any

from csync2lib import contents, waits
from csync2lib.config import membership
from csync2lib.errors import CsyncsyncError
from csync2lib.master import joins
from csync2lib.master.cluster import Cluster, mappings
from csync2lib.master.commands import SILENT, progress, with_exit_code
from csync2lib.master.lease import leased
from csync2lib.master.listing import readable, shown, versions

#: Megabytes that each host reads in a second.
RATE = 50
#: Seconds of reading between two lines of progress.
STEP = 10
#: Paths that are shown.
SHOWN = 1000

#: ``{minion id: {"files", "bytes"}}``
Sizes = dict[str, dict[str, int]]


def verify(cluster: Cluster, group: str, members: list[str], rate: Any = RATE) -> dict[str, Any]:
    """
    Compare the files of these hosts. Raises CsyncsyncError.

    rate
        Megabytes a second; 0: as many as can be.

    Returns ``{"group", "hosts": {minion id: {"files", "bytes"}}, "silent": [minion id, …], "differences": {path:
    {minion id: version}}, "more": differences that are not shown, "seconds", "retcode"}``.
    """
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or rate < 0:
        raise CsyncsyncError(f"rate={rate!r} is no number of megabytes in a second")
    began = time.monotonic()
    sizes: Sizes = mappings(cluster.call(members, "csyncsync.contents", [group]))
    hosts = sorted(sizes)
    found = _differing(cluster, group, hosts, sizes, int(rate * 1_000_000))
    if found:
        progress(f"{group}: {len(found)} paths differ; looking again in {waits.VERIFY_AGAIN} s")
        time.sleep(waits.VERIFY_AGAIN)
    seen = versions(cluster, group, hosts, found[:SHOWN]) if found else {}
    differences = {
        readable(path): shown(there)
        for path, there in seen.items()
        if len({json.dumps(contents.compared(version), sort_keys=True) for version in there.values()}) > 1
    }
    silent = [minion for minion in members if minion not in hosts]
    return {
        "group": group,
        "hosts": sizes,
        "silent": silent,
        "differences": differences,
        "more": max(0, len(found) - SHOWN),
        "seconds": round(time.monotonic() - began, 1),
        "retcode": int(bool(differences or silent or len(found) > SHOWN)),
    }


def _differing(cluster: Cluster, group: str, hosts: list[str], sizes: Sizes, rate: int) -> list[str]:
    """The percent-encoded paths that hosts have differently: first the slots of digests, then the paths in them."""
    most = max((size["bytes"] for size in sizes.values()), default=0)
    parts = min(100, 1 + (most // (rate * STEP) if rate else 0))
    slots: list[str] = []
    for part in range(parts):
        slots += contents.unlike(_asked(cluster, group, hosts, part=part, parts=parts, rate=rate))
        progress(f"{group}: {part + 1} of {parts} parts read, {len(slots)} differences so far")
    if not slots:
        return []
    return contents.unlike(_asked(cluster, group, hosts, slots=[int(slot) for slot in slots], rate=rate))


def _asked(cluster: Cluster, group: str, hosts: list[str], **options: Any) -> dict[str, dict[str, str]]:
    """``{minion id: what csyncsync.contents returned}``; all have to answer. Raises CsyncsyncError."""
    arguments = [group, *(f"{name}={value}" for name, value in options.items())]
    answers = mappings(cluster.call(hosts, "csyncsync.contents", arguments))
    if set(answers) != set(hosts):
        raise CsyncsyncError(f"{', '.join(sorted(set(hosts) - set(answers)))} no longer answers; try again")
    return answers


# --- One host's content wins ------------------------------------------------------------------------------


def reset(cluster: Cluster, group: str, source: str, test: bool) -> dict[str, Any]:
    """
    Have the source's content win; test: only tell what would be replaced and deleted.

    Returns ``{minion id: what was done}``. Raises CsyncsyncError.
    """
    options = cluster.group(group)
    members = cluster.members(options)
    membership.require_sender(group, options, members, source, "source=")
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
        record.refused, record.conflicts, record.joining = {}, [], {}
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
    taken = joins.admit(cluster, group, source, host, digests, [], remove=True)
    cluster.step(host, "csyncsync.join", [group, f"source={source}", "admitted=True"])
    return f"got {taken} entries from {source}"


def _would_reset(cluster: Cluster, group: str, members: list[str], source: str) -> dict[str, Any]:
    found = verify(cluster, group, members)
    silent = {*found["silent"]}.union(*({*found["hosts"]} - {*seen} for seen in found["differences"].values()))
    if source in silent:
        raise CsyncsyncError(f"{source}, whose content is to win, {SILENT}")
    result: dict[str, Any] = dict.fromkeys(sorted(silent), SILENT)
    for minion in sorted({*found["hosts"]} - silent):
        told: dict[str, list[str]] = {"replaced": [], "deleted": [], "made": []}
        for path, seen in found["differences"].items():
            there, wanted = seen[minion], seen[source]
            if contents.compared(there) != contents.compared(wanted):
                kind = {"nothing": "deleted"}.get(wanted["type"], "made" if there["type"] == "nothing" else "replaced")
                told[kind].append(path)
        result[minion] = "its content wins" if minion == source else {k: v for k, v in told.items() if v} or "the same"
    return with_exit_code(result, silent)
