""" "In sync" is checked: what a host has missed, and nobody knows of, is told, and heals by itself."""

import contextlib
import time

import pytest
from places import HOSTS, SHARED

TOP = f"{SHARED}/differs"
#: Plants a file, or its absence, and csync2's record of it, as on a host that has missed something.
PLANT = """
import os, sqlite3, sys
sys.path.insert(0, "/var/cache/salt/minion/extmods/utils")
from csync2lib.csync2.names import encode
from csync2lib.csync2.states import check_text
path, content, time = sys.argv[1].encode(), sys.argv[2], float(sys.argv[3])
database = sqlite3.connect(sys.argv[4], isolation_level=None)
database.execute("DELETE FROM file WHERE filename = CAST(? AS TEXT)", (encode(path),))
if content:
    with open(path, "w") as file:
        file.write(content)
    os.utime(path, (time, time))
    values = encode(path), encode(check_text(path, os.lstat(path)))
    database.execute("INSERT INTO file (filename, checktxt) VALUES (CAST(? AS TEXT), CAST(? AS TEXT))", values)
else:
    os.unlink(path)
"""


def plant(hosts, host, contents, time=1_600_000_000):
    """Have a host hold other files, given as ``{name: content or ""}``, and take them for what it has received."""
    hosts.settled("wwwshared")
    hosts.stop_minion(host)
    for name, content in contents.items():
        database = f"/var/lib/csync2/{host}_wwwshared.db3"
        hosts.exec(host, "/opt/salt/bin/python", "-c", PLANT, f"{TOP}/{name}", content, str(time), database)
    hosts.start_minion(host)
    hosts.settled("wwwshared")


#: Takes what waits for a host out of csync2's database, as if nobody had ever known of it.
FORGET = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)
database.execute("DELETE FROM dirty WHERE peername = ?", (sys.argv[2],))
"""


@contextlib.contextmanager
def missing(hosts, host, *senders):
    """A host is cut off; afterwards nobody knows that it has missed what these hosts have changed."""
    address = hosts.status(host, "wwwshared")["hosts"][host].partition("@")[2]

    def forgotten():
        """The watcher may tell of a file once more, which is then sent once more."""
        for other in senders:
            database = f"/var/lib/csync2/{other}_wwwshared.db3"
            hosts.exec(other, "/opt/salt/bin/python", "-c", FORGET, database, address)
        time.sleep(3)
        for other in senders:
            found = hosts.status(other, "wwwshared")
            assert not found["journal"] and host not in found["dirty"], f"{other} knows it still"

    hosts.bed.cut(host)
    try:
        yield
        hosts.equal(TOP, hosts=hosts.others(host), seconds=60)
        for other in senders:
            hosts.eventually(lambda other=other: host in hosts.status(other, "wwwshared")["unreachable"], 30)
        hosts.eventually(forgotten, 30)
    finally:
        hosts.bed.heal(host)
    hosts.eventually(lambda: hosts.call([host], "test.ping", seconds=3), 90, "its minion is back")
    hosts.settled("wwwshared", seconds=90)


@pytest.fixture
def known(hosts):
    """Files that all hosts have."""
    for name in ("missed", "beside"):
        hosts.write("web1", f"{TOP}/{name}", "first\n")
    hosts.calm("wwwshared", tops=[TOP])
    yield
    hosts.salt_run("csyncsync.resolve", "wwwshared", "winner=web1")
    hosts.remove("web1", TOP)


def state(hosts, host):
    return hosts.states("wwwshared")[host]


def test_what_a_host_has_missed_is_told_and_heals(hosts, known):
    with hosts.bus() as bus:
        with missing(hosts, "web2", "web1"):
            hosts.write("web1", f"{TOP}/missed", "second version\n")
        hosts.run("csyncsync.sync", "wwwshared")  # if nobody has looked before
        hosts.everywhere(f"{TOP}/missed", "second version\n", seconds=60)
        told = [data for _, data, _ in bus.tagged("csyncsync/wwwshared/differs")]
    assert [(found["hosts"], found["path"]) for found in told][:1] == [({"web2": 1}, f"{TOP}/missed")]
    hosts.calm("wwwshared", tops=[TOP])
    hosts.eventually(lambda: hosts.states("wwwshared") == dict.fromkeys(HOSTS, "in sync"), 60)


def test_it_heals_by_itself_after_a_check_of_the_whole_group(hosts, known):
    with missing(hosts, "web3", "web1", "web2"):
        hosts.write("web2", f"{TOP}/dir/new", "x\n")
        hosts.path("web1", f"{TOP}/beside").unlink()
    hosts.push_wholly("web2", "wwwshared")
    hosts.everywhere(f"{TOP}/dir/new", "x\n", seconds=90)
    hosts.everywhere(f"{TOP}/beside", None, seconds=90)
    hosts.calm("wwwshared", tops=[TOP])


def test_what_nobody_knows_the_age_of_is_a_conflict(hosts, known):
    plant(hosts, "web3", {"missed": "whose is this?\n"})
    hosts.run("csyncsync.sync", "wwwshared")
    hosts.eventually(lambda: "CONFLICT" in state(hosts, "web3"), 60)
    assert hosts.read("web1", f"{TOP}/missed") == "first\n"
    assert hosts.read("web3", f"{TOP}/missed") == "whose is this?\n"
