"""
The watcher as a program: ``csyncsync-watch.service`` runs it, with a minion or a master, or without.

It is no part of the minion, which forks its jobs: a lock that a thread of it holds at that moment, as SQLite has some,
is held in the job for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
from collections.abc import Sequence

from csync2lib import journal, storage
from csync2lib.watch import handover
from csync2lib.watch.notify import Notifier
from csync2lib.watch.options import Options
from csync2lib.watch.watcher import Watcher

#: In the directory of state, which csync2 cannot reach: what one watcher leaves to the next.
LEFT = "watcher.left"
#: Seconds between two looks whether the minion has another Salt by now.
LOOK = 1.0
#: The name of the descriptor that systemd keeps, and the number of the first one that it passes (sd_listen_fds(3)).
KEPT, FIRST_PASSED = "inotify", 3


def main(arguments: Sequence[str]) -> None:
    """The program: the argument is the directory of csyncsync's state."""
    [state_dir] = arguments
    # By force: Salt's own handler, which is there as soon as Salt is imported, keeps all to itself until the end.
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    os.makedirs(state_dir, mode=0o700, exist_ok=True)
    with storage.locked(journal.lock_of_watcher(state_dir), math.inf):
        asyncio.run(_watch(state_dir))


async def _watch(state_dir: str) -> None:
    """Watch until systemd ends this process."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    options, left = Options(), os.path.join(state_dir, LEFT)
    options.read(state_dir)
    watcher, minions = Watcher(state_dir, options, Notifier(options)), options.salt
    kept = _passed()
    if kept is not None and not handover.take(left, watcher, kept):
        os.close(kept)
        _tell(f"FDSTOREREMOVE=1\nFDNAME={KEPT}")
        kept = None
    storage.remove(left)
    watcher.start()
    if kept is None and watcher.watches.fd >= 0:
        _tell(f"FDSTORE=1\nFDNAME={KEPT}", watcher.watches.fd)
    _tell("READY=1")
    # A minion that is started with another Salt may not understand how this one frames its events.
    while not ended.is_set() and options.salt in (minions, Notifier.salt_version()):
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ended.wait(), LOOK)
    watcher.close()
    handover.keep(left, watcher)


def _passed() -> int | None:
    """The descriptor that systemd has kept, None if there is none."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    if KEPT not in names:
        return None
    descriptor = FIRST_PASSED + names.index(KEPT)
    os.set_inheritable(descriptor, False)
    return descriptor


def _tell(what: str, *descriptors: int) -> None:
    """Tell systemd something, if it has started this (sd_notify(3))."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.connect(f"\0{path[1:]}" if path.startswith("@") else path)
            socket.send_fds(connection, [what.encode()], descriptors)
