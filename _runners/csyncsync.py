"""
Decide, on the master, who pushes when.

In each group one host pushes at a time: csync2's hosts hinder each other when they push at once. The group's *lease*,
a file below the master's cache directory, names the host that pushes now and those that wait. The reactor calls
``sync`` when a host has something to push, ``pushed`` when it is done, ``apply`` when facts changed; none of them
waits for a minion, so the reactor's few threads stay free. ``join`` waits, and runs as a process of its own. What is
called from the command line has the lease too, while it must not be disturbed.

The lease is for speed. No promise hangs on it: a host that nobody calls asks again, and pushes by itself at last.

What events say is a hint: whoever is in a group is what the master's pillar and its accepted keys say.
"""

import concurrent.futures
import contextlib
import contextvars
import fcntl
import functools
import itertools
import json
import logging
import os
import re
import secrets
import subprocess
import sys
import threading
import time
import urllib.parse

import salt.cache
import salt.client
import salt.key
import salt.utils.event
import salt.utils.minions
from csync2lib import contents, waits
from csync2lib import keys as keys_module
from csync2lib.config import membership, schema
from csync2lib.csync2.names import is_group_name
from csync2lib.master import conflicts as conflicts_module
from csync2lib.report import report
from csync2lib.report.words import one_line
from salt.exceptions import CommandExecutionError, SaltException

log = logging.getLogger(__name__)

__virtualname__ = "csyncsync"

#: Joins that run at once, in all groups, and seconds after which one that waits for its turn goes on all the same.
JOINS = 3
#: Seconds that what the pillar says about a minion's groups is kept.
PILLAR_AGE = 20
#: The same for a group that was not there: it may just have been added.
PILLAR_AGE_WITHOUT = 1
#: What is said of a host that did not answer when something was paused or resumed.
LATER = "; it hears of this when it next asks to push"
#: Groups that are paused at once.
PAUSED_AT_ONCE = 8
#: What is said of a host that did not answer.
SILENT = "did not answer: is its minion up? (salt-run manage.down)"
#: In the place of a host, in what is paused: the whole group.
ALL_HOSTS = "*"
#: Bytes that each host reads in a second to verify a group; seconds of reading between two lines of progress; seconds
#: until paths that differ are looked at again, and how many of them are shown.
VERIFY_RATE, VERIFY_STEP, VERIFY_SHOWN = 50_000_000, 10, 1000
#: Seconds to wait until a version that wins a conflict is on all hosts, and until it is sent once more.
RESOLVE_AGAIN = 6

#: In the place of a path, in a list of paths: what is said of hosts that did not tell.
UNKNOWN = "… unknown"
#: Files whose old versions are listed.
BACKUPS_SHOWN = 50
#: Seconds between two lines in the log about one minion that asks for groups it is not in.
REFUSED_TOLD = 60

_groups_of = {}
_refused = {}
_local = threading.local()


def __virtual__():
    return __virtualname__


# --- Groups and members, as the master knows them --------------------------------------------------------


def _groups(minion, group=None):
    """``{GROUP: validated options without the key}`` of one accepted minion; kept for a short while."""
    read, groups = _groups_of.get(minion, (float("-inf"), {}))
    if time.monotonic() - read > (PILLAR_AGE if group is None or group in groups else PILLAR_AGE_WITHOUT):
        groups = _read_groups(minion)
        _groups_of[minion] = (time.monotonic(), groups)
    return groups


def _read_groups(minion):
    """From the minion's pillar; a group that is broken there is as it was last, because that is what the hosts have."""
    pillar = __salt__["pillar.show_pillar"](minion)
    raw = pillar.get("csyncsync") if isinstance(pillar, dict) else None
    raw = raw if isinstance(raw, dict) else {}
    checked = schema.validate(raw.get("groups"))
    broken = {**checked["errors"], **(raw.get("errors") or {})}
    groups = {name: {**options, "key": None} for name, options in checked["groups"].items()}
    recorded = set(_recorded())
    for name in recorded if "" in broken else recorded & set(broken):
        with _record(name) as record:
            if record.get("options"):
                groups[name] = record["options"]
    return {name: options for name, options in groups.items() if membership.matches(options["members"], minion)}


def _recorded():
    """The groups that have a file of their own here."""
    with contextlib.suppress(FileNotFoundError):
        return [name[:-5] for name in os.listdir(_directory()) if name.endswith(".json")]
    return []


def _directory():
    return os.path.join(__opts__["cachedir"], "csyncsync")


def _accepted(tgt, tgt_type):
    return sorted(salt.utils.minions.CkMinions(__opts__).check_minions(tgt, tgt_type).get("minions", []))


def _member(group, host):
    """The group's options if this host is an accepted member of it, else None (and a line in the log)."""
    if isinstance(group, str) and isinstance(host, str) and host and host in _accepted([host], "list"):
        options = _groups(host, group).get(group)
        if options:
            return options
    if time.monotonic() - _refused.get(str(host)[:80], float("-inf")) > REFUSED_TOLD:
        _refused[str(host)[:80]] = time.monotonic()
        log.warning("csyncsync: minion %.80r asks for group %.80r, which it is no member of", host, group)
    return None


def _members(options):
    return _accepted(options["members"]["tgt"], options["members"]["tgt_type"])


def _all_groups():
    """``{GROUP: options}`` of all hosts that have published their facts."""
    groups = {}
    for minion in __salt__["mine.get"]("*", "csyncsync.member"):
        if minion in _accepted([minion], "list"):
            for name, options in _groups(minion).items():
                groups.setdefault(name, options)
    return groups


def _known(group):
    """``{GROUP: options}`` of one group, or all. Raises CommandExecutionError."""
    groups = _all_groups()
    if group is None:
        return groups
    if group not in groups:
        there = ", ".join(sorted(groups)) or "none (run: salt '*' state.apply csyncsync)"
        raise CommandExecutionError(f"there is no group {group!r}; there are: {there}")
    return {group: groups[group]}


