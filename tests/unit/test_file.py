"""Small files are whole or as they were, and a damaged one is made anew."""

import os
import subprocess

import pytest
from csync2lib import storage


def test_what_was_written_is_read_and_only_by_its_owner(tmp_path):
    path = tmp_path / "file"
    storage.write(path, "text\n")
    assert (storage.read(path), path.stat().st_mode & 0o777) == ("text\n", 0o600)
    storage.write(path, b"\x00", mode=0o644)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"\x00", 0o644)
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file"
    path.mkdir()
    (path / "in").touch()
    with pytest.raises(OSError):
        storage.write(path, "new")
    assert (os.listdir(tmp_path), os.listdir(path)) == (["file"], ["in"])


@pytest.mark.parametrize("content", ["", "{", "null", "\x00"])
def test_a_damaged_file_says_what_is_said_without_one(tmp_path, content):
    path = tmp_path / "file.json"
    assert storage.read_json(path, {"no": "file"}) == {"no": "file"}
    path.write_text(content, encoding="utf-8")
    assert storage.read_json(path, {"no": "file"}) == {"no": "file"}
    assert storage.read_json(path) is None
    storage.write_json(path, {"a": [1]})
    assert storage.read_json(path) == {"a": [1]}


@pytest.mark.parametrize("names", [set(), {b"/a"}, {b"/new\nline", b"/\xff \xfe", b"/"}])
def test_names_are_read_as_they_were_written(tmp_path, names):
    path = tmp_path / "names"
    assert storage.read_names(path) == set()
    storage.write_names(path, names)
    assert storage.read_names(path) == names


def test_what_a_killed_writer_left_is_removed(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    left, writing, other = (tmp_path / f"known.tmp{end}" for end in (ended.pid, os.getpid(), "1x"))
    for path in (left, writing, other, tmp_path / f"web1_data.db3.copy.tmp{ended.pid}-journal"):
        path.touch()
    copy = tmp_path / f"copy-abc.tmp{ended.pid}"
    copy.mkdir()
    (copy / "database").touch()
    storage.sweep(str(tmp_path))
    assert sorted(tmp_path.iterdir()) == sorted([writing, other])
    storage.sweep(str(tmp_path / "not-there"))
