"""What the watcher is told: the beacon's options, and where the minion's bus is."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

#: In the directory of state: what the beacon was called with last. It writes this file whenever it changes.
FILE = "beacon.json"


@dataclasses.dataclass
class Options:
    """
    The options of the beacon, whose documentation tells what they mean; times are in seconds. All parts of the watcher
    share one object.
    """

    settle: float = 0.1
    max_delay: float = 2.0
    max_paths: int = 10_000
    retry: float = 5.0
    #: the minion's id, and where it takes events: the path of a socket, or a port of this host. "": no minion has run
    #: the beacon here yet
    id: str = ""
    bus: str | int = ""
    #: the version of Salt that the minion has
    salt: str = ""

    def __post_init__(self) -> None:
        self._seen: tuple[int, int] | None = None

    def read(self, state_dir: str) -> bool:
        """Read the beacon's file, if it has changed; what it does not say is as it was at first. Returns whether."""
        path = os.path.join(state_dir, FILE)
        try:
            status = os.stat(path)
            seen = (status.st_mtime_ns, status.st_ino)
            if seen == self._seen:
                return False
            with open(path, encoding="utf-8") as file:
                said: dict[str, Any] = json.load(file)
        except (OSError, ValueError):
            return False
        for field in dataclasses.fields(self):
            setattr(self, field.name, said.get(field.name, field.default))
        self._seen = seen
        return True
