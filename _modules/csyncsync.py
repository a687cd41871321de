"""
Keep the files of several hosts the same, with csync2.

A *group* (one csync2 config, ``csync2 -C GROUP``) is a set of directories that its *hosts* share. This module
computes from pillar and mine who is in a group, and pushes what changed on this host to the group's other
hosts. It may call ``_utils/`` and the ``csync2`` command; the states, the beacon and the runner call it.

Nothing that this module returns, logs or sends as an event holds a key or a private key.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import ipaddress
import logging
import os
import shutil
import socket
import sqlite3
import stat
import sys
import tempfile
import time
import urllib.parse

import csync2lib
import salt.loader
from csync2lib import backups as backups_module
from csync2lib import certificate as certificate_module
from csync2lib import contents as contents_module
from csync2lib import journal, keys, storage, waits, watchdog
from csync2lib.config import membership, schema
from csync2lib.config import template as template_module
from csync2lib.csync2 import connections, temporary
from csync2lib.csync2.command import PORT, STALLED, run, run_paths
from csync2lib.csync2.database import Database
from csync2lib.csync2.kept import keep_copy, keep_link, lost_database, put_aside
from csync2lib.csync2.names import database_path, is_group_name
from csync2lib.csync2.output import read_comparison
from csync2lib.csync2.states import check_text
from csync2lib.errors import CommandError, CsyncsyncError
from csync2lib.group import Group, ThisHost
from csync2lib.guard import LET_THROUGH, Guard, is_empty_directory
from csync2lib.join import recovery
from csync2lib.pauses import ALL_HOSTS, pauses
from csync2lib.push import ledger, transfer
from csync2lib.push.check import half_marked
from csync2lib.report import metrics as metrics_module
from csync2lib.report import status as host_status
from csync2lib.versions import version
from csync2lib.watch import inotify
from salt.exceptions import CommandExecutionError

log = logging.getLogger(__name__)

__virtualname__ = "csyncsync"

STATE_DIR = "/var/lib/csyncsync"
DATABASE_DIR = "/var/lib/csync2"
#: Changes of its own that a host that lost its database names to the host that admits it.
MOST_UNSENT = 5000
#: Seconds that the watcher may take to judge a change, while a peer sends.
WATCHER_JUDGES = 2.0
#: Seconds that a check of whole trees waits for peers that send: one at a time does, unless no master is there.
SILENCE_WAIT = 3.0
#: Seconds until the watcher has seen that a group's config is gone.
WATCHER_LETS_GO = 3.0
#: Seconds that the watcher may hold a push's lock to find out whether somebody else does.
LOCK_PROBE = 0.2
#: Bytes that contents() reads in a second, and paths of each host that a test of a push names.
RATE, TOLD = 50_000_000, 1000


def __virtual__():
    if importlib.util.find_spec("cryptography") is None:
        return False, "csyncsync: Python's cryptography, which Salt's packages hold, cannot be imported"
    return __virtualname__


def _host():
    system = "/etc/csync2" if __grains__.get("os_family") == "Suse" else "/etc"
    return ThisHost(__opts__["id"], socket.gethostname().lower(), system)


def _group(name):
    return Group(name, _host())


# --- Facts and membership --------------------------------------------------------------------------------


def member():
    """
    The facts about this host that the others need, as they stand in the mine.

    Returns ``{"name": host name, "addresses": {"": primary address, GROUP: address, …}, "certificate": PEM}``.
    A group has an entry of its own if its pillar sets ``address``. Raises CommandExecutionError if this host
    has no certificate yet, or no address that fits.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.member
    """
    certificate = storage.read(_certificate_path())
    if not certificate:
        raise CommandExecutionError(f"{_certificate_path()} is missing: run state.apply csyncsync.certificate first")
    addresses = {"": _primary_address()}
    for name, options in schema.validate(_pillar_groups())["groups"].items():
        if options["address"]:
            with contextlib.suppress(CommandExecutionError):  # groups() names it; the others keep their facts
                addresses[name] = _address(name, options["address"])
    return {"name": _host_name(), "addresses": addresses, "certificate": certificate}


def groups(group=None, facts=True):
    """
    The groups of this host as pillar and mine have them now: who is in them, and what is wrong.

    group
        Only this one.
    facts
        Without them only the pillar is judged: no hosts, and ``groups`` stays empty.

    Returns ``{"groups": {GROUP: {"hosts": {minion id: {"name", "address", "certificate"}}, "unpublished": [minion
    id, …], "options": {…}, "context": {…}}}, "errors": {GROUP: [message, …]}}``. Groups that this minion is no
    member of are left out. ``unpublished`` are members without facts in the mine, whose last known line is kept.
    No key is among the options.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.groups
        salt web1 csyncsync.groups wwwdata
    """
    checked = schema.validate(_pillar_groups())
    checked["errors"].update((__pillar__.get("csyncsync") or {}).get("errors") or {})
    result = {"groups": {}, "errors": {n: m for n, m in checked["errors"].items() if group in (None, n) or not n}}
    for name, options in checked["groups"].items():
        if not facts or group not in (None, name) or not membership.matches(options["members"], __opts__["id"]):
            continue
        try:
            found = _membership(name, options)
        except (CsyncsyncError, CommandExecutionError) as err:
            result["errors"][name] = [f"csyncsync:groups:{name} {err}"]
            continue
        context = template_module.context(name, options, found["hosts"], _key_path(name), _group_path(name, "due"))
        found["options"] = {option: value for option, value in options.items() if option != "key"}
        result["groups"][name] = {**found, "context": context}
    return result


def _membership(name, options):
    if options["address"]:
        _address(name, options["address"])  # an address that this host lacks is an error here, not at a peer
    published = __salt__["mine.get"](options["members"]["tgt"], "csyncsync.member", options["members"]["tgt_type"])
    published = published if isinstance(published, dict) else {}
    published[__opts__["id"]] = member()  # the mine may lag behind
    accepted = ((__pillar__.get("csyncsync") or {}).get("accepted") or {}).get(name)
    known = (_config(name) or {}).get("hosts")
    return membership.hosts(name, options, published, known, accepted)


def _pillar_groups():
    pillar = __pillar__.get("csyncsync")
    if pillar is not None and not isinstance(pillar, dict):
        raise CommandExecutionError("csyncsync of the pillar is not a mapping: it holds the key 'groups'")
    return (pillar or {}).get("groups")


def _host_name():
    """As csync2 gets it: gethostname(), lower-cased."""
    return socket.gethostname().lower()


def _own_addresses():
    """``{interface: [address, …]}`` without loopback and link-local ones."""
    found = {}
    for interface, data in __salt__["network.interfaces"]().items():
        for entry in (data.get("inet") or []) + (data.get("inet6") or []):
            ip = ipaddress.ip_address(entry["address"].split("%")[0])
            if not ip.is_loopback and not ip.is_link_local:
                found.setdefault(interface, []).append(str(ip))
    return found


def _primary_address():
    """The address that faces the master; without one, the first that is not loopback."""
    own = [address for addresses in _own_addresses().values() for address in addresses]
    master = __opts__.get("master_ip") or ""
    try:
        family = socket.AF_INET6 if ":" in master else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((master.strip("[]"), PORT))  # sends nothing: asks the routing table
            address = sock.getsockname()[0]
        if address in own:
            return address
    except (OSError, ValueError):
        pass
    if not own:
        raise CommandExecutionError("this host has no address that others could reach: set csyncsync:groups:…:address")
    return own[0]


def _address(name, wanted):
    """This host's address for a group's ``address``: an interface, a network, or a literal address."""
    own = _own_addresses()
    if wanted in own:
        return own[wanted][0]
    for address in (address for addresses in own.values() for address in addresses):
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(address) in ipaddress.ip_network(wanted):
                return address
    raise CommandExecutionError(
        f"csyncsync:groups:{name}:address {wanted} is on no interface of this host; it has {own or 'none'}"
    )


# --- Files of a group ------------------------------------------------------------------------------------


def _system_dir():
    """Where csync2 looks for its configs: a constant of its build."""
    return "/etc/csync2" if __grains__.get("os_family") == "Suse" else "/etc"


def _certificate_path():
    return os.path.join(_system_dir(), "csync2_ssl_cert.pem")


def _private_key_path():
    return os.path.join(_system_dir(), "csync2_ssl_key.pem")


def _key_path(group):
    return os.path.join(_system_dir(), f"csync2_{group}.key")


def _database_path(group):
    return database_path(DATABASE_DIR, _host_name(), group)


def _group_path(group, *names):
    return os.path.join(STATE_DIR, group, *names)


def _forget(group, *names):
    """Remove some files of a group that may be missing."""
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_group_path(group, name))


def _config(group):
    """What group_present wrote down last, None if the group is not on this host."""
    if not is_group_name(group):
        return None
    return storage.read_json(_group_path(group, "config.json"))


def installed():
    """
    The groups that are installed on this host, whether the pillar still has them or not.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.installed
    """
    try:
        names = sorted(os.listdir(STATE_DIR))
    except FileNotFoundError:
        return []
    return [name for name in names if os.path.isdir(os.path.join(STATE_DIR, name))]


def listen():
    """
    The addresses that csync2 is to listen on: those of this host's groups, if each of them sets ``address``.

    Returns a sorted list; an empty one means all addresses.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.listen
    """
    checked = schema.validate(_pillar_groups())
    broken = {*checked["errors"], *((__pillar__.get("csyncsync") or {}).get("errors") or {})}
    configs = {name: _config(name) or {} for name in installed()}
    wanted = {name: config.get("address_wanted") for name, config in configs.items() if name in broken}
    for name, options in checked["groups"].items():
        if membership.matches(options["members"], __opts__["id"]):
            wanted[name] = options["address"]
    if not all(wanted.values()):
        return []
    return sorted({_address_or(name, address, configs) for name, address in wanted.items()} - {None})


def _address_or(name, wanted, configs):
    """This host's address for a group; the one that it had, when there is none now."""
    try:
        return _address(name, wanted)
    except CommandExecutionError:
        return configs.get(name, {}).get("address")


