"""File names, states and databases: as csync2 itself writes and reads them, so it is asked."""

import contextlib
import os
import signal
import sqlite3
import stat
import threading
import time
from types import SimpleNamespace

import pytest
from csync2lib import contents
from csync2lib.csync2.database import Database
from csync2lib.csync2.names import ENCODED, database_path, decode, encode
from csync2lib.csync2.states import UNKNOWN, check_text
from hypothesis import given
from hypothesis import strategies as st

names = st.binary(min_size=1, max_size=30).map(lambda raw: raw.replace(b"\x00", b"\n"))

# --- Without csync2 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", b""),
        (b"/srv/data-1_2.x~", b"/srv/data-1_2.x~"),
        (b"a b", b"a%20b"),
        (b"\x01\t\n\x1f\x7f", b"%01%09%0A%1F%7F"),
        (b"\"'%$:|\\", b"%22%27%25%24%3A%7C%5C"),
        (b"%41", b"%2541"),
        ("dätä".encode(), "dätä".encode()),
        (b"\x80\xff", b"\x80\xff"),
        (b"#;@(){}*?[]<>&!`", b"#;@(){}*?[]<>&!`"),
    ],
)
def test_a_name_is_encoded_as_csync2_does(raw, text):
    assert encode(raw) == text
    assert decode(text) == raw


@given(st.binary())
def test_decoding_gives_back_what_was_encoded(raw):
    encoded = encode(raw)
    assert decode(encoded) == raw
    assert not set(encoded.replace(b"%", b"")) & set(ENCODED)


@given(st.binary())
def test_anything_can_be_decoded(text):
    decode(text)


def status(mode, **changes):
    fields = {"st_mtime_ns": 1_700_000_000_999_999_999, "st_uid": 0, "st_gid": 0, "st_size": 0, "st_rdev": 0}
    return SimpleNamespace(st_mode=mode, **{**fields, **changes})


@pytest.mark.parametrize(
    ("given_status", "text"),
    [
        (status(0o100644, st_size=2**40), b"v1:mtime=1700000000:mode=33188:uid=0:gid=0:type=reg:size=1099511627776"),
        (status(0o100644, st_mtime_ns=-1), b"v1:mtime=-1:mode=33188:uid=0:gid=0:type=reg:size=0"),
        (status(0o100644, st_mtime_ns=0), b"v1:mtime=0:mode=33188:uid=0:gid=0:type=reg:size=0"),
        (status(0o041777, st_uid=33, st_gid=34), b"v1:mode=17407:uid=33:gid=34:type=dir"),
        (status(0o040755, st_uid=2**32 - 2, st_gid=2**31), b"v1:mode=16877:uid=-2:gid=-2147483648:type=dir"),
        (status(0o010600), b"v1:mtime=1700000000:mode=4480:uid=0:gid=0:type=fifo"),
        (status(0o140755), b"v1:mtime=1700000000:mode=49645:uid=0:gid=0:type=sock"),
        (status(0o020666, st_rdev=259), b"v1:mtime=1700000000:mode=8630:uid=0:gid=0:type=chr:dev=259"),
        (status(0o060660, st_rdev=2**31 + 1), b"v1:mtime=1700000000:mode=25008:uid=0:gid=0:type=blk:dev=-2147483647"),
    ],
)
def test_a_state_has_csync2s_text(given_status, text):
    assert check_text(b"/nowhere", given_status) == text


def test_two_writes_within_a_second_have_one_text():
    one, two = (status(0o100644, st_mtime_ns=1_700_000_000_000_000_000 + n) for n in (1, 2))
    assert check_text(b"/x", one) == check_text(b"/x", two)


@pytest.mark.parametrize("swapped", ["directory", "nothing"])
def test_a_link_that_is_swapped_while_it_is_looked_at_has_no_known_state(tmp_path, swapped):
    """A user may do that all the time: no check may end with an error because of it."""
    path = tmp_path / "link"
    path.symlink_to("target")
    status = os.lstat(path)
    path.unlink()
    if swapped == "directory":
        path.mkdir()
    assert check_text(os.fsencode(path), status) == UNKNOWN


def test_a_database_is_named_after_the_host_and_the_group():
    assert database_path("/var/lib/csync2", "Web1", "data") == "/var/lib/csync2/web1_data.db3"


