"""
What csync2 and the ``csyncsync`` pillar mean, in plain Python.

This room knows csync2's grammar and limits, the schema of a group, the template's context, and csync2's
database. It may call the standard library only: no Salt, no commands, so that it runs (and is tested)
anywhere, on the minion and on the master alike.

Paths of synchronized files are ``bytes`` everywhere, because a file name need not be UTF-8.
"""

import collections
import contextlib
import fnmatch
import hashlib
import ipaddress
import os
import re
import reprlib
import sqlite3
import ssl
import stat

__virtualname__ = "csync2"

#: Of the whole of csyncsync; setup.cfg says the same.
VERSION = "0.1.0"

#: Option -> csync2's meaning; the keys of a group in the pillar. Hyphens may stand for underscores.
OPTIONS = (
    "members",
    "include",
    "exclude",
    "auto",
    "action",
    "backup_directory",
    "backup_generations",
    "receive_only",
    "hold",
    "address",
    "seed",
    "tls",
    "key",
)
ACTION_OPTIONS = ("pattern", "exec", "logfile", "do_local", "do_local_only")
#: A push that deletes more files than the number, and a greater share of the group, is held.
HOLD = {"number": 100, "share": 0.5}
TARGET_TYPES = ("glob", "list", "pcre")
#: csync2's cfgfile_parser.y, set_auto()
AUTO_METHODS = ("none", "first", "younger", "older", "bigger", "smaller", "left", "right")

