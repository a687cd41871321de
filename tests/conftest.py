"""
Tests run beside each other (pytest-xdist): what shares something that takes its time to make stays together, and what
changes a limit of the whole machine, or needs all of it, runs alone.
"""

import contextlib
import fcntl
import os
import tempfile

import pytest

#: Files below tests/hosts whose tests share more than the hosts.
TOGETHER = (
    *("actions", "backups", "first_content", "guards", "hostile", "join", "mine", "mounts", "pushers", "receivers"),
    *("refused", "secrets"),
)


def unit_of_work(nodeid):
    """What a test runs with, on the same worker and one after the other: a folder, a file, a class, or variants."""
    file, _, name = nodeid.partition("::")
    folder, _, stem = file.removesuffix(".py").rpartition("/test_")
    if folder.endswith("loader"):
        return folder
    if folder.endswith("unit") or stem in TOGETHER:
        return file
    return f"{file}::{name.split('[')[0].split('::')[0]}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Units of work in the order of collection: a worker has one, and takes the next one with its last test."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return unit_of_work(nodeid)

        def _reschedule(self, node):
            # A test is torn down when it is known which one comes next, so one has to wait on each worker; not two.
            if not self.workqueue or self._pending_of(self.assigned_work[node]) <= 1:
                super()._reschedule(node)

    return Scheduler(config, log)


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
