"""
Old versions: what csync2 keeps in a group's ``backup_directory`` of files that others overwrote or deleted, and how one
of them is put back.

csync2 keeps the newest version of PATH as ``backup_directory/PATH`` (here: generation 0), and an older one as
``…/PATH.N``, in directories with the owners and modes of those that the file was in. A version's time is when it was
replaced; csync2 keeps no other. For the module on the hosts. Paths are bytes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import heapq
import itertools
import os
import re
import stat
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from csync2lib import versions
from csync2lib.csync2 import temporary
from csync2lib.errors import CsyncsyncError
from csync2lib.group import Group, GroupConfig

#: What csync2 takes if the group does not set ``backup_generations`` (cfgfile_parser.y).
GENERATIONS = 3
_GENERATION = re.compile(rb"(.+)\.([1-9][0-9]{0,4})\Z", re.DOTALL)
_NAME_MAX = 255
#: What find() says of one; what a host has at a path is described in the same words.
Version = dict[str, Any]
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
#: A pipe in place of a file would else be waited for.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


# --- Of a group ------------------------------------------------------------------------------------------


def of_group(config: GroupConfig, names: Iterable[str], content: bool, most: int) -> dict[str, Any]:
    """
    What ``csyncsync.backups`` returns of percent-encoded paths; without any, of the whole group. Raises CsyncsyncError.
    """
    top = _directory_of(config)
    paths = list(config.in_includes(names).values()) or config.roots
    found, more = find(top, paths, most, config.rules.get("backup_generations") or GENERATIONS, content)
    return {"paths": {urllib.parse.quote_from_bytes(path): kept for path, kept in found.items()}, "more": more}


def put_back(group: Group, name: str, generation: int) -> dict[str, Any]:
    """
    Put an old version back at a percent-encoded path; the next push sends it. Returns what restore() does. Raises
    CsyncsyncError.
    """
    config = group.config
    path, top = config.in_includes([name])[name], _directory_of(config)
    if config.receive_only:
        raise CsyncsyncError(f"this host only receives in {group.name}: what is put back here reaches no other")
    if isinstance(generation, bool) or not isinstance(generation, int) or generation < 0:
        raise CsyncsyncError(f"generation={generation} is no number, as csyncsync.backups shows them")
    with group.exclusive(established=f"this host has not joined {group.name} yet"):
        root = next(root for root in config.roots if path == root or path.startswith(root + b"/"))
        return restore(top, path, generation, root)


def _directory_of(config: GroupConfig) -> bytes:
    if not config.backup_directory:
        option = f"csyncsync:groups:{config.group}:backup_directory"
        raise CsyncsyncError(f"{option} is not set: no old versions are kept")
    return config.backup_directory


# --- What there is ---------------------------------------------------------------------------------------


def find(
    top: bytes, paths: Iterable[bytes], most: int, generations: int = GENERATIONS, content: bool = False
) -> tuple[dict[bytes, list[Version]], int]:
    """
    Given a backup_directory, and paths of files or directories, return ``({path: [version, …]}, number of paths that
    were left out)``.

    most
        Of more paths than that, those are returned whose newest version is newest.
    generations
        The group's ``backup_generations``.
    content
        Also read the versions of those paths that are given, and are a file's.

    The newest comes first. A version is ``{"generation", "size": bytes, "mtime": when it was replaced, in seconds since
    the epoch, "time": the same in words, UTC, "mode", "owner", "sha256", "doubt": why it may be something else}``.
    """
    found: list[tuple[float, bytes, list[Version]]] = []
    number, named = 0, set(paths)
    for path in named:
        directory, name = os.path.split(path)
        kept = _Directory(top, directory, generations).versions(name, content)
        files: Iterable[tuple[bytes, list[Version]]] = [(path, kept)] if kept else []
        if not any(path.startswith(other + b"/") for other in named):  # else it is walked with that one
            files = itertools.chain(files, (item for item in _below(top, path, generations) if item[0] not in named))
        for file, there in files:
            number += 1
            (heapq.heappush if len(found) < most else heapq.heappushpop)(found, (there[0]["mtime"], file, there))
    found.sort(key=lambda item: (-item[0], item[1]))
    return {file: there for _, file, there in found}, number - len(found)


def _below(top: bytes, path: bytes, generations: int) -> Iterator[tuple[bytes, list[Version]]]:
    """Yield (path, versions) of every file below a directory."""
    paths = [path]
    while paths:
        directory = _Directory(top, paths.pop(), generations)
        paths += [os.path.join(directory.path, name) for name in directory.directories]
        for name in directory.names():
            yield os.path.join(directory.path, name), directory.versions(name)


class _Directory:
    """What a directory of backups holds."""

    def __init__(self, top: bytes, path: bytes, generations: int) -> None:
        self.top, self.path, self.generations = top, path, generations
        #: ``{file's name: {generation: status}}``, as far as names go: FILE.1 may also be a file of this name
        self.files: dict[bytes, dict[int, os.stat_result]] = {}
        self.directories: set[bytes] = set()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(top + path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    self._add(entry.name, entry.stat(follow_symlinks=False))

    def _add(self, name: bytes, status: os.stat_result) -> None:
        if stat.S_ISDIR(status.st_mode):
            self.directories.add(name)
        elif stat.S_ISREG(status.st_mode):
            self.files.setdefault(name, {})[0] = status
            if match := _GENERATION.match(name):
                self.files.setdefault(match[1], {})[int(match[2])] = status

    def names(self) -> list[bytes]:
        """The names of the files that there are versions of."""
        return sorted(name for name in self.files if self._is_name(name))

    def _is_name(self, name: bytes) -> bool:
        """Tell whether a file has, or had, this name: it has versions, is there, or is no version of another."""
        has = self.files.get(name, {})
        if 0 not in has:
            return name in self.directories and bool(has)
        whose = self._whose(name)
        is_version = whose is not None and 0 in self.files[whose[0]]
        return len(has) > 1 or not is_version or os.path.lexists(os.path.join(self.path, name))

    def _whose(self, name: bytes) -> tuple[bytes, int] | None:
        """(name, generation) of the file that this may be a version of, None without."""
        match = _GENERATION.match(name)
        return (match[1], int(match[2])) if match and self._begins(match[1]) else None

    def _begins(self, name: bytes) -> bool:
        """Tell whether there can be older versions of a file: there is a newest one, or make_way() has moved that."""
        return 0 in self.files.get(name, {}) or name in self.directories

    def versions(self, name: bytes, content: bool = False) -> list[Version]:
        """The versions of one file, newest first."""
        found: list[Version] = []
        there = self.files.get(name, {})
        for generation, status in there.items() if self._begins(name) else ():
            version = {"generation": generation, **versions.described(status)}
            if content:
                path = self.top + os.path.join(self.path, _file(name, generation))
                version["sha256"] = versions.version(path).get("sha256", "is gone")
            if doubt := self._doubt(name, generation):
                version["doubt"] = doubt
            found.append(version)
        return sorted(found, key=lambda version: (-version["mtime"], version["generation"]))

    def _doubt(self, name: bytes, generation: int) -> str:
        """Why a version may be something else, "" if it is not."""
        if generation:
            return f"may be of {_text(_file(name, generation))}" if self._is_name(_file(name, generation)) else ""
        if whose := self._whose(name):
            return f"may be generation {whose[1]} of {_text(whose[0])}"
        # daemon.c, csync_file_backup(): what it cannot rename it writes over, without cutting what is longer.
        older = (_file(name, number) for number in range(1, self.generations))
        if all(len(file) > _NAME_MAX or file in self.directories for file in older):
            return "may end as an older version did: csync2 could not rename that one"
        return ""


def _file(name: bytes, generation: int) -> bytes:
    """The name of a version's file."""
    return b"%s.%d" % (name, generation) if generation else name


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