@pytest.mark.parametrize("name", ["x.db3", "a?b#c%41 d.db3"])
def test_a_missing_database_is_not_made(tmp_path, name):
    for write in (False, True):
        with pytest.raises(sqlite3.Error):
            Database(str(tmp_path / name), write=write).count()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"nonsense" * 1000, b""])
def test_a_damaged_database_is_a_database_error(tmp_path, content):
    path = tmp_path / "x.db3"
    path.write_bytes(content)
    with Database(str(path)) as database, pytest.raises(sqlite3.Error):
        database.count()


# --- With csync2 ------------------------------------------------------------------------------------------

ODD_NAMES = [
    b"plain",
    b"new\nline",
    b"tab\tcr\r",
    b"quote'double\"",
    b"percent%41%",
    b"dollar$HOME",
    b"back\\slash\\",
    b"colon:pipe|",
    b" blanks ",
    b"-rf",
    b"--",
    b"*?[a]",
    b"semi;hash#at@(){}<>&!`",
    "dätä\u2028🐟".encode(),
    b"latin-1 \xe4\xff\xfe",
    b"\x01\x1f\x7f\x80",
    b"n" * 255,
    b"%" * 255,
]


def assert_recorded(tree, *paths):
    with tree.database() as database:
        for path in paths:
            assert database.record(path) == check_text(path, os.lstat(path)), path


def test_the_recorded_states_of_odd_names_are_those_that_are_computed(tree):
    made = [tree.path]
    for number, name in enumerate(ODD_NAMES):
        made.append(tree.write(name, b"x" * number))
        made.append(tree.write(os.path.join(b"directories", name, b"inner " + name[:100])))
        made.append(os.path.dirname(made[-1]))
        for kind in (b"links", b"pipes"):
            os.makedirs(tree / kind, exist_ok=True)
        made.append(os.path.join(tree / b"links", name))
        os.symlink(name, made[-1])
        made.append(os.path.join(tree / b"pipes", name))
        os.mkfifo(made[-1])
    tree.check()
    assert_recorded(tree, *made)
    with tree.database() as database:
        assert database.count() == sum(len(d) + len(f) for _, d, f in os.walk(tree.path)) + 1
        assert database.record(tree / b"missing") is None


@pytest.mark.parametrize(
    "target", [*ODD_NAMES, b"/nowhere/\xff", b".", b"..", b"t" * 4095, b"%" * 4095, b":type=reg:size=0"]
)
def test_a_link_is_recorded_with_its_target(tree, target):
    os.symlink(target, tree / b"link")
    tree.check()
    assert_recorded(tree, tree / b"link")


@pytest.mark.parametrize("mode", [0o000, 0o644, 0o777, 0o1777, 0o2755, 0o4755, 0o7777])
def test_a_mode_is_recorded(tree, mode):
    os.chmod(tree.write(b"file"), mode)
    os.mkdir(tree / b"directory")
    os.chmod(tree / b"directory", mode | 0o500)
    tree.check()
    assert_recorded(tree, tree / b"file", tree / b"directory")


@pytest.mark.parametrize("seconds", [-2.5, -1, -0.1, 0, 0.9, 1_700_000_000.999, 2**31 - 1, 2**31, 2**32 + 0.5])
def test_a_time_is_recorded_in_whole_seconds(tree, seconds):
    path = tree.write(b"file")
    os.utime(path, (seconds, seconds))
    tree.check()
    assert_recorded(tree, path)


def test_a_socket_is_recorded(tree):
    os.mknod(tree / b"socket", stat.S_IFSOCK | 0o600)
    tree.check()
    assert_recorded(tree, tree / b"socket")


def test_a_large_file_is_recorded(tree):
    path = tree.write(b"sparse")
    os.truncate(path, 5 * 2**32 + 1)
    tree.check()
    assert_recorded(tree, path)


