"""
What the master notes of a group: a file of JSON below its cache directory, read and written under a lock.

Only the runner's functions write it, and the rate limit reads it. Minion ids are texts, times seconds since the epoch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from csync2lib import storage, waits


@dataclasses.dataclass(frozen=True)
class Lease:
    """Who pushes in a group now: a host, or a process on the master that has hosts do something."""

    #: "" if nobody is to push.
    host: str
    #: The host's job, or ``process PID``.
    jid: str
    since: float = dataclasses.field(default_factory=time.time)
    #: When the holder was last known, or asked, to be at work.
    checked: float = dataclasses.field(default_factory=time.time)
    #: The process on the master, if one has it.
    pid: int | None = None

    def is_stale(self) -> bool:
        """Tell whether the holder is to be asked. A time in the future: the clock was set back."""
        return not 0 <= time.time() - self.checked <= waits.LEASE_CHECK


@dataclasses.dataclass
class Record:
    """The notes on one group; each field has its name in the file."""

    lease: Lease | None = None
    #: The pid of a process here that is to have the lease next.
    next: int | None = None
    #: Hosts that have asked to push, the first one first.
    waiting: list[str] = dataclasses.field(default_factory=list)
    #: When the hosts that wait were last told that they are queued.
    told: float = 0
    #: Members of a new group that have not joined yet and keep their files; None: nobody has asked yet.
    founders: list[str] | None = None
    admitted: list[str] = dataclasses.field(default_factory=list)
    #: Hosts that join, and since when.
    returning: dict[str, float] = dataclasses.field(default_factory=dict)
    #: ``{minion id: {"since": time, "why": text}}`` of hosts that could not join yet.
    joining: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    #: The last good options of the group.
    options: dict[str, Any] | None = None
    #: Hosts that were members when they last asked.
    known: list[str] = dataclasses.field(default_factory=list)
    #: ``{minion id, or "*": {"until": time or None, "comment": text}}``; None: nothing was paused ever.
    paused: dict[str, dict[str, Any]] | None = None
    #: ``{minion id: {minion id that refuses: [path, …]}}``
    refused: dict[str, dict[str, list[str]]] = dataclasses.field(default_factory=dict)
    #: Hosts that have not read new keys yet, and when they were last called.
    behind: dict[str, float] = dataclasses.field(default_factory=dict)
    #: Whether hosts are to be compared: one of them has checked the whole group since.
    compare: bool = False
    #: Hosts that are to join anew: others have dropped them for a while, and kept nothing for them.
    anew: list[str] = dataclasses.field(default_factory=list)
    #: What the file said; another version may have written more into it.
    read: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Raises ValueError."""
        read = json.loads(text)
        record = cls(**{**_known(cls, read), "read": read})
        if lease := read.get("lease"):
            record.lease = Lease(**_known(Lease, lease))
        return record

    def to_json(self) -> str:
        said = dataclasses.asdict(self)
        return json.dumps({**said.pop("read"), **said}, indent=1, sort_keys=True)


def _known(kind: type[Lease | Record], said: dict[str, Any]) -> dict[str, Any]:
    """What of it is a field of this kind of record."""
    return {field.name: said[field.name] for field in dataclasses.fields(kind) if field.name in said}


def path_of(opts: Mapping[str, Any], group: str) -> str:
    """The file of a group, given the master's config."""
    return os.path.join(directory(opts), f"{group}.json")


def directory(opts: Mapping[str, Any]) -> str:
    return os.path.join(opts["cachedir"], "csyncsync")


@contextlib.contextmanager
def opened(file: str) -> Iterator[Record]:
    """Yield a group's record, under its lock; it is written if it was changed."""
    os.makedirs(os.path.dirname(file), mode=0o700, exist_ok=True)
    with storage.locked(f"{file}.lock", math.inf):
        try:
            text = storage.read(file) or ""
            record = Record.from_json(text)
        except ValueError:
            text, record = "", Record()
        yield record
        new = record.to_json()
        if new != text:
            storage.write(file, new, mode=0o644, durable=False)
