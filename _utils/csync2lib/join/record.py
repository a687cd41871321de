"""What a host has when it comes into a group: recorded once, before it is compared with another host."""

from __future__ import annotations

from csync2lib import journal, storage
from csync2lib.csync2.database import Database
from csync2lib.group import ONLY_HERE, Group
from csync2lib.join.recovery import put_back
from csync2lib.push.check import recording


def record(group: Group) -> None:
    """
    Take this host's files into csync2's database, once, all of them as dirty; a member's database that is lost is put
    back. Raises CsyncsyncError, sqlite3.Error, OSError.

    That is what protects them: csync2 refuses to overwrite a file that is dirty on the receiver, too.
    """
    if group.state() == Database.NEW and not put_back(group):
        group.forget(ONLY_HERE)
        journal.forget_unwatched(group.directory)
        group.guard.note_mounts(group.guard.mounts())
        with recording(group, group.config) as recorder:
            recorder.everything()
        with group.open_database(write=True) as database:
            database.set_state(Database.RECORDED)
        storage.write(group.path("recorded"), "")
