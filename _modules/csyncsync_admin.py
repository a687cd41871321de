"""
What administrators ask for now and then: status and metrics, conflicts, comparisons of contents, old versions of files.

Most of it is called by the runner.
"""

import contextlib
import importlib.util
import time

import csync2lib
from csync2lib import actions, certificate, server, storage
from csync2lib import backups as backups_module
from csync2lib import contents as contents_module
from csync2lib import local_changes as local_changes_module
from csync2lib import records as records_module
from csync2lib import restore as restore_module
from csync2lib.csync2 import custody
from csync2lib.errors import raised_as
from csync2lib.group import MOST_TOLD, Group
from csync2lib.host import ThisHost
from csync2lib.push import win as win_module
from csync2lib.report import metrics as metrics_module
from csync2lib.report import status as host_status
from csync2lib.versions import version
from salt.exceptions import CommandExecutionError

__virtualname__ = "csyncsync"

#: Bytes that contents() reads in a second.
RATE = 50_000_000


def __virtual__():
    if importlib.util.find_spec("cryptography") is None:
        return False, "csyncsync: Python's cryptography, which Salt's packages hold, cannot be imported"
    return __virtualname__


def _host():
    return ThisHost.of(__opts__["id"], __grains__.get("os_family"))


def _group(name):
    return Group(name, _host())


# --- Conflicts -------------------------------------------------------------------------------------------


@raised_as(CommandExecutionError)
def marked(group):
    """
    What is still to be sent to whom, at most 5,000 paths. The runner calls it to find conflicts.

    Returns ``{path: [minion id, …]}``; paths are percent-encoded.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.marked wwwdata
    """
    return _group(group).dirty()


@raised_as(CommandExecutionError)
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
    return {name: version(path, text) for name, path in _group(group).config.in_includes(paths).items()}


@raised_as(CommandExecutionError)
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
    return contents_module.of_group(_group(group).config, part, parts, slots, rate)


@raised_as(CommandExecutionError)
def win(group, paths, host=None):
    """
    Have this host's version of some paths replace that of all other hosts, with the next push: what they have changed
    there is lost. The runner's ``resolve`` calls it.

    paths
        A list; percent-encoded, as ``csyncsync.marked`` returns them. Where nothing is here, nothing will be there.
    host
        Minion id: only of this one.

    Returns the number of entries that are to be sent. Raises CommandExecutionError for a path that is in no include.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.win wwwdata '[/var/www/data/index.html]'
    """
    return win_module.win(_group(group), paths, host)


@raised_as(CommandExecutionError)
def local_changes(group):
    """
    What this host, which only receives, has otherwise than its group (``receive_only``): nobody else gets it.

    Returns ``{percent-encoded path: "changed", "deleted" or "new"}``, of 5,000 paths at most.

    CLI Example:

    .. code-block:: bash

        salt web9 csyncsync.local_changes wwwdata
    """
    found = _group(group).require()
    return local_changes_module.changes(found.directory, found.database, MOST_TOLD)


# --- Whether all hosts agree -----------------------------------------------------------------------------


@raised_as(CommandExecutionError)
def records(group, slots):
    """
    What csync2 has recorded here of the paths behind some digests of ``csyncsync.status`` (``records``). The runner
    compares them.

    slots
        Their numbers.

    Returns ``{"calm": whether nothing is on its way, and all is there, "left": [percent-encoded path, …] that others
    have refused, "paths": {percent-encoded path: digest}}``; in ``paths`` directories end with "/".

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.records wwwdata '[7]'
    """
    found = _group(group).require()
    status = host_status.read(found.directory, found.database, found.host.minion)
    away = status.get("held") or found.guard.problems() or found.guard.moved_mounts()
    calm, paths = host_status.is_at_rest(status) and not away, records_module.entries(found, slots, MOST_TOLD)
    return {"calm": calm, "left": sorted(found.dirty()) if calm else [], "paths": paths}


@raised_as(CommandExecutionError)
def kept(group, paths):
    """
    Of directories that other hosts lack, those that this host keeps because something else is in them, as a socket or
    what is excluded. The runner calls it.

    Returns their percent-encoded paths, with a "/" at the end.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.kept wwwdata '[/var/www/data/cache/]'
    """
    found = _group(group).require()
    return records_module.kept(found, sorted(found.config.in_includes(paths).values()))


