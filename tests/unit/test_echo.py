"""The echo filter: csync2's own writes are left out, and nothing else is. With a database laid out as csync2 does."""

import asyncio
import contextlib
import fcntl
import os
import pathlib
import sqlite3
import subprocess

import pytest
from csync2lib import journal, waits
from csync2lib.csync2 import custody
from csync2lib.csync2.names import encode
from csync2lib.csync2.states import check_text
from watching import on_loop


@pytest.fixture(autouse=True)
def _in_a_group(host):
    """The host is in a group, and csync2 has a database of it."""
    host.make_database()
    host.config()


@on_loop
async def test_what_csync2_wrote_is_left_out(host):
    await host.start()
    (host.tree / "d").mkdir()
    (host.tree / "d" / "echo").write_text("x")
    os.utime(host.tree / "d" / "echo", (1700000000, 1700000000))
    (host.tree / "link").symlink_to("nowhere")
    host.record(host.tree / "d", host.tree / "d" / "echo", host.tree / "link")
    (host.tree / ".echo.aB3dE6").write_text("x")
    await asyncio.sleep(0.02)
    (host.tree / ".echo.aB3dE6").unlink()
    await host.quiet(1.0)
    assert not host.lines()
    assert not host.events
    (host.tree / "d" / "echo").write_text("y")
    await host.until(lambda: host.lines() == [b"d/echo"])


@on_loop
async def test_rewrite_within_the_second_goes_out(host):
    (host.tree / "file").write_text("x")
    os.utime(host.tree / "file", ns=(1700000000_000000000, 1700000000_000000000))
    host.record(host.tree / "file")
    await host.start()
    (host.tree / "file").write_text("y")
    os.utime(host.tree / "file", ns=(1700000000_000000000, 1700000000_500000000))
    await host.until(lambda: host.lines() == [b"file"])


@on_loop
async def test_removed_files_go_out_if_they_were_recorded(host):
    for name in ("known", "unknown"):
        (host.tree / name).write_text("x")
    host.record(host.tree / "known")
    await host.start()
    (host.tree / "known").unlink()
    (host.tree / "unknown").unlink()
    await host.until(lambda: host.lines() == [b"known"])
    await host.quiet()
    assert host.lines() == [b"known"]


@on_loop
async def test_a_directory_that_was_deleted_and_made_again(host):
    await host.start()
    directory = host.tree / "d"
    directory.mkdir()
    (directory / "old").symlink_to("x")
    host.record(directory, directory / "old")
    await host.quiet()
    assert not host.lines(), "csync2 made it"
    (directory / "old").unlink()
    directory.rmdir()
    directory.mkdir()
    (directory / "new").symlink_to("x")
    host.forget(directory / "old")
    host.record(directory / "new")
    await host.quiet()
    assert not host.lines(), "csync2 made it again"
    directory.rename(host.tree / "away")
    directory.mkdir()
    await host.until(lambda: {b"d/", b"away/"} <= set(host.lines()))
    host.discharge()

    # Somebody deletes it, with what csync2 has just made in it, before the watcher hears of either.
    (host.tree / "e").mkdir()
    (host.tree / "e" / "gone").symlink_to("x")
    host.record(host.tree / "e", host.tree / "e" / "gone")
    (host.tree / "e" / "gone").unlink()
    (host.tree / "e").rmdir()
    (host.tree / "e").mkdir()
    await host.until(lambda: host.lines() == [b"e/"])


AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to csync2's user")


def csync2_writes(host, name, content="x", half=False):
    """As csync2's daemon does: the file gets its name before its content is written; then owner, mode and time."""
    path = host.tree / name
    temporary = path.parent / f".{path.name}.aB3dE6"
    with open(temporary, "w", opener=as_csync2) as file:
        file.write(content)
        temporary.rename(path)
    if not half:
        csync2_finishes(path, 0o640)


def as_csync2(path, flags):
    handle = os.open(path, flags, 0o600)
    if os.geteuid() == 0:
        os.fchown(handle, custody.UID, 0)
    return handle


