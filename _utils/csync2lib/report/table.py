"""The table of ``salt-run csyncsync.status``: what needs somebody first, then a line for each host and group."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from csync2lib.report.report import Row, versions
from csync2lib.report.words import duration, one_line, size

HEADER = ("GROUP", "HOST", "STATE", "TO SEND", "OLDEST", "LAST PUSH", "WATCHES", "DATABASE", "FILES", "SIZE", "FREE")
#: Characters of the state that stand in the table: the whole of it stands above.
STATE = 40


def table(
    groups: Mapping[str, Mapping[str, Row]], color: Callable[[str, bool], str] = lambda text, problem: text
) -> list[str]:
    """
    Given ``{GROUP: {minion id: row}}``, return lines: first the problems, with what to do (once for several that have
    it in common), then one line for each host and group, those with problems first. ``color`` gives a text its color,
    by whether it tells of a problem.
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
    lines += [f"note: {one_line(told)}" for told in versions(groups)]
    cells = [HEADER, *(_cells(*item) for item in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells]
    shown[1:] = [color(line, bool(item[2]["problems"])) for line, item in zip(shown[1:], rows)]
    return [*lines, *([""] if lines else []), *shown]


def _cells(group: str, minion: str, row: Row) -> tuple[str, ...]:
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
        "" if row["oldest"] is None else duration(row["oldest"]),
        pushed,
        f"{row['watches']}/{row['limit']}" if row["watches"] is not None else "none",
        size(row["database"]),
        "" if row["files"] is None else str(row["files"]),
        size(row["bytes"]),
        _free(row),
    )


def _free(row: Row) -> str:
    if row["free"] is None:
        return ""
    return f"{size(row['free'])} of {size(row['disk'])}" + (" (smallest)" if row.get("smallest_disk") else "")
