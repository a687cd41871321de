"""
What the status of all hosts of a group says, for the master: what needs somebody, what is under way, and the facts that
stand in a table's columns.

Given what ``csyncsync.status`` returned on the hosts. May call ``csync2action`` and the standard library.
"""

import time

from csync2lib import actions, waits

#: Conflicts and other things of one kind that are named for each host and group.
SHOWN = 5
#: Days before the end of a certificate, and share of a disk that is free, from which on somebody is asked to see to it.
CERTIFICATE_DAYS, DISK_FREE = 30, 0.05
#: A disk is called the smallest of a group if it has less room than this share of the one that has most.
SMALLEST = 0.95


def report(group, members, answers, now):
    """
    Given the ids of a group's members, ``{minion id: what csyncsync.status returned}`` and the time, return ``{minion
    id: row}``.

    A row is ``{"state": text, "problems": [[what, what to do], …]}``; ``state`` is "in sync", what is under way, or the
    first problem. Of a host that answers and has the group there is more: ``{"notes": [text, …], "files", "bytes" (of
    the group), "free", "disk" (bytes of the fullest disk of its includes), "smallest_disk": bool, "to_send": entries,
    "oldest": seconds since the oldest of them was changed, "last_push", "watches", "limit", "database": bytes,
    "versions"}``.
    """
    found = {minion: answer.get(group) for minion, answer in answers.items() if isinstance(answer, dict)}
    rows = {minion: _row(group, minion, answers.get(minion), found, now) for minion in members}
    free = {minion: row["free"] for minion, row in rows.items() if row.get("free") is not None}
    for minion, space in free.items():
        rows[minion]["smallest_disk"] = space == min(free.values()) < SMALLEST * max(free.values())
    return rows


def _why(text):
    """The line of an error of Salt's that says what is wrong: the last one of a traceback, else the first one."""
    lines = text.strip().splitlines() or [""]
    return lines[-1 if "Traceback" in text else 0]


def _row(group, minion, answer, found, now):
    if not isinstance(answer, dict):
        problem = ["no answer", f"is salt-minion up on {minion}? salt-run manage.down"]
        if answer:
            why, remedy = _why(str(answer)), f"does it have this version? salt {minion} state.apply csyncsync"
            problem = [f"no status: {why}", remedy]
        return {"state": problem[0], "problems": [problem]}
    status = found.get(minion)
    if not status:
        return {"state": "not set up", "problems": [["not set up", f"salt {minion} state.apply csyncsync"]]}
    problems = list(_problems(group, minion, status, found, now)) or list(_late(group, status, now))
    going_on = list(_under_way(status))
    state = problems[0][0] if problems else status["paused"] or ", ".join(going_on) or "in sync"
    notes = [f"hot: {path}" for path in status["watch"].get("hot") or []]
    notes += [f"held back, may be csync2's own: {path}" for path in status["unfinished"][:SHOWN]]
    return {"state": state, "problems": problems, "notes": notes, **_facts(status, now)}


def _problems(group, minion, status, found, now):
    """What does not end by itself, and what ends it."""
    if status["held"]:
        yield [f"HELD: {status['held']}", f"salt-run csyncsync.release {group} host={minion}"]
    if status["error"]:
        yield [status["error"], f"salt {minion} csyncsync.push {group}"]
    conflicts = sorted(_conflicts(minion, found).items())
    resolve = f"salt-run csyncsync.conflicts {group} diff=True"
    for path, other in conflicts[:SHOWN]:
        yield [f"CONFLICT with {other}: {path}", resolve]
    if len(conflicts) > SHOWN:
        yield [f"{len(conflicts) - SHOWN} more CONFLICTS", resolve]
    watch = status["watch"]
    if not status["watching"]:
        why = watch.get("error")
        yield [f"not watching{': ' + why if why else ''}", f"salt {minion} state.apply csyncsync"]
    if status["last_push"].get("state") == "error":
        yield [f"last push failed: {status['last_push']['comment']}", f"salt {minion} csyncsync.push {group}"]
    for peer, why in status["unreachable"].items():
        if now - (status.get("waiting_since") or now) > waits.UNREACHABLE:
            yield [f"{peer} unreachable: {why}", f"is {peer} up, and csync2.socket (port 30865)? salt {peer} test.ping"]
    days = (status.get("certificate_end", now + 10**9) - now) / 86400
    if days < CERTIFICATE_DAYS:
        yield [f"certificate ends in {days:.0f} days", f"salt-run csyncsync.rotate_certificate {minion}"]
    for action in status.get("actions", ()):
        for what in actions.told([action]):
            yield [what, f"salt {minion} csyncsync.status {group}"]
    for disk in status.get("disks", ()):
        if disk["free"] < DISK_FREE * disk["total"]:
            yield [f"disk of {disk['path']} is nearly full: {_bytes(disk['free'])} free", f"make room on {minion}"]


