"""Install the formula on a testbed as the README tells an administrator, and wait until its hosts are in sync."""

import time

from . import waits
from .shell import TestbedError, say

ROOTS = """\
file_roots:
  base:
    - /srv/salt
    - /srv/csyncsync
    - /srv/csyncsync/states
"""


def install(bed, hosts):
    """Set up the master, apply the states on the hosts, and return when all are in sync and watching."""
    set_up_master(bed)
    say("state.apply csyncsync …")
    apply(bed, hosts)
    say("waiting until all hosts are in sync and watching …")
    wait_in_sync(bed, hosts)
    say("in sync")


def set_up_master(bed):
    """The README's steps on the master; for tests, it serves shorter waiting times. A second call changes nothing."""
    if bed.exec("master", "test", "-e", "/etc/salt/master.d/csyncsync.conf", check=False).returncode == 0:
        return
    say("setting up the master …")
    if bed.tested:
        bed.exec("master", "sh", "-c", f"install -D -m 644 /dev/stdin {waits.SERVED}", input=waits.shorter())
    bed.exec("master", "sh", "-c", "cat >/etc/salt/master.d/roots.conf", input=ROOTS)
    bed.exec("master", "install", "-D", "-m", "600", "/srv/csyncsync/pillar.example", "/srv/pillar/csyncsync.sls")
    bed.exec(
        *("master", "salt-call", "--local", "--file-root=/srv/csyncsync/states", "--retcode-passthrough"),
        *("state.apply", "csyncsync.master"),
    )
    bed.exec("master", "salt-run", "saltutil.sync_all")
    bed.exec("master", "systemctl", "restart", "salt-master")
    hosts = set(bed.hosts())
    for _ in range(60):
        if not hosts or set(bed.salt_json("*", "test.ping")) >= hosts:
            return
    raise TestbedError("the minions do not answer the restarted master")


def apply(bed, hosts):
    """`state.apply csyncsync` on these hosts; what failed is shown."""
    answers = bed.salt_json("-L", ",".join(hosts), "state.apply", "csyncsync", timeout=300)
    problems = []
    for host in hosts:
        states = answers.get(host)
        if not isinstance(states, dict):
            problems.append(f"{host}: {states or 'no answer'}")
            continue
        problems += [f"{host}: {s['name']}: {s['comment']}" for s in states.values() if s["result"] is False]
    if problems:
        raise TestbedError("state.apply failed: " + "\n".join(problems))
    return answers


def wait_in_sync(bed, hosts, timeout=120):
    """Wait until each group on each of these hosts knows all of them, is in sync, and is watched."""
    until = time.monotonic() + timeout
    while True:
        lagging = not_in_sync(bed, hosts)
        if not lagging:
            return
        if time.monotonic() > until:
            raise TestbedError(f"not in sync after {timeout} s: " + "; ".join(lagging))
        time.sleep(0.3)


def not_in_sync(bed, hosts, answers=None):
    """What is missing, in words; empty when all is well. Asks csyncsync.status, unless its answers are given."""
    if answers is None:
        answers = bed.salt_json("-L", ",".join(hosts), "csyncsync.status")
    lagging = []
    for host in hosts:
        groups = answers.get(host)
        if not isinstance(groups, dict) or not groups:
            lagging.append(f"{host}: {groups or 'no groups'}")
            continue
        for name, group in groups.items():
            unknown = sorted(set(hosts) - set(group["hosts"]))
            if unknown or not group["in_sync"] or not group["watching"]:
                why = {key: group[key] for key in ("state", "dirty", "journal", "watching", "error", "unreachable")}
                lagging.append(f"{host} {name}: {why}" + (f", does not know {unknown}" if unknown else ""))
    return lagging
