"""What csync2 has received and not recorded is known by what it said, and is nobody's change."""

import contextlib
import os
import pathlib
import socket
import sqlite3
import subprocess
import threading
import time
import urllib.parse

import pytest
from csync2lib import journal, received, storage
from csync2lib import server as server_module
from csync2lib.csync2 import custody, unfinished
from csync2lib.csync2.command import run
from csync2lib.csync2.database import Database
from csync2lib.csync2.log import Log, updated
from csync2lib.csync2.names import encode
from csync2lib.csync2.states import stands
from csync2lib.host import ThisHost
from csync2lib.push import check as check_module
from csync2lib.push import ledger
from csync2lib.push.differences import Differences
from csync2lib.received import Received
from pair import HERE, THERE, pair

__all__ = ["pair"]

HEAD = b"<134>Nov 30 00:17:01 csync2[7]: "


def whole(path, content="x"):
    """A file with the time of a whole second, as csync2 makes them."""
    path.write_text(content)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return os.fsencode(path)


@pytest.fixture
def host(tmp_path):
    """With two groups, of which one has all that the tests make."""
    for group, include in (("data", tmp_path), ("other", tmp_path / "not")):
        (tmp_path / "state" / group / "journal").mkdir(parents=True)
        storage.write_json(tmp_path / "state" / group / "config.json", {"include": [str(include)]})
    return ThisHost("web1", "web1", str(tmp_path), str(tmp_path / "state"), str(tmp_path))


def until(probe):
    last = time.monotonic() + 10
    while not probe():
        assert time.monotonic() < last
        time.sleep(0.02)


def unrecorded(host, group="data"):
    return received.Unrecorded(os.path.join(host.state, group))


def lost(host, group="data"):
    return unrecorded(host, group).is_lost


def lose(host, *paths, server=None):
    """csync2 receives these paths, and is killed."""
    server = server or Received(host)
    for path in paths:
        server.note(7, path)
    server.write()
    time.sleep(0.01)  # the kernel's clock
    server.ended(7, recorded=False)


@pytest.mark.parametrize("name", [b"/a", b"/a b", b"/a\nUpdated /b from web2.", b"/x from web1.", "/ü%00".encode()])
def test_each_path_is_told_as_it_is(name):
    assert updated(b"Updated %s from web1." % name) == name


@pytest.mark.parametrize("said", [b"Updated a from web1.", b"Deleting /a on web1 ...", b"x Updated /a from web1.", b""])
def test_what_csync2_says_otherwise_is_no_path_that_it_received(said):
    assert updated(said) is None


def noted(host):
    return any(name.isdigit() for name in os.listdir(received.in_flight(host.state)))


def test_what_was_recorded_is_not_lost(host, tmp_path):
    server, path = Received(host), whole(tmp_path / "file")
    server.note(7, path)
    server.write()
    assert noted(host)
    server.ended(7, recorded=True)
    assert not noted(host)
    assert not lost(host)(path, None)


def test_where_the_server_notes_it_is_no_group(host):
    Received(host)
    assert os.path.isdir(received.in_flight(host.state))
    assert host.installed() == ["data", "other"]


def test_another_process_is_another_matter(host, tmp_path):
    server = Received(host)
    mine, other = whole(tmp_path / "mine"), whole(tmp_path / "other")
    server.note(8, other)
    lose(host, mine, server=server)
    is_lost = lost(host)
    assert is_lost(mine, None)
    assert not is_lost(other, None), "its csync2 may still record it"
    assert not lost(host, "other")(mine, None), "it is in no include of this group"
    server.ended(8, recorded=True)
    assert not noted(host)


def test_a_host_that_went_down_knows_it_afterwards(host, tmp_path):
    server, path = Received(host), whole(tmp_path / "a file\nü")
    server.note(7, path)
    server.write()
    Received(host)
    assert lost(host)(path, None)
    assert not noted(host)