def _command(function):
    """
    Have what is called from the command line end with one line, and exit code 1, where it raises CommandExecutionError:
    Salt would print a traceback, and the exit code of a text is 0.
    """

    @functools.wraps(function)
    def command(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except CommandExecutionError as err:
            return {"outputter": "csyncsync", "data": {"problem": str(err), "retcode": 1}}

    return command


def _with_exit_code(result, failed):
    """What a command returns that could do its work only in part: Salt takes the exit code from what it shows."""
    return {**result, "retcode": 1} if failed else result


@contextlib.contextmanager
def _record(group):
    """
    The group's file, under a lock: ``lease``, ``next`` (the pid of a process here that is to have it next),
    ``waiting``, ``founders``, ``admitted``, ``returning`` (those
    that join, and since when), ``options`` (the last good ones), ``known`` (who was a member when it last asked),
    ``paused``, ``refused`` and ``conflicts``, ``behind`` (who has not read new keys yet, and when it was last called),
    ``missed`` (who was no member when another one had something to send, and is to join anew).
    Written back if it changed.
    """
    if not is_group_name(group):
        raise CommandExecutionError(f"{group!r:.80} is no group name")
    os.makedirs(_directory(), mode=0o700, exist_ok=True)
    path = os.path.join(_directory(), f"{group}.json")
    with open(f"{path}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
            record = json.loads(text)
        except (FileNotFoundError, ValueError):
            text, record = "", {"lease": None, "waiting": [], "founders": None, "admitted": []}
        yield record
        new = json.dumps(record, indent=1, sort_keys=True)
        if new != text:
            with open(f"{path}.tmp", "w", encoding="utf-8") as file:
                file.write(new)
            os.replace(f"{path}.tmp", path)


def _client():
    """One for each thread: making one takes longer than asking it."""
    if not hasattr(_local, "client"):
        _local.client = salt.client.get_local_client(mopts=dict(__opts__))
    return _local.client


# --- Flow 2: one pusher at a time ------------------------------------------------------------------------


@_command
def sync(group=None, host=None, test=False):
    """
    Have a group pushed: by the host that asks for it, or (from the command line) by every member in turn, after a check
    of the whole group.

    group
        One group; without it, all.
    test
        Only tell what each member would send, to whom.
    host
        Minion id of a host that has something to push. The reactor gives it. It is called as soon as no other host
        of the group pushes, and this function does not wait.

    Returns, without ``host``, ``{GROUP: {minion id: what csyncsync.push returned}}``, and ``"retcode": 1`` if a host
    did not answer, or has something left to send.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.sync
        salt-run csyncsync.sync wwwdata
        salt-run csyncsync.sync wwwdata test=True
    """
    if host is not None:
        if not _ask(group, host):
            raise CommandExecutionError(f"{host!r:.80} is no member of {group!r:.80}, or its key is not accepted")
        return True
    result = {}
    for name, options in sorted(_known(group).items()):
        result[name], members = {}, _members(options)
        for number, minion in enumerate(members, 1):
            with contextlib.nullcontext() if test else _leased(name, minion):
                answer = _call([minion], "csyncsync.push", [name, "test=True" if test else "full=True"])
            result[name][minion] = answer.get(minion, SILENT)
            _progress(f"{name} {minion} ({number} of {len(members)}): {_short(result[name][minion])}")
    return _with_exit_code(result, not all(_is_done(answer) for hosts in result.values() for answer in hosts.values()))


def _is_done(answer):
    """Tell whether a push, or its test, has done all."""
    return isinstance(answer, dict) and answer["state"] in ("pushed", "test") and not answer.get("left")


@contextlib.contextmanager
def _leased(group, host, seconds=float("inf")):
    """
    Have a group's lease for what this process has a host do, as soon as nobody else has it, or after so many seconds.
    """
    lease = {"host": host, "jid": f"process {os.getpid()}", "pid": os.getpid()}
    began = told = time.monotonic()
    while not _take_lease(group, lease) and time.monotonic() - began < seconds:
        if time.monotonic() - told > waits.WAITING_TOLD:
            told = time.monotonic()
            _progress(f"{group} {host}: waits until another host has pushed")
        time.sleep(0.2)
    try:
        yield
    finally:
        _release(group, lease["jid"])


def _take_lease(group, lease):
    """Tell whether the lease could be had; one that was left is taken away. Until then no host is called to push."""
    with _record(group) as record:
        held, now = record["lease"], time.time()
        record["next"] = lease["pid"] if held else None
        if not held:
            record["lease"] = {**lease, "since": now, "checked": now}
            return True
        stale = not 0 <= now - held["checked"] <= waits.LEASE_CHECK
        if stale:
            held["checked"] = now
            held = dict(held)
    if stale:
        _free_if_left(group, held)
    return False


def _ask(group, host):
    known = _known_member(group, host)
    if not known and not _renew(group, host):
        return False
    with _record(group) as record:
        if record["founders"] is None:
            record["founders"] = _members(record["options"])
        impatient = _impatient(record, host)
        if host not in record["waiting"]:
            record["waiting"].append(host)
        # A time in the future: the clock was set back.
        stale = record["lease"] and not 0 <= time.time() - record["lease"]["checked"] <= waits.LEASE_CHECK
        if stale:
            record["lease"]["checked"] = time.time()
            holder = dict(record["lease"])
        else:
            _next(group, record)
    if impatient:
        _client().run_job(impatient, "csyncsync.wait", [group], tgt_type="list", ret="")
    if stale:
        _aside(_free_if_left, group, holder)
    _call_behind(group)
    if known:
        _renew(group, host)
    return True


def _aside(function, *arguments):
    """In a thread, because it takes its time: the reactor has ten threads for all groups."""
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(function, *arguments), daemon=True).start()


def _known_member(group, host):
    """
    Tell whether this host was a member when it last asked, and its key is accepted.

    Reading its pillar takes longer than all else, so that is done when the host has been called.
    """
    if not (is_group_name(group) and isinstance(host, str) and group in _recorded()):
        return False
    with _record(group) as record:
        known = record.get("known") or []
    return host in known and bool(_accepted([host], "list"))


def _renew(group, host):
    """
    Note the group's options as this host's pillar has them, and whether it is a member (which is returned).

    And who was admitted, but is no member now that something is sent: the others keep nothing for it. If it is off, it
    hears nothing of that, and would take itself for one that lacks nothing when it is a member again.
    """
    options = _member(group, host)
    if options is None and group not in _recorded():
        return False
    members = _members(options) if options else []
    with _record(group) as record:
        others = [minion for minion in record.get("known") or [] if minion != host]
        record["known"] = sorted([*others, host]) if options else others
        if options:
            record["options"] = options
        if host in members:  # else the list of keys could not be read
            record["missed"] = sorted({*record.get("missed", ()), *({*record["admitted"]} - {*members})})
    return options is not None


def _impatient(record, host):
    """
    The hosts that are to hear that they have been heard, when one asks again while another host pushes.

    A host that hears nothing for long takes the master for dead, and pushes by itself.
    """
    now = time.time()
    if not record["lease"] or host not in record["waiting"] or 0 <= now - record.get("told", 0) < waits.WAITING_TOLD:
        return []
    record["told"] = now
    return [minion for minion in record["waiting"] if minion != record["lease"]["host"]]


def _next(group, record):
    """If nobody pushes, and no process here waits to have its turn, call the host that has waited longest."""
    if record["lease"] or not record["waiting"] or _is_runner(record.get("next")):
        return
    host = record["waiting"].pop(0)
    kwarg = {"paused": record["paused"]} if "paused" in record else {}
    if host in record.get("missed", ()):
        kwarg["anew"] = True
    job = _client().run_job([host], "csyncsync.push", [group], tgt_type="list", kwarg=kwarg, ret="")
    if job and job.get("jid"):
        now = time.time()
        record["lease"] = {"host": host, "jid": job["jid"], "since": now, "checked": now}


def _free_if_left(group, lease):
    """Take a lease from a holder that no longer pushes, and call the next host."""
    if not _holds(lease):
        _release(group, lease["jid"])


def _holds(lease):
    """Ask the holder of an old lease whether it is still at work."""
    if lease.get("pid"):  # a process here, of a join for example
        return _is_runner(lease["pid"])
    running = _client().cmd(
        [lease["host"]], "saltutil.find_job", [lease["jid"]], tgt_type="list", timeout=waits.LEASE_ANSWER
    )
    # Of a dead minion Salt returns a text that says so.
    return bool(_mappings(running).get(lease["host"]))


def _is_runner(pid):
    """Tell whether a process still runs, and is not another one that was given the same number."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        return b"csyncsync." in file.read()
    return False


def _release(group, jid, host=None):
    """End a lease and call the next host. Given a host, only its own lease: what an event says is a hint."""
    with _record(group) as record:
        lease = record["lease"]
        if lease and lease["jid"] == jid and host in (None, lease["host"]):
            record["lease"] = None
        if record.get("next") == os.getpid():
            record["next"] = None
        _next(group, record)


def pushed(group, host, jid=None, state=None, refused=None):
    """
    Take in that a host has ended its push, and call the next. The reactor calls it.

    refused
        ``{minion id: [path, …]}``: what other hosts did not take. A file that two hosts refuse from each other is a
        conflict: the event ``csyncsync/GROUP/conflict`` is fired, once.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.pushed wwwdata web1 jid=20261122100000000000
    """
    if not _known_member(group, host) and not _renew(group, host):
        return False
    with _record(group) as record:
        ours = record["lease"] and (record["lease"]["jid"], record["lease"]["host"]) == (jid, host)
        if ours and state == "joining":
            # The join goes on under this lease, as a process of its own: it waits for hosts.
            record["lease"].update(checked=time.time(), pid=_start_join(group, host, jid))
            return True
        if ours and state == "pushed":  # only then: whose files count at first is not for any event to say
            record["admitted"] = sorted({*record["admitted"], host})
            record.get("returning", {}).pop(host, None)
            if record["founders"] is not None:
                record["founders"] = [minion for minion in record["founders"] if minion != host]
    _release(group, jid, host)
    _call_behind(group)
    if state == "pushed" and refused is not None:
        _tell_conflicts(group, host, refused)
    return True


def _tell_conflicts(group, host, refused):
    """Note what a host says that others refused, and fire an event for each conflict that this brings to light."""
    with _record(group) as record:
        said = {**record.get("refused", {}), host: _checked_refusals(refused)}
        if said[host] == record.get("refused", {}).get(host, {}):
            return
        found = sorted(
            [path, one, other]
            for one, theirs in said.items()
            for other, paths in theirs.items()
            for path in paths
            if one < other and path in said.get(other, {}).get(one, ())
        )
        new = [conflict for conflict in found if conflict not in record.get("conflicts", [])]
        record["refused"] = {minion: theirs for minion, theirs in said.items() if theirs}
        record["conflicts"] = found
    for path, one, other in new:
        log.warning("csyncsync: conflict in group %s: %s and %s have changed %s", group, one, other, path)
        with salt.utils.event.get_master_event(__opts__, __opts__["sock_dir"], listen=False) as event:
            event.fire_event({"group": group, "path": path, "hosts": [one, other]}, f"csyncsync/{group}/conflict")


def _checked_refusals(refused):
    """What an event says that hosts refused, if it has the shape of it; any minion can send any event."""
    if not isinstance(refused, dict) or not all(isinstance(paths, list) for paths in refused.values()):
        return {}
    return {
        str(minion)[:255]: sorted({str(path)[:4096] for path in paths[:20]})
        for minion, paths in itertools.islice(refused.items(), 100)
        if paths
    }


def _start_join(group, host, jid):
    """As a program of its own: a fork of the reactor, which has threads, may hang before it begins. Returns its pid."""
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "salt-run")
    command = [beside if os.path.exists(beside) else "salt-run", "-c", os.path.dirname(__opts__["conf_file"])]
    # As JSON, because the command line is read as YAML, and a job id is no number.
    arguments = [f"{name}={json.dumps(value)}" for name, value in (("group", group), ("host", host), ("jid", jid))]
    nowhere = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    process = subprocess.Popen([*command, "csyncsync.join", *arguments], start_new_session=True, **nowhere)
    _aside(process.wait)
    return process.pid


# --- Hosts that join -------------------------------------------------------------------------------------


@_command
def join(group, host, jid=None):
    """
    Have a host that has recorded its files admitted to its group. Started by ``pushed``; waits for the hosts.

    The first host of a new group is established at once (the ``seed``, if the pillar names one). A host that was there
    when the group was made keeps its files: what differs becomes a conflict. Any other receives what the group has, and
    pushes only after that.

    Returns what was done, in words. It waits until nobody else of the group pushes; without its turn any more (of a job
    id) it does nothing, because the host asks again.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.join wwwdata web4
    """
    options = _member(group, host)
    if options is None:
        if jid:
            _release(group, jid)
        raise CommandExecutionError(f"{host} is no member of {group}: salt-run csyncsync.status tells who is")
    done = "failed"
    with contextlib.ExitStack() as lease:
        # Two joins of a group at once would each find no host that is established, and take theirs for the first one.
        if jid is None:
            lease.enter_context(_leased(group, host))
        elif _keep_lease(group, jid):
            lease.callback(_release, group, jid)
        else:
            return f"its turn is over; {host} asks again"
        try:
            with _turn():
                done = _join(group, host, options)
        except (CommandExecutionError, SaltException) as err:
            done = f"not yet: {err}"
        finally:
            log.info("csyncsync: %s joins %s: %s", host, group, done)
            with _record(group) as record:
                if done == "joined" and host not in record["waiting"]:
                    record["waiting"].insert(0, host)
    if done != "joined":
        raise CommandExecutionError(f"{host} has not joined {group}, {done}")
    return done


def _keep_lease(group, jid):
    """Tell whether a lease is still there; this process has it then."""
    with _record(group) as record:
        held = record["lease"] is not None and record["lease"]["jid"] == jid
        if held:
            record["lease"].update(checked=time.time(), pid=os.getpid())
    return held


@contextlib.contextmanager
def _turn():
    """
    Wait for one of a few turns: a join asks all hosts of its group, and many at once keep them from answering in time.

    It may also take hours, and groups are not to wait for each other: so the wait has an end.
    """
    until = time.monotonic() + waits.JOIN_WAIT
    with contextlib.ExitStack() as stack:
        os.makedirs(_directory(), mode=0o700, exist_ok=True)
        names = [os.path.join(_directory(), f"join{number}.lock") for number in range(JOINS)]
        files = [stack.enter_context(open(name, "w", encoding="utf-8")) for name in names]
        while not any(_is_locked_now(file) for file in files) and time.monotonic() < until:
            time.sleep(0.2)
        yield


def _is_locked_now(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _join(group, host, options):
    members = _members(options)
    statuses = _statuses(group, members)
    states = {minion: status.get("state") for minion, status in statuses.items()}
    with _record(group) as record:
        # An empty list says that all founders have joined; only None that nobody has asked yet.
        founders = list(members if record["founders"] is None else record["founders"])
        admitted = list(record["admitted"])
    established = [minion for minion in sorted(states) if states[minion] == "established" and minion != host]
    if states.get(host) == "established":
        return "joined"
    if not established:
        silent = [minion for minion in admitted if minion in members and minion not in states]
        if silent:
            raise CommandExecutionError(f"no established host answers; {', '.join(silent)} may hold newer files")
        if options["seed"] in members and host != options["seed"]:
            raise CommandExecutionError(f"waits for the seed, {options['seed']}")
        founders = members  # of a group that begins anew, too
        with _record(group) as record:  # its answer may get lost: nobody else is to be the first one, too
            record["admitted"] = sorted({*record["admitted"], host})
        _step(host, "csyncsync.join", [group])
    else:
        source = _most_up_to_date(established, statuses, options["seed"])
        keep = host in founders and not options["seed"]
        # What the source has not got yet, the host may have already: it is to get no old version, nor what was deleted.
        late = _hand_over(group, source, [minion for minion in established if minion != source])
        if host in admitted:
            late += [minion for minion in admitted if minion in members and minion not in states]
        _have_patience(group, host, late)
        theirs = _step(source, "csyncsync.digests", [group])["digests"] if keep else None
        unsent = _step(host, "csyncsync.join", [group, source, keep, False, theirs])["unsent"]
        digests = _step(host, "csyncsync.digests", [group])["digests"]
        try:
            _step(source, "csyncsync.admit", [group, host, digests, unsent, keep])
        except CommandExecutionError:
            apply(group)  # it may not know the host: the event that says so can get lost, or be left out of a flood
            raise
        late = _hand_over(group, host, established)
        if host in admitted:
            _have_patience(group, host, late)
        _step(host, "csyncsync.join", [group, f"source={source}", f"keep={keep}", "admitted=True"])
    with _record(group) as record:
        record["admitted"] = sorted({*record["admitted"], host})
        record["founders"] = [minion for minion in founders if minion != host]
        record["missed"] = [minion for minion in record.get("missed", ()) if minion != host]
    return "joined"


def _most_up_to_date(established, statuses, seed):
    """The host that the other ones have the least to send to; of several the seed, or the first by name."""

    def missing(host):
        return sum(statuses[other].get("dirty", {}).get(host, 0) for other in established if other != host)

    return min(established, key=lambda host: (missing(host), host != seed, host))


def _have_patience(group, host, late):
    """
    Raise CommandExecutionError while others may have something for a host that joins, for some time.
    """
    with _record(group) as record:
        since = record.setdefault("returning", {}).setdefault(host, time.time())
    if late and 0 <= time.time() - since < waits.RETURN_PATIENCE:
        raise CommandExecutionError(f"{', '.join(late)} may have newer files, or have deleted what {host} still has")


def _hand_over(group, host, others):
    """
    Have others push who have something for a host: what they deleted, one that joins would else take for its own alone.

    Returns those that did not reach it, or did not answer.
    """
    before = _statuses(group, others)
    senders = [
        minion for minion, status in before.items() if status.get("dirty", {}).get(host) or status.get("journal")
    ]
    for minion in senders:
        _call([minion], "csyncsync.push", [group])
    after = _statuses(group, senders)
    late = [minion for minion in senders if host in after.get(minion, {}).get("unreachable", {host: "it is silent"})]
    return late + [minion for minion in others if minion not in before]


def _statuses(group, minions):
    """``{minion id: what csyncsync.status says of the group}`` of those that answer."""
    answers = _call(minions, "csyncsync.status", [group]) if minions else {}
    return {minion: answer.get(group) or {} for minion, answer in answers.items() if isinstance(answer, dict)}


def _step(minion, function, arguments, kind=dict):
    answer = _call([minion], function, arguments).get(minion)
    if not isinstance(answer, kind):
        raise CommandExecutionError(f"{minion}: {answer or 'did not answer'}")
    return answer


def _call(minions, function, arguments, seconds=waits.ANSWER, **kwarg):
    """``{minion id: return}``; whoever is silent, and does not say either that the job still runs, is left out."""
    answers, options = {}, {"timeout": seconds, "gather_job_timeout": seconds, "kwarg": kwarg or None}
    for part in _client().cmd_iter(minions, function, arguments, tgt_type="list", **options):
        for minion, answer in part.items():
            answers[minion] = answer.get("ret")
    return answers


# --- Flow 1: facts ---------------------------------------------------------------------------------------


@_command
def apply(group=None, host=None, reporter=None):
    """
    Have the hosts of a group read pillar and mine again: ``csyncsync.refresh``, without waiting.

    group
        One group; without it, all.
    host
        Only on this host, and only if it has published its facts before.
    reporter
        Minion id of the host whose facts changed. The reactor gives it; it has to be a member of the group.

    Returns the minion ids that were called.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.apply
        salt-run csyncsync.apply wwwdata
    """
    if reporter is not None and _member(group, reporter) is None:
        return []
    if (group, host, reporter) == (None, None, None):
        _forget_deleted()
    published = __salt__["mine.get"]("*", "csyncsync.member")
    if host is not None:
        if host not in [*published] or host not in _accepted([host], "list"):
            problem = "has not published its facts, or its key is not accepted"
            raise CommandExecutionError(f"{host!r:.80} {problem}; run: salt {host!r:.80} state.apply csyncsync")
        groups = _groups(host)
    else:
        groups = _known(group)
    accepted = {name: _members(options) for name, options in groups.items()}
    minions = sorted({m for members in accepted.values() for m in members if m in published and host in (None, m)})
    if minions:
        _client().run_job(minions, "csyncsync.refresh", [], tgt_type="list", kwarg={"accepted": accepted}, ret="")
    return minions


def _forget_deleted():
    """
    Take the facts of hosts whose keys were deleted out of the mine, because Salt 3008 does not.

    If the same name were accepted anew, for another machine, the others would trust the certificate of the old one
    until the new one has published its own.
    """
    cache = salt.cache.factory(__opts__)
    keys = {minion for minions in salt.key.Key(__opts__).list_keys().values() for minion in minions}
    for minion in {*cache.list("mine")} - keys:
        facts = cache.fetch("mine", minion)
        if isinstance(facts, dict) and facts.pop("csyncsync.member", None):
            cache.store("mine", minion, facts)


@_command
def release(group, host=None):
    """
    Let a push through that a host holds back because most of the group vanished there, or a disk was exchanged.

    host
        Only on this minion; without it, on every member that holds one.

    Returns ``{minion id: what csyncsync.push returned}``, and ``"retcode": 1`` if one of them was not let through.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.release wwwdata
    """
    members = _chosen(group, host)
    states = _call(members, "csyncsync.status", [group])
    held = [m for m, answer in states.items() if isinstance(answer, dict) and (answer.get(group) or {}).get("held")]
    if not held:
        silent = [minion for minion in members if minion not in states]
        raise CommandExecutionError(
            f"no push of {group} is held" + (f"; {', '.join(silent)} did not answer" if silent else "")
        )
    result = {m: _call([m], "csyncsync.push", [group, "release=True"]).get(m, SILENT) for m in sorted(held)}
    return _with_exit_code(result, not all(isinstance(it, dict) and it["state"] == "pushed" for it in result.values()))


def _chosen(group, host):
    """The members of a group, or the one that is named. Raises CommandExecutionError."""
    members = _members(_known(group)[group])
    if host is not None and host not in members:
        raise CommandExecutionError(f"{host} is no member of {group}; there are: {', '.join(members)}")
    return members if host is None else [host]


# --- Keys and certificates that change -------------------------------------------------------------------


@_command
def rotate_key(group):
    """
    Give a group a new key, which all members take at once, and end the connections that began with the old one.

    Nobody pushes meanwhile: it waits for a push that is under way, at most 20 s, and what changes is sent afterwards. A
    member that does not answer takes the new key when it starts or is reached again; until then it and the others
    refuse each other. A key that the pillar sets itself is to be changed there.

    Returns ``{minion id: text}``.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.rotate_key wwwdata
    """
    members, file = _members(_known(group)[group]), keys_module.path(__opts__["pki_dir"], group)
    _require_ours(members[0], group, file)
    question = secrets.token_hex(16)
    present = _call(members, "csyncsync.key_proof", [group, question])

    def have_it(minions):
        wanted = keys_module.proof(keys_module.read(file), question)
        found = _call(minions, "csyncsync.key_proof", [group, question])
        return {minion for minion, proof in found.items() if proof == wanted}

    with _undisturbed({group: members}):
        keys_module.replace(file)
        if __opts__.get("pillar_cache"):
            for minion in members:
                __salt__["pillar.clear_pillar_cache"](minion)
        return _have_read_anew({group: members}, present, have_it, "the new key")


def _require_ours(minion, group, file):
    """Raise CommandExecutionError unless the key that a minion has is that of this file, which the ext_pillar made."""
    pillar = __salt__["pillar.show_pillar"](minion)
    key = (((pillar.get("csyncsync") or {}).get("groups") or {}).get(group) or {}).get("key")
    if not key:
        raise CommandExecutionError(
            f"the pillar of {minion} has no key of {group}; see: salt {minion} state.apply csyncsync.groups test=True"
        )
    if key != keys_module.read(file):
        raise CommandExecutionError(
            f"the key of {group} is not made by the csyncsync ext_pillar: change csyncsync:groups:{group}:key in your"
            f" pillar, then run: salt-run csyncsync.apply {group}"
        )


@_command
def rotate_certificate(host):
    """
    Give a host a new private key and certificate. The other hosts accept them at once, and the old ones no longer.

    Nobody pushes in the host's groups meanwhile: it waits for a push that is under way, at most 20 s, and what changes
    is sent afterwards. A host that does not answer accepts the new certificate when it starts or is reached again.

    Returns ``{minion id: text}``.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.rotate_certificate web1
    """
    there = __salt__["mine.get"]("*", "csyncsync.member")
    groups = _groups(host) if host in there and host in _accepted([host], "list") else {}
    if not groups:
        there = ", ".join(sorted(there)) or "none"
        raise CommandExecutionError(f"there is no host {host!r} in any group; there are: {there}")
    members = {group: _members(options) for group, options in groups.items()}
    present = _call(_all_of(members), "csyncsync.certificate", [])
    if host not in present:
        raise CommandExecutionError(f"{host} does not answer; nothing was changed")
    with _undisturbed(members):
        new = _call([host], "csyncsync.renew_certificate", []).get(host)
        if not isinstance(new, dict):
            raise CommandExecutionError(
                f"{host}: {new or 'did not answer'}; to try again: salt-run csyncsync.rotate_certificate {host}"
            )

        def have_it(minions):
            lack = set()
            for group, inside in members.items():
                asked = [minion for minion in minions if minion in inside and minion != host]
                found = _call(asked, "csyncsync.pinned", [group]) if asked else {}
                pins = {minion: answer for minion, answer in found.items() if isinstance(answer, dict)}
                lack.update(minion for minion in asked if pins.get(minion, {}).get(host) != new["fingerprint"])
            return {*minions} - lack

        return _have_read_anew(members, present, have_it, f"the new certificate of {host}")


def _all_of(members):
    """The minion ids in ``{GROUP: [minion id, …]}``."""
    return sorted({minion for minions in members.values() for minion in minions})


@contextlib.contextmanager
def _undisturbed(members):
    """
    No host of these groups, ``{GROUP: [minion id, …]}``, is called to push meanwhile. Waits for those that do so now.

    All are noted as hosts that have not read what changes; _have_read_anew() knows better.
    """
    for group, minions in members.items():
        with _record(group) as record:
            record["behind"] = {**record.get("behind", {}), **dict.fromkeys(minions, time.time())}
    with contextlib.ExitStack() as stack:
        for group in sorted(members):
            stack.enter_context(_leased(group, "", waits.LEASE_WAIT))
        yield


def _have_read_anew(members, present, have_it, what):
    """
    Have hosts read pillar and mine, and those push that have something to send. Returns ``{minion id: text}``.

    members
        ``{GROUP: [minion id, …]}``
    present
        The minion ids of those that answer.
    have_it
        Given minion ids, returns the set of those that have what changed.
    what
        What has changed, in words.
    """
    told = dict.fromkeys(_all_of(members), f"did not answer: gets {what} when it is back")
    waiting, until = [minion for minion in told if minion in present], time.monotonic() + waits.ROTATE_WAIT
    while waiting and time.monotonic() < until:
        answers = _call(waiting, "csyncsync.refresh", [], accepted=members)
        done = have_it(sorted(answers)) if answers else set()
        told.update({minion: f"lacks {what}: {answer}" for minion, answer in answers.items()})
        told.update(dict.fromkeys(done, f"has {what}"))
        _progress("\n".join(f"{minion} {told[minion]}" for minion in waiting))
        # A text says that another call is under way there; a list, which states have failed.
        waiting = [minion for minion in sorted(answers) if minion not in done and isinstance(answers[minion], str)]
        time.sleep(1 if waiting else 0)
    have = [minion for minion, text in told.items() if text.startswith("has ")]
    for group, minions in members.items():
        with _record(group) as record:
            record["behind"] = {m: at for m, at in record.get("behind", {}).items() if m not in have}
        for minion, status in _statuses(group, [minion for minion in have if minion in minions]).items():
            if status.get("dirty") or status.get("journal"):
                _ask(group, minion)
    return told


def _call_behind(group):
    """Have hosts read pillar and mine that did not when something changed: aside, because they may be silent still."""
    with _record(group) as record:
        behind, now = record.get("behind", {}), time.time()
        due = [minion for minion, called in behind.items() if not 0 <= now - called < waits.BEHIND_AGAIN]
        behind.update(dict.fromkeys(due, now))
    if due:
        _aside(_refresh_behind, group, due)


def _refresh_behind(group, minions):
    with _record(group) as record:
        members = _members(record["options"]) if record.get("options") else []
    called = [minion for minion in minions if minion in members]
    answers = _call(called, "csyncsync.refresh", [], accepted={group: members}) if called else {}
    with _record(group) as record:
        behind = record.get("behind", {})
        record["behind"] = {m: at for m, at in behind.items() if m in members and answers.get(m) != []}


# --- Pauses ----------------------------------------------------------------------------------------------


@_command
def pause(group=None, host=None, minutes=None, comment=""):
    """
    Pause a group, or a host: it sends nothing and gets nothing, and all changes are kept until it is resumed.

    group
        One group; without it, all groups of the host.
    host
        Only this minion; without it, the whole group.
    minutes
        It is resumed by itself after so long.
    comment
        Why; shown in the status.

    A push that is under way goes on to its end. A host that does not answer hears of it when it next asks to push.
    Returns ``{GROUP: {minion id: "paused …"}}``.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.pause wwwdata minutes=30
        salt-run csyncsync.pause host=web2 comment='new disk'
    """
    if minutes is not None and (isinstance(minutes, bool) or not isinstance(minutes, (int, float)) or minutes <= 0):
        raise CommandExecutionError(f"minutes={minutes!r} is no number above 0")
    until = None if minutes is None else round(time.time() + 60 * minutes)
    return _set_pause(group, host, {"until": until, "comment": str(comment)})


@_command
def resume(group=None, host=None):
    """
    End what ``csyncsync.pause`` began; what has changed meanwhile is sent at once.

    group, host
        As in ``csyncsync.pause``.

    Returns ``{GROUP: {minion id: "not paused", or what still is}}``.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.resume wwwdata
        salt-run csyncsync.resume host=web2
    """
    result = _set_pause(group, host, None)
    for name, told in result.items():
        for minion in told:
            if not told[minion].endswith(LATER):  # a host that does not answer would be waited for
                _ask(name, minion)
    return result


def _set_pause(group, host, pause_):
    """Note a pause, or that there is none, and tell all members. Returns what each of them says."""
    if group is None and host is None:
        raise CommandExecutionError("name a group, or a host, as in: wwwdata; host=web2")
    members = {name: _members(options) for name, options in _known(group).items()}
    chosen = {name: hosts for name, hosts in sorted(members.items()) if host is None or host in hosts}
    if not chosen:
        raise CommandExecutionError(f"{host} is no member of {group or 'any group'}")

    def tell(name):
        with _record(name) as record:
            pauses = {key: value for key, value in record.get("paused", {}).items() if _lasts(value)}
            pauses.pop(host or ALL_HOSTS, None)
            record["paused"] = {**pauses, **({host or ALL_HOSTS: pause_} if pause_ else {})}
            pauses = dict(record["paused"])
        answers = _call(chosen[name], "csyncsync.paused", [name, pauses], waits.STATUS_ANSWER)
        return {minion: _paused_text(minion, answers.get(minion)) for minion in chosen[name]}

    # Side by side: a host that is silent would be waited for once for each group.
    with concurrent.futures.ThreadPoolExecutor(PAUSED_AT_ONCE) as pool:
        return dict(zip(chosen, pool.map(tell, chosen)))


def _lasts(pause_):
    return pause_["until"] is None or pause_["until"] > time.time()


def _paused_text(minion, pauses):
    """What a member's answer says of itself."""
    if not isinstance(pauses, dict):
        return f"{pauses or 'did not answer'}{LATER}"
    found = pauses.get(ALL_HOSTS) or pauses.get(minion)
    if not found:
        others = ", ".join(sorted(pauses))
        return f"not paused, but sends nothing to {others}" if others else "not paused"
    until = found["until"] and time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(found["until"]))
    return f"paused until {until or 'it is resumed'}"


