"""How long is waited for what: the times make sense beside each other, also those that tested hosts are served."""

import sys
from types import SimpleNamespace

import pytest
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests/testbed"))

from bed import waits as served
from bed.shell import TestbedError

#: For which csync2 waits for a locked database (csync2.c).
LOCK_TIMEOUT = 12

TEXTS = {"real": served.REAL.read_text(encoding="utf-8"), "shorter": served.shorter()}


@pytest.fixture(params=TEXTS)
def waits(request):
    """Both sets."""
    return SimpleNamespace(**served.named(TEXTS[request.param]))


def test_a_peer_is_told_dead_before_it_is_tried_again_and_one_that_is_busy_is_not_told_dead(waits):
    assert waits.ANSWER_AFTER + waits.CONNECT_WITHIN < waits.ANSWER_AFTER + waits.ANSWER_WITHIN <= waits.PEER_RETRY[0]
    assert waits.PEER_RETRY[0] < waits.PEER_RETRY[1] < waits.ALONE_AFTER[1] * 2
    assert LOCK_TIMEOUT < waits.TRANSFER_STALLED_AFTER < waits.STALLED_AFTER
    assert waits.PEER_RETRY[1] <= waits.BLOCKED_FOR[0] < waits.BLOCKED_FOR[1]


def test_a_host_that_waits_hears_so_before_it_takes_the_master_for_dead(waits):
    assert 2 * waits.WAITING_TOLD < waits.ALONE_AFTER[1] < waits.LEFT_ALONE_AFTER
    assert waits.ALONE_AFTER[0] <= waits.ALONE_AFTER[1]
    assert waits.ALONE_INTERVAL[0] < waits.ALONE_INTERVAL[1] <= waits.LEFT_ALONE_AFTER
    assert waits.RETRY_CAP <= waits.LEFT_ALONE_AFTER


def test_a_lease_is_looked_after_before_a_host_takes_the_master_for_dead(waits):
    assert waits.ALONE_AFTER[1] > waits.LEASE_CHECK
    assert waits.LEASE_ANSWER < waits.LEASE_CHECK
    assert waits.LEASE_CHECK < waits.LEASE_WAIT < waits.ROTATE_WAIT


def test_a_host_that_may_come_back_has_the_time_for_it(waits):
    assert waits.ALONE_AFTER[1] < waits.RETURN_PATIENCE
    assert waits.RETRY_CAP + 2 * waits.ANSWER < waits.RETURN_PATIENCE
    assert waits.JOIN_WAIT < waits.RETURN_PATIENCE < waits.REFRESH_WAIT
    assert waits.STATUS_ANSWER < waits.ANSWER
    assert waits.BEHIND_AGAIN < waits.ROTATE_WAIT


def test_the_watcher_looks_again_before_anybody_is_asked_to_see_to_it(waits):
    assert max(waits.REWALK, waits.LINKED_INTERVAL, waits.BLOCKED_FOR[0]) <= waits.UNREACHABLE < waits.LATE
    assert waits.ACTION_SHOWN < waits.ACTION_LIMIT


def test_what_tested_hosts_are_served_is_shorter_or_longer_and_no_other():
    real, short = (served.named(text) for text in TEXTS.values())
    assert real.keys() == short.keys()
    changed = {name for name in real if real[name] != short[name]}
    assert changed == served.SHORTER.keys() | served.LONGER.keys()
    for name in changed:
        pairs = zip(*(value if isinstance(value, tuple) else (value,) for value in (real[name], short[name])))
        if name in served.SHORTER:
            assert all(after < before for before, after in pairs), name
        else:
            assert all(after >= before for before, after in pairs), name


def test_a_time_that_has_got_another_name_is_an_error(monkeypatch):
    monkeypatch.setitem(served.SHORTER, "RENAMED", 1.0)
    with pytest.raises(TestbedError, match="has no RENAMED"):
        served.shorter()
