"""
How sizes, times and names of files are shown to people.

Between hosts and master paths are percent-encoded, because a file name need not be UTF-8; people read and type them.
"""

from __future__ import annotations

import re
import urllib.parse

#: What str.isprintable() lets through though nobody sees it: fillers, joiners and selectors of variants.
_UNSEEN = frozenset(
    map(chr, (0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x2800, 0x3164, *range(0xFE00, 0xFE10)))
) | frozenset(map(chr, (0xFFA0, *range(0xE0100, 0xE01F0))))


def printable(text: object) -> str:
    """
    Any text of others, on one line, so that no two look the same: what cannot be seen (a newline, an escape, a
    character that turns the direction of the text) is shown as its bytes in UTF-8, ``\\x0a``, and a backslash is
    doubled. A byte that is no UTF-8 (Python's ``surrogateescape``) is ``\\xff``.
    """
    return one_line(str(text).replace("\\", r"\\"))


def one_line(text: str) -> str:
    """
    The same for text whose parts of others have been made printable already: backslashes stay as they are.

    Terminal, log and metrics show nothing that has not been through this: none of it is to make lines, or colors, of
    its own.
    """
    if text.isprintable() and _UNSEEN.isdisjoint(text):
        return text
    return "".join(c if c.isprintable() and c not in _UNSEEN else _as_bytes(c) for c in text)


def _as_bytes(char: str) -> str:
    if "\ud800" <= char <= "\udfff" and not "\udc80" <= char <= "\udcff":
        return f"\\u{ord(char):04x}"
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def readable(path: str) -> str:
    """
    A percent-encoded path as people read it, and give it back: printable, and a blank at the end, which Salt strips
    from arguments, as ``\\x20``.
    """
    text = printable(urllib.parse.unquote_to_bytes(path).decode("utf-8", "surrogateescape"))
    return f"{text[:-1]}\\x20" if text.endswith(" ") else text


def encoded(path: object) -> str:
    """The reverse of readable(). A backslash that printable() would not write stands for itself."""

    def byte(found: re.Match[bytes]) -> bytes:
        return bytes.fromhex(found[2].decode()) if found[2] else b"\\"

    raw = str(path).encode("utf-8", "surrogateescape")
    return urllib.parse.quote_from_bytes(re.sub(rb"\\(\\|x([0-9a-f]{2}))", byte, raw).rstrip(b"/"))


def size(number: float | None) -> str:
    """So many bytes, "" if nobody knows."""
    if number is None:
        return ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def duration(number: float) -> str:
    """So many seconds."""
    for unit, length in (("s", 60), ("min", 60), ("h", 24)):
        if number < length:
            return f"{number:.0f} {unit}"
        number /= length
    return f"{number:.0f} days"
