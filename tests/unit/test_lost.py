"""What is kept of a lost database, and what it tells of the files as they are now."""

import os
import time
from pathlib import Path

import pytest
from csync2lib.csync2 import kept
from csync2lib.join import recovery

NOW = 1_700_000_000_500_000_000


class Host:
    """A tree whose database is csync2's, with nothing to be sent, and the directory where it is kept."""

    def __init__(self, tree, directory):
        self.tree, self.path, self.state, self.top = tree, tree.file, directory / "state", Path(os.fsdecode(tree.path))
        self.state.mkdir()
        for name in ("a", "b", "dir/a", "dir/sub/a", "other/a"):
            self.write(name, "x")
        tree.check()
        with tree.database(write=True) as database:
            database.keep_dirty(lambda path, peer: False)

    def write(self, name, content, when=NOW):
        os.utime(self.tree.write(os.fsencode(name), content.encode()), ns=(when, when))

    def keep(self):
        kept.keep_link(self.state, self.path)
        kept.keep_copy(self.state, self.path)

    def lost(self):
        return kept.lost_database(self.state, self.path)

    def changed(self, since=0.0):
        """What counts as changed since then, as ``{path below the tree: whole tree?}``."""
        found = recovery.changed_since(self.lost(), since)
        return {os.fsdecode(os.path.relpath(path, self.tree.path)): whole for path, whole in found.items()}


@pytest.fixture
def known(tree, tmp_path):
    """A host whose database has been kept."""
    host = Host(tree, tmp_path)
    host.keep()
    return host


@pytest.fixture
def host(known):
    """A host whose database is deleted, and whose directories nobody has changed since."""
    os.unlink(known.path)
    for directory in (known.top, *known.top.rglob("*/")):
        os.utime(directory, (1, 1))
    return known


def test_nothing_has_changed(host):
    assert host.changed() == {}


def test_what_was_written_and_deleted_has(host):
    host.write("a", "longer")
    (host.top / "b").unlink()
    (host.top / "dir/a").chmod(0o600)
    assert host.changed() == {"a": False, "b": True, "dir/a": False}


def test_a_deleted_directory_stands_for_what_was_in_it(host):
    (host.top / "dir/sub/a").unlink()
    (host.top / "dir/sub").rmdir()
    (host.top / "dir/a").unlink()
    (host.top / "dir").rmdir()
    assert host.changed() == {"dir": True}


def test_what_csync2_may_have_brought_has_not(host):
    """It sets whole seconds."""
    host.write("a", "longer", when=NOW // 10**9 * 10**9)
    assert host.changed() == {}


def test_an_older_file_is_from_a_backup_and_then_nothing_was_deleted(host):
    host.write("a", "longer", when=NOW - 10**12)
    (host.top / "b").unlink()
    assert host.changed() == {}


def test_what_is_missing_from_a_directory_that_nobody_has_changed_was_not_deleted(host):
    (host.top / "dir/a").unlink()
    os.utime(host.top / "dir", (1, 1))
    assert host.changed(2.0) == {}


def test_what_was_done_before_is_not_told_again(host):
    host.write("a", "longer")
    (host.top / "b").unlink()
    assert host.changed(time.time() + 3600) == {}


@pytest.mark.parametrize("size", [0, 5000])
def test_a_database_that_is_truncated_has_a_copy(known, size):
    os.truncate(known.path, size)
    known.write("a", "longer")
    assert known.lost().endswith(".copy")
    assert known.changed() == {"a": False}


def test_a_damaged_database_that_was_put_aside_has_one_too(known):
    kept.put_aside(known.state, known.path)
    assert known.lost().endswith(".copy")
    assert os.path.exists(f"{known.path}.damaged")
    assert os.listdir(known.state) == [os.path.basename(known.lost())]


def test_a_damaged_database_never_replaces_a_copy(known):
    copied = kept.copied_database(known.state, known.path)
    before = os.stat(copied).st_ino
    os.truncate(known.path, 5000)
    kept.keep_copy(known.state, known.path)
    assert os.stat(copied).st_ino == before
    assert len(os.listdir(known.state)) == 2


def test_a_large_database_is_copied_now_and_then(known, monkeypatch):
    copied = kept.copied_database(known.state, known.path)
    monkeypatch.setattr(kept, "COPIED", os.stat(known.path).st_size - 60 * kept.PER_SECOND)

    def again(age):
        os.utime(copied, (time.time() - age,) * 2)
        before = os.stat(copied).st_ino
        kept.keep_copy(known.state, known.path)
        return os.stat(copied).st_ino != before

    assert [again(50), again(70), again(-50)] == [False, True, True]


def test_nothing_is_known_of_a_database_that_was_not_kept(tree, tmp_path):
    host = Host(tree, tmp_path)
    assert host.lost() is None
    kept.keep_link(host.state, host.path)
    assert host.lost() is None, "the database itself is not lost"
