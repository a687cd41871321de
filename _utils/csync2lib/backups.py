"""
Old versions: what csync2 keeps in a group's ``backup_directory`` of files that others overwrote or deleted (``restore``
puts one back).

csync2 keeps the newest version of PATH as ``backup_directory/PATH`` (here: generation 0), and an older one as
``…/PATH.N``, in directories with the owners and modes of those that the file was in. A version's time is when it was
replaced; csync2 keeps no other. For the module on the hosts. Paths are bytes.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import re
import stat
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Any

from csync2lib import beneath, versions
from csync2lib.errors import CsyncsyncError
from csync2lib.group import GroupConfig

#: What csync2 takes if the group does not set ``backup_generations`` (cfgfile_parser.y).
GENERATIONS = 3
_GENERATION = re.compile(rb"(.+)\.([1-9][0-9]{0,4})\Z", re.DOTALL)
_NAME_MAX = 255
#: What find() says of one; what a host has at a path is described in the same words.
Version = dict[str, Any]


# --- Of a group ------------------------------------------------------------------------------------------


def of_group(config: GroupConfig, names: Iterable[str], content: bool, most: int) -> dict[str, Any]:
    """
    What ``csyncsync.backups`` returns of percent-encoded paths; without any, of the whole group. Raises CsyncsyncError.
    """
    top = directory_of(config)
    paths = list(config.in_includes(names).values()) or config.roots
    found, more = find(top, paths, most, config.rules.get("backup_generations") or GENERATIONS, content)
    return {"paths": {urllib.parse.quote_from_bytes(path): kept for path, kept in found.items()}, "more": more}


def directory_of(config: GroupConfig) -> bytes:
    """The group's ``backup_directory``. Raises CsyncsyncError if it has none."""
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
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), contextlib.ExitStack() as opened:
            handle = opened.enter_context(beneath.directory(top + path))
            for entry in opened.enter_context(beneath.scan(handle)):
                with contextlib.suppress(FileNotFoundError):
                    self._add(os.fsencode(entry.name), entry.stat(follow_symlinks=False))

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
        return len(has) > 1 or not is_version or beneath.exists(os.path.join(self.path, name))

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
                path = self.top + os.path.join(self.path, numbered(name, generation))
                version["sha256"] = versions.version(path).get("sha256", "is gone")
            if doubt := self._doubt(name, generation):
                version["doubt"] = doubt
            found.append(version)
        return sorted(found, key=lambda version: (-version["mtime"], version["generation"]))

    def _doubt(self, name: bytes, generation: int) -> str:
        """Why a version may be something else, "" if it is not."""
        if generation:
            return f"may be of {shown(numbered(name, generation))}" if self._is_name(numbered(name, generation)) else ""
        if whose := self._whose(name):
            return f"may be generation {whose[1]} of {shown(whose[0])}"
        # daemon.c, csync_file_backup(): what it cannot rename it writes over, without cutting what is longer.
        older = (numbered(name, number) for number in range(1, self.generations))
        if all(len(file) > _NAME_MAX or file in self.directories for file in older):
            return "may end as an older version did: csync2 could not rename that one"
        return ""


def numbered(name: bytes, generation: int) -> bytes:
    """The name of a version's file."""
    return b"%s.%d" % (name, generation) if generation else name


def shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


# --- What csync2 does not see to -------------------------------------------------------------------------


def make_room(top: bytes, path: bytes, generations: int) -> None:
    """
    After a version of a file was kept: have the next one not replace an older one before there are enough of them.

    csync2 means to rename each version to the next number, but renames the newest one to the last number, and no other:
    it would keep two (daemon.c, csync_file_backup(): it cuts the number off again).
    """
    with contextlib.suppress(OSError), beneath.parent(top + path) as (kept, name):
        last = numbered(name, generations - 1)
        older, newest = os.lstat(last, dir_fd=kept), os.lstat(name, dir_fd=kept)
        if not stat.S_ISREG(older.st_mode) or not stat.S_ISREG(newest.st_mode):
            return
        if older.st_mtime > newest.st_mtime or beneath.exists(numbered(path, generations - 1)):
            return  # a version of a file of that name
        places = []
        for number in (*range(1, generations - 1), generations):
            place = numbered(name, number)
            places.append((_mtime(kept, place), place))
            if not places[-1][0]:
                break
        os.rename(last, min(places)[1], src_dir_fd=kept, dst_dir_fd=kept)


def _mtime(kept: int, name: bytes) -> float:
    """When a file was written; 0 if there is none."""
    try:
        return os.lstat(name, dir_fd=kept).st_mtime
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
    with contextlib.suppress(OSError), beneath.parent(top + path) as (kept, name):
        if stat.S_ISREG(os.lstat(name, dir_fd=kept).st_mode) and beneath.is_directory(path):
            older = (numbered(name, number) for number in range(1, 10_000))
            place = next((file for file in older if not _mtime(kept, file)), numbered(name, 1))
            os.rename(name, place, src_dir_fd=kept, dst_dir_fd=kept)
