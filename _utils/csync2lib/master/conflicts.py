"""Conflicts: which files hosts refuse from each other, what each of them has, and whose version is to win."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from csync2lib import waits
from csync2lib.config import membership
from csync2lib.errors import CsyncsyncError
from csync2lib.master.cluster import Cluster
from csync2lib.master.commands import SILENT, UNKNOWN, progress, shown, versions, with_exit_code
from csync2lib.master.lease import ask
from csync2lib.report.words import one_line, readable

#: csync2's own words for a policy (its config's ``auto``) that can be applied to one path: what the winner has most of.
POLICIES: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "younger": lambda version: version["mtime"],
    "older": lambda version: -version["mtime"],
    "bigger": lambda version: version["size"],
    "smaller": lambda version: -version["size"],
}
#: Seconds until a version that is to win is sent once more.
SENT_AGAIN = 6

#: ``{host: {path: [host that it is to be sent to, …]}}``
Dirty = Mapping[str, Mapping[str, Iterable[str]]]


def find(dirty: Dirty) -> dict[str, list[str]]:
    """``{path: [host, …]}`` of the paths that hosts want to send to each other."""
    found: dict[str, list[str]] = {}
    for host, paths in dirty.items():
        for path, peers in paths.items():
            if any(host in dirty.get(peer, {}).get(path, ()) for peer in peers):
                found.setdefault(path, []).append(host)
    return {path: sorted(hosts) for path, hosts in sorted(found.items())}


def below(dirty: Dirty, path: str) -> set[str]:
    """Every path that any host is to send, and that stands below a path; percent-encoded, as all of them."""
    return {name for paths in dirty.values() for name in paths if name.startswith(path + "/")}


def winner(policy: str, there: Mapping[str, Mapping[str, Any]]) -> str:
    """The host whose file wins by a policy. Raises ValueError if two are as good, or none has one."""
    most = POLICIES[policy]
    files = {host: most(version) for host, version in there.items() if version["type"] == "file"}
    best = [host for host, value in files.items() if value == max(files.values())]
    if len(best) != 1:
        raise ValueError(f"{' and '.join(best)} are equally good" if best else "no host has a file there")
    return best[0]


def difference(there: Mapping[str, Mapping[str, Any]]) -> str:
    """Given ``{host: version}`` with texts, return a unified diff from the first one to each other ("" without)."""
    texts = [(host, there[host]["text"]) for host in sorted(there) if "text" in there[host]]
    lines: list[str] = []
    for host, text in texts[1:]:
        first, before = texts[0]
        lines += difflib.unified_diff(before.splitlines(), text.splitlines(), first, host, lineterm="")
    return "\n".join(map(one_line, lines))


# --- On the hosts ----------------------------------------------------------------------------------------


def conflicts(cluster: Cluster, group: str | None, diff: bool) -> dict[str, Any]:
    """``{GROUP: {path: {minion id: version, "diff": text}}}`` of all conflicts. Raises CsyncsyncError."""
    result: dict[str, Any] = {}
    for name, options in sorted(cluster.groups(group).items()):
        members = cluster.members(options)
        dirty = cluster.call(members, "csyncsync.marked", [name])
        found = find(dirty)
        seen, unknown = versions(cluster, name, sorted(dirty), found, diff) if found else ({}, {})
        result[name] = {
            readable(path): {**shown(seen[path]), **({"diff": difference(seen[path])} if diff else {})}
            for path in found
        }
        unknown.update(dirty.missing(members, SILENT))
        if unknown:
            result[name][UNKNOWN] = unknown
    return with_exit_code(result, any(UNKNOWN in found for found in result.values()))


def resolve(cluster: Cluster, group: str, paths: Iterable[str], wins: Any) -> dict[str, Any]:
    """What the runner's ``resolve`` does; ``wins`` is a minion id, or one of POLICIES. Raises CsyncsyncError."""
    options = cluster.group(group)
    members = cluster.members(options)
    if wins not in POLICIES:
        membership.require_sender(group, options, members, wins, f"winner=, if it is none of {', '.join(POLICIES)},")
    dirty = cluster.call(members, "csyncsync.marked", [group])
    found = find(dirty)
    silent = {minion for minion in members if minion not in dirty}
    chosen = _chosen(group, found, {*paths}, silent)
    seen = versions(cluster, group, sorted(dirty), chosen)[0] if wins not in members else {}
    winners: dict[str, set[str]] = {}
    result, failed = {}, False
    for path in chosen:
        try:
            there = seen.get(path, {})
            sent = {h: there[h] for h in found[path] if h in there and not membership.receives_only(options, h)}
            host = wins if wins in members else winner(wins, sent)
            winners.setdefault(host, set()).update({path}, below(dirty, path))
        except ValueError as err:
            result[readable(path)], failed = f"not resolved: {err}; name a host as winner=", True
    where = f"on all hosts that answer, and gets to {', '.join(sorted(silent))} later" if silent else "on all hosts"
    for host, names in sorted(winners.items()):
        decided = [readable(path) for path in sorted(names.intersection(chosen))]
        try:
            unsent = _have_win(cluster, group, host, names, silent)
            result.update(dict.fromkeys(decided, f"{host}'s version is {where}"))
            result.update({readable(path): f"{host}'s version is still to be sent" for path in unsent & {*chosen}})
            failed = failed or bool(unsent)
        except CsyncsyncError as err:
            result.update(dict.fromkeys(decided, f"not resolved: {err}"))
            failed = True
    return with_exit_code(result, failed)


