"""The directories that are watched: excludes, renames, lost events, too many of them. With real inotify."""

import asyncio
import os
import pathlib
import shutil
import time

import csync2inotify
import pytest
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
    assert csync2inotify.Excludes([os.fsencode(p) for p in patterns]).match(path, os.path.basename(path)) is excluded


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


@on_loop
async def test_too_few_watches(host):
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
        host.beacon()
        host.code["csync2inotify"].REWALK = 1.0
        await host.until(lambda: host.status()["error"])
        assert "fs.inotify.max_user_watches is 10" in host.status()["error"]
        await host.until(lambda: any("error" in event["data"] for _, event in host.events))
        assert host.whole()
    finally:
        limit.write_text(before)
    await host.until(lambda: host.watched == 41)
    await host.until(lambda: host.status()["error"] is None, 8)
    assert sum("error" in event["data"] for _, event in host.events) == 1


@on_loop
async def test_many_directories_do_not_hold_the_loop(host):
    """Watched, renamed and removed."""
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
    print(f"\n{told}, the loop held for {host.held * 1000:.0f} ms (by the clock: {host.lag * 1000:.0f} ms)")
    assert host.held < 0.1
