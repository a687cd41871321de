"""Mount namespaces that show chosen directories and files of this host at their own paths, and nothing else."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from csync2lib import beneath

#: linux/sched.h; linux/mount.h
CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 0x1, 0x2, 0x4, 0x8, 0x20
MS_NOSYMFOLLOW, MS_BIND, MS_REC, MS_SLAVE = 0x100, 0x1000, 0x4000, 0x80000
MNT_DETACH = 0x2
#: What the kernel says of a mount point that another mount hides.
HIDDEN = (errno.ENOENT, errno.ENOTDIR, errno.EINVAL)
#: Options of a mount that one more mount of the same may not lose.
_KEPT = {"ro": MS_RDONLY, "nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC}

#: What is only read; what root alone writes in; what users write in, too.
READ_ONLY = MS_RDONLY | MS_NOSUID
WRITABLE = MS_NOSUID | MS_NODEV | MS_NOEXEC
USERS = WRITABLE | MS_NOSYMFOLLOW


class Shown(NamedTuple):
    """Something that a namespace shows, and the mount flags that it has there; a symlink is made anew, as it is."""

    path: bytes
    flags: int


class Mount(NamedTuple):
    """A line of ``/proc/self/mountinfo`` (proc(5)): where it is, what is there, and its options."""

    point: bytes
    root: bytes
    kind: bytes
    source: bytes
    options: frozenset[str]
    number: bytes
    #: the file system's own options
    data: bytes


# --- What is mounted -------------------------------------------------------------------------------------


def mounts() -> list[Mount]:
    """What is mounted in this process's namespace, in the order in which it was."""
    with open("/proc/self/mountinfo", "rb") as file:
        return _parsed(file.read())


@functools.lru_cache(maxsize=1)  # the watcher asks each second
def _parsed(text: bytes) -> list[Mount]:
    found = []
    for line in filter(None, text.split(b"\n")):  # a name may hold any other line break
        left, _, right = line.partition(b" - ")
        fields, (kind, source, data) = left.split(b" "), right.split(b" ")[:3]
        options = frozenset(fields[5].decode("ascii", "replace").split(","))
        found.append(Mount(_unescaped(fields[4]), _unescaped(fields[3]), kind, source, options, fields[0], data))
    return found


def mount_of(handle: int) -> Mount | None:
    """The mount that an open file or directory is in: of several at one place, only the last one is seen."""
    with open(f"/proc/self/fdinfo/{handle}", "rb") as file:
        number = next(line.split()[1] for line in file if line.startswith(b"mnt_id:"))
    return next((mount for mount in mounts() if mount.number == number), None)


def mounted_below(path: bytes) -> list[Mount]:
    """What is mounted below a directory, but not at it."""
    return [mount for mount in mounts() if mount.point != path and is_below(mount.point, path)]


def _unescaped(field: bytes) -> bytes:
    """mountinfo writes a space, tab, newline or backslash as an octal number."""
    first, *rest = field.split(b"\\")
    return first + b"".join(bytes((int(part[:3], 8),)) + part[3:] for part in rest)


def is_below(path: bytes, top: bytes) -> bool:
    """Tell whether a path is another one, or lies below it."""
    return path == top or path.startswith(top.rstrip(b"/") + b"/")


def outermost(paths: Iterable[bytes]) -> Iterator[bytes]:
    """Those of these paths that lie below no other one, each once."""
    last: bytes | None = None
    for path in sorted(paths, key=lambda path: path + b"/"):
        if last is None or not is_below(path, last):
            last = path
            yield path


# --- A namespace -----------------------------------------------------------------------------------------


