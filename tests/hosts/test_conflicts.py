"""The same file changed on two hosts that do not see each other: nobody decides in silence."""

import contextlib
import shutil
import time

import pytest

HOSTS = ("web1", "web2", "web3")
SHARED = "/var/www/shared"


@pytest.fixture(autouse=True)
def _in_sync(hosts):
    hosts.equal(seconds=90)
    hosts.settled(seconds=90)


@contextlib.contextmanager
def apart(hosts, group, path, versions):
    """web3 is cut off while web1, then web3 itself change a file; both have checked it when they meet again."""
    hosts.bed.cut("web3")
    try:
        for host in ("web1", "web3"):
            hosts.write(host, path, versions[host])
            time.sleep(2)  # younger by more than a second
        hosts.everywhere(path, versions["web1"], hosts=["web1", "web2"])
        yield
        # Without the master, web3 starts its push by itself.
        push = f"/var/lib/csyncsync/{group}/push.json"
        began = time.time() - 4
        hosts.eventually(lambda: hosts.path("web3", push).stat().st_mtime > began, 60, "web3 has noted its change")
    finally:
        hosts.bed.heal("web3")


def test_a_conflict_is_shown_and_told_once_and_both_versions_stay(hosts):
    path = f"{SHARED}/conflict-{int(time.time())}"
    hosts.write("web2", path, "the first version\n")
    hosts.everywhere(path, "the first version\n")
    hosts.settled("wwwshared")
    versions = {"web1": "changed on web1\n", "web3": "changed on web3, too\n"}
    with hosts.bus() as bus:
        with apart(hosts, "wwwshared", path, versions):
            pass
        hosts.eventually(lambda: bool(bus.tagged("csyncsync/wwwshared/conflict")), 90, "the event is fired")
        table = hosts.run("csyncsync.status", "wwwshared")["wwwshared"]
        assert f"CONFLICT with web3: {path}" in table["web1"]
        assert f"CONFLICT with web1: {path}" in table["web3"]
        for number in range(3):  # pushes that meet the conflict again
            hosts.write("web1", f"{path}-beside", f"{number}\n")
            hosts.everywhere(f"{path}-beside", f"{number}\n")
            time.sleep(2)
        events = [data for _, data, _ in bus.tagged("csyncsync/wwwshared/conflict")]
    assert [(event["group"], event["path"], event["hosts"]) for event in events] == [
        ("wwwshared", path, ["web1", "web3"])
    ]
    assert {host: hosts.read(host, path) for host in versions} == versions
    # csync2's own way out: -f has this host's version win (and is forgotten when the other host tries to send again).
    hosts.exec("web1", "csync2", "-C", "wwwshared", "-f", path)
    hosts.ask("web1", "csyncsync.push", "wwwshared")
    hosts.everywhere(path, versions["web1"], seconds=60)
    hosts.settled("wwwshared")
    assert hosts.run("csyncsync.status", "wwwshared")["wwwshared"] == dict.fromkeys(HOSTS, "in sync")


def test_a_policy_decides_and_its_winner_wins_everywhere(hosts):
    group, top = "wwwyounger", "/srv/younger"
    with hosts.pillar({group: {"members": "web*", "include": [top], "auto": "younger"}}):
        hosts.apply(sls="csyncsync.groups")
        hosts.settled(group, seconds=60)
        hosts.write("web1", f"{top}/file", "first\n")
        hosts.everywhere(f"{top}/file", "first\n")
        hosts.settled(group)
        with apart(hosts, group, f"{top}/file", {"web1": "older\n", "web3": "the younger\n"}):
            pass
        hosts.everywhere(f"{top}/file", "the younger\n", seconds=90)
        hosts.settled(group, seconds=60)
    for host in HOSTS:
        shutil.rmtree(hosts.path(host, top))
