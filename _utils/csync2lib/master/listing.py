"""
Paths, and what hosts have there, asked for and shown.

Between hosts and master paths are percent-encoded, because a file name need not be UTF-8; people read and type them.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable
from typing import Any

from csync2lib.master.cluster import Cluster, mappings
from csync2lib.report.words import one_line


def readable(path: str) -> str:
    """
    A percent-encoded path as people read it, and give it back; what cannot be printed, as a newline, as ``\\x0a``, and
    a blank at the end, which Salt strips from arguments, as ``\\x20``.
    """
    text = one_line(urllib.parse.unquote_to_bytes(path).decode("utf-8", "backslashreplace"))
    return f"{text[:-1]}\\x20" if text.endswith(" ") else text


def encoded(path: object) -> str:
    """The reverse of readable()."""
    raw = str(path).encode("utf-8", "surrogateescape")
    raw = re.sub(rb"\\x([0189a-f][0-9a-f]|7f|20$)", lambda byte: bytes.fromhex(byte[1].decode()), raw)
    return urllib.parse.quote_from_bytes(raw.rstrip(b"/"))


#: ``{minion id: what it has at a path}``, as csync2lib.versions describes it.
Versions = dict[str, dict[str, Any]]


def versions(
    cluster: Cluster, group: str, members: list[str], paths: Iterable[str], text: bool = False
) -> dict[str, Versions]:
    """What each of the hosts that answer has at each of these paths."""
    answers = mappings(cluster.call(members, "csyncsync.versions", [group, sorted(paths), text]))
    return {path: {minion: answer[path] for minion, answer in answers.items()} for path in paths}


def shown(there: Versions) -> Versions:
    """What of it is shown in a list."""
    return {
        minion: {key: value for key, value in version.items() if key not in ("text", "mtime")}
        for minion, version in there.items()
    }