def _late(group, status, now):
    age = now - (status.get("waiting_since") or now)
    if age > waits.LATE and status["state"] == "established" and not status["paused"]:
        what = ", ".join(_under_way(status)) or "a change"
        yield [f"{what}: waits for {_seconds(age)}", f"salt-run csyncsync.sync {group}"]


def _under_way(status):
    if status["state"] != "established":
        yield f"joining ({status['state']})"
    for other, number in sorted(status["dirty"].items()):
        yield f"{number} to send to {other}"
    for other in sorted(status["unreachable"]):
        yield f"{other} unreachable"
    if status["journal"]:
        yield f"{status['journal']} flushes to check"


def _facts(status, now):
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


def _conflicts(minion, found):
    """``{path: minion id}``: what this host and another both changed, and refuse from each other."""
    refused = {host: (status or {}).get("refused") or {} for host, status in found.items()}
    return {
        path: other
        for other, paths in refused.get(minion, {}).items()
        for path in paths
        if path in refused.get(other, {}).get(minion, ())
    }


def versions(groups):
    """
    Given ``{GROUP: {minion id: row}}``, say which hosts have another version of something than most of them ([] if
    none has): the first of the sorted ones counts where none is in the majority.
    """
    hosts = {minion: row["versions"] for rows in groups.values() for minion, row in rows.items() if row.get("versions")}
    told = []
    for what in sorted({what for found in hosts.values() for what in found}):
        values = sorted(found.get(what, "none") for found in hosts.values())
        usual = max(values, key=values.count)
        told += [
            f"{minion} has {what} {found.get(what, 'none')}, the others {usual}"
            for minion, found in sorted(hosts.items())
            if found.get(what, "none") != usual
        ]
    return told


# --- The table -------------------------------------------------------------------------------------------


def table(groups, color=lambda text, problem: text):
    """
    Given ``{GROUP: {minion id: row}}``, return lines: first the problems, with what to do (once for several that have
    it in common), then one line for each host and group, those with problems first.

    color
        Called with a cell's text and whether it tells of a problem; returns the text to be shown.
    """
    rows = [(group, minion, row) for group, hosts in sorted(groups.items()) for minion, row in sorted(hosts.items())]
    rows.sort(key=lambda item: not item[2]["problems"])
    lines = []
    for group, minion, row in rows:
        remedies = [remedy for _, remedy in row["problems"]]
        for (what, remedy), following in zip(row["problems"], [*remedies[1:], None]):
            lines.append(color(f"{group} on {minion}: {one_line(what)}", True))
            lines += [f"    {one_line(remedy)}"] if remedy != following else []
    lines += [
        f"note: {group} on {minion}: {one_line(note)}" for group, minion, row in rows for note in row.get("notes", ())
    ]
    lines += [f"note: {told}" for told in versions(groups)]
    cells = [HEADER, *(_cells(*item) for item in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells]
    shown[1:] = [color(line, bool(item[2]["problems"])) for line, item in zip(shown[1:], rows)]
    return [*lines, *([""] if lines else []), *shown]


HEADER = ("GROUP", "HOST", "STATE", "TO SEND", "OLDEST", "LAST PUSH", "WATCHES", "DATABASE", "FILES", "SIZE", "FREE")
#: Characters of the state that stand in the table: the whole of it stands above.
STATE = 40


def _cells(group, minion, row):
    state = one_line(row["state"])
    state = state if len(state) <= STATE else state[: STATE - 1] + "…"
    if "to_send" not in row:
        return (group, minion, state, *[""] * (len(HEADER) - 3))
    last = row["last_push"]
    when = time.strftime("%m-%d %H:%M:%S", time.gmtime(last["time"])) if last["time"] else "never"
    pushed = f"{when} {last['checked']} paths {last['seconds']:.1f} s" if last["seconds"] is not None else when
    return (
        group,
        minion,
        state,
        str(row["to_send"]),
        "" if row["oldest"] is None else _seconds(row["oldest"]),
        pushed,
        f"{row['watches']}/{row['limit']}" if row["watches"] is not None else "none",
        _bytes(row["database"]),
        "" if row["files"] is None else str(row["files"]),
        _bytes(row["bytes"]),
        _room(row),
    )


def _room(row):
    if row["free"] is None:
        return ""
    return f"{_bytes(row['free'])} of {_bytes(row['disk'])}" + (" (smallest)" if row.get("smallest_disk") else "")


def one_line(text):
    """
    Names of files come from whoever may write in a group: none of them is to make lines, or colors, of its own. What
    cannot be printed, as a newline, is shown as ``\\x0a``.
    """
    return "".join(
        char if char.isprintable() else "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
        for char in text
    )


def _bytes(number):
    if number is None:
        return ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def _seconds(number):
    for unit, length in (("s", 60), ("min", 60), ("h", 24)):
        if number < length:
            return f"{number:.0f} {unit}"
        number /= length
    return f"{number:.0f} days"
