"""What csync2's namespace shows of this host: what its groups include, and what csync2 itself needs."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import signal
import stat
import time

from csync2lib import beneath
from csync2lib.csync2 import custody, namespace
from csync2lib.csync2.namespace import READ_ONLY, USERS, WRITABLE, Shown
from csync2lib.errors import CsyncsyncError
from csync2lib.guard import Guard
from csync2lib.host import ThisHost

#: The program and the libraries, and what these read: the linker's cache, time zones, rules for TLS; and devices.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/gnutls", "/etc/crypto-policies", "/dev/null", "/dev/urandom")
#: Seconds until the server has made a new namespace.
MADE_WITHIN = 5.0


def of_host(host: ThisHost) -> tuple[list[Shown], str]:
    """
    What the namespace is to show now, without what is not there, or is reached through a symlink; and a text that
    stands for all of it, and for where csync2 is to listen: another one if something else stands there by now.
    """
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
    users = set(namespace.outermost(users))
    wanted = [Shown(path, USERS) for path in users] + [Shown(path, WRITABLE) for path in alone]
    own = glob.glob(os.path.join(glob.escape(host.system), "csync2_*"))  # its configs, keys and certificate
    wanted += [Shown(os.fsencode(path), READ_ONLY) for path in (*_SYSTEM, *_FILES, *own)]
    there = {one: identity for one in wanted if (identity := _identity(one))}
    below = [mount for mount in namespace.mounts() if any(namespace.is_below(mount.point, path) for path in users)]
    listens = sorted((name, said.get("address"), said.get("address_wanted")) for name, said in configs.items())
    text = repr([sorted(there.items()), [(*mount[:4], sorted(mount.options)) for mount in below], listens])
    return [*there], hashlib.sha256(text.encode()).hexdigest()


def _place(root: str, guard: Guard) -> bytes:
    """What is shown for an include: of a file its directory, because what is mounted itself cannot be replaced."""
    kind = beneath.kind(root)
    alone = kind in (stat.S_IFDIR, stat.S_IFLNK) or not (kind or guard.may_be_made(root))
    return os.fsencode(root if alone else os.path.dirname(root))


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
    (_, wanted), until, asked = of_host(host), time.monotonic() + MADE_WITHIN, False
    while not ((said := custody.notice()) and said.shows == wanted) and time.monotonic() < until:
        asked = asked or bool(said and _ask(said.pid))
        time.sleep(0.02)
    if not said or said.shows != wanted or said.problem:
        raise CsyncsyncError(custody.problem() or "csync2's server does not answer: systemctl restart csyncsync-server")


def _ask(server: int) -> bool:
    """Have the server look again. Tells whether it is there: its process number may be another one's by now."""
    with contextlib.suppress(OSError), open(f"/proc/{server}/cmdline", "rb") as file:
        if b"/__main__.py\0server\0" in file.read():
            os.kill(server, signal.SIGHUP)
            return True
    return False
