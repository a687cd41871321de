"""What csync2 has not finished is told by whom it belongs to, and by nothing else."""

import os
import subprocess
import time

import pytest
from csync2lib.csync2 import custody, unfinished

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
LONG = "n" * 255


def make(path, owner=custody.UID, content="x"):
    path.write_text(content)
    os.chmod(path, 0o600)
    os.chown(path, owner, 0)
    return os.fsencode(path)


def is_left(path, opened=()):
    return unfinished.is_left(path, os.lstat(path), set(opened))


@pytest.mark.parametrize("name", [".name.aB3dE6", ".name.backup", ".aB3dE6", f".{LONG[:246]}.aB3dE6", ".a.b.c.000000"])
def test_names_of_temporary_files(name):
    assert unfinished.is_temporary(name.encode())


@pytest.mark.parametrize("name", ["name.aB3dE6", ".name.aB3dE", ".name.aB3dE67", ".name.aB-dE6", "aB3dE6"])
def test_names_of_other_files(name):
    assert not unfinished.is_temporary(name.encode())


@AS_ROOT
@pytest.mark.parametrize("owner", [0, 33, 1000, custody.UID - 1, custody.UID + 1])
@pytest.mark.parametrize("content", ["", "the begin", "the beginning"])
def test_what_belongs_to_anybody_else_is_never_csync2s(tmp_path, owner, content):
    make(tmp_path / "name", 33, "the beginning")
    path = make(tmp_path / ".name.aB3dE6", owner, content)
    assert not unfinished.is_unfinished(os.lstat(path))
    assert not is_left(path)
    assert not unfinished.delete(path, os.lstat(path).st_ino)
    assert os.path.exists(path)


@AS_ROOT
def test_a_temporary_file_of_csync2s_is_left_once_it_is_open_nowhere(tmp_path):
    path = make(tmp_path / ".name.aB3dE6")
    status = os.lstat(path)
    assert is_left(path)
    assert not is_left(path, {(status.st_dev, status.st_ino)})
    assert not is_left(make(tmp_path / "name"))
    (tmp_path / ".dir.aB3dE6").mkdir()
    os.chown(tmp_path / ".dir.aB3dE6", custody.UID, 0)
    assert not is_left(os.fsencode(tmp_path / ".dir.aB3dE6"))
    os.symlink("name", tmp_path / ".link.aB3dE6")
    os.chown(tmp_path / ".link.aB3dE6", custody.UID, 0, follow_symlinks=False)
    assert not is_left(os.fsencode(tmp_path / ".link.aB3dE6"))


@AS_ROOT
def test_what_csync2_has_open_is_known(tmp_path):
    path = make(tmp_path / ".name.aB3dE6")
    status = os.lstat(path)
    with open(path, "rb") as file:
        for owner, expected in ((0, False), (custody.UID, True)):
            with subprocess.Popen(["sleep", "60"], stdin=file, user=owner) as process:
                assert ((status.st_dev, status.st_ino) in unfinished.opened()) is expected
                process.kill()


@AS_ROOT
def test_what_has_taken_its_place_is_not_deleted(tmp_path):
    path = make(tmp_path / ".name.aB3dE6")
    inode = os.lstat(path).st_ino
    other = make(tmp_path / "other")
    os.replace(other, path)
    assert not unfinished.delete(path, inode)
    assert unfinished.delete(path, os.lstat(path).st_ino)
    assert not os.path.exists(path)
    assert not unfinished.delete(path, inode)


# --- What csync2 could not give its name


def says(path, words="renaming tmp file to to be patched file", why="Operation not permitted"):
    """As csync2 does (rsync.c, csync_rs_patch())."""
    return b"I/O Error '%s' while %s in rsync-patch: %s" % (
        why.encode(),
        words.encode(),
        os.fsencode(path),
    )


@pytest.mark.parametrize(
    "path", ["/a", "/a b/ü\n", "/x\n", "/it's\nin rsync-patch: /b", "/ while renaming tmp file to x", "/%s"]
)
def test_what_csync2_could_not_rename_is_known(path):
    assert unfinished.not_renamed(says(path)) == os.fsencode(path)


@pytest.mark.parametrize("words", ["creating new data temp file", "opening data file for writing"])
def test_what_csync2_says_otherwise_is_no_file_that_it_left(words):
    assert unfinished.not_renamed(says("/a", words)) is None
    assert unfinished.not_renamed(says("a")) is None
    assert unfinished.not_renamed(b"Identification failed!") is None


