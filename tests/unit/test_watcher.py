"""The watcher: from files that change to lines in the journal and events, and what may go wrong on the way."""

import asyncio
import contextlib
import mmap
import os
import sqlite3
import subprocess
import sys
import time

import pytest
from csync2lib import journal, waits
from csync2lib.csync2.database import Database
from csync2lib.watch import changes
from watching import on_loop

# --- Changes


@on_loop
async def test_start_marks_the_whole_group(host):
    host.config()
    host.begin()
    await host.until(lambda: host.whole() and host.events)
    tag, event = host.events[0]
    assert tag == "__beacons_return"
    assert event["tag"] == "salt/beacon/web1/csyncsync/data"
    assert event["data"] == {"id": "web1", "group": "data", "count": 0, "whole": True}
    assert (host.group / "journal").stat().st_mode & 0o777 == 0o700
    assert host.status()["ready"]
    assert host.status()["error"] is None


@on_loop
async def test_one_file(host):
    host.config()
    await host.start()
    before = time.monotonic()
    (host.tree / "one").write_text("1")
    await host.until(lambda: host.events)
    assert time.monotonic() - before < 0.5
    assert host.lines() == [b"one"]
    assert host.events[0][1]["data"] == {"id": "web1", "group": "data", "count": 1, "whole": False}


@on_loop
async def test_the_first_change_after_a_calm_goes_out_early(host, monkeypatch):
    """What follows it soon has to settle, and so has a beginning that goes on and on."""
    host.options.append({"settle": 1.0})
    host.config()
    await host.start()
    monkeypatch.setattr(changes, "CALM", 10.0)
    await asyncio.sleep(1.1)  # the event of the start was the last one

    async def changed(name, times=1):
        before = time.monotonic()
        for _ in range(times):
            (host.tree / name).write_text("x")
            await asyncio.sleep(0.2 if times > 1 else 0)
        await host.until(lambda: name.encode() in host.lines())
        return time.monotonic() - before

    assert 0.25 <= await changed("first") < 0.9
    assert await changed("second") >= 1.0
    host.watcher.groups["data"].changes.changed_at = 0.0
    assert await changed("third", times=8) >= 2.0  # max_delay, because it keeps changing


@on_loop
async def test_burst(host):
    host.config()
    await host.start()
    for number in range(2000):
        (host.tree / f"f{number}").write_text("x")
        if number % 50 == 0:
            await asyncio.sleep(0)
    await host.until(lambda: len(set(host.lines())) == 2000)
    await host.quiet()
    assert not host.whole()

    def asked():  # without what asks again
        return [event["data"]["count"] for _, event in host.events if event["data"]["count"]]

    assert len(host.events) <= 2, "one push takes all of it"
    (next((host.group / "journal").iterdir())).unlink()
    sorted((host.group / "journal").glob("*.paths"))[0].unlink()
    await host.until(lambda: sum(asked()) == 2000)


@on_loop
async def test_what_is_written_while_a_push_takes_the_journal_is_asked_for_afterwards(host):
    host.config()
    await host.start()
    (host.tree / "one").write_text("1")
    await host.until(lambda: len(host.events) == 1)
    taken = list((host.group / "journal").iterdir())
    for number in range(5):
        (host.tree / f"more{number}").write_text("1")
        await asyncio.sleep(0.15)
    await host.quiet()
    assert len(host.events) == 1
    for file in taken:
        file.unlink()
    await host.until(lambda: len(host.events) == 2)
    assert host.events[1][1]["data"]["count"] == 5
    await host.quiet()
    assert len(host.events) == 2


@on_loop
async def test_too_many_paths_become_the_whole_group(host):
    host.options.append({"max_paths": 50})
    host.config()
    await host.start()
    for number in range(200):
        (host.tree / f"f{number}").write_text("x")
    await host.until(host.whole)
    await host.until(lambda: host.events)
    assert len(host.lines()) <= 50


@on_loop
async def test_directory_replaced_by_an_empty_one(host):
    """The directory looks as csync2 recorded it, but what was in it has gone with the old one."""
    (host.tree / "d" / "sub").mkdir(parents=True)
    host.make_database()
    host.config()
    host.record(host.tree / "d", host.tree / "d" / "sub")
    await host.start()
    (host.tree / "d").rename(host.tree.parent / "away")
    (host.tree / "d").mkdir()
    await host.until(lambda: host.lines() == [b"d/"])


