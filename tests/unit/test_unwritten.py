"""
What a peer cannot write: it is named, and nothing else is lost, late, or believed to be there.

csync2's protocol is out of step after it: the peer takes content for commands, so its answers are for something else.
"""

import contextlib
import os
import shutil
import subprocess
import time

import pytest
from csync2lib.csync2 import command
from csync2lib.push import refusals
from csync2lib.push.runs import directory
from pair import THERE, pair

__all__ = ["pair"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files immutable")


def chattr(path, sign):
    subprocess.run(["chattr", f"{sign}i", path], check=True)


class Peer:
    """Two hosts, of which one cannot write everything."""

    def __init__(self, pair, runs):
        self.pair, self.runs, self.unwritable, self.told = pair, runs, [], {}

    def have(self, files):
        """Both have these, ``{name: content}``."""
        for name, content in files.items():
            self.pair.write(name, content)
        self.push()
        assert not self.left()

    def cannot_write(self, *names):
        for name in names:
            path = os.path.join(os.fsencode(self.pair.there), name)
            chattr(path, "+")
            self.unwritable.append(path)

    def can_write_again(self):
        for path in self.unwritable:
            chattr(path, "-")
        self.unwritable = []

    def push(self, age=0, ask=True):
        """Push, so many seconds after the last one; how many runs of csync2 it took."""
        blocked = f"{directory('data', THERE, False)}{refusals.BLOCKED}"
        with contextlib.suppress(FileNotFoundError), open(blocked, "rb+") as file:
            lines = [line.split(b" ", 1) for line in file.read().splitlines()]
            file.seek(0)
            file.truncate()
            file.writelines(b"%a %s\n" % (float(when) - age, rest) for when, rest in lines)
        self.pair.check()
        self.runs.clear()
        told = {}
        found = self.pair.sent(told)
        self.told.update(told.get(THERE, {}))
        assert not found[THERE], found
        return len(self.runs)

    def relative(self, paths):
        return {os.path.relpath(path, os.fsencode(self.pair.include)) for path in paths}

    def left(self):
        return self.relative(self.pair.left())

    def named(self):
        return self.relative(self.told)

    def unlike(self):
        """What is not the same there, and is not to be sent either."""
        here, there = (self.pair.tree(top) for top in (self.pair.include, self.pair.there))
        return {name for name in {*here, *there} - self.left() if here.get(name) != there.get(name)}

    def conflicts(self, names):
        """Both hosts change these."""
        for name in names:
            self.pair.write(name, b"here version")
            self.pair.write(name, b"there!", self.pair.there)
        self.pair.check_there()


@pytest.fixture
def peer(pair, monkeypatch):
    runs = []

    def run(*arguments, **options):
        runs.append(arguments)
        return real(*arguments, **options)

    real = command.run
    monkeypatch.setattr(command, "run", run)
    refusals.try_all("data", [THERE])
    pair.forget()
    shutil.rmtree(pair.group.path("sent"), ignore_errors=True)
    made = Peer(pair, runs)
    yield made
    made.can_write_again()


@pytest.mark.parametrize("after", range(7))
@pytest.mark.parametrize("content", [b"x", b"line\n", b"two\nlines\n", b"x" * 3000])
def test_nothing_is_believed_to_be_there_that_is_not(peer, content, after):
    """Contents go round, in files of the same size: what one answer is for, another one fits."""
    peer.have(
        {b"ro/x": b"1", **{b"s%d" % n: b"%02d" % n for n in range(4)}, **{b"t%d" % n: b"1" for n in range(after)}}
    )
    peer.cannot_write(b"ro")
    time.sleep(1.1)  # a time of whole seconds is a part of csync2's record
    peer.pair.write(b"ro/new", content)
    for number in range(4):
        peer.pair.write(b"s%d" % number, b"nn" if not number else b"%02d" % (number - 1))
    for number in range(after):
        peer.pair.write(b"t%d" % number, b"2")
    peer.push()
    assert peer.unlike() == set()
    assert peer.left() == peer.named() == {b"ro/new"}


@pytest.mark.parametrize("number", [3, 10, 30])
def test_no_deletion_is_believed_where_the_peers_backup_fails(peer, tmp_path, number):
    names = [b"d/%04d" % n for n in range(number)]
    peer.have({**{name: b"content" + name for name in names}, b"z": b"1"})
    inner = tmp_path / "backup" / str(peer.pair.include).lstrip("/") / "d"
    inner.mkdir(parents=True)
    there = peer.pair.hosts[THERE].directory / "csync2_data.cfg"
    before = there.read_text()
    there.write_text(
        before.replace("  include", f"  backup-directory {tmp_path}/backup;\n  backup-generations 2;\n  include")
    )
    chattr(inner, "+")
    try:
        for name in names:
            os.unlink(os.path.join(os.fsencode(peer.pair.include), name))
        peer.pair.write(b"z", b"second")
        for _ in range(2):
            peer.push(130)
            assert peer.unlike() == set()
        assert peer.pair.tree(peer.pair.there)[b"z"] == b"second"
        assert peer.named()
    finally:
        chattr(inner, "-")
        there.write_text(before)


@pytest.mark.parametrize("kind", ["deletion", "change", "link", "directory", "many links"])
def test_it_is_tried_with_a_few_runs_and_then_left_alone(peer, kind):
    peer.have({b"d/a": b"1", b"z": b"1"})
    peer.cannot_write(b"d/a", b"d")
    top = peer.pair.include / "d"
    if kind == "deletion":
        (top / "a").unlink()
    elif kind == "change":
        (top / "a").write_text("second")
    elif kind == "directory":
        peer.pair.write(b"d/new/file", b"x")
    else:
        for number in range(300 if kind == "many links" else 1):
            (top / f"link{number}").symlink_to("a")
    peer.pair.write(b"z", b"second")
    assert peer.push() <= 25
    assert peer.pair.tree(peer.pair.there)[b"z"] == b"second"
    assert peer.named()
    assert peer.push() <= 8, "it is left alone for a while"
    peer.can_write_again()
    peer.push(130)
    assert not peer.left()
    assert peer.unlike() == set()


@pytest.mark.parametrize("deleted", [False, True])
def test_what_comes_behind_many_of_them_arrives(peer, deleted):
    tops = [b"ro%02d" % number for number in range(12)]
    peer.have({**{top + b"/f%d" % number: b"1" for top in tops for number in range(3)}, b"z": b"1"})
    peer.cannot_write(*(top + b"/f%d" % number for top in tops for number in range(3)), *tops)
    for top in tops:
        for number in range(3):
            if deleted:
                (peer.pair.include / os.fsdecode(top) / f"f{number}").unlink()
            else:
                peer.pair.write(top + b"/f%d" % number, b"second")
    peer.pair.write(b"z", b"second")
    for _ in range(4):
        peer.push(20)
    assert peer.pair.tree(peer.pair.there)[b"z"] == b"second"
    assert len(peer.named()) >= 30


@pytest.mark.parametrize("names", [[b"c%03d" % n for n in range(14)], [b"a/%d/%d" % (n // 3, n) for n in range(30)]])
def test_it_is_found_beside_conflicts_and_no_conflict_is_taken_for_it(peer, names):
    peer.have({**dict.fromkeys(names, b"0"), b"m": b"1", b"ro/x": b"1", **{b"z%d" % n: b"1" for n in range(4)}})
    peer.cannot_write(b"m", b"ro")
    peer.conflicts(names)
    peer.pair.write(b"m", b"second")
    peer.pair.write(b"ro/new", b"line\n")
    for number in range(4):
        peer.pair.write(b"z%d" % number, b"second")
    peer.push()
    there = peer.pair.tree(peer.pair.there)
    assert {name for name in there if there[name] == b"second" and not name.startswith(b".m.")} == {
        b"z%d" % number for number in range(4)
    }
    assert peer.named() == {b"m", b"ro/new"}
    assert peer.left() == {*names, b"m", b"ro/new"}
    blocked = refusals.Blocked(f"{directory('data', THERE, False)}{refusals.BLOCKED}").names
    assert {*blocked} == {os.path.join(os.fsencode(peer.pair.include), name) for name in (b"m", b"ro/new")}
