"""Large files, which are sent beside the pushes. Two real csync2s."""

import os
import shutil
import time

import pytest
from csync2lib.csync2.database import Database
from csync2lib.push import large, peers, sending, transfer
from pair import THERE, pair

__all__ = ["pair"]


@pytest.fixture
def established(pair, monkeypatch):
    pair.forget()
    with pair.group.open_database(write=True) as database:
        database.set_state(Database.ESTABLISHED)
    monkeypatch.setattr(transfer, "LARGE", 1000)
    return pair


def push(pair):
    """As a push does it; (what is left for the other host, the large files)"""
    pair.check()
    left, apart = peers.send(pair.group, pair.group.config, [THERE], time.time())
    return left.get(THERE, 0), apart


def test_a_push_leaves_large_files_to_others(established):
    for name, content in ((b"a", b"x" * 1001), (b"b", b"x" * 1000), (b"d/c", b"y" * 5000), (b"d/d", b"z")):
        established.write(name, content)
    path = {name: os.path.join(os.fsencode(established.include), name) for name in (b"a", b"d/c")}
    assert push(established) == (2, set(path.values()))
    assert established.tree(established.there) == {b"b": b"x" * 1000, b"d": None, b"d/d": b"z"}
    config = established.group.config
    assert peers.refused(established.group, config, {}) == {}, "nobody has been asked"
    large.send(established.group)
    assert established.left() == set()
    assert established.tree(established.there) == established.tree(established.include)
    established.write(b"a", b"x" * 3000)
    established.write(b"a", b"y" * 4000, established.there)
    established.check_there()
    assert push(established) == (1, {path[b"a"]})
    large.send(established.group)
    assert established.left() == {path[b"a"]}
    assert peers.refused(established.group, config, {}) == {"web2": [os.fsdecode(path[b"a"])]}
    os.unlink(path[b"a"])
    assert push(established) == (1, set()), "a deletion is not large"


def test_what_changes_while_it_is_sent_is_sent_anew(established, monkeypatch):
    path = established.write(b"a", b"1" * 2000)
    push(established)
    sent = sending.Sender._csync2

    left = []

    def changed_meanwhile(self, *arguments):
        left.append(established.left())
        done = sent(self, *arguments)
        if established.tree(established.include)[b"a"] == b"1" * 2000:
            established.write(b"a", b"2" * 2001)
            established.check()
        return done

    monkeypatch.setattr(sending.Sender, "_csync2", changed_meanwhile)
    large.send(established.group)
    assert established.left() == set()
    assert established.tree(established.there) == {b"a": b"2" * 2001}
    assert left == [{path}, {path}], "twice, because the first time it was not discharged"


@pytest.mark.parametrize("change", ["deleted", "made small", "made a directory", "gone with its directory"])
def test_no_push_sends_what_is_being_sent(established, monkeypatch, change):
    """What arrives last would stay there: an old file after its deletion."""
    path = established.include / "d/a"
    established.write(b"d/a", b"1" * 2000)
    established.write(b"d/b")
    push(established)
    sent, there = sending.Sender._csync2, []

    def changed_meanwhile(self, *arguments):
        if not self.peer.directory.endswith("-large") or there:
            return sent(self, *arguments)
        if change == "gone with its directory":
            shutil.rmtree(path.parent)
        else:
            path.unlink()
        if change == "made a directory":
            established.write(b"d/a/b")
        if change == "made small":
            established.write(b"d/a", b"small")
        push(established)
        there.append(established.tree(established.there))
        path.parent.mkdir(exist_ok=True)
        if path.is_dir():
            shutil.rmtree(path)
        established.write(b"d/a", b"1" * 2000)  # as csync2 has begun to read it
        try:
            return sent(self, *arguments)
        finally:
            path.unlink()
            if change == "gone with its directory":
                path.parent.rmdir()
            if change == "made a directory":
                established.write(b"d/a/b")
            if change == "made small":
                established.write(b"d/a", b"small")

    monkeypatch.setattr(sending.Sender, "_csync2", changed_meanwhile)
    large.send(established.group)
    assert b"d/a" not in there[0]
    push(established)
    assert established.left() == set()
    assert established.tree(established.there) == established.tree(established.include)


def test_only_one_process_sends_them(established):
    established.write(b"a", b"1" * 2000)
    push(established)
    with large.storage.locked(established.group.path(large.LOCK)):
        large.send(established.group)
        assert established.tree(established.there) == {}
    large.send(established.group)
    assert established.tree(established.there) == {b"a": b"1" * 2000}


def test_holes_are_read_faster_than_blocks(tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 30)
    assert sending.file_size(os.fsencode(tmp_path / "sparse")) == (1 << 30, 0)
    (tmp_path / "file").write_bytes(os.urandom(100_000))
    assert sending.file_size(os.fsencode(tmp_path / "file")) == (100_000, 100_000)
    assert sending.file_size(os.fsencode(tmp_path)) == sending.file_size(b"/nothing") == (0, 0)
