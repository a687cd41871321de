"""
csync2's database of one group.

It has a table of records (the state of each path, as csync2 last saw or wrote it), and one of dirty entries: a path is
*dirty* for a peer while it is to be sent to that peer.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from csync2lib import storage
from csync2lib.csync2.names import decode, encode


class DirtyEntry(NamedTuple):
    """A row of csync2's table ``dirty``: a path that is to be sent to a peer."""

    rowid: int
    #: The path, as encode() gives it.
    name: bytes
    #: 1 (or ``b"1"``) if it replaces even what was changed on the peer (``csync2 -f``), else 0.
    forced: int | bytes
    #: This host's address and the peer's, as encode() gives them.
    own: bytes
    peer: bytes


#: The trigger that keeps csync2 from taking in certificates.
PINNED = "csyncsync_pinned"

#: Rows that are read, or written, at once, so that nobody waits.
AT_ONCE = 10_000

#: A dirty entry; what is below a directory, given _below(); one more record; one more entry, after INSERT. Values are
#: bytes, and csync2's are text.
_ENTRY = "filename = CAST(? AS TEXT) AND peername = CAST(? AS TEXT)"
_BELOW = "filename > CAST(? AS TEXT) AND filename < CAST(? AS TEXT)"
_RECORD = "INSERT INTO file (filename, checktxt) VALUES (CAST(? AS TEXT), CAST(? AS TEXT))"
_DIRTY = "INTO dirty (filename, forced, myname, peername) VALUES (CAST(? AS TEXT), ?, CAST(? AS TEXT), CAST(? AS TEXT))"


