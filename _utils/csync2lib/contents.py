"""
What a group's files really are on this host, read from its disk, to compare hosts without csync2's database.

For the module on the hosts (what is there) and for the runner on the master (what differs). Paths are bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from csync2lib import beneath, versions
from csync2lib.csync2.excludes import Excludes
from csync2lib.group import GroupConfig

#: How many digests stand for all files of a group: few enough for one message, so many that one differing file
#: makes few others be compared.
DIGESTS = 4096


def digest_slot(path: bytes) -> int:
    """Given a path in bytes, return which of the DIGESTS digests it goes into."""
    return int.from_bytes(hashlib.blake2b(path, digest_size=2).digest(), "big") % DIGESTS


def file_digests(paths: Iterable[bytes]) -> list[str]:
    """
    Given paths of files, return DIGESTS digests of their names and contents, each 16 hexadecimal digits.

    Two hosts have the same digest where they have the same files with the same contents. A file that cannot be read
    counts as missing. Symlinks are not followed.
    """
    slots = [0] * DIGESTS
    for path in paths:
        try:
            content = hashlib.blake2b(path + b"\0", digest_size=8)
            with beneath.parent(path) as (above, name):
                for part in beneath.content(above, name):
                    content.update(part)
        except OSError:
            continue
        slots[digest_slot(path)] ^= int.from_bytes(content.digest(), "big")
    return [f"{slot:016x}" for slot in slots]


#: What two hosts compare of a path: csync2 sends all of these, and the time in whole seconds alone.
COMPARED = ("type", "size", "mode", "owner", "sha256", "target")


class Pace:
    """So many bytes in a second, and no more: called with the bytes that were read, it waits until that is true."""

    def __init__(self, rate: float) -> None:
        self.rate, self.began, self.read = rate, time.monotonic(), 0

    def __call__(self, count: int) -> None:
        self.read += count
        if self.rate:
            time.sleep(max(0.0, self.began + self.read / self.rate - time.monotonic()))


def of_group(
    config: GroupConfig, part: int | None, parts: int, slots: Iterable[int] | None, rate: float
) -> dict[str, Any]:
    """What ``csyncsync.contents`` returns of a group; from now on this thread gives way to all others."""
    os.nice(19)
    found, pace = walk(config.include, Excludes(map(os.fsencode, config.exclude))), Pace(rate)
    if slots is not None:
        return entries(found, slots, pace)
    return count(found) if part is None else digests(found, part, parts, pace)


def walk(include: Iterable[str], excludes: Excludes) -> Iterator[bytes]:
    """The paths of a group's includes and of all below them that are not excluded; links are not followed."""
    roots = [path for path in map(os.fsencode, include) if not excludes.match(path, os.path.basename(path))]
    yield from filter(beneath.exists, roots)
    directories = [path for path in roots if beneath.is_directory(path)]
    while directories:
        above = directories.pop()
        # What cannot be opened was deleted in between.
        with contextlib.suppress(OSError), beneath.directory(above) as handle, beneath.scan(handle) as found:
            for entry in found:
                name = os.fsencode(entry.name)
                path = above + b"/" + name
                if not excludes.match(path, name):
                    yield path
                    if entry.is_dir(follow_symlinks=False):
                        directories.append(path)


def count(paths: Iterable[bytes]) -> dict[str, int]:
    """``{"files", "bytes"}`` of paths: how much there is to be read."""
    files = size = 0
    for path in paths:
        with contextlib.suppress(OSError):
            status = beneath.lstat(path)
            files, size = files + 1, size + (status.st_size if stat.S_ISREG(status.st_mode) else 0)
    return {"files": files, "bytes": size}


def compared(version: Mapping[str, Any]) -> dict[str, Any]:
    """What counts of a path's description, as versions.version() makes it; no directory's size does."""
    return {
        name: version[name]
        for name in COMPARED
        if name in version and not (name == "size" and version["type"] != "file")
    }


def digests(paths: Iterable[bytes], part: int, parts: int, pace: Callable[[int], None]) -> dict[str, str]:
    """``{slot: digest}`` of all paths in one of several equal parts; of DIGESTS slots, those that have a path."""
    slots: dict[int, int] = {}
    for path in paths:
        slot = digest_slot(path)
        if slot % parts == part:
            slots[slot] = slots.get(slot, 0) ^ int(_digest(path, pace), 16)
    return {str(slot): f"{digest:016x}" for slot, digest in slots.items()}


def entries(paths: Iterable[bytes], slots: Iterable[int], pace: Callable[[int], None]) -> dict[str, str]:
    """``{percent-encoded path: digest}`` of the paths in some slots."""
    wanted = set(slots)
    found = (path for path in paths if digest_slot(path) in wanted)
    return {urllib.parse.quote_from_bytes(path): _digest(path, pace) for path in found}


def _digest(path: bytes, pace: Callable[[int], None]) -> str:
    version = compared(versions.version(path, pace=pace))
    told = json.dumps([urllib.parse.quote_from_bytes(path), version], sort_keys=True)
    return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()


def unlike(answers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Given ``{host: {key: value}}``, return the sorted keys at which not all hosts have the same (or any) value."""
    keys = {key for answer in answers.values() for key in answer}
    return sorted(key for key in keys if len({answer.get(key) for answer in answers.values()}) > 1)
