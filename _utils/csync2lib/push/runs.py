"""
Runs of csync2 towards one peer.

Each run has a small database of its own, with the entries that it is to send: runs that share a database wait for each
other by whole seconds, and keep csync2's server from writing into it. May be called in threads.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from csync2lib import storage
from csync2lib.csync2 import command
from csync2lib.csync2.custody import RUNS
from csync2lib.csync2.database import Database, DirtyEntry
from csync2lib.csync2.names import TEMPDIR, decode
from csync2lib.csync2.output import UpdateOutput, records
from csync2lib.csync2.states import UNKNOWN, PeerState, stands
from csync2lib.errors import CommandError, Interrupted

#: Entries that one run of csync2 sends.
PART = 5000


def directory(group: str, address: str, large: bool) -> str:
    """Where the runs towards a peer are; a peer has two, one for large files."""
    return os.path.join(RUNS, group, f"{address}-large" if large else address)


class Peer:
    """What csync2 is run for: one peer of one group."""

    def __init__(self, group: str, database: str, address: str, large: bool = False) -> None:
        self.group, self.database, self.address = group, database, address
        self.directory = directory(group, address, large)
        #: holds the encoded name of a large file, and is locked, while that is sent to the peer
        self.sending = os.path.join(RUNS, group, f"{address}-large.name")
        #: this host's own encoded address, as the entries of the last part have it
        self.own = b""

    @property
    def own_address(self) -> str:
        return decode(self.own).decode()

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """Have the directory that the runs need."""
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(os.path.join(self.directory, TEMPDIR), mode=0o700)
        try:
            yield
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def being_sent(self) -> bytes:
        """The encoded name of the large file that is sent to the peer beside this push, empty if none is."""
        if not storage.is_locked(self.sending):
            return b""
        with open(self.sending, "rb") as file:
            return file.read()

    def shared(self, write: bool = False) -> Database:
        """The group's database."""
        return Database(self.database, timeout=20, write=write)

    def copy(self, entries: Iterable[DirtyEntry], directory: str | None = None) -> str:
        """Put entries into a database of their own, in the runs' directory or another. Returns its path."""
        path = os.path.join(directory or self.directory, os.path.basename(self.database))
        with self.shared() as shared:
            shared.copy(path, entries)
        return path

    def run(self, *flags: str, directory: str | None = None, **options: Any) -> list[bytes]:
        """``csync2 -u`` with the copy in a directory: takes options, returns and raises what command.run() does."""
        flags = ("-v", "-D", directory or self.directory, "-u", *flags, "-P", self.address)
        return command.run(self.group, *flags, peer=self.address, fine=(0, 1), **options)

    def ask(self, entries: Iterable[DirtyEntry]) -> dict[bytes, PeerState]:
        """``{encoded name: state}``: what the peer has where these entries go, as far as it says (a dry run)."""
        probe = os.path.join(self.directory, "probe")
        os.makedirs(probe, exist_ok=True)
        entries = [entry._replace(forced=0) for entry in entries]
        before = {entry.name: stands(decode(entry.name)) for entry in entries}
        self.copy(entries, probe)
        try:
            output: Sequence[bytes] = self.run("-v", "-d", directory=probe, hopeless=lambda: True)
        except Interrupted as err:  # it takes its time, over a large file perhaps
            output = err.output
        except CommandError:
            return {}
        here = {name: state for name, state in before.items() if UNKNOWN != state == stands(decode(name))}
        return UpdateOutput(output, self.address).states(here)

    def recorded(self, path: bytes) -> bytes:
        """
        The peer's record of a path, empty if it does not say.

        Unlike the states that ask() returns, it has a file's time. It is up to date, because csync2 checks a path
        before it refuses it.
        """
        flags = ("-v", "-v", "-T", self.own_address, self.address)
        try:
            output = command.run(self.group, *flags, path, peer=self.address, fine=(0, 2), hopeless=lambda: True)
        except CommandError:
            return b""
        return next((state for found, state in records(output) if found == path), b"")