def _chosen(group: str, found: Iterable[str], paths: set[str], silent: set[str]) -> list[str]:
    """The conflicts that are named, percent-encoded; all, if none is. Raises CsyncsyncError if one is not there."""
    chosen = [path for path in found if not paths or readable(path) in paths or path in paths]
    missing = sorted(paths - {*chosen} - {readable(path) for path in chosen})
    if missing:
        raise CsyncsyncError(
            f"no conflict at {', '.join(missing)}; what there is: salt-run csyncsync.conflicts {group}"
        )
    if silent and not chosen:
        raise CsyncsyncError(f"no conflict is known: {', '.join(sorted(silent))} did not answer")
    return chosen


def restore_receivers(cluster: Cluster, group: str | None, test: bool) -> dict[str, Any]:
    """What the runner's ``sync`` does with ``restore``. Raises CsyncsyncError."""
    result: dict[str, Any] = {}
    failed = False
    for name, options in sorted(cluster.groups(group).items()):
        members = cluster.members(options)
        receivers = [minion for minion in members if membership.receives_only(options, minion)]
        senders = [minion for minion in members if minion not in receivers]
        changed = cluster.call(receivers, "csyncsync.local_changes", [name])
        result[name] = {minion: changed.told(minion, SILENT) for minion in receivers}
        failed = failed or len(changed) < len(receivers)
        for minion, found in changed.items():
            result[name][minion] = {readable(path): kind for path, kind in found.items()}
            if not test and found and (why := _restore(cluster, name, senders, minion, {*found})):
                result[name][minion], failed = f"not undone: {why}", True
    return with_exit_code(result, failed)


def _restore(cluster: Cluster, group: str, senders: list[str], host: str, names: set[str]) -> str:
    """Have a host get what others have at these paths. Returns why it has not ("" if it has)."""
    states = cluster.statuses(group, senders)
    source = next((minion for minion in senders if states.get(minion, {}).get("state") == "established"), None)
    if not source:
        return "no member that sends answers"
    try:
        unsent = _have_win(cluster, group, source, names, set(), host)
    except CsyncsyncError as err:
        return str(err)
    cluster.call([host], "csyncsync.push", [group], full=True)  # it looks again at what is local
    return f"{source} has {len(unsent)} of {len(names)} entries to send" if unsent else ""


def _have_win(
    cluster: Cluster, group: str, host: str, names: set[str], silent: set[str], only: str | None = None
) -> set[str]:
    """
    Have a host's version of paths win, and wait until it is on all hosts but the silent ones; or on this one alone.
    Returns those paths that it still has to send.
    """
    until, unsent, told = time.monotonic() + waits.RESOLVE_WAIT, set(names), None
    while unsent and time.monotonic() < until:
        # Again and again: csync2 forgets that a path is forced when the other host tries to send its own version.
        cluster.step(host, "csyncsync.win", [group, sorted(unsent), *([only] if only else [])])
        ask(cluster, group, host)
        for _ in range(SENT_AGAIN):
            time.sleep(1)
            dirty = cluster.step(host, "csyncsync.marked", [group])
            unsent = {path for path in names & dirty.keys() if not silent.issuperset(dirty[path])}
            if told != len(unsent):
                told = len(unsent)
                progress(f"{group}: {host} has {told} of {len(names)} entries to send")
            if not unsent:
                break
    return unsent
