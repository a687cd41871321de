"""
The schema of ``csyncsync:groups`` in the pillar: which options a group has, what each may be, and its default.

May call the standard library, csync2's names and excludes only: it runs on the minion and on the master alike.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from csync2lib.config import paths
from csync2lib.config.action import actions
from csync2lib.config.defaults import HOLD
from csync2lib.config.values import CONTROL, MINION_ID, Problems, is_below, kind, known_options, shown, strings, text
from csync2lib.csync2.excludes import Excludes
from csync2lib.csync2.names import is_group_name

TARGET_TYPES = ("glob", "list", "pcre")
#: csync2's cfgfile_parser.y, set_auto()
AUTO_METHODS = ("none", "first", "younger", "older", "bigger", "smaller", "left", "right")
#: cfgfile_parser.y, set_key(): read by fgets() into 1024 bytes, at least 32 characters.
_KEY = re.compile(r"[A-Za-z0-9._]{32,1022}\Z")
#: Given an option's value and where to note what is wrong, returns the value as it is used.
Check = Callable[[Any, Problems], Any]


# --- The pillar ------------------------------------------------------------------------------------------


def validate(groups: object) -> dict[str, Any]:
    """
    Given ``csyncsync:groups`` of the pillar, of any type and from any hand, return the groups that are usable and what
    is wrong with the rest: ``{"groups": {name: options}, "errors": {name: [message, …]}}``. Never raises.

    Options are complete (every key of OPTIONS is there, with its default) and their values have one shape each.
    ``files`` has those of ``include`` that are said to be files. Each message begins with the pillar path. An error of
    the whole (not a mapping) stands under the name ``""``.
    """
    result: dict[str, Any] = {"groups": {}, "errors": {}}
    if groups is None:
        return result
    if not isinstance(groups, dict):
        result["errors"][""] = [f"csyncsync:groups is a {kind(groups)}, not a mapping of group names to options"]
        return result
    for name, options in groups.items():
        problems = Problems(f"csyncsync:groups:{shown(name)}")
        checked = _validate_group(name, options, problems)
        if problems.messages:
            result["errors"].setdefault(text(name), []).extend(problems.messages)
        else:
            result["groups"][name] = checked
    for messages_of in (_overlaps(groups), _shared_backups(result["groups"])):
        for name, messages in messages_of.items():
            result["errors"].setdefault(name, []).extend(messages)
    for name in result["errors"]:
        result["groups"].pop(name, None)
    return result


def _validate_group(name: object, options: object, problems: Problems) -> dict[str, Any] | None:
    if not is_group_name(name):
        problems.add("", "is no group name: csync2 takes only [a-z0-9]+ (quote a name of digits), up to 64 characters")
    if not isinstance(options, dict):
        problems.add("", f"is a {kind(options)}, not a mapping of options")
        return None
    given = known_options("", options, OPTIONS, problems)
    for needed in ("members", "include"):
        if needed not in given:
            problems.add(needed, "is missing")
    checked = {
        option: check(given[option], problems) if option in given else default
        for option, (check, default) in _CHECKS.items()
    }
    checked["files"] = paths.files_of(given.get("include"), checked["include"])
    excludes = Excludes(map(os.fsencode, checked["exclude"]))
    for path in checked["include"]:
        if excludes.match(os.fsencode(path), os.fsencode(os.path.basename(path))):
            problems.add("include", f"{shown(path)!r} is left out by {problems.path}:exclude")
    backup = checked["backup_directory"]
    if backup and any(is_below(backup, path) for path in checked["include"]):
        problems.add("backup_directory", f"{shown(backup)!r} lies in an include: the backups would be synchronized")
    if checked["seed"] and matches_any(checked["receive_only"], text(checked["seed"])):
        named = checked["members"] or {}
        others = named["tgt"] if named.get("tgt_type") == "list" else ()
        could = [text(minion) for minion in others if not matches_any(checked["receive_only"], text(minion))]
        there = ", ".join(map(shown, could)) or f"a member that {problems.path}:receive_only does not cover"
        problems.add("seed", f"{shown(checked['seed'])!r} only receives ({problems.path}:receive_only): name {there}")
    return checked


# --- The options -----------------------------------------------------------------------------------------


def members(value: Any, problems: Problems) -> dict[str, Any] | None:
    """``{"tgt": …, "tgt_type": …}``, whichever way it is written; None if nobody can know who is meant."""
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
    if not isinstance(tgt, str) or not tgt or CONTROL.search(tgt):
        problems.add("members", f"{shown(tgt)!r} is no {tgt_type} of minion ids")
        return None
    if tgt_type == "pcre":
        try:
            re.compile(tgt)
        except (re.error, OverflowError, RecursionError) as err:
            problems.add("members:tgt", f"{shown(tgt)!r} is no regular expression: {shown(str(err))}")
            return None
    return {"tgt": tgt, "tgt_type": tgt_type}


def _single(option: str, is_good: Callable[[Any], object], why: str) -> Check:
    """The check of an option that is one value, and stays as it is."""

    def check(value: Any, problems: Problems) -> Any:
        if not is_good(value):
            problems.add(option, f"{shown(value)!r} {why}")
        return value

    return check


def _receive_only(value: Any, problems: Problems) -> Any:
    minions = []
    for where, item in strings("receive_only", value, problems, "minion ids"):
        if not MINION_ID.match(item):
            problems.add(where, f"{shown(item)!r} is no minion id")
        minions.append(item)
    return minions


def matches_any(patterns: Iterable[str], minion: str) -> bool:
    """Tell whether one of these patterns of minion ids, as ``receive_only`` has them, covers this one."""
    return any(fnmatch.fnmatchcase(minion, pattern) for pattern in patterns)


def _hold(value: Any, problems: Problems) -> Any:
    if not isinstance(value, dict):
        problems.add("hold", f"is a {kind(value)}, not a mapping of number and share")
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


def _address(value: Any, problems: Problems) -> Any:
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


def _group_key(value: Any, problems: Problems) -> Any:
    # The value is a secret: never put it into a message.
    if not isinstance(value, str) or not _KEY.match(value):
        problems.add(
            "key",
            "is no csync2 key: 32 to 1022 characters of [A-Za-z0-9._] (csync2 -k FILE makes one; not shown here)",
        )
    return value


#: option -> (its check, its default). Hyphens may stand for underscores.
_CHECKS: dict[str, tuple[Check, Any]] = {
    "members": (members, None),
    "include": (paths.include, []),
    "exclude": (paths.exclude, []),
    "auto": (_single("auto", lambda value: value in AUTO_METHODS, f"is none of {', '.join(AUTO_METHODS)}"), "none"),
    "action": (actions, []),
    "backup_directory": (paths.backup_directory, None),
    "backup_generations": (
        _single("backup_generations", lambda n: type(n) is int and 2 <= n <= 10000, "is no number from 2 to 10000"),
        None,
    ),
    "receive_only": (_receive_only, []),
    "hold": (_hold, HOLD),
    "address": (_address, None),
    "seed": (_single("seed", lambda id_: isinstance(id_, str) and MINION_ID.match(id_), "is no minion id"), None),
    "tls": (_single("tls", lambda value: isinstance(value, bool), "is neither true nor false"), True),
    "key": (_group_key, None),
}
#: The keys of a group in the pillar.
OPTIONS = tuple(_CHECKS)


# --- Between groups --------------------------------------------------------------------------------------


def _overlaps(groups: dict[Any, Any]) -> dict[str, list[str]]:
    """Given the raw groups, return {name: [message]} for includes that two groups share."""
    seen: list[tuple[str, int, str]] = []
    messages: dict[str, list[str]] = {}
    for name, options in groups.items():
        given = paths.paths_of(options.get("include") if isinstance(options, dict) else None)
        for i, path in enumerate([given] if isinstance(given, str) else given if isinstance(given, list) else []):
            if isinstance(path, str) and path.startswith("/"):
                seen.append((text(name), i, path.rstrip("/") or "/"))
    for name, i, path in seen:
        for other, j, theirs in seen:
            if other != name and (is_below(path, theirs) or is_below(theirs, path)):
                messages.setdefault(name, []).append(
                    f"csyncsync:groups:{shown(name)}:include:{i} {shown(path)!r} overlaps"
                    f" csyncsync:groups:{shown(other)}:include:{j} {shown(theirs)!r}: a path can be in one group only"
                )
    return messages


def _shared_backups(groups: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Given the checked groups, return {name: [message]} for backups that another group would synchronize."""
    return {
        name: [
            f"csyncsync:groups:{name}:backup_directory {shown(options['backup_directory'])!r} lies in"
            f" csyncsync:groups:{other}:include: the backups would be synchronized"
        ]
        for name, options in groups.items()
        for other, theirs in groups.items()
        if other != name and options["backup_directory"]
        if any(is_below(options["backup_directory"], path) for path in theirs["include"])
    }
