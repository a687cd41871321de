"""
What hosts may answer: the shape of each function's answer, field by field.

A member's root can answer anything: what has been through its shape has the types, and the sizes, that all that comes
after it counts on, and no text of it can do anything to a terminal or a log. Unknown fields are dropped.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

from csync2lib.config.values import MINION_ID
from csync2lib.contents import DIGESTS
from csync2lib.csync2.names import is_group_name
from csync2lib.records import DIGESTS as RECORDS
from csync2lib.report.words import one_line, printable


class Unusable(Exception):
    """A value that is not what its place in an answer asks for. The message begins with the name of the field."""


#: Given a field's name and its value, returns the value as it may be used. Raises Unusable.
Shape = Callable[[str, Any], Any]

#: The largest number of bytes, or of anything else that is counted; and the last second of the year 9999.
MOST, LAST = 2**63, 253_402_300_799


# --- Of single values ------------------------------------------------------------------------------------


def that(is_good: Callable[[Any], object], why: str) -> Shape:
    """A value as it is, if it is a good one."""
    return lambda where, value: value if is_good(value) else _refuse(where, why)


def matching(is_good: Callable[[str], object], why: str) -> Shape:
    """The same of text."""
    return that(lambda value: isinstance(value, str) and is_good(value), why)


def number(least: float = 0, most: float = MOST) -> Shape:
    why = f"is no number from {least:g} to {most:g}"
    return that(lambda value: type(value) in (int, float) and least <= value <= most, why)


def raw_text(most: int) -> Shape:
    """Text as it is, of so many characters at most; halves of surrogate pairs, which nothing can write, are escaped."""

    def check(where: str, value: Any) -> str:
        if not isinstance(value, str) or len(value) > most:
            _refuse(where, f"is no text of up to {most} characters")
        return str(value).encode("utf-8", "backslashreplace").decode()

    return check


def text(where: str, value: Any) -> str:
    """Text that people read: printable."""
    return printable(value) if isinstance(value, str) and len(value) <= 10_000 else raw_text(10_000)(where, value)


def path(where: str, value: Any) -> str:
    """Percent-encoded, and nothing else is in it."""
    if not isinstance(value, str) or not 0 < len(value) <= 20_000:
        _refuse(where, "is no path")
    return urllib.parse.quote(str(value), safe="/%!$&'()*+,;=:@~[]", errors="surrogatepass")


whole = that(lambda value: type(value) is int and 0 <= value <= MOST, "is no whole number")
flag = that(lambda value: isinstance(value, bool), "is neither true nor false")
digest = matching(re.compile("[0-9a-f]{16,128}").fullmatch, "is no digest")
slot = matching(lambda text: re.fullmatch("[0-9]{1,4}", text) and int(text) < DIGESTS, "is no slot of digests")
#: Also "*", for all hosts of a group.
minion = matching(lambda text: MINION_ID.match(text) and one_line(text) == text, "is no minion id")
group = matching(is_group_name, "is no group name")


def _refuse(where: str, why: str) -> Any:
    raise Unusable(f"{printable(where)[:200] or 'it'} {why}")


# --- Of several ------------------------------------------------------------------------------------------


def one_of(*words: str) -> Shape:
    return matching(lambda text: text in words, f"is none of {', '.join(words)}")


def maybe(shape: Shape) -> Shape:
    """That, or None."""
    return lambda where, value: None if value is None else shape(where, value)


def list_of(shape: Shape, least: int = 0, most: int = 1_000_000) -> Shape:
    def check(where: str, value: Any) -> list[Any]:
        if not isinstance(value, list) or not least <= len(value) <= most:
            _refuse(where, "is no list" + (f" of {least} to {most}" if most < 1_000_000 else ""))
        return [shape(f"{where}[{at}]", item) for at, item in enumerate(value)]

    return check


def map_of(key: Shape, shape: Shape) -> Shape:
    def check(where: str, value: Any) -> dict[Any, Any]:
        if not isinstance(value, dict):
            _refuse(where, "is no mapping")
        return {key(f"{where}, a name", name): shape(_below(where, name), item) for name, item in value.items()}

    return check


def record(needed: Mapping[str, Shape], others: Mapping[str, Shape] | None = None) -> Shape:
    """A mapping with these fields. Of the others those are there afterwards that were before."""

    def check(where: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            _refuse(where, "is no mapping")
        if lacking := [name for name in needed if name not in value]:
            _refuse(_below(where, lacking[0]), "is missing")
        shapes = {**(others or {}), **needed}
        return {name: shape(_below(where, name), value[name]) for name, shape in shapes.items() if name in value}

    return check


def _below(where: str, name: object) -> str:
    return f"{where}:{name}" if where else str(name)


# --- What csyncsync's functions return -------------------------------------------------------------------

moment = number(most=LAST)
_texts, _paths, _entries = list_of(text), list_of(path), map_of(minion, whole)
_refused = map_of(minion, _paths)
_state = one_of("pushed", "joining", "held", "paused", "running", "error", "test")
_disk = record({"path": text, "free": whole, "total": whole})
_action = record(
    {"exec": text, "why": text, "log": maybe(text), "running": maybe(number()), "waiting": maybe(number())}
)
_watch = {"error": maybe(text), "hot": _texts, "watches": whole, "limit": maybe(whole)}
_last_push = {"state": _state, "checked": whole, "comment": text, "time": moment, "seconds": maybe(number())}
_status = record(
    {
        "state": one_of("new", "recorded", "established", "unknown"),
        "journal": whole,
        "dirty": _entries,
        "refused": _refused,
        "unreachable": map_of(text, text),
        "held": text,
        "paused": text,
        "last_push": record({}, _last_push),
        "watching": flag,
        "watch": record({}, _watch),
        "waiting_since": maybe(moment),
        "database_bytes": maybe(whole),
        "error": text,
    },
    {
        "files": maybe(whole),
        "bytes": maybe(whole),
        "disks": list_of(_disk),
        "versions": map_of(text, text),
        "certificate_end": maybe(moment),
        "unread": map_of(path, text),
        "anew": list_of(minion),
        "cannot_write": map_of(minion, map_of(path, text)),
        "records": maybe(list_of(digest, RECORDS, RECORDS)),
        "local": record({"number": whole, "paths": map_of(path, text)}),
        "actions": list_of(_action),
    },
)
_described = {"size": whole, "mtime": number(-LAST, LAST)}
_of_file = {"time": text, "mode": text, "owner": text, "sha256": text}
VERSION = record(
    {**_described, "type": one_of("file", "directory", "link", "special", "nothing")},
    {**_of_file, "target": text, "text": raw_text(500_000)},
)
_old_version = record(
    {**_described, "generation": whole, "time": text, "mode": text, "owner": text}, {"sha256": text, "doubt": text}
)
_send = map_of(minion, record({"entries": whole, "paths": _paths}))
_certificate = record({"valid": flag, "fingerprint": maybe(digest)})

#: Function -> the shape of what it returns.
SHAPES: dict[str, Shape] = {
    "csyncsync.status": map_of(group, _status),
    "csyncsync.marked": map_of(path, list_of(minion)),
    "csyncsync.versions": map_of(path, VERSION),
    "csyncsync.contents": record({"files": whole, "bytes": whole}),
    "csyncsync.backups": record({"paths": map_of(path, list_of(_old_version, 1)), "more": whole}),
    "csyncsync.restore": record({"size": whole, "sha256": text, "changed": flag, "kept": maybe(whole)}),
    "csyncsync.win": whole,
    "csyncsync.records": record({"calm": flag, "left": list_of(path), "paths": map_of(path, digest)}),
    "csyncsync.kept": list_of(path),
    "csyncsync.mark": map_of(path, list_of(digest)),
    "csyncsync.returned": flag,
    "csyncsync.local_changes": map_of(path, one_of("changed", "deleted", "new")),
    "csyncsync.reset": flag,
    "csyncsync.join": record({"state": one_of("recorded", "established"), "unsent": list_of(path, most=5_000)}),
    "csyncsync.digests": record({"digests": list_of(digest, DIGESTS, DIGESTS)}),
    "csyncsync.admit": record({"marked": whole, "left": whole, "refused": list_of(path, most=5_000)}),
    "csyncsync.claims": map_of(path, one_of("changed", "place")),
    "csyncsync.paused": map_of(minion, record({"until": maybe(moment), "comment": text})),
    "csyncsync.push": record(
        {"state": _state, "comment": text},
        {
            "group": group,
            "checked": whole,
            "left": map_of(text, whole),
            "refused": _refused,
            "send": _send,
            "seconds": number(),
        },
    ),
    "csyncsync.key_proof": digest,
    "csyncsync.certificate": _certificate,
    "csyncsync.renew_certificate": record({"fingerprint": digest}),
    "csyncsync.pinned": map_of(minion, digest),
    "csyncsync.refresh": lambda where, value: (_texts if isinstance(value, list) else text)(where, value),
    "saltutil.find_job": lambda where, value: isinstance(value, dict) and bool(value),
}
#: What csyncsync.contents returns with ``part``, and with ``slots``.
SLOTS, PATHS = map_of(slot, digest), map_of(path, digest)
#: What csyncsync.digests returns with ``of``.
ONE_DIGEST = record({"digests": list_of(digest, 1, 1)})


def check(function: str, answer: Any, shape: Shape | None = None) -> Any:
    """What a function returned, or another shape than its usual one, as it may be used. Raises Unusable."""
    try:
        return (shape or SHAPES[function])("", answer)
    except RecursionError:  # nothing here goes deeper than the shape; what it prints may
        return _refuse("", "is too deep")