@pytest.mark.parametrize("change", ["content", "mode", "replaced", "gone", "directory", "its old time"])
def test_what_somebody_has_changed_since_is_his(host, tmp_path, change):
    file = tmp_path / "file"
    path = whole(file)
    lose(host, path)
    assert lost(host)(path, b"an older record")
    time.sleep(0.02)
    if change == "content":
        file.write_text("other")
    elif change == "mode":
        file.chmod(0o600)
    elif change == "replaced":
        whole(tmp_path / "new", "other")
        os.replace(tmp_path / "new", file)
    elif change == "its old time":
        whole(file, "y")
    else:
        file.unlink()
        if change == "directory":
            file.mkdir()
    assert not lost(host)(path, b"an older record")


def test_what_was_written_while_csync2_was_at_it_is_told_by_its_time(host, tmp_path):
    """csync2 sets the time last: a file whose time has a fraction is as csync2 left it only if nothing came after."""
    half, changed = tmp_path / "half", tmp_path / "changed"
    server = Received(host)
    for file in (half, changed):
        file.write_text("x")
        server.note(7, os.fsencode(file))
    time.sleep(0.02)
    changed.write_text("y")
    lose(host, server=server)
    assert lost(host)(os.fsencode(half), None)
    assert not lost(host)(os.fsencode(changed), None)


def test_a_deletion_is_csync2s_if_csync2_has_made_it(host, tmp_path):
    deleted, kept = os.fsencode(tmp_path / "deleted"), whole(tmp_path / "kept")
    lose(host, deleted, kept)
    os.unlink(kept)
    assert lost(host)(deleted, b"record")
    assert not lost(host)(kept, b"record"), "somebody has deleted what csync2 wrote"
    whole(tmp_path / "deleted")
    assert not lost(host)(deleted, b"record"), "somebody has made what csync2 had deleted"


def test_a_directory_that_came_is_csync2s_whatever_is_made_in_it(host, tmp_path):
    path = os.fsencode(tmp_path / "directory")
    os.mkdir(path)
    lose(host, path)
    time.sleep(0.02)
    (tmp_path / "directory" / "file").write_text("x")
    assert lost(host)(path, None)
    assert not lost(host)(path, b"v1:mode=16877:uid=0:gid=0:type=dir"), "its mode may be somebody's"


@pytest.mark.parametrize("kind", ["directory", "link", "fifo"])
def test_what_is_of_another_kind_is_somebodys(host, tmp_path, kind):
    """Also where nothing was recorded, and his has an older time."""
    file = tmp_path / "file"
    path = whole(file)
    server = Received(host)
    server.note(7, path)
    file.unlink()
    {"directory": file.mkdir, "link": lambda: file.symlink_to("x"), "fifo": lambda: os.mkfifo(file)}[kind]()
    server.ended(7, recorded=False)
    assert not lost(host)(path, None)


def test_what_was_received_long_ago_is_recorded_by_now(host, tmp_path, monkeypatch):
    server, old, new = Received(host), whole(tmp_path / "old"), whole(tmp_path / "new")
    now = time.time()
    server.note(7, old)
    server.note(7, new)
    monkeypatch.setattr(time, "time", lambda: now + received.RECORDED_WITHIN - 1)
    server.note(7, new)
    monkeypatch.setattr(time, "time", lambda: now + received.RECORDED_WITHIN + 1)
    lose(host, server=server)
    server.note(7, new)
    server.write()
    assert [*server.by_process[7].paths] == [new]


def test_who_was_down_for_long_does_not_take_what_came_later_for_csync2s(host, tmp_path):
    server, file = Received(host), tmp_path / "file"
    path = whole(file)
    server.note(7, path)
    server.write()
    os.utime(os.path.join(server.directory, "7"), (time.time() - 60,) * 2)
    Received(host)
    assert not lost(host)(path, None)