def refresh(accepted=None):
    """
    Read pillar and mine again: ``csyncsync.groups`` and ``csyncsync.service`` are applied, beside whatever state run
    is under way.

    accepted
        ``{GROUP: [minion id, …]}``: whom the master has accepted; the runner gives it. Who is not among them has left.

    A call that finds one running waits for it; a call that finds one waiting returns, because that one will read
    what is newest anyway. Returns the names of the states that failed, or a line that says why nothing was done.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.refresh
    """
    os.makedirs(STATE_DIR, mode=0o755, exist_ok=True)
    with contextlib.ExitStack() as waiting:
        if not waiting.enter_context(_held(os.path.join(STATE_DIR, "refresh.next"))):
            return "another call waits for its turn"
        with _held(os.path.join(STATE_DIR, "refresh.lock"), wait=waits.HANGS + 60) as mine:
            waiting.close()
            if not mine:
                return "another call takes too long"
            pillar = {"csyncsync": {"accepted": accepted}} if accepted else None
            with _ended_if_it_hangs():
                states = __salt__["state.apply"]("csyncsync.groups,csyncsync.service", concurrent=True, pillar=pillar)
    if not isinstance(states, dict):
        raise CommandExecutionError("; ".join(str(line) for line in states))
    return sorted(state["__id__"] for state in states.values() if state["result"] is False)


def paths(group):
    """
    Where csync2 and csyncsync keep a group on this host.

    Returns ``{"config", "key", "database", "state"}``, all absolute paths.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.paths wwwdata
    """
    return {
        "config": os.path.join(_system_dir(), f"csync2_{group}.cfg"),
        "key": _key_path(group),
        "database": _database_path(group),
        "state": _group_path(group),
    }


def install(group, test=False, new_key=False, found=None):
    """
    Write down a group for the beacon and for ``push``, note its include roots, and pin its hosts' certificates.

    ``group_present`` calls this after csync2's config and key are in place. An include root that was never seen
    and does not exist is made, as a directory; one that was seen before is never made again, because it may be an
    unmounted disk.

    The ``backup_directory`` is made, for root alone; one that others can enter is refused.

    new_key
        The group's key is another one than before.
    found
        What ``csyncsync.groups`` said of the group; without it, that is asked: the mine is on the master.

    Returns ``{"changes": {…}, "problems": [message, …]}``. With ``test=True`` nothing is written.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.install wwwdata test=True
    """
    found = found or _found(group)
    changes, old = {}, _config(group) or {}
    new = {
        "group": group,
        "include": found["options"]["include"],
        "exclude": found["options"]["exclude"],
        "receive_only": membership.receives_only(found["options"], __opts__["id"]),
        "hosts": found["hosts"],
        "unpublished": found["unpublished"],
        "name": _host_name(),
        "address": found["hosts"][__opts__["id"]]["address"],
        "address_wanted": found["options"]["address"],
        "database": _database_path(group),
        "tls": found["options"]["tls"],
        "hold": found["options"]["hold"],
        "rules": found["context"],
    }
    if not test:
        for directory in ("journal", "due", "output"):
            os.makedirs(_group_path(group, directory), mode=0o700, exist_ok=True)
        os.makedirs(os.path.dirname(new["database"]), exist_ok=True)
    _make_backup_directory(group, found["options"]["backup_directory"], changes, test)
    with _salts_errors():
        made, problems = _guard(group).note_roots(new["include"], test)
    if made:
        changes.setdefault("made", []).extend(made)
    for kind, added, gone in _differences(old, new):
        changes[kind] = {**({"added": added} if added else {}), **({"removed": gone} if gone else {})}
    if old != new and not test:
        storage.write_json(_group_path(group, "config.json"), new)
        if old and old["rules"] != new["rules"]:
            journal.mark_whole(_group_path(group, "journal"))
            if os.path.exists(new["database"]):
                _csync2(group, "-R")  # forget what is no longer included
    if old != new and not changes:
        changes["facts"] = "updated"
    pins = _pin(group, new, test)
    changes.update(pins)
    if not test and (new_key or pins):
        _meet_anew(group)
    changes.update(_unit(group, "timer", True, test))
    changes.update(_unit(group, "actions", bool(new["rules"]["commands"]), test))
    if not test and not problems and not all(is_empty_directory(root) for root in new["include"]):
        _begin(group)
    return {"changes": changes, "problems": problems}


def _found(group):
    """What groups() says of one of them. Raises CommandExecutionError."""
    wanted = groups(group)
    if group not in wanted["groups"]:
        raise CommandExecutionError(
            "; ".join(m for ms in wanted["errors"].values() for m in ms) or f"no member of {group}"
        )
    return wanted["groups"][group]


def _make_backup_directory(group, path, changes, test):
    """
    Have a directory for root alone. csync2 gives the directories in it to the owners of those that the files were in: a
    user who can reach one puts a symlink there, and csync2 writes through it.
    """
    what = f"csyncsync:groups:{group}:backup_directory {path}"
    try:
        status = os.stat(path) if path else None
    except FileNotFoundError:
        if os.path.islink(path):
            raise CommandExecutionError(f"{what} is a symlink to what is not there")
        changes.setdefault("made", []).append(path)
        if not test:
            os.makedirs(path, mode=0o700)
        return
    except OSError as err:
        raise CommandExecutionError(f"{what}: {err.strerror}")
    if status and not stat.S_ISDIR(status.st_mode):
        raise CommandExecutionError(f"{what} is no directory")
    if status and (status.st_uid or status.st_mode & 0o077):
        raise CommandExecutionError(
            f"{what} is not for root alone: run chown root {path} && chmod 700 {path} if it is for backups only, else"
            " name a directory in it"
        )


