"""
What happens when a push has ended: the next host is called, a join begins, a conflict comes to light.

The event that says so is a hint, and nothing of it is written down: whether a host has joined, and what others refused,
it is asked.
"""

from __future__ import annotations

import logging
import secrets
import threading
from typing import Any

import salt.utils.event
from salt.exceptions import SaltException

from csync2lib.master import agreement, joins, lease
from csync2lib.master.cluster import Cluster, aside
from csync2lib.master.record import Lease
from csync2lib.report.report import conflicts
from csync2lib.report.words import one_line, readable

log = logging.getLogger(__name__)

#: Group and host that are asked just now, and the pushes for which they are to be asked once more (None: whichever):
#: once at a time is enough for any number of events.
_asked: dict[tuple[str, str], set[str | None]] = {}
_lock = threading.Lock()


def pushed(cluster: Cluster, group: Any, host: Any, jid: Any, state: Any, refused: Any, full: Any = False) -> bool:
    """What the runner's ``pushed`` does. Returns whether the host is a member of the group."""
    if not lease.was_member(cluster, group, host) and not lease.renew(cluster, group, host):
        return False
    said, joining = refused if isinstance(refused, dict) else {}, state == "joining"
    with cluster.record(group) as record:
        is_known = host in record.admitted and host not in record.returning and said == record.refused.get(host, {})
        record.compare = record.compare or (full is True and state == "pushed")
        is_due = record.compare
    if not joining:
        lease.release(cluster, group, jid, host)
        lease.call_behind(cluster, group)
    if is_due:
        aside(agreement.compare, cluster, group)
    if joining or (state == "pushed" and (full is True or not is_known)):
        with _lock:
            begins = (group, host) not in _asked
            _asked.setdefault((group, host), set()).add(str(jid) if joining else None)
        if begins:
            aside(_ask_all, cluster, group, host)
    return True


def _ask_all(cluster: Cluster, group: str, host: str) -> None:
    """Ask a host how far it is, as often as events came meanwhile."""
    while True:
        with _lock:
            if not _asked[group, host]:
                del _asked[group, host]
                return
            jid = _asked[group, host].pop()
        try:
            _ask(cluster, group, host, jid)
        except SaltException as err:
            log.warning("csyncsync: %s cannot be asked how far it is in %s: %s", host, group, one_line(str(err)))


def _ask(cluster: Cluster, group: str, host: str, jid: str | None) -> None:
    """jid: of a push that is said to have the host wait for a join, None for any other."""
    status = cluster.statuses(group, [host]).get(host, {})
    state = status.get("state")
    if state == "established":
        joins.note_established(cluster, group, host)
        _tell_conflicts(cluster, group, host, status["refused"])
        lease.have_join_anew(cluster, group, status.get("anew", []))
    elif jid and state:
        with cluster.record(group) as record:
            held = record.lease
            if not (held and held.pid and lease.is_runner(held.pid)):
                # As a process of its own, because it waits for hosts; it takes the lease. An event may have ended this
                # host's, and a push that goes on beside a join does no harm.
                name = f"join {secrets.token_hex(8)}"
                record.lease = Lease(host, name, pid=joins.start(cluster, group, host, name))
                return
    if jid:
        lease.release(cluster, group, jid, host)


def _tell_conflicts(cluster: Cluster, group: str, host: str, refused: dict[str, list[str]]) -> None:
    """Note what a host has answered that others refused, and fire an event for each conflict that comes to light."""
    with cluster.record(group) as record:
        told = {*conflicts(record.refused)}
        said = {**record.refused, host: refused}
        record.refused = {minion: theirs for minion, theirs in said.items() if theirs}
        new = [conflict for conflict in conflicts(record.refused) if conflict not in told]
    for name, one, other in new:
        path, opts = readable(name), cluster.opts
        log.warning("csyncsync: conflict in group %s: %s and %s have changed %s", group, one, other, path)
        with salt.utils.event.get_master_event(opts, opts["sock_dir"], listen=False) as event:
            event.fire_event({"group": group, "path": path, "hosts": [one, other]}, f"csyncsync/{group}/conflict")