@on_loop
async def test_hot_path_goes_out_at_a_bounded_rate_and_delays_no_other(host):
    host.options += [{"max_delay": 1}]
    host.config()
    await host.start()
    end = time.monotonic() + 5
    latency = []
    while time.monotonic() < end:
        (host.tree / "hot").write_text(str(time.monotonic()))
        await asyncio.sleep(0.03)
        if len(latency) < 5:
            before = time.monotonic()
            (host.tree / f"cold{len(latency)}").write_text("x")
            name = f"cold{len(latency)}".encode()
            while name not in host.lines():
                (host.tree / "hot").write_text(str(time.monotonic()))
                await asyncio.sleep(0.02)
            latency.append(time.monotonic() - before)
    await host.quiet(1.2)
    assert 4 <= host.lines().count(b"hot") <= 8
    assert max(latency) < 0.5


@on_loop
async def test_file_that_is_held_open_waits_for_its_close(host):
    host.config()
    await host.start()
    with open(host.tree / "open", "w") as file:
        file.write("x")
        file.flush()
        await host.quiet(1.0)
        assert b"open" not in host.lines()
    await host.until(lambda: b"open" in host.lines(), 0.5)


@on_loop
async def test_excludes_and_their_change(host):
    (host.tree / "tmp" / "deep").mkdir(parents=True)
    (host.tree / "kept").mkdir()
    host.config(exclude=["*.swp", str(host.tree / "tmp")])
    await host.start()
    assert host.watched == 2
    (host.tree / "x.swp").write_text("x")
    (host.tree / "tmp" / "deep" / "y").write_text("x")
    (host.tree / "kept" / "z").write_text("x")
    await host.until(lambda: host.lines() == [b"kept/z"])
    await host.quiet()
    assert host.lines() == [b"kept/z"]
    host.discharge()
    host.config(exclude=["*.swp", str(host.tree / "kept")])
    await host.until(lambda: host.whole() and host.watched == 3)
    await host.quiet()
    host.discharge()
    (host.tree / "tmp" / "deep" / "y").write_text("y")
    (host.tree / "kept" / "z").write_text("y")
    await host.until(lambda: host.lines() == [b"tmp/deep/y"])


@on_loop
async def test_includes_that_are_files_or_not_there_yet(host):
    (host.tree / "file").write_text("x")
    host.config(include=[str(host.tree / "file"), str(host.tree / "later")])
    await host.start()
    (host.tree / "other").write_text("x")
    (host.tree / "new").write_text("y")
    (host.tree / "new").rename(host.tree / "file")
    await host.until(lambda: host.lines() == [b"file"])
    host.discharge()
    (host.tree / "later").mkdir()
    await host.until(host.whole)
    await host.quiet()
    host.discharge()
    (host.tree / "later" / "x").write_text("x")
    await host.until(lambda: host.lines() == [b"later/x"])
    host.discharge()
    (host.tree / "later").rename(host.tree / "away")
    await host.until(lambda: host.watched == 1)
    (host.tree / "later").mkdir()
    await host.until(host.whole)


@on_loop
async def test_include_added_and_group_removed(host):
    (host.tree / "a").mkdir()
    (host.tree / "b").mkdir()
    host.config(include=[str(host.tree / "a")])
    await host.start()
    host.config(include=[str(host.tree / "a"), str(host.tree / "b")])
    await host.until(lambda: host.whole() and host.watched == 2)
    (host.group / "config.json").unlink()
    await host.until(lambda: not host.watched)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
@on_loop
async def test_a_file_system_that_is_mounted_below_an_include_is_watched(host):
    """And the directory again that it has covered."""
    place = host.tree / "m"
    place.mkdir()
    host.config()
    await host.start()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    try:
        await host.until(host.whole, 5)
        (place / "there").write_text("x")
        await host.until(lambda: b"m/there" in host.lines(), 5)
        host.discharge()
    finally:
        subprocess.run(["umount", place], check=True)
    await host.until(host.whole, 5)
    (place / "covered").write_text("x")
    await host.until(lambda: b"m/covered" in host.lines(), 5)