#: csync2.c: "Config names are limited to [a-z0-9]+"; the length keeps host_group.db3 below NAME_MAX.
_GROUP_NAME = re.compile(r"[a-z0-9]{1,64}\Z")
#: cfgfile_parser.y, set_key(): read by fgets() into 1024 bytes, at least 32 characters.
_KEY = re.compile(r"[A-Za-z0-9._]{32,1022}\Z")
#: csync2 compares lower-cased names and keeps 255 characters (myhostname[256]); Linux allows 64.
_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,62}[a-z0-9])?\Z")
_MINION_ID = re.compile(r"[^\s/\\\x00-\x1f\x7f\"']{1,255}\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

#: Trees that csync2 must never carry: virtual file systems and its own, and our, state.
_NEVER_BELOW = ("/proc", "/sys", "/dev", "/run", "/etc/csync2", "/var/lib/csync2", "/var/lib/csyncsync")
_NEVER_ABOVE = (*_NEVER_BELOW, "/etc/csync2.cfg")

#: csync2's ``tempdir``, below the directory that it runs in: where there is none, its temporary files stand beside the
#: file that they are for (rsync.c, next_tempdir()).
TEMPDIR = "csync2-temporary"

#: db_api/urlencode.c: the bytes that csync2 writes as %XX.
_ENCODED = bytes(range(1, 0x21)) + b"\x7f\"'%$:|\\"
_TO_ENCODE = re.compile(b"[%s]" % re.escape(_ENCODED))
_TO_DECODE = re.compile(rb"%([0-9A-Fa-f]{2})")


class Csync2Error(ValueError):
    """Something that csync2, or this project, cannot accept. The message names the thing and the way out."""


# --- The pillar ------------------------------------------------------------------------------------------


def validate(groups):
    """
    Given ``csyncsync:groups`` of the pillar, return the groups that are usable and what is wrong with the rest.

    groups
        What stands in the pillar: any type, from any hand.

    Returns ``{"groups": {name: options}, "errors": {name: [message, …]}}``. Options are complete (every key of
    OPTIONS is there, with its default) and their values have one shape each: lists for ``include``,
    ``exclude``, ``receive_only`` and ``action``; ``{"tgt": …, "tgt_type": …}`` for ``members``. Each message
    begins with the pillar path. An error of the whole (not a mapping) stands under the name ``""``.
    Never raises.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.groups
    """
    result = {"groups": {}, "errors": {}}
    if groups is None:
        return result
    if not isinstance(groups, dict):
        result["errors"][""] = [f"csyncsync:groups is a {_kind(groups)}, not a mapping of group names to options"]
        return result
    for name, options in groups.items():
        problems = _Problems(f"csyncsync:groups:{_shown(name)}")
        checked = _validate_group(name, options, problems)
        if problems.messages:
            result["errors"].setdefault(_text(name), []).extend(problems.messages)
        else:
            result["groups"][name] = checked
    for messages_of in (_overlaps(groups), _shared_backups(result["groups"])):
        for name, messages in messages_of.items():
            result["errors"].setdefault(name, []).extend(messages)
    for name in result["errors"]:
        result["groups"].pop(name, None)
    return result


class _Problems:
    """Messages below one pillar path."""

    def __init__(self, path):
        self.path = path
        self.messages = []

    def add(self, where, text):
        self.messages.append(f"{self.path}{':' + where if where else ''} {text}")


def _kind(value):
    return {dict: "mapping", list: "list", str: "string", bool: "boolean", type(None): "null"}.get(
        type(value), type(value).__name__
    )


#: As much of a tree as a message shows. YAML's aliases make trees that are small in memory and endless as text.
_BRIEFLY = reprlib.Repr()
_BRIEFLY.maxlevel, _BRIEFLY.maxother = 3, 200


def _text(value):
    """Any value as text: of a tree its beginning, of a number of 5000 digits or of anything else its kind."""
    try:
        return value if isinstance(value, str) else _BRIEFLY.repr(value)
    except (ValueError, RecursionError):
        return f"(a {_kind(value)})"


def _shown(value, limit=80):
    """Any value, short and printable, for an error message."""
    text = _text(value).encode("unicode_escape", "backslashreplace").decode("ascii")
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _validate_group(name, options, problems):
    if not is_group_name(name):
        problems.add("", "is no group name: csync2 takes only [a-z0-9]+ (quote a name of digits), up to 64 characters")
    if not isinstance(options, dict):
        problems.add("", f"is a {_kind(options)}, not a mapping of options")
        return None
    given = {}
    for option, value in options.items():
        known = option.replace("-", "_") if isinstance(option, str) else option
        if known not in OPTIONS:
            problems.add(_shown(option), f"is no option; there are: {', '.join(OPTIONS)}")
        elif known in given:
            problems.add(_shown(option), "stands there twice")
        else:
            given[known] = value
    for needed in ("members", "include"):
        if needed not in given:
            problems.add(needed, "is missing")
    checked = {
        option: check(given[option], problems) if option in given else default
        for option, (check, default) in _CHECKS.items()
    }
    backup = checked["backup_directory"]
    if backup and any(_below(backup, path) for path in checked["include"]):
        problems.add("backup_directory", f"{_shown(backup)!r} lies in an include: the backups would be synchronized")
    return checked


def _members(value, problems):
    if isinstance(value, dict):
        unknown = set(value) - {"tgt", "tgt_type"}
        if unknown or "tgt" not in value:
            problems.add("members", "takes 'tgt' and 'tgt_type', and needs 'tgt'")
            return None
        tgt, tgt_type = value["tgt"], value.get("tgt_type", "glob")
    else:
        tgt, tgt_type = value, "list" if isinstance(value, list) else "glob"
    if tgt_type not in TARGET_TYPES:
        problems.add(
            "members:tgt_type",
            f"{_shown(tgt_type)!r} is none of {', '.join(TARGET_TYPES)}"
            " (grains and pillar are shaped by the minion itself, so they cannot decide who is a member)",
        )
        return None
    if tgt_type == "list":
        tgt = tgt.split(",") if isinstance(tgt, str) else tgt
        if not isinstance(tgt, list) or not tgt:
            problems.add("members", "is an empty list of minion ids" if tgt == [] else "is no list of minion ids")
            return None
        for i, minion in enumerate(tgt):
            if not isinstance(minion, str) or not _MINION_ID.match(minion):
                problems.add(f"members:{i}", f"{_shown(minion)!r} is no minion id")
        return {"tgt": tgt, "tgt_type": "list"}
    if not isinstance(tgt, str) or not tgt or _CONTROL.search(tgt):
        problems.add("members", f"{_shown(tgt)!r} is no {tgt_type} of minion ids")
        return None
    if tgt_type == "pcre":
        try:
            re.compile(tgt)
        except (re.error, OverflowError, RecursionError) as err:
            problems.add("members:tgt", f"{_shown(tgt)!r} is no regular expression: {_shown(str(err))}")
            return None
    return {"tgt": tgt, "tgt_type": tgt_type}


def _strings(option, value, problems, what):
    """A list of quotable strings; one string stands for a list of one."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list):
        problems.add(option, f"is a {_kind(value)}, not a list of {what}")
        return []
    good = []
    for i, item in enumerate(values):
        where = f"{option}:{i}" if isinstance(value, list) else option
        if not isinstance(item, str):
            problems.add(where, f"{_shown(item)!r} is a {_kind(item)}, not a string")
        elif problem := _unquotable(item):
            problems.add(where, f"{_shown(item)!r} {problem}")
        else:
            good.append((where, item))
    return good


def _unquotable(text):
    """Why csync2's config cannot carry this string between quotes ("" if it can)."""
    if not text.strip():
        return "is empty"
    if '"' in text:
        return 'holds a ", and csync2 knows no escape for it'
    if _CONTROL.search(text):
        return "holds a newline or another control character"
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        return "is no valid Unicode"
    return "is longer than 4000 bytes" if size > 4000 else ""


def _path_problem(path):
    """Why this is no plain absolute path ("" if it is one)."""
    if not path.startswith("/"):
        return "is not an absolute path"
    if path.strip("/") == "":
        return "is the whole file system: name the directories to synchronize"
    if any(part in ("", ".", "..") for part in path.rstrip("/")[1:].split("/")):
        return "is not a normal path: leave out '//', '.' and '..'"
    return ""


def _below(path, top):
    return path == top or path.startswith(top + "/")


def _include(value, problems):
    paths = []
    for where, item in _strings("include", value, problems, "paths"):
        problem, path = _path_problem(item), item.rstrip("/")
        if not problem and re.search(r"[*?\[\]\\]", item):
            problem = "holds one of * ? [ ] \\, which csync2 takes for a pattern: name the directory itself"
        if not problem and any(_below(path, top) for top in _NEVER_BELOW):
            problem = "belongs to the system or to csync2 itself, and must not be synchronized"
        if not problem and re.match(r"/etc/csync2[._]", path):
            problem = "is a file of csync2's own configuration"
        if not problem and (inner := next((p for p in _NEVER_ABOVE if _below(p, path)), "")):
            problem = f"would synchronize {inner} too: name the directories below it"
        if problem:
            problems.add(where, f"{_shown(item)!r} {problem}")
        elif path not in paths:
            paths.append(path)
    if not paths and not problems.messages:
        problems.add("include", "is empty: name at least one directory")
    return paths


def _exclude(value, problems):
    patterns = []
    for where, item in _strings("exclude", value, problems, "patterns"):
        if item.startswith("%"):
            problems.add(where, f"{_shown(item)!r} begins with %, which csync2 takes for a prefix")
        elif not item.startswith("/") and "/" in item.rstrip("/"):
            problems.add(
                where,
                f"{_shown(item)!r} would never match: write a name without '/', or a pattern that begins with '/'",
            )
        else:
            patterns.append(item)
    return patterns


def _auto(value, problems):
    if value not in AUTO_METHODS:
        problems.add("auto", f"{_shown(value)!r} is none of {', '.join(AUTO_METHODS)}")
    return value


def _actions(value, problems):
    actions = [value] if isinstance(value, dict) else value
    if not isinstance(actions, list):
        problems.add("action", f"is a {_kind(value)}, not a list of actions")
        return []
    return [_action(f"action:{i}", action, problems) for i, action in enumerate(actions)]


def _action(where, action, problems):
    if not isinstance(action, dict):
        problems.add(where, f"is a {_kind(action)}, not a mapping of options")
        return None
    given = {}
    for option, value in action.items():
        known = option.replace("-", "_") if isinstance(option, str) else option
        if known not in ACTION_OPTIONS:
            problems.add(f"{where}:{_shown(option)}", f"is no option; there are: {', '.join(ACTION_OPTIONS)}")
        elif known in given:
            problems.add(f"{where}:{_shown(option)}", "stands there twice")
        else:
            given[known] = value
    if given.get("exec") == []:
        problems.add(f"{where}:exec", "is empty: name at least one command")
    if "exec" not in given:
        problems.add(f"{where}:exec", "is missing")
    for flag in ("do_local", "do_local_only"):
        if not isinstance(given.get(flag, False), bool):
            problems.add(f"{where}:{flag}", "is neither true nor false")
    logfile = given.get("logfile")
    if logfile is not None and (not isinstance(logfile, str) or _unquotable(logfile) or _path_problem(logfile)):
        problems.add(f"{where}:logfile", f"{_shown(logfile)!r} is not an absolute path")
    return {
        "pattern": _action_patterns(f"{where}:pattern", given.get("pattern", []), problems),
        "exec": _commands(f"{where}:exec", given.get("exec", []), problems),
        "logfile": logfile,
        "do_local": given.get("do_local", False),
        "do_local_only": given.get("do_local_only", False),
    }


def _commands(option, value, problems):
    """
    Commands for root's shell. csync2 puts the names of files where "%%" stands first, as its database has them
    (action.c): spaces and quotes are %XX there, but not the characters ; & ` ( and >.
    """
    commands = []
    for where, item in _strings(option, value, problems, "commands"):
        before, mark, _ = item.partition("%%")
        if mark and before.count("'") % 2 == 0:
            problems.add(where, "has %% outside of single quotes: a file's name could run commands there")
        commands.append(item)
    return commands


def _action_patterns(option, value, problems):
    """csync2 compares an action's patterns with whole paths, and strips no '/' from their end (action.c)."""
    patterns = []
    for where, item in _strings(option, value, problems, "patterns"):
        if item.startswith("/") or item == "*" or (item.startswith("*") and "**" in item):
            patterns.append(item.rstrip("/") or item)
        else:
            problems.add(where, f"{_shown(item)!r} would never match: begin it with '/', or with '**'")
    return patterns


def _backup_directory(value, problems):
    problem = "is not a string" if not isinstance(value, str) else _unquotable(value) or _path_problem(value)
    if problem:
        problems.add("backup_directory", f"{_shown(value)!r} {problem}")
        return None
    return value.rstrip("/")


def _backup_generations(value, problems):
    if isinstance(value, bool) or not isinstance(value, int) or not 2 <= value <= 10000:
        problems.add("backup_generations", f"{_shown(value)!r} is no number from 2 to 10000")
    return value


def _receive_only(value, problems):
    minions = []
    for where, item in _strings("receive_only", value, problems, "minion ids"):
        if not _MINION_ID.match(item):
            problems.add(where, f"{_shown(item)!r} is no minion id")
        minions.append(item)
    return minions


def _hold(value, problems):
    if not isinstance(value, dict):
        problems.add("hold", f"is a {_kind(value)}, not a mapping of number and share")
        return HOLD
    for name in value:
        if name not in HOLD:
            problems.add(f"hold:{_shown(name)}", f"is no option; there are: {', '.join(HOLD)}")
    found = {**HOLD, **{name: value[name] for name in HOLD if name in value}}
    if isinstance(found["number"], bool) or not isinstance(found["number"], int) or not 0 <= found["number"] < 2**31:
        problems.add("hold:number", f"{_shown(found['number'])!r} is no number of files")
    if isinstance(found["share"], bool) or not isinstance(found["share"], (int, float)) or not 0 <= found["share"] <= 1:
        problems.add("hold:share", f"{_shown(found['share'])!r} is no share from 0 to 1")
    return found


def _address(value, problems):
    """An interface name, a network in CIDR notation, or a literal address."""
    if isinstance(value, str) and re.match(r"[A-Za-z0-9_.@-]{1,15}\Z", value) and not value[0].isdigit():
        return value
    try:
        if not isinstance(value, str):
            raise ValueError
        return str(ipaddress.ip_network(value, strict=False) if "/" in value else ipaddress.ip_address(value))
    except ValueError:
        problems.add("address", f"{_shown(value)!r} is no interface, no network such as 10.1.0.0/24, and no address")
        return None


def _seed(value, problems):
    if not isinstance(value, str) or not _MINION_ID.match(value):
        problems.add("seed", f"{_shown(value)!r} is no minion id")
    return value


def _tls(value, problems):
    if not isinstance(value, bool):
        problems.add("tls", f"{_shown(value)!r} is neither true nor false")
    return value


def _group_key(value, problems):
    # The value is a secret: never put it into a message.
    if not isinstance(value, str) or not _KEY.match(value):
        problems.add(
            "key",
            "is no csync2 key: 32 to 1022 characters of [A-Za-z0-9._] (csync2 -k FILE makes one; not shown here)",
        )
    return value


#: option -> (its check, its default)
_CHECKS = {
    "members": (_members, None),
    "include": (_include, []),
    "exclude": (_exclude, []),
    "auto": (_auto, "none"),
    "action": (_actions, []),
    "backup_directory": (_backup_directory, None),
    "backup_generations": (_backup_generations, None),
    "receive_only": (_receive_only, []),
    "hold": (_hold, HOLD),
    "address": (_address, None),
    "seed": (_seed, None),
    "tls": (_tls, True),
    "key": (_group_key, None),
}


def _overlaps(groups):
    """Given the raw groups, return {name: [message]} for includes that two groups share."""
    seen, messages = [], {}
    for name, options in groups.items():
        paths = options.get("include") if isinstance(options, dict) else None
        for i, path in enumerate([paths] if isinstance(paths, str) else paths if isinstance(paths, list) else []):
            if isinstance(path, str) and path.startswith("/"):
                seen.append((_text(name), i, path.rstrip("/") or "/"))
    for name, i, path in seen:
        for other, j, theirs in seen:
            if other != name and (_below(path, theirs) or _below(theirs, path)):
                messages.setdefault(name, []).append(
                    f"csyncsync:groups:{_shown(name)}:include:{i} {_shown(path)!r} overlaps"
                    f" csyncsync:groups:{_shown(other)}:include:{j} {_shown(theirs)!r}: a path can be in one group only"
                )
    return messages


def _shared_backups(groups):
    """Given the checked groups, return {name: [message]} for backups that another group would synchronize."""
    return {
        name: [
            f"csyncsync:groups:{name}:backup_directory {_shown(options['backup_directory'])!r} lies in"
            f" csyncsync:groups:{other}:include: the backups would be synchronized"
        ]
        for name, options in groups.items()
        for other, theirs in groups.items()
        if other != name and options["backup_directory"]
        if any(_below(options["backup_directory"], path) for path in theirs["include"])
    }


# --- Membership ------------------------------------------------------------------------------------------


def matches(members, minion):
    """
    Given a group's validated ``members`` and a minion id, tell whether the target covers that id.

    The same rules as the master's (glob, list, pcre): used where no master is asked.
    """
    tgt, tgt_type = members["tgt"], members["tgt_type"]
    if tgt_type == "list":
        return minion in tgt
    if tgt_type == "pcre":
        return re.match(tgt, minion) is not None
    return fnmatch.fnmatchcase(minion, tgt)


def is_group_name(name):
    """Tell whether csync2 takes this as the name of a config (``-C``)."""
    return isinstance(name, str) and _GROUP_NAME.match(name) is not None


def may_match(options, minion):
    """
    Given a group's options as they stand in the pillar, tell whether a minion may be meant, if nobody can know.

    A broken group must show its error where it was meant to be.
    """
    if not isinstance(options, dict) or "members" not in options:
        return True
    problems = _Problems("")
    members = _members(options["members"], problems)
    return bool(problems.messages) or matches(members, minion)


def receives_only(options, minion):
    """Given a group's validated options, tell whether this minion only receives (csync2's slave hosts)."""
    return any(fnmatch.fnmatchcase(minion, pattern) for pattern in options["receive_only"])


def hosts(name, options, published, known=None, accepted=None):
    """
    Given what the mine answered for one group, return the hosts that belong into its config.

    name, options
        The group and its validated options.
    published
        ``{minion id: facts}`` as the mine returned it; every value is suspect.
    known
        ``{minion id: host}`` of the config that stands now. Whoever is still a target but has not published
        keeps that line.
    accepted
        The minion ids that the master has accepted and that match the target, if the master said so. Whoever is
        not among them has left.

    Returns ``{"hosts": {minion id: {"name", "address", "certificate"}}, "unpublished": [minion id, …]}``, the
    hosts sorted by minion id. Raises Csync2Error, naming the minion, if a published value cannot be used.
    """
    result = {}
    for minion in sorted(published):
        if (accepted is None or minion in accepted) and matches(options["members"], minion):
            result[minion] = _host(name, minion, published[minion])
    unpublished = []
    for minion, host in sorted((known or {}).items()):
        if minion in result or not matches(options["members"], minion):
            continue
        if accepted is None or minion in accepted:
            result[minion] = host
            unpublished.append(minion)
    for field in ("name", "address"):
        owners = {}
        for minion, host in result.items():
            first = owners.setdefault(host[field], minion)
            if first != minion:
                raise Csync2Error(
                    f"minions {_shown(first)} and {_shown(minion)} both publish the {field}"
                    f" {host[field]}: csync2 cannot tell them apart; correct one of them"
                )
    return {"hosts": dict(sorted(result.items())), "unpublished": unpublished}


def _host(group, minion, facts):
    """Given one minion's published facts, return its host entry, or raise Csync2Error."""
    if not _MINION_ID.match(minion) or not isinstance(facts, dict):
        raise Csync2Error(
            f"minion {_shown(minion)} publishes no csyncsync.member facts: run state.apply csyncsync there"
        )
    name, addresses = facts.get("name"), facts.get("addresses")
    if not isinstance(name, str) or not _HOST_NAME.match(name):
        raise Csync2Error(f"minion {_shown(minion)} publishes {_shown(name)!r}, which is no host name")
    address = addresses.get(group, addresses.get("")) if isinstance(addresses, dict) else None
    try:
        ip = ipaddress.ip_address(address if isinstance(address, str) else None)
    except ValueError:
        raise Csync2Error(f"minion {_shown(minion)} publishes {_shown(address)!r}, which is no address") from None
    ip = getattr(ip, "ipv4_mapped", None) or ip  # ::ffff:10.0.0.1 is 10.0.0.1
    if ip.is_unspecified or ip.is_multicast or ip.is_loopback or getattr(ip, "scope_id", None):
        raise Csync2Error(f"minion {_shown(minion)} publishes {ip}, which the other hosts cannot reach")
    try:
        certificate = certificate_data(facts.get("certificate"))
    except Csync2Error as err:
        raise Csync2Error(f"minion {_shown(minion)} {err}") from None
    return {"name": name, "address": str(ip), "certificate": certificate}


def certificate_data(pem):
    """
    Given a certificate in PEM, return it as csync2 keeps it: the DER form in upper-case hexadecimal.

    Raises Csync2Error if it is none. (conn.c, conn_check_peer_cert())
    """
    if not isinstance(pem, str) or len(pem) > 16384 or pem.count("-----BEGIN") != 1:
        raise Csync2Error("publishes no certificate")
    try:
        der = ssl.PEM_cert_to_DER_cert(pem.strip() + "\n")
    except (ValueError, TypeError) as err:
        raise Csync2Error("publishes a certificate that is none") from err
    if not _is_der_certificate(der):
        raise Csync2Error("publishes a certificate that is none")
    return der.hex().upper()


def _is_der_certificate(der):
    """OpenSSL is asked; but it lets something follow the certificate, so the length that DER begins with has to fit."""
    start = {b"\x81": 3, b"\x82": 4}.get(der[1:2], 0)
    if int.from_bytes(der[2:start], "big") != len(der) - start:
        return False
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=der)
    except (ssl.SSLError, ValueError):
        return False
    return True


