"""What the watcher tells of itself: ``watch.json``, the sign that somebody watches, and the metrics for Prometheus."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time

from csync2lib import journal, storage
from csync2lib.certificate import end
from csync2lib.report import metrics
from csync2lib.report import status as host_status
from csync2lib.watch.aside import Aside
from csync2lib.watch.groups import WatchedGroup
from csync2lib.watch.inotify import Watches, watch_limit

log = logging.getLogger(__name__)

#: Least seconds between two writings of watch.json.
STATUS_INTERVAL = 5.0
#: In the directory of state: a link to where the metrics are to be written.
METRICS = "metrics.prom"
#: Seconds between two writings of the metrics, and the share of the time that they may take: to count what is to be
#: sent takes a while if that is much.
METRICS_INTERVAL, METRICS_SHARE = 15.0, 0.02


def write_status(group: WatchedGroup, watches: Watches, force: bool = False) -> None:
    """Write watch.json, if it says something new."""
    now = time.monotonic()
    if group.gone or (not force and now - group.status_at < STATUS_INTERVAL):
        return
    status = {
        "watches": len(watches.nodes),
        "limit": watch_limit(),
        "ready": group.walked,
        "walks": group.walks,
        "error": group.config_error or group.error,
        "hot": [path.decode("utf-8", "backslashreplace") for path in group.changes.hot()],
        "pid": os.getpid(),
    }
    if status == group.status:
        return
    group.status, group.status_at = status, now
    with contextlib.suppress(OSError):  # a full disk
        storage.write_json(os.path.join(group.directory, "watch.json"), {**status, "time": time.time()}, durable=False)


def note_watched(group: WatchedGroup, now: float) -> None:
    """Leave a sign that what happens is seen."""
    if group.walked and now - group.watched_at >= journal.WATCHED_EVERY:
        with contextlib.suppress(OSError):
            journal.note_watched(group.directory)
            group.watched_at = now


class Metrics:
    """Writes the groups' status for Prometheus, if a link says where to."""

    def __init__(self, state_dir: str, aside: Aside) -> None:
        self.link, self.aside = os.path.join(state_dir, METRICS), aside
        #: what is being written, when to write again, where it was written, and what was wrong with that
        self.running: threading.Thread | None = None
        self.due = 0.0
        self.written: str | None = None
        self.problem = ""

    def write(self, groups: list[WatchedGroup], minion: str, now: float) -> None:
        """Write them, if that is due. Aside: csync2 locks its database."""
        path = metrics.target(self.link)
        if path is None or self.running is not None or (now < self.due and path == self.written):
            return
        self.due, self.written = now + METRICS_INTERVAL, path

        def work() -> None:
            began = time.thread_time()
            metrics.publish(self.link, _text(groups, minion))
            self.due = max(self.due, now + (time.thread_time() - began) / METRICS_SHARE)

        def done(err: BaseException | None) -> None:
            self.running = None
            problem = f"{type(err).__name__} {err}" if err else ""
            if problem not in ("", self.problem):
                log.error("csyncsync: cannot write the metrics (pillar csyncsync:metrics): %s", problem)
            self.problem = problem

        self.running = self.aside.run(work, done)


def _text(groups: list[WatchedGroup], minion: str) -> str:
    found = {}
    for group in groups:
        database = group.config.database
        status = host_status.read(group.directory, database, minion) if database else None
        if status:
            found[group.name] = status
    paths = (group.config.certificate for group in groups if group.config.database and group.config.certificate)
    certificate = next((storage.read(path) for path in paths), None)
    return metrics.text(found, minion, end(certificate), time.time())