def test_a_long_connection_does_not_fill_the_disk(host, tmp_path, monkeypatch):
    monkeypatch.setattr(received, "MOST", 1000)
    server, path = Received(host), os.fsencode(tmp_path / "file")
    for number in range(100):
        server.note(7, path + b"%d" % (number % 3))
        server.write()
        assert os.path.getsize(os.path.join(server.directory, "7")) < 1500
    Received(host)
    for number in range(3):
        assert lost(host)(path + b"%d" % number, b"record"), "there was nothing"


@pytest.mark.parametrize("content", [b"\n\0\xff", b"1.0 2.0 +", b"a b c\n" * 9])
def test_a_damaged_file_tells_of_nothing(host, tmp_path, content):
    for name in ("csync2.received/7", "data/journal/1.received"):
        file = pathlib.Path(host.state, name)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
    Received(host)
    assert not lost(host)(whole(tmp_path / "file"), None)


# --- While csync2 is at it


@pytest.fixture
def serving(tmp_path, monkeypatch):
    """Where the server notes which csync2 serves."""
    monkeypatch.setattr(custody, "SERVING", str(tmp_path / "serving"))
    (tmp_path / "serving").mkdir()
    return tmp_path / "serving"


@pytest.mark.parametrize("recorded", [True, False])
def test_who_looks_again_sees_what_a_csync2_has_left_meanwhile(host, tmp_path, serving, recorded):
    server, there = Received(host), unrecorded(host)
    time.sleep(0.02)
    (serving / "7").mkdir()
    path = whole(tmp_path / "file")
    server.note(7, path)
    server.ended(7, recorded)
    (serving / "7").rmdir()
    there.look()
    assert there.is_lost(path, None) != recorded


def test_what_was_recorded_is_not_lost_with_the_server(host, tmp_path):
    server, path = Received(host), whole(tmp_path / "file")
    server.note(7, path)
    server.ended(7, recorded=True)
    assert os.listdir(Received(host).directory) == []
    assert not lost(host)(path, None)


# --- How it is said


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.setattr(custody, "LOG", str(tmp_path / "log"))
    monkeypatch.setattr("csync2lib.csync2.log.SYSTEM", str(tmp_path / "system"))
    made = Log()
    yield made
    made.close()


def test_messages_are_heard_whole_and_from_whom(log, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as csync2:
        csync2.connect(custody.LOG)
        text = HEAD + b"Updated /a\n\xff from web1.\n\0" + HEAD + b"Updated /b fr"
        csync2.sendall(text)
        (said,), is_all = log.hear()
        assert (said, is_all) == ((os.getpid(), b"Updated /a\n\xff from web1."), True)
        csync2.sendall(b"om web1.\n\0")
    (said,), _ = log.hear()
    assert said == (os.getpid(), b"Updated /b from web1.")
    assert log.hear() == ([], True)
    assert not log.open


def test_only_what_somebody_may_want_to_know_goes_on(log, tmp_path):
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as system,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as csync2,
    ):
        system.bind(str(tmp_path / "system"))
        system.setblocking(False)
        csync2.connect(custody.LOG)
        trouble = [
            b"<131>Nov 30 00:17:01 csync2[7]: Cannot open\n",
            b"<132>Nov  1 00:17:01 csync2[7]: Finished with 3 errors.\n",
        ]
        for text in (
            HEAD + b"Updated /a from b.\n",
            *trouble,
            b"<132>Nov 30 00:17:01 csync2[7]: Finished with 0 errors.\n",
        ):
            csync2.sendall(text + b"\0")
        assert len(log.hear()[0]) == 4
        assert [system.recv(4096), system.recv(4096)] == trouble
        with pytest.raises(BlockingIOError):
            system.recv(4096)


