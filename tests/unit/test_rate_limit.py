"""Of what minions fire, the runner is called for what can be meant, and no more often than it helps."""

import json
import logging

import pytest
from csync2lib.master import rate_limit

CHANGED = "salt/beacon/web1/csyncsync/wwwdata"


@pytest.fixture(scope="module", autouse=True)
def _no_log_at_the_very_end():
    import salt._logging

    salt._logging.shutdown_temp_handler()


class Clock:
    """The time as the gate has it."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(rate_limit, "time", clock)
    return clock


@pytest.fixture
def gate(tmp_path, monkeypatch, clock):
    """``gate(tag, event)``: what is called. web1 and db1 are accepted, web1 is known to wwwdata."""
    monkeypatch.setattr(rate_limit, "accepted", {"minions": {"web1", "db1"}, "read": clock.now})
    monkeypatch.setattr(rate_limit, "ACCEPTED_AGE", float("inf"))
    monkeypatch.setattr(rate_limit, "fire_waiting", lambda opts: None)
    for name in ("buckets", "waiting", "records", "left_out", "ended"):
        monkeypatch.setattr(rate_limit, name, {})
    monkeypatch.setattr(rate_limit, "worker", [])
    note(tmp_path, lease=None)

    def call(tag, event):
        return list(rate_limit.react(tag, event, {"cachedir": str(tmp_path)}).values())

    return call


def note(tmp_path, **record):
    path = tmp_path / "csyncsync/wwwdata.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"known": ["web1"], **record}), encoding="utf-8")


def changed(host="web1", group="wwwdata"):
    return {"id": host, "group": group, "count": 1}


def pushed(jid, **said):
    return {"id": "web1", "data": {"group": "wwwdata", "jid": jid, "state": "pushed", "refused": {}, **said}}


def served(gate, tag, event, number):
    return sum(bool(gate(tag, event)) for _ in range(number))


def test_a_host_that_is_known_is_served_at_once(gate):
    assert gate(CHANGED, changed()) == [
        {"runner.csyncsync.sync": [{"args": [{"group": "wwwdata"}, {"host": "web1"}]}]},
    ]


def test_a_thousand_events_of_one_host_are_a_few_calls_and_the_last_one_waits(gate, clock):
    assert served(gate, CHANGED, changed(), 1000) == 10
    assert list(rate_limit.waiting) == [("changed", "web1", "wwwdata")]
    clock.now += 1
    assert served(gate, CHANGED, changed(), 1000) == 4


def test_an_event_that_waited_calls_what_it_would_have_called(gate, clock):
    for _ in range(11):
        gate("csyncsync/wwwdata/pushed", pushed("7"))
    ((tag, event),) = rate_limit.waiting.values()
    clock.now += 10
    assert gate(tag, event) == gate("csyncsync/wwwdata/pushed", pushed("7"))


def test_a_host_that_has_been_heard_is_served_less_often(gate, clock, tmp_path):
    note(tmp_path, lease={"host": "db1", "jid": "1"}, waiting=["web1"])
    assert served(gate, CHANGED, changed(), 1000) == 3
    clock.now += 3
    assert served(gate, CHANGED, changed(), 1000) == 3


def test_whoever_tells_of_facts_a_group_reads_them_a_few_times(gate, tmp_path):
    note(tmp_path, known=["web1", "db1"])
    facts = [{"id": host, "data": {"group": "wwwdata"}} for host in ("web1", "db1")]
    assert sum(served(gate, "csyncsync/wwwdata/facts", event, 1000) for event in facts) == 5


def test_a_flood_of_one_host_leaves_the_others_their_turn(gate):
    served(gate, CHANGED, changed("db1"), 1000)
    assert gate(CHANGED, changed())


def test_nothing_waits_for_a_host_that_is_no_member_as_far_as_is_known(gate):
    assert served(gate, CHANGED, changed("db1"), 1000) == 60
    assert rate_limit.waiting == {}


def test_what_no_accepted_minion_can_mean_calls_nothing(gate):
    for event in (changed("nosuch"), changed(None), changed(["web1"]), changed(group="../x"), changed(group=None), {}):
        assert gate(CHANGED, event) == []
    assert gate("csyncsync/wwwdata/pushed", {"id": "web1", "data": "wwwdata"}) == []
    assert gate("csyncsync/wwwdata/other", changed()) == []


def test_the_end_of_the_push_that_the_group_waits_for_is_served_in_any_flood_and_once(gate, tmp_path):
    served(gate, "csyncsync/wwwdata/pushed", pushed("1"), 1000)
    note(tmp_path, lease={"host": "web1", "jid": "20261122100000000000"})
    assert served(gate, "csyncsync/wwwdata/pushed", pushed("20261122100000000000"), 1000) == 1


def test_what_is_served_is_no_longer_than_a_push_makes_it(gate):
    for refused in ({"web2": ["x" * 300_000]}, ["web2"], {"web2": b"\xff"}):
        ((call,),) = (list(found.values()) for found in gate("csyncsync/wwwdata/pushed", pushed("1", refused=refused)))
        assert {"refused": None} in call[0]["args"]
    assert gate("csyncsync/wwwdata/pushed", pushed("x" * 41)) == []
    assert gate("csyncsync/wwwdata/pushed", pushed("1", state=["pushed"])) == []


def test_the_log_names_who_fires_too_much_in_a_few_lines(gate, caplog, clock):
    with caplog.at_level(logging.WARNING):
        for _ in range(60):
            clock.now += 1
            served(gate, CHANGED, changed("db1"), 1000)
    assert 0 < len(caplog.messages) < 20
    assert all("'db1'" in message for message in caplog.messages)


def test_what_is_kept_does_not_grow_with_the_events(gate):
    for number in range(10_000):
        gate(CHANGED, changed(f"nosuch{number}"))
        gate(CHANGED, changed("db1", f"nosuch{number}"))
        gate(f"salt/beacon/{number}/csyncsync/{number}", changed())
    kept = (rate_limit.buckets, rate_limit.waiting, rate_limit.records, rate_limit.left_out, rate_limit.ended)
    assert sum(map(len, kept)) < 15
