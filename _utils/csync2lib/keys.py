"""
A group's key: made and replaced on the master, and proved by a host that has it, without being told.

Nothing is logged, and no error holds a key.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import string
from collections.abc import Iterator

from csync2lib import storage

#: csync2.c, create_keyfile(): 64 characters out of 64
_ALPHABET = string.ascii_letters + string.digits + "._"


def path(pki_dir: str, group: str) -> str:
    """Where a master keeps a group's key."""
    return os.path.join(pki_dir, "csyncsync", f"{group}.key")


def read(file: str) -> str | None:
    """The key that a file holds, None if there is no file."""
    try:
        with open(file, encoding="ascii") as opened:
            return opened.read().strip()
    except FileNotFoundError:
        return None


def make_once(file: str) -> str | None:
    """The key that a file holds; made if there is none. Two masters that share the directory agree on one."""
    os.makedirs(os.path.dirname(file), mode=0o700, exist_ok=True)
    if not os.path.exists(file):
        with _new(file) as temporary, contextlib.suppress(FileExistsError):
            os.link(temporary, file)
    return read(file)


def replace(file: str) -> None:
    """Put a new key in the place of one. The old one is kept nowhere, and does not come back when the power fails."""
    with _new(file) as temporary:
        os.replace(temporary, file)
    storage.sync_directory(os.path.dirname(file))


@contextlib.contextmanager
def _new(file: str) -> Iterator[str]:
    """
    Yield the path of a file with a new key, which nobody else can read; it is gone afterwards. Its name is random:
    storage has the process's number, which may be the same on another master that shares the directory.
    """
    temporary = f"{file}.{secrets.token_hex(4)}"
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as opened:
            opened.write("".join(secrets.choice(_ALPHABET) for _ in range(64)) + "\n")
            opened.flush()
            os.fsync(opened.fileno())
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def proof(key: str, salt: str) -> str:
    """
    What whoever has the key can say, and nobody else: 16 hexadecimal digits.

    salt
        A text of the one who asks, another one each time: answers can neither be collected nor played again.
    """
    return hmac.new(key.encode(), salt.encode(), hashlib.sha256).hexdigest()[:16]