class Database:
    """
    csync2's database of one group, opened for one question: use it as a context manager.

    Nobody may read for long: csync2 cannot commit meanwhile, and gives up. Raises sqlite3.Error where the file is
    missing, locked by a running transaction, or damaged.
    """

    #: How far this host has joined the group: its files are not recorded yet; they are; it may push. It stands in
    #: PRAGMA user_version, which csync2 leaves at 0: a database that csync2 makes in place of a lost one is NEW.
    NEW, RECORDED, ESTABLISHED = 0, 1, 2

    def __init__(self, path: str, timeout: float = 0.0, write: bool = False) -> None:
        quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        # Not mode=ro: who comes first has to roll back what a killed process has begun to write.
        self._db = sqlite3.connect(f"file:{quoted}?mode=rw", uri=True, timeout=timeout, isolation_level=None)
        self.timeout = timeout
        self._db.text_factory = bytes
        if not write:
            self._db.execute("PRAGMA query_only = ON")

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def _rows(self, query: str, *values: object) -> list[Any]:
        return self._db.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """
        Commit all or nothing: an error closes the database without a commit.

        Nobody may read when it begins: csync2 keeps what it reads in a transaction locked while it sleeps because
        somebody else writes, so that each would wait for the other one. Between two tries nothing is locked.
        """
        until = time.monotonic() + self.timeout
        self._db.execute("PRAGMA busy_timeout = 0")
        while True:
            try:
                self._db.execute("BEGIN EXCLUSIVE")
                break
            except sqlite3.OperationalError as err:
                if "locked" not in str(err) or time.monotonic() >= until:
                    raise
            time.sleep(random.uniform(0.002, 0.01))
        self._db.execute(f"PRAGMA busy_timeout = {int(self.timeout * 1000)}")
        yield
        self._db.execute("COMMIT")

    def state(self) -> int:
        """NEW, RECORDED or ESTABLISHED."""
        return int(self._rows("PRAGMA user_version")[0][0])

    def set_state(self, state: int) -> None:
        with self._transaction():
            self._db.execute(f"PRAGMA user_version = {int(state)}")

    def await_writer(self) -> None:
        """Wait until nobody writes, up to the timeout. csync2 would wait by whole seconds (db.c: "sleeping a sec")."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("ROLLBACK")

    def is_complete(self) -> bool:
        """Tell whether it has all tables: csync2 makes them one by one."""
        tables = {name for (name,) in self._rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return {b"file", b"dirty", b"hint", b"action", b"x509_cert"} <= tables

    def is_sound(self) -> bool:
        """Tell whether nothing is damaged or missing; reads all of it."""
        return self._rows("PRAGMA quick_check(1)") == [(b"ok",)] and self.is_complete()

    def count(self) -> int:
        """How many files are recorded."""
        return int(self._rows("SELECT count(*) FROM file")[0][0])

    def size(self, most: int = 50_000) -> tuple[int, int]:
        """``(files, bytes)`` of all that is recorded; read in portions, so that nobody waits."""
        after: bytes | None = b""
        files = size = 0
        while after is not None:
            [(number, some, after)] = self._rows(
                "SELECT count(*), total(CASE WHEN found THEN CAST(substr(checktxt, found + 8) AS INTEGER) END),"
                " max(filename) FROM (SELECT filename, checktxt, instr(checktxt, '%3Asize=') AS found FROM file"
                " WHERE filename > CAST(? AS TEXT) ORDER BY filename LIMIT ?)",
                after,
                most,
            )
            files, size = files + number, size + int(some)
        return files, size

    def record(self, path: bytes) -> bytes | None:
        """The recorded state (as check_text() gives it) of a path in bytes, None if there is none."""
        rows = self._rows("SELECT checktxt FROM file WHERE filename = CAST(? AS TEXT)", encode(path))
        return decode(rows[0][0]) if rows else None

    def records(self, paths: Iterable[bytes]) -> tuple[dict[bytes, bytes], set[bytes]]:
        """
        ``({path: record}, {path, …} of those that are dirty for any peer)`` of these paths, a few hundred at most.

        Two short reads: csync2 waits a second with a commit that meets a reader.
        """
        names = [encode(path) for path in paths]
        among = f"filename IN ({', '.join(['CAST(? AS TEXT)'] * len(names))})"
        rows = self._rows(f"SELECT filename, checktxt FROM file WHERE {among}", *names)
        dirty = self._rows(f"SELECT DISTINCT filename FROM dirty WHERE {among}", *names)
        return {decode(name): decode(text) for name, text in rows}, {decode(name) for (name,) in dirty}

    def has_below(self, path: bytes) -> bool:
        """Tell whether anything is recorded below this directory."""
        return bool(self._rows(f"SELECT 1 FROM file WHERE {_BELOW} LIMIT 1", *_below(path)))

    def below(self, path: bytes) -> list[bytes]:
        """What is recorded of a directory and everything below it, as paths in bytes."""
        query = f"SELECT filename FROM file WHERE filename = CAST(? AS TEXT) OR ({_BELOW})"
        return [decode(row) for (row,) in self._rows(query, encode(path), *_below(path))]

    def is_dirty(self, path: bytes, peer: str | None = None) -> bool:
        """Tell whether a path in bytes is dirty for a peer, or for any."""
        to = "" if peer is None else " AND peername = CAST(? AS TEXT)"
        values = [encode(path), *([] if peer is None else [encode(peer.encode())])]
        return bool(self._rows(f"SELECT 1 FROM dirty WHERE filename = CAST(? AS TEXT){to} LIMIT 1", *values))

    def dirty(self, peers: Iterable[str] | None = None) -> list[tuple[bytes, str, bool]]:
        """What is dirty (for these peers, if given): ``[(path in bytes, peer's address, forced), …]``."""
        names = None if peers is None else [encode(peer.encode()) for peer in peers]
        wanted = "" if names is None else f" WHERE peername IN ({', '.join(['CAST(? AS TEXT)'] * len(names))})"
        rows = self._rows(f"SELECT filename, peername, forced FROM dirty{wanted} ORDER BY filename", *(names or ()))
        return [(decode(name), decode(peer).decode(), forced in (1, b"1")) for name, peer, forced in rows]

    def dirty_peers(self) -> dict[str, int]:
        """``{peer's address: number of dirty entries}``."""
        rows = self._rows("SELECT peername, count(*) FROM dirty GROUP BY peername")
        return {decode(peer).decode(): number for peer, number in rows}

    def part(self, peer: str, after: bytes, most: int) -> list[DirtyEntry]:
        """The next dirty entries of a peer, after a name, in the order of names; at most so many, as DirtyEntry."""
        rows = self._rows(
            "SELECT rowid, filename, forced, myname, peername FROM dirty WHERE peername = CAST(? AS TEXT)"
            " AND filename > CAST(? AS TEXT) ORDER BY filename LIMIT ?",
            encode(peer.encode()),
            after,
            most,
        )
        return [DirtyEntry(*row) for row in rows]

    def above_dirty(self, peer: str, first: bytes, last: bytes) -> set[bytes]:
        """The encoded names from first to last that are dirty for a peer, and have something dirty below them."""
        rows = self._rows(
            "SELECT filename FROM dirty AS above WHERE peername = CAST(? AS TEXT)"
            " AND filename >= CAST(? AS TEXT) AND filename <= CAST(? AS TEXT)"
            " AND EXISTS (SELECT 1 FROM dirty WHERE peername = above.peername"
            " AND filename > above.filename || '/' AND filename < above.filename || '0')",
            encode(peer.encode()),
            first,
            last,
        )
        return {name for (name,) in rows}

    def copy(self, path: str, entries: Iterable[DirtyEntry]) -> None:
        """Write entries of part() and the pinned certificates, but no records, into a new database for csync2 -D."""
        storage.remove(path)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as copy:
            copy.execute("BEGIN")
            for (statement,) in self._rows("SELECT sql FROM sqlite_master WHERE type = 'table'"):
                copy.execute(statement.decode())
            copy.executemany(f"INSERT {_DIRTY}", [entry[1:] for entry in entries])
            copy.executemany(
                "INSERT INTO x509_cert (peername, certdata) VALUES (CAST(? AS TEXT), CAST(? AS TEXT))",
                self._rows("SELECT peername, certdata FROM x509_cert"),
            )
            copy.execute("COMMIT")

    def empty(self) -> None:
        """Delete all records and dirty entries: the database is NEW again, but keeps its pinned certificates."""
        with self._transaction():
            for table in ("file", "dirty", "hint", "action"):
                self._db.execute(f"DELETE FROM {table}")
            self._db.execute(f"PRAGMA user_version = {self.NEW}")

    def backup(self, path: str, durable: bool = True) -> None:
        """Copy the whole database; durable: the copy survives a loss of power."""
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as copy:
            if not durable:
                copy.execute("PRAGMA synchronous = OFF")
            self._db.backup(copy)

    def dirty_names(self) -> set[bytes]:
        """The encoded names of all that is dirty, as a set."""
        return {name for (name,) in self._rows("SELECT filename FROM dirty")}

    def forget(self, paths: Sequence[bytes]) -> None:
        """Delete the records of paths, and the dirty entries: the next check finds these paths as new ones."""
        self._delete(("dirty", "file"), paths)

    def clean(self, paths: Iterable[bytes]) -> None:
        """Delete the dirty entries of paths: nobody is to be sent them."""
        self._delete(("dirty",), paths)

    def _delete(self, tables: Iterable[str], paths: Iterable[bytes]) -> None:
        names = [(encode(path),) for path in paths]
        if not names:
            return
        with self._transaction():
            for table in tables:
                self._db.executemany(f"DELETE FROM {table} WHERE filename = CAST(? AS TEXT)", names)

    def put_back(self, records: Mapping[bytes, bytes | None], dirty: Iterable[tuple[bytes, str, bool]]) -> None:
        """Have these records as they were; of what is dirty of these paths, only this stays."""
        if not records:
            return
        rows = [(encode(path), encode(text)) for path, text in records.items() if text is not None]
        with self._transaction():
            self._db.executemany(_RECORD, rows)
        kept = {(path, peer) for path, peer, _ in dirty}
        self.keep_dirty(lambda path, peer: path not in records or (path, peer) in kept)

    def claim(self, entry: DirtyEntry) -> DirtyEntry | None:
        """
        Give a dirty entry a rowid that no other one gets: one that a check makes meanwhile is another then, and not
        discharged with it. Returns the entry as it is now; None if it is no more.
        """
        claimed = entry._replace(rowid=random.randrange(1 << 40, 1 << 62))
        query = f"UPDATE dirty SET rowid = ? WHERE rowid = ? AND {_ENTRY}"
        with self._transaction():
            done = self._db.execute(query, (claimed.rowid, entry.rowid, entry.name, entry.peer))
        return claimed if done.rowcount else None

    def discharge(self, entries: Iterable[DirtyEntry]) -> None:
        """Delete dirty entries, as part() gave them: they have been sent."""
        with self._transaction():
            rows = [(entry.rowid, entry.name, entry.peer) for entry in entries]
            self._db.executemany(f"DELETE FROM dirty WHERE rowid = ? AND {_ENTRY}", rows)

    def keep_dirty(self, wanted: Callable[[bytes, str], bool]) -> None:
        """Delete all dirty entries but those for which wanted(path, peer) is true."""
        drop = [(encode(path), encode(peer.encode())) for path, peer, _ in self.dirty() if not wanted(path, peer)]
        with self._transaction():
            self._db.executemany(f"DELETE FROM dirty WHERE {_ENTRY}", drop)

    def contents(self) -> Iterator[bytes]:
        """The paths, in bytes, of all recorded files that have content; read in portions, so that nobody waits."""
        wanted = "checktxt LIKE '%type=reg%' AND checktxt NOT LIKE '%size=0'"
        return (decode(name) for name, _ in self._portions(wanted))

    def states(self) -> Iterator[tuple[bytes, bytes]]:
        """``(path in bytes, its recorded state)`` of all files, in the order of their names; read in portions."""
        return ((decode(name), decode(text)) for name, text in self.raw_states())

    def raw_states(self) -> Iterator[tuple[bytes, bytes]]:
        """The same, both as encode() gives them."""
        return self._portions("1")

    def states_below(self, path: bytes) -> Iterator[tuple[bytes, bytes]]:
        """``(encoded name, recorded state)`` of all below a directory, in the order of names; read in portions."""
        rows = self._portions("filename < CAST(? AS TEXT)", *_below(path))
        return ((below, decode(text)) for below, text in rows)

    def take_in(
        self,
        found: Sequence[tuple[bytes, bytes | None, bytes | None]],
        own: str,
        peers: Iterable[str],
        commands: Iterable[tuple[bytes, bytes]] = (),
        leave: Callable[[set[bytes]], set[bytes]] = lambda left: left,
    ) -> set[bytes]:
        """
        Record paths in their states, and make them dirty for all these peers, in one transaction.

        found
            ``(path, state or None if nothing is there, state that was recorded)``, some hundred. What has another
            record by now, as csync2 has received it meanwhile, is left and returned, with what leave() adds to it then.
        own
            This host's address.
        commands
            ``(path, command)`` that csync2 is to run at the end of its next run.
        """
        hosts = [(encode(own.encode()), encode(peer.encode())) for peer in peers]
        with self._transaction():
            records, _ = self.records([path for path, _, _ in found])
            left = leave({path for path, _, before in found if records.get(path) != before})
            paths = {encode(path): now for path, now, _ in found if path not in left}
            self._db.executemany("DELETE FROM file WHERE filename = CAST(? AS TEXT)", [(name,) for name in paths])
            rows = [(name, encode(now)) for name, now in paths.items() if now is not None]
            self._db.executemany(_RECORD, rows)
            self._mark(paths, hosts)
            self._schedule((path, command) for path, command in commands if encode(path) in paths)
        return left

    def mark(
        self, paths: Iterable[bytes], own: str, peers: Iterable[str], commands: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Make paths dirty for peers, as entries of their own: what sends the old ones does not discharge these."""
        with self._transaction():
            names = [encode(path) for path in paths]
            self._mark(names, [(encode(own.encode()), encode(peer.encode())) for peer in peers])
            self._schedule(commands)

    def _schedule(self, commands: Iterable[tuple[bytes, bytes]]) -> None:
        self._db.executemany(
            "INSERT INTO action (filename, command, logfile) VALUES (CAST(? AS TEXT), CAST(? AS TEXT), '/dev/null')",
            [(encode(path), encode(command)) for path, command in commands],
        )

    def _mark(self, names: Iterable[bytes], hosts: Sequence[tuple[bytes, bytes]]) -> None:
        for own, peer in hosts:
            self._db.executemany(f"DELETE FROM dirty WHERE {_ENTRY}", [(name, peer) for name in names])
            self._db.executemany(f"INSERT {_DIRTY}", [(name, 0, own, peer) for name in names])

    def _portions(self, wanted: str, after: bytes = b"", *values: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Records after a name for which ``wanted``, a condition with these values, holds; encoded, in their order."""
        those = f"filename > CAST(? AS TEXT) AND {wanted}"
        query = f"SELECT filename, checktxt FROM file WHERE {those} ORDER BY filename LIMIT {AT_ONCE}"
        while rows := self._rows(query, after, *values):
            yield from rows
            after = rows[-1][0]

    def make_dirty(self, paths: Sequence[bytes], name: str, peer: str) -> None:
        """Make paths dirty for one peer: csync2 then compares contents. In portions, so that nobody waits."""
        own, to = encode(name.encode()), encode(peer.encode())
        for start in range(0, len(paths), AT_ONCE):
            with self._transaction():
                rows = [(encode(path), 0, own, to) for path in paths[start : start + AT_ONCE]]
                self._db.executemany(f"INSERT OR IGNORE {_DIRTY}", rows)

    def readdress(self, moved: Mapping[str, str]) -> None:
        """Given ``{old address: new address}``, let dirty entries be of, and for, these hosts where they are now."""
        names = [(encode(old.encode()), encode(new.encode())) for old, new in moved.items()]
        steps = [(b" " + new, old) for old, new in names] + [(new, b" " + new) for _, new in names]  # they may exchange
        with self._transaction():
            for column in ("peername", "myname"):
                query = f"UPDATE OR REPLACE dirty SET {column} = CAST(? AS TEXT) WHERE {column} = CAST(? AS TEXT)"
                self._db.executemany(query, steps)

    def force(self, paths: Sequence[bytes], name: str, peer: str) -> None:
        """Make paths dirty for one peer, to replace even what was changed there (csync2 -f)."""
        self.make_dirty(paths, name, peer)
        with self._transaction():
            rows = [(encode(path), encode(peer.encode())) for path in paths]
            self._db.executemany(f"UPDATE dirty SET forced = 1 WHERE {_ENTRY}", rows)

    def certificates(self) -> dict[str, str]:
        """The pinned certificates: ``{peer's address: certificate as certificate_data() gives it}``."""
        rows = self._rows("SELECT peername, certdata FROM x509_cert")
        return {decode(peer).decode(): data.decode() for peer, data in rows}

    def pin(self, certificates: Mapping[str, str]) -> None:
        """
        Pin these certificates, and no others: ``{peer's address: certificate}``. csync2 takes in that of whoever comes
        with a name that it does not know; an error here ends it.
        """
        with self._transaction():
            self._db.execute(f"DROP TRIGGER IF EXISTS {PINNED}")
            self._db.execute("DELETE FROM x509_cert")
            self._db.executemany(
                "INSERT INTO x509_cert (peername, certdata) VALUES (CAST(? AS TEXT), ?)",
                [(encode(peer.encode()), data) for peer, data in sorted(certificates.items())],
            )
            self._db.execute(
                f"CREATE TRIGGER {PINNED} BEFORE INSERT ON x509_cert BEGIN SELECT RAISE(ABORT, 'is not pinned'); END"
            )

    def is_pinned(self) -> bool:
        """Tell whether csync2 can take in no certificate."""
        return bool(self._rows("SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND name = ?", PINNED))


def _below(path: bytes) -> tuple[bytes, bytes]:
    """The encoded names between which all is that stands below a directory."""
    name = encode(path)
    return name + b"/", name + b"0"


def commits(path: str) -> int:
    """How many transactions have been committed to a database (SQLite's file change counter, fileformat2.html, 1.3)."""
    try:
        with open(path, "rb") as file:
            return int.from_bytes(file.read(28)[24:], "big")
    except OSError:
        return 0


def is_lost(path: str) -> bool:
    """Tell whether a database is missing, damaged or NEW. Raises TimeoutError while somebody writes it."""
    try:
        with Database(path) as database:
            return database.state() == Database.NEW
    except sqlite3.OperationalError as err:
        if os.path.exists(path):
            raise TimeoutError(f"{path}: {err}") from err
        return True
    except sqlite3.DatabaseError:
        return True