@on_loop
async def test_what_is_written_through_a_mapping_is_seen_when_the_file_is_closed(host):
    path = host.tree / "file"
    path.write_bytes(b"x" * 8192)
    os.utime(path, (1, 1))
    host.config()
    await host.start()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:5] = b"newer"
    await host.until(lambda: b"file" in host.lines(), 5)


# --- Trouble


@on_loop
async def test_a_watcher_notes_since_when_there_was_none(host):
    """From the last sign of the one before; the first watcher of a group knows of none."""
    host.config()
    await host.start()
    noted, watched = host.group / "unwatched", host.group / "watched"
    await host.until(watched.exists)
    assert not noted.exists()
    host.end()
    for seconds in (100, 50):  # what has not been checked yet goes on
        os.utime(watched, (time.time() - seconds,) * 2)
        await host.start()
        await host.until(noted.exists)
        await host.until(lambda: time.time() - watched.stat().st_mtime < 10)
        assert 105 < time.time() - float(noted.read_text()) < 125
        host.end()


@on_loop
async def test_event_is_repeated_while_something_is_left(host):
    host.options.append({"retry": 0.5})
    host.config()
    await host.start()
    (host.tree / "file").write_text("x")
    await host.until(lambda: len(host.events) >= 3)
    assert [event["data"]["count"] for _, event in host.events[:3]] == [1, 0, 0]
    host.discharge()
    await host.quiet(3)
    assert not host.events
    (host.group / "left").touch()
    await host.until(lambda: host.events)


@on_loop
@pytest.mark.parametrize("name", [journal.AGAIN, journal.CHANGED])
async def test_what_a_push_has_left_in_the_journal_is_told_at_once(host, name):
    """No change tells of it; who waits longer takes the master for silent."""
    host.options.append({"retry": 30})
    host.config()
    await host.start()
    (host.tree / "file").write_text("x")
    await host.until(lambda: host.events)
    host.discharge()
    await host.quiet(0.5)
    journal.write(str(host.group / "journal"), [b"/x"], False, name)
    await host.until(lambda: host.events, 2.5)
    assert host.events[0][1]["data"]["count"] == 0
    await host.quiet(2.5)
    assert len(host.events) == 1, "once: a group that is paused stays so for long"


@pytest.fixture
def systemctl(host, monkeypatch):
    """A file that says how systemctl was called."""
    called = host.tree.parent / "called"
    command = host.tree.parent / "bin" / "systemctl"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$@" >> {called}\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    return called


def journal_of(host, seconds):
    """A flush so many seconds ago; in the future, if the clock was set back since."""
    made = time.time_ns() - seconds * 10**9
    (host.group / "journal" / f"{made:020d}-1.paths").write_bytes(os.fsencode(host.tree) + b"/x\0")


@on_loop
@pytest.mark.parametrize("seconds", [60, -600])
async def test_push_is_started_when_no_master_answers(host, systemctl, seconds):
    host.config()
    await host.start()
    journal_of(host, seconds)
    await host.until(systemctl.exists)
    await host.quiet(3)
    assert systemctl.read_text() == "start --no-block csyncsync-push@data.service\n"


async def begin_calm(host):
    """Watch, with all that the start asks for done."""
    host.config()
    await host.start()
    await host.quiet(1)
    host.discharge()


def pushed(systemctl):
    return len(systemctl.read_text().splitlines()) if systemctl.exists() else 0


@on_loop
async def test_while_the_master_stays_silent_nobody_waits_for_it(host, systemctl):
    """The first change waits for it, the next ones do not, until the master is heard of."""
    await begin_calm(host)
    took = []
    for count in (1, 2, 3):
        began = time.monotonic()
        (host.tree / f"file{count}").write_text("x")
        await host.until(lambda count=count: pushed(systemctl) == count)
        took.append(time.monotonic() - began)
        host.discharge()
    assert max(took[1:]) < waits.ALONE_AFTER[0] < took[0]
    time.sleep(0.01)
    (host.group / "asked").touch()
    (host.tree / "heard").write_text("x")
    await host.quiet(1)
    assert pushed(systemctl) == 3


@pytest.fixture
def member(host):
    """Have the host joined its group."""
    host.config()
    host.make_database()
    with contextlib.closing(sqlite3.connect(host.database)) as database:
        database.execute(f"PRAGMA user_version = {Database.ESTABLISHED}")
    (host.group / "established").write_text("a")


