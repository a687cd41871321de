"""
The watchdog: ends this process when it makes no progress while it holds a lock.

A job of a minion was seen to wait forever, nobody knows where. A minion forks its jobs from a process that has threads:
a lock that another thread holds at that moment is held in the job forever. It is rare, but a push a second is 86,400 a
day. Without the process its lock is free, the next job goes on, and the log has the stack of the one that was ended.

May be called in threads.
"""

from __future__ import annotations

import contextlib
import faulthandler
import sys
import types
from collections.abc import Iterator

#: Seconds without a sign of life after which this process ends; 0 while it holds nothing.
_held = types.SimpleNamespace(limit=0.0)


@contextlib.contextmanager
def ended_after(seconds: float) -> Iterator[None]:
    """
    End this process with exit code 1, and its stacks on stderr, when it gives no sign of life for so many seconds.

    0: never, for a process that does other work, too.
    """
    _held.limit = seconds
    alive()
    try:
        yield
    finally:
        _held.limit = 0.0
        faulthandler.cancel_dump_traceback_later()


def alive() -> None:
    """Give a sign of life."""
    if _held.limit:
        faulthandler.dump_traceback_later(_held.limit, exit=True, file=sys.__stderr__ or sys.stderr)
