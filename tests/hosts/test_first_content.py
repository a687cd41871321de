"""When a group is made, hosts that already hold files lose none, and none is overwritten."""

import concurrent.futures
import os
import shutil

import pytest
from places import HOSTS


@pytest.fixture(scope="module")
def made(hosts):
    """Two groups that are made from what lay on the hosts before: without a seed, and with web2 as the seed."""
    tops = {"wwwfirst": "/var/www/first", "wwwseed": "/var/www/seed"}
    for top in tops.values():
        for host in HOSTS:
            differs = hosts.write(host, f"{top}/differs", f"{host}'s version\n")
            os.utime(differs, (1_700_000_000 + HOSTS.index(host),) * 2)
            # Of the same second and size: csync2's records cannot tell these apart.
            os.utime(hosts.write(host, f"{top}/twin", f"{host}'s twin\n"), (1_700_000_000,) * 2)
            hosts.write(host, f"{top}/deep/differs too", f"{host}\n" * (1 + HOSTS.index(host)))
            hosts.write(host, f"{top}/only-{host}", f"{host}\n")
            hosts.write(host, f"{top}/deep/only-{host}/a/b", f"{host}\n")
            hosts.write(host, f"{top}/identical", "the same\n")
            hosts.exec(host, "touch", "-d", "2026-01-01 00:00:00", f"{top}/identical")
    changes = {
        name: {"members": "web*", "include": [top], **({"seed": "web2"} if name == "wwwseed" else {})}
        for name, top in tops.items()
    }
    with hosts.pillar(changes):
        hosts.apply(sls="csyncsync.groups,csyncsync.service")
        with concurrent.futures.ThreadPoolExecutor() as pool:  # an administrator who cannot wait
            list(pool.map(lambda host: hosts.run("csyncsync.join", "wwwfirst", host), HOSTS))
        hosts.eventually(lambda: established(hosts, *tops), 120, "all hosts have joined both groups")
        yield tops
    for host in HOSTS:
        for top in tops.values():
            shutil.rmtree(hosts.path(host, top))


def established(hosts, *groups):
    answers = hosts.call(HOSTS, "csyncsync.status", seconds=10)
    for host in HOSTS:
        for group in groups:
            assert answers.get(host, {}).get(group, {}).get("state") == "established", f"{host}: {answers.get(host)}"


@pytest.mark.parametrize("group", ["wwwfirst", "wwwseed"])
def test_what_only_one_host_has_reaches_all(hosts, made, group):
    for host in HOSTS:
        hosts.everywhere(f"{made[group]}/only-{host}", f"{host}\n", seconds=60)
        hosts.everywhere(f"{made[group]}/deep/only-{host}/a/b", f"{host}\n", seconds=60)


@pytest.mark.parametrize("group", ["wwwfirst", "wwwseed"])
def test_what_all_have_alike_is_in_sync(hosts, made, group):
    hosts.everywhere(f"{made[group]}/identical", "the same\n")
    for host in HOSTS:
        hosts.push_wholly(host, group)
        dirty = hosts.shell(host, f"csync2 -C {group} -M; true")
        assert "identical" not in dirty


def test_what_differs_stays_as_it_is_on_each_host(hosts, made):
    """After everything else went over, and after each host has pushed once more."""
    for host in HOSTS:
        hosts.push_wholly(host, "wwwfirst")
    for host in HOSTS:
        assert hosts.read(host, f"{made['wwwfirst']}/differs") == f"{host}'s version\n"
        assert hosts.read(host, f"{made['wwwfirst']}/deep/differs too") == f"{host}\n" * (1 + HOSTS.index(host))


def test_what_differs_is_shown_as_a_conflict(hosts, made):
    status = hosts.states("wwwfirst")
    assert set(status.values()) != {"in sync"}, status


def test_a_new_file_is_not_held_up_by_the_conflicts(hosts, made):
    for host in HOSTS:
        hosts.write(host, f"{made['wwwfirst']}/new-{host}", host)
    for host in HOSTS:
        hosts.everywhere(f"{made['wwwfirst']}/new-{host}", host)


def test_the_seeds_version_wins_everywhere(hosts, made):
    hosts.everywhere(f"{made['wwwseed']}/differs", "web2's version\n", seconds=60)
    hosts.everywhere(f"{made['wwwseed']}/deep/differs too", "web2\nweb2\n", seconds=60)
    hosts.calm("wwwseed", tops=[made["wwwseed"]])


def test_a_difference_within_one_second_and_size_is_seen_too(hosts, made):
    """The seed's version wins, as it does for any other file that differs."""
    hosts.everywhere(f"{made['wwwseed']}/twin", "web2's twin\n", seconds=20)
