"""Groups and hosts that are paused: they send and get nothing until they are resumed."""

from __future__ import annotations

import concurrent.futures
import time
from typing import Any

from csync2lib import waits
from csync2lib.errors import CsyncsyncError
from csync2lib.master.cluster import Cluster
from csync2lib.master.lease import ask

#: What is said of a host that did not answer.
LATER = "; it hears of this when it next asks to push"
#: Groups that are paused at once.
AT_ONCE = 8
#: In the place of a host, in what is paused: the whole group.
ALL_HOSTS = "*"

#: ``{"until": seconds since the epoch, or None, "comment": text}``
Pause = dict[str, Any]


def pause(
    cluster: Cluster, group: str | None, host: str | None, minutes: Any, comment: object
) -> dict[str, dict[str, str]]:
    """Pause a group, or a host. Returns ``{GROUP: {minion id: text}}``. Raises CsyncsyncError."""
    if minutes is not None and (isinstance(minutes, bool) or not isinstance(minutes, (int, float)) or minutes <= 0):
        raise CsyncsyncError(f"minutes={minutes!r} is no number above 0")
    until = None if minutes is None else round(time.time() + 60 * minutes)
    return _set(cluster, group, host, {"until": until, "comment": str(comment)})


def resume(cluster: Cluster, group: str | None, host: str | None) -> dict[str, dict[str, str]]:
    """End a pause; what has changed is sent. Returns ``{GROUP: {minion id: text}}``. Raises CsyncsyncError."""
    result = _set(cluster, group, host, None)
    for name, told in result.items():
        for minion, text in told.items():
            if not text.endswith(LATER):  # a host that does not answer would be waited for
                ask(cluster, name, minion)
    return result


def _set(cluster: Cluster, group: str | None, host: str | None, new: Pause | None) -> dict[str, dict[str, str]]:
    """Note a pause, or that there is none, and tell all members. Returns what each of them says."""
    if group is None and host is None:
        raise CsyncsyncError("name a group, or a host, as in: wwwdata; host=web2")
    members = {name: cluster.members(options) for name, options in cluster.groups(group).items()}
    chosen = {name: hosts for name, hosts in sorted(members.items()) if host is None or host in hosts}
    if not chosen:
        raise CsyncsyncError(f"{host} is no member of {group or 'any group'}")

    def tell(name: str) -> dict[str, str]:
        with cluster.record(name) as record:
            now, before = time.time(), record.paused or {}
            paused = {key: one for key, one in before.items() if one["until"] is None or one["until"] > now}
            paused.pop(host or ALL_HOSTS, None)
            record.paused = paused = {**paused, **({host or ALL_HOSTS: new} if new else {})}
        answers = cluster.call(chosen[name], "csyncsync.paused", [name, paused], waits.STATUS_ANSWER)
        return {
            minion: _told(minion, answers[minion])
            if minion in answers
            else f"{answers.why.get(minion, 'did not answer')}{LATER}"
            for minion in chosen[name]
        }

    # Side by side: a host that is silent would be waited for once for each group.
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(chosen, pool.map(tell, chosen)))


def _told(minion: str, answer: dict[str, Pause]) -> str:
    """What a member's answer, all that is paused of the group, says of itself."""
    found = answer.get(ALL_HOSTS) or answer.get(minion)
    if not found:
        others = ", ".join(sorted(answer))
        return f"not paused, but sends nothing to {others}" if others else "not paused"
    until = found["until"] and time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(found["until"]))
    return f"paused until {until or 'it is resumed'}"
