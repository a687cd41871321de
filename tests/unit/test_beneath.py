"""
What a user does to the directories of an include while root reads and writes in them: nothing outside shows or changes.

The races are real: another process swaps a directory and a symlink all the time.
"""

import contextlib
import errno
import os
import re
import resource
import stat
import subprocess
import sys
import time
import types

import pytest
from csync2lib import backups, beneath, contents, restore, versions
from csync2lib.csync2 import states
from csync2lib.csync2.excludes import Excludes
from csync2lib.errors import CsyncsyncError
from csync2lib.guard import Guard
from csync2lib.watch import inotify
from csync2lib.watch.changes import Changes
from csync2lib.watch.walk import NOTE, Walks

#: Exchanges two names until it is killed (renameat2(2) with RENAME_EXCHANGE).
SWAP = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
one, other = map(os.fsencode, sys.argv[1:])
print(libc.renameat2(-100, one, -100, other, 2), flush=True)
while True:
    libc.renameat2(-100, one, -100, other, 2)
"""
#: Seconds of each race.
RACE = 0.7


@pytest.fixture(params=["openat2", "step by step"], autouse=True)
def kernel(request, monkeypatch):
    """With openat2(2), and as on a kernel that has none."""
    if request.param != "openat2":
        monkeypatch.setattr(beneath, "_OPENAT2", 100_000)
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before, "descriptors are left open"


@pytest.fixture
def top(tmp_path):
    (tmp_path / "tree/d").mkdir(parents=True)
    (tmp_path / "tree/d/file").write_text("content")
    (tmp_path / "tree/link").symlink_to("d")
    return os.fsencode(tmp_path / "tree")


# --- Without a race --------------------------------------------------------------------------------------


def test_what_is_there_is_told_as_by_os(top):
    os.mkfifo(top + b"/pipe")
    assert beneath.lstat(top + b"/d/file") == os.lstat(top + b"/d/file")
    assert beneath.lstat(os.fsdecode(top)) == os.lstat(top)
    assert beneath.lstat("/") == os.lstat("/") and beneath.lstat("/proc").st_ino == os.lstat("/proc").st_ino
    assert beneath.readlink(top + b"/link") == b"d"
    names = {b"d": stat.S_IFDIR, b"link": stat.S_IFLNK, b"pipe": stat.S_IFIFO, b"d/file": stat.S_IFREG, b"no": 0}
    assert {name: beneath.kind(top + b"/" + name) for name in names} == names
    assert [name for name in names if beneath.is_no_directory(top + b"/" + name)] == [b"link", b"pipe", b"d/file"]
    with beneath.directory(top) as handle:
        with beneath.scan(handle) as entries:
            found = {entry.name: entry.is_symlink() for entry in entries}
        assert sorted(beneath.names(handle)) == sorted(found)
    assert found == {"d": False, "link": True, "pipe": False}
    with beneath.opened(top + b"/pipe") as handle:
        assert os.fstat(handle) == os.lstat(top + b"/pipe")
    with pytest.raises(OSError, match="symbolic links"), beneath.opened(top + b"/link"):
        pass


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (b"link/file", NotADirectoryError),
        (b"link/no", NotADirectoryError),
        (b"d/file/below", NotADirectoryError),
        (b"d/no", FileNotFoundError),
        (b"no/no", FileNotFoundError),
        (b"d/../d/file", FileNotFoundError),
        (b"d/..", FileNotFoundError),
        (b"d\0/file", FileNotFoundError),
        (b"d/file\0", FileNotFoundError),
        (b"x" * 256 + b"/file", OSError),
    ],
)
def test_there_is_nothing_below_a_symlink(top, name, kind):
    path = top + b"/" + name
    for function in (beneath.lstat, beneath.readlink):
        with pytest.raises(kind):
            function(path)
    for manager in (beneath.opened, beneath.directory):
        with pytest.raises(kind), manager(path):
            pass
    assert not beneath.exists(path)


def test_only_directories_are_listed_and_only_files_are_opened(top):
    os.mkfifo(top + b"/pipe")
    for name in (b"link", b"pipe", b"d/file"):
        with pytest.raises(NotADirectoryError), beneath.directory(top + b"/" + name):
            pass
    with beneath.directory(top) as handle:
        for name, number in ((b"link", errno.ELOOP), (b"pipe", errno.EINVAL), (b"d", errno.EINVAL)):
            with pytest.raises(OSError) as raised:
                list(beneath.content(handle, name))
            assert raised.value.errno == number
        with beneath.directory(top + b"/d") as below:
            assert b"".join(beneath.content(below, b"file")) == b"content"


def test_a_path_may_be_longer_than_the_kernel_takes(top):
    path = top
    for _ in range(30):
        path += b"/" + b"n" * 200
    beneath.make_directories(path)
    assert len(path) > os.pathconf("/", "PC_PATH_MAX") and beneath.is_directory(path)
    found = contents.walk([os.fsdecode(top)], Excludes([]))
    assert path in found
    assert versions.version(path)["type"] == "directory"
    while path != top:  # else nothing could remove it
        with beneath.parent(path) as (above, name):
            os.rmdir(name, dir_fd=above)
        path = os.path.dirname(path)


def test_directories_are_made_as_os_makes_them(top):
    beneath.make_directories(top + b"/a/b", 0o700)
    beneath.make_directories(top + b"/a/b", 0o755)
    modes = [stat.S_IMODE(os.stat(top + name).st_mode) for name in (b"/a", b"/a/b")]
    assert modes == [0o755, 0o700]
    for name in (b"link/x", b"d/file/x", b"d/file"):
        with contextlib.suppress(OSError):
            beneath.make_directories(top + b"/" + name)
    assert os.listdir(top + b"/d") == [b"file"]


def test_what_is_in_the_way_is_named(top):
    assert beneath.no_directory_in(top + b"/link/a/b") == top + b"/link"
    assert beneath.no_directory_in(top + b"/d/file/a") == top + b"/d/file"
    assert beneath.no_directory_in(top + b"/d/no/a") is None


def test_what_cannot_be_looked_at_is_not_gone(top):
    lowest = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, lowest[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            beneath.exists(top)
        assert states.stands(top) == states.UNKNOWN
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, lowest)
    assert states.stands(top + b"/no") == states.stands(top + b"/link/file") == states.GONE


# --- With one --------------------------------------------------------------------------------------------


class Race:
    """An include with a directory that is a symlink to a secret one, and back, many thousand times in a second."""

    def __init__(self, path, swapped="include/u/d"):
        self.path = path
        self.secret = path / "secret"
        for directory in (self.secret, path / swapped):
            (directory / "sub").mkdir(parents=True)
            for name in ("file", "sub/file"):
                (directory / name).write_text("SECRET, and longer" if directory == self.secret else "ours")
        (self.secret / "hidden").write_text("SECRET")
        (self.secret / "to").symlink_to("SECRET")
        (path / swapped).with_name("swap").symlink_to(self.secret)
        self.swapped = path / swapped
        self.include = path / "include"
        self.before = self.look()

    def look(self):
        """All that is outside."""
        found = {}
        for path in [self.secret, *self.secret.rglob("*")]:
            status = path.lstat()
            found[path] = (status.st_mode, status.st_uid, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        return found

    @contextlib.contextmanager
    def swapping(self):
        """Yields the endless times until the race is over."""
        command = [sys.executable, "-c", SWAP, str(self.swapped), str(self.swapped.with_name("swap"))]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout.readline() == b"0\n"
                until = time.monotonic() + RACE
                yield iter(lambda: time.monotonic() < until, False)
            finally:
                process.kill()
        if self.swapped.is_symlink():
            os.unlink(self.swapped)
            os.rename(self.swapped.with_name("swap"), self.swapped)
        assert self.look() == self.before

    def __truediv__(self, name):
        return os.fsencode(self.include / name)


@pytest.fixture
def race(tmp_path):
    return Race(tmp_path)


def test_no_version_is_of_a_file_outside(race):
    found = []
    with race.swapping() as times:
        for _ in times:
            for name in ("u/d/file", "u/d/sub/file", "u/d/hidden", "u/d/to"):
                there = versions.version(race / name, text=True)
                found.append((there["type"], there.get("text"), there.get("target"), there["size"]))
    assert set(found) == {("nothing", None, None, 0), ("file", "ours", None, 4)}


def test_no_digest_and_no_name_is_of_a_file_outside(race):
    below = [f"u/{name}{below}" for name in ("d", "swap") for below in ("", "/file", "/sub", "/sub/file")]
    root, excludes = str(race.include), Excludes([])
    file = race / "u/d/file"
    good = {tuple(contents.file_digests(paths)) for paths in ([file], [])}
    walked, sizes, digests = set(), set(), set()
    with race.swapping() as times:
        for _ in times:
            walked.update(contents.walk([root], excludes))
            sizes.add(contents.count(contents.walk([root], excludes))["bytes"])
            digests.add(tuple(contents.file_digests([file])))
    assert walked == {os.fsencode(root), race / "u", *(race / name for name in below)}
    assert 8 in sizes and sizes <= {0, 4, 8, 12, 16}
    assert digests == good


def test_no_state_is_of_a_file_outside(race):
    found = set()
    with race.swapping() as times:
        for _ in times:
            found |= {states.stands(race / f"u/d/{name}") for name in ("file", "sub/file", "hidden", "to")}
            assert not states.is_made_here(race / "u/d/hidden")
            assert not beneath.is_directory(race / "u/d/to")
    assert {state.rpartition(b":")[2] for state in found} == {states.GONE, b"size=4"}


@pytest.mark.parametrize("deeper", ["", "new/and/more/"])
def test_nothing_is_put_back_outside(race, deeper):
    top = race.path / "backups"
    kept = os.fsdecode(bytes(top) + (race / f"u/d/{deeper}"))
    os.makedirs(kept)
    outcomes = set()
    with race.swapping() as times:
        for number, _ in enumerate(times):
            with open(f"{kept}/x{number}", "w", encoding="ascii") as file:
                file.write("old")
            try:
                path = race / f"u/d/{deeper}x{number}"
                outcomes.add(restore.restore(bytes(top), path, 0, os.fsencode(race.include))["changed"])
            except CsyncsyncError as err:
                assert "SECRET" not in str(err)
                outcomes.add("refused")
    assert outcomes == {True, "refused"}


def test_no_old_version_is_of_a_file_outside_or_makes_room_there(tmp_path):
    """The directories of the backups have the owners of the originals."""
    include = tmp_path / "include"
    include.mkdir()
    path = os.fsencode(include)
    race = Race(tmp_path, f"backups{include}/d")
    for number in range(1, 3):
        (race.secret / f"file.{number}").write_text("SECRET")
    (include / "d/sub/file").mkdir(parents=True)
    race.before = race.look()
    top, found = bytes(tmp_path / "backups"), []
    with race.swapping() as times:
        for _ in times:
            kept, _ = backups.find(top, [path, path + b"/d/file"], 100, content=True)
            found += [version["size"] for there in kept.values() for version in there]
            backups.make_room(top, path + b"/d/file", 3)
            backups.make_way(top, path + b"/d/sub/file")
            backups.sweep(top, [path])
            with contextlib.suppress(CsyncsyncError):
                restore.restore(top, path + b"/d/file", 0, path)
    assert set(found) == {4}
    assert "SECRET" not in (include / "d/file").read_text()


def test_no_include_root_is_made_outside(race):
    guard = Guard("data", str(race.path), str(race.path / "no.db3"))
    with race.swapping() as times:
        for number, _ in enumerate(times):
            with contextlib.suppress(CsyncsyncError, OSError):
                guard.note_roots([str(race.swapped / f"{number}/root")])


class Found:
    """Hears of a walk."""

    def __init__(self):
        self.paths = set()

    def found(self, group, path, **_):
        self.paths.add(path)

    def walked(self, group):
        pass


def test_no_directory_outside_is_watched_or_walked(race):
    watches, found, seen = inotify.Watches(), Found(), set()
    group = types.SimpleNamespace(
        name="g", roots={}, excludes=Excludes([]), walking=0, unwatched=set(), changes=Changes()
    )
    watches.open()
    try:
        walks = Walks(watches, {"g": group}, found)
        root = inotify.Root(group, os.fsencode(race.include), None, (0, 0))
        with race.swapping() as times:
            for _ in times:
                walks.push(root, NOTE, group)
                walks.walk_on(time.monotonic() + 0.1)
                for name in ("u/d/sub", "u/d"):
                    with contextlib.suppress(OSError), beneath.directory(race / name) as handle:
                        watches.add(inotify.Node(b"", None), race / name, handle)
                    with open(f"/proc/self/fdinfo/{watches.fd}", encoding="ascii") as file:
                        seen |= {int(inode, 16) for inode in re.findall(r" ino:(\w+)", file.read())}
        while walks.walking():
            walks.walk_on(time.monotonic() + 0.1)
    finally:
        os.close(watches.fd)
    inside = {path.lstat().st_ino for path in (race.include, race.include / "u", race.swapped, race.swapped / "sub")}
    assert seen == inside
    assert {os.path.basename(path) for path in found.paths} <= {b"u", b"d", b"swap", b"sub", b"file"}
