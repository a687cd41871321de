"""A host whose files are watched: the watcher and the beacon, real inotify, real files, and a bus as the minion has."""

import asyncio
import contextlib
import functools
import importlib.util
import json
import os
import pathlib
import sqlite3
import time

import salt.transport.tcp
import tornado.ioloop
from csync2lib.csync2.names import encode
from csync2lib.csync2.states import check_text
from csync2lib.journal import REWRITTEN
from csync2lib.watch.notify import Notifier
from csync2lib.watch.options import Options
from csync2lib.watch.watcher import Watcher
from salt.utils.event import SaltEvent

REPO = pathlib.Path(__file__).resolve().parents[2]


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Host:
    """A state directory with the group ``data``, its tree, the watcher, and the beacon as Salt would call it."""

    def __init__(self, path, **options):
        self.state, self.tree = path / "state", path / "tree"
        self.group = self.state / "data"
        self.group.mkdir(parents=True)
        self.tree.mkdir()
        self.database = path / "csync2.db3"
        self.options = [{name: value} for name, value in options.items()]
        #: what the minion's bus was given: (tag, what the beacon has returned)
        self.events = []
        self.module = load(REPO / "_beacons" / "csyncsync.py", "beacon_of_csyncsync")
        self.module.STATE_DIR = str(self.state)
        self.module.__opts__ = {"id": "web1", "hash_type": "sha256", "sock_dir": str(path)}
        self.watcher = self.bus = None
        self.lag = self.held = 0.0

    def beacon(self):
        return self.module.beacon([*self.options, {"_beacon_name": "csyncsync"}])

    def open_bus(self):
        """Listen where the minion does."""
        path = json.loads((self.state / "beacon.json").read_text())["bus"]
        loop = asyncio.get_running_loop()
        self.bus = salt.transport.tcp.TCPPuller(path=path, io_loop=loop, payload_handler=self._heard)
        self.bus.start()

    async def _heard(self, body, **_):
        tag, data = SaltEvent.unpack(body)
        self.events.append((tag, data["beacons"][0]))

    def close_bus(self):
        if self.bus is not None:
            tornado.ioloop.IOLoop.current().remove_handler(self.bus.sock)
            self.bus.close()
            self.bus = None

    def make_watcher(self):
        """A watcher as the service makes it; it is not started."""
        options = Options()
        options.read(str(self.state))
        return Watcher(str(self.state), options, Notifier(options))

    def begin(self):
        """Start the watcher."""
        self.beacon()
        if self.bus is None:
            self.open_bus()
        self.watcher = self.make_watcher()
        self.watcher.start()

    @property
    def watched(self):
        """How many directories are watched."""
        return len(self.watcher.watches.nodes)

    def end(self):
        """End the watcher, and the bus."""
        if self.watcher is not None:
            self.watcher.close()
            if self.watcher.watches.fd >= 0:
                os.close(self.watcher.watches.fd)
            self.watcher = None
        self.close_bus()

    def config(self, **more):
        temporary = self.group / "new"
        config = {"group": "data", "include": [str(self.tree)], "exclude": [], "database": str(self.database)}
        temporary.write_text(json.dumps({**config, **more}))
        temporary.rename(self.group / "config.json")

    def lines(self):
        """Everything in the journal, as paths relative to the tree."""
        found = []
        for file in sorted((self.group / "journal").glob("*.paths")):
            content = file.read_bytes()
            assert content.endswith(b"\0")
            found += [line.removesuffix(REWRITTEN) for line in content[:-1].split(b"\0")]
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
        self.begin()
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
                host.end()

        asyncio.run(main())

    return run
