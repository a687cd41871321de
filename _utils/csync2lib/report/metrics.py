"""
The status of a host as metrics for Prometheus: their text, and the file that its node exporter reads them from.

The text is that of Prometheus' exposition format, version 0.0.4.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from csync2lib import actions, storage
from csync2lib.report.words import one_line

#: The states of a host in a group.
STATES = ("new", "recorded", "established", "unknown")

#: name -> (type, help). docs/monitoring has alerts and a dashboard for these.
METRICS = {
    "csyncsync_metrics_timestamp_seconds": ("gauge", "When these metrics were written; old: nobody watches any more."),
    "csyncsync_certificate_expiry_timestamp_seconds": ("gauge", "When this host's certificate ends."),
    "csyncsync_watches": ("gauge", "Directories that are watched, of all groups."),
    "csyncsync_watches_limit": ("gauge", "Directories that this host's programs may watch (max_user_watches)."),
    "csyncsync_in_sync": ("gauge", "1: nothing of this host waits to be sent."),
    "csyncsync_lag_seconds": ("gauge", "Age of the oldest change here that other hosts may lack; 0: there is none."),
    "csyncsync_watching": ("gauge", "1: the whole group is watched for changes."),
    "csyncsync_database_state": ("gauge", "1 for the state of this host: established hosts push, the others join."),
    "csyncsync_database_bytes": ("gauge", "Size of csync2's database."),
    "csyncsync_journal_files": ("gauge", "Flushes of changes that csync2 has not checked yet."),
    "csyncsync_differences_total": ("counter", "Paths that were not as on other hosts, though nothing was to be sent."),
    "csyncsync_hot_files": ("gauge", "Files that keep changing, at most 10."),
    "csyncsync_action_problems": ("gauge", "Actions that failed last time, or do not end, or do not begin."),
    "csyncsync_held": ("gauge", "1: a guard holds the push; salt-run csyncsync.status says why."),
    "csyncsync_paused": ("gauge", "1: the group, or this host in it, is paused."),
    "csyncsync_pushes_total": ("counter", "Pushes of this host, also those that sent nothing."),
    "csyncsync_push_errors_total": ("counter", "Pushes of this host that failed."),
    "csyncsync_last_push_timestamp_seconds": ("gauge", "When the last push ended."),
    "csyncsync_last_push_duration_seconds": ("gauge", "How long the last push took."),
    "csyncsync_last_push_paths": ("gauge", "Changed paths that the last push checked."),
    "csyncsync_dirty_entries": ("gauge", "Entries that are to be sent to a peer."),
    "csyncsync_refused_paths": ("gauge", "Paths that a peer did not take, conflicts in the main; at most 20."),
    "csyncsync_peer_unreachable": ("gauge", "1: the peer could not be reached, or failed, at the last push."),
}


# --- The text --------------------------------------------------------------------------------------------


def text(groups: Mapping[str, Mapping[str, Any]], minion: str, certificate_end: float | None, now: float) -> str:
    """What ``csyncsync.status`` returns of all groups of a host, as text for Prometheus; it is no peer of itself."""
    samples: dict[str, list[str]] = {name: [] for name in METRICS}
    for name, labels, value in _samples(groups, minion, certificate_end, now):
        if value is not None:
            samples[f"csyncsync_{name}"].append(f"csyncsync_{name}{_labels(labels)} {_number(value)}\n")
    lines: list[str] = []
    for name, found in samples.items():
        kind, meaning = METRICS[name]
        lines += [f"# HELP {name} {meaning}\n", f"# TYPE {name} {kind}\n", *found] if found else []
    return "".join(lines)


def _samples(
    groups: Mapping[str, Mapping[str, Any]], minion: str, certificate_end: float | None, now: float
) -> Iterator[tuple[str, dict[str, str], float | None]]:
    """(name without "csyncsync_", labels, value) of everything; a value of None is not known."""
    yield "metrics_timestamp_seconds", {}, now
    yield "certificate_expiry_timestamp_seconds", {}, certificate_end
    watch: Mapping[str, Any] = max(
        (status["watch"] for status in groups.values()), key=lambda watch: watch.get("time", 0), default={}
    )
    yield "watches", {}, watch.get("watches")
    yield "watches_limit", {}, watch.get("limit")
    for group, status in sorted(groups.items()):
        for name, value in _of_group(status, now).items():
            yield name, {"group": group}, value
        for state in STATES:
            yield "database_state", {"group": group, "state": state}, status["state"] == state
        for peer in sorted({*status["hosts"]} - {minion}):
            labels = {"group": group, "peer": peer}
            yield "dirty_entries", labels, status["dirty"].get(peer, 0)
            yield "refused_paths", labels, len(status["refused"].get(peer, ()))
            yield "peer_unreachable", labels, peer in status["unreachable"]


def _of_group(status: Mapping[str, Any], now: float) -> dict[str, float | None]:
    last, since = status["last_push"], status["waiting_since"]
    return {
        "in_sync": status["in_sync"],
        "lag_seconds": 0 if since is None else max(0, now - since),  # it is in the future if the clock was set back
        "watching": status["watching"],
        "database_bytes": status["database_bytes"],
        "journal_files": status["journal"],
        "differences_total": status["differences"],
        "hot_files": len(status["watch"].get("hot") or ()),
        "action_problems": len(actions.told(status["actions"])),
        "held": bool(status["held"]),
        "paused": bool(status["paused"]),
        "pushes_total": last.get("pushes", 0),
        "push_errors_total": last.get("errors", 0),
        "last_push_timestamp_seconds": last.get("time"),
        "last_push_duration_seconds": last.get("seconds"),
        "last_push_paths": last.get("checked"),
    }


def _labels(labels: Mapping[str, str]) -> str:
    escaped = {name: one_line(value).replace("\\", r"\\").replace('"', r"\"") for name, value in labels.items()}
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}" if labels else ""


def _number(value: float) -> str:
    return repr(round(value, 3) if isinstance(value, float) else int(value))


# --- The file --------------------------------------------------------------------------------------------


def publish(link: storage.Path, content: str) -> None:
    """
    Write the text to where a link points, whole or not at all. Raises OSError.

    The state that takes the link away deletes the file; so does this, if it comes a moment later. The node exporter
    reads ``*.prom`` alone. The directory may be another user's.
    """
    path = target(link)
    if path is None:
        return
    try:
        storage.write(path, content, mode=0o644, durable=False)
    except OSError as err:
        raise OSError(err.errno, err.strerror, path) from err
    if target(link) != path:
        os.unlink(path)


def target(link: storage.Path) -> str | None:
    """Where the link says that the metrics are to be written, None if there is none."""
    try:
        return os.readlink(link)
    except OSError:
        return None
