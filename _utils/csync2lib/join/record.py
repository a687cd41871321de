"""What a host has when it comes into a group: recorded once, before it is compared with another host."""

from __future__ import annotations

import contextlib
import os
import sqlite3

from csync2lib import journal, storage
from csync2lib.csync2.database import Database
from csync2lib.csync2.kept import lost_database
from csync2lib.group import ONLY_HERE, Group
from csync2lib.join import recovery
from csync2lib.push.check import recording


def record(group: Group) -> None:
    """
    Take this host's files into csync2's database, once, all of them as dirty. Raises CsyncsyncError, sqlite3.Error.

    That is what protects them: csync2 refuses to overwrite a file that is dirty on the receiver, too.
    """
    if group.state() == Database.NEW:
        group.forget(ONLY_HERE)
        _note_unwatched_changes(group)
        group.guard.note_mounts(group.guard.mounts())
        with recording(group, group.config) as recorder:
            recorder.everything()
        with group.open_database(write=True) as database:
            database.set_state(Database.RECORDED)
        storage.write(group.path("recorded"), "")


def _note_unwatched_changes(group: Group) -> None:
    """
    If this host lost its database and its watcher was away: put into the journal what was changed here meanwhile.

    Once, and now: the longer it takes, the more others have sent.
    """
    watch = storage.read_json(group.path("watch.json"), {})
    if not os.path.exists(f"/proc/{watch.get('pid', 0)}"):
        journal.note_unwatched(group.directory)
    since, lost = journal.unwatched_since(group.directory), lost_database(group.directory, group.database)
    if since is not None and lost and group.was_established():
        with contextlib.suppress(sqlite3.Error):
            changed = recovery.changed_since(lost, since)
            lines = [path + b"/" if tree else path for path, tree in changed.items()]
            journal.write(group.journal, lines, False, "unwatched")
    journal.forget_unwatched(group.directory)
