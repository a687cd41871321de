"""
What holds a push back: an include root that is not the one it was, and deletions that look like a lost disk.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from typing import Any

from csync2lib import beneath, storage
from csync2lib.csync2.database import Database
from csync2lib.errors import CsyncsyncError

log = logging.getLogger(__name__)

#: An include root that is empty now, and from which more than this number of files have vanished, holds a push.
EMPTIED = 10
#: In a group's directory: the deletions that are let through, and not sent to all others yet.
LET_THROUGH = "let_through"

#: What an include root stands on: ``{"mount": [point, type, source, root], "device", "inode", "boot": its id}``
Root = dict[str, Any]


class Guard:
    """
    The guard of one group on this host.

    group, directory, database
        The group's name, the directory of what is noted of it (``roots.json``, ``let_through``), and csync2's database.
    """

    def __init__(self, group: str, directory: str, database: str) -> None:
        self.group, self.database = group, database
        self.roots, self.passed = os.path.join(directory, "roots.json"), os.path.join(directory, LET_THROUGH)

    # ---- Include roots: is the disk there?

    def note_roots(self, includes: list[str], test: bool = False) -> tuple[list[str], list[str]]:
        """
        Note the identity of roots that are new, forget those that left; a new one that is missing is made.

        Returns (those that were made, what is wrong with the others). With ``test`` nothing is made or written.
        Raises CsyncsyncError if a new one is, or lies below, a symlink, or its database cannot be read; OSError.
        """
        noted, made = storage.read_json(self.roots, {}), []
        now = {root: identity for root, identity in noted.items() if root in includes}
        for root in includes:
            if root in noted:
                continue
            if os.path.realpath(root) != root:
                raise CsyncsyncError(
                    f"csyncsync:groups:{self.group}:include {root} is, or lies below, a symlink to"
                    f" {os.path.realpath(root)}: csync2 ignores such paths; name the real directory"
                )
            if not beneath.exists(root):
                made.append(root)
                if test:
                    continue
                beneath.make_directories(root)
            now[root] = _stands_on(root)
        problems = self._problems(now)
        if now != noted and not test:
            storage.write_json(self.roots, now)
        return made, problems

    def root_problems(self) -> list[str]:
        """
        What is wrong with the include roots, in words; nothing is pushed while there is anything. Raises
        CsyncsyncError if the database cannot be read.
        """
        return self._problems(storage.read_json(self.roots, {}))

    def renew_roots(self) -> None:
        """
        Note what the roots stand on today: after a reboot device numbers may differ, and a release accepts the rest.

        Raises CsyncsyncError if a root is missing, or reached through a symlink.
        """
        noted = storage.read_json(self.roots, {})
        now = {root: _stands_on(root) for root in noted}
        if now != noted:
            storage.write_json(self.roots, now)

    def _problems(self, noted: dict[str, Root]) -> list[str]:
        problems = [self._problem(root, identity) for root, identity in sorted(noted.items())]
        return [problem for problem in problems if problem]

    def _problem(self, root: str, noted: Root) -> str:
        """Why an include root is not the one that was noted ("" if it is)."""
        try:
            now = _stands_on(root)
        except CsyncsyncError as err:
            return str(err)
        if noted["mount"] != now["mount"] or (noted["boot"] == now["boot"] and noted["device"] != now["device"]):
            return f"include root {root} is on another file system than before: is its disk unmounted?"
        if noted.get("inode") != now["inode"] and is_empty_directory(root) and self._has_records_below(root):
            return f"include root {root} was replaced by an empty directory: was its content moved away?"
        return ""

    def _has_records_below(self, root: str) -> bool:
        """A database that cannot be read says nothing: then nothing is pushed either."""
        if not os.path.exists(self.database):
            return False
        try:
            with self._open() as database:
                return database.state() != Database.NEW and database.has_below(os.fsencode(root))
        except sqlite3.Error as err:
            raise CsyncsyncError(f"{self.database}: {err}") from err

    # ---- Deletions: is the disk lost?

    def vanished(self, peers: list[str]) -> set[bytes]:
        """The paths, as a set of bytes, that are to be sent to any peer, and are here no more. Raises sqlite3.Error."""
        with self._open() as database:
            paths = {path for path, _, _ in database.dirty(peers)}
        return {path for path in paths if not beneath.exists(path)}

    def looks_lost(self, vanished: set[bytes], includes: list[str], hold: dict[str, float]) -> str:
        """
        Why what has vanished since the last push looks like a lost disk ("" if it does not). Raises sqlite3.Error.

        What was let through does not count any more: while a host is away, the deletions of days wait for it.

        hold
            ``{"number": of files, "share": of all}``: more than both hold the push.
        """
        new = vanished - storage.read_names(self.passed)
        if not new:
            return ""
        with self._open() as database:
            total = database.count() + len(new)
        roots = [os.fsencode(root) + b"/" for root in includes if is_empty_directory(root)]
        emptied = any(sum(path.startswith(root) for path in new) > EMPTIED for root in roots)
        if not emptied and (len(new) <= hold["number"] or len(new) <= hold["share"] * total):
            return ""
        return (
            f"{len(new)} of {total} files have vanished here: nothing is deleted on the other hosts until you put them"
            f" back, or run: salt-run csyncsync.release {self.group}"
        )

    def let_through(self, vanished: set[bytes]) -> None:
        """Note which deletions are let through, before they are sent: whatever breaks then, they are no lost disk."""
        if vanished == storage.read_names(self.passed):
            return
        try:
            storage.write_names(self.passed, vanished)
        except OSError as err:  # a full disk: they will count once more
            log.warning("csyncsync: cannot note the deletions of group %s: %s", self.group, err)

    def _open(self) -> Database:
        return Database(self.database, timeout=20)


def _stands_on(path: str) -> Root:
    """
    What an include root stands on: the mount it is in, and its device while this boot lasts.

    Device numbers of many file systems differ from boot to boot, the mount point and its source do not.
    Raises CsyncsyncError if the root is missing or reached through a symlink.
    """
    try:
        status: os.stat_result | None = beneath.lstat(path)
    except OSError:
        status = None
    if (status is None or stat.S_ISLNK(status.st_mode)) and (real := os.path.realpath(path)) != path:
        raise CsyncsyncError(f"include root {path} is, or lies below, a symlink to {real}: csync2 would ignore it")
    if status is None:
        raise CsyncsyncError(f"include root {path} is missing: is its disk unmounted?")
    best = ("", "", "", "")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            fields, (kind, source) = left.split(), right.split()[:2]
            point = fields[4].encode().decode("unicode_escape", "replace") if "\\" in fields[4] else fields[4]
            if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= len(best[0]):
                best = (point, kind, source, fields[3])
    boot = (storage.read("/proc/sys/kernel/random/boot_id") or "").strip()
    return {"mount": list(best), "device": status.st_dev, "inode": status.st_ino, "boot": boot}


def is_empty_directory(path: str) -> bool:
    """Tell whether there is a directory with nothing in it."""
    try:
        with beneath.directory(path) as handle:
            return not beneath.names(handle)
    except OSError:
        return False
