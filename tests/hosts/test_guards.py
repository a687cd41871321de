"""A lost disk is no deletion: what vanishes with it on one host stays on the others, until an administrator says so."""

import shutil
import time

import pytest
from places import HOSTS

FILES = 120


class Emptied:
    """The directory is there, and nothing in it: an unmounted disk looks so."""

    @staticmethod
    def break_(hosts, top):
        hosts.shell("web1", f"mv {top} {top}.away && mkdir {top}")

    @staticmethod
    def mend(hosts, top):
        hosts.shell("web1", f"rmdir {top} && mv {top}.away {top}")


class Symlinked:
    """The directory is a symlink: csync2 ignores what is below one."""

    @staticmethod
    def break_(hosts, top):
        hosts.shell("web1", f"mv {top} {top}.away && ln -s {top}.away {top}")

    @staticmethod
    def mend(hosts, top):
        hosts.shell("web1", f"rm {top} && mv {top}.away {top}")


class Missing:
    """The directory is gone."""

    @staticmethod
    def break_(hosts, top):
        hosts.shell("web1", f"mv {top} {top}.away")

    @staticmethod
    def mend(hosts, top):
        hosts.shell("web1", f"mv {top}.away {top}")


class Mounted:
    """Another file system is mounted over the directory."""

    @staticmethod
    def break_(hosts, top):
        hosts.shell("web1", f"mount -t tmpfs tmpfs {top}")

    @staticmethod
    def mend(hosts, top):
        hosts.shell("web1", f"umount {top}")


FAULTS = {"guardempty": Emptied, "guardlink": Symlinked, "guardmissing": Missing, "guardmount": Mounted}
TOPS = {group: f"/srv/{group}" for group in FAULTS}
faults = pytest.mark.parametrize("group", FAULTS)


@pytest.fixture(scope="module")
def groups(hosts):
    """One group with some files for each fault, so that all of them can be waited for at once."""
    with hosts.pillar({group: {"members": "web*", "include": [top]} for group, top in TOPS.items()}):
        hosts.apply(sls="csyncsync.groups")
        hosts.settled(*FAULTS, seconds=120)
        for top in TOPS.values():
            for number in range(FILES):
                hosts.write("web1", f"{top}/{number % 7}/{number}", f"{number}\n")
        trees = {group: hosts.equal(top, seconds=60) for group, top in TOPS.items()}
        assert all(len(tree) > FILES for tree in trees.values())
        hosts.settled(*FAULTS)
        yield trees
    for host in HOSTS:
        for top in TOPS.values():
            shutil.rmtree(hosts.path(host, top))


@pytest.fixture(scope="module")
def broken(hosts, groups):
    """
    All faults at once on web1: told by themselves, though nobody writes anything. A forced full push of each group, and
    ten more seconds; what the pushes returned.
    """
    with hosts.bus() as bus:
        for group, fault in FAULTS.items():
            fault.break_(hosts, TOPS[group])
        told = {f"csyncsync/{group}/held" for group in FAULTS}
        hosts.eventually(lambda: told <= {tag for tag, _, _ in bus.all()}, 60, "each is told")
    pushes = {group: hosts.push_wholly("web1", group) for group in FAULTS}
    time.sleep(10)  # nothing is to happen by itself either
    return pushes


@pytest.fixture(scope="module")
def mended(hosts, broken):
    """All faults taken back; nobody runs a command."""
    for group, fault in FAULTS.items():
        fault.mend(hosts, TOPS[group])
    return time.monotonic()


@faults
def test_nothing_is_deleted_on_the_other_hosts(hosts, groups, broken, group):
    for host in ("web2", "web3"):
        assert hosts.tree(host, TOPS[group]) == groups[group]


@faults
def test_the_push_is_held_and_says_why(hosts, broken, group):
    assert broken[group]["state"] == "held"
    assert TOPS[group] in broken[group]["comment"] or "files have vanished" in broken[group]["comment"]
    status = hosts.status("web1", group)
    assert status["held"]
    assert not status["in_sync"] or status["held"]


