"""What a push tells the master, and what it keeps for the next one. Two real csync2s."""

import pytest
from csync2lib import confinement
from csync2lib.csync2.database import Database
from csync2lib.push import push as push_module
from csync2lib.push.push import Asked
from pair import pair

__all__ = ["pair"]


@pytest.fixture
def push(pair, monkeypatch):
    """``push(full, job)``: whether the master is told of a check of the whole group."""
    pair.forget()
    pair.group.forget(push_module.LAST)
    with pair.group.open_database(write=True) as database:
        database.set_state(Database.ESTABLISHED)
    monkeypatch.setattr(confinement, "await_current", lambda host: None)

    def push(full, job):
        told = {}
        push_module.push(pair.group, Asked(full=full, job=job), lambda group: None, told.__setitem__)
        return told["csyncsync/data/pushed"]["full"]

    return push


def test_the_master_hears_of_a_check_of_the_whole_group_that_it_had_not_asked_for(push):
    """It has the hosts compared then: what was missed while it was away is found at once, not an hour later."""
    push(False, "1")
    assert not push(False, "2")
    assert push(True, None)
    push(False, None)
    assert push(False, "3")
    assert not push(False, "4")
    assert push(True, "5")
    assert not push(False, "6")
