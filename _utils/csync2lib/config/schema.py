"""
What csync2 and the ``csyncsync`` pillar mean, in plain Python.

This room knows csync2's grammar and limits, the schema of a group, the template's context, and csync2's
database. It may call the standard library only: no Salt, no commands, so that it runs (and is tested)
anywhere, on the minion and on the master alike.

Paths of synchronized files are ``bytes`` everywhere, because a file name need not be UTF-8.
"""

import ipaddress
import re
import reprlib

from csync2lib.csync2.names import is_group_name

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
#: cfgfile_parser.y, set_key(): read by fgets() into 1024 bytes, at least 32 characters.
_KEY = re.compile(r"[A-Za-z0-9._]{32,1022}\Z")
MINION_ID = re.compile(r"[^\s/\\\x00-\x1f\x7f\"']{1,255}\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

#: Trees that csync2 must never carry: virtual file systems and its own, and our, state.
_NEVER_BELOW = ("/proc", "/sys", "/dev", "/run", "/etc/csync2", "/var/lib/csync2", "/var/lib/csyncsync")
_NEVER_ABOVE = (*_NEVER_BELOW, "/etc/csync2.cfg")


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
        problems = Problems(f"csyncsync:groups:{shown(name)}")
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


class Problems:
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


def shown(value, limit=80):
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
            problems.add(shown(option), f"is no option; there are: {', '.join(OPTIONS)}")
        elif known in given:
            problems.add(shown(option), "stands there twice")
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
        problems.add("backup_directory", f"{shown(backup)!r} lies in an include: the backups would be synchronized")
    return checked


def members(value, problems):
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
            f"{shown(tgt_type)!r} is none of {', '.join(TARGET_TYPES)}"
            " (grains and pillar are shaped by the minion itself, so they cannot decide who is a member)",
        )
        return None
    if tgt_type == "list":
        tgt = tgt.split(",") if isinstance(tgt, str) else tgt
        if not isinstance(tgt, list) or not tgt:
            problems.add("members", "is an empty list of minion ids" if tgt == [] else "is no list of minion ids")
            return None
        for i, minion in enumerate(tgt):
            if not isinstance(minion, str) or not MINION_ID.match(minion):
                problems.add(f"members:{i}", f"{shown(minion)!r} is no minion id")
        return {"tgt": tgt, "tgt_type": "list"}
    if not isinstance(tgt, str) or not tgt or _CONTROL.search(tgt):
        problems.add("members", f"{shown(tgt)!r} is no {tgt_type} of minion ids")
        return None
    if tgt_type == "pcre":
        try:
            re.compile(tgt)
        except (re.error, OverflowError, RecursionError) as err:
            problems.add("members:tgt", f"{shown(tgt)!r} is no regular expression: {shown(str(err))}")
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
            problems.add(where, f"{shown(item)!r} is a {_kind(item)}, not a string")
        elif problem := _unquotable(item):
            problems.add(where, f"{shown(item)!r} {problem}")
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
            problems.add(where, f"{shown(item)!r} {problem}")
        elif path not in paths:
            paths.append(path)
    if not paths and not problems.messages:
        problems.add("include", "is empty: name at least one directory")
    return paths


def _exclude(value, problems):
    patterns = []
    for where, item in _strings("exclude", value, problems, "patterns"):
        if item.startswith("%"):
            problems.add(where, f"{shown(item)!r} begins with %, which csync2 takes for a prefix")
        elif not item.startswith("/") and "/" in item.rstrip("/"):
            problems.add(
                where,
                f"{shown(item)!r} would never match: write a name without '/', or a pattern that begins with '/'",
            )
        else:
            patterns.append(item)
    return patterns


def _auto(value, problems):
    if value not in AUTO_METHODS:
        problems.add("auto", f"{shown(value)!r} is none of {', '.join(AUTO_METHODS)}")
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
            problems.add(f"{where}:{shown(option)}", f"is no option; there are: {', '.join(ACTION_OPTIONS)}")
        elif known in given:
            problems.add(f"{where}:{shown(option)}", "stands there twice")
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
        problems.add(f"{where}:logfile", f"{shown(logfile)!r} is not an absolute path")
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
            problems.add(where, f"{shown(item)!r} would never match: begin it with '/', or with '**'")
    return patterns


def _backup_directory(value, problems):
    problem = "is not a string" if not isinstance(value, str) else _unquotable(value) or _path_problem(value)
    if problem:
        problems.add("backup_directory", f"{shown(value)!r} {problem}")
        return None
    return value.rstrip("/")


def _backup_generations(value, problems):
    if isinstance(value, bool) or not isinstance(value, int) or not 2 <= value <= 10000:
        problems.add("backup_generations", f"{shown(value)!r} is no number from 2 to 10000")
    return value


def _receive_only(value, problems):
    minions = []
    for where, item in _strings("receive_only", value, problems, "minion ids"):
        if not MINION_ID.match(item):
            problems.add(where, f"{shown(item)!r} is no minion id")
        minions.append(item)
    return minions


def _hold(value, problems):
    if not isinstance(value, dict):
        problems.add("hold", f"is a {_kind(value)}, not a mapping of number and share")
        return HOLD
    for name in value:
        if name not in HOLD:
            problems.add(f"hold:{shown(name)}", f"is no option; there are: {', '.join(HOLD)}")
    found = {**HOLD, **{name: value[name] for name in HOLD if name in value}}
    if isinstance(found["number"], bool) or not isinstance(found["number"], int) or not 0 <= found["number"] < 2**31:
        problems.add("hold:number", f"{shown(found['number'])!r} is no number of files")
    if isinstance(found["share"], bool) or not isinstance(found["share"], (int, float)) or not 0 <= found["share"] <= 1:
        problems.add("hold:share", f"{shown(found['share'])!r} is no share from 0 to 1")
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
        problems.add("address", f"{shown(value)!r} is no interface, no network such as 10.1.0.0/24, and no address")
        return None


def _seed(value, problems):
    if not isinstance(value, str) or not MINION_ID.match(value):
        problems.add("seed", f"{shown(value)!r} is no minion id")
    return value


def _tls(value, problems):
    if not isinstance(value, bool):
        problems.add("tls", f"{shown(value)!r} is neither true nor false")
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
    "members": (members, None),
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
                    f"csyncsync:groups:{shown(name)}:include:{i} {shown(path)!r} overlaps"
                    f" csyncsync:groups:{shown(other)}:include:{j} {shown(theirs)!r}: a path can be in one group only"
                )
    return messages


def _shared_backups(groups):
    """Given the checked groups, return {name: [message]} for backups that another group would synchronize."""
    return {
        name: [
            f"csyncsync:groups:{name}:backup_directory {shown(options['backup_directory'])!r} lies in"
            f" csyncsync:groups:{other}:include: the backups would be synchronized"
        ]
        for name, options in groups.items()
        for other, theirs in groups.items()
        if other != name and options["backup_directory"]
        if any(_below(options["backup_directory"], path) for path in theirs["include"])
    }
