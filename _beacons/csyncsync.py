"""
What Salt knows of the watcher of the trees that csync2 synchronizes.

The watcher is a process of its own, ``csyncsync-watch.service``, which the state ``csyncsync`` brings. It watches every
group that has a ``config.json`` below ``/var/lib/csyncsync`` (the state ``csyncsync.group_present`` writes it). What
has changed there goes into the group's journal, which ``csyncsync.push`` reads; then one event of fixed size goes out,
as an event of this beacon. What csync2 itself has written is left out.

This beacon gives the watcher its options, and where the minion's bus is, and says when no watcher runs. Configure it
with a state (or in the minion's config, or in the pillar):

.. code-block:: yaml

    watch what csync2 synchronizes:
      beacon.present:
        - name: csyncsync
        - settle: 0.1

=============  ======================  =====================================================================
Option         Default                 Meaning
=============  ======================  =====================================================================
``settle``     0.1                     seconds that a path must be quiet before it goes out; also the least
                                       time between two events of a group. The first change of a file after half a
                                       second without any goes out after a quarter of it
``max_delay``  2                       seconds: a path that keeps changing goes out once in this time. One
                                       that is held open and written to, once in five times this time
``max_paths``  10000                   with more paths than this at once the whole group is checked instead
``retry``      5                       seconds until an event is repeated while something is left to push;
                                       doubles up to 30
=============  ======================  =====================================================================

The event on the master's bus has the tag ``salt/beacon/<minion id>/csyncsync/<group>`` and the data

.. code-block:: json

    {"id": "web1", "group": "wwwdata", "count": 3, "whole": false}

``count`` is the number of paths since the last event (0 when an event is repeated) and ``whole`` says that the
whole group is to be checked. While the journal has not been taken since the last event there is no new one. An
``error`` with a text is there if not everything can be watched. The event holds no paths, and nothing in it
needs trust.

While no watcher runs there is an event without a group, ``salt/beacon/<minion id>/csyncsync/``, with the text of an
``error``: once, and again when it has run meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
import time
import types
from typing import Any

import salt.version

__virtualname__ = "csyncsync"

STATE_DIR = "/var/lib/csyncsync"
#: In it: what the watcher reads, and what it holds locked while it lives.
FILE, LOCK = "beacon.json", "watcher.lock"
#: Seconds that the watcher may be gone: it is being replaced.
REPLACED_WITHIN = 10.0
OPTIONS = ("settle", "max_delay", "max_paths", "retry")
#: What Salt itself puts into, or reads from, the configuration of a beacon.
SALT_OPTIONS = ("interval", "disable_during_state_run", "enabled", "_beacon_name", "beacon_module", "run_once")

#: The module object in which the beacon of an older version keeps its watcher, which is a part of the minion.
OLDER = "csyncsync_watcher"
#: Since when no watcher runs (None: one does), and whether that was told.
_now = types.SimpleNamespace(gone_since=None, told=False)


def __virtual__() -> str | tuple[bool, str]:
    if not sys.platform.startswith("linux"):
        return False, "the csyncsync beacon needs inotify"
    return __virtualname__


def validate(config: object) -> tuple[bool, str]:
    """Given the beacon's configuration, return ``(True, text)``, or ``(False, text naming the bad option)``."""
    if not isinstance(config, list):
        return False, "Configuration for csyncsync beacon must be a list."
    for item in config:
        if not isinstance(item, dict):
            return False, f"Configuration for csyncsync beacon: {item!r} is no mapping of an option to its value."
        for option, value in item.items():
            problem = _option_problem(option, value)
            if problem:
                return False, f"Configuration for csyncsync beacon: option {option!r} {problem}."
    return True, "Valid beacon configuration"


def beacon(config: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tell the watcher its options, if they have changed. Returns an event if no watcher runs."""
    _write({option: value for item in config for option, value in item.items() if option in OPTIONS})
    runs, events = _older(_watcher_runs())
    if runs or not os.path.isdir(STATE_DIR):
        _now.gone_since, _now.told = None, False
        return events
    if _now.gone_since is None:
        _now.gone_since = time.monotonic()
    if _now.told or time.monotonic() - _now.gone_since < REPLACED_WITHIN:
        return []
    _now.told = True
    return [{"error": "no watcher runs: systemctl status csyncsync-watch"}]


def _option_problem(option: str, value: object) -> str:
    """What is wrong with one option ("" if nothing)."""
    if option in SALT_OPTIONS:
        return ""
    if option not in OPTIONS:
        return f"is unknown; there are: {', '.join(OPTIONS)}"
    if option == "max_paths":
        good = isinstance(value, int) and not isinstance(value, bool) and value > 0
        return "" if good else "is not a whole number above 0"
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 3600
    return "" if good else "is not a number of seconds above 0, up to 3600"


def _write(options: dict[str, Any]) -> None:
    """Write what the watcher reads, if it says something else; whole or not at all."""
    version = salt.version.__version__
    text = json.dumps({**options, "id": __opts__["id"], "bus": _bus(), "salt": version}, sort_keys=True)
    path = os.path.join(STATE_DIR, FILE)
    temporary = f"{path}.tmp{os.getpid()}"
    with contextlib.suppress(OSError), open(path, encoding="utf-8") as file:
        if file.read() == text:
            return
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError:  # a full disk; or no group was ever on this host
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _bus() -> str | int:
    """Where the minion takes events (salt/transport/base.py, ipc_publish_server())."""
    if __opts__.get("ipc_mode") == "tcp":
        return int(__opts__["tcp_pull_port"])
    name = __opts__.get("hash_id", __opts__["id"]).encode()
    digest = hashlib.new(__opts__["hash_type"], name).hexdigest()[:10]
    return os.path.join(__opts__["sock_dir"], f"minion_event_{digest}_pull.ipc")


def _watcher_runs() -> bool:
    """Tell whether the watcher holds its lock."""
    try:
        with open(os.path.join(STATE_DIR, LOCK), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _older(runs: bool) -> tuple[bool, list[dict[str, Any]]]:
    """
    Close the watcher that the beacon of an older version has left in this process, as soon as there is another one; it
    goes on until then. Returns whether any runs, and the events of the older one.
    """
    watcher = getattr(sys.modules.get(OLDER), "watcher", None)
    if watcher is None or watcher.closed:
        return runs, []
    if runs:
        watcher.close()
        return True, []
    return True, watcher.tick()