# --- Contents --------------------------------------------------------------------------------------------


@_command
def verify(group, rate=VERIFY_RATE // 1_000_000):
    """
    Compare what a group's files really are on all its hosts: type, content, mode, owner and link target, read from the
    disks. csync2's databases are not asked.

    rate
        Megabytes that each host reads in a second at most; 0: as many as can be. The hosts read with the lowest
        priority.

    Files that change meanwhile are looked at again. Nothing is changed; ``csyncsync.sync`` sends what a host has
    missed, ``csyncsync.reset`` makes one host's content win. The exit code is 1 if hosts differ, or one did not answer.
    Returns ``{"group", "hosts": {minion id: {"files", "bytes"}}, "silent": [minion id, …], "differences": {path:
    {minion id: {"type", "size", "time", "mode", "owner", "sha256"}}}, "more": differences that are not shown,
    "seconds", "retcode"}``.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.verify wwwdata
        salt-run csyncsync.verify wwwdata rate=200
    """
    options = _known(group)[group]
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or rate < 0:
        raise CommandExecutionError(f"rate={rate!r} is no number of megabytes in a second")
    return _verify(group, _members(options), int(rate * 1_000_000))


def _verify(group, members, rate):
    began = time.monotonic()
    sizes = _mappings(_call(members, "csyncsync.contents", [group]))
    hosts = sorted(sizes)
    found = _differing(group, hosts, sizes, rate)
    if found:
        _progress(f"{group}: {len(found)} paths differ; looking again in {waits.VERIFY_AGAIN} s")
        time.sleep(waits.VERIFY_AGAIN)
    seen = _versions(group, hosts, found[:VERIFY_SHOWN]) if found else {}
    differences = {
        _readable(path): _shown(versions, False)
        for path, versions in seen.items()
        if len({json.dumps(contents.compared(v), sort_keys=True) for v in versions.values()}) > 1
    }
    silent = [minion for minion in members if minion not in hosts]
    return {
        "group": group,
        "hosts": sizes,
        "silent": silent,
        "differences": differences,
        "more": max(0, len(found) - VERIFY_SHOWN),
        "seconds": round(time.monotonic() - began, 1),
        "retcode": int(bool(differences or silent or len(found) > VERIFY_SHOWN)),
    }


def _differing(group, hosts, sizes, rate):
    """The percent-encoded paths that hosts have differently: first the slots of digests, then the paths in them."""
    most = max((size["bytes"] for size in sizes.values()), default=0)
    parts = min(100, 1 + (most // (rate * VERIFY_STEP) if rate else 0))
    slots = []
    for part in range(parts):
        answers = _asked(group, hosts, {"part": part, "parts": parts, "rate": rate})
        slots += contents.unlike(answers)
        _progress(f"{group}: {part + 1} of {parts} parts read, {len(slots)} differences so far")
    if not slots:
        return []
    return contents.unlike(_asked(group, hosts, {"slots": [int(slot) for slot in slots], "rate": rate}))


def _asked(group, hosts, options):
    """``{minion id: what csyncsync.contents returned}``; all have to answer. Raises CommandExecutionError."""
    answers = _mappings(_call(hosts, "csyncsync.contents", [group, *(f"{k}={v}" for k, v in options.items())]))
    if set(answers) != set(hosts):
        raise CommandExecutionError(f"{', '.join(sorted(set(hosts) - set(answers)))} no longer answers; try again")
    return answers


def _mappings(answers):
    """The answers of hosts that could do what they were asked; the others said why not."""
    return {minion: answer for minion, answer in answers.items() if isinstance(answer, dict)}


@_command
def reset(group, source, test=False):
    """
    Rebuild every database of a group; one host's content wins: what others have differently is replaced, and what they
    alone have is deleted there.

    source
        Minion id of the host whose content wins.
    test
        Only tell what would be replaced and deleted, on which host; all files are read for that.

    All members have to answer. Nobody else pushes meanwhile; what changes then on the source is sent afterwards.
    Returns ``{minion id: what was done}``, and ``"retcode": 1`` if it was not done everywhere.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.reset wwwdata source=web1 test=True
        salt-run csyncsync.reset wwwdata source=web1
    """
    options = _known(group)[group]
    members = _members(options)
    if source not in members or membership.receives_only(options, source):
        raise CommandExecutionError(f"source= is to be a host that sends: one of {', '.join(members)}")
    if test:
        return _would_reset(group, members, source)
    answers = _statuses(group, members)
    silent = [minion for minion in members if minion not in answers]
    if silent:
        raise CommandExecutionError(
            f"{', '.join(silent)} did not answer; start it, or take it out of csyncsync:groups:{group}:members"
        )
    with _leased(group, source):
        return _reset(group, [source, *(minion for minion in members if minion != source)])


def _reset(group, hosts):
    """Rebuild the databases of hosts; the first one's content wins."""
    source, result, failed = hosts[0], {}, False
    with _record(group) as record:
        # Nobody is a founder, whose files count; nobody is waited for.
        record.update(founders=[], admitted=[], returning={}, refused={}, conflicts=[], missed=[])
    for number, host in enumerate(hosts):
        _progress(f"{group}: {number + 1} of {len(hosts)} databases, {host}")
        try:
            _step(host, "csyncsync.reset", [group], kind=bool)
            result[host] = "its content wins" if host == source else _take_content(group, source, host)
            if host == source:
                _step(host, "csyncsync.join", [group])
            with _record(group) as record:
                record["admitted"] = sorted({*record["admitted"], host})
        except CommandExecutionError as err:
            result[host] = f"not done: {err}; it joins by itself and keeps what it alone has, or run this again"
            failed = True
            if host == source:
                break
    return _with_exit_code(result, failed)


def _take_content(group, source, host):
    """Have a host take the content of the source. Returns what was done, in words."""
    _step(host, "csyncsync.join", [group, source])
    digests = _step(host, "csyncsync.digests", [group])["digests"]
    done = _step(source, "csyncsync.admit", [group, host, digests, [], False, True])
    _step(host, "csyncsync.join", [group, f"source={source}", "admitted=True"])
    return f"got {done['marked'] - done['left']} entries from {source}"


def _would_reset(group, members, source):
    found = _verify(group, members, VERIFY_RATE)
    result = dict.fromkeys(found["silent"], SILENT)
    for minion in found["hosts"]:
        told = {"replaced": [], "deleted": [], "made": []}
        for path, versions in found["differences"].items():
            there, wanted = versions[minion], versions[source]
            if contents.compared(there) != contents.compared(wanted):
                kind = {"nothing": "deleted"}.get(wanted["type"], "made" if there["type"] == "nothing" else "replaced")
                told[kind].append(path)
        result[minion] = "its content wins" if minion == source else {k: v for k, v in told.items() if v} or "the same"
    return _with_exit_code(result, found["silent"])


# --- Conflicts -------------------------------------------------------------------------------------------


@_command
def conflicts(group=None, diff=False):
    """
    Which files several hosts have changed while they did not see each other, and what each of them has.

    diff
        Also show how their texts differ, as a unified diff.

    Returns ``{GROUP: {path: {minion id: {"type", "size", "time", "mode", "owner", "sha256"}, "diff": text}}}``; under
    ``"… unknown"`` stand the hosts that did not answer (``"retcode": 1`` then).

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.conflicts
        salt-run csyncsync.conflicts wwwdata diff=True
    """
    result = {}
    for name, options in sorted(_known(group).items()):
        members = _members(options)
        found, marked = _find_conflicts(name, members)
        seen = _versions(name, sorted(marked), found, diff) if found else {}
        result[name] = {_readable(path): _shown(seen[path], diff) for path in found}
        if silent := [minion for minion in members if minion not in marked]:
            result[name][UNKNOWN] = dict.fromkeys(silent, SILENT)
    return _with_exit_code(result, any(UNKNOWN in found for found in result.values()))


@_command
def resolve(group, *paths, **kwargs):
    """
    End conflicts: one host's version replaces that of all others, on all hosts.

    paths
        As ``csyncsync.conflicts`` shows them; without any, all conflicts of the group.
    winner
        A minion id, or ``younger``, ``older``, ``bigger`` or ``smaller``: the host whose file is that.

    Waits until the others have it, at most two minutes. Returns ``{path: what became of it}``, and ``"retcode": 1`` if
    one of them is not over on all hosts that answer.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.resolve wwwdata /var/www/data/index.html winner=web1
        salt-run csyncsync.resolve wwwdata winner=younger
    """
    winner, members = kwargs.get("winner"), _members(_known(group)[group])
    if winner not in members and winner not in conflicts_module.POLICIES:
        raise CommandExecutionError(f"winner= is to be one of {', '.join([*members, *conflicts_module.POLICIES])}")
    found, marked = _find_conflicts(group, members)
    chosen = [path for path in found if not paths or _readable(path) in paths or path in paths]
    missing = sorted({*paths} - {*chosen} - {_readable(path) for path in chosen})
    if missing:
        raise CommandExecutionError(
            f"no conflict at {', '.join(missing)}; what there is: salt-run csyncsync.conflicts {group}"
        )
    silent = {minion for minion in members if minion not in marked}
    if silent and not chosen:
        raise CommandExecutionError(f"no conflict is known: {', '.join(sorted(silent))} did not answer")
    winners, result, failed = {}, {}, False
    where = f"on all hosts that answer, and gets to {', '.join(sorted(silent))} later" if silent else "on all hosts"
    seen = _versions(group, sorted(marked), chosen) if winner not in members else {}
    for path in chosen:
        try:
            host = winner if winner in members else _best(winner, seen[path], found[path])
            winners.setdefault(host, set()).update({path}, conflicts_module.below(marked, path))
        except ValueError as err:
            result[_readable(path)], failed = f"not resolved: {err}; name a host as winner=", True
    for host, names in sorted(winners.items()):
        wins = [_readable(path) for path in sorted(names.intersection(chosen))]
        try:
            left = _have_win(group, host, names, silent)
            result.update(dict.fromkeys(wins, f"{host}'s version is {where}"))
            result.update({_readable(path): f"{host}'s version is still to be sent" for path in left & {*chosen}})
            failed = failed or bool(left)
        except CommandExecutionError as err:
            result.update(dict.fromkeys(wins, f"not resolved: {err}"))
            failed = True
    return _with_exit_code(result, failed)


def _find_conflicts(group, members):
    """(``{path: [minion id, …]}`` of the conflicts, what each host that answers is to send); percent-encoded."""
    answers = _call(members, "csyncsync.marked", [group]) if members else {}
    marked = _mappings(answers)
    return conflicts_module.find(marked), marked


def _versions(group, members, paths, text=False):
    """``{path: {minion id: what it has there}}``."""
    answers = _mappings(_call(members, "csyncsync.versions", [group, sorted(paths), text]))
    return {path: {minion: answer[path] for minion, answer in answers.items()} for path in paths}


def _shown(versions, diff):
    """What each host has at a path, for the list."""
    told = {
        minion: {key: value for key, value in version.items() if key not in ("text", "mtime")}
        for minion, version in versions.items()
    }
    return {**told, "diff": conflicts_module.difference(versions)} if diff else told


def _best(policy, versions, hosts):
    return conflicts_module.winner(policy, {host: versions[host] for host in hosts if host in versions})


def _have_win(group, host, names, silent):
    """
    Have a host's version of paths win, and wait until it is on all hosts but the silent ones. Returns what it still has
    to send, as a set.
    """
    until, left, told = time.monotonic() + waits.RESOLVE_WAIT, set(names), None
    while left and time.monotonic() < until:
        # Again and again: csync2 forgets that a mark is forced when the other host tries to send its own version.
        _step(host, "csyncsync.win", [group, sorted(left)], kind=int)
        _ask(group, host)
        for _ in range(RESOLVE_AGAIN):
            time.sleep(1)
            marked = _step(host, "csyncsync.marked", [group])
            left = {path for path in names & marked.keys() if not silent.issuperset(marked[path])}
            if told != len(left):
                told = len(left)
                _progress(f"{group}: {host} has {told} of {len(names)} entries to send")
            if not left:
                break
    return left


def _readable(path):
    """
    A percent-encoded path as people read it, and give it back; what cannot be printed, as a newline, as ``\\x0a``, and
    a blank at the end, which Salt strips from arguments, as ``\\x20``.
    """
    text = one_line(urllib.parse.unquote_to_bytes(path).decode("utf-8", "backslashreplace"))
    return f"{text[:-1]}\\x20" if text.endswith(" ") else text


# --- Backups ---------------------------------------------------------------------------------------------


@_command
def backups(group, *paths):
    """
    Which old versions there are of files that were overwritten or deleted, and on which hosts: a host keeps what others
    had it replace (``backup_directory`` of the group), not what was changed on itself.

    paths
        Files and directories, as they are shown; without any, the whole group.

    Returns ``{path: {minion id: [a line for each version, newest first]}}`` of the 50 files that were replaced last;
    ``"… and more"`` says how many others each host has. The contents of files that are named are compared (``sha256``).

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.backups wwwdata
        salt-run csyncsync.backups wwwdata /var/www/data/ini /var/www/data/index.html
    """
    members, names = _members(_with_backups(group)), [_encoded(path) for path in paths]
    found, failed = _find_backups(group, members, names, bool(names))
    shown = sorted({name for there in found.values() for name in there["paths"]}, key=_newest(found))[:BACKUPS_SHOWN]
    more = {minion: there["more"] + len(there["paths"].keys() - shown) for minion, there in found.items()}
    if any(there["more"] for there in found.values()):  # a host left out files that are among the newest elsewhere
        found, failed = _find_backups(group, members, shown, False)
    told = {
        _readable(name): {
            minion: [_version_line(version) for version in there["paths"][name]]
            for minion, there in sorted(found.items())
            if name in there["paths"]
        }
        for name in shown
    }
    if failed and not found:
        raise CommandExecutionError("; ".join(sorted({*failed.values()})))
    others = {minion: f"{n:,} more; name a directory or a file to see them" for minion, n in more.items() if n}
    told.update({"… and more": others} if others else {}, **({UNKNOWN: failed} if failed else {}))
    return told or f"{group}: no host has an old version of {', '.join(map(str, paths)) or 'any file'}"


@_command
def restore(group, path, host=None, generation=0):
    """
    Put an old version of a file back, on the host that has it; the host then sends it to all others, as any change.

    path
        As ``csyncsync.backups`` shows it.
    host
        Minion id of the host whose version it is.
    generation
        As ``csyncsync.backups`` shows it. What is at the path by now is generation 0 afterwards, and what was
        generation 0 is this one: a second call puts the first one's work back.

    Waits until all have it, at most two minutes. Returns ``{path: what became of it}``, and ``"retcode": 1`` if a host
    does not have it by then.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.restore wwwdata /var/www/data/index.html host=web2
        salt-run csyncsync.restore wwwdata /var/www/data/index.html host=web2 generation=2
    """
    members, name = _members(_with_backups(group)), _encoded(path)
    if host not in members:
        raise CommandExecutionError(f"host= is to be one of {', '.join(members)}: whose version it is")
    try:
        done = _step(host, "csyncsync.restore", [group, name, generation])
    except CommandExecutionError as err:
        raise CommandExecutionError(f"{_readable(name)} is not restored: {err}") from err
    what = f"generation {generation} of {host}, {done['size']:,} bytes,"
    if not done["changed"]:
        return {_readable(name): f"{what} is what is there already"}
    late = _await_version(group, members, name, done["sha256"])
    where = f"is back on {host}, and not yet seen on {', '.join(sorted(late))}" if late else "is back on all hosts"
    kept = "" if done["kept"] is None else f"; what was there is generation {done['kept']} now"
    return _with_exit_code({_readable(name): f"{what} {where}{kept}"}, late)


def _with_backups(group):
    """The options of a group that keeps old versions. Raises CommandExecutionError."""
    options = _known(group)[group]
    if not options["backup_directory"]:
        raise CommandExecutionError(f"csyncsync:groups:{group}:backup_directory is not set: no old versions are kept")
    return options


def _find_backups(group, members, names, content):
    """(``{minion id: what csyncsync.backups returned}``, ``{minion id: why nothing}``)."""
    answers = _call(members, "csyncsync.backups", [group, names, content, BACKUPS_SHOWN])
    found = _mappings(answers)
    return found, {m: str(answers.get(m, "did not answer")) for m in members if m not in found}


def _newest(found):
    """What sorts paths by the time of their newest version, newest first."""
    times = {}
    for there in found.values():
        for name, versions in there["paths"].items():
            times[name] = max(times.get(name, 0), versions[0]["mtime"])
    return lambda name: (-times[name], name)


def _version_line(version):
    return (
        f"generation {version['generation']}: {version['size']:,} bytes, replaced {version['time']},"
        f" {version['mode']} {version['owner']}"
        + (f", sha256 {version['sha256']}" if "sha256" in version else "")
        + (f" ({version['doubt']})" if "doubt" in version else "")
    )


def _await_version(group, members, name, digest):
    """Wait until hosts have a file with this content. Returns those that do not, as a set."""
    until, late = time.monotonic() + waits.RESOLVE_WAIT, set(members)
    while late and time.monotonic() < until:
        time.sleep(1)
        there = _versions(group, sorted(late), [name])[name]
        late -= {minion for minion, version in there.items() if version.get("sha256") == digest}
        _progress(f"{group}: {len(members) - len(late)} of {len(members)} hosts have it")
    return late


def _encoded(path):
    """The reverse of _readable(): percent-encoded."""
    raw = str(path).encode("utf-8", "surrogateescape")
    raw = re.sub(rb"\\x([0189a-f][0-9a-f]|7f|20$)", lambda byte: bytes.fromhex(byte[1].decode()), raw)
    return urllib.parse.quote_from_bytes(raw.rstrip(b"/"))


# --- Status ----------------------------------------------------------------------------------------------


@_command
def status(group=None):
    """
    A table of hosts and groups: what needs somebody, and what to do then; in sync, or how far behind.

    Returns ``{"outputter": "csyncsync", "data": {"groups": {GROUP: {minion id: row}}, "retcode": 1 if anything needs
    somebody}}``, which is also the exit code; ``csync2report.report`` says what is in a row. With ``--out=json`` the
    data is shown.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.status
        salt-run csyncsync.status wwwdata --out=json
    """
    members = {name: _members(options) for name, options in sorted(_known(group).items())}
    minions = sorted({minion for hosts in members.values() for minion in hosts})
    answers = _call(minions, "csyncsync.status", ["size=True"], waits.STATUS_ANSWER) if minions else {}
    rows = {name: report.report(name, hosts, answers, time.time()) for name, hosts in members.items()}
    retcode = int(any(row["problems"] for hosts in rows.values() for row in hosts.values()))
    return {"outputter": "csyncsync", "data": {"groups": rows, "retcode": retcode}}


def _short(answer):
    if not isinstance(answer, dict):
        return str(answer)
    if answer["state"] == "test":
        send = [f"{told['entries']} to {other}" for other, told in sorted(answer["send"].items())]
        return f"would send {', '.join(send) or 'nothing'}" + (f"; {answer['comment']}" if answer["comment"] else "")
    left = sum(answer.get("left", {}).values())
    return (
        answer["state"]
        + (f", {left} entries left" if left else "")
        + (f": {answer['comment']}" if answer["comment"] else "")
    )


def _progress(text):
    """Tell whoever waits at the command line. Not as an event: salt-run would print it among what is returned."""
    print(text, file=sys.stderr, flush=True)
