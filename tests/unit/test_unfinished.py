"""What csync2 has not finished is told by whom it belongs to, and by nothing else."""

import os
import subprocess

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
