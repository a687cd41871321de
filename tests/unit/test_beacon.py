"""The beacon: its options, what it tells the watcher, and what it tells of it."""

import asyncio
import fcntl
import json
import sys
import types

import pytest
from salt.version import __version__ as VERSION
from watching import on_loop

# --- Options


@pytest.mark.parametrize(
    "config, word",
    [
        ({}, "list"),
        (["settle"], "settle"),
        ([{"settel": 1}], "settel"),
        ([{"settle": "1"}], "settle"),
        ([{"settle": True}], "settle"),
        ([{"max_delay": 0}], "max_delay"),
        ([{"max_paths": 1.5}], "max_paths"),
        ([{"retry": -1}], "retry"),
        ([{"state_dir": "/var"}], "state_dir"),
    ],
)
def test_validate_names_the_bad_option(host, config, word):
    good, text = host.module.validate(config)
    assert not good
    assert word in text


def test_validate_takes_good_options(host):
    config = [
        {"settle": 0.2},
        {"max_delay": 3, "max_paths": 5},
        {"interval": 5},
        {"_beacon_name": "csyncsync"},
    ]
    assert host.module.validate(config)[0]
    assert host.module.validate([])[0]


# --- What it tells the watcher


def said(host):
    return json.loads((host.state / "beacon.json").read_text())


def test_the_watcher_gets_the_options_and_the_bus(host):
    host.options += [{"settle": 0.5}, {"retry": 7}]
    host.beacon()
    bus = f"{host.state.parent}/minion_event_659a7fb2af_pull.ipc"
    assert said(host) == {"settle": 0.5, "retry": 7, "id": "web1", "bus": bus, "salt": VERSION}
    options = host.make_watcher().options
    assert (options.settle, options.retry, options.max_delay, options.bus) == (0.5, 7, 2.0, bus)


def test_a_bus_that_is_a_port(host):
    host.module.__opts__ |= {"ipc_mode": "tcp", "tcp_pull_port": 4511}
    host.beacon()
    assert said(host)["bus"] == 4511


def test_the_file_is_written_when_something_changes(host):
    host.beacon()
    before = (host.state / "beacon.json").stat()
    host.beacon()
    assert (host.state / "beacon.json").stat() == before
    host.options.append({"settle": 1})
    host.beacon()
    assert said(host)["settle"] == 1
    (host.state / "beacon.json").unlink()
    host.beacon()
    assert said(host)["settle"] == 1
    assert [path.name for path in host.state.iterdir() if path.is_file()] == ["beacon.json"]


def test_a_host_that_has_no_group(host):
    host.group.rmdir()
    host.state.rmdir()
    assert host.beacon() == []


def test_a_place_where_no_file_can_be_made(host):
    host.group.rmdir()
    host.state.rmdir()
    host.state.write_text("no directory")
    assert host.beacon() == []


@on_loop
async def test_options_change_while_the_watcher_runs(host):
    host.options.append({"settle": 5})
    host.config()
    await host.start()
    host.options[-1] = {"max_delay": 9}
    host.beacon()
    await host.until(lambda: host.watcher.options.max_delay == 9)
    assert host.watcher.options.settle == 0.1


@on_loop
async def test_what_nobody_has_heard_is_told_as_soon_as_there_is_a_minion(host):
    host.config()
    await host.start()
    host.close_bus()
    (host.tree / "file").write_text("x")
    await host.until(lambda: host.lines() == [b"file"])
    await asyncio.sleep(1.5)
    host.open_bus()
    await host.until(lambda: host.events, 3)


@on_loop
async def test_a_minion_that_begins_after_the_watcher_is_heard_of(host):
    host.config()
    host.beacon()
    host.open_bus()
    (host.state / "beacon.json").unlink()
    host.watcher = host.make_watcher()
    host.watcher.start()
    await host.until(host.whole)
    await asyncio.sleep(1.2)
    assert not host.events
    host.beacon()
    await host.until(lambda: host.events, 3)
    assert host.events[0][1]["tag"] == "salt/beacon/web1/csyncsync/data"


# --- What it tells of the watcher


@pytest.fixture
def lock(host):
    """As the watcher has it."""
    with (host.state / "watcher.lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def test_a_watcher_that_is_gone_is_told_once(host, lock, monkeypatch):
    monkeypatch.setattr(host.module, "REPLACED_WITHIN", 0.0)
    assert host.beacon() == []
    fcntl.flock(lock, fcntl.LOCK_UN)
    told = [*host.beacon(), *host.beacon()]
    assert [set(event) for event in told] == [{"error"}]
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert host.beacon() == []
    fcntl.flock(lock, fcntl.LOCK_UN)
    assert len(host.beacon()) == 1


def test_a_watcher_that_is_being_replaced_is_not_told(host):
    assert [host.beacon(), host.beacon()] == [[], []]


class Older:
    """The watcher of an older version, in the minion's process."""

    closed = False

    def __init__(self):
        self.called = []

    def tick(self):
        self.called.append("tick")
        return [{"tag": "data"}]

    def close(self):
        self.called.append("close")
        self.closed = True


def test_the_watcher_of_an_older_version_goes_on_until_there_is_another(host, lock, monkeypatch):
    """What it has Salt fire (where there is no event loop) is fired."""
    older = Older()
    monkeypatch.setattr(host.module, "REPLACED_WITHIN", 0.0)
    monkeypatch.setitem(sys.modules, "csyncsync_watcher", types.SimpleNamespace(watcher=older))
    fcntl.flock(lock, fcntl.LOCK_UN)
    assert [host.beacon(), host.beacon()] == [[{"tag": "data"}]] * 2
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert [host.beacon(), host.beacon()] == [[], []]
    assert older.called == ["tick", "tick", "close"]


def test_a_file_that_cannot_be_written_keeps_nothing_from_being_told(host, monkeypatch):
    monkeypatch.setattr(host.module, "REPLACED_WITHIN", 0.0)
    (host.state / "beacon.json").mkdir()
    assert len(host.beacon()) == 1
    assert [path.name for path in host.state.iterdir() if path.is_file()] == []
