"""
Watch the trees that csync2 synchronizes, and tell the master that a group has something to push.

The beacon watches every group that has a ``config.json`` below its state directory (the state
``csyncsync.group_present`` writes it). A path that has been quiet for a moment is written into the group's
journal, ``<state_dir>/<group>/journal/``; then one event of fixed size goes out. ``csyncsync.push`` reads the
journal (``csync2lib/journal.py`` tells its format). What csync2 itself has written is left out.

Configure it with a state (or in the minion's config, or in the pillar):

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
``state_dir``  /var/lib/csyncsync      where the groups' configs, journals and status are
=============  ======================  =====================================================================

The event on the master's bus has the tag ``salt/beacon/<minion id>/csyncsync/<group>`` and the data

.. code-block:: json

    {"id": "web1", "group": "wwwdata", "count": 3, "whole": false}

``count`` is the number of paths since the last event (0 when an event is repeated) and ``whole`` says that the
whole group is to be checked. While the journal has not been taken since the last event there is no new one. An
``error`` with a text is there if not everything can be watched. The event holds no paths, and nothing in it
needs trust.

``<state_dir>/<group>/watch.json`` says how many directories are watched (by all groups together), whether the
first walk is done, how many walks there were, what is wrong, and which paths keep changing.

Where a link ``<state_dir>/metrics.prom`` points, the groups' status is written for Prometheus, once in 15 seconds.

The watcher rides on the minion's event loop, in small slices. Where there is no asyncio loop (Salt 3006) it
works at the beacon's ticks, once a second. It outlives refreshes of the minion's modules. Its code is in the package
``csync2lib`` of the utils: ``saltutil.sync_utils`` brings it, as ``saltutil.sync_all`` does.

Salt runs no beacon in a minion that has not found a master since it started. The unit ``csyncsync-watch.service`` sees
that nobody has the lock ``<state_dir>/watch.lock``, and has ``csyncsync.watch`` run the beacon until the minion does.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import importlib
import logging
import os
import sys
import types
from collections.abc import Iterable
from typing import Any

log = logging.getLogger(__name__)

__virtualname__ = "csyncsync"

STATE_DIR = "/var/lib/csyncsync"
DEFAULTS: dict[str, Any] = {"settle": 0.1, "max_delay": 2, "max_paths": 10000, "retry": 5, "state_dir": STATE_DIR}
#: What Salt itself puts into, or reads from, the configuration of a beacon.
SALT_OPTIONS = (
    "interval",
    "disable_during_state_run",
    "enabled",
    "_beacon_name",
    "beacon_module",
    "run_once",
)

#: The module object that keeps the watcher while Salt loads this file anew.
HOLDER = "csyncsync_watcher"
#: The package that the watcher's code is in, and where in it the watcher is and the record of its options.
PACKAGE, WATCHER, OPTIONS = "csync2lib", "csync2lib.watch.watcher", "csync2lib.watch.options"


def __virtual__() -> str | tuple[bool, str]:
    if not sys.platform.startswith("linux"):
        return False, "the csyncsync beacon needs inotify"
    return __virtualname__


def validate(config: object) -> tuple[bool, str]:
    """
    Given the beacon's configuration, return ``(True, text)``, or ``(False, text naming the bad option)``.
    """
    if not isinstance(config, list):
        return False, "Configuration for csyncsync beacon must be a list."
    for item in config:
        if not isinstance(item, dict):
            return (
                False,
                f"Configuration for csyncsync beacon: {item!r} is no mapping of an option to its value.",
            )
        for option, value in item.items():
            problem = _option_problem(option, value)
            if problem:
                return False, f"Configuration for csyncsync beacon: option {option!r} {problem}."
    return True, "Valid beacon configuration"


def beacon(config: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Start the watcher, or keep it going. Returns the events that are due, if it works without an event loop.
    """
    options = _options(config)
    _lock(options["state_dir"], fcntl.LOCK_SH)
    watcher = _watcher(options, dict(__opts__))
    return watcher.tick() if watcher is not None else []


def elsewhere(config: list[dict[str, Any]]) -> bool:
    """
    Tell whether another process of this host runs the beacon too.
    """
    state_dir = _options(config)["state_dir"]
    nobody_else = _lock(state_dir, fcntl.LOCK_EX)
    _lock(state_dir, fcntl.LOCK_SH)
    return not nobody_else


def close(config: list[dict[str, Any]]) -> None:
    """
    Close the watcher, unless the next beacon() comes within ten seconds (as it does at each refresh).
    """
    watcher = getattr(sys.modules.get(HOLDER), "watcher", None)
    if watcher is not None and watcher.pid == os.getpid():
        watcher.close_later()


def _option_problem(option: str, value: object) -> str:
    """What is wrong with one option ("" if nothing)."""
    if option in SALT_OPTIONS:
        return ""
    if option not in DEFAULTS:
        return f"is unknown; there are: {', '.join(DEFAULTS)}"
    if option == "state_dir":
        return "" if isinstance(value, str) and value.startswith("/") else "is not an absolute path"
    if option == "max_paths":
        good = isinstance(value, int) and not isinstance(value, bool) and value > 0
        return "" if good else "is not a whole number above 0"
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 3600
    return "" if good else "is not a number of seconds above 0, up to 3600"


