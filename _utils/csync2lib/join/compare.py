"""How a host that joins differs from the one that admits it: by csync2's records, and by contents."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from csync2lib import contents
from csync2lib.csync2 import command
from csync2lib.csync2.output import Compared, compared, records
from csync2lib.group import Group, GroupConfig
from csync2lib.guard import is_empty_directory
from csync2lib.records import recorded


def compare(group: Group, config: GroupConfig, peer: str) -> Compared:
    """
    Compare csync2's records with those of a peer, given its address. An empty include root is no content, and never
    differs. Raises CsyncsyncError, sqlite3.Error.

    csync2's own comparison names paths between its other words, so it only fetches the peer's records here: it runs
    with a database that has none.
    """
    with group.copied_database() as directory:
        flags = ("-v", "-v", "-D", directory, "-T", config.address, peer)
        messages = command.run(group.name, *flags, peer=peer, fine=(0, 2))
    with group.open_database() as database:
        found = compared(database.states(), records(messages), config.roots)
    empty = {os.fsencode(root) for root in config.include if is_empty_directory(root)}
    return found._replace(different=found.different - empty)


def digests(group: Group) -> list[str]:
    """Digests of the contents of all files that are recorded here (see ``contents.file_digests()``)."""
    with group.open_database() as database:
        return contents.file_digests(database.contents())


def digest(group: Group, contents_too: bool) -> str:
    """One digest of all that is recorded here, or also of all contents: then hosts that have the same are equal."""
    found = hashlib.blake2b("".join(digests(group) if contents_too else ()).encode(), digest_size=8)
    for name, record in recorded(group):
        found.update(name + b" " + record + b"\n")
    return found.hexdigest()


def unlike(group: Group, theirs: Sequence[str] | None) -> list[bytes]:
    """The paths of files whose contents may differ from those of a host with these digests: all, if there are none."""
    with group.open_database() as database:
        ours = contents.file_digests(database.contents())
        known: Sequence[str | None] = theirs if theirs and len(theirs) == len(ours) else [None] * len(ours)
        return [path for path in database.contents() if ours[slot := contents.digest_slot(path)] != known[slot]]
