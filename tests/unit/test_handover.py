"""A watcher takes the place of another one: it goes on with the kernel's descriptor, and misses and walks nothing."""

import asyncio
import errno
import os
import shutil
import threading
import time

import pytest
from csync2lib import journal
from csync2lib.watch import echo, handover
from watching import on_loop


def replace(host, meanwhile=lambda: None):
    """Have another watcher take the place of the host's. Returns whether it goes on with what that one has left."""
    path, descriptor = host.state.parent / "left", os.dup(host.watcher.watches.fd)
    host.watcher.close()
    handover.keep(path, host.watcher)
    os.close(host.watcher.watches.fd)
    meanwhile()
    host.watcher = host.make_watcher()
    taken = handover.take(path, host.watcher, descriptor)
    if not taken:
        os.close(descriptor)
    host.watcher.start()
    return taken


@on_loop
async def test_what_changes_meanwhile_is_heard_and_nothing_is_walked_again(host):
    (host.tree / "a" / "b").mkdir(parents=True)
    (host.tree / "a" / "old").write_text("x")
    host.config()
    await host.start()
    walks = host.status()["walks"]

    def meanwhile():
        (host.tree / "a" / "b" / "new").write_text("x")
        (host.tree / "a" / "old").unlink()
        (host.tree / "a" / "b").rename(host.tree / "a" / "c")
        (host.tree / "made" / "deep").mkdir(parents=True)

    assert replace(host, meanwhile)
    await host.until(lambda: {b"a/b/new", b"a/old", b"a/c/", b"a/b/", b"made/"} <= {*host.lines(), b"a/b/new"})
    assert host.watched == 5
    (host.tree / "a" / "c" / "later").write_text("x")
    (host.tree / "made" / "deep" / "later").write_text("x")
    await host.until(lambda: {b"a/c/later", b"made/deep/later"} <= {*host.lines()})
    await host.quiet(1.5)
    assert not host.whole()
    assert host.status()["walks"] == walks


@on_loop
async def test_a_watcher_is_replaced_again_and_again_in_a_burst(host):
    host.config()
    await host.start()
    names = []
    for number in range(20):
        for part in range(10):
            names.append(f"d{number}/f{part}")
            (host.tree / names[-1]).parent.mkdir(exist_ok=True)
            (host.tree / names[-1]).write_text("x")
            await asyncio.sleep(0.003)
        assert replace(host)

    def told():
        lines = {*host.lines()}
        return all(name.encode() in lines or name.split("/")[0].encode() + b"/" in lines for name in names)

    await host.until(told)
    assert host.watched == 21
    assert not host.whole()


@on_loop
async def test_what_was_asked_for_is_not_asked_for_again_and_what_was_not_is(host):
    host.config()
    await host.start()
    (host.tree / "asked").write_text("x")
    await host.until(lambda: host.events)
    assert replace(host)
    await host.quiet(1.5)
    assert len(host.events) == 1
    (host.tree / "not yet").write_text("x")
    await asyncio.sleep(0.01)
    host.close_bus()
    assert replace(host)
    host.open_bus()
    host.discharge()
    (host.tree / "more").write_text("x")
    await host.until(lambda: host.events)


@on_loop
async def test_a_config_that_has_changed_meanwhile(host):
    (host.tree / "a").mkdir()
    (host.tree / "b").mkdir()
    host.config(include=[str(host.tree / "a")])
    await host.start()
    include = [str(host.tree / "a"), str(host.tree / "b")]
    assert replace(host, lambda: host.config(include=include, exclude=["*.swp"]))
    await host.until(lambda: host.whole() and host.watched == 2)
    host.discharge()
    (host.tree / "a" / "x.swp").write_text("x")
    (host.tree / "b" / "file").write_text("x")
    await host.until(lambda: host.lines() == [b"b/file"])


@on_loop
async def test_a_group_that_has_gone_meanwhile(host):
    host.config()
    await host.start()
    assert replace(host, (host.group / "config.json").unlink)
    await host.until(lambda: not host.watched)