# --- The config ------------------------------------------------------------------------------------------


def context(name, options, members, key_file, due):
    """
    Given a group, its options and its hosts, return what the config template lays out.

    due
        The directory for notes of commands that are to run. Its path holds nothing that is special to a shell.

    Returns ``{"name", "tls", "tempdir", "key_file", "hosts": [{"name", "address", "receive_only"}], "include",
    "exclude", "auto", "actions", "backup_directory", "backup_generations"}``; every string in it can stand between
    quotes.
    ``commands`` is for csync2action, not for the config: ``[{"key", "exec", "logfile"}]``, each command once.
    The hosts stand in the order of their minion ids, the same on every host (csync2's ``auto: left`` needs that).
    """
    return {
        "name": name,
        "tls": options["tls"],
        "tempdir": TEMPDIR,
        "key_file": key_file,
        "hosts": [
            {
                "name": host["name"],
                "address": host["address"],
                "receive_only": receives_only(options, minion),
            }
            for minion, host in sorted(members.items())
        ],
        "include": options["include"],
        "exclude": options["exclude"],
        "auto": options["auto"],
        "actions": [_noting(action, due) for action in options["action"]],
        "commands": list(_commands_of(options["action"]).values()),
        "backup_directory": options["backup_directory"],
        "backup_generations": options["backup_generations"],
    }