if os.geteuid() == 0:  # only root may

    @pytest.mark.parametrize("owner", [0, 33, 2**31 - 1, 2**31, 2**32 - 2])
    def test_an_owner_is_recorded(tree, owner):
        path = tree.write(b"file")
        os.lchown(path, owner, owner)
        tree.check()
        assert_recorded(tree, path)

    @pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
    @pytest.mark.parametrize("numbers", [(1, 3), (259, 70000), (4095, 1048575)])
    def test_a_device_is_recorded(tree, kind, numbers):
        try:
            os.mknod(tree / b"device", kind | 0o600, os.makedev(*numbers))
        except PermissionError:  # in a container; the text is tested above
            return
        tree.check()
        assert_recorded(tree, tree / b"device")


def test_a_state_that_changed_differs_from_the_record(tree):
    path = tree.write(b"file", b"1")
    tree.check()
    tree.write(b"file", b"12")
    with tree.database() as database:
        assert database.record(path) != check_text(path, os.lstat(path))


def test_what_is_to_be_sent_is_listed_for_each_peer(tree):
    tree.check("-cIr", "/")
    paths = sorted(tree.write(name) for name in ODD_NAMES)
    with tree.database() as database:
        assert database.dirty() == []
        assert database.dirty_peers() == {}
    tree.check()
    with tree.database() as database:
        found = database.dirty()
        assert sorted(found) == sorted((path, peer, False) for path in paths for peer in tree.peers.values())
        assert database.dirty_peers() == dict.fromkeys(tree.peers.values(), len(paths))


def test_a_forced_path_is_listed_as_forced(tree):
    path = tree.write(b"it's %")
    tree.check("-cIr", "/")
    tree.check("-m", os.fsdecode(path))
    with tree.database() as database:
        assert set(database.dirty()) == {(path, peer, False) for peer in tree.peers.values()}
    tree.check("-f", os.fsdecode(path))
    with tree.database() as database:
        assert set(database.dirty()) == {(path, peer, True) for peer in tree.peers.values()}


def test_what_waits_for_hosts_waits_where_they_are_now(tree):
    tree.write(b"file")
    tree.check()
    before = set()
    with tree.database(write=True) as database:
        peers = sorted(database.dirty_peers())
        one, other = peers[:2] if len(peers) > 1 else (peers[0], "10.0.0.9")
        database.mark([b"/only"], "10.0.0.1", [one])
        before = {(path, peer) for path, peer, _ in database.dirty()}
        database.readdress({one: other, other: one})
        swapped = {one: other, other: one}
        assert {(path, peer) for path, peer, _ in database.dirty()} == {
            (path, swapped.get(peer, peer)) for path, peer in before
        }
        database.readdress({one: "10.9.9.9"})
        assert one not in database.dirty_peers()


def test_what_is_not_wanted_is_not_sent(tree):
    keep, drop = tree.write(b"keep '%' \xff"), tree.write(b"drop '%' \xff")
    tree.check()
    with tree.database(write=True) as database:
        database.keep_dirty(lambda path, peer: path == keep and peer == tree.peers["web3"])
        assert database.dirty() == [(keep, tree.peers["web3"], False)]
        assert database.record(drop) is not None
    done = tree.csync2("data", "-M")
    assert done.returncode == 0
    assert done.stdout.count("chary") == 1


def test_to_want_everything_changes_nothing(tree):
    tree.write(b"file")
    tree.check()
    with tree.database(write=True) as database:
        before = database.dirty()
        database.keep_dirty(lambda path, peer: True)
        assert database.dirty() == before != []


def test_only_what_is_below_a_directory_counts_as_below_it(tree):
    for name in (b"a b/inner", b"a bc/inner", b"empty0", b"odd'%\xff/x"):
        tree.write(name)
    os.mkdir(tree / b"empty")
    tree.check()
    with tree.database() as database:
        below = {
            name: database.has_below(tree / name)
            for name in (b"a b", b"a bc", b"a", b"a b/inner", b"empty", b"odd'%\xff", b"missing")
        }
        assert database.has_below(tree.path)
    assert [name for name, yes in below.items() if yes] == [b"a b", b"a bc", b"odd'%\xff"]


def test_what_is_recorded_of_a_directory(tree):
    written = {tree.write(name) for name in (b"dir/white space", b"dir/sub/x", b"dir0", b"dir-")}
    tree.check()
    with tree.database() as database:
        found = set(database.below(tree / b"dir"))
        assert found == {tree / b"dir", tree / b"dir/sub"} | {path for path in written if b"/dir/" in path}
        assert database.below(tree / b"gone") == []


