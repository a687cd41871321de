"""
One group on this host: its config, its paths, csync2's database of it, and the lock that only one holder has.

Whatever works on a group is given a ``Group``. (The records that a push needs are NamedTuples, because each job defines
them anew, and that takes twice as long for a dataclass.)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import tempfile
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

from csync2lib import confinement, pauses, storage
from csync2lib.config.defaults import HOLD
from csync2lib.csync2 import command
from csync2lib.csync2.database import Database
from csync2lib.csync2.names import database_path, is_group_name
from csync2lib.csync2.namespace import is_below
from csync2lib.errors import CsyncsyncError
from csync2lib.guard import LET_THROUGH, Guard
from csync2lib.host import ThisHost

#: Seconds to wait until csync2 has made the tables of a new database, and until it releases its lock on the database.
TABLES_WITHIN, DATABASE_WAIT = 3.0, 20.0
#: Seconds that an administrator's command waits for a push that is under way.
LOCK_WAIT = 60.0
#: In a group's directory, from the first step of a join to the second: what this host alone had.
ONLY_HERE = "alone"
#: In a group's directory: the include roots and mount points below which another file system is than should be.
AWAY = "away"
#: In a group's directory: this host joins anew, though it has its database: others have dropped what was dirty for it.
ANEW = "anew"
#: In a group's directory, as JSON: hosts that have left its config while it was in use here.
DROPPED = "dropped.json"
#: In a group's directory: ``{"total": paths that were found to be another one than on other hosts}``.
DIFFERENCES = "differences.json"
#: An answer names at most so many paths, because it goes over the minion's bus.
MOST_TOLD = 5000


class GroupConfig(NamedTuple):
    """What ``group_present`` last wrote into ``config.json``. A push reads this alone, so it needs no pillar."""

    group: str
    include: list[str]
    exclude: list[str]
    #: ``{minion id: {"name", "address", "certificate"}}``
    hosts: dict[str, dict[str, str]]
    #: this host's, in the group
    address: str
    database: str
    #: members that have no facts in the mine now: ``hosts`` keeps what was last known of them
    unpublished: list[str] = []
    receive_only: bool = False
    #: what the pillar asks for as an address
    address_wanted: str | None = None
    #: ``{"number", "share"}``: a push that deletes more is held
    hold: dict[str, float] = HOLD
    #: what ``template.context()`` returned: csync2's config is rendered from it
    rules: dict[str, Any] = {}

    def why_no_source(self, minion: str) -> str:
        """Why no other host may get its first content from this one ("" if one may): it only receives."""
        hosts = self.rules.get("hosts", ())
        address = self.hosts.get(minion, {}).get("address")
        if not any(host["address"] == address and host["receive_only"] for host in hosts):
            return ""
        return f"{minion} only receives (csyncsync:groups:{self.group}:receive_only): it is the source of nothing"

    @property
    def minions(self) -> dict[str, str]:
        """``{address: minion id}`` of all hosts."""
        return {host["address"]: minion for minion, host in self.hosts.items()}

    @property
    def peers(self) -> set[str]:
        """The addresses of the other hosts."""
        return {*self.minions} - {self.address}

    @property
    def roots(self) -> list[bytes]:
        """The includes, as csync2's paths are."""
        return [os.fsencode(path) for path in self.include]

    @property
    def backup_directory(self) -> bytes | None:
        path = self.rules.get("backup_directory")
        return os.fsencode(path) if path else None

    def in_includes(self, names: Iterable[str]) -> dict[str, bytes]:
        """
        ``{name: path}`` of percent-encoded names, of directories with or without a "/" at the end. Raises
        CsyncsyncError if one of them is in no include.
        """
        found = {name: urllib.parse.unquote_to_bytes(name.rstrip("/")) for name in names}
        for name, path in found.items():
            inside = any(is_below(path, root) for root in self.roots)
            if not inside or os.path.normpath(path) != path or b"\0" in path:
                raise CsyncsyncError(f"{name} is in no include of {self.group}")
        return found

    def address_of(self, minion: str) -> str:
        """The address of a host. Raises CsyncsyncError."""
        if minion not in self.hosts:
            raise CsyncsyncError(f"{minion} is not in this host's config of {self.group} yet")
        return self.hosts[minion]["address"]


