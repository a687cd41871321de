"""Tests run on both cores (pytest-xdist): what changes a limit of the whole machine, or needs all of it, runs alone."""

import contextlib
import fcntl
import os
import tempfile

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """
    Many tests share a lock, with all of their fixtures; one that is marked ``machine`` has it to itself.

    Everybody comes through a gate, where one that waits to be alone stops the others: else they would never let it in.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    kind = fcntl.LOCK_EX if item.get_closest_marker("machine") else fcntl.LOCK_SH
    with contextlib.ExitStack() as stack:
        names = [f"csyncsync-tests-{os.getuid()}-{name}" for name in ("gate", "lock")]
        paths = [os.path.join(tempfile.gettempdir(), name) for name in names]
        gate, lock = (stack.enter_context(open(path, "w", encoding="utf-8")) for path in paths)
        fcntl.flock(gate, kind)
        fcntl.flock(lock, kind)
        fcntl.flock(gate, fcntl.LOCK_UN)
        return (yield)
