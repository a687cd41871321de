"""What holds a push back: an include root that is not the one it was, and deletions that look like a lost disk."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import stat
from collections.abc import Collection
from itertools import islice
from typing import Any

from csync2lib import beneath, storage
from csync2lib.csync2.database import Database
from csync2lib.csync2.names import decode
from csync2lib.csync2.namespace import is_below, mount_of, mounted_below
from csync2lib.errors import CsyncsyncError

log = logging.getLogger(__name__)

#: An include root that is empty now, and from which more than this number of files have vanished, holds a push.
EMPTIED = 10
#: In a group's directory: the deletions that are let through, and not sent to all others yet.
LET_THROUGH = "let_through"
#: In a group's directory: ``{include root: Root}``.
ROOTS = "roots.json"
#: Records below a root, about so many, that tell whether it is the one that it was.
LOOKED_FOR = 100
#: The share of these that has to be there: many may have been deleted since.
FAMILIAR = 1 / 3
#: Links that udev makes, named by UUIDs.
UUIDS = "/dev/disk/by-uuid"

#: What an include root stands on: ``{"mount": [point, type, source, root], "uuid", "device": see _device(), "inode",
#: "boot": its id, "below": see _mounts_below()}``; ``"absent"`` if it need not be there: the pillar says that it is a
#: file, or an administrator that it was deleted.
Root = dict[str, Any]
#: What is mounted somewhere: [type, UUID or source, root in it, and without a UUID its device and the boot's id].
Mount = list[str]
#: ``{include root: {mount point below it: Mount}}``
Mounts = dict[str, dict[str, Mount]]
#: File systems that end when they are unmounted: another one of these is never the one that it was.
IN_MEMORY = ("tmpfs", "ramfs")


class Guard:
    """The guard of a group on this host, given its name, the directory of what is noted of it, and its database."""

    def __init__(self, group: str, directory: str, database: str) -> None:
        self.group, self.database = group, database
        self.roots, self.passed = os.path.join(directory, ROOTS), os.path.join(directory, LET_THROUGH)

    # ---- Include roots: is the disk there?

    def note_roots(
        self, includes: list[str], test: bool = False, files: Collection[str] = ()
    ) -> tuple[list[str], list[str]]:
        """
        Note the identity of roots that are new, forget those that left; a new one that is missing is made, as a
        directory; of these files, the directory that they are to be in.

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
                directory = os.path.dirname(root) if root in files else root
                if not beneath.exists(directory):
                    made.append(directory)
                    if test:
                        continue
                    beneath.make_directories(directory)
            now[root] = _stands_on(root) if beneath.exists(root) else {"absent": True}
        problems = self.problems(now)
        if now != noted and not test:
            storage.write_json(self.roots, now)
        return made, [*problems.values()]

    def problems(self, noted: dict[str, Root] | None = None) -> dict[str, str]:
        """
        ``{include root: what is wrong with it}``: what is below such a one is neither checked nor sent. Raises
        CsyncsyncError if the database cannot be read.
        """
        noted = storage.read_json(self.roots, {}) if noted is None else noted
        problems = {root: self._problem(root, identity, _look(root)) for root, identity in sorted(noted.items())}
        advice = (
            "Nothing below it is sent meanwhile. Put it back; or, to have what is missing here deleted on all hosts:"
            f" salt-run csyncsync.release {self.group}"
        )
        return {root: f"{problem} {advice}" for root, problem in problems.items() if problem}

    def renew_roots(self, release: bool = False) -> None:
        """
        Note what the roots stand on today, after a reboot on other device numbers, but for those with a problem; to
        release, these, too: a root that is missing was deleted.
        """
        noted, now = storage.read_json(self.roots, {}), {}
        for root, identity in noted.items():
            now[root], there = identity, _look(root)
            if release or not self._problem(root, identity, there):
                below = {"below": identity["below"]} if "below" in identity else {}
                now[root] = {**identity, "absent": True} if isinstance(there, str) else {**there, **below}
        if now != noted:
            storage.write_json(self.roots, now)

    # ---- Mounts below them

    def mounts(self) -> Mounts:
        """What is mounted below the includes now."""
        return {root: _mounts_below(root) for root in storage.read_json(self.roots, {})}

    def moved_mounts(self, mounted: Mounts | None = None) -> dict[bytes, str]:
        """
        ``{mount point below an include: what happened}`` of those where something else is mounted (now) than when all
        below was checked last: what is gone there was not deleted.
        """
        mounted = self.mounts() if mounted is None else mounted
        noted = storage.read_json(self.roots, {})
        found = {}
        for root, identity in noted.items():
            before, now = identity.get("below"), mounted.get(root, {})
            for point in sorted({*(now if before is None else before), *now}):
                if before is not None and not self._is_same_mount(point, before.get(point), now.get(point)):
                    what = "another file system is mounted there" if point in now else "what was mounted there is gone"
                    found[os.fsencode(point)] = what
        return found

    def _is_same_mount(self, point: str, before: Mount | None, now: Mount | None) -> bool:
        """A UUID tells; without one a mount of another boot, or device, is the same if the same files are in it."""
        if before == now or not before or not now:
            return before == now
        return before[:3] == now[:3] and before[0] not in IN_MEMORY and self._is_familiar(point)

    def note_mounts(self, mounted: Mounts, held: Collection[bytes] = (), unread: Collection[bytes] = ()) -> None:
        """
        Note what was mounted below the includes when all was checked; what could not be looked at stays as it is noted:
        what is below places that are held, and beside what was not read.
        """
        noted = storage.read_json(self.roots, {})

        def stays(point: str) -> bool:
            path = os.fsencode(point)
            beside = (is_below(path, place) or is_below(place, path) for place in unread)
            return any(is_below(path, place) for place in held) or any(beside)

        changed = {}
        for root, identity in noted.items():
            before, now = identity.get("below") or {}, mounted.get(root, {})
            below = {point: now[point] for point in now if not stays(point)}
            below.update({point: before[point] for point in before if stays(point)})
            changed[root] = {**identity, "below": below}
        if changed != noted:
            storage.write_json(self.roots, changed)

    def _problem(self, root: str, noted: Root, now: Root | str) -> str:
        """Why an include root, as _look() finds it, is not the one that was noted ("" if it is)."""
        if isinstance(now, str):
            absent = noted.get("absent") and beneath.kind(root) in (0, stat.S_IFLNK)
            return "" if absent or self._is_deleted_by_others(root) else now
        if noted.get("absent"):
            return ""
        same_disk = noted.get("uuid") and (noted["uuid"], noted["mount"][3]) == (now.get("uuid"), now["mount"][3])
        anew = any(noted[what] != now[what] for what in ("boot", "device"))
        # An overlay or a network file system has another device when it is mounted anew; a stranger has other files.
        familiar = same_disk or not anew or self._is_familiar(root, list(noted.get("below") or ()))
        if not same_disk and (noted["mount"] != now["mount"] or not familiar):
            return f"include root {root} is on another file system than before: is its disk unmounted?"
        if noted.get("inode") != now["inode"] and is_empty_directory(root) and self._has_records_below(root):
            return f"include root {root} was replaced by an empty directory: was its content moved away?"
        return ""

    def _is_familiar(self, root: str, apart: Collection[str] = ()) -> bool:
        """Tell whether some of the records below a root, but not below these, are of something that is there."""
        if not os.path.exists(self.database):
            return True
        with self._open() as database:
            paths = (decode(name) for name, _ in database.states_below(os.fsencode(root)))
            here = (path for path in paths if not any(is_below(path, os.fsencode(point)) for point in apart))
            # Of all parts: one that is changed here all the time may have nothing that is recorded.
            found = [beneath.exists(path) for path in islice(here, 0, None, database.count() // LOOKED_FOR + 1)]
            return sum(found) >= FAMILIAR * len(found)

    def may_be_made(self, root: str) -> bool:
        """Tell whether an include root is missing and need not be there: other hosts may make it."""
        noted = storage.read_json(self.roots, {}).get(root, {})
        with contextlib.suppress(sqlite3.Error):
            return not beneath.kind(root) and (bool(noted.get("absent")) or self._is_deleted_by_others(root))
        return False

    def _is_deleted_by_others(self, root: str) -> bool:
        """Tell whether a root is missing of which csync2 knows nothing any more: it is no lost disk."""
        if beneath.kind(root) or not os.path.exists(self.database):
            return False
        with self._open() as database:
            path = os.fsencode(root)
            known = database.record(path) is not None or database.has_below(path)
            return database.state() == Database.ESTABLISHED and not known

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

    def looks_lost(
        self, vanished: set[bytes], includes: list[str], hold: dict[str, float], recorded: Collection[bytes] = ()
    ) -> str:
        """
        Why what has vanished since the last push looks like a lost disk ("" if it does not). Raises sqlite3.Error.

        What was let through does not count any more: while a host is away, the deletions of days wait for it.

        hold
            ``{"number": of files, "share": of all}``: more than both hold the push.
        recorded
            Those of them that are still recorded.
        """
        new = vanished - storage.read_names(self.passed)
        if not new:
            return ""
        with self._open() as database:
            total = database.count() + len(new.difference(recorded))
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


def _look(root: str) -> Root | str:
    """What a root stands on now; why it is not there."""
    try:
        return _stands_on(root)
    except CsyncsyncError as err:
        return str(err)


def _stands_on(path: str) -> Root:
    """
    What an include root stands on: the mount it is in, its file system's UUID, and its device while this boot lasts.

    Device numbers of many file systems, and the names of disks, differ from boot to boot; UUIDs do not. Raises
    CsyncsyncError if the root is missing or reached through a symlink.
    """
    try:
        status: os.stat_result | None = beneath.lstat(path)
    except OSError:
        status = None
    if (status is None or stat.S_ISLNK(status.st_mode)) and (real := os.path.realpath(path)) != path:
        raise CsyncsyncError(f"include root {path} is, or lies below, a symlink to {real}, which csync2 ignores.")
    if status is None:
        raise CsyncsyncError(f"include root {path} is missing: is its disk unmounted?")
    try:
        with beneath.opened(path) as handle:
            over = mount_of(handle)
    except OSError as err:
        raise CsyncsyncError(f"include root {path} cannot be opened: {err.strerror}.") from err
    fields = (over.point, over.kind, over.source, over.root) if over else ()  # in a chroot its own may not be named
    mount = [os.fsdecode(field) for field in fields] or [""] * 4
    identity: Root = {"mount": mount, "device": _device(path), "inode": status.st_ino, "boot": _boot()}
    return {**identity, **({"uuid": uuid} if (uuid := _uuid(mount[2])) else {})}


def _uuid(source: str) -> str | None:
    """The UUID of the file system on a disk, if udev knows it."""
    with contextlib.suppress(OSError):
        disk = os.path.realpath(source)
        for name in sorted(os.listdir(UUIDS)):
            if os.path.realpath(os.path.join(UUIDS, name)) == disk:
                return name
    return None


def _mounts_below(root: str) -> dict[str, Mount]:
    """``{mount point: Mount}`` of what is mounted below an include root."""
    found = {}
    for mount in mounted_below(os.fsencode(root)):
        point, inner, kind, source = map(os.fsdecode, mount[:4])
        uuid = _uuid(source)
        found[point] = [kind, uuid or source, inner, "" if uuid else f"{_device(point)} {_boot()}"]
    return found


def _device(path: str) -> str:
    """
    What tells one file system from another that is mounted in its place, until it is mounted anew: its device number,
    which the next one may get, and what statvfs(3) says of it.
    """
    try:
        with beneath.opened(path) as handle:
            return f"{os.fstat(handle).st_dev} {os.fstatvfs(handle).f_fsid}"
    except OSError:
        return ""


def _boot() -> str:
    """The id of this boot of the host."""
    return (storage.read("/proc/sys/kernel/random/boot_id") or "").strip()


def is_empty_directory(path: str) -> bool:
    """Tell whether there is a directory with nothing in it."""
    try:
        with beneath.directory(path) as handle:
            return not beneath.names(handle)
    except OSError:
        return False