@raised_as(CommandExecutionError)
def mark(group, paths, test=False, but=None):
    """
    Have this host send some paths again, because hosts have them differently though nobody has anything to send: what
    is newer replaces what is older, and what is neither is a conflict. The runner calls it.

    test
        Only find out whether it could.
    but
        ``{minion id: [path, …]}`` that hosts do not send.

    Returns ``{path: digests of what it was here before}`` of those that this host has made as it has them. Raises
    CommandExecutionError for a path that is in no include.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.mark wwwdata '[/var/www/data/index.html]'
    """
    found = _group(group)
    left_out = {*(but or {}).get(found.host.minion, ())}
    return win_module.mark(found, [path for path in paths if path not in left_out], test)


# --- Backups ---------------------------------------------------------------------------------------------


@raised_as(CommandExecutionError)
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
    return backups_module.of_group(_group(group).config, paths, content, most)


@raised_as(CommandExecutionError)
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
    return restore_module.put_back(_group(group), path, generation)


# --- Status ----------------------------------------------------------------------------------------------


@raised_as(CommandExecutionError)
def status(group=None, size=False):
    """
    How far this host is, for each of its groups.

    size
        Also ``{"files", "bytes", "disks": [{"path", "free": bytes, "total": bytes}, …], "certificate_end": seconds
        since the epoch, "versions": {…}, "records": [digest, …] if it is in sync}``; of a million files that takes some
        seconds, after a change.

    Returns ``{GROUP: {"state", "journal": files, "dirty": {minion id: entries}, "refused": {minion id: [path, …]},
    "unreachable": {minion id: why}, "held": why, "paused": why, "waiting_since": time,
    "last_push": {…}, "watching": bool, "watch": {…}, "unread": {percent-encoded path: why},
    "cannot_write": {minion id: {percent-encoded path: why}}, "local": {"number", "paths": {percent-encoded path:
    kind}}, "differences": paths so far, "anew": [minion id, …],
    "unpublished": [minion id, …], "hosts": {minion id: name@address},
    "database_bytes": bytes, "actions": [{"exec", "exit", "why", "time", "seconds", "log", "running", "waiting"}],
    "in_sync": bool, "error": text}}``.
    ``state`` is new, recorded or established (see ``push``); ``waiting_since`` is when the oldest change was seen that
    others may lack, in seconds since the epoch, None if there is none; ``last_push`` is what ``push`` returned last,
    with the numbers of ``pushes`` and ``errors`` so far; ``actions`` says of each command of the group's actions how it
    ended last (``why`` is empty if it did well), and for how many seconds it has been running or waiting; ``in_sync``
    says that nothing of this host waits to be sent; ``unread`` are paths, twenty at most, that could not be looked
    at, or that csync2 does not carry: they stay on the other hosts as they were; ``cannot_write`` is what other hosts
    say that they cannot write; ``local`` what a host that only receives has otherwise; ``anew`` are hosts that have
    left the config for a while, and have not joined anew since.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.status
        salt '*' csyncsync.status wwwdata
    """
    return host_status.of_host(_host(), group, _versions() if size else None)


def _versions():
    found = {"csyncsync": csync2lib.VERSION, "Salt": __grains__["saltversion"]}
    with contextlib.suppress(CommandExecutionError):
        found["csync2"] = __salt__["pkg.version"]("csync2")
    return found


@raised_as(CommandExecutionError)
def metrics():
    """
    The status of this host as text for Prometheus, as the watcher writes it into the directory ``csyncsync:metrics`` of
    the pillar, once in 15 seconds. ``docs/monitoring`` has alerts and a dashboard for it.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.metrics
    """
    host = _host()
    end = certificate.end(storage.read(host.certificate))
    return metrics_module.text(host_status.of_host(host), host.minion, end, time.time())


def command(program):
    """
    The beginning of the command line that runs one of csyncsync's own programs on this host, for systemd's units.

    program
        ``server`` (csync2's server), ``watch.service`` (the watcher), ``alone`` (a push that no master has asked for: a
        group's name follows, and ``full`` for a full rescan) or ``actions`` (what is due of a group: its directory
        follows).

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.command server
    """
    host = _host()
    known = {
        "server": [host.system],
        "watch.service": [host.state],
        "alone": [host.minion, host.system],
        "actions": [],
    }
    if program not in known:
        raise CommandExecutionError(f"{program} is none of {', '.join(known)}")
    return [*actions.command_line(program), *known[program]]


def user_number():
    """
    The number of csync2's user, the same on all hosts: files are sent with the numbers of their owners, so no other
    user may have it anywhere.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.user_number
    """
    return custody.UID


def code():
    """
    A digest of csyncsync's code on this host: a service that runs it is restarted when this is another one.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.code
    """
    return server.code()
