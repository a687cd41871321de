"""What an established host does for one that joins: it sends all that the other one lacks, or has otherwise."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from csync2lib import beneath, journal
from csync2lib.csync2.names import encode
from csync2lib.csync2.states import is_socket
from csync2lib.errors import CsyncsyncError
from csync2lib.group import MOST_TOLD, Group, GroupConfig
from csync2lib.join.compare import compare, unlike
from csync2lib.join.unsent import as_text, from_text
from csync2lib.push import refusals, transfer
from csync2lib.push.refusals import no_directory_above
from csync2lib.push.sending import Job
from csync2lib.push.withheld import held


def admit(
    group: Group,
    host: str,
    digests: Sequence[str] | None = None,
    unsent: Iterable[str] | None = (),
    keep: bool = False,
    remove: bool = False,
) -> dict[str, Any]:
    """What ``csyncsync.admit`` does, and returns. Raises CsyncsyncError, sqlite3.Error."""
    peer = group.config.address_of(host)
    with group.exclusive(established="this host is not established itself") as config:
        # What has one host's content win (``remove``) goes on in a pause.
        if why := ("" if remove else group.why_paused()) or config.why_no_source(group.host.minion):
            raise CsyncsyncError(why)
        since = transfer.now()
        refusals.try_all(group.name, [peer])
        with group.open_database() as database:
            before = {path for path, _, _ in database.dirty([peer])}
        try:
            found = compare(group, config, peer)
            paths = {*found.different, *found.only_here, *unlike(group, digests), *(found.only_there if remove else ())}
            with group.open_database(write=True) as database:
                database.make_dirty(sorted(paths), config.address, peer)
            _drop_dirty(group, peer, before, from_text(unsent))
            with group.open_database() as database:
                marked = database.dirty_peers().get(peer, 0)
            with journal.checked_again(group.journal) as changed:
                problem = _send(group, config, peer, since, changed)
            before.update(changed)
            if problem:
                raise CsyncsyncError(f"{host}: {problem}")
            with group.open_database() as database:  # what has changed meanwhile is for the next push
                left = [path for path, _, _ in database.dirty([peer]) if path not in changed and not is_socket(path)]
        finally:
            if not keep:  # nothing else stays dirty for it
                _drop_dirty(group, peer, before, {b"": True})
        refused = as_text({path: beneath.is_directory(path) for path in left[:MOST_TOLD]})
        return {"group": group.name, "marked": marked, "left": len(left), "refused": refused}


def claims(group: Group, names: Iterable[str]) -> dict[str, str]:
    """What ``csyncsync.claims`` does, and returns. Raises CsyncsyncError, sqlite3.Error."""
    found = {}
    with group.open_database() as database:
        dirty = {path for path, _, _ in database.dirty()}
    for name, path in group.config.in_includes(names).items():
        # Also if it was deleted with a directory that is dirty: what was in that is not recorded anew.
        if path in dirty or any(top in dirty and not beneath.is_directory(top) for top in beneath.above(path)):
            found[name] = "changed"
        elif (beneath.is_directory(path) and not name.endswith("/")) or no_directory_above(encode(path)):
            found[name] = "place"
    return found


def _send(group: Group, config: GroupConfig, peer: str, since: float, changed: set[bytes]) -> str:
    """Send what is dirty for a peer, and nothing to others. Returns why that cannot be done, "" if it was."""
    notes, members, why = group.path("sent"), [*config.minions], dict[str, dict[bytes, str]]()
    job = Job(group.name, config.database, notes, members, since, changed, held(group), why)
    sent = transfer.send_all(job, [peer])
    cannot = next(iter(why.get(peer, {}).items()), None)
    return sent[peer] or (f"cannot write {os.fsdecode(cannot[0])}: {cannot[1]}" if cannot else "")


def _drop_dirty(group: Group, peer: str, before: Collection[bytes], entries: Mapping[bytes, bool]) -> None:
    """Make entries, as journal.is_among() takes them, clean for a peer, but for those that were dirty before."""

    def wanted(path: bytes, to: str) -> bool:
        return to != peer or path in before or not journal.is_among(entries, path)

    with group.open_database(write=True) as database:
        database.keep_dirty(wanted)
