"""
Large files, sent beside the pushes: nobody else's change waits for one.

csync2 reads all of a file on both sides, holes too. So a push leaves large files dirty, and has this module sent them,
as a program of its own (__main__.py): it needs neither the group's lock nor its lease, and goes on when the push has
ended. Of each group there is one at a time; what changes meanwhile, a later push has sent anew.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Sequence

from csync2lib import actions, storage
from csync2lib.csync2.database import Database
from csync2lib.group import Group
from csync2lib.host import ThisHost
from csync2lib.push import peers, transfer

log = logging.getLogger(__name__)

#: In a group's directory: locked while large files are sent.
LOCK = "large.lock"


def start(group: Group) -> None:
    """Have the large files of a group sent, if nobody does that already."""
    if storage.is_locked(group.path(LOCK)):
        return
    command = [*actions.command_line("push.large"), group.name, *group.host]
    null = subprocess.DEVNULL
    try:
        subprocess.Popen(command, stdin=null, stdout=null, stderr=null, cwd="/", start_new_session=True)
    except OSError as err:
        log.error("csyncsync: large files of group %s cannot be sent: %s", group.name, err)


def send(group: Group) -> None:
    """Send the large files that are dirty, to all peers at once. Raises CsyncsyncError, sqlite3.Error."""
    with storage.locked(group.path(LOCK)) as mine:
        before: dict[str, dict[str, bytes | None]] = {}
        while mine and not group.why_paused() and group.state() == Database.ESTABLISHED:
            config = group.config
            due = peers.due(group, config, large=True)
            now = peers.large_left(group, due)
            if now == before or not any(now.values()):
                break  # what is refused is tried again by a later push; what has changed meanwhile, at once
            before = now
            peers.send(group, config, due, transfer.now(), large=True)


def main(arguments: Sequence[str]) -> None:
    """The program: the arguments are a group's name, and the fields of ThisHost."""
    send(Group(arguments[0], ThisHost(*arguments[1:])))
