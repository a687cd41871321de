"""What is on the disk, compared without csync2's database."""

import os
import time
import urllib.parse

import pytest
from csync2lib import contents
from csync2lib.csync2.excludes import Excludes
from csync2lib.errors import CsyncsyncError
from csync2lib.master import verify
from csync2lib.master.cluster import Cluster
from csync2lib.master.questions import Answers


def no_pace(_):
    pass


def walk(*include, exclude=()):
    excludes = Excludes([os.fsencode(pattern) for pattern in exclude])
    return list(contents.walk([str(path) for path in include], excludes))


def everything(path):
    """The digests of a tree, by their slots, as if it stood at one place on each host."""
    return contents.digests(walk(path), 0, 1, no_pace)


@pytest.fixture
def tree(tmp_path):
    top = tmp_path / "tree"
    (top / "d" / "e").mkdir(parents=True)
    (top / "d" / "file").write_text("content\n")
    (top / "link").symlink_to("d")
    (top / "d" / "x.swp").write_text("x")
    os.mkfifo(top / "fifo")
    return top


def test_walk_goes_everywhere_but_into_links_and_what_is_excluded(tree):
    top = os.fsencode(tree)
    below = {b"/d", b"/d/e", b"/d/file", b"/d/x.swp", b"/link", b"/fifo"}
    assert set(walk(tree)) == {top} | {top + path for path in below}
    left = below - {b"/d/x.swp", b"/d/e"}
    assert set(walk(tree, exclude=["*.swp", f"{tree}/d/e"])) == {top} | {top + path for path in left}
    assert walk(tree / "link") == [top + b"/link"]
    assert walk(tree / "nothing") == []
    assert contents.count(walk(tree)) == {"files": 7, "bytes": 9}


@pytest.mark.parametrize(
    "change",
    [
        lambda top: (top / "d" / "file").write_text("contenT\n"),
        lambda top: (top / "d" / "file").chmod(0o600),
        lambda top: os.chown(top / "d" / "file", 1, 0),
        lambda top: (top / "d" / "e").chmod(0o700),
        lambda top: (top / "d" / "e").rmdir(),
        lambda top: (top / os.fsdecode(b"\xff\n")).write_text(""),
        lambda top: ((top / "link").unlink(), (top / "link").symlink_to("e")),
        lambda top: ((top / "d" / "e").rmdir(), (top / "d" / "e").write_text("")),
    ],
)
def test_every_change_is_another_digest_at_that_path_alone(tree, change):
    before, entries = everything(tree), contents.entries(walk(tree), range(contents.DIGESTS), no_pace)
    file = tree / "d" / "file"
    times = os.stat(file)
    change(tree)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    slots = contents.unlike({"one": before, "other": everything(tree)})
    assert len(slots) == 1
    now = contents.entries(walk(tree), [int(slots[0])], no_pace)
    before = {path: digest for path, digest in entries.items() if contents.digest_slot(_raw(path)) == int(slots[0])}
    assert len(contents.unlike({"one": before, "other": now})) == 1


def _raw(path):
    return urllib.parse.unquote_to_bytes(path)


def test_parts_make_the_whole(tree):
    parts = [contents.digests(walk(tree), part, 3, no_pace) for part in range(3)]
    assert {slot: digest for part in parts for slot, digest in part.items()} == everything(tree)
    assert sum(map(len, parts)) == len(everything(tree))


def test_a_new_time_alone_is_no_difference(tree):
    before = everything(tree)
    os.utime(tree / "d" / "file")
    assert everything(tree) == before


def test_no_more_is_read_in_a_second_than_asked_for(tmp_path):
    (tmp_path / "big").write_bytes(bytes(3 << 20))
    began = time.monotonic()
    contents.digests(walk(tmp_path), 0, 1, contents.Pace(6 << 20))
    assert time.monotonic() - began >= 0.45


class Hosts(Cluster):
    """Hosts of which these have an empty group, and the others do not answer."""

    def __init__(self, answering):
        super().__init__({}, {})
        self.answering = answering

    def group(self, group):
        return {"receive_only": []}

    def members(self, options):
        return ["web1", "web2"]

    def call(self, minions, function, arguments, *_, **options):
        found = {} if options else {"files": 0, "bytes": 0}
        answers = Answers()
        answers.update({minion: found for minion in minions if minion in self.answering})
        return answers


def test_what_a_reset_would_do_is_not_known_without_the_host_whose_content_is_to_win():
    with pytest.raises(CsyncsyncError, match="web1, whose content is to win, did not answer"):
        verify.reset(Hosts(["web2"]), "g", "web1", test=True)
    told = verify.reset(Hosts(["web2"]), "g", "web2", test=True)
    assert told["web2"] == "its content wins"
    assert (told["web1"][:14], told["retcode"]) == ("did not answer", 1)
