"""The groups that are watched: what their config.json says, and what is known of each."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import random
import threading
import time
from typing import Any

from csync2lib import journal, storage, waits
from csync2lib.backups import GENERATIONS
from csync2lib.csync2.database import is_lost
from csync2lib.csync2.excludes import Excludes
from csync2lib.csync2.names import is_group_name
from csync2lib.csync2.namespace import outermost
from csync2lib.watch.changes import Changes
from csync2lib.watch.inotify import Node, Root

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class WatchedConfig:
    """What the watcher needs of a group's config.json."""

    #: the includes without those that are below another one, whose watches cover them, as absolute paths; patterns
    include: tuple[bytes, ...] = ()
    exclude: tuple[bytes, ...] = ()
    #: paths of csync2's database and of the host's certificate, if they are known
    database: str | None = None
    certificate: str | None = None
    #: where csync2 keeps old versions, if it does, and how many
    backups: bytes | None = None
    generations: int = GENERATIONS

    @classmethod
    def read(cls, path: str) -> WatchedConfig:
        """Read a config.json. Raises OSError and what there is to raise about one that is damaged: see DAMAGED."""
        with open(path, encoding="utf-8") as file:
            said: dict[str, Any] = json.load(file)
        database, rules = said.get("database"), said.get("rules") or {}
        key, backups = rules.get("key_file"), rules.get("backup_directory")
        if not all(item.startswith("/") for item in said["include"]):
            raise ValueError("an include is not an absolute path")
        return cls(
            include=tuple(outermost(os.fsencode(item).rstrip(b"/") for item in said["include"])),
            exclude=tuple(os.fsencode(item) for item in said.get("exclude") or []),
            database=database if isinstance(database, str) else None,
            certificate=os.path.join(os.path.dirname(key), "csync2_ssl_cert.pem") if key else None,
            backups=os.fsencode(backups) if backups else None,
            generations=rules.get("backup_generations") or GENERATIONS,
        )


#: Seconds within which a push that systemd is told to begin has ended, or has begun.
BEGINS_WITHIN = 5.0
#: What WatchedConfig.read() raises.
DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError)


class Flushes:
    """When a group's journal was written, and what a push was asked for."""

    def __init__(self) -> None:
        #: the thread that writes or asks now
        self.running: threading.Thread | None = None
        self.last = self.last_rescan = self.last_fired = 0.0
        #: paths in the journal that no event has told, the oldest journal file when the last one went out, and when to
        #: look again whether it has been taken
        self.unasked = 0
        self.asked: str | None = None
        self.ask_at = 0.0


class Reminders:
    """How often the event of a group was repeated, and when it may push without the master."""

    def __init__(self) -> None:
        self.repeats = 0
        #: seconds to wait for the master; it answers sooner or later
        self.patience = waits.ALONE_AFTER[0]
        #: whether the host pushes without the master, and when that had been heard of before
        self.alone = False
        self.heard: list[float | None] = []
        #: the age of what was pushed so, and when; when the last push before that had ended; until when that is not
        #: pushed again
        self.tried: float | None = None
        self.tried_at = self.push_at = 0.0
        self.pushed: float | None = None

    def is_alone(self, directory: str) -> bool:
        """Tell whether the master is silent since the host pushed without it; if it was only late, it has more time."""
        if self.alone and self.heard != signs(directory):
            self.alone, self.patience = False, min(2 * self.patience, waits.ALONE_AFTER[1])
        return self.alone

    def note_tried(self, oldest: float | None, directory: str) -> None:
        """A push without the master is to send this now."""
        self.tried, self.tried_at = oldest, time.monotonic()
        self.pushed = journal.mtime(os.path.join(directory, "push.json"))
        self.push_at = self.tried_at + random.uniform(*waits.ALONE_INTERVAL)

    def is_tried(self, oldest: float | None, directory: str) -> bool:
        """Tell whether a push without the master has tried to send this not long ago, or is about to begin."""
        has_begun = self.pushed != journal.mtime(os.path.join(directory, "push.json"))
        # systemd begins nothing while the one before is at its end.
        until = self.push_at if has_begun else self.tried_at + BEGINS_WITHIN
        return oldest == self.tried and time.monotonic() < until


