"""
End this process when it hangs while it holds a lock.

A job of a minion was seen to hang for good; it was not found out where. A minion forks its jobs from a process that has
threads, and what another thread held at that moment stays held in the job. It is rare, but a push a second is 86,400 a
day. The job that waits for the lock then goes on, and the journal shows where the other one hung.

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

    0 for a process that has more to do than this: it is not ended.
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
