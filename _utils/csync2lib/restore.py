"""Put an old version of a file back (``backups`` tells which there are). Paths are bytes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from typing import Any

from csync2lib import beneath
from csync2lib.backups import directory_of, numbered, shown
from csync2lib.csync2 import unfinished
from csync2lib.csync2.namespace import is_below
from csync2lib.errors import CsyncsyncError
from csync2lib.group import Group


def put_back(group: Group, name: str, generation: int) -> dict[str, Any]:
    """Put an old version back at a percent-encoded path, as restore() does; the next push sends it."""
    config = group.config
    path, top = config.in_includes([name])[name], directory_of(config)
    if why := config.why_no_source(group.host.minion):
        raise CsyncsyncError(why)
    if isinstance(generation, bool) or not isinstance(generation, int) or generation < 0:
        raise CsyncsyncError(f"generation={generation} is no number, as csyncsync.backups shows them")
    with group.exclusive(established=f"this host has not joined {group.name} yet"):
        root = next(root for root in config.roots if is_below(path, root))
        return restore(top, path, generation, root)


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
    with contextlib.ExitStack() as opened:
        try:
            kept = _opened(opened, top + directory)
            version = _opened_file(opened, kept, numbered(name, generation))
        except FileNotFoundError:
            raise CsyncsyncError(f"there is no generation {generation} of {shown(path)} on this host") from None
        try:
            try:
                here = _opened(opened, directory)
            except FileNotFoundError:
                _make_like_kept(top, directory, root)
                here = _opened(opened, directory)
            return _put_back(top, kept, here, name, generation, version)
        except OSError as err:
            raise CsyncsyncError(f"{shown(path)}: {err.strerror}") from err


def _opened(stack: contextlib.ExitStack, path: bytes) -> int:
    try:
        return stack.enter_context(beneath.directory(path))
    except NotADirectoryError:
        raise CsyncsyncError(f"{shown(beneath.no_directory_in(path) or path)} is no directory") from None


def _opened_file(stack: contextlib.ExitStack, directory: int, name: bytes) -> int:
    try:
        handle = beneath.open_file(directory, name)
    except FileNotFoundError:
        raise
    except OSError as err:
        why = "is a symlink" if err.errno == errno.ELOOP else err.strerror
        raise CsyncsyncError(f"{shown(name)} {why}") from None
    stack.callback(os.close, handle)
    return handle


def _make_like_kept(top: bytes, path: bytes, root: bytes) -> None:
    """Make a directory, and those above it that are missing, with owners and modes as in the backups."""
    if beneath.exists(path):
        return
    if not path.startswith(root + b"/"):
        raise CsyncsyncError(f"include root {shown(root)} is missing: is its disk unmounted?")
    _make_like_kept(top, os.path.dirname(path), root)
    like = beneath.lstat(top + path)
    with beneath.parent(path) as (above, name):
        os.mkdir(name, 0o700, dir_fd=above)
    with beneath.directory(path) as made:
        if os.fstat(made).st_uid != os.geteuid() or beneath.names(made):
            raise CsyncsyncError(f"{shown(path)} has just been replaced by another directory")
        os.fchown(made, like.st_uid, like.st_gid)
        os.fchmod(made, stat.S_IMODE(like.st_mode))


def _put_back(top: bytes, kept: int, here: int, name: bytes, generation: int, version: int) -> dict[str, Any]:
    """restore(), between two open directories."""
    present = _status(here, name)
    if present is not None and not stat.S_ISREG(present.st_mode):
        kind = {stat.S_IFDIR: "a directory", stat.S_IFLNK: "a symlink"}.get(stat.S_IFMT(present.st_mode), "no file")
        raise CsyncsyncError(f"{shown(name)} is {kind} by now, which would be lost: move it away first")
    # If this is interrupted it stays, and is sent as any file is: only what belongs to csync2's user is deleted.
    new = b".%s.rE%s" % (name.strip(b".")[: unfinished.UNCUT], os.urandom(2).hex().encode())
    saved = b".replaced-%d" % time.time_ns()
    with contextlib.ExitStack() as opened:
        above = opened.enter_context(beneath.directory(top))
        opened.callback(_unlink, here, new)
        opened.callback(_unlink, above, saved)
        digest = copy(version, here, new)
        result: dict[str, Any] = {"size": os.fstat(version).st_size, "sha256": digest, "changed": True, "kept": None}
        if present is not None:
            there = _opened_file(opened, here, name)
            if copy(there, above, saved) == digest and _looks(present) == _looks(os.fstat(version)):
                return {**result, "changed": False}
        if _identity(_status(here, name)) != _identity(present):
            raise CsyncsyncError(f"{shown(name)} has just been changed: look at it, and run the command again")
        os.rename(new, name, src_dir_fd=here, dst_dir_fd=here)
        os.fsync(here)
        if present is not None:
            result["kept"] = _keep(top, above, saved, kept, name, generation)
        return result


def _unlink(directory: int, name: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def _keep(top: bytes, above: int, saved: bytes, kept: int, name: bytes, generation: int) -> int:
    """
    Make a saved file a version, in exchange for the one that was put back, and return which. If that fails it stays
    elsewhere.
    """
    newest = _status(kept, name)
    number = generation if newest is not None and stat.S_ISDIR(newest.st_mode) else 0
    try:
        if newest is not None and number != generation:
            os.rename(name, numbered(name, generation), src_dir_fd=kept, dst_dir_fd=kept)
        os.rename(saved, numbered(name, number), src_dir_fd=above, dst_dir_fd=kept)
        os.fsync(kept)
        return number
    except OSError as err:
        other = saved + b"-kept"
        os.rename(saved, other, src_dir_fd=above, dst_dir_fd=above)
        where = shown(os.path.join(top, other))
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