def test_nobody_keeps_the_server_from_hearing_others(log):
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as endless,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as csync2,
    ):
        for one in (endless, csync2):
            one.connect(custody.LOG)
        endless.sendall(b"x" * (1 << 15))
        csync2.sendall(HEAD + b"Updated /a from b.\n\0")
        assert [text for _, text in log.hear()[0]] == [b"Updated /a from b."]
        assert len(log.open) == 1, "who never ends a message is not heard any more"


# --- What the check makes of it


@pytest.fixture
def tree(pair):
    pair.forget()
    with pair.group.open_database(write=True) as database:
        database.set_state(Database.ESTABLISHED)
    return pair


@pytest.mark.parametrize("how", ["full rescan", "journal", "tree", "not named"])
def test_the_check_records_it_and_sends_it_to_nobody(tree, how):
    top = os.fsencode(tree.include)
    for name in (b"changed", b"deleted", b"other"):
        tree.write(name)
    tree.check()
    with tree.group.open_database(write=True) as database:
        database.keep_dirty(lambda path, peer: False)
    paths = {name: os.path.join(top, name) for name in (b"changed", b"deleted", b"new", b"directory", b"other", b"own")}
    for name in (b"changed", b"new"):
        whole(tree.include / name.decode(), "from another host")
    os.mkdir(paths[b"directory"])
    os.unlink(paths[b"deleted"])
    lose(tree.group.host, *(paths[name] for name in (b"changed", b"deleted", b"new", b"directory")))
    tree.write(b"own", b"made here")
    os.chmod(paths[b"other"], 0o600)
    named = [paths[b"own"], paths[b"other"]] if how == "not named" else [*paths.values()]
    journal.write(tree.group.journal, [*([top + b"/"] if how == "tree" else []), *named], False, "named")
    tree.check(how == "full rescan")
    assert tree.left() == {paths[b"own"], paths[b"other"]}
    with tree.group.open_database() as database:
        found, _ = database.records([*paths.values()])
    assert found.keys() == {*paths.values()} - {paths[b"deleted"]}
    assert found[paths[b"changed"]].endswith(b"size=17")
    assert journal.waiting(tree.group.journal) == []


def test_what_was_lost_does_not_count_as_a_lost_disk(tree):
    for number in range(150):
        tree.write(b"file%d" % number)
    tree.check()
    with tree.group.open_database(write=True) as database:
        database.keep_dirty(lambda path, peer: False)
    paths = [os.path.join(os.fsencode(tree.include), b"file%d" % number) for number in range(140)]
    for path in paths:
        os.unlink(path)
    lose(tree.group.host, *paths)
    tree.check()
    assert tree.left() == set()
    with tree.group.open_database() as database:
        assert database.records(paths)[0] == {}


def test_a_csync2_that_is_killed_while_all_is_checked_is_no_other_matter(tree, monkeypatch):
    """The check has begun before the server notes what was lost."""
    tree.check()
    with tree.group.open_database(write=True) as database:
        database.keep_dirty(lambda path, peer: False)
    found, path = Differences.below, os.path.join(os.fsencode(tree.include), b"came")

    def killed_meanwhile(self, root):
        whole(tree.include / "came")
        lose(tree.group.host, path)
        return found(self, root)

    monkeypatch.setattr(Differences, "below", killed_meanwhile)
    tree.check()
    assert tree.left() == set()
    tree.check()
    assert tree.left() == set()
    with tree.group.open_database() as database:
        assert database.record(path) is not None


@pytest.mark.parametrize("code", [0, 1, -9])
def test_who_gives_up_has_recorded_nothing(host, tmp_path, monkeypatch, code):
    monkeypatch.setattr(custody, "SERVING", str(tmp_path / "serving"))
    monkeypatch.setattr(custody, "LOG", str(tmp_path / "log"))
    server = server_module.Server(host)
    path = whole(tmp_path / "file")
    with subprocess.Popen(["sh", "-c", "exit 1" if code == 1 else "kill -9 $$" if code else "true"]) as process:
        os.makedirs(os.path.join(custody.SERVING, str(process.pid)))
        server.connections.append(server_module.Connection("127.0.0.1", process))
        server.received.note(process.pid, path)
        process.wait()
        server.reap()
    assert not server.connections and os.listdir(custody.SERVING) == []
    assert bool(lost(host)(path, None)) == bool(code)
    server.log.close()


