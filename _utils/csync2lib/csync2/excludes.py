"""Patterns of a group's config, matched as csync2 does (groups.c, match_pattern_list()). Paths are bytes."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence

FNM_PATHNAME = 1
FNM_LEADING_DIR = 8
_LC_ALL_MASK = 0x1FBF

_libc = ctypes.CDLL(None)
_libc.fnmatch.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int)
_libc.newlocale.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_libc.newlocale.restype = ctypes.c_void_p
_libc.uselocale.argtypes = (ctypes.c_void_p,)
_libc.uselocale.restype = ctypes.c_void_p
_C_LOCALE = _libc.newlocale(_LC_ALL_MASK, b"C", None)


#: A pattern, and the flags of fnmatch(3) for it.
Pattern = tuple[bytes, int]


class Excludes:
    """
    The patterns of one group.

    Nothing below an excluded directory is watched or checked, also where only its base name is excluded: csync2's
    recursive check (check.c, csync_check_mod()) does not go into it either, and the peers lack that directory.
    """

    def __init__(self, patterns: Iterable[bytes]) -> None:
        given = [pattern[:1] + pattern[1:].rstrip(b"/") for pattern in patterns]
        self.names = [(pattern, 0) for pattern in given if pattern and not pattern.startswith(b"/")]
        self.paths = [of_path(pattern) for pattern in given if pattern.startswith(b"/")]

    def match(self, path: bytes, name: bytes) -> bool:
        """Tell whether a path, with this base name, is excluded."""
        return matches(self.names, name) or matches(self.paths, path)


def of_path(pattern: bytes) -> Pattern:
    """A pattern that whole paths are matched with, and all below what matches."""
    return pattern, FNM_LEADING_DIR | (0 if b"**" in pattern else FNM_PATHNAME)


def matches(patterns: Sequence[Pattern], text: bytes) -> bool:
    """Tell whether any of these patterns matches a path or a name."""
    if not patterns:
        return False
    # csync2 never leaves the C locale, while Salt runs in the user's: there a byte is not a character.
    before = None if text.isascii() else _libc.uselocale(_C_LOCALE)
    try:
        return any(not _libc.fnmatch(pattern, text, flags) for pattern, flags in patterns)
    finally:
        if before is not None:
            _libc.uselocale(before)
