"""Which peers a push sends to: all at once, but for those that are paused, or that failed only just now."""

from __future__ import annotations

import os
import time
import urllib.parse
from collections.abc import Collection
from typing import NamedTuple

from csync2lib import journal, pauses, storage, waits
from csync2lib.csync2.command import STALLED
from csync2lib.csync2.names import encode
from csync2lib.csync2.namespace import is_below
from csync2lib.group import Group, GroupConfig
from csync2lib.push import transfer
from csync2lib.push.sending import Job, file_size
from csync2lib.push.withheld import held

#: In a group's directory: ``{address: Failure}`` of the peers that something is left for; of those that large files
#: could not be sent to; and ``{address: [path, …]}`` of the large files that were refused.
FAILURES, LARGE_FAILURES, LARGE_REFUSED = "peers.json", "large.json", "large_refused.json"
#: ``{address: {percent-encoded path: why}}`` of what peers cannot write, in their own words.
CANNOT_WRITE = "cannot_write.json"
#: Paths that are named of what one host refused.
MOST_REFUSED = 20


class Failure(NamedTuple):
    """Why a peer could not be reached the last time."""

    problem: str
    #: for how many seconds it is left alone, and until when (seconds since the epoch): twice as long each time
    wait: float
    again: float
    #: how often in a row it stood still
    stalled: int = 0


def failures(group: Group, large: bool = False) -> dict[str, Failure]:
    """``{address: Failure}`` of the peers that failed the last time; with ``large``, when large files were sent."""
    said = storage.read_json(group.path(LARGE_FAILURES if large else FAILURES), {})
    return {peer: Failure(**entry) for peer, entry in said.items()}


def due(group: Group, config: GroupConfig, large: bool = False) -> list[str]:
    """The addresses of the peers that something is to be sent to now; with ``large``, large files."""
    failed, now = failures(group), time.time()
    failed.update(failures(group, large=True) if large else {})
    paused = {config.hosts[minion]["address"] for minion in pauses.pauses(group.directory) if minion in config.hosts}

    def waits_on(peer: str) -> bool:  # a clock that was set back delays nobody
        return peer in failed and 0 < failed[peer].again - now <= waits.PEER_RETRY[1]

    return [peer for peer in sorted(group.left(config)) if peer not in paused and not waits_on(peer)]


def send(
    group: Group, config: GroupConfig, peers: Collection[str], since: float, large: bool = False
) -> tuple[dict[str, int], set[bytes]]:
    """
    Send to peers what is dirty, after a check that began at ``since``: either large files, or all else. Notes who
    failed, and when to try it again. Returns (``{address: entries}`` that are left, large files that were not sent).
    """
    before, apart = failures(group, large), set[bytes]()
    stalled = {peer: failure.stalled for peer, failure in before.items()}
    notes, members, why = group.path("sent"), list(config.minions), dict[str, dict[bytes, str]]()
    with journal.checked_again(group.journal) as changed:
        job = Job(group.name, config.database, notes, members, since, changed, held(group), why, apart)
        problems = transfer.send_all(job, peers, stalled, group.path("lock") if large else None)
    _note_cannot_write(group, why)
    tried = {peer: _failed(before.get(peer), problem) if problem else None for peer, problem in problems.items()}
    left = group.left(config)
    failed = {peer: failure for peer, failure in {**before, **tried}.items() if failure and peer in left}
    if failed != before:
        said = {peer: failure._asdict() for peer, failure in failed.items()}
        storage.write_json(group.path(LARGE_FAILURES if large else FAILURES), said, durable=False)
    if large:
        answered = [peer for peer, problem in problems.items() if not problem]
        refused = {peer: sorted(paths) for peer, paths in large_left(group, answered).items()}
        refused = {**storage.read_json(group.path(LARGE_REFUSED), {}), **refused}
        storage.write_json(group.path(LARGE_REFUSED), refused, durable=False)
    return left, apart


def _note_cannot_write(group: Group, why: dict[str, dict[bytes, str]]) -> None:
    """Note what peers have told, beside what they told before and have not got since."""
    before = storage.read_json(group.path(CANNOT_WRITE), {})
    if not before and not any(why.values()):
        return
    now: dict[str, dict[str, str]] = {}
    with group.open_database() as database:
        for peer in {*before, *why}:
            new = {urllib.parse.quote_from_bytes(path): words for path, words in why.get(peer, {}).items()}
            for path, words in {**before.get(peer, {}), **new}.items():
                if database.is_dirty(urllib.parse.unquote_to_bytes(path), peer):
                    now.setdefault(peer, {})[path] = words
    if now != before:
        some = {peer: dict(sorted(paths.items())[:MOST_REFUSED]) for peer, paths in now.items()}
        storage.write_json(group.path(CANNOT_WRITE), some, durable=False)


def large_left(group: Group, peers: Collection[str]) -> dict[str, dict[str, bytes | None]]:
    """``{address: {percent-encoded path: record}}`` of the large files that are dirty for each of these peers."""
    found: dict[str, dict[str, bytes | None]] = {peer: {} for peer in peers}
    with group.open_database() as database:
        for path, peer, _ in database.dirty(peers):
            if file_size(encode(path))[0] > transfer.LARGE:
                found[peer][urllib.parse.quote_from_bytes(path)] = database.record(path)
    return found


def _failed(before: Failure | None, problem: str) -> Failure:
    shortest, longest = waits.PEER_RETRY
    wait = min(before.wait * 2 if before else shortest, longest)
    stalled = (before.stalled if before else 0) + problem.endswith(STALLED)
    return Failure(problem, wait, time.time() + wait, stalled)


def refused(group: Group, config: GroupConfig, before: dict[str, list[str]]) -> dict[str, list[str]]:
    """
    ``{minion id: [percent-encoded path, …]}`` of what hosts that answered did not take: conflicts, in the main.

    What a host refused before stays refused while it does not answer.
    """
    silent, minions = failures(group), config.minions
    held = [os.fsencode(root) for root in group.guard.problems()]
    large = storage.read_json(group.path(LARGE_REFUSED), {})
    found: dict[str, list[str]] = {}
    with group.open_database() as database:
        for raw, peer, _ in database.dirty(minions):
            if any(is_below(raw, root) for root in held):  # not sent
                continue
            path, paths = urllib.parse.quote_from_bytes(raw), found.setdefault(minions[peer], [])
            if len(paths) >= MOST_REFUSED or (peer in silent and path not in before.get(minions[peer], ())):
                continue
            if file_size(encode(raw))[0] <= transfer.LARGE or path in large.get(peer, ()):
                paths.append(path)
    return {minion: paths for minion, paths in found.items() if paths}
