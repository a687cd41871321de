"""The option ``action``: which commands run on a host when which files have changed there."""

from __future__ import annotations

import re
from typing import Any

from csync2lib.config.values import Problems, kind, known_options, path_problem, shown, strings, unquotable

ACTION_OPTIONS = ("pattern", "exec", "logfile", "do_local", "do_local_only")
#: A command up to the end of a single-quoted string that begins where the shell reads plain text. All shells are to
#: read alike what stands before it, so this leaves out double quotes, $'…', ${…} but for a name, arithmetic ($((…)),
#: ((…)), $[…], [[…]], indices of arrays), here-documents, comments, what is quoted in backquotes, and
#: the words of >& (bash expands these twice).
_QUOTED = re.compile(
    r"""(?: [^'"`\\$\#(\[<>]
          | \\.
          | '[^']*'
          | \$ (?: [\w@*?!$-] | \#(?![\w'"`\\$({]) | \{\w+\} | \((?!\() )
          | \((?!\()
          | `[^'"`\\$\#(\[<>]*`
          | (?<=[\w./:,=@%+-])\#
          | >(?!&) | <(?![<&]) | [<>]&[\d-](?=[\s;&|)])
          | (?<![^\s;&|(])\[(?=\s)
          | \[[\w.!^-]+\](?![='])
        )*? '(?P<quoted>[^']*%%[^']*)'""",
    re.VERBOSE | re.ASCII,
)


def actions(value: object, problems: Problems) -> list[Any]:
    found = [value] if isinstance(value, dict) else value
    if not isinstance(found, list):
        problems.add("action", f"is a {kind(value)}, not a list of actions")
        return []
    return [_action(f"action:{i}", action, problems) for i, action in enumerate(found)]


def _action(where: str, action: object, problems: Problems) -> dict[str, Any] | None:
    if not isinstance(action, dict):
        problems.add(where, f"is a {kind(action)}, not a mapping of options")
        return None
    given = known_options(where, action, ACTION_OPTIONS, problems)
    if given.get("exec") == []:
        problems.add(f"{where}:exec", "is empty: name at least one command")
    if "exec" not in given:
        problems.add(f"{where}:exec", "is missing")
    for flag in ("do_local", "do_local_only"):
        if not isinstance(given.get(flag, False), bool):
            problems.add(f"{where}:{flag}", "is neither true nor false")
    logfile = given.get("logfile")
    if logfile is not None and (not isinstance(logfile, str) or unquotable(logfile) or path_problem(logfile)):
        problems.add(f"{where}:logfile", f"{shown(logfile)!r} is not an absolute path")
    return {
        "pattern": _patterns(f"{where}:pattern", given.get("pattern", []), problems),
        "exec": _commands(f"{where}:exec", given.get("exec", []), problems),
        "logfile": logfile,
        "do_local": given.get("do_local", False),
        "do_local_only": given.get("do_local_only", False),
    }


def _commands(option: str, value: object, problems: Problems) -> list[str]:
    """
    Commands for root's shell. csync2 puts the names of files where "%%" stands first, as its database has them
    (action.c): spaces and quotes are %XX there, but not the characters ; & ` ( and >.
    """
    commands = []
    for where, item in strings(option, value, problems, "commands"):
        if "%%" in item and not is_quoted(item):
            problems.add(
                where,
                "has %% outside of single quotes, or after what shells may read in other ways: a file's name could run"
                " commands there. Write it as in: logger -t csync2 '%%'",
            )
        commands.append(item)
    return commands


def is_quoted(command: str) -> bool:
    """Tell whether the first %% of a command surely stands in a string that single quotes make one."""
    found = _QUOTED.match(command)
    return found is not None and found.start("quoted") <= command.index("%%")


def _patterns(option: str, value: object, problems: Problems) -> list[str]:
    """csync2 compares an action's patterns with whole paths, and strips no '/' from their end (action.c)."""
    patterns = []
    for where, item in strings(option, value, problems, "patterns"):
        if item.startswith("/") or item == "*" or (item.startswith("*") and "**" in item):
            patterns.append(item.rstrip("/") or item)
        else:
            problems.add(where, f"{shown(item)!r} would never match: begin it with '/', or with '**'")
    return patterns
