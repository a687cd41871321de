"""Hosts that did not answer when keys or certificates changed: they are called again until they have read them."""

from __future__ import annotations

import time

from csync2lib import waits
from csync2lib.master.cluster import Cluster, aside


def call(cluster: Cluster, group: str) -> None:
    """Have such hosts read pillar and mine when it is their time: aside, because they may be silent still."""
    with cluster.record(group) as record:
        now = time.time()
        due = [minion for minion, called in record.behind.items() if not 0 <= now - called < waits.BEHIND_AGAIN]
        record.behind.update(dict.fromkeys(due, now))
    if due:
        aside(_refresh, cluster, group, due)


def _refresh(cluster: Cluster, group: str, minions: list[str]) -> None:
    with cluster.record(group) as record:
        members = cluster.members(record.options) if record.options else []
    called = [minion for minion in minions if minion in members]
    answers = cluster.call(called, "csyncsync.refresh", [], accepted={group: members}) if called else {}
    with cluster.record(group) as record:
        record.behind = {m: at for m, at in record.behind.items() if m in members and answers.get(m) != []}
