"""What is paused of a group, and until when."""

from __future__ import annotations

import os
import time
from typing import Any

from csync2lib import storage

#: In the place of a host, in what is paused: the whole group.
ALL_HOSTS = "*"

#: ``{minion id, or ALL_HOSTS: {"until": seconds since the epoch or None, "comment": text}}``
Pauses = dict[str, dict[str, Any]]


def pauses(directory: str) -> Pauses:
    """What is paused of a group, given its directory, and has not ended by itself (see ``csyncsync.paused``)."""
    found, now = storage.read_json(os.path.join(directory, "paused.json"), {}), time.time()
    return {host: pause for host, pause in found.items() if pause["until"] is None or pause["until"] > now}


def take(directory: str, said: Pauses) -> None:
    """Write down what is paused of a group, as the master has it."""
    path = os.path.join(directory, "paused.json")
    if said != storage.read_json(path, {}):
        storage.write_json(path, said)
