"""
What becomes of an event on the master: which of the runner's functions is called, and how often.

Any minion can fire any event, and as many as it likes. A call of a runner costs the reactor more than ten
milliseconds, so that a hundred events a second keep it from all else. Here an event is judged in a fraction of one:
what no accepted minion can mean is left out, and events of one host that mean the same are made one. The last of them
is never left out: it comes again when its time has come.

The reactor SLS calls ``react``, in the reactor's process. What an event says is a hint: whether the host is a member is
looked up by the runner.
"""

from __future__ import annotations

import fnmatch
import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

import salt.utils.event
import salt.utils.minions

from csync2lib.csync2.names import is_group_name
from csync2lib.master.record import Record, path_of

log = logging.getLogger(__name__)

#: Kind of event -> its tag, which the master's config names, too; the runner's function; and how many events that mean
#: the same are served at once, and how many seconds later one more.
KINDS = {
    "changed": ("salt/beacon/*/csyncsync/*", "csyncsync.sync", (10, 0.25)),
    "pushed": ("csyncsync/*/pushed", "csyncsync.pushed", (10, 2.0)),
    "facts": ("csyncsync/*/facts", "csyncsync.apply", (5, 10.0)),
    "started": ("salt/minion/*/start", "csyncsync.apply", (3, 10.0)),
    "key": ("salt/key", "csyncsync.apply", (3, 10.0)),
}
#: "asked" is "changed" of a host that waits for its turn: it has been heard already.
LIMITS = {**{kind: limit for kind, (_, _, limit) in KINDS.items()}, "asked": (3, 1.0)}
#: The same for all events of a minion about groups that do not know it: it is new there, or it is no member.
STRANGER = (60, 1.0)
#: The same for all events of all minions.
ALL = (300, 0.02)
#: Seconds between looks at the events that wait.
AGAIN = 0.25
#: Seconds after which the list of the accepted minions is read again for one that is not in it.
ACCEPTED_AGE = 0.2
#: Numbers of events left out of one minion within so many seconds that are logged.
TOLD, TOLD_WITHIN = (100, 1_000, 10_000, 100_000), 60.0
#: What a host may say about refused files, in characters of JSON.
REFUSED_LENGTH = 250_000

#: Of an event, and of the call that is made of it: from any hand.
Data = Mapping[str, Any]
#: What events count as the same: kind, minion, group. STRANGER's is the minion, ALL's a word.
Key = Any

#: How many events are still served at once, and when that was counted.
buckets: dict[Key, tuple[float, float]] = {}
#: The tag and the data of events that wait.
waiting: dict[Key, tuple[str, dict[str, Any]]] = {}
#: Of each group, its record, and the time and the inode of the file it was read from.
records: dict[str, tuple[tuple[int, int], Record]] = {}
#: Minion id, or None for all that are not accepted: since when events of it are counted, and how many were left out.
left_out: dict[str | None, tuple[float, int]] = {}
#: Of each group, the last push whose end was served.
ended: dict[str, str] = {}
accepted: dict[str, Any] = {"minions": frozenset(), "read": float("-inf")}
#: The thread that fires the events that wait, while there is one.
worker: list[threading.Thread] = []
_lock = threading.Lock()


def react(tag: str, data: Data, opts: Mapping[str, Any]) -> dict[str, Any]:
    """
    Given an event, from any hand, and the master's config, return what a reactor SLS may: a call of the runner,
    ``{id: {"runner.FUNCTION": [{"args": [{name: value}, …]}]}}``, or ``{}``.
    """
    kind = next((kind for kind, (pattern, _, _) in KINDS.items() if fnmatch.fnmatchcase(tag, pattern)), None)
    arguments = _arguments(kind, data)
    if kind is None or arguments is None or not _passes(kind, tag, data, arguments, opts):
        return {}
    if "refused" in arguments:
        arguments["refused"] = _short(arguments["refused"])
    call = [{"args": [{name: value} for name, value in arguments.items()]}] if arguments else []
    return {f"csyncsync: {kind}": {f"runner.{KINDS[kind][1]}": call}}


def _arguments(kind: str | None, data: Data) -> dict[str, Any] | None:
    """What the runner is called with, None if the event calls for nothing."""
    minion, said = data.get("id"), data if kind == "changed" else data.get("data")
    said = said if isinstance(said, dict) else {}
    if kind == "changed":
        return {"group": said.get("group"), "host": minion}
    if kind == "pushed":
        return {"group": said.get("group"), "host": minion, **{name: said.get(name) for name in OUTCOME}}
    if kind == "facts":
        return {"group": said.get("group"), "reporter": minion}
    if kind == "started":
        return {"host": minion}
    return {} if kind == "key" and data.get("act") == "delete" else None


#: What a push tells of itself.
OUTCOME = ("jid", "state", "refused", "full")


def _short(refused: Any) -> dict[str, Any] | None:
    """The same, or None if it is no mapping, or longer than a push makes it: the master keeps a job of each call."""
    if not isinstance(refused, dict):
        return None
    try:
        return refused if len(json.dumps(refused)) <= REFUSED_LENGTH else None
    except (TypeError, ValueError, RecursionError):
        return None


