"""Hosts and masters die and come back: nobody else is held up, and nobody runs anything by hand."""

import os
import re
import shutil

import pytest

HOSTS = ("web1", "web2", "web3")
SHARED = "/var/www/shared"


@pytest.fixture(autouse=True)
def _in_sync(hosts):
    hosts.equal(seconds=90)
    hosts.settled(seconds=90)


def test_a_dead_host_delays_nobody_else(hosts):
    """Before and after the others have noticed; when it is back, it has everything."""
    hosts.bed.kill("web3")
    try:
        for number in range(3):
            hosts.write("web1", f"{SHARED}/while-web3-is-dead-{number}", "x\n")
            hosts.everywhere(f"{SHARED}/while-web3-is-dead-{number}", "x\n", hosts=["web1", "web2"], seconds=5)
        hosts.write("web2", f"{SHARED}/from-web2-while-web3-is-dead", "x\n")
        hosts.everywhere(f"{SHARED}/from-web2-while-web3-is-dead", "x\n", hosts=["web1", "web2"], seconds=5)
    finally:
        hosts.bed.boot("web3")
    hosts.equal(seconds=60)
    hosts.settled(seconds=90)


def test_a_host_that_was_off_catches_up_both_ways(hosts):
    """Changes elsewhere while it was off, and changes on its disk that no watcher saw: equal within a minute."""
    hosts.write("web1", f"{SHARED}/off/changed", "1\n")
    hosts.write("web1", f"{SHARED}/off/deleted", "1\n")
    hosts.equal()
    hosts.settled()
    hosts.bed.kill("web2")
    try:
        hosts.write("web1", f"{SHARED}/off/new-elsewhere", "x\n")
        hosts.write("web3", f"{SHARED}/off/changed", "longer, and changed elsewhere\n")
        hosts.path("web1", f"{SHARED}/off/deleted").unlink()
        hosts.write("web2", f"{SHARED}/off/new-offline/a/b", "written while it was off\n")
    finally:
        hosts.bed.boot("web2")
    hosts.everywhere(f"{SHARED}/off/new-offline/a/b", "written while it was off\n", seconds=60)
    hosts.everywhere(f"{SHARED}/off/new-elsewhere", "x\n", seconds=60)
    hosts.everywhere(f"{SHARED}/off/changed", "longer, and changed elsewhere\n", seconds=60)
    hosts.everywhere(f"{SHARED}/off/deleted", None, seconds=60)
    hosts.equal(seconds=60)


def test_a_host_whose_network_was_cut_catches_up_both_ways(hosts):
    hosts.bed.cut("web3")
    try:
        hosts.write("web3", f"{SHARED}/cut/from-web3", "x\n")
        hosts.write("web1", f"{SHARED}/cut/from-web1", "x\n")
        hosts.everywhere(f"{SHARED}/cut/from-web1", "x\n", hosts=["web1", "web2"], seconds=10)
    finally:
        hosts.bed.heal("web3")
    hosts.everywhere(f"{SHARED}/cut/from-web3", "x\n", seconds=60)
    hosts.everywhere(f"{SHARED}/cut/from-web1", "x\n", seconds=60)


def test_a_killed_minion_loses_nothing(hosts):
    """Killed in the middle of a burst; systemd starts it again, or not at all until now."""
    for number in range(100):
        hosts.write("web1", f"{SHARED}/killed/{number}", f"{number}\n")
        if number == 50:
            hosts.exec("web1", "systemctl", "kill", "--signal=KILL", "salt-minion")
    hosts.exec("web1", "systemctl", "restart", "salt-minion")
    tree = hosts.equal(seconds=60)
    assert len([path for path in tree if path.startswith(b"killed/")]) == 100


def test_a_change_arrives_without_the_master(hosts):
    """And when the master is back, everything goes on as before."""
    hosts.close()
    hosts.bed.kill("master")
    try:
        hosts.write("web1", f"{SHARED}/without-the-master", "x\n")
        hosts.everywhere(f"{SHARED}/without-the-master", "x\n", seconds=60)
    finally:
        hosts.bed.boot("master")
    hosts.eventually(lambda: set(hosts.call(HOSTS, "test.ping", seconds=5)) == set(HOSTS), 90, "the minions answer")
    hosts.write("web2", f"{SHARED}/with-the-master-again", "x\n")
    hosts.everywhere(f"{SHARED}/with-the-master-again", "x\n", seconds=60)
    hosts.equal(seconds=60)


TEMPORARY = re.compile(rb"(^|/)\.[^/]*\.[A-Za-z0-9]{6}$")
DISK = "/srv/disk"


@pytest.fixture
def small_disk(hosts):
    """A group whose files are on a small disk of their own on web3."""
    hosts.shell("web3", f"mkdir -p {DISK} && mount -t tmpfs -o size=4m,mode=755 tmpfs {DISK}")
    try:
        with hosts.pillar({"wwwdisk": {"members": "web*", "include": [DISK], "exclude": ["ballast"]}}):
            hosts.apply(sls="csyncsync.groups")
            hosts.settled("wwwdisk", seconds=60)
            yield DISK
    finally:
        hosts.shell("web3", f"umount {DISK}")
        for host in HOSTS:
            shutil.rmtree(hosts.path(host, DISK))


def test_a_disk_that_was_full_or_read_only_gets_everything(hosts, small_disk):
    """And nothing of csync2's failed attempts stays there or gets to the others, whoever looks at it."""

    def left(host):
        return [path for path in hosts.tree(host, DISK) if TEMPORARY.search(path)]

    def healed():
        assert not left("web3")
        assert len(hosts.equal(DISK, seconds=90)) == 103

    hosts.shell("web3", f"head -c 3500000 /dev/zero >{DISK}/ballast")
    for number in range(100):
        hosts.write("web1", f"{DISK}/burst/{number}", os.urandom(20_000))
    hosts.equal(DISK, hosts=["web1", "web2"], seconds=60)
    hosts.eventually(lambda: left("web3"), 30, "csync2 leaves something")
    hosts.push_wholly("web3", "wwwdisk")
    hosts.exec("web3", "systemctl", "restart", "salt-minion")  # it sees no more what comes meanwhile
    hosts.eventually(lambda: hosts.status("web1", "wwwdisk")["unreachable"].get("web3"), 60, "it is shown")
    hosts.write("web2", f"{DISK}/meanwhile", "x\n")
    hosts.everywhere(f"{DISK}/meanwhile", "x\n", hosts=["web1", "web2"], seconds=30)
    hosts.eventually(lambda: hosts.call(["web3"], "test.ping", seconds=3), 60, "its minion is back")
    hosts.push_wholly("web3", "wwwdisk")
    assert not left("web1")
    assert not left("web2")
    hosts.path("web3", f"{DISK}/ballast").unlink()
    hosts.eventually(healed, 90)
    hosts.shell("web3", f"mount -o remount,ro {DISK}")
    for number in range(50):
        hosts.write("web1", f"{DISK}/burst/{number}", os.urandom(10_000))
    hosts.equal(DISK, hosts=["web1", "web2"], seconds=60)
    hosts.eventually(lambda: hosts.status("web1", "wwwdisk")["unreachable"].get("web3"), 60, "it is shown")
    hosts.shell("web3", f"mount -o remount,rw {DISK}")
    hosts.eventually(healed, 90)
    hosts.settled("wwwdisk", seconds=90)
