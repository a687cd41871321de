"""Keys and certificates that change: all members take them at once, and nobody pushes meanwhile."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator

from csync2lib import keys, waits
from csync2lib.errors import CsyncsyncError
from csync2lib.master.cluster import Cluster
from csync2lib.master.commands import progress
from csync2lib.master.lease import ask, leased
from csync2lib.master.questions import Answers

#: ``{GROUP: [minion id, …]}``
Members = dict[str, list[str]]


def rotate_key(cluster: Cluster, group: str) -> dict[str, str]:
    """Give a group a new key. Returns ``{minion id: text}``. Raises CsyncsyncError."""
    members, file = cluster.members(cluster.group(group)), keys.path(cluster.opts["pki_dir"], group)
    _require_ours(cluster, members[0], group, file)
    question = secrets.token_hex(16)
    present = cluster.call(members, "csyncsync.key_proof", [group, question])

    def have_it(minions: list[str]) -> set[str]:
        wanted = keys.proof(keys.read(file) or "", question)
        found = cluster.call(minions, "csyncsync.key_proof", [group, question])
        return {minion for minion, proof in found.items() if proof == wanted}

    with _undisturbed(cluster, {group: members}):
        keys.replace(file)
        if cluster.opts.get("pillar_cache"):
            for minion in members:
                cluster.functions["pillar.clear_pillar_cache"](minion)
        return _have_read_anew(cluster, {group: members}, present, have_it, "the new key")


def _require_ours(cluster: Cluster, minion: str, group: str, file: str) -> None:
    """Raise CsyncsyncError unless the key that a minion has is that of this file, which the ext_pillar made."""
    pillar = cluster.functions["pillar.show_pillar"](minion)
    key = (((pillar.get("csyncsync") or {}).get("groups") or {}).get(group) or {}).get("key")
    if not key:
        raise CsyncsyncError(
            f"the pillar of {minion} has no key of {group}; see: salt {minion} state.apply csyncsync.groups test=True"
        )
    if key != keys.read(file):
        raise CsyncsyncError(
            f"the key of {group} is not made by the csyncsync ext_pillar: change csyncsync:groups:{group}:key in your"
            f" pillar, then run: salt-run csyncsync.apply {group}"
        )


def rotate_certificate(cluster: Cluster, host: str) -> dict[str, str]:
    """Give a host a new private key and certificate. Returns ``{minion id: text}``. Raises CsyncsyncError."""
    published = cluster.published()
    groups = cluster.groups_of(host) if host in published and cluster.is_accepted(host) else {}
    if not groups:
        there = ", ".join(sorted(published)) or "none"
        raise CsyncsyncError(f"there is no host {host!r} in any group; there are: {there}")
    members = {group: cluster.members(options) for group, options in groups.items()}
    present = cluster.call(_all_of(members), "csyncsync.certificate", [])
    if host not in present:
        raise CsyncsyncError(f"{host} {present.why.get(host, 'does not answer')}; nothing was changed")
    with _undisturbed(cluster, members):
        try:
            new = cluster.step(host, "csyncsync.renew_certificate", [])
        except CsyncsyncError as err:
            again = f"to try again: salt-run csyncsync.rotate_certificate {host}"
            raise CsyncsyncError(f"{err}; {again}") from err

        def have_it(minions: list[str]) -> set[str]:
            lack: set[str] = set()
            for group, inside in members.items():
                asked = [minion for minion in minions if minion in inside and minion != host]
                pins = cluster.call(asked, "csyncsync.pinned", [group])
                lack.update(minion for minion in asked if pins.get(minion, {}).get(host) != new["fingerprint"])
            return {*minions} - lack

        return _have_read_anew(cluster, members, present, have_it, f"the new certificate of {host}")


def _all_of(members: Members) -> list[str]:
    return sorted({minion for minions in members.values() for minion in minions})


@contextlib.contextmanager
def _undisturbed(cluster: Cluster, members: Members) -> Iterator[None]:
    """
    No host of these groups is called to push meanwhile. Waits for those that do so now. Raises CsyncsyncError.

    All are noted as hosts that have not read what changes; _have_read_anew() knows better.
    """
    with contextlib.ExitStack() as stack:
        for group in sorted(members):
            stack.enter_context(leased(cluster, group, "", waits.LEASE_WAIT))
        for group, minions in members.items():
            with cluster.record(group) as record:
                record.behind.update(dict.fromkeys(minions, time.time()))
        yield


def _have_read_anew(
    cluster: Cluster, members: Members, present: Answers, have_it: Callable[[list[str]], set[str]], what: str
) -> dict[str, str]:
    """
    Have hosts read pillar and mine, and those push that have something to send. Returns ``{minion id: text}``.
    ``present`` is what those said that answer; ``have_it`` tells which of some hosts have what changed.
    """
    told = dict.fromkeys(_all_of(members), f"did not answer: gets {what} when it is back")
    waiting, until = [minion for minion in told if minion in present.heard()], time.monotonic() + waits.ROTATE_WAIT
    accepted = cluster.not_gone(members) if waiting else {}
    while waiting and time.monotonic() < until:
        answers = cluster.call(waiting, "csyncsync.refresh", [], accepted=accepted)
        heard = sorted(answers.heard())
        done = have_it(heard)
        told.update({minion: f"lacks {what}: {answers.told(minion, '')}" for minion in heard})
        told.update(dict.fromkeys(done, f"has {what}"))
        for minion in waiting:
            progress(f"{minion} {told[minion]}")
        # A text says that another call is under way there, or what went wrong; a list, which states have failed.
        waiting = [minion for minion in heard if minion not in done and isinstance(answers.told(minion, ""), str)]
        time.sleep(1 if waiting else 0)
    have = [minion for minion, text in told.items() if text.startswith("has ")]
    for group, minions in members.items():
        with cluster.record(group) as record:
            record.behind = {minion: at for minion, at in record.behind.items() if minion not in have}
        for minion, status in cluster.statuses(group, [minion for minion in have if minion in minions]).items():
            if status.get("dirty") or status.get("journal"):
                ask(cluster, group, minion)
    return told
