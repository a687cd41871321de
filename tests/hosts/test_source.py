"""Who a host gets its first content from: only from one that sends, and all of it, or it has not joined."""

import contextlib
import shutil
import time

import pytest
from places import HOSTS

TOP = "/srv/source"


@contextlib.contextmanager
def group(hosts, name, **options):
    """A group of the pillar, with its include; not waited for. Afterwards its files are gone, too."""
    top = f"{TOP}/{name}"
    with hosts.pillar({name: {"members": "web*", "include": [top], **options}}):
        hosts.apply(sls="csyncsync.groups,csyncsync.service")
        yield top
    for host in HOSTS:
        shutil.rmtree(hosts.path(host, top), ignore_errors=True)


def change(hosts, name, **options):
    """Change options of a group, on all its hosts."""
    groups = hosts.groups()
    hosts.set_groups({**groups, name: {**groups[name], **options}})
    hosts.apply(sls="csyncsync.groups")


def state(hosts, host, name):
    return hosts.status(host, name).get("state")


def waits_for(hosts, host, name, text, seconds=40):
    """Wait until the status says why a host does not join; it has not joined then."""

    def told():
        found = hosts.states(name)[host]
        assert text in found, found

    hosts.eventually(told, seconds)
    assert state(hosts, host, name) != "established"


@pytest.fixture(scope="module")
def one_sender(hosts):
    """web3 alone sends; the others, with other files, are there before it."""
    for host in HOSTS:
        hosts.write(host, f"{TOP}/onesends/page", f"{host}'s version\n")
        hosts.write(host, f"{TOP}/onesends/only-{host}", f"{host}\n")
    with group(hosts, "onesends", members=["web1", "web2"], **{"receive-only": ["web1", "web[2]"]}) as top:
        for host in ("web1", "web2"):
            waits_for(hosts, host, "onesends", "csyncsync:groups:onesends:receive_only covers all members")
        change(hosts, "onesends", members="web*")
        hosts.settled("onesends", seconds=90)
        yield top


def test_a_new_group_begins_with_a_host_that_sends(hosts, one_sender):
    hosts.everywhere(f"{one_sender}/page", "web3's version\n")
    hosts.everywhere(f"{one_sender}/only-web3", "web3\n")
    for host in ("web1", "web2"):
        assert [hosts.read(other, f"{one_sender}/only-{host}") is not None for other in HOSTS] == [
            other == host for other in HOSTS
        ]


def test_who_only_receives_is_refused_as_the_one_whose_files_win(hosts, one_sender):
    only = "web1 only receives (csyncsync:groups:onesends:receive_only)"
    for command in (
        ("csyncsync.reset", "onesends", "source=web1"),
        ("csyncsync.reset", "onesends", "source=web1", "test=True"),
        ("csyncsync.resolve", "onesends", "winner=web1"),
    ):
        told = hosts.run(*command)
        assert told.startswith(only), told
        assert told.endswith("is to be a member that sends: web3"), told
    assert only in hosts.ask("web1", "csyncsync.win", "onesends", [f"{one_sender}/page"])
    assert only in hosts.ask("web1", "csyncsync.admit", "onesends", "web2")
    hosts.ask("web2", "csyncsync.reset", "onesends")
    for source in ("source=web1", "source=None"):
        assert "only receives (csyncsync:groups:onesends:receive_only)" in hosts.ask(
            "web2", "csyncsync.join", "onesends", source
        )
    hosts.ask("web2", "csyncsync.push", "onesends")
    hosts.settled("onesends", seconds=60)


def test_the_only_sender_begins_anew_with_its_own_files(hosts, one_sender):
    """It has lost its database: nobody else may be its source, and what it changed meanwhile gets to all."""
    for name in ("kept", "gone", "changed"):
        hosts.write("web3", f"{one_sender}/{name}", "x\n")
    hosts.calm("onesends", tops=[f"{one_sender}/kept"])
    hosts.everywhere(f"{one_sender}/gone", "x\n")
    hosts.stop_minion("web3")
    hosts.shell("web3", "rm /var/lib/csync2/web3_onesends.db3")
    hosts.shell("web3", f"cd {one_sender}; rm gone; echo newer >changed; echo new >new")
    hosts.start_minion("web3")
    hosts.everywhere(f"{one_sender}/changed", "newer\n", seconds=60)
    hosts.everywhere(f"{one_sender}/new", "new\n")
    hosts.everywhere(f"{one_sender}/gone", None)
    hosts.everywhere(f"{one_sender}/kept", "x\n", seconds=1)
    hosts.settled("onesends", seconds=60)


def test_a_host_that_is_to_send_from_now_on_takes_what_the_others_have_first(hosts, one_sender):
    hosts.write("web2", f"{one_sender}/page", "changed where nobody takes it from\n")
    time.sleep(1)
    change(hosts, "onesends", **{"receive-only": ["web1"]})
    hosts.everywhere(f"{one_sender}/only-web2", "web2\n", seconds=60)
    hosts.everywhere(f"{one_sender}/page", "web3's version\n")
    hosts.settled("onesends", seconds=60)
    hosts.write("web2", f"{one_sender}/page", "web2's new version\n")
    hosts.everywhere(f"{one_sender}/page", "web2's new version\n")
    change(hosts, "onesends", **{"receive-only": ["web1", "web3"]})
    hosts.settled("onesends", seconds=60)
    hosts.write("web2", f"{one_sender}/page", "web2's newest version\n")
    hosts.everywhere(f"{one_sender}/page", "web2's newest version\n")