def csync2_finishes(path, mode):
    os.chown(path, os.geteuid(), 0)
    os.chmod(path, mode)
    os.utime(path, (1700000000, 1700000000))


@contextlib.contextmanager
def a_peer_sends(host):
    """A csync2 that serves a peer has opened the database: this process stands for it."""
    serving = host.group.parent / "serving"
    (serving / str(os.getpid())).mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch, open(host.database, "rb"):
        patch.setattr(custody, "SERVING", str(serving))
        yield
    (serving / str(os.getpid())).rmdir()


@on_loop
async def test_a_link_that_csync2_made_and_a_file_in_its_place(host):
    await host.start()
    (host.tree / "file").symlink_to("x")
    (host.tree / "file").unlink()
    csync2_writes(host, "file")
    host.record(host.tree / "file")
    await host.quiet(1.0)
    assert not host.lines()


@on_loop
async def test_what_takes_the_place_of_a_file_that_came_with_its_directory(host):
    """The directory has been checked by then, and the watcher still waits until the file is quiet."""
    new = pathlib.Path(f"{host.tree}-new")
    for directory, text in ((host.tree / "d", "x"), (new, "newer")):
        directory.mkdir()
        for name in (".link.AbC123", ".kept.AbC123", "kept"):
            (directory / name).write_text(text)
    host.record(host.tree / "d", *(host.tree / "d").iterdir())
    await host.start()
    (host.tree / "d").rename(f"{host.tree}-old")
    new.rename(host.tree / "d")
    await host.until(lambda: b"d/" in host.lines())
    host.record(*(host.tree / "d").iterdir())
    host.discharge()
    (host.tree / "d" / ".link.AbC123").unlink()
    (host.tree / "d" / ".link.AbC123").symlink_to("x")
    await host.until(lambda: b"d/.link.AbC123" in host.lines())


def records_in_transaction(daemon, file):
    """As csync2's daemon does, which commits later."""
    path = os.fsencode(file)
    text = encode(check_text(path, os.lstat(path)))
    daemon.execute("INSERT INTO file VALUES (CAST(? AS TEXT), CAST(? AS TEXT))", (encode(path), text))


@on_loop
async def test_uncommitted_rows_are_waited_for(host):
    await host.start()
    journal = pathlib.Path(f"{host.database}-journal")
    # A transaction that has begun to write: SQLite makes the journal itself.
    with a_peer_sends(host), contextlib.closing(sqlite3.connect(host.database, isolation_level=None)) as daemon:
        daemon.execute("BEGIN IMMEDIATE")
        csync2_writes(host, "echo")
        records_in_transaction(daemon, host.tree / "echo")
        assert journal.exists()
        await host.quiet(7)
        assert not host.lines()
        daemon.execute("COMMIT")
        await host.quiet(1.5)
    await host.quiet(1.5)
    assert not host.lines()


@pytest.mark.parametrize("moved", [True, False])
@on_loop
async def test_what_is_taken_away_before_csync2_has_recorded_it_goes_out(host, moved):
    """As a worker does that takes files out of a spool: csync2 commits its record of them later."""
    (host.tree / "done").mkdir()
    host.record(host.tree / "done")
    await host.start()
    with a_peer_sends(host), contextlib.closing(sqlite3.connect(host.database, isolation_level=None)) as daemon:
        daemon.execute("BEGIN IMMEDIATE")
        csync2_writes(host, "received")
        records_in_transaction(daemon, host.tree / "received")
        if moved:
            (host.tree / "received").rename(host.tree / "done" / "received")
        else:
            (host.tree / "received").unlink()
        await host.quiet(1.5)
        assert b"received" not in host.lines()
        daemon.execute("COMMIT")
    await host.until(lambda: set(host.lines()) == {b"received", *([b"done/received"] if moved else [])}, 5)


@on_loop
async def test_what_somebody_writes_while_a_peer_sends_is_sent_even_if_csync2_records_it(host):
    """csync2 records what stands there, whoever wrote it: the watcher says that the file was rewritten."""
    (host.tree / "file").write_text("x")
    host.record(host.tree / "file")
    await host.start()
    with a_peer_sends(host):
        (host.tree / "file").write_text("other")
        await host.until(lambda: host.lines() == [b"file"])
        assert journal.rewritten(journal.waiting(str(host.group / "journal"))) == {os.fsencode(host.tree / "file")}


