"""File systems that come and go below an include, and what cannot be read: nobody has deleted what is there."""

import ctypes
import json
import os
import shutil
import subprocess
import time
import urllib.parse

import pytest
from csync2lib import journal, storage
from csync2lib.csync2 import namespace
from csync2lib.csync2.kept import keep_copy
from csync2lib.csync2.states import stands
from csync2lib.join.record import record
from csync2lib.push import check as check_module
from csync2lib.push import peers
from csync2lib.push import win as win_module
from pair import HERE, THERE, pair
from test_check import below, dirty, keep_clean, tree

__all__ = ["pair", "tree"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")


@pytest.fixture(autouse=True)
def noted(tree, tmp_path):
    """The include is known, and nothing of other tests is."""
    copy = tree.group.path(os.path.basename(tree.group.database) + ".copy")
    tree.group.forget("roots.json", "held", "away", "let_through", copy)
    tree.group.guard.note_roots([str(tree.include)])
    yield
    for top in (os.fsencode(tree.include), os.fsencode(tmp_path)):
        for mount in reversed(namespace.mounts()):
            if namespace.is_below(mount.point, top):
                umount(mount.point)
    tree.group.forget("roots.json", "held", "away", "let_through", copy)


@pytest.fixture
def includes(tree):
    """``includes(path, …)``: the group has these."""
    path = tree.group.path("config.json")
    before = open(path, encoding="utf-8").read()

    def use(*paths):
        with open(path, "w", encoding="utf-8") as file:
            json.dump({**json.loads(before), "include": [str(path) for path in paths]}, file)
        tree.group.guard.note_roots([str(path) for path in paths])

    yield use
    with open(path, "w", encoding="utf-8") as file:
        file.write(before)


@pytest.fixture
def disk(tmp_path):
    """``disk(place, name)``: what stands for a disk of that name is mounted there."""

    def mounted(place, name="disk"):
        (tmp_path / name).mkdir(exist_ok=True)
        os.makedirs(place, exist_ok=True)
        subprocess.run(["mount", "--bind", tmp_path / name, place], check=True)

    return mounted


def tmpfs(place):
    os.makedirs(place, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)


def umount(path):
    subprocess.run(["umount", path], check=True)


def look(tree, full=True, release=False):
    """The check of a push, and what a push does around it."""
    tree.group.guard.renew_roots(release)
    done = check_module.check(tree.group, tree.group.config, full, release)
    if not done.away:
        keep_copy(tree.group.directory, tree.group.database)
    return done.held


def send(tree):
    peers.send(tree.group, tree.group.config, [THERE], time.time())


def calm(tree):
    """All is recorded, and nothing is to be sent."""
    look(tree)
    keep_clean(tree)
    keep_copy(tree.group.directory, tree.group.database)


def received(tree, path):
    """As csync2's server records what it has received."""
    with tree.group.open_database(write=True) as database:
        database.put_back({path: stands(path)}, database.dirty())


def is_recorded(tree, path):
    with tree.group.open_database() as database:
        return database.record(path) is not None


# --- It goes, and comes back


@pytest.mark.parametrize("release", [True, False])
def test_what_lay_on_a_file_system_that_is_away_is_not_deleted(tree, disk, release):
    place = below(tree, b"m n")
    disk(place)
    paths = [tree.write(b"m n/%d" % number) for number in range(5)]
    other = tree.write(b"other")
    assert look(tree) == "", "a new one is no fault"
    assert {*paths} <= dirty(tree)
    umount(place)
    keep_clean(tree)
    os.unlink(other)
    told = look(tree, full=False)
    assert told.startswith(f"5 paths of {os.fsdecode(place)} are missing, and what was mounted there is gone")
    journal.write(tree.group.journal, [other], False, "n")
    assert look(tree, full=False) == told
    assert dirty(tree) == {other}
    tmpfs(place)
    told_of_it = look(tree, full=False)
    assert "another file system is mounted there" in told_of_it, "it is as empty as the directory below it"
    assert look(tree) == told_of_it
    assert dirty(tree) == {other}
    umount(place)
    if release:
        assert look(tree, full=False, release=True) == ""
        assert dirty(tree) - {place} == {other, *paths}
    else:
        disk(place)
        os.unlink(paths[0])
        assert look(tree, full=False) == ""
        assert paths[0] in dirty(tree), "what is missing on the same file system was deleted"


def test_what_is_hidden_by_a_file_system_is_not_deleted(tree):
    paths = [tree.write(b"d/%d" % number) for number in range(5)]
    calm(tree)
    place = below(tree, b"d")
    tmpfs(place)
    new = tree.write(b"d/new")
    assert "another file system is mounted there" in look(tree, full=False)
    assert new in dirty(tree)
    assert not dirty(tree) & {*paths}
    keep_clean(tree)
    umount(place)
    for full in (False, True):
        assert look(tree, full) == ""
        assert not dirty(tree) & {*paths, new}, "nor is what was written beside them meanwhile"


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("how", ["received", "local"])
def test_what_was_written_into_the_bare_mount_point_is_not_deleted_when_it_is_hidden_again(tree, disk, how, full):
    place = below(tree, b"d")
    disk(place)
    deleted = tree.write(b"d/x"), tree.write(b"d/y")
    calm(tree)
    umount(place)
    assert look(tree)
    late = tree.write(b"d/late"), tree.write(b"d/e/late")
    if how == "received":
        for path in late:
            received(tree, path)
    assert look(tree, full)
    keep_clean(tree)
    disk(place)
    os.unlink(deleted[0])
    assert look(tree, full) == ""
    assert dirty(tree) == {deleted[0]}
    assert not is_recorded(tree, late[0]), "the others have it still, and it comes back"


@pytest.mark.parametrize("received_there", [False, True])
def test_the_same_of_an_include(tree, disk, includes, tmp_path, received_there):
    other = tmp_path / "other"
    disk(other)
    (other / "x").write_text("x")
    includes(tree.include, other)
    calm(tree)
    umount(other)
    assert look(tree)
    if received_there:
        (other / "late").write_text("of a peer")
        received(tree, os.fsencode(other / "late"))
        assert look(tree)
    disk(other)
    assert look(tree) == ""
    assert not dirty(tree)


def test_where_one_lies_below_another_both_may_be_away(tree, disk, includes, tmp_path):
    outer = tmp_path / "outer"
    disk(outer, "a")
    disk(outer / "b", "b")
    (outer / "f").write_text("x")
    (outer / "b/g").write_text("x")
    includes(tree.include, outer)
    calm(tree)
    umount(outer / "b")
    umount(outer)
    for full in (False, True):
        assert look(tree, full)
    disk(outer, "a")  # the inner one not yet
    for full in (False, True):
        assert "1 paths of" in look(tree, full)
    assert not dirty(tree)
    disk(outer / "b", "b")
    assert look(tree) == ""
    assert not dirty(tree)


def test_one_in_memory_that_comes_back_is_another_one(tree):
    place = below(tree, b"d")
    tmpfs(place)
    paths = [tree.write(b"d/%d" % number) for number in range(9)]
    calm(tree)
    umount(place)
    tmpfs(place)
    for number in range(6):
        tree.write(b"d/%d" % number)
    assert "another file system is mounted there" in look(tree)
    assert not dirty(tree) & {*paths[6:]}


@pytest.mark.parametrize("there", [2, 8])
def test_one_of_another_boot_is_told_by_most_of_its_files(tree, disk, monkeypatch, there):
    place = below(tree, b"d")
    disk(place)
    paths = [tree.write(b"d/%d" % number) for number in range(9)]
    calm(tree)
    monkeypatch.setattr("csync2lib.guard._boot", lambda: "another")
    for path in paths[there:]:
        os.unlink(path)
    assert bool(look(tree)) is (there == 2)


def test_one_that_is_mounted_over_an_include_that_is_one_is_another(tree, disk, includes, tmp_path, monkeypatch):
    monkeypatch.setattr("csync2lib.guard._uuid", lambda source: "1-2" if source.startswith("/") else None)
    other = tmp_path / "other"
    disk(other)
    (other / "f").write_text("x")
    includes(tree.include, other)
    calm(tree)
    subprocess.run(["mount", "-t", "ramfs", "ramfs", other], check=True)
    (other / "lost+found").mkdir()
    assert "is on another file system than before" in look(tree)
    assert os.fsencode(other / "f") not in dirty(tree)


@pytest.mark.parametrize("when", ["before", "after"])
def test_one_that_goes_while_all_is_looked_at(tree, disk, monkeypatch, when):
    place = below(tree, b"d")
    disk(place)
    path = tree.write(b"d/x")
    calm(tree)
    owner, name = (journal, "take") if when == "before" else (check_module.Recorder, "note_local")
    real = getattr(owner, name)

    def goes(*arguments):
        umount(place)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, goes)
        look(tree)
    assert "what was mounted there is gone" in look(tree)
    assert path not in dirty(tree)


