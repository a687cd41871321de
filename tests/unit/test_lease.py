"""A command on the master that waits for a group's lease, and for how long."""

import os
import subprocess
import sys
import time

import pytest
from csync2lib.errors import CsyncsyncError
from csync2lib.master import lease
from csync2lib.master.cluster import Cluster
from csync2lib.master.commands import command
from csync2lib.master.record import Lease


@pytest.fixture
def cluster(tmp_path):
    return Cluster({"cachedir": str(tmp_path)}, {})


def give(cluster, pid=None):
    """Somebody else has the lease: a host that pushes, or a process here."""
    with cluster.record("g") as record:
        record.lease = Lease("web1", f"process {pid}" if pid else "20261129", time.time(), time.time(), pid)
        return record.lease


def noted(cluster):
    with cluster.record("g") as record:
        return record.lease, record.next


@pytest.fixture
def other_command():
    """A process that looks like one of salt-run's."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "csyncsync.reset"])
    yield process.pid
    process.kill()
    process.wait()


def test_a_free_lease_is_taken_and_given_back(cluster):
    with lease.leased(cluster, "g", "web2", 0):
        assert noted(cluster)[0].pid == os.getpid()
    assert noted(cluster) == (None, None)


def test_a_push_that_takes_long_does_not_keep_keys_from_changing_and_no_other_one_begins(cluster):
    theirs, began = give(cluster), time.monotonic()
    with lease.leased(cluster, "g", "", 0.5):
        assert 0.5 <= time.monotonic() - began < 5
        assert noted(cluster) == (theirs, os.getpid())
    assert noted(cluster) == (theirs, None)


def test_a_join_or_a_reset_is_not_worked_beside(cluster, other_command):
    theirs = give(cluster, other_command)
    told = pytest.raises(CsyncsyncError, match=f"works on g .process {other_command}.; try again")
    with told, lease.leased(cluster, "g", "", 0.3):
        pytest.fail("it went on")
    assert noted(cluster) == (theirs, None)


def test_who_says_no_time_waits_for_it(cluster, other_command):
    theirs, began = give(cluster, other_command), time.monotonic()
    os.kill(other_command, 9)
    os.waitpid(other_command, 0)
    with cluster.record("g") as record:
        record.lease = Lease(theirs.host, theirs.jid, 0, 0, theirs.pid)  # old enough to be looked after
    with lease.leased(cluster, "g", "web2"):
        assert time.monotonic() - began < 5
        assert noted(cluster)[0].pid == os.getpid()


def test_a_group_whose_name_is_digits_can_be_named_on_the_command_line():
    @command
    def run(group, host=None, *paths, **options):
        return group, host, paths, options

    assert run(7) == ("7", None, (), {})
    assert run(group=7, host=8) == ("7", 8, (), {})
    assert run(7, None, 9, winner=1) == ("7", None, (9,), {"winner": 1})
    assert run(None)[0] is None