def _begin(group):
    """Have this host's files recorded, aside: that takes minutes if there are many, and needs no turn of the group."""
    if not os.path.exists("/etc/systemd/system/csyncsync-push@.service"):
        return
    with contextlib.suppress(sqlite3.Error):  # the push says what is wrong with the database
        if _database_state(group) == Database.NEW:
            __salt__["service.start"](f"csyncsync-push@{group}.service", no_block=True)


#: What checks a group now and then, and what sees that commands are due.
_UNITS = {"timer": "csyncsync-full@{}.timer", "actions": "csyncsync-action@{}.path"}


def _unit(group, what, wanted, test):
    """Have one of a group's units run, or not. Returns the changes."""
    unit, template = _UNITS[what].format(group), _UNITS[what].format("")
    if not os.path.exists(f"/etc/systemd/system/{template}") or wanted == __salt__["service.enabled"](unit):
        return {}
    if not test:
        for function in ("enable", "start") if wanted else ("disable", "stop"):
            __salt__[f"service.{function}"](unit)
    return {what: f"{unit} {'enabled' if wanted else 'disabled'}"}


def _differences(old, new):
    """(kind, what is new, what is gone) of two written-down groups."""
    lines = [
        {f"{minion} {host['name']}@{host['address']}" for minion, host in config.get("hosts", {}).items()}
        for config in (old, new)
    ]
    includes = [set(config.get("include", ())) for config in (old, new)]
    for kind, (before, after) in (("hosts", lines), ("include", includes)):
        if before != after:
            yield kind, sorted(after - before), sorted(before - after)


def _pin(group, config, test):
    """Make the database's pinned certificates those of the config's hosts. Returns the changes."""
    wanted = {
        host["address"]: host["certificate"] for minion, host in config["hosts"].items() if minion != __opts__["id"]
    }
    path = _database_path(group)
    if not os.path.exists(path) or not os.path.getsize(path):
        if test:
            return {"certificates": {"pinned": sorted(wanted)}} if wanted else {}
        # Any listing makes the database with its tables; 2 is "nothing to list".
        try:
            _csync2(group, "-M", fine=(0, 2))
        except CommandExecutionError as err:
            # csync2's server makes the same tables at the same moment.
            if "already exists" not in str(err) and "no such table" not in str(err):
                raise
    try:
        _await_tables(path)
        with Database(path, timeout=20, write=not test) as database:
            pinned = database.certificates()
            if pinned == wanted:
                return {}
            if not test:
                database.pin(wanted)
    except sqlite3.Error as err:
        raise CommandExecutionError(f"{path}: {err}") from err
    return {
        "certificates": {
            "pinned": sorted(a for a in wanted if pinned.get(a) != wanted[a]),
            "dropped": sorted(set(pinned) - set(wanted)),
        }
    }


def _meet_anew(group):
    """
    End the connections to this host's csync2, and try peers again that failed, because a key or certificates changed.

    A connection goes on with the key and the certificate with which it began, for as long as the other side likes. What
    a peer was sending is sent again. By SIGKILL, because systemd takes an end by SIGTERM for a good one: the watcher is
    to hear that csync2 may not have written down what it did (csync2-died@.service).
    """
    command = ["systemctl", "kill", "--signal=KILL", "csync2@*.service"]
    __salt__["cmd.run_all"](command, python_shell=False, ignore_retcode=True)
    _forget(group, "peers.json")