def test_the_count_is_of_all_recorded_paths(tree):
    for name in (b"a", b"b/c"):
        tree.write(name)
    tree.check()
    with tree.database() as database:
        assert database.count() == 4
    os.unlink(tree / b"a")
    tree.check()
    with tree.database() as database:
        assert database.count() == 3


def test_a_database_that_csync2_made_is_new(tree):
    tree.check()
    with tree.database() as database:
        assert database.state() == Database.NEW


@pytest.mark.parametrize("state", [Database.RECORDED, Database.ESTABLISHED])
def test_a_databases_state_outlives_what_csync2_does_with_it(tree, state):
    tree.check()
    with tree.database(write=True) as database:
        database.set_state(state)
    tree.write(b"file")
    for arguments in (("-cr", "/"), ("-cIr", "/"), ("-M",), ("-L",), ("-R",)):
        tree.csync2("data", *arguments)
        with tree.database() as database:
            assert database.state() == state
            assert database.record(tree / b"file") is not None


def test_a_reader_cannot_write(tree):
    tree.check()
    with tree.database() as database:
        assert database.dirty()
        for write in (
            lambda: database.set_state(1),
            lambda: database.pin({}),
            lambda: database.keep_dirty(lambda *_: False),
        ):
            with pytest.raises(sqlite3.Error):
                write()


@pytest.mark.parametrize("write", ["mark", "state"])
def test_who_writes_lets_a_csync2_finish_that_has_read_in_its_transaction(tree, write):
    """It sleeps by whole seconds, with what it has read locked, while somebody else has begun to write: both would."""
    path = tree.write(b"file")
    tree.check()
    csync2 = sqlite3.connect(tree.file, timeout=0, isolation_level=None, check_same_thread=False)
    with contextlib.closing(csync2):
        csync2.execute("BEGIN")
        csync2.execute("SELECT count(*) FROM dirty").fetchall()

        def ours():
            with Database(tree.file, timeout=10, write=True) as database:
                database.mark([path], "10.0.0.1", ["10.0.0.9"]) if write == "mark" else database.set_state(2)

        writer = threading.Thread(target=ours)
        writer.start()
        time.sleep(0.3)
        for _ in range(200):  # the writer tries at times; csync2 would sleep then
            with contextlib.suppress(sqlite3.OperationalError):
                csync2.execute("DELETE FROM dirty WHERE peername = 'nobody'")
                break
        else:
            pytest.fail("csync2 cannot write, and keeps the writer from it")
        assert writer.is_alive()
        csync2.execute("COMMIT")
        writer.join()
    with tree.database() as database:
        assert database.is_dirty(path, "10.0.0.9") == (write == "mark")
        assert (database.state() == 2) == (write == "state")


def test_what_a_killed_process_has_begun_to_write_is_rolled_back_by_whoever_comes_first(tree):
    tree.write(b"file")
    tree.check()
    writer = os.fork()
    if not writer:
        opened = sqlite3.connect(tree.file, isolation_level=None)
        opened.execute("PRAGMA cache_size = 1")
        opened.execute("BEGIN")
        opened.execute("DELETE FROM file")
        opened.executemany("INSERT INTO file VALUES (?, 'x')", [(f"/{number}",) for number in range(10_000)])
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(writer, 0)
    assert os.path.getsize(f"{tree.file}-journal"), "it was about to write"
    with tree.database() as database:
        assert database.record(tree / b"file") is not None
        assert database.count() < 10


def test_nobody_else_pins_a_certificate(tree):
    """csync2 takes in that of whoever comes with a name that it does not know, as another spelling of an address is."""
    tree.check()
    with tree.database(write=True) as database:
        assert not database.is_pinned()
        for _ in range(2):
            database.pin({"10.0.0.2": "3082AA"})
            assert database.is_pinned()
    path = database_path(str(tree.csync2.directory), "web1", "data")
    with contextlib.closing(sqlite3.connect(path)) as raw, pytest.raises(sqlite3.IntegrityError, match="not pinned"):
        raw.execute("INSERT INTO x509_cert (peername, certdata) VALUES ('0x0a.0.0.2', '3082')")
    tree.write(b"new")
    tree.check()
    with tree.database() as database:
        assert database.certificates() == {"10.0.0.2": "3082AA"}
        assert database.record(tree / b"new")


