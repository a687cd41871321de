"""The directories that are watched: excludes, renames, lost events, too many of them. With real inotify."""

import asyncio
import contextlib
import gc
import multiprocessing
import os
import pathlib
import random
import shutil
import time
import types

import pytest
from csync2lib import waits
from csync2lib.csync2.excludes import Excludes
from csync2lib.watch import inotify
from csync2lib.watch.changes import Changes
from csync2lib.watch.tree import Tree
from watching import on_loop

#: Enough to show it; the machine lets one user have so many watches, and others want some.
DIRECTORIES = min(50_000, int(pathlib.Path("/proc/sys/fs/inotify/max_user_watches").read_text()) // 4) // 100 * 100


@pytest.mark.parametrize(
    "patterns, path, excluded",
    [
        (["*.swp"], "/a/b/x.swp", True),
        (["*.swp"], "/a/x.swp/y", False),
        (["/a/tmp"], "/a/tmp/x/y", True),
        (["/a/tmp/"], "/a/tmp", True),
        (["/a/*.log"], "/a/b/x.log", False),
        (["/a/**.log"], "/a/b/x.log", True),
        (["/a/*"], "/a/b/x.log", True),
        (["?"], b"/a/\xc3\xa4", False),
        (["??"], b"/a/\xc3\xa4", True),
        (["?"], b"/a/\xff", True),
        ([], "/a", False),
    ],
)
def test_excludes_match_as_csync2_does(patterns, path, excluded):
    path = os.fsencode(path)
    assert Excludes([os.fsencode(p) for p in patterns]).match(path, os.path.basename(path)) is excluded


@on_loop
async def test_new_nested_directories(host):
    host.config()
    await host.start()
    for number in range(20):
        deep = host.tree / f"n{number}" / "b" / "c"
        deep.mkdir(parents=True)
        (deep / "file").write_text("x")
    await host.until(lambda: {f"n{n}/".encode() for n in range(20)} <= set(host.lines()))
    host.discharge()
    for number in range(20):
        (host.tree / f"n{number}" / "b" / "c" / "late").write_text("x")
    await host.until(lambda: {f"n{n}/b/c/late".encode() for n in range(20)} == set(host.lines()))


@on_loop
async def test_rename_of_a_directory(host):
    (host.tree / "old" / "sub").mkdir(parents=True)
    host.config()
    await host.start()
    (host.tree / "old").rename(host.tree / "new")
    await host.until(lambda: {b"old/", b"new/"} == set(host.lines()))
    host.discharge()
    (host.tree / "new" / "sub" / "file").write_text("x")
    await host.until(lambda: host.lines() == [b"new/sub/file"])
    assert host.status()["watches"] == 3


@on_loop
async def test_directory_moved_in_and_out(host):
    outside = host.tree.parent / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "sub" / "file").write_text("x")
    host.config()
    await host.start()
    outside.rename(host.tree / "in")
    await host.until(lambda: host.lines() == [b"in/"])
    host.discharge()
    (host.tree / "in" / "sub" / "file").write_text("y")
    await host.until(lambda: host.lines() == [b"in/sub/file"])
    host.discharge()
    (host.tree / "in").rename(outside)
    await host.until(lambda: host.lines() == [b"in/"])
    await host.quiet(0.8)
    assert host.watched == 1
    host.discharge()
    (outside / "sub" / "file").write_text("z")
    await host.quiet()
    assert not host.lines()


@on_loop
async def test_removed_tree(host):
    for number in range(30):
        (host.tree / "d" / f"s{number}").mkdir(parents=True)
        (host.tree / "d" / f"s{number}" / "file").write_text("x")
    host.config()
    await host.start()
    shutil.rmtree(host.tree / "d")
    await host.until(lambda: b"d/" in host.lines())
    await host.quiet()
    assert host.watched == 1


