"""
Checks of single values of the pillar: what a path, a name or a list of strings may be, and how a message shows a value.

The values come from any hand: of any type and any size.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from typing import Any

MINION_ID = re.compile(r"[^\s/\\\x00-\x1f\x7f\"']{1,255}\Z")
#: What no line of csync2's config can hold.
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Problems:
    """Messages below one pillar path."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.messages: list[str] = []

    def add(self, where: str, problem: str) -> None:
        self.messages.append(f"{self.path}{':' + where if where else ''} {problem}")


# --- A value in a message --------------------------------------------------------------------------------


def kind(value: object) -> str:
    """What YAML calls a value of this type."""
    names = {dict: "mapping", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), type(value).__name__)


#: As much of a tree as a message shows. YAML's aliases make trees that are small in memory and endless as text.
_BRIEFLY = reprlib.Repr()
_BRIEFLY.maxlevel, _BRIEFLY.maxother = 3, 200


def text(value: object) -> str:
    """Any value as text: of a tree its beginning, of a number of 5000 digits or of anything else its kind."""
    try:
        return value if isinstance(value, str) else _BRIEFLY.repr(value)
    except (ValueError, RecursionError):
        return f"(a {kind(value)})"


def shown(value: object, limit: int = 80) -> str:
    """Any value, short and printable, for an error message."""
    escaped = text(value).encode("unicode_escape", "backslashreplace").decode("ascii")
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


# --- Checks ----------------------------------------------------------------------------------------------


def known_options(where: str, options: dict[Any, Any], known: Iterable[str], problems: Problems) -> dict[str, Any]:
    """The options of a mapping that there are, hyphens in their names replaced by underscores."""
    names, given = tuple(known), {}
    for option, value in options.items():
        name = option.replace("-", "_") if isinstance(option, str) else option
        place = f"{where}:{shown(option)}" if where else shown(option)
        if name not in names:
            problems.add(place, f"is no option; there are: {', '.join(names)}")
        elif name in given:
            problems.add(place, "stands there twice")
        else:
            given[name] = value
    return given


def strings(option: str, value: object, problems: Problems, what: str) -> list[tuple[str, str]]:
    """``[(where, string), …]`` of a list of quotable strings; one string stands for a list of one."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        problems.add(option, f"is a {kind(value)}, not a list of {what}")
        return []
    good = []
    for i, item in enumerate(items):
        where = f"{option}:{i}" if isinstance(value, list) else option
        if not isinstance(item, str):
            problems.add(where, f"{shown(item)!r} is a {kind(item)}, not a string")
        elif problem := unquotable(item):
            problems.add(where, f"{shown(item)!r} {problem}")
        else:
            good.append((where, item))
    return good


def unquotable(string: str) -> str:
    """Why csync2's config cannot carry this string between quotes ("" if it can)."""
    if not string.strip():
        return "is empty"
    if '"' in string:
        return 'holds a ", and csync2 knows no escape for it'
    if CONTROL.search(string):
        return "holds a newline or another control character"
    try:
        size = len(string.encode("utf-8"))
    except UnicodeEncodeError:
        return "is no valid Unicode"
    return "is longer than 4000 bytes" if size > 4000 else ""


def path_problem(path: str) -> str:
    """Why this is no plain absolute path ("" if it is one)."""
    if not path.startswith("/"):
        return "is not an absolute path"
    if path.strip("/") == "":
        return "is the whole file system: name the directories to synchronize"
    if any(part in ("", ".", "..") for part in path.rstrip("/")[1:].split("/")):
        return "is not a normal path: leave out '//', '.' and '..'"
    return ""


def is_below(path: str, top: str) -> bool:
    """Tell whether a path is a directory, or lies below it."""
    return path == top or path.startswith(top + "/")