def _await_tables(path, seconds=3):
    """Wait until csync2, its server perhaps, has made all tables of a new database."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with Database(path, timeout=20) as database:
            if database.is_complete():
                return
        time.sleep(0.1)


def remove(group, test=False):
    """
    Take a group off this host: csync2's config, key and database, and this module's notes on it.

    The synchronized files stay as they are. Returns the list of what was removed.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.remove wwwold test=True
    """
    if not is_group_name(group):
        raise CommandExecutionError(f"{group!r} is no group name")
    where, removed = paths(group), []
    for what in _UNITS:
        removed += _unit(group, what, False, test).values()
    for path in (where["config"], where["key"], where["database"], where["database"] + "-journal"):
        if os.path.lexists(path):
            removed.append(path)
            if not test:
                with contextlib.suppress(FileNotFoundError):  # another state run does the same
                    os.unlink(path)
    if os.path.isdir(where["state"]):
        removed.append(where["state"])
        until = time.monotonic() + WATCHER_LETS_GO
        while not test and os.path.isdir(where["state"]) and time.monotonic() < until:
            shutil.rmtree(where["state"], ignore_errors=True)
            time.sleep(0.1)  # the watcher may just have written into it
    return removed


def pinned(group):
    """
    Which certificates this host accepts from the other hosts of a group.

    Returns ``{minion id: SHA-256 in hexadecimal}``, as ``csyncsync.certificate`` shows it on the host itself.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.pinned wwwdata
    """
    minions = {host["address"]: minion for minion, host in _require(group)["hosts"].items()}
    with _open_database(group) as database:
        found = database.certificates()
    return {minions[a]: hashlib.sha256(bytes.fromhex(data)).hexdigest() for a, data in found.items() if a in minions}


def key_proof(group, salt):
    """
    Prove that this host has a group's key, without saying it. The runner compares.

    salt
        Any text; another one each time.

    Returns 16 hexadecimal digits, the same on all hosts that have the same key.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.key_proof wwwdata "$RANDOM"
    """
    _require(group)
    return keys.proof(keys.read(_key_path(group)) or "", str(salt))


# --- The certificate -------------------------------------------------------------------------------------


def certificate(create=False):
    """
    The TLS certificate of this host: whether it is there and can be used.

    create
        Make a key (P-256) and a self-signed certificate if there is none that can be used.

    Returns ``{"valid": bool, "reason": why not, "fingerprint": SHA-256 in hexadecimal, "not_after": date}``.
    csync2 pins certificates and looks at no date; the key never leaves the host.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.certificate
    """
    found = _check_certificate()
    if create and not found["valid"]:
        _make_certificate()
        found = _check_certificate()
    return found


def renew_certificate():
    """
    Make this host a new private key and a new certificate, and publish it; the old ones are deleted. The runner's
    ``rotate_certificate`` calls it, and has the other hosts accept the new one.

    csync2 knows one certificate for each host: until the others have the new one, they and this host refuse each other.

    Returns what ``csyncsync.certificate`` does.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.renew_certificate
    """
    _make_certificate(keep=False)
    __salt__["mine.send"]("csyncsync.member")
    return _check_certificate()


def _check_certificate():
    result = {"valid": False, "reason": "", "fingerprint": None, "not_after": None}
    pem, key = storage.read(_certificate_path()), storage.read(_private_key_path())
    if not pem or not key:
        return {**result, "reason": f"there is no {_certificate_path() if not pem else _private_key_path()}"}
    problem, fingerprint, end = certificate_module.judge(pem, key)
    if problem:
        return {**result, "reason": f"{_certificate_path()} {problem}"}
    if os.stat(_private_key_path()).st_mode & 0o077:
        return {**result, "reason": f"others can read {_private_key_path()}"}
    return {"valid": True, "reason": "", "fingerprint": fingerprint, "not_after": end}


def _make_certificate(keep=True):
    for path in (_private_key_path(), _certificate_path()):
        if keep and os.path.exists(path):
            os.replace(path, path + ".old")
    certificate_, key = certificate_module.make()
    storage.write(_private_key_path(), key)
    storage.write(_certificate_path(), certificate_, 0o644)


# --- Push ------------------------------------------------------------------------------------------------


def push(group, full=False, release=False, test=False, paused=None, anew=False, **kwargs):
    """
    Send what changed on this host to the group's other hosts, peer by peer.

    full
        Check the whole group, not only the paths in the journal.
    release
        Let a push through that is held because it would delete most of the group, or because an include root
        is on another file system than before.
    test
        Only tell what a full push would send, to whom: ``{"group", "state": "test", "send": {minion id: {"entries",
        "paths": [the first 1,000, percent-encoded]}}, "comment"}``. csync2's own check finds it, in a copy of its
        database.
    paused
        What is paused, as the master has it (see ``csyncsync.paused``). The runner gives it.
    anew
        Have this host join the group anew, because the others have kept nothing for it while it was no member. The
        runner gives it.

    Returns ``{"group", "state", "checked": paths, "left": {address: entries}, "refused": {minion id: [path, …]},
    "seconds", "comment"}``. The event ``csyncsync/GROUP/pushed`` says the same; the first push that is held, or fails,
    also sends ``csyncsync/GROUP/held`` or ``…/error`` with its comment. ``refused`` are the first paths that
    hosts which answered did not take, because the same file was changed there too. ``state`` is one of

    ========  ======================================================================
    pushed    done; what could not be sent (dead peers, conflicts) stands in ``left``
    joining   the host has recorded its files and waits to be admitted by the runner
    held      a guard refused; ``comment`` says why, and nothing was sent
    paused    the group or this host is paused; nothing was sent, and all changes are kept
    running   another push of the group is under way on this host
    error     csync2 failed; ``comment`` says how
    ========  ======================================================================

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.push wwwdata
        salt web1 csyncsync.push wwwdata full=True
        salt web1 csyncsync.push wwwdata test=True
    """
    config = _require(group)
    if test:
        return _test_push(group, config)
    if paused is not None:
        _take_pauses(group, paused)
    began = time.monotonic()
    with _locked(group, wait=LOCK_PROBE) as mine:
        before = storage.read_json(_group_path(group, "push.json"), {})
        refused = before.get("refused") or {}
        result = {"group": group, "state": "pushed", "checked": 0, "left": {}, "refused": refused, "comment": ""}
        if not mine:
            result.update(state="running", comment="another push of this group is under way here")
        else:
            try:
                with _ended_if_it_hangs():
                    _push(group, config, full, release, anew, result)
            except (CommandExecutionError, sqlite3.Error, OSError) as err:
                result.update(state="error", comment=f"{err}{_put_aside_if_damaged(group)}")
            result["seconds"] = round(time.monotonic() - began, 3)
            _note_push(group, result)
    if result["state"] in ("held", "error") and result["state"] != before.get("state"):
        _send_event(group, result["state"], {"group": group, "comment": _ascii(result["comment"])})
    told = {key: value for key, value in result.items() if key != "comment"}
    _send_event(group, "pushed", {**told, "refused": _plain(result["refused"]), "jid": kwargs.get("__pub_jid")})
    return result


def wait(group):
    """
    Take in that the master knows of this host's wish to push, and that another host pushes. The runner calls it.

    The beacon starts a push by itself only if nobody has heard of it.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.wait wwwdata
    """
    _require(group)
    storage.write(_group_path(group, "waits"), "")
    return True


def watch():
    """
    Run the beacon until the minion does, as a minion that has found no master since it started does not.

    ``csyncsync-watch.service`` calls this while nobody has the beacon's lock. The beacon's options are those of the
    minion's config. Returns True; at once if the beacon runs already.

    CLI Example:

    .. code-block:: bash

        salt-call --local csyncsync.watch
    """
    beacons = salt.loader.beacons(__opts__, __salt__)
    config = (__opts__.get("beacons") or {}).get("csyncsync") or []

    async def until_the_minion_does():
        while not beacons["csyncsync.elsewhere"](config):
            beacons["csyncsync.beacon"](config)
            await asyncio.sleep(1)

    asyncio.run(until_the_minion_does())
    return True


def _require(group):
    config = _config(group)
    if config is None:
        raise CommandExecutionError(
            f"group {group!r} is not on this host; it has {', '.join(installed()) or 'none'}. Run state.apply csyncsync"
        )
    return config


def _locked(group, wait=0.0):
    """Hold the group's lock on this host; yields whether it could be had."""
    return _held(_group_path(group, "lock"), wait)


@contextlib.contextmanager
def _held(path, wait=0.0):
    """Hold a lock file, waiting for it that many seconds; yields whether it could be had."""
    with open(path, "w", encoding="utf-8") as file:
        until = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= until:
                    yield False
                    return
                time.sleep(0.1)
        yield True


def _ended_if_it_hangs():
    """End this job, which holds a lock, when it hangs; not one that is a thread of the minion."""
    return watchdog.ended_after(waits.HANGS if __opts__.get("multiprocessing", True) else 0)


def _guard(group):
    return Guard(group, _group_path(group), _database_path(group))


def _root_problems(group):
    """What is wrong with the include roots, in words; nothing is pushed while there is anything."""
    with _salts_errors():
        return _guard(group).root_problems()


def _push(group, config, full, release, anew, result):
    if why := _why_paused(group):
        result.update(state="paused", comment=why)
        return
    guard, problems = _guard(group), _root_problems(group)
    if problems and not release:
        result.update(state="held", comment="; ".join(problems))
        return
    with _salts_errors():
        guard.renew_roots()
    if anew and _database_state(group) == Database.ESTABLISHED:
        # Its files count as those of a host that has lost its database: what it has not sent yet, it keeps.
        keep_copy(_group_path(group), _database_path(group))
        with _open_database(group, write=True) as database:
            database.empty()
    if _database_state(group) != Database.ESTABLISHED:
        _record(group)
        result.update(state="joining", comment="waits for the master to have an established host admit it")
        return
    keep_link(_group_path(group), _database_path(group))
    since = transfer.now()
    result["checked"] = _check_journal(group, config, full)
    peers = _peers_to_serve(group, config)
    vanished = guard.vanished([host["address"] for host in config["hosts"].values()])
    held = guard.looks_lost(vanished, config["include"], config.get("hold") or schema.HOLD)
    if held and not release:
        result.update(state="held", comment=held)
        return
    guard.let_through(vanished)
    result["left"] = _send(group, config, peers, since)
    result["refused"] = _refused(group, config, result["refused"])
    keep_copy(_group_path(group), _database_path(group))


def _refused(group, config, before, most=20):
    """
    ``{minion id: [path, …]}`` of what hosts that answered did not take: conflicts, in the main.

    What a host refused before stays refused while it does not answer.
    """
    unreachable = storage.read_json(_group_path(group, "peers.json"), {})
    minions = {host["address"]: minion for minion, host in config["hosts"].items()}
    refused = {}
    with _open_database(group) as database:
        for raw, peer, _ in database.dirty(minions):
            path, paths_ = raw.decode("utf-8", "backslashreplace"), refused.setdefault(minions[peer], [])
            if len(paths_) < most and (peer not in unreachable or path in before.get(minions[peer], ())):
                paths_.append(path)
    return {minion: paths_ for minion, paths_ in refused.items() if paths_}


def _plain(refused):
    """What others refused, for an event."""
    return {minion: [_ascii(path) for path in paths_] for minion, paths_ in refused.items()}


def _ascii(text):
    """Text for an event: Salt cannot render a reactor SLS with every character (those beyond U+FFFF)."""
    return text.encode("ascii", "backslashreplace").decode("ascii")


