"""
What the status of all hosts of a group says, for the master: what needs somebody, what is under way, and the facts that
stand in a table's columns.

Given what ``csyncsync.status`` returned on the hosts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from csync2lib import actions, waits
from csync2lib.report.words import duration, readable, size

#: Of one host and group: what ``csyncsync.status`` returned, and what report() makes of it. Both go over Salt's bus.
Status = Mapping[str, Any]
Row = dict[str, Any]

#: Conflicts and other things of one kind that are named for each host and group.
SHOWN = 5
#: Days before the end of a certificate, and share of a disk that is free, from which on somebody is asked to see to it.
CERTIFICATE_DAYS, DISK_FREE = 30, 0.05
#: A disk is called the smallest of a group if it has less room than this share of the one that has most.
SMALLEST = 0.95


def report(
    group: str,
    members: Sequence[str],
    answers: Mapping[str, Mapping[str, Status]],
    why: Mapping[str, str],
    now: float,
    joining: Mapping[str, Mapping[str, Any]] | None = None,
    differ: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Row]:
    """
    Given the ids of a group's members, ``{minion id: what csyncsync.status returned}``, ``{minion id: why}`` of those
    that could not tell, the time, ``{minion id: {"since": time, "why": text}}`` of hosts that could not join yet, and
    ``{minion id: [path, …]}`` of what hosts have otherwise than most, though nobody has anything to send, return
    ``{minion id: row}``. The answers are checked (``master/shapes.py``).

    A row is ``{"state": text, "problems": [[what, what to do], …]}``; ``state`` is "in sync", what is under way, or the
    first problem. Of a host that answers and has the group there is more: ``{"notes": [text, …], "files", "bytes" (of
    the group), "free", "disk" (bytes of the fullest disk of its includes), "smallest_disk": bool, "to_send": entries,
    "oldest": seconds since the oldest of them was changed, "last_push", "watches", "limit", "database": bytes,
    "versions"}``.
    """
    found = {minion: answer.get(group) for minion, answer in answers.items()}
    waiting = joining or {}
    rows = {minion: _row(group, minion, why.get(minion), found, now, waiting.get(minion)) for minion in members}
    for minion, paths in (differ or {}).items():
        others = ", ".join(member for member in members if member not in (differ or {})) or "the others"
        number = f"{len(paths)} path{'s' if len(paths) > 1 else ''}"
        problems = rows[minion]["problems"]
        problems.append([f"differs from {others}: {number}, as {readable(paths[0])}", _sync(group)])
        rows[minion]["state"] = problems[0][0]
    free = {minion: row["free"] for minion, row in rows.items() if row.get("free") is not None}
    for minion, space in free.items():
        rows[minion]["smallest_disk"] = space == min(free.values()) < SMALLEST * max(free.values())
    return rows


def _row(
    group: str,
    minion: str,
    why: str | None,
    found: Mapping[str, Status | None],
    now: float,
    joining: Mapping[str, Any] | None,
) -> Row:
    if minion not in found:
        problem = ["no answer", f"is salt-minion up on {minion}? salt-run manage.down"]
        if why is not None:
            remedy = f"does it have this version? salt {minion} state.apply csyncsync"
            problem = [f"no status: {why}", remedy]
        return {"state": problem[0], "problems": [problem]}
    status = found.get(minion)
    if not status:
        return {"state": "not set up", "problems": [["not set up", f"salt {minion} state.apply csyncsync"]]}
    problems = list(_problems(group, minion, status, found, now)) or list(_late(group, status, now))
    going_on = list(_under_way(status))
    if joining and status["state"] != "established":
        going_on[0] += f": {joining['why']}"
        if now - joining["since"] > waits.UNREACHABLE:
            problems.append([going_on[0], f"salt-run csyncsync.join {group} {minion}"])
    state = problems[0][0] if problems else status["paused"] or ", ".join(going_on) or "in sync"
    notes = [f"hot: {path}" for path in status["watch"].get("hot") or []]
    notes += _local_changes(group, minion, status)
    return {"state": state, "problems": problems, "notes": notes, **_facts(status, now)}


def _problems(group: str, minion: str, status: Status, found: Mapping[str, Any], now: float) -> Iterator[list[str]]:
    """What does not end by itself, and what ends it."""
    if status["held"]:
        yield [f"HELD: {status['held']}", f"salt-run csyncsync.release {group} host={minion}"]
    if status["error"]:
        yield [status["error"], f"salt {minion} csyncsync.push {group}"]
    refused = {host: (there or {}).get("refused") or {} for host, there in found.items()}
    clashes = {
        path: one if other == minion else other for path, one, other in conflicts(refused) if minion in (one, other)
    }
    resolve = f"salt-run csyncsync.conflicts {group} diff=True"
    for path, other in sorted(clashes.items())[:SHOWN]:
        yield [f"CONFLICT with {other}: {readable(path)}", resolve]
    if len(clashes) > SHOWN:
        yield [f"{len(clashes) - SHOWN} more CONFLICTS", resolve]
    for path, why in sorted(status.get("unread", {}).items())[:SHOWN]:
        yield [
            f"left out, and as it was elsewhere: {readable(path)}: {why}",
            f"mend it on {minion}; then: {_full(minion, group)}",
        ]
    for other, paths in sorted(status.get("cannot_write", {}).items()):
        look = f"look there on {other}; it is tried again by itself, or now: {_full(minion, group)}"
        for path, why in sorted(paths.items())[:SHOWN]:
            yield [f"{other} cannot write {readable(path)}: {why}", look]
        if len(paths) > SHOWN:
            yield [f"{other} cannot write {len(paths) - SHOWN} more paths", look]
    watch = status["watch"]
    if not status["watching"]:
        why = watch.get("error")
        yield [f"not watching{': ' + why if why else ''}", f"salt {minion} state.apply csyncsync"]
    if status["last_push"].get("state") == "error":
        yield [f"last push failed: {status['last_push'].get('comment', '')}", f"salt {minion} csyncsync.push {group}"]
    for peer, why in status["unreachable"].items():
        if now - (status.get("waiting_since") or now) > waits.UNREACHABLE:
            remedy = f"is {peer} up, and its csyncsync-server (port 30865)? salt {peer} test.ping"
            yield [f"{peer} unreachable: {why}", remedy]
    end = status.get("certificate_end")
    days = math.inf if end is None else (end - now) / 86400
    if days < CERTIFICATE_DAYS:
        yield [f"certificate ends in {days:.0f} days", f"salt-run csyncsync.rotate_certificate {minion}"]
    for action in status.get("actions", ()):
        for what in actions.told([action]):
            yield [what, f"salt {minion} csyncsync.status {group}"]
    for disk in status.get("disks", ()):
        if disk["free"] < DISK_FREE * disk["total"]:
            yield [f"disk of {disk['path']} is nearly full: {size(disk['free'])} free", f"make room on {minion}"]


def _sync(group: str) -> str:
    return f"salt-run csyncsync.sync {group}"


def _full(minion: str, group: str) -> str:
    return f"salt {minion} csyncsync.push {group} full=True"


def _local_changes(group: str, minion: str, status: Status) -> Iterator[str]:
    local = status.get("local") or {}
    if number := local.get("number"):
        paths = [f"{readable(path)} ({kind})" for path, kind in sorted(local["paths"].items())]
        more = f" and {number - SHOWN} more" if number > SHOWN else ""
        yield (
            f"only on {minion}, which receives only: {', '.join(paths[:SHOWN])}{more}; to undo it:"
            f" {_sync(group)} restore=True"
        )


def _late(group: str, status: Status, now: float) -> Iterator[list[str]]:
    age = now - (status.get("waiting_since") or now)
    if age > waits.LATE and status["state"] == "established" and not status["paused"]:
        what = ", ".join(_under_way(status)) or "a change"
        yield [f"{what}: waits for {duration(age)}", _sync(group)]


def _under_way(status: Status) -> Iterator[str]:
    if status["state"] != "established":
        yield f"joining ({status['state']})"
    for other, number in sorted(status["dirty"].items()):
        yield f"{number} to send to {other}"
    for other in sorted(status["unreachable"]):
        yield f"{other} unreachable"
    if status["journal"]:
        yield f"{status['journal']} flushes to check"


def _facts(status: Status, now: float) -> Row:
    last, watch, since = status["last_push"], status["watch"], status.get("waiting_since")
    disks = sorted(status.get("disks", ()), key=lambda disk: disk["free"])
    return {
        "files": status.get("files"),
        "bytes": status.get("bytes"),
        "free": disks[0]["free"] if disks else None,
        "disk": disks[0]["total"] if disks else None,
        "to_send": sum(status["dirty"].values()),
        "oldest": None if since is None else max(0, round(now - since, 1)),
        "last_push": {key: last.get(key) for key in ("time", "state", "checked", "seconds")},
        "watches": watch.get("watches"),
        "limit": watch.get("limit"),
        "database": status.get("database_bytes"),
        "versions": status.get("versions") or {},
    }


def conflicts(refused: Mapping[str, Mapping[str, Sequence[str]]]) -> list[tuple[str, str, str]]:
    """``[(path, minion id, minion id), …]``: what two hosts have both changed, and refuse from each other."""
    return sorted(
        (path, one, other)
        for one, theirs in refused.items()
        for other, paths in theirs.items()
        for path in paths
        if one < other and path in refused.get(other, {}).get(one, ())
    )


def versions(groups: Mapping[str, Mapping[str, Row]]) -> list[str]:
    """
    Given ``{GROUP: {minion id: row}}``, say which hosts have another version of something than most of them ([] if
    none has): the first of the sorted ones counts where none is in the majority.
    """
    hosts = {minion: row["versions"] for rows in groups.values() for minion, row in rows.items() if row.get("versions")}
    told: list[str] = []
    for what in sorted({what for found in hosts.values() for what in found}):
        values = sorted(found.get(what, "none") for found in hosts.values())
        usual = max(values, key=values.count)
        told += [
            f"{minion} has {what} {found.get(what, 'none')}, the others {usual}"
            for minion, found in sorted(hosts.items())
            if found.get(what, "none") != usual
        ]
    return told