def test_one_that_goes_before_the_first_check_after_a_join(tree, disk, monkeypatch):
    monkeypatch.setattr(type(tree.group), "pin", lambda *_: {})
    with tree.group.open_database(write=True) as database:
        database.empty()
    place = below(tree, b"d")
    disk(place)
    path = tree.write(b"d/x")
    record(tree.group)
    with tree.group.open_database(write=True) as database:
        database.set_state(database.ESTABLISHED)
    keep_clean(tree)
    umount(place)
    assert "what was mounted there is gone" in look(tree)
    assert path not in dirty(tree)


@pytest.mark.parametrize("name", [b"a\rb", b"a\x85b", b"a\x0bb", b"a b", b"a\tb", b"a\nb", b"a\\b", b"a - b", b"\xff"])
def test_whatever_a_mount_point_is_called(tree, disk, name):
    place = below(tree, name)
    disk(place)
    assert place in {mount.point for mount in namespace.mounts()}
    tree.write(name + b"/x")
    calm(tree)
    umount(place)
    assert "what was mounted there is gone" in look(tree)
    assert not dirty(tree)


# --- What others do with it meanwhile


@pytest.mark.parametrize("places", [[b"d"], [b"d", b"d/e"]])
def test_what_was_to_be_sent_before_it_went_is_not_sent_as_deleted(tree, disk, places):
    for number, place in enumerate(places):
        disk(below(tree, place), f"disk{number}")
    path = tree.write(places[-1] + b"/x")
    look(tree)
    send(tree)
    tree.write(places[-1] + b"/x", b"changed")
    look(tree)
    for place in reversed(places):
        umount(below(tree, place))
    for _ in range(2):
        send(tree)  # before anybody has looked, and afterwards
        look(tree)
    assert os.path.exists(tree.there / os.fsdecode(places[-1]) / "x")
    for number, place in enumerate(places):
        disk(below(tree, place), f"disk{number}")
    assert look(tree) == ""
    send(tree)
    assert (tree.there / os.fsdecode(places[-1]) / "x").read_text() == "changed"
    assert path not in dirty(tree)


