"""Whatever breaks while all hosts write: afterwards each tree is what its writer made of it, and nobody ran anything.

CHAOS_FAULT names one fault, or all; CHAOS_MINUTES has them follow each other for so long (make chaos), but for those
that CHAOS_WITHOUT names; CHAOS_SEED replays a run.
"""

import os
import random
import re
import time

import pytest
from chaos import FAULTS
from model import as_written, begun, changing
from places import HOSTS

TOP = "/var/www/shared/chaos"
MINUTES = float(os.environ.get("CHAOS_MINUTES", "0"))
TEMPORARY = re.compile(rb"(^|/)\.[^/]*\.[A-Za-z0-9]{6}$")


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_held(hosts):
    """In a minute without a push, a writer deletes most of so small a group: the guard would hold that."""
    shared = {**hosts.groups()["wwwshared"], "hold": {"number": 100_000}}
    with hosts.pillar({"wwwshared": shared}):
        hosts.apply(sls="csyncsync.groups,csyncsync.service")
        yield


@pytest.fixture
def seed():
    chosen = os.environ.get("CHAOS_SEED") or str(random.randrange(10**6))
    print(f"CHAOS_SEED={chosen}")
    return chosen


@pytest.fixture
def parts(hosts, seed, tmp_path):
    """``{host: its part of the tree}``; each host has something there before anything breaks."""
    hosts.calm(seconds=120)
    made = begun(hosts, TOP, tmp_path, seed)
    hosts.settled(seconds=60)
    yield made
    for host in HOSTS:
        hosts.remove(host, f"{TOP}-{host}")


def healed(hosts, parts, seconds):
    """Wait until every host has what the models say; the seconds that it took."""
    began = time.monotonic()
    try:
        as_written(hosts, TOP, parts, seconds)
    except pytest.fail.Exception:
        for host in HOSTS:  # what tells why is gone with the testbed
            print(f"{host} is to send:\n{hosts.shell(host, 'csync2 -C wwwshared -M | cat -v')}")
        raise
    took = time.monotonic() - began
    for host in HOSTS:
        left = [path for path in hosts.tree(host) if TEMPORARY.search(path)]
        assert not left, f"{left} on {host}"
    return took


#: Those of each run of the tests; all of them take some minutes more.
USUAL = ["host_powered_off", "push_killed", "reactor_killed"]
CHOSEN = {None: USUAL, "all": sorted(FAULTS)}
FAULT = os.environ.get("CHAOS_FAULT")
WITHOUT = {*os.environ.get("CHAOS_WITHOUT", "").split(",")}
DATABASE_LOST = ("database_deleted", "database_truncated")


@pytest.mark.parametrize("fault", CHOSEN.get(FAULT, [FAULT]))
def test_all_trees_are_as_their_writers_made_them_after(hosts, parts, seed, fault):
    """A fault on a host that chance picks, while all write."""
    host = random.Random(seed).choice(HOSTS)
    with changing(parts):
        time.sleep(1)
        with FAULTS[fault](hosts, host) as seconds:
            time.sleep(seconds)
        time.sleep(1)
    took = healed(hosts, parts, 150)
    print(f"{fault} on {host}: {sum(len(part.history) for part in parts.values())} changes, healed in {took:.0f} s")


def all_established(hosts):
    """Tell whether each host answers, and has a database that says that it is a member."""
    try:
        answers = hosts.call(HOSTS, "csyncsync.status", "wwwshared", seconds=10)
    except AssertionError:  # the master has just been killed
        return False
    found = [answer["wwwshared"]["state"] for answer in answers.values() if isinstance(answer, dict)]
    return found == ["established"] * len(HOSTS)


@pytest.mark.skipif(not MINUTES, reason="make chaos runs it")
def test_faults_follow_each_other(hosts, parts, seed):
    """For some time, then all is healed and must be equal."""
    chance, until, happened = random.Random(seed), time.monotonic() + 60 * MINUTES, []
    faults = sorted(FAULTS.keys() - WITHOUT)
    with changing(parts):
        while time.monotonic() < until:
            fault, host = chance.choice(faults), chance.choice(HOSTS)
            if fault in DATABASE_LOST and not all_established(hosts):
                continue  # if all have lost theirs, nobody knows any more which version is newer
            happened.append(f"{fault} {host}")
            print(f"{time.strftime('%H:%M:%S')} {happened[-1]}", flush=True)
            with FAULTS[fault](hosts, host) as seconds:
                time.sleep(seconds * chance.random())
            time.sleep(chance.expovariate(0.5))
    took = healed(hosts, parts, 240)
    print(f"{sum(len(part.history) for part in parts.values())} changes, healed in {took:.0f} s after {happened}")
