"""What hosts have at paths: asked for, and shown in a list."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from csync2lib.master import shapes
from csync2lib.master.cluster import Cluster
from csync2lib.master.commands import SILENT

#: ``{minion id: what it has at a path}``, as csync2lib.versions describes it.
Versions = dict[str, dict[str, Any]]


def versions(
    cluster: Cluster, group: str, members: list[str], paths: Iterable[str], text: bool = False
) -> tuple[dict[str, Versions], dict[str, str]]:
    """What each of the hosts that answer has at each of these paths, and ``{minion id: why}`` of the others."""
    wanted = sorted(paths)
    shape = shapes.record(dict.fromkeys(wanted, shapes.VERSION))
    answers = cluster.call(members, "csyncsync.versions", [group, wanted, text], shape=shape)
    seen = {path: {minion: answer[path] for minion, answer in answers.items()} for path in wanted}
    return seen, answers.missing(members, SILENT)


def shown(there: Versions) -> Versions:
    """What of it is shown in a list."""
    return {
        minion: {key: value for key, value in version.items() if key not in ("text", "mtime")}
        for minion, version in there.items()
    }
