"""
Watch the trees that csync2 synchronizes, and tell the master that a group has something to push.

The beacon watches every group that has a ``config.json`` below its state directory (the state
``csyncsync.group_present`` writes it). A path that has been quiet for a moment is written into the group's
journal, ``<state_dir>/<group>/journal/``; then one event of fixed size goes out. ``csyncsync.push`` reads the
journal (the util module ``csync2journal`` tells its format). What csync2 itself has written is left out.

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
works at the beacon's ticks, once a second. It outlives refreshes of the minion's modules. Its code is in the util
module ``csync2watch`` and those that it calls: ``saltutil.sync_utils`` brings them, as ``saltutil.sync_all`` does.

Salt runs no beacon in a minion that has not found a master since it started. The unit ``csyncsync-watch.service`` sees
that nobody has the lock ``<state_dir>/watch.lock``, and has ``csyncsync.watch`` run the beacon until the minion does.
"""

import asyncio
import fcntl
import hashlib
import importlib.util
import logging
import os
import sys
import types

log = logging.getLogger(__name__)

__virtualname__ = "csyncsync"

STATE_DIR = "/var/lib/csyncsync"
DEFAULTS = {"settle": 0.1, "max_delay": 2, "max_paths": 10000, "retry": 5, "state_dir": STATE_DIR}
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
#: The watcher's code: files of _utils, each after those that it imports.
CODE = ("csync2inotify", "csync2file", "csync2journal", "csync2left", "csync2echo", "csync2cert", "csync2action")
CODE += ("csync2status", "csync2metrics", "csync2conflict", "csync2backup", "csync2watch")


def __virtual__():
    if not sys.platform.startswith("linux"):
        return False, "the csyncsync beacon needs inotify"
    return __virtualname__


def validate(config):
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


def beacon(config):
    """
    Start the watcher, or keep it going. Returns the events that are due, if it works without an event loop.
    """
    options = _options(config)
    _lock(options.state_dir, fcntl.LOCK_SH)
    watcher = _watcher(options, dict(__opts__))
    return watcher.tick() if watcher is not None else []


def elsewhere(config):
    """
    Tell whether another process of this host runs the beacon too.
    """
    state_dir = _options(config).state_dir
    alone = _lock(state_dir, fcntl.LOCK_EX)
    _lock(state_dir, fcntl.LOCK_SH)
    return not alone


def close(config):
    """
    Close the watcher, unless the next beacon() comes within ten seconds (as it does at each refresh).
    """
    watcher = getattr(sys.modules.get(HOLDER), "watcher", None)
    if watcher is not None and watcher.pid == os.getpid():
        watcher.close_later()


def _option_problem(option, value):
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


def _options(config):
    """All options, with their defaults, as an object."""
    values = dict(DEFAULTS)
    for item in config:
        values.update({option: value for option, value in item.items() if option in DEFAULTS})
    return types.SimpleNamespace(**values)


def _holder():
    """What outlives this module, which Salt forgets at each refresh."""
    return sys.modules.setdefault(HOLDER, types.ModuleType(HOLDER))


def _lock(state_dir, kind):
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


def _watcher(options, opts):
    """
    Return the living watcher, or start one. None if there is none, and its code cannot be loaded yet.

    It lives in sys.modules, because Salt forgets this module; and its code is a copy that Salt does not know (see
    _load_watcher).
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
    if fits and watcher.options.state_dir == options.state_dir:
        watcher.options, watcher.opts = options, opts
        return watcher
    try:
        holder.watcher = _take_over(watcher, options, opts, loop, version)
        holder.problem = None
        return holder.watcher
    except Exception as err:  # pylint: disable=broad-except
        # A sync may have brought this file before the others: what there is goes on, and the next tick tries again.
        _tell_once(holder, f"{type(err).__name__}: {err}")
        return None if watcher is None or watcher.closed else watcher


def _take_over(old, options, opts, loop, version):
    """Start a watcher with the code that is there now, in the place of an old one, if there is one."""
    new = _load_watcher()(options, opts, loop, version)
    if old is not None:
        log.info("csyncsync: a new watcher takes over")
        old.close()
    new.start()
    return new


def _tell_once(holder, problem):
    """Log why the watcher cannot be started, unless that was said before."""
    if problem != getattr(holder, "problem", None):
        holder.problem = problem
        log.error("csyncsync: cannot load the watcher's code (saltutil.sync_utils brings it): %s", problem)


def _load_watcher():
    """
    Load the watcher's code, and return the class Watcher.

    The code is a copy that Salt does not know, because a refresh executes a file anew in the very same globals: the
    watcher's classes would no longer be the ones its objects are made of. While a file is executed, those before it
    stand under their plain names, so that its imports find the copies, too; then the names are given back.
    """
    before = {name: sys.modules.get(name) for name in CODE}
    try:
        for name, path in zip(CODE, _code_paths()):
            sys.modules[name] = _load(path, f"{HOLDER}_{name}")
        return sys.modules["csync2watch"].Watcher
    finally:
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def _load(path, name):
    """Load a Python file as a module of its own, which nobody else gets."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _code_paths():
    """Where the watcher's code is: beacons get no utils, but these stand in the folder beside this file's folder."""
    parent = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    folder = os.path.join(parent, "_utils")
    if not os.path.isdir(folder):
        folder = os.path.join(parent, "utils")
    return [os.path.join(folder, f"{name}.py") for name in CODE]


def _version():
    """What tells the code from another version of it. The files are read only when they do not look as before."""
    paths = _code_paths()
    looks = [_look(path) for path in paths]
    if looks != _seen.looks:
        _seen.looks, _seen.digest = looks, _digest(paths)
    return f"{VERSION}-{_seen.digest}"


def _look(path):
    """What changes when a file does; None if it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return path, status.st_mtime_ns, status.st_size, status.st_ino


def _digest(paths):
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