class WatchedGroup:
    """One csync2 group: its config, its includes, and what waits."""

    def __init__(self, name: str, directory: str) -> None:
        self.name = name
        self.directory = directory
        self.journal = os.path.join(directory, "journal")
        #: whether its config has gone
        self.gone = False
        self.config = WatchedConfig()
        self.excludes = Excludes([])
        #: how the file of the config looked when it was read, and what was wrong with it
        self.signature: tuple[int, int] | None = None
        self.config_error: str | None = None
        #: inode and size of csync2's database when it was last seen; whether it may be lost, and no push has been
        #: started to put it back
        self.database_seen = (0, 0)
        self.doubted = True

        #: kept by the tree. Path -> Root, or None while the include is not there; how many directories its great walk
        #: has still to go through; what could not be watched, why (an error's number), and when to try again
        self.roots: dict[bytes, Root | None] = {}
        self.walking = 0
        self.unwatched: set[Node] = set()
        self.problem = 0
        self.rewalk_at = 0.0
        #: whether, and how often, a great walk has come to its end; what is not watched, and whether that was told
        self.walked = False
        self.walks = 0
        self.error: str | None = None
        self.error_told = False

        #: a file with several names was changed through one of them
        self.linked = False
        self.changes = Changes()
        self.flushes = Flushes()
        self.reminders = Reminders()
        #: what watch.json says, when it was written, and when the sign of life was last touched
        self.status: dict[str, Any] | None = None
        self.status_at = self.watched_at = 0.0
        #: how many commits the copy of csync2's database has, and when to look again
        self.copied, self.copy_at = -1, 0.0

    def read_config(self) -> bool:
        """Read the group's config anew. Tells whether it can be used: else the one before stays."""
        path = os.path.join(self.directory, "config.json")
        try:
            self.config = WatchedConfig.read(path)
        except DAMAGED as err:
            log.error("csyncsync: cannot use %s: %s %s", path, type(err).__name__, err)
            self.config_error = f"cannot use {path}: {err}"
            return False
        self.config_error = None
        return True

    def is_pushing(self) -> bool:
        """Tell whether a push holds the group's lock."""
        return storage.is_locked(os.path.join(self.directory, "lock"))

    def is_database_new(self) -> bool:
        """Tell whether csync2's database is not the one that it was a moment ago."""
        before = self.database_seen
        try:
            status = os.stat(self.config.database or "")
            self.database_seen = (status.st_ino, status.st_size)
        except OSError:
            self.database_seen = (0, 0)
        is_new = before[0] not in (0, self.database_seen[0])
        self.doubted = self.doubted or is_new or before[1] > self.database_seen[1]
        return is_new

    def lost_its_database(self) -> bool:
        """
        Tell whether a member's database has been lost, if it may be. SQLite's also shrink when what a killed csync2 had
        begun to write is taken back.
        """
        if not self.doubted or self.config.database is None:
            return False
        try:
            self.doubted = os.path.exists(os.path.join(self.directory, "established")) and is_lost(self.config.database)
        except TimeoutError:
            return False
        return self.doubted


def signs(directory: str) -> list[float | None]:
    """When the master last asked for a push of a group, and last said that this host is queued."""
    return [journal.mtime(os.path.join(directory, name)) for name in ("asked", "waits")]


def find(state_dir: str) -> dict[str, tuple[int, int]] | None:
    """``{group: what changes when its config does}`` of all that have one; None if the directory cannot be read."""
    found = {}
    try:
        with os.scandir(state_dir) as entries:
            for item in entries:
                if is_group_name(item.name):
                    with contextlib.suppress(OSError):
                        status = os.stat(os.path.join(item.path, "config.json"))
                        found[item.name] = (status.st_mtime_ns, status.st_ino)
    except FileNotFoundError:
        pass
    except OSError as err:
        log.error("csyncsync: cannot read %s: %s", state_dir, err)
        return None
    return found