def make(shown: Iterable[Shown], place: str, links: Mapping[str, str]) -> int:
    """
    Make a mount namespace, in an empty directory of root's that nobody else uses meanwhile; with these symlinks beside
    what is shown: ``{path: what it leads to}``. Returns a descriptor of it, which keeps it alive.

    What is mounted on the host later, below what is shown, comes into it, and what is unmounted goes, but without its
    flags: then make a new one. The process may have no other threads. Raises OSError: ENOSYS or EINVAL if the kernel
    is too old, EPERM in a container that may not mount.
    """
    ready, made = os.pipe()
    wait, go = os.pipe()
    child = os.fork()
    if not child:
        _make_and_wait(sorted(shown), os.fsencode(place), links, made, wait, (ready, go))
    try:
        os.close(made)
        os.close(wait)
        with open(ready, "rb") as answer:
            text = answer.read(4096)
            number, _, where = text.partition(b" ")
        if number != b"0":
            number_ = int(number or errno.EIO)
            raise OSError(number_, os.strerror(number_), os.fsdecode(where) or None)
        return os.open(f"/proc/{child}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(go)
        os.waitpid(child, 0)


def _make_and_wait(
    shown: list[Shown], place: bytes, links: Mapping[str, str], made: int, wait: int, others: tuple[int, ...]
) -> None:
    """In the child: make the namespace, say how that went (errno, and where), and live until the parent has it."""
    try:
        for handle in others:
            os.close(handle)
        try:
            _make(shown, place, links)
            os.write(made, b"0 ")
        except OSError as err:
            where = err.filename or b""
            os.write(made, b"%d %s" % (err.errno or errno.EIO, os.fsencode(where)[:2048]))
        os.close(made)
        os.read(wait, 1)
    finally:
        os._exit(0)


def _make(shown: list[Shown], place: bytes, links: Mapping[str, str]) -> None:
    _call("unshare", CLONE_NEWNS)
    _mount(None, b"/", MS_REC | MS_SLAVE)
    _drop_users_mounts([one.path for one in shown if one.flags == USERS])
    _mount(b"tmpfs", place, MS_NOSUID | MS_NODEV, kind=b"tmpfs", options=b"mode=0755,size=1m")
    for path, flags in shown:
        _show(path, flags, place + path)
    for link, leads in links.items():
        os.makedirs(place + os.fsencode(os.path.dirname(link)), exist_ok=True)
        os.symlink(leads, place + os.fsencode(link))
    os.chdir(place)
    _mount(None, place, MS_REMOUNT | MS_BIND | READ_ONLY | MS_NODEV)
    # The old root comes to stand on the new one, and goes: pivot_root(2), "pivot_root(".", ".")".
    _call("pivot_root", b".", b".")
    _call("umount2", b".", MNT_DETACH)


def _drop_users_mounts(places: list[bytes]) -> None:
    """Without what users have mounted there by FUSE: nobody else may look into it, and it may hide other mounts."""
    for mount in reversed(mounts()):
        users = mount.kind.startswith(b"fuse") and b"user_id=0," not in mount.data + b","
        if users and any(is_below(mount.point, place) for place in places):
            _call("umount2", mount.point, MNT_DETACH, where=mount.point)


def _show(path: bytes, flags: int, target: bytes) -> None:
    """Mount one thing once more, with all that is mounted below it."""
    os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
    if not flags & MS_NOSYMFOLLOW and os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    # Who could make a symlink where users write would choose what is shown.
    real = path if flags & MS_NOSYMFOLLOW else os.path.realpath(path)
    with beneath.opened(real) as handle:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            os.makedirs(target, mode=0o755, exist_ok=True)
        elif not os.path.lexists(target):
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        _mount(b"/proc/self/fd/%d" % handle, target, MS_BIND | MS_REC)
    for mount in mounts():
        if is_below(mount.point, target):
            kept = sum(_KEPT[option] for option in mount.options & {*_KEPT})
            try:
                _mount(None, mount.point, MS_REMOUNT | MS_BIND | flags | kept)
            except OSError as err:
                if mount.point == target or err.errno not in HIDDEN:
                    raise


def _mount(source: bytes | None, target: bytes, flags: int, kind: bytes | None = None, options: bytes = b"") -> None:
    _call("mount", source, target, kind, ctypes.c_ulong(flags), options or None, where=target)


def _call(name: str, *arguments: object, where: bytes | None = None) -> None:
    """Call a function of the C library. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), where)
