"""
The journal of a group: what has changed on this host and is still to be checked by csync2.

One room for one format: the watcher writes the journal, and a push reads it. May call the standard library only.

A journal is a directory. It holds files named ``<time in ns>-<counter>.paths``, one for each flush: absolute paths as
bytes, each ended by a NUL. A path that ends with ``/`` stands for a directory and everything below it. The empty file
``whole`` stands for the whole group; the watcher puts each mark as a new file over the old one. Files whose names begin
with a dot are not finished.
"""

import contextlib
import os
import time

# --- Writing ---------------------------------------------------------------------------------------------


def lines(out):
    """
    Given [(path, tree, alone), …], return the lines of a journal file. What is below a tree of the same flush
    is left out, unless it must be named alone.
    """
    trees = {path for path, tree, _ in out if tree}
    found = {}
    for path, tree, alone in out:
        if trees and not alone and _below_any(path, trees):
            continue
        found[path + b"/" if tree else path] = None
    return list(found)


def _below_any(path, trees):
    """Tell whether a path is below one of these, or is one of them itself without standing for a tree."""
    path = path.rpartition(b"/")[0]
    while path:
        if path in trees:
            return True
        path = path.rpartition(b"/")[0]
    return False


def write(directory, content, whole, number):
    """Write one flush: lines into a new file, the mark as a new file over the old one. Survives a power cut."""
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        pass
    temporary = os.path.join(directory, f".tmp-{os.getpid()}-{number}")
    if content:
        name = f"{time.time_ns():020d}-{number}.paths"
        _put(temporary, os.path.join(directory, name), b"".join(line + b"\0" for line in content))
    if whole:
        _put(temporary, os.path.join(directory, "whole"), b"")
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put(temporary, path, content):
    """Write a file durably, then give it its name. Nothing stays of it on a full disk."""
    try:
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def mark_whole(directory):
    """Have the whole group checked with the next push."""
    with open(os.path.join(directory, "whole"), "w", encoding="utf-8"):
        pass


def sweep(directory):
    """Remove what a crash left half-written in a journal."""
    try:
        for name in os.listdir(directory):
            if name.startswith(".tmp-"):
                os.unlink(os.path.join(directory, name))
    except OSError:
        pass


# --- Looking ---------------------------------------------------------------------------------------------


def names(directory):
    """What is in a journal, the oldest flush first. Raises OSError if it is not there."""
    return sorted(name for name in os.listdir(directory) if not name.startswith("."))


def first(directory):
    """The name of the oldest flush, None if there is none."""
    try:
        return next((name for name in names(directory) if name.endswith(".paths")), None)
    except OSError:
        return None


def oldest(directory):
    """When the oldest entry of a journal was made (None: it is empty), and whether the whole mark is set."""
    try:
        there = names(directory)
    except OSError:
        return None, False
    times = [int(name[:20]) / 10**9 for name in there if name.endswith(".paths") and name[:20].isdigit()]
    whole = mtime(os.path.join(directory, "whole")) if "whole" in there else None
    if whole is not None:
        times.append(whole)
    return (min(times) if times else time.time()) if there else None, whole is not None


def mtime(path):
    """When a file was changed, None if it is not there."""
    try:
        return os.stat(path).st_mtime
    except OSError:
        return None


# --- Taking ----------------------------------------------------------------------------------------------


def take(directory):
    """Returns (journal files, {path: whole tree?}, whole group?). The mark of the whole group is renamed, so
    that one that comes while the check runs is not taken for done."""
    with contextlib.suppress(FileNotFoundError):
        os.replace(os.path.join(directory, "whole"), os.path.join(directory, "whole.taken"))
    there = names(directory)
    entries = {}
    for file_name in there:
        if file_name.endswith(".paths"):
            with open(os.path.join(directory, file_name), "rb") as file:
                for path in file.read().split(b"\0"):
                    if path.startswith(b"/"):
                        name = path.rstrip(b"/")
                        entries[name] = entries.get(name, False) or path.endswith(b"/")
    files = [os.path.join(directory, name) for name in there]
    return files, entries, "whole.taken" in there


def discharge(files):
    """The check has taken in what these files said: they have done their work."""
    for path in files:
        os.unlink(path)
