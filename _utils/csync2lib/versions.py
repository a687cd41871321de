"""What stands at a path of this host, in words that people and other hosts compare."""

from __future__ import annotations

import functools
import grp
import hashlib
import os
import pwd
import stat
import time
from collections.abc import Callable
from typing import Any

from csync2lib import beneath

#: Bytes of a file's text that are sent for a diff.
TEXT = 65_536


def version(path: bytes, text: bool = False, pace: Callable[[int], None] | None = None) -> dict[str, Any]:
    """
    What this host has at a path in bytes: ``{"type", "size": bytes, "mtime": seconds since the epoch, "time": the same
    in words, UTC, "mode", "owner", "sha256" or "target"}``, with ``{"type": "nothing", …}`` if nothing is there.

    With ``text`` also ``"text"``, if the file is not long, and is text. ``pace`` is called with the number of bytes,
    after each part of a file that was read.
    """
    kind = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
    try:
        with beneath.parent(path) as (above, name):
            status = os.lstat(name, dir_fd=above)
            result = {"type": kind.get(stat.S_IFMT(status.st_mode), "special"), **described(status)}
            if result["type"] == "link":
                result["target"] = os.readlink(name, dir_fd=above).decode("utf-8", "backslashreplace")
            if result["type"] == "file":
                result.update(_content(above, name, text and status.st_size <= TEXT, pace))
            return result
    except OSError:
        return {"type": "nothing", "size": 0, "mtime": 0}


def described(status: os.stat_result) -> dict[str, Any]:
    """``{"size", "mtime", "time", "mode", "owner"}`` of a file's status, as version() has them."""
    minute = time.monotonic() // 60
    return {
        "size": status.st_size,
        "mtime": status.st_mtime,
        "time": _time(status.st_mtime),
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "owner": f"{_name(pwd.getpwuid, status.st_uid, minute)}:{_name(grp.getgrgid, status.st_gid, minute)}",
    }


def _time(when: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(when))
    except (OverflowError, ValueError):  # some file systems take any number
        return f"{when:.0f} s since 1970"


@functools.lru_cache(maxsize=256)
def _name(look_up: Callable[[int], Any], number: int, minute: float) -> str:
    """Once a minute: it takes as long as to read a small file."""
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)


def _content(above: int, name: bytes, text: bool, pace: Callable[[int], None] | None) -> dict[str, str]:
    digest, content = hashlib.sha256(), b""
    try:
        for part in beneath.content(above, name):
            digest.update(part)
            if pace:
                pace(len(part))
            if text and len(content) <= TEXT:  # it may have grown
                content += part
    except OSError as err:
        return {"sha256": f"cannot be read: {err.strerror}"}
    result = {"sha256": digest.hexdigest()}
    if text and len(content) <= TEXT and b"\0" not in content:
        result["text"] = content.decode("utf-8", "backslashreplace")
    return result