# --- What csync2 does not see to -------------------------------------------------------------------------


def make_room(top: bytes, path: bytes, generations: int) -> None:
    """
    After a version of a file was kept: have the next one not replace an older one before there are enough of them.

    csync2 means to rename each version to the next number, but renames the newest one to the last number, and no other:
    it would keep two (daemon.c, csync_file_backup(): it cuts the number off again).
    """
    last = _file(top + path, generations - 1)
    with contextlib.suppress(OSError):
        older, newest = os.lstat(last), os.lstat(top + path)
        if not stat.S_ISREG(older.st_mode) or not stat.S_ISREG(newest.st_mode):
            return
        if older.st_mtime > newest.st_mtime or os.path.lexists(_file(path, generations - 1)):
            return  # a version of a file of that name
        places = []
        for number in (*range(1, generations - 1), generations):
            place = _file(top + path, number)
            places.append((_mtime(place), place))
            if not places[-1][0]:
                break
        os.rename(last, min(places)[1])


def _mtime(path: bytes) -> float:
    """When a file was written; 0 if there is none."""
    try:
        return os.lstat(path).st_mtime
    except FileNotFoundError:
        return 0


def sweep(top: bytes, paths: Iterable[bytes]) -> None:
    """make_way() for every file below these paths."""
    paths = list(paths)
    while paths:
        directory = _Directory(top, paths.pop(), GENERATIONS)
        paths += [os.path.join(directory.path, name) for name in directory.directories]
        for name, there in directory.files.items():
            if 0 in there:
                make_way(top, os.path.join(directory.path, name))


