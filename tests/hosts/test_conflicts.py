"""The same file changed on two hosts that do not see each other: nobody decides in silence."""

import contextlib
import hashlib
import shutil
import time

import pytest
from places import HOSTS, SHARED

pytestmark = pytest.mark.usefixtures("in_sync")


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
        table = hosts.states("wwwshared")
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
    shown = hosts.run("csyncsync.conflicts", "wwwshared", "diff=True")["wwwshared"][path]
    assert [shown[host]["size"] for host in HOSTS] == [len(versions[host]) for host in ("web1", "web1", "web3")]
    assert shown["web3"]["sha256"] == hashlib.sha256(versions["web3"].encode()).hexdigest()
    assert "-changed on web1\n" in shown["diff"] and "+changed on web3, too" in shown["diff"]
    done = hosts.run("csyncsync.resolve", "wwwshared", path, "winner=web1")
    assert done == {path: "web1's version is on all hosts"}
    hosts.everywhere(path, versions["web1"], seconds=60)
    hosts.settled("wwwshared")
    assert hosts.states("wwwshared") == dict.fromkeys(HOSTS, "in sync")


def test_what_the_watcher_tells_late_is_no_conflict_with_what_others_have_made_of_it(hosts):
    """As it does of a file that a check of its new directory has found, and sent, while a peer was connected."""
    path = f"{SHARED}/late-{int(time.time())}"
    hosts.write("web1", path, "of web1\n")
    heard = time.time_ns()
    hosts.everywhere(path, "of web1\n")
    hosts.settled("wwwshared")
    hosts.run("csyncsync.pause", "wwwshared", "host=web1")
    try:
        hosts.write("web2", path, "of web2, longer\n")
        hosts.everywhere(path, "of web2, longer\n", hosts=["web2", "web3"])
        journal = "/var/lib/csyncsync/wwwshared/journal"
        hosts.write("web1", f"{journal}/.late", f"{path}\0").rename(
            hosts.path("web1", f"{journal}/{time.time_ns():020d}-0-{heard}.paths")
        )
    finally:
        hosts.run("csyncsync.resume", "wwwshared", "host=web1")
    hosts.everywhere(path, "of web2, longer\n")
    hosts.settled("wwwshared")
    assert hosts.states("wwwshared") == dict.fromkeys(HOSTS, "in sync")


def test_conflicts_of_all_kinds_are_resolved(hosts):
    """A file and a directory, a deletion and a change, a name that is no text: in one command, also by a policy."""
    top = f"{SHARED}/kinds"
    for name in ("kind", "deleted", "odd \\ \udcff"):
        hosts.write("web2", f"{top}/{name}", "the first version\n")
    hosts.calm("wwwshared")
    versions = {"web1": "changed on web1\n", "web3": "changed on web3, too\n"}
    with apart(hosts, "wwwshared", f"{top}/odd \\ \udcff", versions):
        hosts.shell("web1", f"cd {top}; rm kind deleted; mkdir kind; echo 1 >kind/a; mkdir kind/b; echo 1 >kind/b/c")
        for name in ("kind", "deleted"):
            hosts.write("web3", f"{top}/{name}", "changed on web3\n")
        hosts.everywhere(f"{top}/kind/b/c", "1\n", hosts=["web1", "web2"])

    def found():
        return sorted(hosts.run("csyncsync.conflicts", "wwwshared")["wwwshared"])

    expected = [f"{top}/deleted", f"{top}/kind", f"{top}/odd \\\\ \\xff"]
    hosts.eventually(lambda: found() == expected, 90, "all are shown")
    assert "winner=" in hosts.run("csyncsync.resolve", "wwwshared", "winner=nobody")
    assert "no conflict at" in hosts.run("csyncsync.resolve", "wwwshared", f"{top}/nothing", "winner=web1")
    assert hosts.run("csyncsync.resolve", "wwwshared", expected[2], "winner=younger") == {
        expected[2]: "web3's version is on all hosts"
    }
    done = hosts.run("csyncsync.resolve", "wwwshared", "winner=web3")
    assert done == dict.fromkeys(expected[:2], "web3's version is on all hosts")
    hosts.equal()
    assert hosts.read("web1", f"{top}/kind") == hosts.read("web1", f"{top}/deleted") == "changed on web3\n"
    hosts.settled("wwwshared")
    assert found() == []


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
