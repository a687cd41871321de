"""A host whose files are watched: the beacon as Salt would call it, a real event loop, real inotify, real files."""

import asyncio
import contextlib
import functools
import importlib.util
import json
import os
import pathlib
import shutil
import sqlite3
import sys
import time

from csync2lib.csync2.names import encode
from csync2lib.csync2.states import check_text

REPO = pathlib.Path(__file__).resolve().parents[2]


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Host:
    """A state directory with the group ``data``, its tree, and the beacon as Salt would call it."""

    def __init__(self, path, **options):
        self.state, self.tree = path / "state", path / "tree"
        self.group = self.state / "data"
        self.group.mkdir(parents=True)
        self.tree.mkdir()
        self.database = path / "csync2.db3"
        self.options = [{"state_dir": str(self.state)}, *({name: value} for name, value in options.items())]
        self.events = []
        self.module = None
        #: where the beacon is loaded from, and what it calls
        self.beacons, self.utils = REPO / "_beacons", REPO / "_utils"
        self.lag = self.held = 0.0
        self.load()

    @contextlib.contextmanager
    def get_event(self, node, opts=None, listen=True):
        """In the place of Salt's: the minion's bus."""
        assert (node, opts["id"], listen) == ("minion", "web1", False)
        yield self

    def fire_event(self, data, tag):
        self.events.append((tag, data["beacons"][0]))

    def load(self, name="beacon_one"):
        self.module = load(self.beacons / "csyncsync.py", name)
        self.module.__opts__ = {"id": "web1"}

    def load_as_synced(self):
        """Load the beacon as a sync leaves it on a minion, before it brings the utils."""
        extmods = self.state.parent / "extmods"
        shutil.copytree(REPO / "_beacons", extmods / "beacons", ignore=shutil.ignore_patterns("__pycache__"))
        self.beacons, self.utils = extmods / "beacons", extmods / "utils"
        self.load("beacon_synced")

    def sync_utils(self, but=""):
        """Bring the utils, but for one."""
        for file in (REPO / "_utils").rglob("*.py"):
            path = self.utils / file.relative_to(REPO / "_utils")
            path.parent.mkdir(parents=True, exist_ok=True)
            if str(file.relative_to(REPO / "_utils")) != but:
                shutil.copyfile(file, path)

    def config(self, **more):
        temporary = self.group / "new"
        config = {"group": "data", "include": [str(self.tree)], "exclude": [], "database": str(self.database)}
        temporary.write_text(json.dumps({**config, **more}))
        temporary.rename(self.group / "config.json")

    def beacon(self):
        return self.module.beacon([*self.options, {"_beacon_name": "csyncsync"}])

    @property
    def code(self):
        """The modules of the watcher's own copy of the package: ``code("watch.watcher")``."""
        return lambda name: sys.modules[self.module.HOLDER].code[f"csync2lib.{name}"]

    @property
    def watcher(self):
        return sys.modules[self.module.HOLDER].watcher

    @property
    def watched(self):
        """How many directories are watched."""
        return len(self.watcher.watches.nodes)

    def lines(self):
        """Everything in the journal, as paths relative to the tree."""
        found = []
        for file in sorted((self.group / "journal").glob("*.paths")):
            content = file.read_bytes()
            assert content.endswith(b"\0")
            found += content[:-1].split(b"\0")
        top = os.fsencode(self.tree) + b"/"
        assert all(line.startswith(top) for line in found)
        return [line[len(top) :] for line in found]

    def whole(self):
        return (self.group / "journal" / "whole").exists()

    def discharge(self):
        for file in (self.group / "journal").iterdir():
            file.unlink()
        self.events.clear()

    def status(self):
        return json.loads((self.group / "watch.json").read_text())

    async def start(self, seconds=10):
        self.beacon()
        await self.until(lambda: self.status()["ready"] and self.whole() and self.events, seconds)
        self.discharge()

    async def until(self, condition, seconds=10):
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(FileNotFoundError):
                if condition():
                    return
            assert time.monotonic() < end, (self.lines(), self.whole(), self.events)
            await asyncio.sleep(0.01)

    async def quiet(self, seconds=0.6):
        await asyncio.sleep(seconds)

    async def measure(self):
        """
        Keep the longest time for which the loop did not come back: by the clock, and as this thread's work, which does
        not count what a busy machine gave to others.
        """
        while True:
            before, worked = time.monotonic(), time.thread_time()
            await asyncio.sleep(0.001)
            self.lag = max(self.lag, time.monotonic() - before - 0.001)
            self.held = max(self.held, time.thread_time() - worked)

    def make_database(self):
        with contextlib.closing(sqlite3.connect(self.database)) as database:
            database.execute("CREATE TABLE file (filename, checktxt, UNIQUE ( filename ) ON CONFLICT REPLACE)")
            database.execute("CREATE TABLE dirty (filename, forced, myname, peername, UNIQUE ( filename, peername ))")
            database.commit()

    def mark(self, *paths):
        """What csync2 would have marked as to be sent."""
        with contextlib.closing(sqlite3.connect(self.database)) as database:
            for path in paths:
                database.execute(
                    "INSERT INTO dirty VALUES (CAST(? AS TEXT), 0, 'a', 'b')", (encode(os.fsencode(path)),)
                )
            database.commit()

    def forget(self, *paths):
        """What csync2's daemon would have deleted."""
        with contextlib.closing(sqlite3.connect(self.database)) as database:
            for path in map(os.fsencode, paths):
                database.execute("DELETE FROM file WHERE filename = CAST(? AS TEXT)", (encode(path),))
            database.commit()

    def record(self, *paths):
        """What csync2's daemon would have recorded."""
        with contextlib.closing(sqlite3.connect(self.database)) as database:
            for path in map(os.fsencode, paths):
                text = encode(check_text(path, os.lstat(path)))
                database.execute("INSERT INTO file VALUES (CAST(? AS TEXT), CAST(? AS TEXT))", (encode(path), text))
            database.commit()


def on_loop(test):
    """Run a test in an event loop; the watcher is closed in it."""

    @functools.wraps(test)
    def run(host, **fixtures):
        async def main():
            try:
                await test(host, **fixtures)
            finally:
                if host.module.HOLDER in sys.modules:
                    host.watcher.close()

        asyncio.run(main())

    return run