def make_way(top: bytes, path: bytes) -> None:
    """
    If there is a directory where a file was, rename the file's newest version to be an older one.

    csync2 could keep nothing of what is in that directory by now: it would refuse whatever others change there, and
    answers in a way that has them give up all that they were to send after it.
    """
    with contextlib.suppress(OSError):
        if stat.S_ISREG(os.lstat(top + path).st_mode) and stat.S_ISDIR(os.lstat(path).st_mode):
            older = (_file(top + path, number) for number in range(1, 10_000))
            os.rename(top + path, next((file for file in older if not os.path.lexists(file)), _file(top + path, 1)))


# --- Putting one back ------------------------------------------------------------------------------------


def restore(top: bytes, path: bytes, generation: int, root: bytes) -> dict[str, Any]:
    """
    Put an old version back at its path, whole or not at all. What is there by now becomes generation 0, and what was
    that takes the place of the one that is put back: nothing is lost. Directories are made as they were.

    root
        The include that the path stands in; it is never made.

    Returns ``{"size": bytes, "sha256", "changed": False if the version was there already, "kept": the generation that
    what was there is now, None without}``. Raises CsyncsyncError.
    """
    directory, name = os.path.split(path)

    def make(parent: int, below: bytes, where: bytes) -> None:
        if not where.startswith(root + b"/"):
            raise CsyncsyncError(f"include root {_text(root)} is missing: is its disk unmounted?")
        _make_like(parent, below, os.lstat(top + where))

    with contextlib.ExitStack() as opened:
        try:
            kept = opened.enter_context(_opened(top, directory))
            version = opened.enter_context(_opened_file(kept, _file(name, generation)))
        except FileNotFoundError:
            raise CsyncsyncError(f"there is no generation {generation} of {_text(path)} on this host") from None
        try:
            here = opened.enter_context(_opened(b"/", directory, make))
            return _put_back(top, kept, here, name, generation, version)
        except OSError as err:
            raise CsyncsyncError(f"{_text(path)}: {err.strerror}") from err


@contextlib.contextmanager
def _opened(start: bytes, path: bytes, make: Callable[[int, bytes, bytes], None] | None = None) -> Iterator[int]:
    """Open a directory through no symlink below ``start``; ``make(parent, name, path)`` makes what is missing."""
    handle, where = os.open(start, os.O_RDONLY | os.O_DIRECTORY), b""
    try:
        for name in filter(None, path.split(b"/")):
            where += b"/" + name
            try:
                below = os.open(name, _DIRECTORY, dir_fd=handle)
            except FileNotFoundError:
                if make is None:
                    raise
                make(handle, name, where)
                below = os.open(name, _DIRECTORY, dir_fd=handle)
            except NotADirectoryError:
                raise CsyncsyncError(f"{_text(start.rstrip(b'/') + where)} is no directory") from None
            os.close(handle)
            handle = below
        yield handle
    finally:
        os.close(handle)