def _commands_of(actions):
    """``{key: {"key", "exec", "logfile"}}`` of these actions. A key stands for a command and where its output goes."""
    commands = {}
    for action in actions:
        for command in action["exec"]:
            key = hashlib.sha256(f"{action['logfile'] or ''}\0{command}".encode()).hexdigest()[:12]
            commands[key] = {"key": key, "exec": command, "logfile": action["logfile"]}
    return commands


def _noting(action, due):
    """
    Given an action, return it as csync2 is to have it: it runs no command, but leaves a note that one is due.

    The names of files are put there by csync2: no name holds a quote (see _commands()). If they are more than a command
    line takes, csync2 cannot even start the shell, so there is a note without them as well; csync2 leaves that first
    (action.c: it sorts by the encoded command).
    """
    notes = []
    for key, command in _commands_of([action]).items():
        notes.append(f": >{due}/{key}")
        if "%%" in command["exec"]:
            notes.append(f"cd {due} && echo '%%' >.$$ && mv .$$ {key}.$$")
    kept = {option: action[option] for option in ("pattern", "do_local", "do_local_only")}
    return {**kept, "exec": notes}


# --- File names and states, as csync2 writes them --------------------------------------------------------


def encode(raw):
    """Given bytes, return them as csync2 writes them into its database (urlencode.c)."""
    return _TO_ENCODE.sub(lambda match: b"%%%02X" % ord(match.group()), raw)


