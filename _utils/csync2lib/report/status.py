"""
How far a host is in a group, as its files and csync2's database say.

For the module (``csyncsync.status``) and for the watcher, which writes it down as metrics.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import Any

from csync2lib import actions, beneath, certificate, local_changes, records, storage
from csync2lib.csync2 import custody
from csync2lib.csync2.database import Database
from csync2lib.errors import CsyncsyncError
from csync2lib.group import DIFFERENCES, Group
from csync2lib.host import ThisHost
from csync2lib.journal import is_watched, names, waiting_since
from csync2lib.pauses import ALL_HOSTS, pauses

#: Paths of each kind of which a status tells.
TOLD = 20
#: What is wrong if the watcher does not run.
NOT_WATCHED = "csyncsync-watch.service does not run"


def of_host(host: ThisHost, wanted: str | None = None, versions: dict[str, str] | None = None) -> dict[str, Any]:
    """
    What ``csyncsync.status`` returns of this host's groups, or of the one that is wanted. Raises CsyncsyncError.

    versions
        Those of csyncsync, Salt and csync2. With them, also how much there is, and when the certificate ends.
    """
    groups = [Group(name, host) for name in host.installed() if wanted is None or str(wanted) == name]
    found = {group: read(group.directory, group.database, host.minion) for group in groups}
    more = (
        {"certificate_end": certificate.end(storage.read(host.certificate)), "versions": versions} if versions else {}
    )
    return {
        group.name: {
            **status,
            "held": status["held"] or "; ".join(group.guard.problems().values()),
            "paused": group.why_paused(),
            "anew": sorted(group.dropped() & {*status["hosts"]}),
            **(_size(group) if versions else {}),
            **({"records": _records(group)} if versions and is_at_rest(status) else {}),
            **more,
        }
        for group, status in found.items()
        if status
    }


def _size(group: Group) -> dict[str, Any]:
    """How much a group is, by csync2's records, and how much room its disks have."""
    result: dict[str, Any] = {"files": None, "bytes": None}
    with contextlib.suppress(sqlite3.Error), group.open_database() as database:
        result["files"], result["bytes"] = database.size()
    disks: dict[int, dict[str, Any]] = {}
    for path in group.said().get("include", ()):  # it may be leaving this host just now
        with contextlib.suppress(OSError), beneath.opened(path) as handle:
            disk = os.fstatvfs(handle)
            free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
            disks.setdefault(os.fstat(handle).st_dev, {"path": path, "free": free, "total": total})
    return {**result, "disks": list(disks.values())}


def _records(group: Group) -> list[str] | None:
    """Digests of all records, by which hosts are compared that are at rest; None if nobody can tell now."""
    with contextlib.suppress(sqlite3.Error, OSError, CsyncsyncError):
        return records.digests(group)
    return None


def is_at_rest(status: dict[str, Any]) -> bool:
    """
    Given what read() returns, tell whether nothing is on its way: what is still to be sent, other hosts have refused.
    Somebody has to see to that, and it may stand for long; meanwhile all else is to be the same on all hosts.
    """
    if status.get("state") != "established" or status["journal"]:
        return False
    told = {peer: {*status["refused"].get(peer, ()), *status["cannot_write"].get(peer, ())} for peer in status["dirty"]}
    return not {*told} & {*status["unreachable"]} and all(n <= len(told[peer]) for peer, n in status["dirty"].items())


def read(directory: str, path: str, minion: str) -> dict[str, Any]:
    """
    Given a group's directory, the path of its database, and this host's minion id, return what ``csyncsync.status``
    does of one group, with ``paused`` as True or False; {} if the group has no config, or loses it just now.
    """

    def note(name: str) -> Any:
        return storage.read_json(os.path.join(directory, name), {})

    config, last, watch, failed = map(note, ("config.json", "push.json", "watch.json", "peers.json"))
    if not config:
        return {}
    watched = is_watched(directory)
    minions = {host["address"]: minion for minion, host in config["hosts"].items()}
    failed = {**note("large.json"), **failed}
    result: dict[str, Any] = {"state": "unknown", "dirty": {}, "error": "", "database_bytes": None}
    with contextlib.suppress(OSError):
        result["database_bytes"] = os.stat(path).st_size
    try:
        with Database(path, timeout=2) as opened:
            result["state"] = ("new", "recorded", "established")[min(opened.state(), 2)]
            result["dirty"] = {minions[peer]: n for peer, n in opened.dirty_peers().items() if peer in minions}
    except sqlite3.Error as err:
        result["error"] = f"{path}: {err}"
    result["error"] = "; ".join(filter(None, (custody.problem(), result["error"])))
    journal = len(names(os.path.join(directory, "journal")))
    in_sync = result["state"] == "established" and not (journal or result["dirty"])
    return {
        **result,
        "journal": journal,
        "refused": last.get("refused") or {},
        "cannot_write": {minions[peer]: paths for peer, paths in note("cannot_write.json").items() if peer in minions},
        "unreachable": {minions.get(peer, peer): entry["problem"] for peer, entry in failed.items()},
        "held": last.get("comment", "") if last.get("state") == "held" else "",
        "paused": bool({ALL_HOSTS, minion} & {*pauses(directory)}),
        "waiting_since": None if in_sync else waiting_since(os.path.join(directory, "journal"), last),
        "last_push": last,
        "watching": bool(watched and watch.get("ready")) and not watch.get("error"),
        "watch": watch if watched else {**watch, "error": NOT_WATCHED},
        "unread": dict(sorted(note("unread.json").items())[:TOLD]),
        "local": _local(directory, path),
        "differences": note(DIFFERENCES).get("total", 0),
        "unpublished": config["unpublished"],
        "hosts": {minion: f"{host['name']}@{host['address']}" for minion, host in config["hosts"].items()},
        "in_sync": in_sync,
        "actions": actions.results(directory, (config.get("rules") or {}).get("commands", ())),
    }


def _local(directory: str, path: str) -> dict[str, Any]:
    """What stands here otherwise than this host has received it: how many paths, and the first of them."""
    noted, paths = len(storage.read_names(os.path.join(directory, local_changes.LOCAL))), dict[str, str]()
    with contextlib.suppress(sqlite3.Error):
        paths = local_changes.changes(directory, path, TOLD) if noted else {}
    return {"number": len(paths) if len(paths) < TOLD else noted, "paths": paths}
