"""
How far a host is in a group, as its files and csync2's database say.

For the module (``csyncsync.status``) and for the watcher, which writes it down as metrics. May call ``csync2action``,
``csync2file``, ``csync2journal`` and the standard library; who calls it brings ``csync2.Database`` along, because the
watcher has a copy of its own.
"""

import os
import sqlite3
import time

import csync2action
import csync2file
import csync2journal

#: In the place of a host, in what is paused: the whole group.
ALL_HOSTS = "*"


def read(directory, database, path, minion):
    """
    Return the status of a group on this host.

    directory
        The group's.
    database, path
        The class ``csync2.Database``, and where the group's database is.
    minion
        This host's minion id.

    Returns what ``csyncsync.status`` returns of one group, with ``paused`` as True or False; {} if the group has no
    config, or loses it just now.
    """

    def note(name):
        return csync2file.read_json(os.path.join(directory, name), {})

    config, last, watch, failed, held = map(note, ("config.json", "push.json", "watch.json", "peers.json", "held.json"))
    if not config:
        return {}
    minions = {host["address"]: minion for minion, host in config["hosts"].items()}
    result = {"state": "unknown", "dirty": {}, "error": ""}
    try:
        with database(path, timeout=2) as opened:
            result["state"] = ("new", "recorded", "established")[min(opened.state(), 2)]
            result["dirty"] = {minions[peer]: n for peer, n in opened.dirty_peers().items() if peer in minions}
    except sqlite3.Error as err:
        result["error"] = f"{path}: {err}"
    journal = csync2journal.count(os.path.join(directory, "journal"))
    unfinished = sorted(os.fsencode(name).decode("utf-8", "backslashreplace") for name in held)
    in_sync = result["state"] == "established" and not (journal or unfinished or result["dirty"])
    return {
        **result,
        "journal": journal,
        "refused": last.get("refused") or {},
        "unreachable": {minions.get(peer, peer): entry["problem"] for peer, entry in failed.items()},
        "held": last.get("comment", "") if last.get("state") == "held" else "",
        "paused": bool({ALL_HOSTS, minion} & {*pauses(directory)}),
        "unfinished": unfinished,
        "waiting_since": None if in_sync else waiting_since(directory, last),
        "last_push": last,
        "watching": bool(watch.get("ready")) and not watch.get("error"),
        "watch": watch,
        "unpublished": config["unpublished"],
        "hosts": {minion: f"{host['name']}@{host['address']}" for minion, host in config["hosts"].items()},
        "database_bytes": _size(path),
        "in_sync": in_sync,
        "actions": csync2action.results(directory, (config.get("rules") or {}).get("commands", ())),
    }


def pauses(directory):
    """What is paused of a group, given its directory, and has not ended by itself (see ``csyncsync.paused``)."""
    found, now = csync2file.read_json(os.path.join(directory, "paused.json"), {}), time.time()
    return {host: pause for host, pause in found.items() if pause["until"] is None or pause["until"] > now}


def waiting_since(directory, last):
    """
    When the oldest change that others may lack was seen (seconds since the epoch), as far as is known; else None.

    directory
        The group's.
    last
        What is noted of the last push: it knows of what no journal tells, as what a check of the whole group found.
    """
    times = [csync2journal.oldest_unsent(os.path.join(directory, "journal")), last.get("since")]
    return min((when for when in times if when is not None), default=None)


def _size(path):
    """Bytes of a file, None if it is not there."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None