def decode(text):
    """The reverse of encode()."""
    return _TO_DECODE.sub(lambda match: bytes((int(match.group(1), 16),)), text)


def check_text(path, status):
    """
    Given a path (bytes) and its lstat, return the state that csync2 would record (checktxt.c, version 1).

    Two states of one file that differ only within a second, at the same size, have the same text.
    """
    mode = status.st_mode
    text = "v1"
    if not stat.S_ISLNK(mode) and not stat.S_ISDIR(mode):
        text += f":mtime={int(status.st_mtime_ns // 10**9)}"
    text += f":mode={mode}:uid={_as_int(status.st_uid)}:gid={_as_int(status.st_gid)}"
    if stat.S_ISREG(mode):
        text += f":type=reg:size={status.st_size}"
    elif stat.S_ISDIR(mode):
        text += ":type=dir"
    elif stat.S_ISCHR(mode):
        text += f":type=chr:dev={_as_int(status.st_rdev)}"
    elif stat.S_ISBLK(mode):
        text += f":type=blk:dev={_as_int(status.st_rdev)}"
    elif stat.S_ISFIFO(mode):
        text += ":type=fifo"
    elif stat.S_ISSOCK(mode):
        text += ":type=sock"
    raw = text.encode()
    if stat.S_ISLNK(mode):
        raw += b":type=lnk:target=" + encode(os.readlink(path)[:4095])
    return raw


