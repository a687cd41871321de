"""One control group per host.

It keeps the hosts' systemds apart, and it is how later calls find a host's processes again: whatever
is in the group belongs to the host, so neither pid files nor process names are needed.
"""

import contextlib
import functools
import os
import signal
from pathlib import Path

from .shell import TestbedError, wait_for

TOP = "csyncsync-testbed"


#: ``{path of a host's group: (pid of its init, group that it is in)}``, as found last.
_LEADERS = {}


@functools.cache
def _mounts():
    """The mount points of the hierarchies that systemd uses, the one with its units first."""
    named, unified = [], []
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, path, kind, options = line.split()[:4]
        if kind == "cgroup" and "name=systemd" in options.split(","):
            named.append(Path(path))
        elif kind == "cgroup2":
            unified.append(Path(path))
    if not named + unified:
        raise TestbedError("no cgroup hierarchy of systemd is mounted on this machine")
    return named[:1] + unified[:1]


class Cgroup:
    """The control group of one host (or, with host "", of a whole testbed)."""

    def __init__(self, name, host):
        self.paths = [mount / TOP / name / host for mount in _mounts()]

    def enter(self):
        """Move the calling process into the group."""
        for path in self.paths:
            path.mkdir(parents=True, exist_ok=True)
            (path / "cgroup.procs").write_text("0", encoding="ascii")

    def _all(self):
        """The group's folder, and those of the groups in it."""
        return [top for top, _, _ in os.walk(self.paths[0])]

    def pids(self):
        """All processes in the group."""
        return {pid for top in self._all() for pid in _members(top)}

    def leader(self):
        """The host's init as seen from outside, None while there is none."""
        known = _LEADERS.get(self.paths[0])
        if known and known[0] in _members(known[1]) and _is_init(known[0]):
            return known[0]
        found = next(((pid, top) for top in self._all() for pid in _members(top) if _is_init(pid)), None)
        _LEADERS[self.paths[0]] = found
        return found and found[0]

    def kill(self):
        """End every process of the group at once."""

        def all_gone():
            pids = self.pids()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not pids

        wait_for("ending the processes of a host", all_gone, 20, pause=0.05)

    def remove(self):
        """Remove the empty group, with the groups that the host's systemd made in it."""
        for path in self.paths:
            for top, _, _ in os.walk(path, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(top)
            with contextlib.suppress(OSError):
                os.rmdir(path.parent)


def _members(folder):
    """The processes in a group, not in those in it."""
    # A group can vanish while we look; pid 0 stands for a process outside our pid namespace.
    with contextlib.suppress(OSError):
        return {int(pid) for pid in Path(folder, "cgroup.procs").read_text("ascii").split()} - {0}
    return set()


def _is_init(pid):
    inside = _nspid(pid)
    return len(inside) == _depth() + 1 and inside[-1] == "1"


@functools.cache
def _depth():
    """In how many pid namespaces we are."""
    return len(_nspid(os.getpid()))


def _nspid(pid):
    """The pids of a process in its pid namespaces, outermost first; empty if it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("NSpid:"):
                return line.split()[1:]
    return []
