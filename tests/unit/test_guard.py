"""What holds a push: roots on a real file system, and deletions in a database that csync2 has written."""

import os
import shutil

import pytest
from csync2lib import storage
from csync2lib.csync2.database import Database
from csync2lib.errors import CsyncsyncError
from csync2lib.guard import EMPTIED, Guard

HOLD = {"number": 3, "share": 0.5}
ADVICE = (
    "Nothing below it is sent meanwhile. Put it back; or, to have what is missing here deleted on all hosts: salt-run"
    " csyncsync.release data"
)


@pytest.fixture
def guard(tree, tmp_path):
    (tmp_path / "noted").mkdir()
    return Guard("data", str(tmp_path / "noted"), tree.file)


@pytest.fixture
def root(tree):
    return os.fsdecode(tree.path)


def test_a_new_root_is_made_once_and_never_again(guard, tmp_path):
    root = str(tmp_path / "a/b")
    assert guard.note_roots([root], test=True) == ([root], [])
    assert (os.path.exists(root), storage.read_json(guard.roots)) == (False, None)
    assert guard.note_roots([root]) == ([root], [])
    assert guard.note_roots([root]) == ([], [])
    os.rmdir(root)
    missing = f"include root {root} is missing: is its disk unmounted? {ADVICE}"
    assert guard.note_roots([root]) == ([], [missing])
    assert ([*guard.problems().values()], os.path.exists(root)) == ([missing], False)
    guard.renew_roots()
    assert [*guard.problems().values()] == [missing], "only an administrator accepts that"
    assert guard.note_roots([]) == ([], [])
    assert [*guard.problems().values()] == []


def test_a_new_root_that_is_a_file_is_not_made_and_may_come_and_stay_away(guard, tmp_path):
    file = tmp_path / "etc/app.conf"
    assert guard.note_roots([str(file)], test=True, files=[str(file)]) == ([str(file.parent)], [])
    assert not file.parent.exists()
    assert guard.note_roots([str(file)], files=[str(file)]) == ([str(file.parent)], [])
    guard.renew_roots()
    assert guard.note_roots([str(file)], files=[str(file)]) == ([], [])
    assert not file.exists()
    file.write_text("x")
    assert [*guard.problems().values()] == []
    guard.renew_roots()
    file.unlink()
    (problem,) = [*guard.problems().values()]
    assert "is missing" in problem