def _note_push(group, result):
    """Leave ``left`` as the sign that this host has to ask again, and what the status shows; if there is room."""
    left, path = _group_path(group, "left"), _group_path(group, "push.json")
    before, now, since = storage.read_json(path, {}), time.time(), None
    errors = before.get("errors", 0) + (result["state"] == "error")
    try:
        if result["left"] or result["state"] not in ("pushed",) or _held_back(group):
            since = host_status.waiting_since(_group_path(group), before) or now - result["seconds"]
            storage.write(left, "")
        else:
            journal.forget(_group_path(group, "journal"))
            _forget(group, "left")
        counted = {"pushes": before.get("pushes", 0) + 1, "errors": errors, "since": since}
        storage.write_json(path, {**result, "time": now, **counted}, durable=False)
    except OSError as err:
        log.error("csyncsync: cannot note the push of group %s: %s", group, err)


def _send_event(group, what, data):
    """Tell the master; without one (salt-call --local) there is nobody to tell."""
    if __opts__.get("file_client") != "local" and __opts__.get("master_uri"):
        __salt__["event.send"](f"csyncsync/{group}/{what}", data)


def _check_journal(group, config, full):
    """Let csync2's check take in what changed; then the journal has done its work. Returns how many paths."""
    files, entries, whole = journal.take(_group_path(group, "journal"))
    number, full, held = len(entries), full or whole, _held_back(group)
    entries = {**dict.fromkeys(held, False), **entries}
    with contextlib.suppress(sqlite3.OperationalError), _open_database(group, write=True) as database:
        database.await_writer()  # the one who pushed before may only just have hung up
    check, trees, mark = _sort_paths(group, config, entries)
    if mark:
        heard = {path: when for path, when in journal.heard(files).items() if path in mark}
        mark = sorted({*mark} - ledger.taken(_group_path(group, "sent"), _peers(config), heard))
    if not os.path.exists(_group_path(group, "recorded")):  # else what is recorded may never have been sent
        ledger.note_before(config["database"], _group_path(group, "sent"), check + mark, trees)
    if full or trees:
        connections.await_silence(SILENCE_WAIT)
    if os.path.exists(_group_path(group, "known")):
        _mark_half_marked(group, config, entries)
    known = _known_temporaries(group, check + mark, [b"/"] if full else trees)
    if full:
        if top := _rules(config).get("backup_directory"):
            backups_module.sweep(os.fsencode(top), [os.fsencode(root) for root in config["include"]])
        _delete_left(temporary.by_chance(known))
        _csync2(group, "-cr", "/")
    else:
        _csync2_paths(group, ["-c"], check)
        _csync2_paths(group, ["-cr"], trees)
    _csync2_paths(group, ["-m"], mark)
    _hold_back(group, known, held)
    journal.discharge(files)
    _forget(group, "recorded")
    if full:
        journal.forget_unwatched(_group_path(group))
    return number


def _mark_half_marked(group, config, entries):
    """Mark for all other hosts what a check that died may have recorded, and not marked for all of them."""
    peers = _peers(config)
    with _open_database(group, write=True) as database:
        path = half_marked(database, entries, peers)
        for peer in peers if path else ():
            database.mark([path], config["address"], peer)


def _test_push(group, config):
    """What a full push would send: found by csync2's check, in a copy of its database."""
    minions = {host["address"]: minion for minion, host in config["hosts"].items()}
    result = {"group": group, "state": "test", "send": {}, "comment": "; ".join(_root_problems(group))}
    with _copied_database(group) as (directory, database):
        with Database(database) as copy:
            if copy.state() != Database.ESTABLISHED:
                return {**result, "comment": "this host has not joined the group yet"}
        _csync2(group, "-D", directory, "-cr", "/")
        with Database(database) as copy:
            for path, peer, _ in copy.dirty(minions):
                told = result["send"].setdefault(minions[peer], {"entries": 0, "paths": []})
                told["entries"] += 1
                told["paths"] += [urllib.parse.quote_from_bytes(path)] if len(told["paths"]) < TOLD else []
    return result


# --- Pauses ----------------------------------------------------------------------------------------------


def paused(group, pauses=None):
    """
    What of a group is paused: it sends and gets nothing, and all changes are kept.

    pauses
        Take this in, as the master has it; the runner's ``pause`` and ``resume`` call it.

    Returns ``{minion id, or "*" for the whole group: {"until": seconds since the epoch or None, "comment": text}}``.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.paused wwwdata
    """
    _require(group)
    if pauses is not None:
        _take_pauses(group, pauses)
    return _pauses(group)


def _take_pauses(group, pauses):
    path = _group_path(group, "paused.json")
    if pauses != storage.read_json(path, {}):
        storage.write_json(path, pauses)


def _pauses(group):
    return pauses(_group_path(group))


def _why_paused(group):
    """Until when this host is paused, and what ends it ("" if it is not)."""
    pauses = _pauses(group)
    for host, which in ((ALL_HOSTS, ""), (__opts__["id"], f" host={__opts__['id']}")):
        if host in pauses:
            end, comment = pauses[host]["until"], pauses[host]["comment"]
            until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(end)) if end else "somebody resumes it"
            return f"paused until {until}{f' ({comment})' if comment else ''}: salt-run csyncsync.resume {group}{which}"
    return ""


# --- What csync2 left ------------------------------------------------------------------------------------


def _held_back(group):
    """
    What may be csync2's unfinished files, and is not sent yet: ``{path in bytes: [since when, has a suffix that chance
    has made]}``.
    """
    held = storage.read_json(_group_path(group, "held.json"), {})
    return {os.fsencode(path): why for path, why in held.items()}


def _known_temporaries(group, paths, trees):
    """
    What has the name of a temporary file, and stands in csync2's database before the check: those that are recorded, of
    these paths and of all below these trees, and all that are to be sent.

    That is noted until _hold_back() has judged what the check finds: if that fails, or is killed, in between, what it
    has added is not known, and the rest is: others may have it.
    """
    paths, note = list(filter(_is_temporary, paths)), _group_path(group, "known")
    with _open_database(group) as database:
        to_send = set(filter(_is_temporary, database.hidden()))
        known = {path for path in paths if database.record(path) is not None}
        known |= set(filter(_is_temporary, database.hidden(trees)))
    unjudged = to_send - storage.read_names(note) if os.path.exists(note) else set()
    known = (known | to_send) - unjudged
    storage.write_names(note, known)
    return known


def _is_temporary(path):
    return temporary.is_temporary(os.path.basename(path))


def _delete_left(paths):
    """Delete those of these files, with suffixes that chance has made, that csync2 left. Returns them."""
    opened = temporary.open_paths() if paths else ()
    return {path for path in paths if temporary.is_left(path, opened) and temporary.delete(path)}


def _hold_back(group, known, held):
    """
    Take what the check has just found, and what may be an unfinished file of csync2, out of what is to be sent.

    When the disk is full, csync2 leaves one at each try. The watcher deletes those that it has seen, and this does what
    it can prove; what nobody knows anything of is sent in the end. What was known before the check has been sent, and
    goes on.
    """
    now = time.time()
    with _open_database(group, write=True) as database:
        new = set(filter(_is_temporary, database.hidden())) - known
        chance = temporary.by_chance(new) | {path for path in new if held.get(path, [0, False])[1]}
        gone = _delete_left(chance) | {path for path in new if not os.path.lexists(path)}
        hold = {path: [held.get(path, [now])[0], path in chance] for path in new - gone}
        hold = {path: why for path, why in hold.items() if temporary.is_to_be_held(path, *why)}
        if hold != held:
            storage.write_json(_group_path(group, "held.json"), {os.fsdecode(path): why for path, why in hold.items()})
        if gone or hold:
            database.forget([*gone, *hold])
    os.unlink(_group_path(group, "known"))


