"""
Who is in which group, and how this host becomes a member: facts, certificate, config, and the first content.

The states, and the runner, call it.
"""

import contextlib
import hashlib
import importlib.util
import ipaddress
import logging
import os
import shutil
import socket
import sqlite3
import stat
import time

from csync2lib import certificate as certificate_module
from csync2lib import journal, keys, storage, waits, watchdog
from csync2lib.config import membership, schema
from csync2lib.config import template as template_module
from csync2lib.csync2.command import PORT, run
from csync2lib.csync2.database import Database
from csync2lib.csync2.names import is_group_name
from csync2lib.errors import CommandError, CsyncsyncError, raised_as
from csync2lib.group import Group, GroupConfig, ThisHost
from csync2lib.guard import is_empty_directory
from csync2lib.join import admit as admit_module
from csync2lib.join import compare
from csync2lib.join import join as join_module
from salt.exceptions import CommandExecutionError

log = logging.getLogger(__name__)

__virtualname__ = "csyncsync"

STATE_DIR = "/var/lib/csyncsync"
#: Seconds until the watcher has seen that a group's config is gone.
WATCHER_LETS_GO = 3.0


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
    certificate = storage.read(_host().certificate)
    if not certificate:
        raise CommandExecutionError(f"{_host().certificate} is missing: run state.apply csyncsync.certificate first")
    addresses = {"": _primary_address()}
    for name, options in schema.validate(_pillar_groups())["groups"].items():
        if options["address"]:
            with contextlib.suppress(CommandExecutionError):  # groups() names it; the others keep their facts
                addresses[name] = _address(name, options["address"])
    return {"name": _host().name, "addresses": addresses, "certificate": certificate}


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
        context = template_module.context(
            name, options, found["hosts"], _group(name).key_file, _group_path(name, "due")
        )
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


def _database_path(group):
    return _group(group).database


def _group_path(group, *names):
    return _group(group).path(*names)


def _forget(group, *names):
    """Remove some files of a group that may be missing."""
    _group(group).forget(*names)


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
    return _host().installed()


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
    configs = {name: _config(name) or {} for name in _host().installed()}
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
        if not waiting.enter_context(storage.locked(os.path.join(STATE_DIR, "refresh.next"))):
            return "another call waits for its turn"
        with storage.locked(os.path.join(STATE_DIR, "refresh.lock"), wait=waits.HANGS + 60) as mine:
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
        "config": _group(group).config_file,
        "key": _group(group).key_file,
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
        "name": _host().name,
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
    with _salts_errors():
        return _group(group).pin(GroupConfig.from_dict(config), test)


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
    return keys.proof(keys.read(_group(group).key_file) or "", str(salt))


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
    pem, key = storage.read(_host().certificate), storage.read(_host().private_key)
    if not pem or not key:
        return {**result, "reason": f"there is no {_host().certificate if not pem else _host().private_key}"}
    problem, fingerprint, end = certificate_module.judge(pem, key)
    if problem:
        return {**result, "reason": f"{_host().certificate} {problem}"}
    if os.stat(_host().private_key).st_mode & 0o077:
        return {**result, "reason": f"others can read {_host().private_key}"}
    return {"valid": True, "reason": "", "fingerprint": fingerprint, "not_after": end}


def _make_certificate(keep=True):
    for path in (_host().private_key, _host().certificate):
        if keep and os.path.exists(path):
            os.replace(path, path + ".old")
    certificate_, key = certificate_module.make()
    storage.write(_host().private_key, key)
    storage.write(_host().certificate, certificate_, 0o644)


# --- Push ------------------------------------------------------------------------------------------------


def _require(group):
    with _salts_errors():
        return _group(group).config.as_dict()


def _ended_if_it_hangs():
    """End this job, which holds a lock, when it hangs; not one that is a thread of the minion."""
    return watchdog.ended_after(waits.HANGS if __opts__.get("multiprocessing", True) else 0)


def _guard(group):
    return _group(group).guard


def _open_database(group, write=False):
    return _group(group).open_database(write)


def _database_state(group):
    with _salts_errors():
        return _group(group).state()


# --- The first content of a host -------------------------------------------------------------------------


@raised_as(CommandExecutionError)
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
    return join_module.join(_group(group), source, keep, admitted, digests)


@raised_as(CommandExecutionError)
def reset(group):
    """
    Forget what csync2 knows of a group's files, so that this host joins it anew. The runner's ``reset`` calls it.

    The files stay as they are. Returns True. Raises CommandExecutionError.

    CLI Example:

    .. code-block:: bash

        salt web3 csyncsync.reset wwwdata
    """
    join_module.reset(_group(group))
    return True


@raised_as(CommandExecutionError)
def digests(group):
    """
    Digests of the contents of this host's files, for the comparison in ``admit``. The runner calls it.

    Returns ``{"group", "digests": [16 hexadecimal digits, …]}``, always 4,096 of them; all files are read.

    CLI Example:

    .. code-block:: bash

        salt web3 csyncsync.digests wwwdata
    """
    _require(group)
    return {"group": group, "digests": compare.digests(_group(group))}


@raised_as(CommandExecutionError)
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
    return admit_module.admit(_group(group), host, digests, unsent, keep, remove)


# --- Running csync2 --------------------------------------------------------------------------------------


def _csync2(group, *args, **kwargs):
    with _salts_errors():
        return run(group, *args, **kwargs)


@contextlib.contextmanager
def _salts_errors():
    """Raise the errors of the rooms below as Salt's, which it shows without a traceback."""
    try:
        yield
    except (CommandError, CsyncsyncError) as err:
        raise CommandExecutionError(str(err)) from err
