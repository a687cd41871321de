"""The trees that are synchronized: made from outside, the same on every host to the nanosecond."""

import concurrent.futures
import contextlib
import hashlib
import multiprocessing
import os
import shutil

#: Every file and directory of a new tree has this time, so that no first content finds anything different.
TIME = 1_700_000_000_000_000_000
#: How the files are named by which a system is asked whether it carries changes.
CANARY = "canary-"


class Tree:
    """The shape of a tree: so many directories with so many files each, of about so many bytes."""

    def __init__(self, name, directories, files, size=200):
        self.name, self.directories, self.files, self.size = name, directories, files, size

    def __str__(self):
        return f"{self.directories * self.files:,} files"

    def path(self, number):
        """The name of one of its files, counted from 0 through all directories."""
        directory, file = divmod(number % (self.directories * self.files), self.files)
        return f"d{directory:05}/f{file:03}.txt"

    def count(self):
        """How many files it has."""
        return self.directories * self.files


def _two():
    """Two processes, which end by themselves: those of a multiprocessing.Pool are killed, and may hang on a lock."""
    return concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))


def make(tops, tree):
    """Make a tree at each of these paths (which must not exist), two at a time."""
    with _two() as pool:
        yield from pool.map(_make, [(top, tree) for top in tops])


def _make(task):
    top, tree = task
    os.makedirs(top)
    text = "one of the many files of a site, which seldom change\n" * 20
    for directory in range(tree.directories):
        path = os.path.join(top, f"d{directory:05}")
        os.mkdir(path, 0o755)
        handle = os.open(path, os.O_RDONLY)
        for number in range(tree.files):
            name = f"f{number:03}.txt"
            content = f"{directory} {number}\n{text}"[: tree.size].encode()
            file = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=handle)
            os.write(file, content)
            os.utime(file, ns=(TIME, TIME))
            os.close(file)
        os.utime(handle, ns=(TIME, TIME))
        os.close(handle)
    os.utime(top, ns=(TIME, TIME))
    return top


def remove(tops):
    """Delete these trees, two at a time."""
    with _two() as pool:
        list(pool.map(_remove, tops))


def _remove(top):
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(top)


def digests(tops, skip=()):
    """
    One hash of names, modes and contents for each of these trees; equal if the trees are. Canaries do not count: their
    content is looked at when they are sent, and all hosts change them in a row, which ends as a conflict with lsyncd.
    """
    with _two() as pool:
        return list(pool.map(_digest, [(top, skip) for top in tops]))


def _digest(task):
    top, skip = task
    total = hashlib.sha256()
    for directory, names, files in os.walk(top):
        names[:] = sorted(name for name in names if name not in skip)
        for name in sorted(name for name in files if not name.startswith(CANARY)):
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                total.update(f"{os.path.relpath(path, top)}\0{os.stat(path).st_mode}\0".encode())
                total.update(file.read())
    return total.hexdigest()