def _make_like(parent: int, name: bytes, like: os.stat_result) -> None:
    os.mkdir(name, 0o700, dir_fd=parent)
    made = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        os.fchown(made, like.st_uid, like.st_gid)
        os.fchmod(made, stat.S_IMODE(like.st_mode))
    finally:
        os.close(made)


@contextlib.contextmanager
def _opened_file(directory: int, name: bytes) -> Iterator[int]:
    """Open a regular file, and nothing else."""
    try:
        handle = os.open(name, _FILE, dir_fd=directory)
    except OSError as err:
        if err.errno == errno.ELOOP:
            raise CsyncsyncError(f"{_text(name)} is a symlink") from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise CsyncsyncError(f"{_text(name)} is no file")
        yield handle
    finally:
        os.close(handle)


def _put_back(top: bytes, kept: int, here: int, name: bytes, generation: int, version: int) -> dict[str, Any]:
    """restore(), between two open directories."""
    present = _status(here, name)
    if present is not None and not stat.S_ISREG(present.st_mode):
        kind = {stat.S_IFDIR: "a directory", stat.S_IFLNK: "a symlink"}.get(stat.S_IFMT(present.st_mode), "no file")
        raise CsyncsyncError(f"{_text(name)} is {kind} by now, which would be lost: move it away first")
    # Named as one of csync2's temporary files: if this is interrupted, a push deals with what is left.
    new = b".%s.rE%s" % (name.strip(b".")[: temporary.UNCUT], os.urandom(2).hex().encode())
    saved = b".replaced-%d" % time.time_ns()
    above = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        digest = copy(version, here, new)
        result: dict[str, Any] = {"size": os.fstat(version).st_size, "sha256": digest, "changed": True, "kept": None}
        if present is not None:
            with _opened_file(here, name) as there:
                same = copy(there, above, saved) == digest and _looks(present) == _looks(os.fstat(version))
            if same:
                return {**result, "changed": False}
        if _identity(_status(here, name)) != _identity(present):
            raise CsyncsyncError(f"{_text(name)} has just been changed: look at it, and run the command again")
        os.rename(new, name, src_dir_fd=here, dst_dir_fd=here)
        os.fsync(here)
        if present is not None:
            result["kept"] = _keep(top, above, saved, kept, name, generation)
        return result
    finally:
        for handle, file in ((here, new), (above, saved)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file, dir_fd=handle)
        os.close(above)


def _keep(top: bytes, above: int, saved: bytes, kept: int, name: bytes, generation: int) -> int:
    """
    Make a saved file a version, in exchange for the one that was put back, and return which. If that fails it stays
    elsewhere.
    """
    newest = _status(kept, name)
    number = generation if newest is not None and stat.S_ISDIR(newest.st_mode) else 0
    try:
        if newest is not None and number != generation:
            os.rename(name, _file(name, generation), src_dir_fd=kept, dst_dir_fd=kept)
        os.rename(saved, _file(name, number), src_dir_fd=above, dst_dir_fd=kept)
        os.fsync(kept)
        return number
    except OSError as err:
        other = saved + b"-kept"
        os.rename(saved, other, src_dir_fd=above, dst_dir_fd=above)
        where = _text(os.path.join(top, other))
        raise CsyncsyncError(f"it is back, but what was there is only in {where} now: {err.strerror}") from err


def _status(directory: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _identity(status: os.stat_result | None) -> tuple[int, ...] | None:
    """What differs when a file was changed, or is another one."""
    return status and (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _looks(status: os.stat_result) -> tuple[int, int, int]:
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def copy(source: int, directory: int, name: bytes) -> str:
    """Copy an open file, with owner and mode, to a new name. Returns the SHA-256 of the content."""
    digest, like = hashlib.sha256(), os.fstat(source)
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory)
    with open(source, "rb", closefd=False) as old, open(handle, "wb") as new:
        while part := old.read(1 << 20):
            digest.update(part)
            new.write(part)
        new.flush()
        os.fsync(handle)
        os.fchown(handle, like.st_uid, like.st_gid)
        os.fchmod(handle, stat.S_IMODE(like.st_mode))
    return digest.hexdigest()
