"""What hosts have to send: shown, and sent by every member in turn, or by one whose guard has stopped a push."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from csync2lib import waits
from csync2lib.errors import CsyncsyncError
from csync2lib.master import agreement
from csync2lib.master.cluster import Cluster
from csync2lib.master.commands import SILENT, progress, with_exit_code
from csync2lib.master.lease import leased
from csync2lib.master.record import Record
from csync2lib.report import report


def sync(cluster: Cluster, group: str | None, test: bool) -> dict[str, Any]:
    """Have every member push in turn, after a check of the whole group; test: only tell what each would send."""
    result: dict[str, Any] = {}
    for name, options in sorted(cluster.groups(group).items()):
        result[name], members = {}, cluster.members(options)
        for number, minion in enumerate(members, 1):
            with contextlib.nullcontext() if test else leased(cluster, name, minion):
                answers = cluster.call([minion], "csyncsync.push", [name], full=not test, test=test)
            result[name][minion] = answers.told(minion, SILENT)
            progress(f"{name} {minion} ({number} of {len(members)}): {_short(result[name][minion])}")
        if not test and (found := agreement.heal(cluster, name, members)):
            progress(f"{name}: {len(found)} paths are not the same on all hosts, and are sent again")
    return with_exit_code(result, not all(_is_done(answer) for hosts in result.values() for answer in hosts.values()))


def _is_done(answer: Any) -> bool:
    """Tell whether a push, or its test, has done all."""
    return isinstance(answer, dict) and answer["state"] in ("pushed", "test") and not answer.get("left")


def _short(answer: Any) -> str:
    if not isinstance(answer, dict):
        return str(answer)
    if answer["state"] == "test":
        send = [f"{told['entries']} to {other}" for other, told in sorted(answer.get("send", {}).items())]
        return f"would send {', '.join(send) or 'nothing'}" + (f"; {answer['comment']}" if answer["comment"] else "")
    left = sum(answer.get("left", {}).values())
    comment = f": {answer['comment']}" if answer["comment"] else ""
    return f"{answer['state']}{f', {left} entries left' if left else ''}{comment}"


def let_through(cluster: Cluster, group: str, host: str | None) -> dict[str, Any]:
    """Have those members push, or this one, whose guard has stopped a push. Raises CsyncsyncError if there is none."""
    members = cluster.members(cluster.group(group))
    if host is not None and host not in members:
        raise CsyncsyncError(f"{host} is no member of {group}; there are: {', '.join(members)}")
    members = members if host is None else [host]
    answers = cluster.call(members, "csyncsync.status", [group])
    stopped = [minion for minion, answer in answers.items() if answer.get(group, {}).get("held")]
    if not stopped:
        silent = [f"; {minion} {answers.told(minion, 'did not answer')}" for minion in members if minion not in answers]
        raise CsyncsyncError(f"no push of {group} is held{''.join(silent)}")
    result = {m: cluster.call([m], "csyncsync.push", [group], release=True).told(m, SILENT) for m in sorted(stopped)}
    return with_exit_code(result, not all(isinstance(it, dict) and it["state"] == "pushed" for it in result.values()))


def status(cluster: Cluster, group: str | None) -> dict[str, Any]:
    """What csync2lib.report makes of all hosts' answers, for its outputter. Raises CsyncsyncError."""
    members = {name: cluster.members(options) for name, options in sorted(cluster.groups(group).items())}
    minions = sorted({minion for hosts in members.values() for minion in hosts})
    answers = cluster.call(minions, "csyncsync.status", [], waits.STATUS_ANSWER, size=True)
    recorded, rows = {*cluster.recorded()}, {}
    for name, hosts in members.items():
        with cluster.record(name) if name in recorded else contextlib.nullcontext(Record()) as record:
            joining = record.joining
        statuses = {minion: answers.get(minion, {}).get(name, {}) for minion in hosts}
        differ = agreement.by_host(agreement.differences(cluster, name, statuses) or {})
        rows[name] = report.report(name, hosts, answers, answers.why, time.time(), joining, differ)
    retcode = int(any(row["problems"] for hosts in rows.values() for row in hosts.values()))
    return {"outputter": "csyncsync", "data": {"groups": rows, "retcode": retcode}}