@on_loop
async def test_removed_and_made_again(host):
    (host.tree / "d").mkdir()
    host.config()
    await host.start()
    for _ in range(20):
        (host.tree / "d").rmdir()
        (host.tree / "d").mkdir()
        await asyncio.sleep(0.003)
    await host.until(lambda: b"d/" in host.lines())
    await host.quiet()
    host.discharge()
    (host.tree / "d" / "file").write_text("x")
    await host.until(lambda: host.lines() == [b"d/file"])


@on_loop
async def test_names_that_are_no_utf8(host):
    host.config()
    await host.start()
    name = b"\xff \n'\"%$"
    os.mkdir(os.fsencode(host.tree) + b"/d\xe4")
    await host.until(lambda: host.lines() == [b"d\xe4/"])
    host.discharge()
    with open(os.fsencode(host.tree) + b"/d\xe4/" + name, "wb") as file:
        file.write(b"x")
    await host.until(lambda: host.lines() == [b"d\xe4/" + name])


@pytest.mark.machine
@on_loop
async def test_overflow(host):
    limit = pathlib.Path("/proc/sys/fs/inotify/max_queued_events")
    before = limit.read_text()
    try:
        limit.write_text("64")
    except OSError:
        pytest.skip("max_queued_events cannot be changed here")
    try:
        host.config()
        await host.start()
    finally:
        limit.write_text(before)
    for number in range(300):  # no await: nobody reads meanwhile
        (host.tree / f"d{number}").mkdir()
    await host.until(lambda: host.whole() and host.watched == 301)
    await host.quiet()
    host.discharge()
    (host.tree / "d299" / "x").write_text("x")
    await host.until(lambda: host.lines() == [b"d299/x"])


@pytest.mark.machine
@on_loop
async def test_too_few_watches(host, monkeypatch):
    limit = pathlib.Path("/proc/sys/fs/inotify/max_user_watches")
    before = limit.read_text()
    for number in range(40):
        (host.tree / f"d{number}").mkdir()
    host.config()
    try:
        limit.write_text("10")
    except OSError:
        pytest.skip("max_user_watches cannot be changed here")
    try:
        monkeypatch.setattr(waits, "REWALK", 1.0)
        host.begin()
        await host.until(lambda: host.status()["error"])
        assert "fs.inotify.max_user_watches is 10" in host.status()["error"]
        await host.until(lambda: any("error" in event["data"] for _, event in host.events))
        await host.until(host.whole)
    finally:
        limit.write_text(before)
    await host.until(lambda: host.watched == 41)
    await host.until(lambda: host.status()["error"] is None, 8)
    assert sum("error" in event["data"] for _, event in host.events) == 1


@on_loop
async def test_many_directories_do_not_hold_the_loop(host):
    """Watched, renamed and removed."""
    gc.collect()
    gc.freeze()  # what other tests have left is no minion's: looking through it would count
    outer, inner = 100, DIRECTORIES // 100 - 1
    for one in range(outer):
        os.mkdir(host.tree / f"a{one}")
        for two in range(inner):
            os.mkdir(host.tree / f"a{one}" / f"b{two}")
    host.config()
    measure = asyncio.ensure_future(host.measure())
    before = time.monotonic()
    await host.start(60)
    told = f"{host.watched} watches in {time.monotonic() - before:.1f} s"
    assert host.watched == DIRECTORIES + 1
    assert host.status()["error"] is None
    (host.tree / "a0").rename(host.tree / "z0")
    await host.until(lambda: {b"a0/", b"z0/"} == set(host.lines()))
    for one in range(1, 20):
        (host.tree / f"a{one}").rename(host.tree.parent / f"a{one}")
    await host.until(lambda: host.watched == DIRECTORIES + 1 - 19 * (inner + 1), 30)
    measure.cancel()
    gc.unfreeze()
    print(f"\n{told}, the loop held for {host.held * 1000:.0f} ms (by the clock: {host.lag * 1000:.0f} ms)")
    assert host.held < 0.1


# --- Renames that the walks do not know of yet


class Listener:
    """Hears all, and notes nothing."""

    def file_event(self, *_, **__):
        pass

    directory_event = found = walked = file_event