def test_what_csync2_has_recorded_is_not_sent_on_because_the_watcher_names_it(tree):
    """It stood otherwise than recorded when it was judged. Of what somebody has rewritten the watcher is sure."""
    (tree.include / "directory").mkdir()
    paths = [whole(tree.include / name) for name in ("received", "rewritten", "changed", "changed\n2")]
    tree.check()
    with tree.group.open_database(write=True) as database:
        database.keep_dirty(lambda path, peer: False)
    out = [(path, False, path == paths[1]) for path in (*paths[:3], os.fsencode(tree.include / "directory"))]
    journal.write(tree.group.journal, journal.lines(out), False, 1)
    journal.write(tree.group.journal, paths[2:], False, journal.CHANGED)
    tree.check(full=False)
    assert tree.left() == {*paths[1:]}
    assert journal.waiting(tree.group.journal) == []


@pytest.mark.parametrize("how", ["full rescan", "journal", "tree"])
@pytest.mark.parametrize("within", [0.0, 1.0, 30.0])
def test_what_csync2_may_be_about_to_record_is_left_to_the_next_check(tree, monkeypatch, how, within):
    """Whoever names it: as old as what csync2 was last seen to wait for. What is older is recorded."""
    for name in (b"old", b"young", b"gone"):
        tree.write(name)
    tree.check()
    with tree.group.open_database(write=True) as database:
        database.keep_dirty(lambda path, peer: False)
    top = os.fsencode(tree.include)
    tree.write(b"old", b"changed")
    time.sleep(1.1)
    tree.write(b"young", b"changed")
    tree.write(b"new")
    os.unlink(os.path.join(top, b"gone"))
    young, old = {os.path.join(top, name) for name in (b"young", b"gone", b"new")}, os.path.join(top, b"old")
    began = time.time()
    lines = [top + b"/"] if how == "tree" else [old, *young]
    journal.write(tree.group.journal, lines, False, "named")
    with monkeypatch.context() as patch:
        patch.setattr(check_module, "unrecorded_for", lambda *_: within)
        tree.check(how == "full rescan")
    left = set() if not within else young if within < 2 else {old, *young}
    assert tree.left() == {old, *young} - left
    before = ledger.Log(os.path.join(tree.group.path("sent"), ledger.BEFORE))
    noted = {path for path in (old, *young) if before.taken(encode(path)).when > began}
    assert noted == {old, *young} - left, "it does not say of the rest that it was made here"
    assert bool(journal.names(tree.group.journal)) == bool(left)
    tree.check(full=False)
    assert tree.left() == {old, *young}
    assert journal.waiting(tree.group.journal) == []


def test_who_dies_while_the_check_has_the_database_has_not_recorded_it(tree, monkeypatch):
    """It was alive when the path was looked at, and nobody can say any more what it did before it is all noted."""
    tree.check()
    with tree.group.open_database(write=True) as database:
        database.keep_dirty(lambda path, peer: False)
    path = whole(tree.include / "came")

    def dies(*_):
        lose(tree.group.host, path)
        return 0.0

    journal.write(tree.group.journal, [path], False, "named")
    with monkeypatch.context() as patch:
        patch.setattr(check_module, "unrecorded_for", dies)
        tree.check(full=False)
    tree.check(full=False)
    assert tree.left() == set()
    with tree.group.open_database() as database:
        assert database.record(path) is not None