def test_pinned_certificates_are_exactly_those_given(tree):
    tree.check()
    with tree.database(write=True) as database:
        assert database.certificates() == {}
        database.pin({"10.0.0.2": "3082AA", "fd00::3": "3082BB"})
        database.pin({"10.0.0.2": "3082CC", "fd00::3": "3082BB"})
    tree.check()
    with tree.database(write=True) as database:
        assert database.certificates() == {"10.0.0.2": "3082CC", "fd00::3": "3082BB"}
        database.pin({"fd00::3": "3082BB"})
        assert database.certificates() == {"fd00::3": "3082BB"}
    # csync2 looks a peer up by its address as it encodes it, and compares text (conn.c, conn_check_peer_cert()).
    path = database_path(str(tree.csync2.directory), "web1", "data")
    with contextlib.closing(sqlite3.connect(path)) as raw:
        assert raw.execute(
            "SELECT peername, typeof(peername), certdata, typeof(certdata) FROM x509_cert"
        ).fetchall() == [("fd00%3A%3A3", "text", "3082BB", "text")]


def test_a_peers_part_is_a_database_that_csync2_takes(tree, tmp_path):
    written = [tree.write(name) for name in (b"plain", b"dir/white space", b"dir/line\nbreak", b"\xff %41'")]
    tree.check()
    part = tmp_path / "part"
    part.mkdir()
    copy = database_path(str(part), "web1", "data")
    with tree.database(write=True) as database:
        database.pin({"fd00::3": "3082BB"})
    with tree.database() as database:
        entries = database.part("fd00::3", b"", 100)
        database.copy(copy, entries)
        wanted = {path for path, peer, _ in database.dirty() if peer == "fd00::3"}
    assert set(written) < wanted == {decode(entry[1]) for entry in entries}
    with Database(copy) as database:
        assert {path for path, _, _ in database.dirty()} == wanted
        assert database.certificates() == {"fd00::3": "3082BB"}
        assert database.count() == 0
    whole = tree.csync2("data", "-M").stdout
    listed = tree.csync2("data", "-D", str(part), "-M").stdout
    assert sorted(listed.split("chary")) == sorted([""] + [one for one in whole.split("chary") if "fd00::3" in one])


def test_a_part_has_so_many_entries_and_the_next_one_the_rest(tree, tmp_path):
    for number in range(25):
        tree.write(b"%02d" % number)
    tree.check()
    copy, seen = str(tmp_path / "copy.db3"), []
    with tree.database() as database:
        while part := database.part("10.0.0.2", seen[-1][1] if seen else b"", 10):
            assert len(part) <= 10
            database.copy(copy, part)
            with Database(copy) as copied:
                assert copied.dirty_names() == {entry[1] for entry in part}
            seen += part
        wanted = {path for path, peer, _ in database.dirty() if peer == "10.0.0.2"}
    assert [decode(entry[1]) for entry in seen] == sorted(wanted) and len(seen) == 26


def test_what_is_above_something_that_a_peer_is_to_get_too(tree):
    for name in (b"a", b"a-c", b"b%/c", b"b0", b"d/e/\xff"):
        tree.write(name)
    tree.check()
    directories = [tree.path, *(os.path.join(tree.path, name) for name in (b"b%", b"d", b"d/e"))]
    with tree.database(write=True) as database:
        part = database.part("10.0.0.2", b"", 100)
        above = database.above_dirty("10.0.0.2", part[0].name, part[-1].name)
        assert sorted(map(decode, above)) == directories
        name = encode(directories[2])
        assert database.above_dirty("10.0.0.2", name, name) == {name}  # what is below comes after the last name
        last = [entry for entry in part if decode(entry.name).startswith(directories[3] + b"/")]
        database.discharge(last)
        above = database.above_dirty("10.0.0.2", part[0].name, part[-1].name)
        assert sorted(map(decode, above)) == directories[:3]
        assert encode(directories[3]) in database.above_dirty("fd00::3", part[0].name, part[-1].name)


