"""Hosts and groups, and what needs somebody."""

from __future__ import annotations

import time
from typing import Any

from csync2lib import waits
from csync2lib.master.cluster import Cluster
from csync2lib.report import report


def status(cluster: Cluster, group: str | None) -> dict[str, Any]:
    """What csync2lib.report makes of all hosts' answers, for its outputter. Raises CsyncsyncError."""
    members = {name: cluster.members(options) for name, options in sorted(cluster.groups(group).items())}
    minions = sorted({minion for hosts in members.values() for minion in hosts})
    answers = cluster.call(minions, "csyncsync.status", ["size=True"], waits.STATUS_ANSWER) if minions else {}
    rows = {name: report.report(name, hosts, answers, time.time()) for name, hosts in members.items()}
    retcode = int(any(row["problems"] for hosts in rows.values() for row in hosts.values()))
    return {"outputter": "csyncsync", "data": {"groups": rows, "retcode": retcode}}
