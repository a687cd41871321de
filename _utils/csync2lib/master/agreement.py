"""
Whether all hosts of a group agree when nobody has anything to send; and what is done if they do not.

Each host gives digests of csync2's records. Who has missed something, whatever the reason, has nothing to send, and
would say "in sync" for good.
"""

from __future__ import annotations

import collections
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import salt.utils.event
from salt.exceptions import SaltException

from csync2lib import contents, records, storage, waits
from csync2lib.errors import CsyncsyncError
from csync2lib.master import record
from csync2lib.master.cluster import Cluster
from csync2lib.master.lease import ask
from csync2lib.report.words import one_line, readable

log = logging.getLogger(__name__)

#: Paths that a host names at most, of those that may differ.
MOST = 5000
#: How often hosts that are not at rest are asked, until one of them has pushed again.
TRIES = 6

#: ``{percent-encoded path: {minion id: digest, None if it has none}}``
Differences = dict[str, dict[str, Any]]


def differences(cluster: Cluster, group: str, statuses: Mapping[str, Mapping[str, Any]]) -> Differences | None:
    """
    What hosts have differently, given ``{minion id: what csyncsync.status(size=True) says of the group}`` of all
    members; None while one of them has something on its way, or does not answer: then nobody knows. What others
    have refused from one of them is left out: that is a conflict, or will be sent.
    """
    given: list[list[str]] = [status.get("records") or [] for status in statuses.values()]
    if not all(given):
        return None
    slots = [slot for slot, there in enumerate(zip(*given)) if len({*there}) > 1]
    if not slots:
        return {}
    files = max(status.get("files") or 0 for status in statuses.values())
    slots = slots[: max(1, MOST * records.DIGESTS // (files + 1))]
    first = _behind(cluster, group, [*statuses], slots)
    if not first:
        return first
    time.sleep(waits.AGREE_AGAIN)  # a change that was under way is over by then
    second = _behind(cluster, group, [*statuses], slots)
    return second and {path: there for path, there in second.items() if first.get(path) == there}


def _behind(cluster: Cluster, group: str, hosts: list[str], slots: list[int]) -> Differences | None:
    """What hosts have differently behind some digests; None if one of them has something on its way by now."""
    answers = cluster.call(hosts, "csyncsync.records", [group, slots])
    found = {minion: answer["paths"] for minion, answer in answers.items() if answer["calm"]}
    if len(found) < len(hosts):
        return None
    left = {path for answer in answers.values() for path in answer["left"]}
    differ = (path for path in contents.unlike(found) if path.rstrip("/") not in left)
    unlike = {path: {host: found[host].get(path) for host in hosts} for path in differ}
    # A host keeps a directory that was deleted elsewhere if it has something in it that is not of the group.
    lacked = sorted(path for path, there in unlike.items() if path.endswith("/") and None in there.values())
    kept = cluster.call(lacked and hosts, "csyncsync.kept", [group, lacked])
    if lacked and len(kept) < len(hosts):
        return None
    stay = {path for paths in kept.values() for path in paths}
    return {path: there for path, there in unlike.items() if path not in stay}


def by_host(found: Differences) -> dict[str, list[str]]:
    """``{minion id: [path, …]}`` of hosts that have paths otherwise than most hosts, or than the first one by name."""
    result: dict[str, list[str]] = {}
    for path, there in sorted(found.items()):
        counts = collections.Counter(there[host] for host in sorted(there))
        usual = counts.most_common(1)[0][0]
        for host in sorted(there):
            if there[host] != usual:
                result.setdefault(host, []).append(path)
    return result


# --- What is done ----------------------------------------------------------------------------------------


def heal(cluster: Cluster, group: str, members: list[str]) -> Differences | None:
    """
    Have hosts send what they have differently: who has what all had before, or has only received what he has, gets
    what is newer, and the rest is a conflict. Returns what that is, as differences() does; None, too, if not all can.
    """
    answers = cluster.call(members, "csyncsync.status", [group], waits.STATUS_ANSWER, size=True)
    found = differences(cluster, group, {minion: answers.get(minion, {}).get(group, {}) for minion in members})
    if not found:
        return found
    path = readable(next(iter(found)))
    log.warning("csyncsync: %d paths of group %s are not the same on all its hosts, as %s", len(found), group, path)
    said = {host: len(paths) for host, paths in by_host(found).items()}
    with salt.utils.event.get_master_event(cluster.opts, cluster.opts["sock_dir"], listen=False) as event:
        event.fire_event({"group": group, "path": path, "hosts": said}, f"csyncsync/{group}/differs")
    if not mark(cluster, group, members, found):
        log.warning("csyncsync: not all hosts of %s can send what they have differently; it is tried again", group)
        return None
    for minion in members:
        ask(cluster, group, minion)
    return found


def mark(cluster: Cluster, group: str, members: list[str], found: Differences) -> bool:
    """
    Have hosts mark what they have differently. Who has nothing there, or has received again what another host knows as
    older than what it has made of it, gives way; so does who has made that, and does not know what was made of it.
    Returns whether all did as told: who has not marked what is newer would take what is older.
    """
    names = sorted(found)
    own = cluster.call(members, "csyncsync.mark", [group, names], test=True)
    if own.keys() != {*members}:
        return False

    def gives_way(host: str, name: str) -> bool:
        its, makers = found[name].get(host), [other for other in members if other != host and name in own[other]]
        if name not in own[host]:
            return any(its in (None, *own[other][name]) for other in makers)
        newer = [found[name].get(other) for other in makers if its in own[other][name]]
        return its is not None and any(one not in (None, *own[host][name]) for one in newer)

    but: dict[str, list[str]] = {host: [] for host in members}
    for name in names:
        giving = [host for host in members if gives_way(host, name)]
        if len(giving) == len(members):  # each of them knows another one's as older
            giving = [host for host in giving if name not in own[host]]
        for host in giving:
            but[host].append(name)
    # All at the same time: who is late takes what is older.
    return cluster.call(members, "csyncsync.mark", [group, names], but=but).keys() == {*members}


def compare(cluster: Cluster, group: str) -> None:
    """
    After a check of a whole group: compare its hosts a while later, once for all checks until then, and again while one
    of them has something on its way. What is not reached stands in the group's record, for the next push.
    """
    with storage.locked(os.path.join(record.directory(cluster.opts), f"{group}.compare.lock")) as mine:
        for _ in range(TRIES if mine else 0):
            time.sleep(waits.AGREE_AFTER)
            with cluster.record(group) as noted:
                noted.compare = False
            try:
                if heal(cluster, group, cluster.members(cluster.group(group))) is not None:
                    return
            except (CsyncsyncError, SaltException) as err:
                log.warning("csyncsync: the hosts of %s cannot be compared: %s", group, one_line(str(err)))
            with cluster.record(group) as noted:
                noted.compare = True