def _sort_paths(group, config, entries):
    """
    Given the journal's paths, return (paths to check, trees to check, paths to mark).

    A parent that csync2 has not recorded is checked too: csync2 does not send the parents of a path by itself.
    A file whose recorded state equals its state now was rewritten within one second, which csync2 cannot see:
    it is marked, and csync2's comparison with the peer decides.
    """
    check, trees, mark = [], [], []
    roots = [os.fsencode(root) for root in config["include"]]
    seen = set()
    with _open_database(group) as database:
        for path, tree in sorted(entries.items()):
            for parent in _parents(path, roots):
                if parent not in seen and database.record(parent) is None and os.path.isdir(parent):
                    check.append(parent)
                seen.add(parent)
            try:
                status = os.lstat(path)
            except OSError:
                (trees if tree or database.has_below(path) else check).append(path)
                continue
            record = database.record(path)
            if tree or (os.path.isdir(path) and not os.path.islink(path) and record is None):
                trees.append(path)
            elif record is not None and record == check_text(path, status):
                mark.append(path)
            else:
                check.append(path)
    return check, trees, mark


def _parents(path, roots):
    """The directories above a path, from its include root downwards."""
    result = []
    while path not in roots and len(path) > 1:
        path = os.path.dirname(path)
        result.append(path)
    return reversed(result) if path in roots else []


def _peers(config):
    """The addresses of a group's other hosts."""
    return {host["address"] for host in config["hosts"].values()} - {config["address"]}


def _peers_to_serve(group, config):
    """Addresses of the peers that something is to be sent to now."""
    failed, now = storage.read_json(_group_path(group, "peers.json"), {}), time.time()
    paused = {config["hosts"][minion]["address"] for minion in _pauses(group) if minion in config["hosts"]}

    def due(peer):  # a clock that was set back delays nobody
        return peer not in paused and not 0 < failed.get(peer, {}).get("again", 0) - now <= waits.PEER_RETRY[1]

    return [peer for peer in sorted(_left(group, config)) if due(peer)]


def _send_to(group, config, peers, since, changed, failed=None):
    """transfer.send_all()."""
    members = [host["address"] for host in config["hosts"].values()]
    notes = _group_path(group, "sent")
    return transfer.send_all(group, config["database"], notes, peers, members, since, changed, failed)


def _send(group, config, peers, since):
    """
    csync2 -u, to all peers at once, after a check that began at ``since``; notes who failed, and when to try it again.

    Returns ``{address: entries}`` that are left.
    """
    path = _group_path(group, "peers.json")
    before = storage.read_json(path, {})
    failed = dict(before)
    stalled = {peer: entry.get("stalled", 0) for peer, entry in before.items()}
    with journal.checked_again(_group_path(group, "journal")) as changed:
        problems = _send_to(group, config, peers, since, changed, stalled)
    for peer, problem in problems.items():
        if problem:
            wait = min(failed.get(peer, {}).get("wait", waits.PEER_RETRY[0] / 2) * 2, waits.PEER_RETRY[1])
            times = stalled.get(peer, 0) + problem.endswith(STALLED)
            failed[peer] = {"problem": problem, "wait": wait, "again": time.time() + wait, "stalled": times}
        else:
            failed.pop(peer, None)
    left = _left(group, config)
    failed = {peer: entry for peer, entry in failed.items() if peer in left}
    if failed != before:
        storage.write_json(path, failed, durable=False)
    return left


def _open_database(group, write=False):
    return Database(_database_path(group), timeout=20, write=write)


@contextlib.contextmanager
def _copied_database(group):
    """
    Yields (a directory for csync2 -D, the path of a copy of the database there). What a crash leaves of it, the watcher
    removes.
    """
    with tempfile.TemporaryDirectory(f".tmp{os.getpid()}", "copy-", _group_path(group)) as directory:
        path = os.path.join(directory, os.path.basename(_database_path(group)))
        with _open_database(group) as database:
            database.backup(path, durable=False)
        yield directory, path


def _dirty_peers(group):
    with _open_database(group) as database:
        return database.dirty_peers()


def _left(group, config):
    """``{address: entries}`` that the group's other hosts are still to get; hosts that left the group get nothing."""
    addresses = {host["address"] for host in config["hosts"].values()}
    return {peer: number for peer, number in _dirty_peers(group).items() if peer in addresses}


def _put_aside_if_damaged(group):
    """Put a damaged database aside, so that the host joins anew. Returns what was done, to be added to an error."""
    path = _database_path(group)
    try:
        with _open_database(group) as database:
            damaged = not database.is_sound()
    except sqlite3.OperationalError:  # missing, or locked: not for this to judge
        return ""
    except sqlite3.DatabaseError:
        damaged = True
    if not damaged:
        return ""
    put_aside(_group_path(group), path)
    log.error("csyncsync: %s is damaged; this host joins %s anew", path, group)
    return f"; {path} is damaged and was put aside as {path}.damaged: this host joins anew"


def _database_state(group):
    if not os.path.exists(_database_path(group)):
        _pin(group, _require(group), False)
    with _open_database(group) as database:
        if database.state() != Database.NEW:
            return database.state()
    # A new or replaced database: without the pins csync2 would trust whoever comes first.
    _pin(group, _require(group), False)
    return Database.NEW


# --- The first content of a host -------------------------------------------------------------------------


def _record(group):
    """
    Take this host's files into csync2's database, once, all of them marked as changed here.

    The marks are what protects them: csync2 refuses to overwrite a file that is also marked on the receiver.
    """
    if _database_state(group) == Database.NEW:
        _note_unwatched_changes(group)
        _csync2(group, "-cr", "/")
        with _open_database(group, write=True) as database:
            database.set_state(Database.RECORDED)
        storage.write(_group_path(group, "recorded"), "")


def _note_unwatched_changes(group):
    """
    If this host lost its database and its watcher was away: put into the journal what was changed here meanwhile.

    Once, and now: the longer it takes, the more others have sent.
    """
    directory, watch = _group_path(group), storage.read_json(_group_path(group, "watch.json"), {})
    if not os.path.exists(f"/proc/{watch.get('pid', 0)}"):
        journal.note_unwatched(directory)
    since, lost = journal.unwatched_since(directory), lost_database(directory, _database_path(group))
    if since is not None and lost and _was_established(group):
        with contextlib.suppress(sqlite3.Error):
            changed = recovery.changed_since(lost, since)
            lines = [path + b"/" if tree else path for path, tree in changed.items()]
            journal.write(_group_path(group, "journal"), lines, False, "unwatched")
    journal.forget_unwatched(directory)


