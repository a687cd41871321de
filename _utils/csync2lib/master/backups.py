"""Old versions of files, which a group with a ``backup_directory`` keeps: found on all hosts, and put back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from csync2lib import waits
from csync2lib.config import membership
from csync2lib.errors import CsyncsyncError
from csync2lib.master.cluster import Cluster
from csync2lib.master.commands import UNKNOWN, progress, with_exit_code
from csync2lib.master.listing import versions
from csync2lib.report.words import encoded, one_line, readable

#: Files whose old versions are listed.
SHOWN = 50

#: ``{minion id: {"paths": {path: [version, newest first]}, "more": paths that the host left out}}``
Found = dict[str, dict[str, Any]]


def backups(cluster: Cluster, group: str, paths: Sequence[object]) -> dict[str, Any] | str:
    """Return ``{path: {minion id: [a line for each version, newest first]}}``, or a text. Raises CsyncsyncError."""
    members, names = _members(cluster, group), [encoded(path) for path in paths]
    found, failed = _find(cluster, group, members, names, bool(names))
    listed = sorted({name for there in found.values() for name in there["paths"]}, key=_newest(found))[:SHOWN]
    more = {minion: there["more"] + len(there["paths"].keys() - listed) for minion, there in found.items()}
    if any(there["more"] for there in found.values()):  # a host left out files that are among the newest elsewhere
        found, failed = _find(cluster, group, members, listed, False)
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
    """
    Have a host put its old version back, and wait until all have it. Returns ``{path: what became of it}``.

    Raises CsyncsyncError.
    """
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


def _find(
    cluster: Cluster, group: str, members: list[str], names: list[str], content: bool
) -> tuple[Found, dict[str, str]]:
    """(what hosts found, ``{minion id: why nothing}``)."""
    answers = cluster.call(members, "csyncsync.backups", [group, names, content, SHOWN])
    return answers, answers.missing(members, "did not answer")


def _newest(found: Found) -> Callable[[str], tuple[float, str]]:
    """What sorts paths by the time of their newest version, newest first."""
    times: dict[str, float] = {}
    for there in found.values():
        for name, old in there["paths"].items():
            times[name] = max(times.get(name, 0), old[0]["mtime"])
    return lambda name: (-times[name], name)


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
