"""Make this host's version of some paths replace that of all other hosts."""

from __future__ import annotations

from collections.abc import Iterable

from csync2lib import beneath, storage
from csync2lib.errors import CsyncsyncError
from csync2lib.group import Group
from csync2lib.push.check import recording


def win(group: Group, names: Iterable[str], host: str | None = None) -> int:
    """
    Have what stands here at percent-encoded paths, or that nothing does, sent to all (or to one host), whatever they
    have; with the next push. Returns how many entries are to be sent. Raises CsyncsyncError.
    """
    config = group.config
    paths = set(config.in_includes(names).values())
    if why := config.why_no_source(group.host.minion):
        raise CsyncsyncError(why)
    with group.exclusive():
        with recording(group, config) as recorder:
            recorder.named({path: True for path in paths if beneath.exists(path)})
            recorder.delete()
        with group.open_database(write=True) as database:
            paths.update(path for top in tuple(paths) for path in database.below(top))
            for peer in [config.address_of(host)] if host else config.peers:
                database.force(sorted(paths), config.address, peer)
        storage.write(group.path("left"), "")
    return len(paths)
