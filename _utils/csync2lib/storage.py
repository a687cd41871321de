"""
Small files of a group that are whole or as they were before, whatever breaks while they are written.

May call the standard library only.
"""

import contextlib
import json
import logging
import os
import re
import shutil

log = logging.getLogger(__name__)

#: How write() names a file until it is whole: with the number of its process.
_TEMPORARY = re.compile(r"\.tmp([0-9]+)\Z")


def read(path):
    """A file's text, None if there is no file."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def read_json(path, default=None):
    """What a file of JSON says; the default if it says nothing, or is damaged: who writes it makes it anew."""
    try:
        return json.loads(read(path) or "null") or default
    except ValueError:
        log.warning("%s is damaged; it is made anew", path)
        return default


def read_names(path):
    """The paths, as a set of bytes, in a file that holds them with NULs between them; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return {name for name in file.read().split(b"\0") if name}
    except OSError:
        return set()


def write(path, content, mode=0o600, durable=True):
    """Write a file of text or bytes whole or not at all; durable: also when the power fails. Raises OSError."""
    temporary = f"{path}.tmp{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(content if isinstance(content, bytes) else content.encode())
            file.flush()
            if durable:
                os.fsync(fd)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def sweep(directory):
    """Remove what writers that were killed have left half-written in a directory."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            left = _TEMPORARY.search(name)
            if left and not os.path.exists(f"/proc/{left.group(1)}"):
                path = os.path.join(directory, name)
                with contextlib.suppress(OSError):
                    (shutil.rmtree if os.path.isdir(path) else os.unlink)(path)


def write_json(path, value, durable=True):
    """Write a value as JSON, as write() does."""
    write(path, json.dumps(value, indent=1, sort_keys=True) + "\n", durable=durable)


def write_names(path, names):
    """Write paths in bytes for read_names(); a loss of power may take them. Raises OSError."""
    write(path, b"\0".join(sorted(names)), durable=False)
