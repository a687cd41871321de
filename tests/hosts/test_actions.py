"""Commands that run where files arrived: after them, once, beside the synchronization, and how they ended is known."""

import shutil
import time

import pytest
from places import HOSTS

TOP = "/srv/act"
RELOAD = "cat /srv/act/set/* >>/run/act-seen; echo the output; test ! -e /run/act-fails"
HANG = "echo begun >>/run/act-hangs; exec sleep 1000"
ACTIONS = [
    {"pattern": [f"{TOP}/set"], "exec": [RELOAD]},
    {"pattern": [f"{TOP}/*.local"], "exec": ["echo ran >>/run/act-local"], "do-local": True},
    {"pattern": [f"{TOP}/*.own"], "exec": ["echo ran >>/run/act-own"], "do-local-only": True},
    {"pattern": [f"{TOP}/*.hang"], "exec": [HANG]},
]


def options(*actions):
    return {"wwwact": {"members": "web*", "include": [TOP], "action": list(actions)}}


@pytest.fixture(scope="module")
def group(hosts):
    """A group with actions, in sync."""
    with hosts.pillar(options(*ACTIONS)):
        hosts.apply(sls="csyncsync.groups")
        hosts.settled("wwwact", seconds=90)
        yield "wwwact"
    for host in HOSTS:
        hosts.shell(host, "rm -rf /run/act-*")
        shutil.rmtree(hosts.path(host, TOP))


def result(hosts, host, command):
    """What a host's status says of a command, {} if it has not run."""
    return next((one for one in hosts.status(host, "wwwact")["actions"] if one["exec"] == command), {})


def told(hosts, host):
    row = hosts.run("csyncsync.status", "wwwact")["groups"]["wwwact"][host]
    return "; ".join(what for what, _ in row["problems"]) or row["state"]


def arrive_at_once(hosts, text, number=20):
    """A directory of files with this text appears on web1 in one moment, in place of the one before."""
    hosts.shell(
        "web1",
        f"rm -rf {TOP}.new; mkdir {TOP}.new; cd {TOP}.new; for i in $(seq {number}); do echo {text} >$i; done;"
        f" rm -rf {TOP}/set; sleep 1; mv {TOP}.new {TOP}/set",
    )


def test_a_command_runs_once_after_all_files_of_a_push_have_arrived(hosts, group):
    arrive_at_once(hosts, "first")
    for host in ("web2", "web3"):
        hosts.eventually(lambda host=host: result(hosts, host, RELOAD).get("exit") == 0, 30, "the command has run")
    hosts.settled(group)
    time.sleep(3)
    for host in ("web2", "web3"):
        assert hosts.read(host, "/run/act-seen") == "first\n" * 20, "each file was there, and it ran once"
        assert hosts.read(host, result(hosts, host, RELOAD)["log"]) == "the output\n"
    assert hosts.read("web1", "/run/act-seen") is None, "it runs where files arrive"
    assert hosts.states(group) == dict.fromkeys(HOSTS, "in sync")


def test_local_actions_run_once_where_the_change_was_made(hosts, group):
    hosts.write("web1", f"{TOP}/a.local", "1\n")
    hosts.write("web1", f"{TOP}/a.own", "1\n")
    hosts.everywhere("/run/act-local", "ran\n")
    hosts.everywhere("/run/act-own", "ran\n", hosts=["web1"])
    hosts.settled(group)
    time.sleep(3)
    hosts.everywhere("/run/act-local", "ran\n", seconds=1)
    assert [hosts.read(host, "/run/act-own") for host in HOSTS] == ["ran\n", None, None]


def test_a_failure_is_shown_until_the_command_succeeds_or_is_gone(hosts, group):
    hosts.write("web2", "/run/act-fails", "")
    arrive_at_once(hosts, "second")
    hosts.eventually(lambda: "action failed" in told(hosts, "web2"), 30)
    log = result(hosts, "web2", RELOAD)["log"]
    assert told(hosts, "web2") == f"action failed: '{RELOAD}' exit 1, see {log}"
    assert 'csyncsync_action_problems{group="wwwact"} 1\n' in hosts.ask("web2", "csyncsync.metrics")
    hosts.settled(group)
    assert [told(hosts, host) for host in ("web1", "web3")] == ["in sync"] * 2
    hosts.path("web2", "/run/act-fails").unlink()
    arrive_at_once(hosts, "third")
    hosts.eventually(lambda: told(hosts, "web2") == "in sync", 30, "it has succeeded")
    hosts.write("web2", "/run/act-fails", "")
    arrive_at_once(hosts, "fourth")
    hosts.eventually(lambda: "action failed" in told(hosts, "web2"), 30)
    with hosts.pillar(options(*ACTIONS[1:])):
        hosts.apply(sls="csyncsync.groups")
        hosts.eventually(lambda: told(hosts, "web2") == "in sync", 60, "nobody asks for it any more")


def test_a_command_that_hangs_does_not_hold_up_files(hosts, group):
    hosts.settled(group, seconds=60)
    hosts.write("web1", f"{TOP}/a.hang", "1\n")
    for host in ("web2", "web3"):
        hosts.everywhere("/run/act-hangs", "begun\n", hosts=[host])
    for number in range(5):
        began = time.monotonic()
        hosts.write(HOSTS[number % 3], f"{TOP}/beside-{number}", f"{number}\n")
        hosts.everywhere(f"{TOP}/beside-{number}", f"{number}\n", seconds=5)
        print(f"arrived after {time.monotonic() - began:.2f} s")
    hosts.settled(group, seconds=10)
    hosts.eventually(lambda: "action running for" in told(hosts, "web2"), 90)
    hosts.write("web1", f"{TOP}/a.hang", "2\n")
    hosts.everywhere(f"{TOP}/a.hang", "2\n", seconds=5)
    assert hosts.read("web2", "/run/act-hangs") == "begun\n", "one at a time"
    for host in ("web2", "web3"):
        hosts.exec(host, "pkill", "-f", "^sleep 1000")
        hosts.everywhere("/run/act-hangs", "begun\n" * 2, hosts=[host])  # files have arrived since it began
        hosts.exec(host, "pkill", "-f", "^sleep 1000")
        hosts.eventually(lambda host=host: "was killed by signal 15" in told(hosts, host), 30)


def test_units_and_notes_go_with_the_actions(hosts, group):
    def unit(state):
        return hosts.exec("web2", "systemctl", state, f"csyncsync-action@{group}.path", check=False).stdout.strip()

    assert (unit("is-enabled"), unit("is-active")) == ("enabled", "active")
    with hosts.pillar(options()):
        hosts.apply(sls="csyncsync.groups")
        assert (unit("is-enabled"), unit("is-active")) == ("disabled", "inactive")
        assert hosts.status("web2", group)["actions"] == []
    assert (unit("is-enabled"), unit("is-active")) == ("enabled", "active")
    assert all(not state["changes"] for state in hosts.apply(test=True)["web2"].values())
