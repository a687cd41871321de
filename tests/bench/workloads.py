"""What is written, and the wait until it is everywhere."""

import os
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Callable

from bed.shell import TestbedError
from progress import say
from trees import Tree

#: How often the hosts' files are looked at, for one file and for many.
POLL, POLL_MANY = 0.005, 0.02


@dataclass
class Workload:
    """One row of the report."""

    name: str
    title: str
    write: Callable  # (system, run's number) -> {origin: {path: content}}
    tree: Tree
    runs: int = 1
    #: Fewer runs of a system that takes very long: {system: runs}.
    most: dict = field(default_factory=dict)
    hosts: int = 3
    #: Runs in one turn of a system, before it is the next system's turn.
    turn: int = 1
    #: Seconds after which a run has not converged.
    limit: float = 60
    systems: tuple = ("recipe", "syncthing", "csyncsync")
    #: What csyncsync is to reach: {"ratio": to the recipe} or {"seconds": in every run, nothing missing}.
    target: dict = field(default_factory=dict)
    #: Also count events and jobs on the master.
    listen: bool = False


def one_file(system, number):
    """Change one file of the tree; the hosts take turns."""
    path = system.tree.path(random.Random(number).randrange(system.tree.count()))
    origin = system.hosts[number % len(system.hosts)]
    # Another size each time: what csync2 alone cannot see, a rewrite of the same size, is not the question here.
    return {origin: {path: f"change {number} of {system.name} on {origin}\n" + "x" * (number * 7 % 101)}}


def burst(count, name):
    """So many new files, in new directories of 100, on one host. The name keeps workloads apart."""

    def write(system, number):
        origin = system.hosts[number % len(system.hosts)]
        paths = [f"{name}{number}/d{index // 100:03}/f{index % 100:02}.txt" for index in range(count)]
        return {origin: {path: f"{path} of {system.name}\n" * 8 for path in paths}}

    return write


def all_at_once(count, name):
    """So many new files on each host, at the same time. The name keeps workloads apart."""

    def write(system, number):
        return {
            host: {
                f"d00000/{name}-{number}-{host}-{index:03}.txt": f"{index} from {host}\n" * 8 for index in range(count)
            }
            for host in system.hosts
        }

    return write


def run(system, workload, number):
    """
    One run of a workload on a system that is at rest.

    Returns {"seconds" from the last write's end until all is everywhere (None: not within the limit), "missing"
    copies, "cpu": {host: seconds until the system was at rest again}, "memory": bytes on the host with most}.
    """
    files = workload.write(system, number)
    expected = [
        (f"{system.top(host)}/{path}", content.encode())
        for origin, written in files.items()
        for host in system.hosts
        if host != origin
        for path, content in written.items()
    ]
    if any(_is(*entry) for entry in expected):
        raise TestbedError(f"{workload.name} {number}: some of what is to be written is there already")
    since = system.meter.read()
    ended = _write(system, files)
    seconds, missing = arrive(expected, ended, workload.limit)
    memory = system.memory()
    system.quiet(60 if seconds is not None else 1)
    return {"seconds": seconds, "missing": missing, "cpu": system.meter.spent(since, system.idle), "memory": memory}


def _write(system, files):
    """Write {origin: {path: content}}, all origins at once; when the last one was done."""
    barrier, ends = threading.Barrier(len(files)), []

    def one(origin, written):
        top = system.top(origin)
        for directory in sorted({os.path.dirname(f"{top}/{path}") for path in written}):
            os.makedirs(directory, exist_ok=True)
        barrier.wait()
        for path, content in written.items():
            with open(f"{top}/{path}", "w", encoding="utf-8") as file:
                file.write(content)
        ends.append(time.monotonic())

    threads = [threading.Thread(target=one, args=item) for item in files.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(ends)


def arrive(expected, since, limit):
    """Wait until these files [(path, content), …] are there. Returns (seconds since that moment, 0) or (None, missing).

    Looks at one missing file at a time: looking at all would slow down what is measured.
    """
    pending, told = list(reversed(expected)), time.monotonic()
    pause = POLL if len(expected) < 100 else POLL_MANY
    while True:
        while pending and _is(*pending[-1]):
            pending.pop()
        now = time.monotonic()
        if not pending:
            return now - since, 0
        if now - since > limit:
            missing = sum(not _is(*entry) for entry in pending)
            return (now - since, 0) if not missing else (None, missing)
        if now - told > 10:
            told = now
            missing = sum(not _is(*entry) for entry in pending)
            say(f"    {now - since:.0f} s: {missing} of {len(expected)} copies missing")
        time.sleep(pause)


def _is(path, content):
    try:
        with open(path, "rb") as file:
            return file.read(len(content) + 1) == content
    except OSError:
        return False