def is_older(status, text):
    """Given a file's lstat and a recorded state of it, tell whether the file's time is older than the recorded one."""
    recorded = re.match(rb"v1:mtime=(-?[0-9]+):", text)
    return (
        recorded is not None and stat.S_ISREG(status.st_mode) and status.st_mtime_ns // 10**9 < int(recorded.group(1))
    )


def is_made_here(path):
    """
    Tell whether there is a file that was surely made here: any other may be csync2's, recorded or not. The time
    that it gives to a file is a whole second.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_mtime_ns % 10**9 != 0


def _as_int(number):
    """A number as C's ``%d`` prints it: an id above 2147483647 is negative there."""
    return (number + 2**31) % 2**32 - 2**31


# --- csync2's database -----------------------------------------------------------------------------------


def database(directory, host, group):
    """The path of a group's database: csync2 builds it from the host's own name (db.c, db_default_database())."""
    return os.path.join(directory, f"{host.lower()}_{group}.db3")


def kept_database(directory, path):
    """Where csyncsync keeps a second name (a hard link) of a group's database, given the group's directory."""
    return os.path.join(directory, os.path.basename(path))


def copied_database(directory, path):
    """Where csyncsync keeps a copy of a group's database, given the group's directory."""
    return kept_database(directory, path) + ".copy"


def lost_database(directory, path):
    """
    What is left of the database that a group had before it was deleted, truncated, or made anew: its second name, which
    is all of it, or a copy, which may be some minutes old. None if nothing is.
    """
    kept, copied = kept_database(directory, path), copied_database(directory, path)
    if not _is_same_file(kept, path) and _is_whole(kept):
        return kept
    return copied if os.path.exists(copied) else None


def _is_same_file(path, other):
    try:
        return os.path.samefile(path, other)
    except FileNotFoundError:
        return False


def _is_whole(path):
    """Tell whether a database of SQLite is as long as its header says (fileformat2.html, 1.3: bytes 16 and 28)."""
    try:
        with open(path, "rb") as file:
            header = file.read(32)
            size = os.fstat(file.fileno()).st_size
    except OSError:
        return False
    page = int.from_bytes(header[16:18], "big")
    return len(header) == 32 and size >= (page if page > 1 else 65536) * int.from_bytes(header[28:32], "big") > 0


#: A line of csync2's table of what is to be sent: its number, the encoded name, whether the peer has to take it (0, 1),
#: this host's and the peer's encoded address.
Entry = collections.namedtuple("Entry", "rowid name forced own peer")


