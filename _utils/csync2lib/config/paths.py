"""The options of a group that name paths: what is synchronized, what is not, and where old versions are kept."""

from __future__ import annotations

import re

from csync2lib.config.values import Problems, is_below, path_problem, shown, strings, unquotable

#: Trees that csync2 must never carry: virtual file systems and its own, and our, state.
_NEVER_BELOW = ("/proc", "/sys", "/dev", "/run", "/etc/csync2", "/var/lib/csync2", "/var/lib/csyncsync")
_NEVER_ABOVE = (*_NEVER_BELOW, "/etc/csync2.cfg")


def paths_of(value: object) -> object:
    """The paths of ``include``: an item may be ``{file: PATH}``, to say that it is a file, be it there or not."""
    if not isinstance(value, list):
        return value
    return [item["file"] if isinstance(item, dict) and set(item) == {"file"} else item for item in value]


def files_of(value: object, checked: list[str]) -> list[str]:
    """Those of the checked paths of ``include`` that are said to be files."""
    items = [item.get("file") for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    return [path for path in checked if any(isinstance(item, str) and item.rstrip("/") == path for item in items)]


def include(value: object, problems: Problems) -> list[str]:
    paths: list[str] = []
    for where, item in strings("include", paths_of(value), problems, "paths, or {file: PATH}"):
        problem, path = path_problem(item), item.rstrip("/")
        if not problem and re.search(r"[*?\[\]\\]", item):
            problem = "holds one of * ? [ ] \\, which csync2 takes for a pattern: name the directory itself"
        if not problem and any(is_below(path, top) for top in _NEVER_BELOW):
            problem = "belongs to the system or to csync2 itself, and must not be synchronized"
        if not problem and re.match(r"/etc/csync2[._]", path):
            problem = "is a file of csync2's own configuration"
        if not problem and (inner := next((p for p in _NEVER_ABOVE if is_below(p, path)), "")):
            problem = f"would synchronize {inner} too: name the directories below it"
        if problem:
            problems.add(where, f"{shown(item)!r} {problem}")
        elif path not in paths:
            paths.append(path)
    if not paths and not problems.messages:
        problems.add("include", "is empty: name at least one directory, or {file: PATH}")
    return paths


def exclude(value: object, problems: Problems) -> list[str]:
    patterns = []
    for where, item in strings("exclude", value, problems, "patterns"):
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


def backup_directory(value: object, problems: Problems) -> str | None:
    problem = unquotable(value) or path_problem(value) if isinstance(value, str) else "is not a string"
    if not isinstance(value, str) or problem:
        problems.add("backup_directory", f"{shown(value)!r} {problem}")
        return None
    return value.rstrip("/")
