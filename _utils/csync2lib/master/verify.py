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
from csync2lib.master import joins, shapes
from csync2lib.master.cluster import Cluster
from csync2lib.master.commands import SILENT, progress, shown, versions, with_exit_code
from csync2lib.master.lease import leased
from csync2lib.report.words import readable

#: Megabytes that each host reads in a second.
RATE = 50
#: Seconds of reading between two lines of progress.
STEP = 10
#: Paths that are shown.
SHOWN = 1000

#: ``{minion id: {"files", "bytes"}}``
Sizes = dict[str, dict[str, int]]


def verify(cluster: Cluster, group: str, members: list[str], rate: Any = RATE) -> dict[str, Any]:
    """What the runner's ``verify`` returns of these hosts. Raises CsyncsyncError."""
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or rate < 0:
        raise CsyncsyncError(f"rate={rate!r} is no number of megabytes in a second")
    began = time.monotonic()
    asked = cluster.call(members, "csyncsync.contents", [group])
    sizes, unknown = dict(asked), asked.why
    silent = [minion for minion in members if minion not in asked.heard()]
    found = _differing(cluster, group, sizes, int(rate * 1_000_000), unknown)
    if found:
        progress(f"{group}: {len(found)} paths differ; looking again in {waits.VERIFY_AGAIN} s")
        time.sleep(waits.VERIFY_AGAIN)
    seen, lost = versions(cluster, group, sorted(sizes), found[:SHOWN]) if found else ({}, {})
    unknown.update(lost)
    differences = {
        readable(path): shown(there)
        for path, there in seen.items()
        if len({json.dumps(contents.compared(version), sort_keys=True) for version in there.values()}) > 1
    }
    return {
        "group": group,
        "hosts": {minion: size for minion, size in sizes.items() if minion not in unknown},
        "silent": silent,
        **({"unknown": unknown} if unknown else {}),
        "differences": differences,
        "more": max(0, len(found) - SHOWN),
        "seconds": round(time.monotonic() - began, 1),
        "retcode": int(bool(differences or silent or unknown or len(found) > SHOWN)),
    }


def _differing(cluster: Cluster, group: str, sizes: Sizes, rate: int, unknown: dict[str, str]) -> list[str]:
    """
    The percent-encoded paths that hosts have differently: first the slots of digests, then the paths in them. Who can
    no longer tell, and why, is added to ``unknown``; what the others have is compared without them.
    """
    most = max((size["bytes"] for size in sizes.values()), default=0)
    parts = min(100, 1 + (most // (rate * STEP) if rate else 0))

    def compared(shape: shapes.Shape, **options: Any) -> list[str]:
        hosts = [minion for minion in sorted(sizes) if minion not in unknown]
        answers = cluster.call(hosts, "csyncsync.contents", [group], shape=shape, rate=rate, **options)
        unknown.update(answers.missing(hosts, "no longer answers"))
        return contents.unlike(answers)

    slots: list[str] = []
    for part in range(parts):
        slots += compared(shapes.SLOTS, part=part, parts=parts)
        progress(f"{group}: {part + 1} of {parts} parts read, {len(slots)} differences so far")
    return compared(shapes.PATHS, slots=[int(slot) for slot in slots]) if slots else []


# --- One host's content wins ------------------------------------------------------------------------------


def reset(cluster: Cluster, group: str, source: str, test: bool) -> dict[str, Any]:
    """What the runner's ``reset`` does. Raises CsyncsyncError."""
    options = cluster.group(group)
    members = cluster.members(options)
    membership.require_sender(group, options, members, source, "source=")
    if test:
        return _would_reset(cluster, group, members, source)
    answers = cluster.call(members, "csyncsync.status", [group])
    if silent := answers.missing(members, "did not answer"):
        said = "; ".join(f"{minion} {why}" for minion, why in silent.items())
        raise CsyncsyncError(f"{said}; start it, or take it out of csyncsync:groups:{group}:members")
    with leased(cluster, group, source), joins.alone(cluster, group):
        return _reset(cluster, group, [source, *(minion for minion in members if minion != source)])


def _reset(cluster: Cluster, group: str, hosts: list[str]) -> dict[str, Any]:
    """Rebuild the databases of hosts; the first one's content wins."""
    source, result, failed = hosts[0], {}, False
    with cluster.record(group) as record:
        # Nobody is a founder, whose files count; nobody is waited for.
        record.founders, record.admitted, record.anew, record.returning = [], [], [], {}
        record.refused, record.joining = {}, {}
    for number, host in enumerate(hosts):
        progress(f"{group}: {number + 1} of {len(hosts)} databases, {host}")
        try:
            cluster.step(host, "csyncsync.reset", [group])
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
    cluster.step(host, "csyncsync.join", [group], source=source, admitted=True)
    return f"got {taken} entries from {source}"


def _would_reset(cluster: Cluster, group: str, members: list[str], source: str) -> dict[str, Any]:
    found = verify(cluster, group, members)
    result: dict[str, Any] = {**dict.fromkeys(found["silent"], SILENT), **found.get("unknown", {})}
    if source in result:
        raise CsyncsyncError(f"{source}, whose content is to win, {result[source]}")
    for minion in found["hosts"]:
        told: dict[str, list[str]] = {"replaced": [], "deleted": [], "made": []}
        for path, seen in found["differences"].items():
            there, wanted = seen[minion], seen[source]
            if contents.compared(there) != contents.compared(wanted):
                kind = {"nothing": "deleted"}.get(wanted["type"], "made" if there["type"] == "nothing" else "replaced")
                told[kind].append(path)
        result[minion] = "its content wins" if minion == source else {k: v for k, v in told.items() if v} or "the same"
    return with_exit_code(result, found["silent"] or "unknown" in found)
