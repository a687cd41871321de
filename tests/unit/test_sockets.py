"""Sockets, which csync2 does not carry: no change for anybody, but for what they replace. Two real csync2s."""

import os
import shutil
import stat

import pytest
from csync2lib import journal
from csync2lib.join.compare import compare
from pair import THERE, pair

__all__ = ["pair"]

FULL = pytest.mark.parametrize("full", [True, False], ids=["full rescan", "journal"])


def make_socket(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.mknod(path, stat.S_IFSOCK | 0o777)


@pytest.fixture
def push(pair):
    """Has changed paths checked and sent; {path: whether it is a directory} of what the other host has then."""
    pair.forget()
    top = os.fsencode(pair.include)

    def run(full, *paths):
        if not full:
            journal.write(pair.group.journal, [os.path.join(top, os.fsencode(path)) for path in paths], False, 1)
        pair.check(full)
        assert pair.send() == {THERE: ""}
        assert pair.left() == set()
        with pair.group.open_database() as database:
            assert not [path for path, state in database.states() if state.endswith(b"type=sock")]
        return pair.tree(pair.there)

    return run


@FULL
def test_a_socket_is_no_change(pair, push, full):
    pair.write(b"d/file")
    make_socket(pair.include / "d/run/socket")
    there = push(full, "d/")
    assert there == {b"d": None, b"d/file": b"x", b"d/run": None}
    make_socket(pair.include / "another")
    assert push(full, "another") == there
    assert push(True) == there, "a full rescan takes none of them for new"
    assert compare(pair.group, pair.group.config, THERE) == (set(), set(), set())


def test_what_is_known_is_not_dirty_even_before_anybody_has_answered(pair, push):
    make_socket(pair.include / "d/socket")
    push(True)
    journal.write(pair.group.journal, [os.fsencode(pair.include / "other")], False, 1)
    make_socket(pair.include / "other")
    pair.check(full=False)
    assert pair.left() == set()
    pair.check()
    assert pair.left() == set()


@FULL
def test_what_a_socket_replaces_goes_and_what_replaces_it_comes(pair, push, full):
    path = pair.include / "file"
    for number in range(2):
        pair.write(b"file", b"%d" % number)
        assert push(full, "file") == {b"file": b"%d" % number}
        path.unlink()
        make_socket(path)
        assert push(full, "file") == {}
        path.unlink()


@FULL
def test_a_directory_that_a_socket_is_in_goes_and_is_renamed(pair, push, full):
    make_socket(pair.include / "d/socket")
    assert push(full, "d/") == {b"d": None}
    (pair.include / "d").rename(pair.include / "e")
    assert push(full, "d/", "e/") == {b"e": None}
    shutil.rmtree(pair.include / "e")
    assert push(full, "e/") == {}


@FULL
def test_a_socket_in_place_of_a_directory(pair, push, full):
    pair.write(b"d/sub/file")
    push(full, "d/")
    shutil.rmtree(pair.include / "d")
    make_socket(pair.include / "d")
    assert push(full, "d/") == {}


def test_what_a_socket_replaced_is_still_to_go_when_a_peer_was_away(pair, push):
    """Full rescans find the socket again and again meanwhile."""
    path = pair.include / "file"
    pair.write(b"file")
    push(True)
    path.unlink()
    make_socket(path)
    for _ in range(3):
        pair.check()
        assert pair.left() == {os.fsencode(path)}
    assert push(True) == {}


def test_a_socket_in_place_of_what_the_peer_has_changed_is_a_conflict(pair, push):
    path = pair.include / "file"
    pair.write(b"file")
    push(True)
    pair.write(b"file", b"changed there", pair.there)
    pair.check_there()
    path.unlink()
    make_socket(path)
    pair.check()
    assert pair.send() == {THERE: ""}
    assert pair.left() == {os.fsencode(path)}
    assert pair.tree(pair.there) == {b"file": b"changed there"}


def test_a_directory_goes_though_another_host_has_a_socket_in_it(pair, push):
    """There it stays, as csync2 cannot remove it; nothing is left to be sent."""
    for name in (b"d/sub/file", b"e/file", b"keep"):
        pair.write(name)
    push(True)
    make_socket(pair.there / "d/sub/socket")
    pair.write(b"e/unsent", b"of the other host", pair.there)
    shutil.rmtree(pair.include / "d")
    shutil.rmtree(pair.include / "e")
    there = push(True)
    assert there == {
        b"d": None,
        b"d/sub": None,
        b"d/sub/socket": b"",
        b"e": None,
        b"e/unsent": b"of the other host",
        b"keep": b"x",
    }


def test_a_directory_stays_to_be_deleted_while_something_in_it_is_refused(pair, push):
    pair.write(b"d/file")
    push(True)
    pair.write(b"d/file", b"changed there", pair.there)
    pair.check_there()
    shutil.rmtree(pair.include / "d")
    pair.check()
    assert pair.send() == {THERE: ""}
    assert pair.left() == {os.fsencode(pair.include / "d"), os.fsencode(pair.include / "d/file")}
