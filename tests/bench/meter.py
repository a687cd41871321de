"""What a host spends: processor time from its control group, resident memory from its processes."""

import contextlib
import os
import signal
import time
from pathlib import Path


class Host:
    """One host as its control group shows it from outside."""

    def __init__(self, bed, name):
        self.name = name
        paths = bed.find(name).cgroup.paths
        self._processes, self._unified = paths[0], paths[-1]

    def cpu(self):
        """Seconds of processor time that everything on this host has used since its boot."""
        for line in (self._unified / "cpu.stat").read_text("ascii").splitlines():
            if line.startswith("usage_usec "):
                return int(line.split()[1]) / 1e6
        raise OSError(f"{self._unified}/cpu.stat has no usage_usec")

    def pids(self, units):
        """The processes of these systemd units, a unit's own name or a pattern like csync2@*.service."""
        found = set()
        for unit in units:
            for top in (self._processes / "payload").rglob(unit):
                for directory, _, _ in os.walk(top):
                    with contextlib.suppress(OSError):
                        found.update(int(pid) for pid in Path(directory, "cgroup.procs").read_text("ascii").split())
        return found - {0}

    def signal(self, units, number):
        """Send a signal to all processes of these units."""
        for pid in self.pids(units):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def memory(self, units):
        """
        Resident bytes of these units' processes: the largest whole, of the others what is theirs alone.

        A plain sum would count the pages that a forked process shares with its parent twice.
        """
        sizes = [size for size in map(_resident, self.pids(units)) if size]
        if not sizes:
            return 0
        largest = max(sizes)
        return largest[0] + sum(private for _, private in sizes) - largest[1]


def _resident(pid):
    """(resident bytes, those that no other process shares), None if the process is gone."""
    values = {}
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()[1:]:
            name, size = line.split()[:2]
            values[name] = int(size) * 1024
        return values["Rss:"], values["Private_Clean:"] + values["Private_Dirty:"]
    return None


class Meter:
    """The processor time of some hosts, and of the master, from one moment to another."""

    def __init__(self, bed, names):
        self.hosts = [Host(bed, name) for name in names]
        self.master = Host(bed, "master")

    def read(self):
        """A moment: (time, {host: seconds used})."""
        return time.monotonic(), {host.name: host.cpu() for host in [self.master, *self.hosts]}

    def rates(self, seconds):
        """{host: seconds of processor time in a second}, measured now for so long."""
        began, before = self.read()
        time.sleep(seconds)
        ended, after = self.read()
        return {name: (after[name] - before[name]) / (ended - began) for name in before}

    def spent(self, since, idle):
        """{host: seconds used since a moment, without what it uses at rest}."""
        began, before = since
        ended, after = self.read()
        return {name: max(0.0, after[name] - before[name] - idle.get(name, 0) * (ended - began)) for name in before}

    def stop(self, units, hosts=None):
        """Freeze the processes of these units: they keep their memory, watches and connections, and do nothing."""
        for host in hosts or self.hosts:
            host.signal(units, signal.SIGSTOP)

    def go_on(self, units, hosts=None):
        """The opposite of stop()."""
        for host in hosts or self.hosts:
            host.signal(units, signal.SIGCONT)