def test_what_is_discharged_is_gone_for_this_peer_alone(tree):
    sent, kept = tree.write(b"sent"), tree.write(b"kept")
    tree.check()
    with tree.database(write=True) as database:
        entries = database.part("10.0.0.2", b"", 100)
        database.discharge([entry for entry in entries if decode(entry[1]) == sent])
        left = {(path, peer) for path, peer, _ in database.dirty()}
    assert left == {(tree.path, peer) for peer in tree.peers.values()} | {
        (sent, "fd00::3"),
        (kept, "fd00::3"),
        (kept, "10.0.0.2"),
    }


def test_what_is_to_be_sent_is_listed_for_some_peers(tree):
    tree.write(b"file")
    tree.check()
    with tree.database() as database:
        both = database.dirty()
        assert database.dirty(["fd00::3"]) == [entry for entry in both if entry[1] == "fd00::3"] != both
        assert database.dirty(["fd00::3", "10.0.0.2"]) == both
        assert database.dirty([]) == []


def test_only_files_that_have_content_are_compared(tree, monkeypatch):
    files = {tree.write(b"dir/file", b"x"), tree.write(b"\xff file", b"y")}
    tree.write(b"empty")
    os.symlink("file", tree / b"dir/link")
    tree.check()
    with tree.database() as database:
        assert set(database.contents()) == files
        monkeypatch.setattr("csync2lib.csync2.database.AT_ONCE", 1)
        assert set(database.contents()) == files


def test_digests_tell_which_contents_differ(tmp_path):
    names = [os.fsencode(tmp_path / str(number)) for number in range(200)]
    changed = names[7], names[23]

    def digests(*changed):
        """Of the same paths each time, because the whole path goes into a digest."""
        for name in names:
            with open(name, "wb") as file:
                file.write(b"changed" if name in changed else b"content")
        return contents.file_digests(names)

    one, same, other = digests(), digests(), digests(*changed)
    assert one == same and len(one) == contents.DIGESTS
    differing = {number for number in range(contents.DIGESTS) if one[number] != other[number]}
    assert differing == {contents.digest_slot(name) for name in changed}


def test_what_cannot_be_read_or_is_no_file_counts_as_missing(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    others = [os.fsencode(tmp_path / name) for name in ("gone", "link", "fifo", ".")]
    assert contents.file_digests(others) == contents.file_digests([])
    path = os.fsencode(tmp_path / "file")
    assert contents.file_digests([*others, path]) == contents.file_digests([path]) != contents.file_digests([])


def test_marked_paths_are_marked_for_one_peer(tree):
    path = tree.write(b"dir/white space", b"x")
    tree.check("-cIr", "/")
    with tree.database(write=True) as database:
        database.make_dirty([path], "10.0.0.1", "fd00::3")
        database.make_dirty([path], "10.0.0.1", "fd00::3")
    assert tree.csync2("data", "-M").stdout.split("\t")[1:3] == ["10.0.0.1", "fd00::3"]
    with tree.database(write=True) as database:
        assert database.dirty() == [(path, "fd00::3", False)]


def test_many_paths_are_marked_in_portions(tree, monkeypatch):
    monkeypatch.setattr("csync2lib.csync2.database.AT_ONCE", 3)
    paths = sorted(tree.write(b"%d" % number) for number in range(7))
    tree.check("-cIr", "/")
    with tree.database(write=True) as database:
        database.make_dirty(paths, "10.0.0.1", "fd00::3")
        assert [path for path, _, _ in database.dirty()] == paths


def test_a_failed_change_leaves_everything_as_it_was(tree):
    tree.write(b"file")
    tree.check()
    with tree.database(write=True) as database:
        database.pin({"10.0.0.2": "3082AA"})
    with pytest.raises(sqlite3.Error), tree.database(write=True) as database:
        database.pin({"10.0.0.2": object()})
    with tree.database() as database:
        assert database.certificates() == {"10.0.0.2": "3082AA"}


def test_a_locked_database_is_an_error_and_not_a_wait(tree):
    tree.check()
    path = database_path(str(tree.csync2.directory), "web1", "data")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with Database(path) as database, pytest.raises(sqlite3.OperationalError):
            database.count()


@given(names)
def test_every_name_can_be_asked_for(name):
    with contextlib.closing(sqlite3.connect(":memory:")) as raw:
        assert raw.execute("SELECT CAST(? AS TEXT) = CAST(? AS TEXT)", [encode(name)] * 2).fetchone() == (1,)
