"""Old versions of files, which a group with a ``backup_directory`` keeps: found on all hosts, and put back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from csync2lib import waits
from csync2lib.config import membership
from csync2lib.errors import CsyncsyncError
from csync2lib.master.cluster import Cluster
from csync2lib.master.commands import UNKNOWN, progress, versions, with_exit_code
from csync2lib.report.words import encoded, one_line, readable

#: Files whose old versions are listed.
SHOWN = 50


def backups(cluster: Cluster, group: str, paths: Sequence[object]) -> dict[str, Any] | str:
    """What the runner's ``backups`` returns, or that there is none. Raises CsyncsyncError."""
    members, names = _members(cluster, group), [encoded(path) for path in paths]
    found = cluster.call(members, "csyncsync.backups", [group, names, bool(names), SHOWN])
    newest: dict[str, float] = {}
    for there in found.values():
        for name, old in there["paths"].items():
            newest[name] = max(newest.get(name, 0), old[0]["mtime"])
    listed = sorted(newest, key=lambda name: (-newest[name], name))[:SHOWN]
    more = {minion: there["more"] + len(there["paths"].keys() - listed) for minion, there in found.items()}
    if any(there["more"] for there in found.values()):  # a host left out files that are among the newest elsewhere
        found = cluster.call(members, "csyncsync.backups", [group, listed, False, SHOWN])
    failed = found.missing(members, "did not answer")
    told: dict[str, Any] = {
        readable(name): {
            minion: [_line(version) for version in there["paths"][name]]
            for minion, there in sorted(found.items())
            if name in there["paths"]
        }
        for name in listed
    }
    if failed and not found:
        raise CsyncsyncError("; ".join(sorted({*failed.values()})))
    if others := {minion: f"{n:,} more; name a directory or a file to see them" for minion, n in more.items() if n}:
        told["… and more"] = others
    if failed:
        told[UNKNOWN] = failed
    return told or f"{group}: no host has an old version of {one_line(', '.join(map(str, paths))) or 'any file'}"


def restore(cluster: Cluster, group: str, path: object, host: str | None, generation: Any) -> dict[str, Any]:
    """What the runner's ``restore`` does. Raises CsyncsyncError."""
    members, name, minion = _members(cluster, group), encoded(path), str(host)
    membership.require_sender(group, cluster.group(group), members, minion, "host=, whose version it is,")
    try:
        done = cluster.step(minion, "csyncsync.restore", [group, name, generation])
    except CsyncsyncError as err:
        raise CsyncsyncError(f"{readable(name)} is not restored: {err}") from err
    what = f"generation {generation} of {host}, {done['size']:,} bytes,"
    if not done["changed"]:
        return {readable(name): f"{what} is what is there already"}
    late = _await_version(cluster, group, members, name, done["sha256"])
    where = f"is back on {host}, and not yet seen on {', '.join(sorted(late))}" if late else "is back on all hosts"
    kept = "" if done["kept"] is None else f"; what was there is generation {done['kept']} now"
    return with_exit_code({readable(name): f"{what} {where}{kept}"}, late)


def _members(cluster: Cluster, group: str) -> list[str]:
    """The members of a group that keeps old versions. Raises CsyncsyncError."""
    options = cluster.group(group)
    if not options["backup_directory"]:
        raise CsyncsyncError(f"csyncsync:groups:{group}:backup_directory is not set: no old versions are kept")
    return cluster.members(options)


def _line(version: dict[str, Any]) -> str:
    return (
        f"generation {version['generation']}: {version['size']:,} bytes, replaced {version['time']},"
        f" {version['mode']} {version['owner']}"
        + (f", sha256 {version['sha256']}" if "sha256" in version else "")
        + (f" ({version['doubt']})" if "doubt" in version else "")
    )


def _await_version(cluster: Cluster, group: str, members: list[str], name: str, digest: str) -> set[str]:
    """Wait until hosts have a file with this content. Returns those that do not."""
    until, late = time.monotonic() + waits.RESOLVE_WAIT, set(members)
    while late and time.monotonic() < until:
        time.sleep(1)
        there = versions(cluster, group, sorted(late), [name])[0][name]
        late -= {minion for minion, version in there.items() if version.get("sha256") == digest}
        progress(f"{group}: {len(members) - len(late)} of {len(members)} hosts have it")
    return late
