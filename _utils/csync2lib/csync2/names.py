"""How csync2 names things: groups, its databases, and paths in a database."""

from __future__ import annotations

import os
import re

#: csync2.c: "Config names are limited to [a-z0-9]+"; the length keeps host_group.db3 below NAME_MAX.
_GROUP_NAME = re.compile(r"[a-z0-9]{1,64}\Z")

#: csync2's ``tempdir``, below the directory that it runs in: where there is none, its temporary files stand beside the
#: file that they are for (rsync.c, next_tempdir()).
TEMPDIR = "csync2-temporary"

#: db_api/urlencode.c: the bytes that csync2 writes as %XX.
ENCODED = bytes(range(1, 0x21)) + b"\x7f\"'%$:|\\"
_TO_ENCODE = re.compile(b"[%s]" % re.escape(ENCODED))
_TO_DECODE = re.compile(rb"%([0-9A-Fa-f]{2})")


def is_group_name(name: object) -> bool:
    """Tell whether csync2 takes this as the name of a config (``-C``)."""
    return isinstance(name, str) and _GROUP_NAME.match(name) is not None


def encode(raw: bytes) -> bytes:
    """Given bytes, return them as csync2 writes them into its database (urlencode.c)."""
    return _TO_ENCODE.sub(lambda match: b"%%%02X" % ord(match.group()), raw)


def decode(text: bytes) -> bytes:
    """The reverse of encode()."""
    text = text.replace(b"%3A", b":")  # most of what is encoded in a record; each "%" begins such a triple
    return text if b"%" not in text else _TO_DECODE.sub(lambda match: bytes((int(match.group(1), 16),)), text)


def printable(raw: bytes) -> str:
    """
    Bytes of csync2's as one line of text for a log or a person: what cannot be printed, as a newline, is shown as
    ``\\x0a``, and a backslash as two.
    """
    text = raw.decode("utf-8", "surrogateescape").replace("\\", "\\\\")
    return "".join(
        char if char.isprintable() else "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
        for char in text
    )


def database_path(directory: str, host: str, group: str) -> str:
    """The path of a group's database: csync2 builds it from the host's own name (db.c, db_default_database())."""
    return os.path.join(directory, f"{host.lower()}_{group}.db3")