def test_what_a_peer_sends_there_makes_nothing_deleted_nor_old(tree, disk):
    """csync2's server takes what is not there for deleted when a peer sends it, and marks it for all peers."""
    place = below(tree, b"d")
    disk(place)
    path, other = tree.write(b"d/x"), tree.write(b"d/y")
    look(tree)
    send(tree)
    assert not dirty(tree)
    keep_copy(tree.group.directory, tree.group.database)
    umount(place)
    assert look(tree)
    with tree.group.open_database(write=True) as database:  # check.c, csync_check_del()
        database.forget([path])
        database.mark([path], HERE, [THERE])
    send(tree)
    assert os.path.exists(tree.there / "d/x")
    assert look(tree)
    assert is_recorded(tree, path)
    assert not dirty(tree)
    disk(place)
    assert look(tree) == ""
    assert not dirty(tree), "the peer's version is newer, and comes"
    assert is_recorded(tree, other)


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no FUSE")
def test_what_cannot_be_read_is_not_sent_as_deleted(tree):
    path = tree.write(b"d/x")
    look(tree)
    send(tree)
    tree.write(b"d/x", b"changed")
    look(tree)
    assert dirty(tree) == {path}
    libc = ctypes.CDLL(None, use_errno=True)
    child = os.fork()
    if not child:
        server = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
        os._exit(libc.mount(b"dead", below(tree, b"d"), b"fuse", 0, options))
    assert os.waitpid(child, 0)[1] == 0
    try:
        send(tree)
        look(tree)
        send(tree)
    finally:
        libc.umount2(below(tree, b"d"), 2)
    assert (tree.there / "d/x").read_text() == "x"
    look(tree)
    send(tree)
    assert (tree.there / "d/x").read_text() == "changed"


def test_a_version_that_wins_does_not_delete_what_is_away(tree, disk):
    place = below(tree, b"c/d")
    disk(place)
    path = tree.write(b"c/d/x")
    look(tree)
    send(tree)
    umount(place)
    look(tree)
    held = storage.read_names(tree.group.path("held"))
    assert win_module.win(tree.group, [urllib.parse.quote_from_bytes(below(tree, b"c"))])
    assert is_recorded(tree, path)
    send(tree)
    assert os.path.exists(tree.there / "c/d/x")
    win_module.mark(tree.group, [urllib.parse.quote_from_bytes(below(tree, b"c"))])
    assert storage.read_names(tree.group.path("held")) == held == {place}, "the status goes on telling it"


def test_an_include_in_an_include_that_was_replaced(tree, includes):
    inner = tree.include / "sub"
    inner.mkdir()
    includes(tree.include, inner)
    for number in range(3):
        (inner / str(number)).write_text("x")
    calm(tree)
    shutil.move(inner, tree.include.parent / "moved away")
    inner.mkdir()
    for full in (False, True):
        assert "was replaced by an empty directory" in look(tree, full)
    assert not dirty(tree)
    shutil.rmtree(tree.include.parent / "moved away")


def test_a_host_that_boots_without_one_below_its_include_has_lost_that_alone(tree, disk, monkeypatch):
    place = below(tree, b"a")
    disk(place)
    paths = [tree.write(b"a/%03d" % number) for number in range(150)]
    other = tree.write(b"z")
    calm(tree)
    monkeypatch.setattr("csync2lib.guard._boot", lambda: "another")
    umount(place)
    assert look(tree).startswith("150 paths of")
    os.unlink(other)
    look(tree)
    assert dirty(tree) == {other}
    assert is_recorded(tree, paths[0])