class Group:
    """A group on this host, installed or not."""

    def __init__(self, name: str, host: ThisHost) -> None:
        name = str(name)  # a command line's YAML makes a number of digits
        self.name, self.host = name, host
        self.directory = os.path.join(host.state, name)
        self.journal = self.path("journal")
        self.config_file = os.path.join(host.system, f"csync2_{name}.cfg")
        self.key_file = os.path.join(host.system, f"csync2_{name}.key")
        self.database = database_path(host.databases, host.name, name)
        self.guard = Guard(name, self.directory, self.database)

    # ---- What its directory says

    def path(self, *names: str) -> str:
        """A path in the group's directory, ``/var/lib/csyncsync/GROUP``."""
        return os.path.join(self.directory, *names)

    def forget(self, *names: str) -> None:
        """Remove files from that directory; they may be missing."""
        for name in names:
            storage.remove(self.path(name))

    def said(self) -> dict[str, Any]:
        """The content of ``config.json``, of whatever version; {} if the group is not installed here."""
        found = storage.read_json(self.path("config.json"), {}) if is_group_name(self.name) else {}
        return cast("dict[str, Any]", found)

    @property
    def config(self) -> GroupConfig:
        """The group's config. Raises CsyncsyncError if the group is not installed here."""
        said = self.said()
        if not said:
            there = ", ".join(self.host.installed()) or "none"
            raise CsyncsyncError(f"group {self.name!r} is not on this host; it has {there}. Run state.apply csyncsync")
        known = {name: said[name] for name in GroupConfig._fields if said.get(name) is not None}
        try:  # another version may have written it
            return GroupConfig(**known)
        except TypeError as err:
            raise CsyncsyncError(f"config.json of group {said.get('group')} is damaged: {err}") from err

    def require(self) -> Group:
        """The group itself. Raises CsyncsyncError if it is not installed here."""
        _ = self.config
        return self

    def was_established(self) -> bool:
        """Tell whether this host, under this name, was admitted to the group at any time."""
        return storage.read(self.path("established")) == self.host.name

    def dropped(self) -> set[str]:
        """The minion ids of hosts that have left the config: nobody has kept for them what has changed since."""
        return {*storage.read_json(self.path(DROPPED), [])}

    def note_dropped(self, minions: Iterable[str]) -> None:
        """Note which hosts these are, all of them."""
        if {*minions} != self.dropped():
            storage.write_json(self.path(DROPPED), sorted(minions))

    def why_paused(self) -> str:
        """Until when this host is paused, and what ends it ("" if it is not)."""
        said, minion = pauses.pauses(self.directory), self.host.minion
        for host, which in ((pauses.ALL_HOSTS, self.name), (minion, f"{self.name} host={minion}")):
            if host in said:
                end, comment = said[host]["until"], said[host]["comment"]
                until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(end)) if end else "somebody resumes it"
                return f"paused until {until}{f' ({comment})' if comment else ''}: salt-run csyncsync.resume {which}"
        return ""

    # ---- csync2's database

    def open_database(self, write: bool = False) -> Database:
        return Database(self.database, timeout=DATABASE_WAIT, write=write)

    @contextlib.contextmanager
    def copied_database(self) -> Iterator[str]:
        """
        Yields a directory for csync2 -D, with a database that has the pinned certificates, and no records nor anything
        dirty, beside the group's database, where csync2 may write. The watcher removes what a crash leaves of it.
        """
        with tempfile.TemporaryDirectory(f".tmp{os.getpid()}", "copy-", os.path.dirname(self.database)) as directory:
            path = os.path.join(directory, os.path.basename(self.database))
            with self.open_database() as database:
                database.copy(path, ())
            yield directory

    def state(self) -> int:
        """
        How far this host has joined: Database.NEW, RECORDED, ESTABLISHED. A missing database is made.

        A new or replaced one gets its pinned certificates: without them csync2 would trust whoever comes first.
        """
        if not os.path.exists(self.database):
            self.pin(self.config)
        with self.open_database() as database:
            if database.state() != Database.NEW:
                return database.state()
        self.pin(self.config)
        return Database.NEW

    def reset(self) -> None:
        """Forget what csync2 knows of the group's files, so that this host joins it anew. Raises CsyncsyncError."""
        with self.exclusive():
            self.forget("established", ANEW, ONLY_HERE, "push.json", "peers.json", "large.json", LET_THROUGH, DROPPED)
            self.state()  # makes the database, if it is missing
            with self.open_database(write=True) as database:
                database.empty()

    def left(self, config: GroupConfig) -> dict[str, int]:
        """``{address: number of dirty entries}`` of the other hosts; hosts that are no longer members do not count."""
        with self.open_database() as database:
            return {peer: number for peer, number in database.dirty_peers().items() if peer in config.minions}

    def dirty(self, most: int = MOST_TOLD) -> dict[str, list[str]]:
        """``{percent-encoded path: [minion id, …]}``: which hosts are still to get a path; at most so many paths."""
        minions = self.config.minions
        found: dict[bytes, list[str]] = {}
        with self.open_database() as database:
            for path, peer, _ in database.dirty(minions):
                if len(found) < most or path in found:
                    found.setdefault(path, []).append(minions[peer])
        return {urllib.parse.quote_from_bytes(path): sorted(peers) for path, peers in found.items()}

    def pinned(self) -> dict[str, str]:
        """``{minion id: SHA-256 in hexadecimal}`` of the other hosts' pinned certificates."""
        minions = self.config.minions
        with self.open_database() as database:
            found = database.certificates()
        return {
            minions[a]: hashlib.sha256(bytes.fromhex(data)).hexdigest() for a, data in found.items() if a in minions
        }

    def pin(self, config: GroupConfig, test: bool = False) -> dict[str, dict[str, list[str]]]:
        """
        Pin the certificates of the config's hosts in the database, and no others. Returns the changes, as
        ``{"certificates": {"pinned": [address, …], "dropped": [address, …]}}``. Raises CsyncsyncError.
        """
        others = ((minion, host) for minion, host in config.hosts.items() if minion != self.host.minion)
        wanted = {host["address"]: host["certificate"] for _, host in others}
        if not os.path.exists(self.database) or not os.path.getsize(self.database):
            if test:
                return {"certificates": {"pinned": sorted(wanted)}} if wanted else {}
            self._make_database()
        try:
            self._await_tables()
            with Database(self.database, timeout=DATABASE_WAIT, write=not test) as database:
                pinned = database.certificates()
                if pinned == wanted and database.is_pinned():
                    return {}
                if not test:
                    database.pin(wanted)
        except sqlite3.Error as err:
            raise CsyncsyncError(f"{self.database}: {err}") from err
        new = sorted(address for address in wanted if pinned.get(address) != wanted[address])
        return {"certificates": {"pinned": new, "dropped": sorted(set(pinned) - set(wanted))}}

    def _make_database(self) -> None:
        """Have csync2 make the database and its tables, as any listing does; 2 is "nothing to list"."""
        try:
            command.run(self.name, "-M", fine=(0, 2))
        except CsyncsyncError as err:
            # csync2's server was making the same tables at the same moment.
            if "already exists" not in str(err) and "no such table" not in str(err):
                raise

    def _await_tables(self) -> None:
        """Wait until csync2, its server perhaps, has made all tables of a new database."""
        until = time.monotonic() + TABLES_WITHIN
        while time.monotonic() < until:
            with self.open_database() as database:
                if database.is_complete():
                    return
            time.sleep(0.1)

    # ---- Its lock

    def lock(self, wait: float = 0.0) -> contextlib.AbstractContextManager[bool]:
        """Hold the group's lock on this host; yields False if somebody else held it all the time."""
        return storage.locked(self.path("lock"), wait)

    @contextlib.contextmanager
    def exclusive(self, roots: bool = False, established: str = "") -> Iterator[GroupConfig]:
        """
        Hold the group's lock, so that no push runs meanwhile; waits for one that is under way. Yields the config.

        Raises CsyncsyncError; with ``roots``, or ``established``, also unless all include roots are as noted
        (``guard``), and with the text ``established`` unless this host is that.
        """
        config = self.config
        with self.lock(LOCK_WAIT) as mine:
            if not mine:
                raise CsyncsyncError(f"another push of {self.name} is under way on this host")
            problems = [*self.guard.problems().values()] if roots or established else []
            if established and not problems and self.state() != Database.ESTABLISHED:
                problems = [established]
            if problems:
                raise CsyncsyncError("; ".join(problems))
            confinement.await_current(self.host)
            yield config