def _options(config: list[dict[str, Any]]) -> dict[str, Any]:
    """All options, with their defaults. The watcher makes a record of them."""
    values = dict(DEFAULTS)
    for item in config:
        values.update({option: value for option, value in item.items() if option in DEFAULTS})
    return values


def _holder() -> Any:
    """What outlives this module, which Salt forgets at each refresh."""
    return sys.modules.setdefault(HOLDER, types.ModuleType(HOLDER))


def _lock(state_dir: str, kind: int) -> bool:
    """
    Lock the file that says that the beacon runs, while this process lives: LOCK_SH beside others, LOCK_EX alone.

    Returns False if that cannot be had now. A process that was forked from one with a lock takes one of its own.
    """
    holder = _holder()
    try:
        if getattr(holder, "locked", None) != (os.getpid(), state_dir):
            holder.lock = open(os.path.join(state_dir, "watch.lock"), "ab")  # pylint: disable=consider-using-with
            holder.locked = (os.getpid(), state_dir)
        fcntl.flock(holder.lock, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


# --- The watcher and its code ----------------------------------------------------------------------------


def _watcher(options: dict[str, Any], opts: dict[str, Any]) -> Any:
    """
    Return the living watcher, or start one. None if there is none, and its code cannot be loaded yet.

    It lives in sys.modules, because Salt forgets this module; and its code is a copy that Salt does not know (see
    _load_code).
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    holder = _holder()
    watcher = getattr(holder, "watcher", None)
    if watcher is not None and (watcher.pid != os.getpid() or watcher.closed):
        watcher = None
    version = _version()
    fits = watcher is not None and watcher.version == version and watcher.loop is loop
    if fits and watcher.options.state_dir == options["state_dir"]:
        watcher.use(type(watcher.options)(**options), opts)
        return watcher
    try:
        holder.watcher = _take_over(watcher, options, opts, loop, version)
        holder.problem = None
        return holder.watcher
    except Exception as err:  # pylint: disable=broad-except
        # A sync may have brought this file before the others: what there is goes on, and the next tick tries again.
        _tell_once(holder, f"{type(err).__name__}: {err}")
        return None if watcher is None or watcher.closed else watcher


def _take_over(old: Any, options: dict[str, Any], opts: dict[str, Any], loop: Any, version: str) -> Any:
    """Start a watcher with the code that is there now, in the place of an old one, if there is one."""
    code = _load_code()
    new = code[WATCHER].Watcher(code[OPTIONS].Options(**options), opts, loop, version)
    if old is not None:
        log.info("csyncsync: a new watcher takes over")
        old.close()
    new.start()
    _holder().code = code
    return new


def _tell_once(holder: Any, problem: str) -> None:
    """Log why the watcher cannot be started, unless that was said before."""
    if problem != getattr(holder, "problem", None):
        holder.problem = problem
        log.error("csyncsync: cannot load the watcher's code (saltutil.sync_utils brings it): %s", problem)


def _load_code() -> dict[str, Any]:
    """
    Import a copy of the package that nobody else gets, and return its modules: ``{name: module}``.

    What others have imported under these names may be older, and stays theirs. The folder does not come onto Python's
    path: what else is there may be named as a module of the standard library.
    """
    package = types.ModuleType(PACKAGE)
    package.__path__ = [os.path.join(_folder(), PACKAGE)]
    before = {name: sys.modules.pop(name) for name in [*sys.modules] if _is_code(name)}
    sys.modules[PACKAGE] = package
    try:
        importlib.invalidate_caches()
        importlib.import_module(WATCHER)
        return {name: module for name, module in sys.modules.items() if _is_code(name)}
    finally:
        for name in [name for name in sys.modules if _is_code(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def _is_code(name: str) -> bool:
    return name == PACKAGE or name.startswith(f"{PACKAGE}.")


def _folder() -> str:
    """The folder that the package is in: beside this file's folder, or (pip) beside that of all."""
    parent = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    places = [os.path.join(parent, "_utils"), os.path.join(parent, "utils"), os.path.dirname(parent)]
    return next((place for place in places if os.path.isdir(os.path.join(place, PACKAGE))), places[1])


def _code_paths() -> list[str]:
    """The package's files."""
    walk = os.walk(os.path.join(_folder(), PACKAGE))
    return sorted(os.path.join(top, name) for top, _, names in walk for name in names if name.endswith(".py"))


def _version() -> str:
    """What tells the code from another version of it. The files are read only when they do not look as before."""
    paths = _code_paths()
    looks = [_look(path) for path in paths]
    if looks != _seen.looks:
        _seen.looks, _seen.digest = looks, _digest(paths)
    return f"{VERSION}-{_seen.digest}"


def _look(path: str) -> tuple[str, int, int, int] | None:
    """What changes when a file does; None if it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return path, status.st_mtime_ns, status.st_size, status.st_ino


def _digest(paths: Iterable[str]) -> str:
    """A digest of what is in some files."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb") as source:
                digest.update(hashlib.sha256(source.read()).digest())
        except OSError:
            digest.update(b"missing")
    return digest.hexdigest()


#: This file's own part, as it was when Salt loaded it.
VERSION = _digest([__file__])
#: How the watcher's code looked when it was read last, and what was in it.
_seen = types.SimpleNamespace(looks=None, digest=None)