def test_a_newcomer_waits_for_a_host_that_sends(hosts):
    """web1 has all files, but only receives; its stale one replaces nothing."""
    with group(hosts, "waitsfor", members=["web1", "web2"], receive_only=["web1"]) as top:
        hosts.write("web2", f"{top}/page", "the group's version\n")
        hosts.everywhere(f"{top}/page", "the group's version\n", hosts=("web1", "web2"), seconds=60)
        hosts.settled("waitsfor", hosts=("web1", "web2"), seconds=60)
        hosts.write("web1", f"{top}/page", "stale\n")
        hosts.write("web3", f"{top}/page", "old\n")
        hosts.run("csyncsync.pause", "waitsfor", "host=web2")
        change(hosts, "waitsfor", members=["web1", "web2", "web3"])
        waits_for(hosts, "web3", "waitsfor", "waits for web2: paused")
        hosts.stop_minion("web2")
        try:
            waits_for(hosts, "web3", "waitsfor", "waits for web2: no established host that sends answers")
            assert hosts.read("web3", f"{top}/page") == "old\n"
        finally:
            hosts.start_minion("web2")
        hosts.run("csyncsync.resume", "waitsfor", "host=web2")
        hosts.everywhere(f"{top}/page", "the group's version\n", hosts=("web2", "web3"), seconds=60)
        hosts.settled("waitsfor", seconds=60)
        assert hosts.read("web2", f"{top}/page") == "the group's version\n"


def test_where_only_receivers_are_established_the_status_says_what_to_do(hosts):
    with group(hosts, "nosender", members=["web1", "web2"], receive_only=["web1"]) as top:
        hosts.write("web2", f"{top}/page", "the group's version\n")
        hosts.everywhere(f"{top}/page", "the group's version\n", hosts=("web1", "web2"), seconds=60)
        hosts.settled("nosender", hosts=("web1", "web2"), seconds=60)
        hosts.write("web3", f"{top}/page", "web3's version\n")
        change(hosts, "nosender", members=["web1", "web3"])
        waits_for(hosts, "web3", "nosender", "web1 only receives (csyncsync:groups:nosender:receive_only)")
        waits_for(hosts, "web3", "nosender", "salt-run csyncsync.reset nosender source=web3")
        assert hosts.read("web3", f"{top}/page") == "web3's version\n"
        assert hosts.read("web1", f"{top}/page") == "the group's version\n"
        assert set(hosts.run("csyncsync.reset", "nosender", "source=web3")) == {"web1", "web3"}
        hosts.everywhere(f"{top}/page", "web3's version\n", hosts=("web1", "web3"))
        hosts.settled("nosender", hosts=("web1", "web3"), seconds=60)


# --- All of it, or not yet --------------------------------------------------------------------------------


def test_a_host_has_not_joined_while_it_cannot_take_something(hosts):
    """One place there is read-only, where only directories and links go, of which csync2 complains in no other way."""
    with group(hosts, "readonly", members=["web1", "web2"]) as top:
        hosts.shell("web1", f"mkdir -p {top}/ro/inner/most {top}/rw; ln -s inner {top}/ro/link; chmod 711 {top}/ro")
        hosts.equal(top, hosts=("web1", "web2"), seconds=60)
        hosts.settled("readonly", hosts=("web1", "web2"), seconds=60)
        hosts.shell("web3", f"mkdir -p {top}/ro; mount --bind {top}/ro {top}/ro; mount -o remount,bind,ro {top}/ro")
        try:
            change(hosts, "readonly", members=["web1", "web2", "web3"])
            waits_for(hosts, "web3", "readonly", f"{top}/ro")
            assert hosts.path("web3", f"{top}/rw").is_dir(), "the rest is there"
        finally:
            hosts.shell("web3", f"umount {top}/ro")
        hosts.equal(top, seconds=60)
        hosts.settled("readonly", seconds=60)


def test_a_host_has_not_joined_while_its_disk_is_full(hosts):
    with group(hosts, "diskfull", members=["web1", "web2"]) as top:
        hosts.shell("web1", f"mkdir {top}/few; head -c 3000000 /dev/urandom >{top}/few/large; echo x >{top}/small")
        hosts.settled("diskfull", hosts=("web1", "web2"), seconds=60)
        hosts.shell("web3", f"mkdir -p {top}; mount -t tmpfs -o size=1m,mode=755 tmpfs {top}")
        try:
            change(hosts, "diskfull", members=["web1", "web2", "web3"])
            waits_for(hosts, "web3", "diskfull", "joining (recorded): ", 60)
            hosts.shell("web3", f"mount -o remount,size=20m {top}")
            hosts.equal(f"{top}/few", seconds=90)
            hosts.settled("diskfull", seconds=90)
            hosts.equal(top)
        finally:
            hosts.shell("web3", f"umount {top}", check=False)


def test_a_host_has_not_joined_when_its_source_is_killed_in_the_middle(hosts):
    """It waits for it, and goes on when it is back. csync2 is slow here: it creates each of many files."""
    with group(hosts, "killed", members=["web1"]) as top:
        hosts.shell("web1", f"mkdir {top}/many; cd {top}/many; touch $(seq 4000); chmod 600 *")
        hosts.settled("killed", hosts=("web1",), seconds=60)
        change(hosts, "killed", members=["web1", "web3"])
        there = hosts.path("web3", f"{top}/many")
        try:
            hosts.eventually(there.is_dir, 60)
            hosts.stop_minion("web1")
            assert len(list(there.iterdir())) < 4000
            waits_for(hosts, "web3", "killed", "joining (recorded): w", 90)
        finally:
            hosts.start_minion("web1")
        hosts.eventually(lambda: state(hosts, "web3", "killed") == "established", 90)
        assert len(list(there.iterdir())) == 4000
        hosts.settled("killed", hosts=("web1", "web3"), seconds=60)
        hosts.equal(top, hosts=("web1", "web3"))