@pytest.fixture
def tree(tmp_path):
    """A tree that is watched, and where it is."""
    top = tmp_path / "tree"
    top.mkdir()
    group = types.SimpleNamespace(
        name="g", roots={}, excludes=Excludes([]), walking=0, unwatched=set(), changes=Changes()
    )
    watches = inotify.Watches()
    watches.open()
    made = Tree(watches, {"g": group}, Listener())
    made.check_root(group, os.fsencode(top))
    yield made, top
    os.close(watches.fd)


def follow(tree, chance, until):
    """Read and walk, in slices of any length, until that time has come and all is quiet."""
    while True:
        buffer = tree.watches.read() if chance.random() < 0.5 else None
        if buffer:
            tree.handle(buffer)
        now = time.monotonic()
        tree.end_moves(now)
        tree.walks.walk_on(now + chance.choice([0, 0, 0.0002, 0.002]))
        if chance.random() < 0.1:
            time.sleep(0.005 * chance.random())
        if now > until and buffer == b"" and not tree.walks.walking() and not tree.walks.moving:
            return


def turmoil(top, outside, seed, until):
    """Make, rename, swap, move and delete directories of few names, as fast as can be."""
    chance = random.Random(seed)

    def some(count=1):
        there = [directory for directory, _, _ in os.walk(top)]
        if len(there) > 25:
            shutil.rmtree(chance.choice(there[1:]))
        return [os.path.join(chance.choice(there), chance.choice("abcd")) for _ in range(count)]

    def swap(one, two):
        third = os.path.join(top, f"third{seed}")
        os.rename(one, third)
        os.rename(two, one)
        os.rename(third, two)

    acts = [
        *[lambda: os.makedirs(some()[0])] * 2,
        *[lambda: os.makedirs(os.path.join(some()[0], "x/y"))] * 2,
        *[lambda: os.rename(*some(2))] * 3,
        lambda: swap(*some(2)),
        lambda: os.rename(some()[0], os.path.join(outside, chance.choice("12"))),
        lambda: os.rename(os.path.join(outside, chance.choice("12")), some()[0]),
        lambda: shutil.rmtree(some()[0]),
        lambda: shutil.rmtree(os.path.join(outside, chance.choice("12"))),
    ]
    while time.monotonic() < until:
        with contextlib.suppress(OSError, shutil.Error):
            chance.choice(acts)()
        if chance.random() < 0.2:
            time.sleep(0.002 * chance.random())


def watched(tree):
    """``{path relative to the root: watch}`` of all that is known below it."""
    found, stack = {}, [(b"", next(iter(tree.groups["g"].roots.values())))]
    while stack:
        path, node = stack.pop()
        found[path] = node.wd
        stack += [(os.path.join(path, name), child) for name, child in node.children.items()]
    return found


@pytest.mark.parametrize("seed", range(5))
def test_each_directory_has_its_own_watch_after_any_renames(tree, tmp_path, seed):
    """A walk sees the disk as it is, the events tell what it was: a watch must not get to another directory."""
    tree, top = tree
    outside = tmp_path / "outside"
    outside.mkdir()
    for round_ in range(4):
        until = time.monotonic() + 0.3
        work = [
            multiprocessing.Process(target=turmoil, args=(top, outside, f"{seed}-{round_}-{n}", until))
            for n in range(2)
        ]
        for process in work:
            process.start()
        follow(tree, random.Random(seed), until)
        for process in work:
            process.join()
        follow(tree, random.Random(seed), 0)
        found = watched(tree)
        there = [os.fsencode(os.path.relpath(directory, top)) for directory, _, _ in os.walk(top)]
        assert sorted(found) == sorted(b"" if path == b"." else path for path in there)
        watch = inotify.libc.inotify_add_watch  # of a watched directory, it returns the watch that it has
        wanted = {path: watch(tree.watches.fd, os.path.join(os.fsencode(top), path), inotify.MASK) for path in found}
        assert found == wanted
        assert len(tree.watches.nodes) == len(found)