@pytest.mark.parametrize("how", ["sleeps", "recorded meanwhile"])
def test_of_what_is_left_to_the_next_check_the_journal_still_says_that_it_was_rewritten(tree, monkeypatch, how):
    """csync2, which is at it, records what somebody has written there as what it has received."""
    path = tree.write(b"file")
    tree.check()
    with tree.group.open_database(write=True) as database:
        database.keep_dirty(lambda path, peer: False)
    tree.write(b"file", b"somebody's")
    with monkeypatch.context() as patch:
        if how == "sleeps":
            patch.setattr(check_module, "unrecorded_for", lambda *_: custody.RECORDED_LATE)
        else:
            patch.setattr(Database, "take_in", lambda self, found, *_: {path for path, _, _ in found})
        journal.write(tree.group.journal, journal.lines([(path, False, True)]), False, 1)
        tree.check(full=False)
    assert tree.left() == set()
    with tree.group.open_database(write=True) as database:
        database.take_in([(path, stands(path), database.record(path))], HERE, ())
    tree.check(full=False)
    assert tree.left() == {path}
    assert journal.waiting(tree.group.journal) == []


def test_what_a_csync2_is_about_is_known_by_what_it_waits_for(tree, serving, monkeypatch):
    """
    While it waits for its peer all that it did is recorded. While somebody else has its database, it has written a file
    and records nothing, and says nothing.
    """
    tree.write(b"first")
    tree.check()
    tree.send()
    tree.write(b"file", b"content")
    tree.check()
    database = os.path.join(tree.hosts[THERE].directory, f"{THERE}_data.db3")

    def within():
        for pid in tree.serving():
            (serving / pid).mkdir(exist_ok=True)
        for pid in {*os.listdir(serving)} - {*tree.serving()}:
            (serving / pid).rmdir()
        return custody.unrecorded_for(database, [os.fsencode(tree.include)])

    assert within() == 0.0
    with begun(tree):
        until(lambda: any(custody.has_open(pid, database) for pid in tree.serving()))
        time.sleep(0.1)
        assert within() == 0.0
    tree.served()
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM file").fetchall()
        sender = threading.Thread(target=tree.send)
        sender.start()
        until((tree.there / "file").exists)
        with monkeypatch.context() as patch:
            patch.setattr(custody, "SLEEP", 0.1)  # a sender would ask whether it answers
            until(lambda: within() == custody.RECORDED_LATE)
        assert all(custody.has_open(pid, database) for pid in tree.serving())
    assert within() == 0.0, "it sleeps once more, and has the database then"
    sender.join()
    assert (tree.there / "file").read_bytes() == b"content"
    assert tree.left() == set()
    tree.served()
    assert within() == 0.0


@pytest.mark.parametrize("opened", ["nothing", "r", "w", "deleted", "elsewhere"])
def test_who_waits_for_something_else_may_be_about_anything(tmp_path, serving, opened):
    """But who reads a file of the group has closed it before it changes anything."""
    there, include = tmp_path / "database", tmp_path / "include"
    there.touch()
    include.mkdir()
    file = (tmp_path if opened == "elsewhere" else include) / "file"
    whole(file)
    with open(there, "rb") as database, open(file, "r+b" if opened == "w" else "rb") as handle:
        if opened == "deleted":
            file.unlink()
        handles = [database.fileno(), *([handle.fileno()] if opened != "nothing" else [])]
        os.mkfifo(tmp_path / "fifo")
        process = subprocess.Popen(["cat", tmp_path / "fifo"], pass_fds=handles, stdout=subprocess.DEVNULL)
    try:
        (serving / str(process.pid)).mkdir()
        until(lambda: custody.has_open(process.pid, str(there)))
        assert custody.unrecorded_for(str(there), [os.fsencode(include)]) == (
            0.0 if opened == "r" else custody.RECORDED
        )
        assert custody.unrecorded_for(str(tmp_path / "another"), [os.fsencode(include)]) == 0.0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", ["it", ".it", "..it", "with space", "i" * 255, "é" * 127, ".é" + "é" * 120])