@on_loop
async def test_a_users_write_does_not_wait_for_csync2(host):
    """A peer sends, and a transaction is open; csync2 does not write to files in place."""
    await host.start()
    with a_peer_sends(host), contextlib.closing(sqlite3.connect(host.database, isolation_level=None)) as daemon:
        daemon.execute("BEGIN IMMEDIATE")
        daemon.execute("INSERT INTO file VALUES ('/other', 'x')")
        (host.tree / "mine").write_text("x")
        await host.until(lambda: host.lines() == [b"mine"], 0.9)


@AS_ROOT
@on_loop
async def test_what_is_half_made_waits_for_its_owner(host):
    """csync2's daemon may wait for the database, which others write into, between two of its steps."""
    await host.start()
    csync2_writes(host, "echo", half=True)
    (host.tree / "dir").mkdir(0o700)
    os.chown(host.tree / "dir", custody.UID, 0)
    (host.tree / "mine").mkdir(0o700)
    await host.until(lambda: host.lines() == [b"mine/"], 1)
    await host.quiet(3)
    csync2_finishes(host.tree / "echo", 0o640)
    csync2_finishes(host.tree / "dir", 0o755)
    host.record(host.tree / "echo", host.tree / "dir")
    await host.quiet(1.5)
    assert host.lines() == [b"mine/"]


@on_loop
async def test_a_renamed_file_waits_as_long_as_the_peer_is_connected(host):
    """What replaces a file has its owner at once: mode and time are still to come."""
    await host.start()
    with a_peer_sends(host):
        (host.tree / ".echo.aB3dE6").write_text("x")
        (host.tree / ".echo.aB3dE6").rename(host.tree / "echo")
        await host.quiet(2.0)
        assert not host.lines()
    await host.until(lambda: host.lines() == [b"echo"], 3)


@on_loop
async def test_two_commits_later_a_difference_is_a_users(host):
    (host.tree / "gone").write_text("x")
    host.record(host.tree / "gone")
    await host.start()
    with a_peer_sends(host), contextlib.closing(sqlite3.connect(host.database, isolation_level=None)) as daemon:
        daemon.execute("BEGIN IMMEDIATE")
        (host.tree / "gone").unlink()
        for number in range(3):
            daemon.execute("INSERT INTO file VALUES (?, 'x')", (f"/other{number}",))
            await host.quiet(1.5)
            assert number < 2 or host.lines()
            daemon.execute("COMMIT")
            daemon.execute("BEGIN IMMEDIATE")
        daemon.execute("INSERT INTO file VALUES ('/last', 'x')")
        await host.until(lambda: host.lines() == [b"gone"], 3)


@on_loop
async def test_what_csync2_has_not_finished_is_left_to_it(host):
    """It was recorded, but owner, mode and time are still to come: pushed back, that state would spread."""
    await host.start()
    with a_peer_sends(host):
        csync2_writes(host, "half", half=True)
        host.record(host.tree / "half")
        await host.quiet(3)
        assert not host.lines()
        csync2_finishes(host.tree / "half", 0o640)
        host.record(host.tree / "half")
        await host.quiet(1.5)
    await host.quiet(1)
    assert not host.lines()


@on_loop
async def test_a_rename_over_a_file_that_looks_the_same_goes_out(host):
    """On a receiver all times are whole seconds: two files of one size and second look the same to csync2."""
    (host.tree / "d").mkdir()
    (host.tree / "e").mkdir()
    names = [host.tree / name for name in ("a", "b", "d/x", "e/x")]
    for number, path in enumerate(names):
        path.write_text(str(number))
        os.utime(path, (1700000000, 1700000000))
    host.record(*names, host.tree / "d", host.tree / "e")
    await host.start()
    (host.tree / "b").rename(host.tree / "a")
    await host.until(lambda: sorted(set(host.lines())) == [b"a", b"b"])
    host.discharge()
    (host.tree / "d").rename(host.tree.parent / "old")
    (host.tree / "e").rename(host.tree / "d")
    await host.until(lambda: sorted(set(host.lines())) == [b"d/", b"d/x", b"e/"])


