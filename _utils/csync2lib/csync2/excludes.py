"""A group's exclude patterns, matched as csync2 does (groups.c, match_pattern_list()). Paths are bytes."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

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


class Excludes:
    """
    The patterns of one group.

    Nothing below an excluded directory is watched, also where only its base name is excluded: csync2's recursive
    check (check.c, csync_check_mod()) does not go into it either, and the peers lack that directory.
    """

    def __init__(self, patterns: Iterable[bytes]) -> None:
        self.names: list[tuple[bytes, int]] = []
        self.paths: list[tuple[bytes, int]] = []
        for given in patterns:
            pattern = given[:1] + given[1:].rstrip(b"/")
            if pattern.startswith(b"/"):
                self.paths.append((pattern, FNM_LEADING_DIR | (0 if b"**" in pattern else FNM_PATHNAME)))
            elif pattern:
                self.names.append((pattern, 0))

    def match(self, path: bytes, name: bytes) -> bool:
        """Tell whether a path, with this base name, is excluded."""
        if not self.names and not self.paths:
            return False
        # csync2 never leaves the C locale, while Salt runs in the user's: there a byte is not a character.
        before = None if path.isascii() else _libc.uselocale(_C_LOCALE)
        try:
            return any(not _libc.fnmatch(pattern, name, flags) for pattern, flags in self.names) or any(
                not _libc.fnmatch(pattern, path, flags) for pattern, flags in self.paths
            )
        finally:
            if before is not None:
                _libc.uselocale(before)
