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

from csync2lib import storage


def path(pki_dir: str, group: str) -> str:
    """Where a master keeps a group's key."""
    return os.path.join(pki_dir, "csyncsync", f"{group}.key")


def read(file: str) -> str | None:
    """The key that a file holds, None if there is no file."""
    text = storage.read(file)
    return text and text.strip()


def make_once(file: str) -> str | None:
    """The key that a file holds; made if there is none. Two masters that share the directory agree on one."""
    os.makedirs(os.path.dirname(file), mode=0o700, exist_ok=True)
    if not os.path.exists(file):
        with contextlib.suppress(FileExistsError):
            storage.write(file, _new(), new=True)
    return read(file)


def replace(file: str) -> None:
    """Put a new key in the place of one. The old one is kept nowhere, and does not come back when the power fails."""
    storage.write(file, _new())
    storage.sync_directory(os.path.dirname(file))


def _new() -> str:
    return secrets.token_hex(32) + "\n"


def proof(key: str, salt: str) -> str:
    """
    What whoever has the key can say, and nobody else: 16 hexadecimal digits. The salt is a text of the one who asks,
    another one each time: answers can neither be collected nor played again.
    """
    return hmac.new(key.encode(), salt.encode(), hashlib.sha256).hexdigest()[:16]
