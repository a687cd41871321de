"""Facts that hosts publish in the mine: who is to read them anew, and whose are forgotten."""

from __future__ import annotations

import salt.cache
import salt.key

from csync2lib.errors import CsyncsyncError
from csync2lib.master.cluster import Cluster


def apply(
    cluster: Cluster, group: str | None = None, host: str | None = None, reporter: str | None = None
) -> list[str]:
    """What the runner's ``apply`` does. Raises CsyncsyncError."""
    if reporter is not None and cluster.member(group, reporter) is None:
        return []
    if (group, host, reporter) == (None, None, None):
        _forget_deleted(cluster)
    published = cluster.published()
    if host is not None:
        if host not in [*published] or not cluster.is_accepted(host):
            problem = "has not published its facts, or its key is not accepted"
            raise CsyncsyncError(f"{host!r:.80} {problem}; run: salt {host!r:.80} state.apply csyncsync")
        groups = cluster.groups_of(host)
    else:
        groups = cluster.groups(group)
    members = {name: cluster.members(options) for name, options in groups.items()}
    minions = sorted({m for inside in members.values() for m in inside if m in published and host in (None, m)})
    if minions:
        kwarg = {"accepted": cluster.not_gone(members)}
        cluster.client().run_job(minions, "csyncsync.refresh", [], tgt_type="list", kwarg=kwarg, ret="")
    return minions


def _forget_deleted(cluster: Cluster) -> None:
    """
    Take the facts of hosts whose keys were deleted out of the mine, because Salt 3008 does not.

    If the same name were accepted anew, for another machine, the others would trust the certificate of the old one
    until the new one has published its own.
    """
    cache = salt.cache.factory(cluster.opts)
    keys = {minion for minions in salt.key.Key(cluster.opts).list_keys().values() for minion in minions}
    for minion in {*cache.list("mine")} - keys:
        facts = cache.fetch("mine", minion)
        if isinstance(facts, dict) and facts.pop("csyncsync.member", None):
            cache.store("mine", minion, facts)