def deleted(path):
    path.unlink()


def emptied(path):
    os.truncate(path, 0)


def cut_short(path):
    os.truncate(path, 5000)


def written_over(path):
    path.write_bytes(b"x" * path.stat().st_size)


def made_anew(path):
    """As csync2 makes another one in its place, of the same size."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 0")
    path.with_name("other").write_bytes(path.read_bytes())
    path.with_name("other").replace(path)


@on_loop
@pytest.mark.parametrize("lose", [deleted, emptied, cut_short, made_anew])
async def test_a_lost_database_is_put_back_at_once(host, member, systemctl, lose):
    """By a push here, once: no master is needed for that."""
    await host.start()
    await host.quiet(1.5)
    assert not systemctl.exists()
    lose(host.database)
    await host.until(systemctl.exists, 3)
    await asyncio.sleep(1.5)
    assert pushed(systemctl) == 1


@on_loop
@pytest.mark.parametrize("lose", [deleted, written_over])
async def test_a_database_that_was_lost_while_nobody_watched_is_put_back_at_once(host, member, systemctl, lose):
    lose(host.database)
    await host.start()
    await host.until(systemctl.exists, 3)


@on_loop
async def test_a_database_that_shrinks_when_a_killed_csync2s_work_is_taken_back_is_not_lost(host, member, systemctl):
    writer = f"""
import os, sqlite3
database = sqlite3.connect({str(host.database)!r}, isolation_level=None)
database.execute("PRAGMA cache_size = 1")
database.execute("BEGIN")
database.executemany("INSERT INTO file VALUES (?, ?)", ((f"/{{number}}", "x" * 1000) for number in range(1000)))
print(os.path.getsize({str(host.database)!r}), flush=True)
os.kill(os.getpid(), 9)
"""
    await host.start()
    before = host.database.stat().st_size
    held = sqlite3.connect(host.database)  # a lock of a reader's: what was begun stays for more than one look
    grown = int(subprocess.run([sys.executable, "-c", writer], stdout=subprocess.PIPE, check=False).stdout)
    await asyncio.sleep(1.5)
    with contextlib.closing(held):
        held.execute("SELECT count(*) FROM file").fetchone()
    assert host.database.stat().st_size == before < grown
    await host.quiet(1.5)
    assert not systemctl.exists()


@on_loop
async def test_a_database_that_a_host_without_a_place_in_the_group_loses_is_not_put_back(host, systemctl):
    host.config()
    host.make_database()
    await host.start()
    host.database.unlink()
    await asyncio.sleep(2)
    assert not systemctl.exists()


@on_loop
async def test_a_master_that_answers_late_gets_more_time(host, systemctl):
    await begin_calm(host)
    (group,) = host.watcher.groups.values()
    before = group.reminders.patience
    (host.tree / "file").write_text("x")
    await host.until(systemctl.exists)
    time.sleep(0.01)
    (host.group / "waits").touch()
    assert not group.reminders.is_alone(group.directory)
    assert group.reminders.patience == 2 * before
    await host.quiet(3)
    assert pushed(systemctl) == 1
    host.discharge()
    await host.until(lambda: group.reminders.patience == before)


@on_loop
@pytest.mark.parametrize("name", ["left", "waits", "push.json"])
async def test_no_time_in_the_future_keeps_a_push_from_being_started(host, systemctl, name):
    host.config()
    await host.start()
    file = host.group / name
    file.touch()
    os.utime(file, (time.time() + 600, time.time() + 600))
    if name != "left":
        journal_of(host, 60)
    await host.until(systemctl.exists)


@on_loop
async def test_what_the_master_said_before_a_change_came_does_not_make_it_wait(host, systemctl):
    host.config()
    await host.start()
    file = host.group / "waits"
    file.touch()
    os.utime(file, (time.time() - 61, time.time() - 61))
    journal_of(host, 60)
    await host.until(systemctl.exists)


@on_loop
@pytest.mark.parametrize(("name", "seconds"), [("waits", 3), ("push.json", 1)])
async def test_no_push_is_started_while_the_master_answers(host, systemctl, name, seconds):
    host.config()
    await host.start()
    (host.group / name).touch()
    journal_of(host, 60)
    await host.quiet(seconds)
    assert not systemctl.exists()