@on_loop
async def test_a_write_with_a_whole_second_goes_out(host):
    """tar and cp -p set such times."""
    (host.tree / "file").write_text("x")
    os.utime(host.tree / "file", (1700000000, 1700000000))
    host.record(host.tree / "file")
    await host.start()
    (host.tree / "file").write_text("y")
    os.utime(host.tree / "file", (1700000000, 1700000000))
    await host.until(lambda: host.lines() == [b"file"])


@on_loop
async def test_a_change_through_one_name_of_several_checks_the_group(host, monkeypatch):
    """The other names of a hard link have no event."""
    (host.tree / "one").write_text("x")
    os.link(host.tree / "one", host.tree / "two")
    host.record(host.tree / "one", host.tree / "two")
    await host.start()
    monkeypatch.setattr(waits, "LINKED_INTERVAL", 0.5)
    os.link(host.tree / "one", host.tree / "three")
    await host.until(lambda: b"three" in host.lines())
    await host.quiet(1.5)
    assert not host.whole()
    (host.tree / "one").write_text("longer")
    await host.until(host.whole, 5)


@on_loop
async def test_user_file_that_looks_like_csync2s_arrives(host):
    await host.start()
    (host.tree / ".name.AbCdEf").write_text("x")
    await host.until(lambda: host.lines() == [b".name.AbCdEf"])


@on_loop
async def test_what_came_and_went_goes_out_if_it_was_recorded_in_between(host):
    """By a check of its directory, which may have sent it too."""
    await host.start()
    (host.tree / ".name.AbCdEf").write_text("x")
    await asyncio.sleep(0.05)
    host.record(host.tree / ".name.AbCdEf")
    (host.tree / ".name.AbCdEf").unlink()
    await host.until(lambda: host.lines() == [b".name.AbCdEf"])


