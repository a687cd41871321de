"""A group's files on all its hosts, read from the disks and compared; csync2's databases are not asked."""

from __future__ import annotations

import json
import time
from typing import Any

from csync2lib import contents, waits
from csync2lib.errors import CsyncsyncError
from csync2lib.master.cluster import Cluster, mappings
from csync2lib.master.commands import progress
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