def test_a_root_behind_a_symlink_is_refused_with_its_pillar_path(guard, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for root in (tmp_path / "link", tmp_path / "link/new"):
        with pytest.raises(CsyncsyncError, match=r"csyncsync:groups:data:include .* name the real directory"):
            guard.note_roots([str(root)])
    root = str(tmp_path / "real")
    guard.note_roots([root])
    os.rename(root, tmp_path / "moved")
    os.symlink("moved", root)
    assert "a symlink to" in next(iter(guard.problems().values()))


def test_a_root_in_whose_place_an_empty_directory_came_is_a_problem_until_it_is_accepted(guard, tree, root):
    tree.write(b"file")
    tree.check()
    with tree.database(write=True) as database:
        database.set_state(Database.RECORDED)
    guard.note_roots([root])
    assert [*guard.problems().values()] == []
    os.rename(root, f"{root}.moved")
    os.mkdir(root)
    assert [*guard.problems().values()] == [
        f"include root {root} was replaced by an empty directory: was its content moved away? {ADVICE}"
    ]
    tree.write(b"file")  # a replaced one that is not empty is somebody's work
    assert [*guard.problems().values()] == []
    os.unlink(tree / b"file")
    guard.renew_roots(release=True)
    assert [*guard.problems().values()] == []


def test_an_empty_root_of_which_nothing_is_recorded_is_no_problem(guard, root):
    guard.note_roots([root])
    os.rename(root, f"{root}.moved")
    os.mkdir(root)
    assert [*guard.problems().values()] == []


def test_a_root_on_another_file_system_or_device_is_a_problem(guard, tree, root):
    path = tree.write(b"file")
    tree.check()
    guard.note_roots([root])
    noted = storage.read_json(guard.roots)
    os.rename(path, f"{os.fsdecode(path)}.away")
    for changed in ({"mount": ["/mnt", "ext4", "/dev/sdb1", "/"]}, {"device": "1 2"}, {"boot": "another"}):
        storage.write_json(guard.roots, {root: {**noted[root], **changed}})
        assert [*guard.problems().values()] == [
            f"include root {root} is on another file system than before: is its disk unmounted? {ADVICE}"
        ]
    os.rename(f"{os.fsdecode(path)}.away", path)
    storage.write_json(guard.roots, {root: {**noted[root], "device": "1 2", "boot": "another"}})  # after a reboot
    assert [*guard.problems().values()] == []


def test_a_root_that_an_administrator_has_released_is_deleted_and_may_come_back(guard, tmp_path):
    for number, gone in enumerate(("missing", "link")):
        root = str(tmp_path / f"root{number}")
        guard.note_roots([root])
        os.rmdir(root)
        if gone == "link":
            os.symlink("/nowhere", root)
        assert [*guard.problems().values()] != []
        guard.renew_roots(release=True)
        assert [*guard.problems().values()] == []
        assert guard.note_roots([root]) == ([], []), "it is not made again"
        if gone == "link":
            os.unlink(root)
        os.mkdir(root)
        guard.renew_roots()
        assert [*guard.problems().values()] == []
        os.rmdir(root)
        assert [*guard.problems().values()] != [], "it counts again"
        guard.note_roots([])


def test_the_same_disk_by_another_name_and_the_same_files_by_another_device_are_no_strangers(guard, tree, root):
    guard.note_roots([root])
    noted = storage.read_json(guard.roots)[root]
    mount = [*noted["mount"][:2], "/dev/another", noted["mount"][3]]
    storage.write_json(guard.roots, {root: {**noted, "uuid": "1-2", "mount": mount}})
    assert ([*guard.problems().values()] == []) == (noted.get("uuid") == "1-2")
    if noted.get("uuid"):
        storage.write_json(guard.roots, {root: {**noted, "mount": mount}})
        assert [*guard.problems().values()] == []
    tree.write(b"file")
    tree.check()
    storage.write_json(guard.roots, {root: {**noted, "device": -1}})
    assert [*guard.problems().values()] == [], "its files are there"
    os.unlink(tree / b"file")
    tree.write(b"of a stranger")
    assert [*guard.problems().values()] != []


def test_files_that_were_deleted_since_make_nobody_a_stranger(guard, tree, root):
    """The host went down in the midst of it, say."""
    paths = [tree.write(b"file%d" % number) for number in range(40)]
    tree.check()
    guard.note_roots([root])
    noted = storage.read_json(guard.roots)[root]
    storage.write_json(guard.roots, {root: {**noted, "device": "1 2", "boot": "another"}})
    for path in paths[14:]:
        os.unlink(path)
    assert [*guard.problems().values()] == []
    for path in paths[5:14]:
        os.unlink(path)
    assert [*guard.problems().values()] != []


def test_a_part_that_is_changed_all_the_time_makes_nobody_a_stranger(guard, tree, root):
    """Its names come first, and are all others by now; the rest is as it was."""
    busy = [tree.write(b"a/%d" % number) for number in range(120)]
    for number in range(60):
        tree.write(b"b/%d" % number)
    tree.check()
    guard.note_roots([root])
    noted = storage.read_json(guard.roots)[root]
    storage.write_json(guard.roots, {root: {**noted, "device": "1 2", "boot": "another"}})
    for path in busy:
        os.rename(path, path + b"x")
    assert [*guard.problems().values()] == []
    shutil.rmtree(tree / b"b")
    assert [*guard.problems().values()] != []


def test_a_root_that_others_have_deleted_is_no_lost_disk(guard, tree, root):
    tree.write(b"file")
    tree.check()
    with tree.database(write=True) as database:
        database.set_state(Database.ESTABLISHED)
    guard.note_roots([root])
    shutil.rmtree(root)
    assert len([*guard.problems().values()]) == 1
    with tree.database(write=True) as database:
        database.forget(database.below(tree.path))
    assert [*guard.problems().values()] == []
    assert guard.may_be_made(root), "before anybody has looked"
    guard.renew_roots()
    assert guard.may_be_made(root)
    with tree.database(write=True) as database:
        database.set_state(Database.NEW)
    os.mkdir(root)
    guard.renew_roots()
    os.rmdir(root)
    assert len([*guard.problems().values()]) == 1, "a host that has just lost its database, too, may have lost the disk"


def test_a_database_that_cannot_be_read_holds_a_push(guard, tree, root):
    guard.note_roots([root])
    os.rename(root, f"{root}.moved")
    os.mkdir(root)
    with open(tree.file, "wb") as file:
        file.write(b"no database" * 1000)
    with pytest.raises(CsyncsyncError, match=r"data\.db3: file is not a database"):
        [*guard.problems().values()]


@pytest.mark.parametrize(
    ("files", "gone", "held"),
    [(10, 3, False), (10, 4, False), (10, 6, False), (10, 7, True), (4, 3, False), (4, 4, True)],
)
def test_more_than_number_and_share_hold_a_push_and_count_once(guard, tree, root, files, gone, held):
    paths = [tree.write(b"dir/%d" % number) for number in range(files)]
    tree.check()
    os.unlink(tree.write(b"comes and goes"))
    with tree.database(write=True) as database:
        database.keep_dirty(lambda *_: False)
    for path in paths[:gone]:
        os.unlink(path)
    tree.check()
    vanished = guard.vanished(tree.peers.values())
    assert vanished == set(paths[:gone])
    why = guard.looks_lost(vanished, [root], HOLD)
    assert why.startswith(f"{gone} of ") == held, why
    assert ("salt-run csyncsync.release data" in why) == held
    guard.let_through(vanished)
    assert guard.looks_lost(vanished, [root], HOLD) == ""
    assert guard.looks_lost(vanished | {b"/another"}, [root], HOLD) == ""


def test_a_root_that_was_emptied_holds_a_push_whatever_the_share(guard, tree, root, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    names = [b"%d" % number for number in range(EMPTIED + 1)]
    gone = {tree / name for name in names}
    for name in names:
        tree.write(name)
    tree.check()
    assert guard.looks_lost(gone, [root, str(other)], {"number": 1000, "share": 1}) == ""
    for name in names:
        os.unlink(tree / name)
    assert guard.looks_lost(gone, [root, str(other)], {"number": 1000, "share": 1}) != ""
    few = set(sorted(gone)[1:])
    assert guard.looks_lost(few, [root], {"number": 1000, "share": 1}) == ""