# --- Who, and how often ----------------------------------------------------------------------------------


def _passes(kind: str, tag: str, data: Data, arguments: dict[str, Any], opts: Mapping[str, Any]) -> bool:
    """Tell whether the runner is to be called now; if not, the event waits, or is left out."""
    minion: Any = data.get("id")
    group: Any = arguments.get("group")
    if kind != "key" and not _is_accepted(minion, opts):
        return _leave_out(None)
    if "group" in arguments:
        words = [word for word in (arguments.get("jid"), arguments.get("state")) if word is not None]
        if not is_group_name(group) or not all(isinstance(word, str) and len(word) <= 40 for word in words):
            return _leave_out(minion)
        record = _record(group, opts)
        if minion not in record.known:
            # It does not wait: a host that has something to push asks again.
            return _take([((minion,), STRANGER), ("all", ALL)]) or _leave_out(minion)
        if kind == "pushed" and _ends_lease(record, group, arguments):
            return True
        if kind == "changed" and minion in record.waiting:
            kind = "asked"
    # Whoever tells of facts, the whole group reads them.
    key = (kind, None if kind == "facts" else minion, group)
    if _take([(key, LIMITS[kind]), ("all", ALL)]):
        return True
    _wait(key, tag, {"id": minion, "act": data.get("act"), "group": group, "data": arguments}, opts)
    return _leave_out(minion)


def _is_accepted(minion: object, opts: Mapping[str, Any]) -> bool:
    """Tell whether the master has accepted the key of a minion of this name."""
    if not isinstance(minion, str) or not minion:
        return False
    now = time.monotonic()
    if minion not in accepted["minions"] and now - accepted["read"] > ACCEPTED_AGE:
        found = salt.utils.minions.CkMinions(opts).check_minions("*", "glob")["minions"]
        accepted.update(minions=frozenset(found), read=time.monotonic())
    return minion in accepted["minions"]


def _record(group: str, opts: Mapping[str, Any]) -> Record:
    """The runner's notes on a group, empty if it has none."""
    path = path_of(opts, group)
    try:
        status = os.stat(path)
        look = (status.st_mtime_ns, status.st_ino)
        if group not in records or records[group][0] != look:
            with open(path, encoding="utf-8") as file:
                records[group] = (look, Record.from_json(file.read()))
        return records[group][1]
    except (OSError, ValueError):
        return Record()


def _ends_lease(record: Record, group: str, arguments: dict[str, Any]) -> bool:
    """Tell whether this is the event that the group waits for; it is served once, whatever else is fired."""
    lease, jid = record.lease, arguments["jid"]
    if not lease or not jid or (lease.jid, lease.host) != (jid, arguments["host"]) or ended.get(group) == jid:
        return False
    ended[group] = jid
    return True


def _take(limits: list[tuple[Key, tuple[float, float]]]) -> bool:
    """Given [(key, (how many at once, seconds for one more)), …], take one of each; False if one has none left."""
    now, there = time.monotonic(), {}
    for key, (most, seconds) in limits:
        number, at = buckets.get(key, (most, now))
        there[key] = min(most, number + (now - at) / seconds)
        if there[key] < 1:
            return False
    buckets.update({key: (number - 1, now) for key, number in there.items()})
    return True


def _leave_out(who: str | None) -> bool:
    """Count an event that is not served now, and log it now and then. Returns False."""
    now = time.monotonic()
    began, number = left_out.get(who, (now, 0))
    if now - began > TOLD_WITHIN:
        began, number = now, 0
    left_out[who] = (began, number + 1)
    if number + 1 in TOLD:
        sender = "minions that are not accepted" if who is None else f"minion {who!r:.80}"
        log.warning(
            "csyncsync: %d events of %s within %d s were left out, or made one", number + 1, sender, TOLD_WITHIN
        )
    return False


# --- What waits ------------------------------------------------------------------------------------------


def _wait(key: Key, tag: str, data: dict[str, Any], opts: Mapping[str, Any]) -> None:
    """Have an event come again when it can be served; it takes the place of the one that waits."""
    with _lock:
        waiting[key] = (tag, data)
        if not worker:
            worker.append(threading.Thread(target=fire_waiting, args=(opts,), name="csyncsync", daemon=True))
            worker[0].start()


def fire_waiting(opts: Mapping[str, Any]) -> None:
    """Fire the events again whose time has come, until none waits."""
    with salt.utils.event.get_master_event(opts, opts["sock_dir"], listen=False) as bus:
        while True:
            time.sleep(AGAIN)
            with _lock:
                if not waiting:
                    worker.clear()
                    return
                due = [waiting.pop(key) for key in list(waiting) if _has_one(key)]
            for tag, data in due:
                bus.fire_event(data, tag)


def _has_one(key: Key) -> bool:
    number, at = buckets.get(key, (1, 0))
    return number + (time.monotonic() - at) / LIMITS[key[0]][1] >= 1