class Database:
    """
    csync2's database of one group, opened for as short as possible.

    A reader that stays makes csync2 give up, so use it as a context manager around one question. Raises
    sqlite3.Error where the file is missing, locked by a running transaction, or damaged.
    """

    #: PRAGMA user_version of a database that has not taken in this host's files, has recorded them, and is
    #: established (may push). csync2 itself leaves it at 0, so a database that was lost is never taken for ours.
    NEW, RECORDED, ESTABLISHED = 0, 1, 2

    def __init__(self, path, timeout=0.0, write=False):
        mode = "rw" if write else "ro"
        quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        self._db = sqlite3.connect(f"file:{quoted}?mode={mode}", uri=True, timeout=timeout, isolation_level=None)
        self._db.text_factory = bytes

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._db.close()

    def _rows(self, query, *values):
        return self._db.execute(query, values).fetchall()

    def state(self):
        """NEW, RECORDED or ESTABLISHED."""
        return self._rows("PRAGMA user_version")[0][0]

    def set_state(self, state):
        self._db.execute(f"PRAGMA user_version = {int(state)}")

    def await_writer(self):
        """Wait until nobody writes, up to the timeout: csync2 would sleep for a second (db.c: "sleeping a sec")."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("ROLLBACK")

    def is_complete(self):
        """Tell whether it has all tables: csync2 makes them one by one."""
        tables = {name for (name,) in self._rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return {b"file", b"dirty", b"hint", b"action", b"x509_cert"} <= tables

    def is_sound(self):
        """Tell whether nothing is damaged or missing; reads all of it."""
        return self._rows("PRAGMA quick_check(1)") == [(b"ok",)] and self.is_complete()

    def count(self):
        """How many files are recorded."""
        return self._rows("SELECT count(*) FROM file")[0][0]

    def size(self, most=50_000):
        """``(files, bytes)`` of all that is recorded; read in portions, so that nobody waits."""
        after, files, size = b"", 0, 0
        while after is not None:
            [(number, some, after)] = self._rows(
                "SELECT count(*), total(CASE WHEN found THEN CAST(substr(checktxt, found + 8) AS INTEGER) END),"
                " max(filename) FROM (SELECT filename, checktxt, instr(checktxt, '%3Asize=') AS found FROM file"
                " WHERE filename > CAST(? AS TEXT) ORDER BY filename LIMIT ?)",
                after,
                most,
            )
            files, size = files + number, size + int(some)
        return files, size

    def record(self, path):
        """The recorded state (as check_text() gives it) of a path in bytes, None if there is none."""
        rows = self._rows("SELECT checktxt FROM file WHERE filename = CAST(? AS TEXT)", encode(path))
        return decode(rows[0][0]) if rows else None

    def records(self, paths):
        """
        ``({path: record}, {path, …} of those that are to be sent to anybody)`` of these paths, a few hundred at most.

        Two short reads: whatever csync2 commits while somebody reads, it commits a second later.
        """
        names = [encode(path) for path in paths]
        among = f"filename IN ({', '.join(['CAST(? AS TEXT)'] * len(names))})"
        rows = self._rows(f"SELECT filename, checktxt FROM file WHERE {among}", *names)
        dirty = self._rows(f"SELECT DISTINCT filename FROM dirty WHERE {among}", *names)
        return {decode(name): decode(text) for name, text in rows}, {decode(name) for (name,) in dirty}

    def has_below(self, path):
        """Tell whether anything is recorded below this directory."""
        name = encode(path)
        return bool(
            self._rows(
                "SELECT 1 FROM file WHERE filename > CAST(? AS TEXT) AND filename < CAST(? AS TEXT) LIMIT 1",
                name + b"/",
                name + b"0",
            )
        )

    def below(self, path):
        """What is recorded of a directory and everything below it, as paths in bytes."""
        name = encode(path)
        rows = self._rows(
            "SELECT filename FROM file WHERE filename = CAST(? AS TEXT)"
            " OR (filename > CAST(? AS TEXT) AND filename < CAST(? AS TEXT))",
            name,
            name + b"/",
            name + b"0",
        )
        return [decode(row) for (row,) in rows]

    def latest(self, most):
        """The paths, in bytes, that were recorded last: the latest first, so many at most."""
        return [decode(name) for (name,) in self._rows("SELECT filename FROM file ORDER BY rowid DESC LIMIT ?", most)]

    def is_dirty(self, path):
        """Tell whether a path in bytes is to be sent to anybody."""
        return bool(self._rows("SELECT 1 FROM dirty WHERE filename = CAST(? AS TEXT) LIMIT 1", encode(path)))

    def dirty(self, peers=None):
        """What is still to be sent (to some peers): ``[(path in bytes, peer's address, forced), …]``."""
        names = None if peers is None else [encode(peer.encode()) for peer in peers]
        wanted = "" if names is None else f" WHERE peername IN ({', '.join(['CAST(? AS TEXT)'] * len(names))})"
        rows = self._rows(f"SELECT filename, peername, forced FROM dirty{wanted} ORDER BY filename", *(names or ()))
        return [(decode(name), decode(peer).decode(), forced in (1, b"1")) for name, peer, forced in rows]

    def dirty_peers(self):
        """``{peer's address: how many entries}``."""
        rows = self._rows("SELECT peername, count(*) FROM dirty GROUP BY peername")
        return {decode(peer).decode(): number for peer, number in rows}

    def part(self, peer, after, most):
        """
        What is to be sent to one peer: at most so many entries, in the order of their names, after a name.

        Returns a list of Entry.
        """
        rows = self._rows(
            "SELECT rowid, filename, forced, myname, peername FROM dirty WHERE peername = CAST(? AS TEXT)"
            " AND filename > CAST(? AS TEXT) ORDER BY filename LIMIT ?",
            encode(peer.encode()),
            after,
            most,
        )
        return [Entry(*row) for row in rows]

    def above_dirty(self, peer, first, last):
        """The encoded names between two, as a set, that are to be sent to a peer, as is something below them."""
        rows = self._rows(
            "SELECT filename FROM dirty AS above WHERE peername = CAST(? AS TEXT)"
            " AND filename >= CAST(? AS TEXT) AND filename <= CAST(? AS TEXT)"
            " AND EXISTS (SELECT 1 FROM dirty WHERE peername = above.peername"
            " AND filename > above.filename || '/' AND filename < above.filename || '0')",
            encode(peer.encode()),
            first,
            last,
        )
        return {name for (name,) in rows}

    def copy(self, path, entries):
        """Put entries of part(), and no file's record, into a new database of the same shape."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        copy = sqlite3.connect(path, isolation_level=None)
        try:
            copy.execute("BEGIN")
            for (statement,) in self._rows("SELECT sql FROM sqlite_master WHERE type = 'table'"):
                copy.execute(statement.decode())
            copy.executemany(
                "INSERT INTO dirty (filename, forced, myname, peername)"
                " VALUES (CAST(? AS TEXT), ?, CAST(? AS TEXT), CAST(? AS TEXT))",
                [entry[1:] for entry in entries],
            )
            copy.executemany(
                "INSERT INTO x509_cert (peername, certdata) VALUES (CAST(? AS TEXT), CAST(? AS TEXT))",
                self._rows("SELECT peername, certdata FROM x509_cert"),
            )
            copy.execute("COMMIT")
        finally:
            copy.close()

    def empty(self):
        """Forget all files, and what is to be sent of them: NEW again, but for the pins."""
        self._db.execute("BEGIN IMMEDIATE")
        for table in ("file", "dirty", "hint", "action"):
            self._db.execute(f"DELETE FROM {table}")
        self._db.execute(f"PRAGMA user_version = {self.NEW}")
        self._db.execute("COMMIT")

    def backup(self, path, durable=True):
        """Copy the whole database; durable: also if the power fails."""
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as copy:
            if not durable:
                copy.execute("PRAGMA synchronous = OFF")
            self._db.backup(copy)

    def dirty_names(self):
        """The encoded names of all that is to be sent, as a set."""
        return {name for (name,) in self._rows("SELECT filename FROM dirty")}

    def hidden(self, tops=None):
        """Paths, in bytes, of what has a name that begins with a dot: all to be sent, or all recorded below tops."""
        if tops is None:
            names = self._rows("SELECT DISTINCT filename FROM dirty WHERE filename GLOB '*/.*'")
        else:
            query = "SELECT filename FROM file WHERE filename GLOB '*/.*' AND filename >= CAST(? AS TEXT)"
            query += " AND filename < CAST(? AS TEXT)"
            names = []
            for top in map(encode, tops):
                names += self._rows(query, top, top.rstrip(b"/") + b"0")
        paths = (decode(name) for (name,) in names)
        return {path for path in paths if os.path.basename(path).startswith(b".")}

    def forget(self, paths):
        """Drop what is recorded of paths and that they are to be sent: the next check finds them as new ones."""
        self._db.execute("BEGIN IMMEDIATE")
        for table in ("dirty", "file"):
            query = f"DELETE FROM {table} WHERE filename = CAST(? AS TEXT)"
            self._db.executemany(query, [(encode(path),) for path in paths])
        self._db.execute("COMMIT")

    def discharge(self, peer, entries):
        """Drop what has been sent to a peer: entries as part() gave them."""
        name = encode(peer.encode())
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(
            "DELETE FROM dirty WHERE rowid = ? AND filename = CAST(? AS TEXT) AND peername = CAST(? AS TEXT)",
            [(rowid, filename, name) for rowid, filename, *_ in entries],
        )
        self._db.execute("COMMIT")

    def keep_dirty(self, wanted):
        """Drop what is to be sent but for the (path, peer) pairs for which wanted(path, peer) is true."""
        drop = [(encode(path), encode(peer.encode())) for path, peer, _ in self.dirty() if not wanted(path, peer)]
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("DELETE FROM dirty WHERE filename = CAST(? AS TEXT) AND peername = CAST(? AS TEXT)", drop)
        self._db.execute("COMMIT")

    def contents(self, most=10_000):
        """The paths, in bytes, of all recorded files that have content; read in portions, so that nobody waits."""
        wanted = "checktxt LIKE '%type=reg%' AND checktxt NOT LIKE '%size=0'"
        return (path for path, _ in self._portions(wanted, most))

    def states(self, most=10_000):
        """``(path in bytes, its recorded state)`` of all files, in the order of their names; read in portions."""
        return self._portions("1", most)

    def _portions(self, wanted, most):
        after = b""
        while True:
            rows = self._rows(
                f"SELECT filename, checktxt FROM file WHERE filename > CAST(? AS TEXT) AND {wanted}"
                " ORDER BY filename LIMIT ?",
                after,
                most,
            )
            if not rows:
                return
            yield from ((decode(name), decode(text)) for name, text in rows)
            after = rows[-1][0]

    def record_ends(self, tops):
        """
        Record below each of these directories a path that no file can have, and that stands behind all others there.
        Returns them as a set.
        """
        ends = {top.rstrip(b"/") + b"/" + b"\xff" * 256 for top in tops}
        self._db.executemany(
            "INSERT INTO file (filename, checktxt) VALUES (CAST(? AS TEXT), '-')", [(encode(end),) for end in ends]
        )
        return ends

    def mark(self, paths, name, peer, most=10_000):
        """
        Mark paths, a list, as to be sent to one peer; csync2 then compares contents with it. In portions, so that
        nobody waits.
        """
        name, peer = encode(name.encode()), encode(peer.encode())
        for start in range(0, len(paths), most):
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT OR IGNORE INTO dirty (filename, forced, myname, peername)"
                " VALUES (CAST(? AS TEXT), 0, CAST(? AS TEXT), CAST(? AS TEXT))",
                [(encode(path), name, peer) for path in paths[start : start + most]],
            )
            self._db.execute("COMMIT")

    def force(self, paths, name, peer):
        """Mark paths as to be sent to one peer whatever it says (csync2 -f)."""
        self.mark(paths, name, peer)
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(
            "UPDATE dirty SET forced = 1 WHERE filename = CAST(? AS TEXT) AND peername = CAST(? AS TEXT)",
            [(encode(path), encode(peer.encode())) for path in paths],
        )
        self._db.execute("COMMIT")

    def certificates(self):
        """The pinned certificates: ``{peer's address: certificate as certificate_data() gives it}``."""
        rows = self._rows("SELECT peername, certdata FROM x509_cert")
        return {decode(peer).decode(): data.decode() for peer, data in rows}

    def pin(self, certificates):
        """Make the pinned certificates exactly these: ``{peer's address: certificate}``."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("DELETE FROM x509_cert")
        self._db.executemany(
            "INSERT INTO x509_cert (peername, certdata) VALUES (CAST(? AS TEXT), ?)",
            [(encode(peer.encode()), data) for peer, data in sorted(certificates.items())],
        )
        self._db.execute("COMMIT")


# --- Contents --------------------------------------------------------------------------------------------

#: How many digests stand for all files of a group: few enough for one message, so many that one differing file
#: makes few others be compared.
DIGESTS = 4096


def digest_slot(path):
    """Given a path in bytes, return which of the DIGESTS digests it goes into."""
    return int.from_bytes(hashlib.blake2b(path, digest_size=2).digest(), "big") % DIGESTS


def digests(paths):
    """
    Given paths of files, return DIGESTS digests of their names and contents, each 16 hexadecimal digits.

    Two hosts have the same digest where they have the same files with the same contents. A file that cannot be read
    counts as missing. Symlinks are not followed.
    """
    slots = [0] * DIGESTS
    for path in paths:
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    continue
                content = hashlib.blake2b(path + b"\0", digest_size=8)
                while chunk := file.read(1 << 20):
                    content.update(chunk)
        except OSError:
            continue
        slots[digest_slot(path)] ^= int.from_bytes(content.digest(), "big")
    return [f"{slot:016x}" for slot in slots]
