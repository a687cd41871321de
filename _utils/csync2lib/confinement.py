"""What csync2's namespace shows of this host: what its groups include, and what csync2 itself needs."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import signal
import stat
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from csync2lib import beneath
from csync2lib.csync2 import custody, namespace
from csync2lib.csync2.namespace import READ_ONLY, USERS, WRITABLE, Shown
from csync2lib.errors import CsyncsyncError
from csync2lib.guard import Guard
from csync2lib.host import ThisHost

#: The program and the libraries, and what these read: the linker's cache, time zones, rules for TLS; and devices.
_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/gnutls", "/etc/crypto-policies", "/dev/null", "/dev/urandom")
#: Seconds until the server has made a new namespace.
MADE_WITHIN = 5.0


class Confinement(NamedTuple):
    """
    What the namespace is to show.

    text
        Stands for all of it, and for where csync2 is to listen: another one if something else is to be shown, or
        stands there by now.
    """

    shown: list[Shown]
    text: str


def of_host(host: ThisHost) -> Confinement:
    """What the namespace is to show now; without what is not there, or is reached through a symlink."""
    users, alone = set(), {os.fsencode(host.databases), os.fsencode(custody.OF_CSYNC2)}
    configs = host.configs()
    for name, said in configs.items():
        rules = said.get("rules") or {}
        guard = Guard(name, os.path.join(host.state, name), said.get("database") or "")
        users |= {_place(path, guard) for path in said.get("include", ())}
        if rules.get("backup_directory"):
            users.add(os.fsencode(rules["backup_directory"]))
        if rules.get("commands"):
            alone.add(os.fsencode(os.path.join(host.state, name, "due")))
    users = set(_outermost(users))
    wanted = [Shown(path, USERS) for path in users] + [Shown(path, WRITABLE) for path in alone]
    there = {one: identity for one in wanted + _own(host) if (identity := _identity(one))}
    below = [mount for mount in namespace.mounts() if any(namespace.is_below(mount.point, path) for path in users)]
    listens = sorted((name, said.get("address"), said.get("address_wanted")) for name, said in configs.items())
    text = repr([sorted(there.items()), [(*mount[:4], sorted(mount.options)) for mount in below], listens])
    return Confinement([*there], hashlib.sha256(text.encode()).hexdigest())


def _place(root: str, guard: Guard) -> bytes:
    """
    What is to be shown so that csync2 can make or replace an include: of a file its directory, because what is mounted
    cannot be replaced.
    """
    kind = beneath.kind(root)
    alone = kind in (stat.S_IFDIR, stat.S_IFLNK) or not (kind or guard.may_be_made(root))
    return os.fsencode(root if alone else os.path.dirname(root))


def _outermost(paths: Iterable[bytes]) -> Iterator[bytes]:
    """Those of these paths that lie below no other one."""
    last: bytes | None = None
    for path in sorted(paths, key=lambda path: path + b"/"):
        if last is None or not namespace.is_below(path, last):
            last = path
            yield path


def _own(host: ThisHost) -> list[Shown]:
    """What csync2 reads: itself, its configs, keys and certificate."""
    there = [os.path.join("/", name) for name in _SYSTEM] + [*_FILES]
    there += glob.glob(os.path.join(glob.escape(host.system), "csync2_*"))
    return [Shown(os.fsencode(path), READ_ONLY) for path in there]


def _identity(one: Shown) -> tuple[int, int] | None:
    """What tells that something else stands there now (a file is replaced when it changes); None if nothing does."""
    try:
        status = beneath.lstat(one.path) if one.flags == USERS else os.lstat(one.path)
    except OSError:
        return None
    if one.flags == USERS and stat.S_ISLNK(status.st_mode):
        return None
    return status.st_dev, status.st_ino


# --- For those who start csync2 --------------------------------------------------------------------------


def await_current(host: ThisHost) -> None:
    """
    Have the server make the namespace anew if it does not show what it should, as after a config, an include root or
    a mount has changed. Raises CsyncsyncError if csync2 is to be confined, and cannot be.
    """
    if os.path.exists(custody.UNCONFINED):
        if said := custody.notice():
            _ask(said.pid)
        return
    wanted, until, asked = of_host(host).text, time.monotonic() + MADE_WITHIN, False
    while True:
        said = custody.notice()
        if said and said.shows == wanted:
            if said.problem:
                break
            return
        if time.monotonic() > until:
            break
        if said and not asked:
            asked = _ask(said.pid)
        time.sleep(0.02)
    raise CsyncsyncError(custody.problem() or "csync2's server does not answer: systemctl restart csyncsync-server")


def _ask(server: int) -> bool:
    """Have the server look again. Tells whether it is there: its process number may be another one's by now."""
    with contextlib.suppress(OSError), open(f"/proc/{server}/cmdline", "rb") as file:
        if b"/__main__.py\0server\0" in file.read():
            os.kill(server, signal.SIGHUP)
            return True
    return False