@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_what_makes_room_for_a_file_is_deleted_by_nobody(tree, serving, kind, name):
    """csync2 deletes it before it receives the file, and waits for its peer meanwhile."""
    path, other = (os.path.join(os.fsencode(tree.include), one) for one in (name.encode(), b"other"))
    make = {"link": lambda at: at.symlink_to("x"), "fifo": os.mkfifo, "directory": pathlib.Path.mkdir}[kind]
    for one in (name, "other"):
        make(tree.there / one)
    tree.check_there()
    database = os.path.join(tree.hosts[THERE].directory, f"{THERE}_data.db3")
    with Database(database, timeout=5, write=True) as theirs:
        theirs.keep_dirty(lambda path, peer: False)
    with begun(tree, f"PATCH KEY {urllib.parse.quote(path)}"):
        until(lambda: not os.path.lexists(tree.there / name))
        for pid in tree.serving():
            (serving / pid).mkdir()
        until(lambda: unfinished.patched(database, [path, other]) == {path})
        assert custody.unrecorded_for(database, [os.fsencode(tree.include)]) == 0.0
    tree.served()


@pytest.mark.parametrize("is_patched", [True, False])
def test_a_deletion_that_makes_room_for_a_file_is_left_to_the_next_check(tree, monkeypatch, is_patched):
    (tree.include / "link").symlink_to("x")
    tree.write(b"file")
    tree.check()
    with tree.group.open_database(write=True) as database:
        database.keep_dirty(lambda path, peer: False)
    for name in ("link", "file"):
        (tree.include / name).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(unfinished, "patched", lambda database, paths: {*paths} if is_patched else set())
        tree.check()
    link, file = (os.path.join(os.fsencode(tree.include), name) for name in (b"link", b"file"))
    assert tree.left() == ({file} if is_patched else {file, link})
    tree.check(full=False)
    assert tree.left() == {file, link}


@contextlib.contextmanager
def begun(tree, last="TYPE KEY /"):
    """Somebody is connected to the other csync2, has said who he is and something more, and says nothing now."""
    there = socket.create_connection((THERE, tree.port), source_address=(HERE, 0))
    with there as connection, connection.makefile("rwb") as peer:
        key = urllib.parse.quote(pathlib.Path(tree.hosts[HERE].key_file).read_text().strip())
        for line in ("CONFIG data", f"HELLO {HERE}", last.replace("KEY", key)):
            peer.write(f"{line}\n".encode())
            peer.flush()
            peer.readline()
        yield


@pytest.mark.parametrize("full", [True, False], ids=["full rescan", "journal"])
def test_what_csync2_took_for_a_change_when_it_was_sent_again_is_none(tree, full):
    """csync2's server finds what it had written and not recorded, records it, and makes it dirty for all."""
    tree.check()
    server, path = Received(tree.group.host), whole(tree.include / "came")
    tree.write(b"own")
    own = os.path.join(os.fsencode(tree.include), b"own")
    with tree.group.open_database(write=True) as database:
        database.keep_dirty(lambda path, peer: False)
    server.note(7, path)
    server.note(7, own)
    time.sleep(0.02)
    tree.write(b"own", b"changed since")
    server.ended(7, recorded=False)
    run("data", "-cr", "/")
    assert tree.left() >= {path, own}
    tree.check(full)
    assert tree.left() == {own}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_what_csync2_has_begun_is_sent_to_nobody(tree):
    """Though it was made dirty; when the peer sends it again, it is taken."""
    tree.check()
    tree.send()
    tree.write(b"half")
    tree.write(b"whole")
    os.chown(os.path.join(os.fsencode(tree.include), b"half"), custody.UID, custody.UID)
    run("data", "-cr", "/")
    assert len(tree.left()) == 2
    tree.send()
    assert tree.left() == set()
    assert os.listdir(tree.there) == ["whole"]