def join(group, source=None, keep=False, admitted=False, digests=None):
    """
    Take this host into a group, in two steps around ``admit`` on the source. The runner calls it.

    source
        Minion id of an established host; None for the first host of a group.
    keep
        This host's own files count (first content of a group): what differs becomes a conflict. Otherwise the
        source's version replaces them.
    admitted
        The source has sent what it has; from now on this host pushes.
    digests
        With ``keep``: what ``csyncsync.digests`` returned on the source. Without it, each file is compared with the
        source's.

    Returns ``{"group", "state": "recorded" or "established", "unsent": [path, …]}``. Raises CommandExecutionError.
    ``unsent`` are the last changes that a host that lost its database had made and not sent: it keeps all. Paths are
    percent-encoded, with a ``/`` at the end where a whole tree is meant.

    CLI Example:

    .. code-block:: bash

        salt web3 csyncsync.join wwwdata source=web1
    """
    config = _require(group)
    with _locked(group, wait=60) as mine:
        if not mine:
            raise CommandExecutionError(f"another push of {group} is under way on this host")
        problems = _root_problems(group)
        if problems:
            raise CommandExecutionError("; ".join(problems))
        if _database_state(group) == Database.ESTABLISHED:  # its marks are on changes that others are to get
            return {"group": group, "state": "established", "unsent": []}
        _record(group)
        if source is None:
            _establish(group, lambda path, peer: False)
            return {"group": group, "state": "established", "unsent": []}
        peer, unsent = _peer_address(config, source), _unsent(group)
        if not admitted:
            _keep_marks(group, config, peer, keep, digests, unsent)
            return {"group": group, "state": "recorded", "unsent": _as_text(unsent)}
        found, before = _compare(group, config, peer), storage.read_json(_group_path(group, "alone"), {})
        # What is here alone only by now was deleted by the source meanwhile; or made here, and then the check finds it.
        alone = found.only_here & {os.fsencode(path) for path in before.get("paths", map(os.fsdecode, found.only_here))}
        there, silent = _only_elsewhere(group, config, peer, unsent)
        there |= found.only_there
        deleted = {path for path in there if journal.is_among(unsent, path)}
        _csync2_paths(group, ["-m"], sorted(alone | deleted))
        gone = _mark_deleted(group, config, silent, unsent) if silent else set()
        gone |= {path for path in found.only_here if not os.path.lexists(path)}
        # What is on no other host has passed the guard once, or was made and deleted here since the database was lost.
        _guard(group).let_through(gone - there)
        _establish(group, lambda path, to: path in deleted or to in silent or os.path.lexists(path))
    return {"group": group, "state": "established", "unsent": _as_text(unsent)}


def _only_elsewhere(group, config, source, unsent):
    """
    (what hosts beside the source have, and this one does not, as a set of paths; the addresses of those that do not
    answer): with unsent changes, some may not have got the deletions that the source got.
    """
    there, silent = set(), set()
    for peer in sorted(_peers(config) - {source} if unsent else ()):
        try:
            there |= _compare(group, config, peer).only_there
        except CommandExecutionError:
            silent.add(peer)
    return there, silent


def _mark_deleted(group, config, peers, unsent):
    """
    Mark unsent deletions for peers that may have the files. Returns their paths, as a set.

    The journal names a deleted directory only; what was in it was noted when csync2 found that it is gone.
    """
    names = {*unsent, *ledger.noted_before(_group_path(group, "sent"))}
    gone = {path for path in names if journal.is_among(unsent, path) and not os.path.lexists(path)}
    with _open_database(group, write=True) as database:
        for peer in peers:
            database.mark(sorted(gone), config["address"], peer)
    return gone


def reset(group):
    """
    Forget what csync2 knows of a group's files, so that this host joins it anew. The runner's ``reset`` calls it.

    The files stay as they are. Returns True. Raises CommandExecutionError.

    CLI Example:

    .. code-block:: bash

        salt web3 csyncsync.reset wwwdata
    """
    _require(group)
    with _locked(group, wait=60) as mine:
        if not mine:
            raise CommandExecutionError(f"another push of {group} is under way on this host")
        _forget(group, "established", "alone", "push.json", "peers.json", LET_THROUGH)
        _database_state(group)
        with _open_database(group, write=True) as database:
            database.empty()
    return True


def _keep_marks(group, config, peer, keep, digests, unsent):
    """
    Drop this host's marks: all but those on unsent changes; or also those on what it alone has, and, for the source, on
    what may differ there. Notes what it alone has.

    Equal contents end a mark; others are a conflict.
    """
    # What the source is not told of: it is to bring nothing back that was deleted here.
    untold = list(unsent)[:-MOST_UNSENT]
    _csync2_paths(group, ["-m"], [path for path in untold if not os.path.lexists(path)])
    found = _compare(group, config, peer)
    storage.write_json(_group_path(group, "alone"), {"paths": sorted(map(os.fsdecode, found.only_here))})
    kept = found.only_here if keep else ()
    different = found.different | set(_unlike(group, digests)) if keep else ()

    def wanted(path, to):
        return journal.is_among(unsent, path) or path in kept or (to == peer and path in different)

    with _open_database(group, write=True) as database:
        database.keep_dirty(wanted)


def _was_established(group):
    return storage.read(_group_path(group, "established")) == _host_name()


def _unsent(group):
    """
    ``{path: whole tree?}`` of the last changes made here that others may lack, if this host was established before.

    The files of one that never was are older than those of the group, whoever has changed them since.
    """
    if not _was_established(group):
        return {}
    time.sleep(WATCHER_JUDGES)
    entries, lost = {}, lost_database(_group_path(group), _database_path(group))
    with contextlib.suppress(sqlite3.Error), contextlib.ExitStack() as stack:
        if lost:
            entries.update((path, False) for path, _, _ in stack.enter_context(Database(lost)).dirty())
    for path, tree in journal.unsent(_group_path(group, "journal")).items():
        entries.pop(path, None)  # what changed last stands last
        entries[path] = tree
    # Where no directory is, or no longer, one may have been: what others have in it was deleted here.
    return {path: tree or os.path.islink(path) or not os.path.isdir(path) for path, tree in entries.items()}


def _as_text(entries):
    """The last of some paths as text that can be sent and shown: it goes over the minion's bus."""
    last = list(entries.items())[-MOST_UNSENT:]
    return [urllib.parse.quote_from_bytes(path + b"/" if tree else path) for path, tree in last]


def _from_text(paths_):
    """The reverse of _as_text()."""
    raw = [urllib.parse.unquote_to_bytes(path) for path in paths_ or ()]
    return {path.rstrip(b"/"): path.endswith(b"/") for path in raw}


def _establish(group, wanted):
    with _open_database(group, write=True) as database:
        database.keep_dirty(wanted)
        database.set_state(Database.ESTABLISHED)
    storage.write(_group_path(group, "established"), _host_name())
    _forget(group, "alone")
    journal.mark_whole(_group_path(group, "journal"))


def digests(group):
    """
    Digests of the contents of this host's files, for the comparison in ``admit``. The runner calls it.

    Returns ``{"group", "digests": [16 hexadecimal digits, …]}``, always 4,096 of them; all files are read.

    CLI Example:

    .. code-block:: bash

        salt web3 csyncsync.digests wwwdata
    """
    _require(group)
    with _open_database(group) as database:
        return {"group": group, "digests": contents_module.file_digests(database.contents())}


def admit(group, host, digests=None, unsent=(), keep=False, remove=False):
    """
    Send to a host that joins all that it lacks, or has otherwise. The runner calls it on an established host.

    host
        Minion id of the host that joins.
    digests
        What ``csyncsync.digests`` returned there. Records that are equal prove nothing about two files that were
        written within the same second: files whose digests differ are compared with the host, byte by byte. Without
        digests all files are.
    unsent
        What ``csyncsync.join`` returned there: these paths are not sent.
    keep
        The host's own files count, so what it refuses is a conflict. Otherwise it has changed that just now.
    remove
        What the host alone has is deleted there.

    Returns ``{"group", "marked": entries, "left": entries that the host refused}``. Raises CommandExecutionError.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.admit wwwdata web3
    """
    config = _require(group)
    peer = _peer_address(config, host)
    with _locked(group, wait=60) as mine:
        if not mine:
            raise CommandExecutionError(f"another push of {group} is under way on this host")
        problems = _root_problems(group)
        if problems or _database_state(group) != Database.ESTABLISHED:
            raise CommandExecutionError("; ".join(problems) or "this host is not established itself")
        since = transfer.now()
        with _marked_for(group, peer, keep) as before:
            _mark_unlike(group, config, peer, digests, remove)
            _drop_marks(group, peer, before, _from_text(unsent))
            marked = _dirty_peers(group).get(peer, 0)
            with journal.checked_again(_group_path(group, "journal")) as changed:
                problems = _send_to(group, config, [peer], since, changed)
            before.update(changed)
            if problems[peer]:
                raise CommandExecutionError(f"{host}: {problems[peer]}")
        return {"group": group, "marked": marked, "left": _dirty_peers(group).get(peer, 0)}


