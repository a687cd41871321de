"""
Keep the files of several hosts the same, with csync2: push what changed here, and tell how far this host is.

A *group* (one csync2 config, ``csync2 -C GROUP``) is a set of directories that its *hosts* share. What is called with
every change stands here; ``csyncsync_group`` and ``csyncsync_admin`` have the other functions of the module
``csyncsync``, so that a push does not load what it does not need.

Nothing that this module returns, logs or sends as an event holds a key or a private key.
"""

import asyncio
import contextlib
import importlib.util
import logging
import os
import socket
import sqlite3
import time
import urllib.parse

import csync2lib
import salt.loader
from csync2lib import backups as backups_module
from csync2lib import certificate as certificate_module
from csync2lib import journal, pauses, storage, waits, watchdog
from csync2lib.config import schema
from csync2lib.csync2 import connections, temporary
from csync2lib.csync2.command import STALLED, run, run_paths
from csync2lib.csync2.database import Database
from csync2lib.csync2.kept import keep_copy, keep_link, put_aside
from csync2lib.csync2.names import is_group_name
from csync2lib.csync2.states import check_text
from csync2lib.errors import CommandError, CsyncsyncError
from csync2lib.group import Group, ThisHost
from csync2lib.join.record import record
from csync2lib.push import ledger, transfer
from csync2lib.push.check import half_marked
from csync2lib.report import status as host_status
from salt.exceptions import CommandExecutionError

log = logging.getLogger(__name__)

__virtualname__ = "csyncsync"

#: Seconds that a check of whole trees waits for peers that send: one at a time does, unless no master is there.
SILENCE_WAIT = 3.0
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
    with _salts_errors():
        return _group(group).config.as_dict()


def _locked(group, wait=0.0):
    """Hold the group's lock on this host; yields whether it could be had."""
    return _group(group).lock(wait)


def _ended_if_it_hangs():
    """End this job, which holds a lock, when it hangs; not one that is a thread of the minion."""
    return watchdog.ended_after(waits.HANGS if __opts__.get("multiprocessing", True) else 0)


def _guard(group):
    return _group(group).guard


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


def _take_pauses(group, said):
    pauses.take(_group_path(group), said)


def _pauses(group):
    return pauses.pauses(_group_path(group))


def _why_paused(group):
    """Until when this host is paused, and what ends it ("" if it is not)."""
    return _group(group).why_paused()


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
    return _group(group).open_database(write)


def _copied_database(group):
    """Yields (a directory for csync2 -D, the path of a copy of the database there)."""
    return _group(group).copied_database()


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
    with _salts_errors():
        return _group(group).state()


# --- The first content of a host -------------------------------------------------------------------------


def _record(group):
    with _salts_errors():
        record(_group(group))


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


# --- Backups ---------------------------------------------------------------------------------------------


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
    names = [name for name in _host().installed() if group in (None, name)]
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
    return {"certificate_end": certificate_module.end(storage.read(_host().certificate)), "versions": versions_}


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