@on_loop
async def test_includes_that_are_files_or_missing_or_become_another_one(host):
    (host.tree / "file").write_text("x")
    (host.tree / "d").mkdir()
    host.config(include=[str(host.tree / name) for name in ("file", "missing", "d")])
    await host.start()

    def meanwhile():
        (host.tree / "file").write_text("longer")
        (host.tree / "missing").mkdir()
        shutil.rmtree(host.tree / "d")
        (host.tree / "d").mkdir()

    assert replace(host, meanwhile)
    await host.until(lambda: b"file" in host.lines() and host.whole())
    for name in ("missing", "d"):
        (host.tree / name / "new").write_text("x")
    await host.until(lambda: {b"missing/new", b"d/new"} <= {*host.lines()})


@on_loop
async def test_what_is_excluded_and_deep_and_oddly_named(host):
    deep = host.tree / os.fsdecode(b"odd\xff\n") / "/".join("n" * 50 for _ in range(60))
    deep.mkdir(parents=True)
    (host.tree / "out" / "below").mkdir(parents=True)
    host.config(exclude=[str(host.tree / "out")])
    await host.start()
    assert replace(host)
    (host.tree / "out" / "below" / "f").write_text("x")
    (deep / "f").write_text("x")
    await host.until(lambda: [line.endswith(b"/f") for line in host.lines()] == [True])
    host.discharge()
    host.config()
    await host.until(host.whole)
    (host.tree / "out" / "below" / "f").write_text("y")
    await host.until(lambda: b"out/below/f" in host.lines())


@on_loop
async def test_a_watcher_that_is_in_the_midst_of_its_walk_leaves_nothing(host):
    for number in range(300):
        (host.tree / f"d{number}").mkdir()
    host.config()
    host.begin()
    host.watcher.tree.walks.walk_on = lambda deadline: None
    assert not replace(host)
    await host.until(lambda: host.whole() and host.watched == 301)


@pytest.mark.parametrize("content", [b"", b"no", b"\xe9\x00\x00", None])
@on_loop
async def test_what_cannot_be_read_is_not_used(host, content):
    host.config()
    await host.start()
    path = host.state.parent / "left"
    if content is not None:
        path.write_bytes(content)
    assert not handover.take(path, host.watcher, -1)


@on_loop
async def test_what_another_version_has_left_is_not_used(host, monkeypatch):
    host.config()
    await host.start()
    handover.keep(host.state.parent / "left", host.watcher)
    monkeypatch.setattr(handover, "FORMAT", 0)
    assert not handover.take(host.state.parent / "left", host.make_watcher(), -1)


@pytest.mark.parametrize("how", ["fails", "fails late", "hangs"])
@on_loop
async def test_who_could_not_write_down_what_waits_leaves_nothing(host, monkeypatch, how):
    """A full disk, say: the next one has all checked."""
    host.config()
    await host.start()
    write, began = journal.write, threading.Event()

    def fail(*_):
        began.set()
        if how == "fails late":
            time.sleep(0.5)
        if how == "hangs":
            time.sleep(8)
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(journal, "write", fail)
    (host.tree / "file").write_text("x")
    if how != "fails":
        await host.until(began.is_set)
    taken = replace(host, lambda: monkeypatch.setattr(journal, "write", write))
    assert not taken
    await host.until(host.whole)


@on_loop
async def test_what_csync2_writes_meanwhile_is_not_told(host, monkeypatch):
    """It has given the file its name, and closes it then."""
    monkeypatch.setattr(echo, "LANDING_WAIT", 30.0)
    host.make_database()
    host.config()
    await host.start()
    with (host.tree / ".page.aB3dE6").open("w") as file:
        file.write("x")
        file.flush()
        (host.tree / ".page.aB3dE6").rename(host.tree / "page")
        os.utime(host.tree / "page", (1700000000, 1700000000))
        host.record(host.tree / "page")
        await asyncio.sleep(0.05)
        assert replace(host)
    await host.quiet(1.5)
    assert not host.lines()
