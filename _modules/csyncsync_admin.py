"""
What administrators ask for now and then: conflicts, comparisons of contents, old versions of files, metrics.

Most of it is called by the runner.
"""

import contextlib
import importlib.util
import logging
import os
import socket
import sys
import time
import urllib.parse

import csync2lib
from csync2lib import backups as backups_module
from csync2lib import certificate as certificate_module
from csync2lib import contents as contents_module
from csync2lib import storage
from csync2lib.csync2.database import Database
from csync2lib.errors import CsyncsyncError, raised_as
from csync2lib.group import Group, ThisHost
from csync2lib.push import win as win_module
from csync2lib.report import metrics as metrics_module
from csync2lib.versions import version
from csync2lib.watch import inotify
from salt.exceptions import CommandExecutionError

log = logging.getLogger(__name__)

__virtualname__ = "csyncsync"

#: Changes of its own that a host that lost its database names to the host that admits it.
MOST_UNSENT = 5000
#: Bytes that contents() reads in a second.
RATE = 50_000_000


def __virtual__():
    if importlib.util.find_spec("cryptography") is None:
        return False, "csyncsync: Python's cryptography, which Salt's packages hold, cannot be imported"
    return __virtualname__


def _host():
    system = "/etc/csync2" if __grains__.get("os_family") == "Suse" else "/etc"
    return ThisHost(__opts__["id"], socket.gethostname().lower(), system)


def _group(name):
    return Group(name, _host())


# --- Files of a group ------------------------------------------------------------------------------------


def _group_path(group, *names):
    return _group(group).path(*names)


# --- Push ------------------------------------------------------------------------------------------------


def _require(group):
    with _salts_errors():
        return _group(group).config.as_dict()


def _locked(group, wait=0.0):
    """Hold the group's lock on this host; yields whether it could be had."""
    return _group(group).lock(wait)


def _guard(group):
    return _group(group).guard


def _root_problems(group):
    """What is wrong with the include roots, in words; nothing is pushed while there is anything."""
    with _salts_errors():
        return _guard(group).root_problems()


# --- What csync2 left ------------------------------------------------------------------------------------


def _open_database(group, write=False):
    return _group(group).open_database(write)


def _database_state(group):
    with _salts_errors():
        return _group(group).state()


# --- Running csync2 --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _salts_errors():
    """Raise the errors of the rooms below as Salt's, which it shows without a traceback."""
    try:
        yield
    except CsyncsyncError as err:
        raise CommandExecutionError(str(err)) from err


# --- Conflicts -------------------------------------------------------------------------------------------


def marked(group):
    """
    What is still to be sent to whom, at most 5,000 paths. The runner calls it to find conflicts.

    Returns ``{path: [minion id, …]}``; paths are percent-encoded.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.marked wwwdata
    """
    minions = {host["address"]: minion for minion, host in _require(group)["hosts"].items()}
    found = {}
    with _open_database(group) as database:
        for path, peer, _ in database.dirty(minions):
            if len(found) < MOST_UNSENT or path in found:
                found.setdefault(path, []).append(minions[peer])
    return {urllib.parse.quote_from_bytes(path): sorted(peers) for path, peers in found.items()}


def versions(group, paths, text=False):
    """
    What this host has at some paths of a group. The runner calls it for the list of conflicts.

    paths
        A list; percent-encoded, as ``csyncsync.marked`` returns them.
    text
        Also the texts, of files that are not longer than 64 KiB.

    Returns ``{path: {"type": "file", "directory", "link", "special" or "nothing", "size": bytes, "mtime", "time",
    "mode", "owner", "sha256"}}``. Raises CommandExecutionError for a path that is in no include of the group.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.versions wwwdata '[/var/www/data/index.html]'
    """
    raw = _in_includes(group, paths)
    return {name: version(path, text) for name, path in raw.items()}


def contents(group, part=None, parts=1, slots=None, rate=RATE):
    """
    What is on this host's disk, for a comparison with other hosts. The runner's ``verify`` calls it.

    part, parts
        Read one of so many equal parts (0 is the first), and return ``{slot: digest}``: paths are spread over 4,096
        slots by their names, and each digest is made of the type, content, size, mode and owner of all paths in it.
    slots
        Return ``{percent-encoded path: digest}`` of the paths in these slots.
    rate
        Bytes to read in a second, 0 for as many as can be.

    Without ``part`` and ``slots``, returns ``{"files", "bytes"}``: how much there is to read.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.contents wwwdata
        salt '*' csyncsync.contents wwwdata part=0 rate=10000000
    """
    config = _require(group)
    os.nice(19)  # this thread's, which is the job's own
    excludes = inotify.Excludes([os.fsencode(pattern) for pattern in config["exclude"]])
    found, pace = contents_module.walk(config["include"], excludes), contents_module.Pace(rate)
    if slots is not None:
        return contents_module.entries(found, slots, pace)
    return contents_module.count(found) if part is None else contents_module.digests(found, part, parts, pace)


