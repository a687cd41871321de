"""How sizes, times and names of files are shown to people."""

from __future__ import annotations


def one_line(text: str) -> str:
    """
    Names of files come from whoever may write in a group: none of them is to make lines, or colors, of its own. What
    cannot be printed, as a newline, is shown as ``\\x0a``.
    """
    return "".join(
        char if char.isprintable() else "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
        for char in text
    )


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