@on_loop
async def test_a_change_that_csync2s_daemon_has_taken_in_goes_out(host):
    """It checks a path before it refuses it to a peer; a push that is under way, or left something, needs no event."""
    await host.start()

    def link(name):
        (host.tree / name).symlink_to("nowhere")
        host.record(host.tree / name)
        host.mark(host.tree / name)

    link("alone")
    await host.until(lambda: host.lines() == [b"alone"])
    host.discharge()
    with open(host.group / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        link("pushing")
        await host.quiet(1)
    (host.group / "left").touch()
    link("left")
    await host.quiet(1)
    assert not host.lines()


@on_loop
async def test_what_csync2_does_while_its_new_database_is_not_established_is_not_told(host):
    """
    It writes down what it makes of what others send, and forgets what it deletes. What was gone before all was recorded
    anew it has never known: somebody here may have deleted that.
    """
    (host.group / "established").write_text("web1")
    for name in ("mine", "theirs", "gone"):
        (host.tree / name).write_text("x")
        host.record(host.tree / name)
    await host.start()
    host.database.rename(host.group / host.database.name)  # the second name that is kept
    host.make_database()
    host.record(host.tree / "mine")  # and of theirs it has forgotten what it has deleted
    with contextlib.closing(sqlite3.connect(host.database)) as database:
        database.execute("PRAGMA user_version = 1")
    (host.tree / "gone").unlink()
    (host.group / "recorded").write_text("")
    await host.until(host.whole, 3)
    await host.until(lambda: host.lines() == [b"gone"])
    await host.quiet(1)
    host.discharge()
    (host.tree / "link").symlink_to("nowhere")
    host.record(host.tree / "link")
    (host.tree / "theirs").unlink()
    await host.quiet(2)
    assert not host.lines()
    (host.tree / "mine").unlink()
    await host.until(lambda: host.lines() == [b"mine"])


@on_loop
async def test_without_its_database_a_host_tells_of_its_own_changes_alone(host):
    """
    What others may have sent is left to the database's return: they can have deleted and replaced nothing.
    """
    (host.group / "established").write_text("web1")
    (host.tree / "old").write_text("x")
    await host.start()
    host.database.unlink()
    await host.until(host.whole, 3)  # the loss is seen
    host.discharge()
    csync2_writes(host, "theirs")
    (host.tree / "link").symlink_to("nowhere")
    (host.tree / "mine").write_text("x")
    (host.tree / "old").unlink()
    await host.until(lambda: sorted(host.lines()) == [b"mine", b"old"])
    host.discharge()
    host.make_database()  # not established yet, and nothing recorded
    await host.quiet(2)
    assert not host.lines()


@on_loop
async def test_files_in_a_directory_that_csync2_made(host):
    """The directory is csync2's, and left out; a user's files that were there before the watch still go out."""
    await host.start()
    (host.tree / "d" / "e").mkdir(parents=True)
    (host.tree / "d" / "e" / "mine").write_text("x")
    host.record(host.tree / "d", host.tree / "d" / "e")
    await host.until(lambda: host.lines() == [b"d/e/mine"])


@on_loop
async def test_a_file_that_csync2_wrote_before_its_new_directory_was_watched(host):
    """It gets its name unseen, and is written to and closed in sight; a user's writes after that go out."""
    await host.start()
    with a_peer_sends(host):
        (host.tree / "d").mkdir()
        with open(host.tree / ".f.aB3dE6", "w") as file:
            (host.tree / ".f.aB3dE6").rename(host.tree / "d" / "f")
            await host.until(lambda: host.watched == 2)
            file.write("x")
        os.utime(host.tree / "d" / "f", (1700000000, 1700000000))
        host.record(host.tree / "d", host.tree / "d" / "f")
        await host.quiet(1.5)
    await host.quiet(3)
    assert not host.lines()
    (host.tree / "e").mkdir()
    (host.tree / ".f.aB3dE6").write_text("x")
    (host.tree / ".f.aB3dE6").rename(host.tree / "e" / "f")
    await host.until(lambda: host.watched == 3)
    for content in "yz":
        (host.tree / "e" / "f").write_text(content)
        os.utime(host.tree / "e" / "f", (1700000000, 1700000000))
    host.record(host.tree / "e", host.tree / "e" / "f")
    await host.until(lambda: host.lines() == [b"e/f"])


def csync2_leaves(host, name):
    """As csync2's daemon does on a full disk: what it needs meanwhile is unlinked at once, the new file stays."""
    for other in ("0elta1", "bAsis2"):
        temporary = host.tree / f".{name}.{other}"
        with open(temporary, "w", opener=as_csync2) as file:
            temporary.unlink()
            file.write("x")
    return as_csync2(host.tree / f".{name}.aB3dE6", os.O_CREAT | os.O_WRONLY)


@AS_ROOT
@on_loop
async def test_a_temporary_file_that_csync2_left_is_deleted_and_no_other_one(host, monkeypatch):
    await host.start()
    monkeypatch.setattr(waits, "LEFT_AFTER", 0.3)
    opened = csync2_leaves(host, "open")
    for name in ("left", "n" * 246):
        os.close(csync2_leaves(host, name))
    recorded = as_csync2(host.tree / ".recorded.aB3dE6", os.O_CREAT | os.O_WRONLY)
    host.record(host.tree / ".recorded.aB3dE6")
    os.close(recorded)
    for name in (".script.aB3dE6", ".finished.aB3dE6"):  # a user's, exactly as csync2's but for the owner
        os.close(os.open(host.tree / name, os.O_CREAT | os.O_WRONLY, 0o600))
    with subprocess.Popen(["sleep", "60"], stdin=opened, user=custody.UID) as daemon:
        os.close(opened)
        gone = [".left.aB3dE6", f".{'n' * 246}.aB3dE6"]
        await host.until(lambda: not any((host.tree / name).exists() for name in gone))
        await host.quiet(1)
        daemon.kill()
    there = {path.name for path in host.tree.iterdir()}
    assert there == {".open.aB3dE6", ".recorded.aB3dE6", ".script.aB3dE6", ".finished.aB3dE6"}
    assert sorted(set(host.lines())) == [b".finished.aB3dE6", b".script.aB3dE6"]