@raised_as(CommandExecutionError)
def win(group, paths):
    """
    Have this host's version of some paths replace that of all other hosts, with the next push: what they have changed
    there is lost. The runner's ``resolve`` calls it.

    paths
        A list; percent-encoded, as ``csyncsync.marked`` returns them. Where nothing is here, nothing will be there.

    Returns the number of entries that are to be sent. Raises CommandExecutionError for a path that is in no include.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.win wwwdata '[/var/www/data/index.html]'
    """
    return win_module.win(_group(group), paths)


def _in_includes(group, names):
    """``{name: path in bytes}`` of percent-encoded names, all of which stand in the group's includes."""
    roots = [os.fsencode(root) for root in _require(group)["include"]]
    raw = {name: urllib.parse.unquote_to_bytes(name) for name in names}
    for name, path in raw.items():
        inside = any(path == root or path.startswith(root + b"/") for root in roots)
        if not inside or os.path.normpath(path) != path or b"\0" in path:
            raise CommandExecutionError(f"{name} is in no include of {group}")
    return raw


# --- Backups ---------------------------------------------------------------------------------------------


def backups(group, paths=(), content=False, most=1000):
    """
    Which old versions of files csync2 has kept on this host, as others overwrote or deleted them. The runner calls it.

    paths
        A list of files and directories; percent-encoded, as ``csyncsync.marked`` returns them. Without any, the whole
        group.
    content
        Also ``sha256``, of those paths that are a file's.
    most
        Of more files than that, those are returned that were replaced last.

    Returns ``{"paths": {path: [{"generation", "size": bytes, "mtime", "time": when it was replaced, "mode", "owner",
    "sha256", "doubt": why it may be something else}, …]}, "more": number of files that were left out}``, the newest
    version first; paths are percent-encoded. Raises CommandExecutionError for a path that is in no include, and if the
    group has no ``backup_directory``.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.backups wwwdata
        salt '*' csyncsync.backups wwwdata '[/var/www/data/index.html]' content=True
    """
    config, top = _require(group), _backup_directory(group)
    raw = list(_in_includes(group, paths).values()) or [os.fsencode(root) for root in config["include"]]
    generations = _rules(config).get("backup_generations") or backups_module.GENERATIONS
    found, more = backups_module.find(top, raw, most, generations, content)
    return {"paths": {urllib.parse.quote_from_bytes(path): versions for path, versions in found.items()}, "more": more}


def restore(group, path, generation=0):
    """
    Put an old version of a file back on this host; the watcher sees it, and the next push sends it to all others. The
    runner calls it.

    path
        Percent-encoded, as ``csyncsync.backups`` returns it.
    generation
        As ``csyncsync.backups`` has it. What is at the path by now becomes generation 0, and that becomes this one.

    Returns ``{"size": bytes, "sha256", "changed": False if it was there already, "kept": the generation that what was
    there is now, None without}``. Raises CommandExecutionError for a path that is in no include, or where something is
    that no backup can keep.

    CLI Example:

    .. code-block:: bash

        salt web2 csyncsync.restore wwwdata /var/www/data/index.html generation=2
    """
    raw, config, top = _in_includes(group, [path])[path], _require(group), _backup_directory(group)
    if config["receive_only"]:
        raise CommandExecutionError(f"this host only receives in {group}: what is put back here reaches no other")
    if isinstance(generation, bool) or not isinstance(generation, int) or generation < 0:
        raise CommandExecutionError(f"generation={generation} is no number, as csyncsync.backups shows them")
    roots = [os.fsencode(root) for root in config["include"]]
    with _locked(group, wait=60) as mine:
        if not mine:
            raise CommandExecutionError(f"another push of {group} is under way on this host")
        problems = _root_problems(group)
        if problems or _database_state(group) != Database.ESTABLISHED:
            raise CommandExecutionError("; ".join(problems) or f"this host has not joined {group} yet")
        root = next(root for root in roots if raw == root or raw.startswith(root + b"/"))
        with _salts_errors():
            return backups_module.restore(top, raw, generation, root)


def _backup_directory(group):
    path = _rules(_require(group)).get("backup_directory")
    if not path:
        raise CommandExecutionError(f"csyncsync:groups:{group}:backup_directory is not set: no old versions are kept")
    return os.fsencode(path)


def _rules(config):
    """What csync2's config was made of, as far as it is known."""
    return config.get("rules") or {}


# --- Status ----------------------------------------------------------------------------------------------


def metrics():
    """
    The status of this host as text for Prometheus, as the beacon writes it into the directory ``csyncsync:metrics`` of
    the pillar, once in 15 seconds. ``docs/monitoring`` has alerts and a dashboard for it.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.metrics
    """
    end = certificate_module.end(storage.read(_host().certificate))
    return metrics_module.text(__salt__["csyncsync.status"](), __opts__["id"], end, time.time())


def actions_command():
    """
    The beginning of the command line that runs what is due of a group's actions, for ``csyncsync-action@.service``.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.actions_command
    """
    program = os.path.join(os.path.dirname(os.path.abspath(csync2lib.__file__)), "__main__.py")
    return [sys.executable, "-I", program, "actions"]