def test_the_administrators_table_says_held(hosts, broken):
    for group in FAULTS:
        found = hosts.states(group)
        assert found["web1"].startswith("HELD"), found
    assert hosts.salt_run("csyncsync.status").returncode == 1


def test_a_state_apply_neither_makes_nor_mends_a_lost_root(hosts, broken):
    states = hosts.apply("web1", sls="csyncsync.groups", may_fail=True)["web1"]
    for group in ("guardlink", "guardmissing", "guardmount"):
        state = states[f"The group {group} is on this host"]
        assert state["result"] is False
        assert TOPS[group] in state["comment"]
    assert not hosts.path("web1", TOPS["guardmissing"]).exists()
    assert states["The group wwwshared is on this host"]["result"] is True


@faults
def test_it_goes_on_by_itself_when_the_disk_is_back(hosts, groups, mended, group):
    hosts.write("web2", f"{TOPS[group]}/from-web2-afterwards", "x\n")
    hosts.everywhere(f"{TOPS[group]}/from-web2-afterwards", "x\n", seconds=70)
    hosts.write("web1", f"{TOPS[group]}/from-web1-afterwards", "x\n")
    hosts.everywhere(f"{TOPS[group]}/from-web1-afterwards", "x\n", seconds=70)
    tree = hosts.equal(TOPS[group], seconds=70)
    assert {**tree, **groups[group]}.keys() == tree.keys(), "nothing is missing"
    hosts.eventually(lambda: not hosts.status("web1", group)["held"], 70, "it is no longer held")


def test_a_deletion_of_most_is_let_through_by_the_administrator(hosts, groups, mended):
    group, top = "guardempty", TOPS["guardempty"]
    hosts.calm(group, tops=[top], seconds=70)
    with hosts.bus() as bus:
        for entry in hosts.path("web1", top).iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        hosts.eventually(lambda: bool(hosts.status("web1", group)["held"]), 30, "it is held")
        hosts.ask("web1", "csyncsync.push", group)  # held again
        hosts.eventually(lambda: bool(bus.tagged(f"csyncsync/{group}/held")), 10, "it is told")
        time.sleep(1)
        (told,) = [data for _, data, _ in bus.tagged(f"csyncsync/{group}/held")]
        assert "have vanished" in told["data"]["comment"]
    assert len(hosts.tree("web2", top)) > FILES
    released = hosts.run("csyncsync.release", group)
    assert released["web1"]["state"] == "pushed", released
    hosts.eventually(lambda: len(hosts.tree("web2", top)) == len(hosts.tree("web3", top)) == 1, 60, "all is deleted")
    hosts.settled(group)


def test_deletions_that_wait_for_a_host_that_is_away_are_no_lost_disk(hosts, groups, mended):
    """Many, one after the other: none of them looked like a lost disk when it was made."""
    group, top = "guardlink", TOPS["guardlink"]
    hosts.calm(group, tops=[top], seconds=70)
    hosts.bed.cut("web3")
    try:
        for turn in range(4):
            for number in range(40):
                hosts.write("web1", f"{top}/churn/{number}-{turn}", "x\n")
            hosts.equal(top, hosts=["web1", "web2"], seconds=60)
            time.sleep(2)  # to delete what a push has not yet finished is a conflict
            shutil.rmtree(hosts.path("web1", f"{top}/churn"))
            hosts.equal(top, hosts=["web1", "web2"], seconds=60)
        shutil.rmtree(hosts.path("web1", f"{top}/0"))
        hosts.equal(top, hosts=["web1", "web2"], seconds=60)
        assert not hosts.status("web1", group)["held"]
    finally:
        hosts.bed.heal("web3")
    hosts.calm(group, tops=[top], seconds=90)