@contextlib.contextmanager
def _marked_for(group, peer, keep):
    """Yields the paths that are marked for a peer, a set to add to; afterwards no others are, but to keep."""
    with _open_database(group) as database:
        before = {path for path, _, _ in database.dirty([peer])}
    try:
        yield before
    finally:
        if not keep:
            _drop_marks(group, peer, before, {b"": True})


def _drop_marks(group, peer, before, entries):
    """Drop a peer's marks on entries, as is_among() takes them, but for those that were there before."""

    def wanted(path, to):
        return to != peer or path in before or not journal.is_among(entries, path)

    with _open_database(group, write=True) as database:
        database.keep_dirty(wanted)


def _mark_unlike(group, config, peer, digests, remove):
    """Mark for a peer with these digests what it lacks, or may have otherwise; to remove, also what it alone has."""
    found = _compare(group, config, peer)
    unlike = {*found.different, *found.only_here, *_unlike(group, digests), *(found.only_there if remove else ())}
    with _open_database(group, write=True) as database:
        database.mark(sorted(unlike), config["address"], peer)


def _unlike(group, theirs):
    """The paths of files whose contents may differ from those of a host with these digests: all, if there are none."""
    with _open_database(group) as database:
        ours = contents_module.file_digests(database.contents())
        theirs = theirs if theirs and len(theirs) == len(ours) else [None] * len(ours)
        return [path for path in database.contents() if ours[slot := contents_module.digest_slot(path)] != theirs[slot]]


def _peer_address(config, minion):
    if minion not in config["hosts"]:
        raise CommandExecutionError(f"{minion} is not in this host's config of {config['group']} yet")
    return config["hosts"][minion]["address"]


def _compare(group, config, peer):
    """
    Compare csync2's records with a peer's. Returns Compared. An empty include root is no
    content, and never differs.

    In a copy of the database that ends with a path which no host has: csync2 does not tell of the next one that the
    peer has behind the last one here (update.c, csync_insynctest()).
    """
    me = config["address"]
    with _copied_database(group) as (directory, path):
        with Database(path, write=True) as copy:
            ends = copy.record_ends(map(os.fsencode, config["include"]))
        output = _csync2(group, "-D", directory, "-T", me, peer, peer=peer, fine=(0, 2))
    found = read_comparison(output, me, peer, ends)
    empty = {os.fsencode(root) for root in config["include"] if is_empty_directory(root)}
    return found._replace(different=found.different - empty)


# --- Running csync2 --------------------------------------------------------------------------------------


def _csync2(group, *args, **kwargs):
    with _salts_errors():
        return run(group, *args, **kwargs)


def _csync2_paths(group, flags, paths_):
    with _salts_errors():
        run_paths(group, flags, paths_)


@contextlib.contextmanager
def _salts_errors():
    """Raise the errors of the rooms below as Salt's, which it shows without a traceback."""
    try:
        yield
    except (CommandError, CsyncsyncError) as err:
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
    raw, config = set(_in_includes(group, paths).values()), _require(group)
    if config["receive_only"]:
        raise CommandExecutionError(f"this host only receives in {group}, so its version cannot win")
    with _locked(group, wait=60) as mine:
        if not mine:
            raise CommandExecutionError(f"another push of {group} is under way on this host")
        _csync2_paths(group, ["-cr"], sorted(path for path in raw if os.path.lexists(path)))
        with _open_database(group, write=True) as database:
            raw.update(path for top in tuple(raw) for path in database.below(top))
            for peer in _peers(config):
                database.force(sorted(raw), config["address"], peer)
        storage.write(_group_path(group, "left"), "")
    return len(raw)


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


def status(group=None, size=False):
    """
    How far this host is, for each of its groups.

    size
        Also ``{"files", "bytes", "disks": [{"path", "free": bytes, "total": bytes}, …], "certificate_end": seconds
        since the epoch, "versions": {…}}``; of a million files that takes a second.

    Returns ``{GROUP: {"state", "journal": files, "dirty": {minion id: entries}, "refused": {minion id: [path, …]},
    "unreachable": {minion id: why}, "held": why, "paused": why, "unfinished": [path, …], "waiting_since": time,
    "last_push": {…}, "watching": bool, "watch": {…}, "unpublished": [minion id, …], "hosts": {minion id: name@address},
    "database_bytes": bytes, "actions": [{"exec", "exit", "why", "time", "seconds", "log", "running", "waiting"}],
    "in_sync": bool, "error": text}}``.
    ``state`` is new, recorded or established (see ``push``); ``unfinished`` are files that may be what csync2 left when
    it was interrupted, and that are not sent yet; ``waiting_since`` is when the oldest change was seen that others may
    lack, in seconds since the epoch, None if there is none; ``last_push`` is what ``push`` returned last, with the
    numbers of ``pushes`` and ``errors`` so far; ``actions`` says of each command of the group's actions how it ended
    last (``why`` is empty if it did well), and for how many seconds it has been running or waiting; ``in_sync`` says
    that nothing of this host waits to be sent.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.status
        salt '*' csyncsync.status wwwdata
    """
    names = [name for name in installed() if group in (None, name)]
    found = {name: host_status.read(_group_path(name), _database_path(name), __opts__["id"]) for name in names}
    facts = _facts() if size else {}
    return {
        name: {
            **status_,
            "held": status_["held"] or "; ".join(_root_problems(name)),
            "paused": _why_paused(name),
            **(_size(name) if size else {}),
            **facts,
        }
        for name, status_ in found.items()
        if status_
    }


def _facts():
    """What is true of the whole host."""
    versions_ = {"csyncsync": csync2lib.VERSION, "Salt": __grains__["saltversion"]}
    with contextlib.suppress(CommandExecutionError):
        versions_["csync2"] = __salt__["pkg.version"]("csync2")
    return {"certificate_end": certificate_module.end(storage.read(_certificate_path())), "versions": versions_}


def _size(group):
    """How much a group is, by csync2's records, and how much room its disks have."""
    result = {"files": None, "bytes": None, "disks": []}
    with contextlib.suppress(sqlite3.Error), _open_database(group) as database:
        result["files"], result["bytes"] = database.size()
    disks = {}
    for path in (_config(group) or {}).get("include", ()):  # it may be leaving this host just now
        with contextlib.suppress(OSError):
            disk = os.statvfs(path)
            free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
            disks.setdefault(os.stat(path).st_dev, {"path": path, "free": free, "total": total})
    return {**result, "disks": list(disks.values())}


def metrics():
    """
    The status of this host as text for Prometheus, as the beacon writes it into the directory ``csyncsync:metrics`` of
    the pillar, once in 15 seconds. ``docs/monitoring`` has alerts and a dashboard for it.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.metrics
    """
    end = certificate_module.end(storage.read(_certificate_path()))
    return metrics_module.text(status(), __opts__["id"], end, time.time())


def actions_command():
    """
    The beginning of the command line that runs what is due of a group's actions, for ``csyncsync-action@.service``.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.actions_command
    """
    program = os.path.join(os.path.dirname(os.path.abspath(csync2lib.__file__)), "__main__.py")
    return [sys.executable, "-I", program, "actions"]
