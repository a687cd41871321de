"""What a push tells when it has ended: the next host is called, a join begins, a conflict comes to light."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from typing import Any

import salt.utils.event

from csync2lib.master import joins, lease
from csync2lib.master.cluster import Cluster

log = logging.getLogger(__name__)


def pushed(cluster: Cluster, group: Any, host: Any, jid: Any, state: Any, refused: Any) -> bool:
    """
    Take in that a host has ended its push, and call the next; all of it as an event says it.

    refused
        ``{minion id: [path, …]}``: what other hosts did not take. A file that two hosts refuse from each other is a
        conflict.

    Returns whether the host is a member of the group.
    """
    if not lease.was_member(cluster, group, host) and not lease.renew(cluster, group, host):
        return False
    with cluster.record(group) as record:
        ours = record.lease if record.lease and (record.lease.jid, record.lease.host) == (jid, host) else None
        if ours and state == "joining":
            # The join goes on under this lease, as a process of its own: it waits for hosts.
            pid = joins.start(cluster, group, host, ours.jid)
            record.lease = dataclasses.replace(ours, checked=time.time(), pid=pid)
            return True
        if ours and state == "pushed":  # only then: whose files count at first is not for any event to say
            record.admitted = sorted({*record.admitted, host})
            record.returning.pop(host, None)
            record.joining.pop(host, None)
            if record.founders is not None:
                record.founders = [minion for minion in record.founders if minion != host]
    lease.release(cluster, group, jid, host)
    lease.call_behind(cluster, group)
    if state == "pushed" and refused is not None:
        _tell_conflicts(cluster, group, host, refused)
    return True


def _tell_conflicts(cluster: Cluster, group: str, host: str, refused: Any) -> None:
    """Note what a host says that others refused, and fire an event for each conflict that this brings to light."""
    with cluster.record(group) as record:
        said = {**record.refused, host: _checked(refused)}
        if said[host] == record.refused.get(host, {}):
            return
        found = sorted(
            [path, one, other]
            for one, theirs in said.items()
            for other, paths in theirs.items()
            for path in paths
            if one < other and path in said.get(other, {}).get(one, ())
        )
        new = [conflict for conflict in found if conflict not in record.conflicts]
        record.refused = {minion: theirs for minion, theirs in said.items() if theirs}
        record.conflicts = found
    for path, one, other in new:
        log.warning("csyncsync: conflict in group %s: %s and %s have changed %s", group, one, other, path)
        opts = cluster.opts
        with salt.utils.event.get_master_event(opts, opts["sock_dir"], listen=False) as event:
            event.fire_event({"group": group, "path": path, "hosts": [one, other]}, f"csyncsync/{group}/conflict")


def _checked(refused: Any) -> dict[str, list[str]]:
    """What an event says that hosts refused, if it has the shape of it; any minion can send any event."""
    if not isinstance(refused, dict) or not all(isinstance(paths, list) for paths in refused.values()):
        return {}
    return {
        str(minion)[:255]: sorted({str(path)[:4096] for path in paths[:20]})
        for minion, paths in itertools.islice(refused.items(), 100)
        if paths
    }