@pytest.mark.parametrize("header", [b"", b"<132>Nov 30 00:17:01 csync2[7]: "])
def test_a_name_that_is_such_a_message_is_none(header):
    name = b"/srv/x" + header + says("/etc/shadow")
    for said in (b"I/O Error 'Directory not empty' in rsync-sig: " + name, b"Unknown file: " + name, name):
        assert unfinished.not_renamed(said) is None
    assert unfinished.not_renamed(says(os.fsdecode(name))) == name


def left(directory, name, temporary, **how):
    """A file, and another one that has its owner and mode by now."""
    for one in (name, temporary):
        path = directory / one
        path.write_text("x")
        os.chmod(path, how.get("mode", 0o640) if one == temporary else 0o640)
        os.utime(path, (0, 0))
    return os.fsencode(directory / name)


#: rsync.c, get_tmpname(): names, and what it makes of them.
NAMES = [
    ("name", ".name.aB3dE6"),
    (".name", ".name.aB3dE6"),
    ("name.", ".name.aB3dE6"),
    ("..name", "..name.aB3dE6"),
    ("n", ".n.000000"),
    (LONG, f".{LONG[:246]}.aB3dE6"),
    ("." + LONG[:254], f".{LONG[:246]}.aB3dE6"),
    (LONG[:245] + "ü" + "xyz", f".{LONG[:245]}.aB3dE6"),
    (LONG[:244] + "ü" + "xyz", f".{LONG[:244]}ü.aB3dE6"),
    ("a.b.aB3dE6", ".a.b.aB3dE6.aB3dE6"),
]


@pytest.mark.parametrize(("name", "temporary"), NAMES)
def test_what_it_left_is_deleted(tmp_path, name, temporary):
    path = left(tmp_path, name, temporary)
    assert unfinished.delete_not_renamed(path, time.time())
    assert os.listdir(tmp_path) == [name]
    assert not unfinished.delete_not_renamed(path, time.time())
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    ("name", "other"),
    [("name", ".name.backup1"), ("name", ".nam.aB3dE6"), ("name", "name.aB3dE6"), ("name", ".name.a-3dE6"),
     ("name", ".name.x.aB3dE6"), ("na", ".name.aB3dE6"), ("name", ".Name.aB3dE6")],
)  # fmt: skip
def test_what_is_named_otherwise_is_not_deleted(tmp_path, name, other):
    assert not unfinished.delete_not_renamed(left(tmp_path, name, other), time.time())
    assert (tmp_path / other).exists()


def test_what_may_be_anybodys_is_not_deleted(tmp_path):
    path = left(tmp_path, "name", ".name.aB3dE6", mode=0o600)
    assert not unfinished.delete_not_renamed(path, time.time()), "csync2 has given its own the mode"
    left(tmp_path, "name", ".name.aB3dE6")
    left(tmp_path, "name", ".name.aB3dE7")
    assert not unfinished.delete_not_renamed(path, time.time()), "there are two"
    os.unlink(tmp_path / ".name.aB3dE7")
    (tmp_path / ".name.aB3dE8").symlink_to("name")
    (tmp_path / ".name.aB3dE9").mkdir()
    assert unfinished.delete_not_renamed(path, time.time())
    assert sorted(os.listdir(tmp_path)) == [".name.aB3dE8", ".name.aB3dE9", "name"]


def test_what_has_stood_there_for_longer_is_not_deleted(tmp_path):
    path = left(tmp_path, "name", ".name.aB3dE6")
    assert not unfinished.delete_not_renamed(path, time.time() + 1)
    assert (tmp_path / ".name.aB3dE6").exists()


def test_nothing_is_deleted_through_a_symlink_or_beside_anything_but_a_file(tmp_path):
    (tmp_path / "real").mkdir()
    left(tmp_path / "real", "name", ".name.aB3dE6")
    (tmp_path / "link").symlink_to("real")
    assert not unfinished.delete_not_renamed(os.fsencode(tmp_path / "link/name"), time.time())
    (tmp_path / "real/name").unlink()
    assert not unfinished.delete_not_renamed(os.fsencode(tmp_path / "real/name"), time.time())
    (tmp_path / "real/name").mkdir(mode=0o640)
    assert not unfinished.delete_not_renamed(os.fsencode(tmp_path / "real/name"), time.time())
    assert not unfinished.delete_not_renamed(os.fsencode(tmp_path / "nothing/name"), time.time())
    assert (tmp_path / "real/.name.aB3dE6").exists()
