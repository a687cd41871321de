"""In a group one host pushes at a time. Nobody else waits for it: no other group, no master, no host whose peer is in
trouble."""

import contextlib
import itertools
import os
import re
import shutil
import subprocess
import time

import pytest
from bed.network import address
from bed.shell import run
from bed.waits import served
from places import HOSTS, SHARED

DATA = "/var/www/data/ini"
#: With those that are there, more groups than the master's reactor has threads.
#: Some are named as what csyncsync keeps for itself.
MANY = ["log", "unconfined", "saltenv", "namespace", "serving", *(f"many{number}" for number in range(1, 5))]

#: Listens instead of csync2 on a host, and is of no use: never says anything, stops after the greeting, or has no TLS.
BAD_PEER = """
import socket, sys, threading, time

def serve(connection, mode):
    if mode != "silent":
        connection.recv(64)
        connection.sendall(b"OK (activating_ssl).\\n")
    if mode == "garbage":
        connection.sendall(b"this is no TLS\\n" * 1000)
        time.sleep(0.2)
    else:
        time.sleep(3600)
    connection.close()

server = socket.create_server(("0.0.0.0", 30865), backlog=64)
while True:
    threading.Thread(target=serve, args=(server.accept()[0], sys.argv[1]), daemon=True).start()
"""

#: Stands before csync2 in the minion's PATH and notes each command, one a line.
NOTING_CSYNC2 = """#!/bin/sh
printf '%s\\n' "$*" >>/run/csyncsync/csync2/commands
exec /usr/sbin/csync2 "$@"
"""

#: A second master, as far as leases go (all else it shares): takes in that these hosts have something to push.
OTHER_MASTER = """
import json, os, sys, salt.config, salt.runner
options = salt.config.master_config("/etc/salt/master")
cache, own = options["cachedir"], "/var/cache/salt/other-master"
os.makedirs(own, exist_ok=True)
for name in set(os.listdir(cache)) - {"csyncsync"} - set(os.listdir(own)):
    os.symlink(os.path.join(cache, name), os.path.join(own, name))
options["cachedir"] = own
functions = salt.runner.RunnerClient(options).functions
print("ready", flush=True)
for line in sys.stdin:
    print(functions["csyncsync.sync"]("wwwshared", line.strip()), flush=True)
    with open(os.path.join(own, "csyncsync", "wwwshared.json")) as file:
        lease = json.load(file)["lease"]
    if lease:  # this process hears no events: it takes the push for done
        functions["csyncsync.pushed"]("wwwshared", lease["host"], lease["jid"], "pushed")
"""


@pytest.fixture(autouse=True)
def _in_sync(hosts):
    hosts.calm(tops=[SHARED, DATA], seconds=90)


@contextlib.contextmanager
def slow_line(hosts, origin, peer, rate="1mbit"):
    """Let what csync2 on one host sends to another through slowly."""

    def tc(command, **options):
        run("ip", "netns", "exec", hosts.bed.network.namespace(origin), "tc", *command.split(), **options)

    tc("qdisc add dev eth0 root handle 1: htb default 10 r2q 100")
    try:
        tc("class add dev eth0 parent 1: classid 1:10 htb rate 1gbit")
        tc(f"class add dev eth0 parent 1: classid 1:20 htb rate {rate}")
        tc(
            "filter add dev eth0 protocol ip parent 1: u32"
            f" match ip dst {address(peer)} match ip dport 30865 0xffff flowid 1:20"
        )
        yield
    finally:
        tc("qdisc del dev eth0 root", check=False)


def pushes(events):
    """[(group, host, job, when it was called, when the master heard of its end), …], of pushes that ended."""
    called, result = {}, []
    for tag, data, when in events:
        if re.fullmatch(r"salt/job/\d+/new", tag) and data.get("fun") == "csyncsync.push":
            called[data["jid"]] = when
        found = re.fullmatch(r"csyncsync/(\w+)/pushed", tag)
        if found and data["data"]["jid"] in called:
            job = data["data"]["jid"]
            result.append((found[1], data["id"], job, called[job], when))
    return result


def overlapping(first, second):
    """Tell whether two pushes ran at the same time."""
    return first[3] < second[4] and second[3] < first[4]


def alone(hosts, since):
    """The pushes that hosts have started without being called since then, and what their watchers say of it."""
    units = "-u 'csyncsync-push@*' -u csyncsync-watch"
    command = f"journalctl --no-pager --quiet --since @{since:.3f} {units}"
    found = {host: hosts.shell(host, command) for host in HOSTS}
    return {host: text for host, text in found.items() if "Starting csyncsync-push@" in text}


def no_conflict(hosts, *groups):
    """No host refuses what another one sends."""
    for group in groups:
        for host in HOSTS:
            assert not hosts.status(host, group)["refused"], f"{group} on {host}"


def test_one_host_of_a_group_pushes_at_a_time(hosts):
    """While all hosts write all the time; two groups push at the same time; nothing is asked for again and again."""
    began = time.time()
    for group in ("wwwshared", "wwwdata"):
        hosts.run("csyncsync.sync", group)  # none of them pushes alone since the master was silent
        asked = {host: hosts.path(host, f"/var/lib/csyncsync/{group}/asked").stat().st_mtime for host in HOSTS}
        assert min(asked.values()) > began - 0.1, asked
    began = time.time()
    with hosts.bus() as bus:
        numbers = itertools.count()
        while time.time() - began < 8:
            number = next(numbers) % 20
            for host in HOSTS:
                for top in (SHARED, DATA):
                    hosts.write(host, f"{top}/steadily/{host}-{number}", f"{time.time()}\n")
            time.sleep(0.1)
        hosts.calm(tops=[SHARED, DATA])
        events = bus.all()
    ended = {group: [push for push in pushes(events) if push[0] == group] for group in ("wwwshared", "wwwdata")}
    for group, its in ended.items():
        assert {push[1] for push in its} == set(HOSTS), group
        both = [pair for pair in itertools.combinations(its, 2) if overlapping(*pair)]
        assert not both, f"{group}: {both}"
    assert any(overlapping(*pair) for pair in itertools.product(*ended.values()))
    assert not alone(hosts, began)
    no_conflict(hosts, "wwwshared", "wwwdata")
    asked = [event for event in events if event[0].startswith("salt/beacon/")]
    total = sum(len(its) for its in ended.values())
    assert len(asked) <= 3 * total + 20, f"{len(asked)} events for {total} pushes"


def test_a_slow_push_holds_up_no_other_group_and_is_not_started_twice(hosts):
    """It takes longer than the time after which the master asks for it, and a host that waits pushes by itself."""
    big, top = os.urandom(5_000_000), f"{SHARED}/slow-{int(time.time())}"
    with hosts.bus() as bus:
        with slow_line(hosts, "web1", "web3"):
            began = time.time()
            hosts.write("web1", f"{top}/big", big)
            hosts.eventually(lambda: hosts.path("web2", f"{top}/big").exists(), 30)
            for host in ("web2", "web3"):
                hosts.write(host, f"{top}/waits-on-{host}", "x\n")
            for number in itertools.count():
                for host in ("web2", "web3"):  # what web1 sends to web3 would have to wait in its full line
                    name = f"{DATA}/meanwhile-{host}-{number}"
                    hosts.write(host, name, "x\n")
                    hosts.everywhere(name, "x\n", seconds=15)
                assert set(hosts.call(HOSTS, "test.ping", seconds=10)) == set(HOSTS)
                assert not hosts.path("web3", f"{top}/big").exists()
                if time.time() - began > served()["ALONE_AFTER"][0] + 3:
                    break
                time.sleep(1)
            during = bus.all()
            for host in HOSTS:
                assert (hosts.read(host, f"{top}/waits-on-web2") is None) == (host != "web2")
        hosts.everywhere(f"{top}/waits-on-web2", "x\n", seconds=60)
        hosts.everywhere(f"{top}/waits-on-web3", "x\n", seconds=60)
        hosts.equal(seconds=60)
    called = [
        event[1]["minions"]
        for event in during
        if event[1].get("fun") == "csyncsync.push" and event[0].endswith("/new") and event[1]["arg"][0] == "wwwshared"
    ]
    assert called == [["web1"]]
    assert not alone(hosts, began)


@pytest.fixture
def many(hosts):
    """Groups with nothing in them yet."""
    with hosts.pillar({group: {"members": "web*", "include": [f"/srv/{group}"]} for group in MANY}):
        hosts.apply(sls="csyncsync.groups")
        hosts.settled(*MANY, seconds=120)
        yield MANY
    for group in MANY:
        assert set(hosts.call(HOSTS, "csyncsync.remove", group)) == set(HOSTS)
        for host in HOSTS:
            shutil.rmtree(hosts.path(host, f"/srv/{group}"))


@pytest.mark.machine
def test_more_than_ten_busy_groups_and_a_slow_push(hosts, many):
    """All are written to at once, and one group is slow: the others converge, and the master answers."""
    slow, tops = many[0], [SHARED, DATA, *(f"/srv/{group}" for group in many)]
    text = f"{time.time()}\n"

    def burst(name, writers):
        for number in range(5):
            for top in tops:
                for host in writers:
                    hosts.write(host, f"{top}/{name}/{host}-{number}", text)
        assert set(hosts.call(HOSTS, "test.ping", seconds=15)) == set(HOSTS)

    with slow_line(hosts, "web1", "web2"):
        hosts.write("web1", f"/srv/{slow}/big", os.urandom(4_000_000))
        hosts.eventually(lambda: hosts.status("web1", slow)["dirty"], 30)
        burst("beside", ("web2", "web3"))
        for top in tops:
            for host, number in itertools.product(("web2", "web3"), range(5)):
                if top != f"/srv/{slow}":
                    hosts.everywhere(f"{top}/beside/{host}-{number}", text, seconds=60)
    burst("after", HOSTS)
    hosts.equal(*tops, seconds=90)


@pytest.mark.parametrize("mode", ["silent", "greets", "garbage"])
def test_a_peer_that_hangs_delays_the_others_once(hosts, mode):
    """Not at each push. When it is well again, it gets everything without a command."""
    text = f"{time.time()}\n"
    hosts.write("web3", "/run/bad_peer.py", BAD_PEER)
    hosts.shell(
        "web3",
        "systemctl stop csyncsync-server && systemd-run --quiet --unit=bad-peer"
        f" /opt/salt/bin/python /run/bad_peer.py {mode}",
    )
    try:
        until = time.monotonic() + 24  # with a delay each time: more than 28 s
        for number in range(7):
            hosts.write("web1", f"{SHARED}/hangs/{mode}-{number}", text)
            left = max(1, until - time.monotonic())
            hosts.everywhere(f"{SHARED}/hangs/{mode}-{number}", text, hosts=["web2"], seconds=left)
        hosts.write("web2", f"{SHARED}/hangs/{mode}-back", text)
        hosts.everywhere(f"{SHARED}/hangs/{mode}-back", text, hosts=["web1"], seconds=30)
        hosts.eventually(lambda: hosts.status("web1", "wwwshared")["unreachable"], 30, "it is shown")
    finally:
        hosts.shell("web3", "systemctl stop bad-peer; systemctl start csyncsync-server")
    hosts.equal(seconds=60)


def test_a_csync2_that_stops_in_the_middle_of_a_transfer(hosts):
    """Others that the peer runs answer. The transfer is ended within half a minute, and done again."""
    text, top = f"{time.time()}\n", f"{SHARED}/stops-{int(time.time())}"
    with slow_line(hosts, "web1", "web3"):
        hosts.write("web1", f"{top}/big", os.urandom(1_000_000))
        hosts.eventually(lambda: hosts.path("web2", f"{top}/big").exists(), 30)
        time.sleep(2)  # 8 s in all
        stopped = hosts.shell("web3", "kill -STOP $(pgrep -x csync2) && pgrep -x csync2").split()
    try:
        hosts.write("web2", f"{top}/waits", text)
        hosts.everywhere(f"{top}/waits", text, seconds=60)
        hosts.equal(seconds=60)
    finally:
        hosts.shell("web3", f"kill -KILL {' '.join(stopped)} 2>/dev/null || true")


def test_a_receivers_csync2_that_is_killed_leaves_no_conflict(hosts):
    """Not even what was half made there, as a file of root that only root may read."""
    top = f"{SHARED}/killed-{int(time.time())}"
    with slow_line(hosts, "web1", "web3", rate="300kbit"):
        for number in range(60):
            file = hosts.write("web1", f"{top}/{number % 7}/{number}", f"{number}\n" * 20)
            os.chown(file, 33, 33)
            file.chmod(0o640)
            os.chown(file.parent, 33, 1000)
        for number in range(12):
            hosts.shell("web3", "pkill -KILL -x csync2 || true")
            file = hosts.write("web1", f"{top}/0/0", f"while it is sent: {number}\n")
            time.sleep(0.3)
    hosts.calm("wwwshared", tops=[top])
    no_conflict(hosts, "wwwshared")


def test_two_masters_that_hear_the_same_do_no_harm(hosts):
    """Each has leases of its own, so two hosts push at the same time now and then."""
    master = hosts.bed.find("master")
    other = subprocess.Popen(
        master.enter("/opt/salt/bin/python", "-W", "ignore", "-c", OTHER_MASTER),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert other.stdout.readline() == "ready\n"
        for number in range(10):
            for host in HOSTS:
                hosts.write(host, f"{SHARED}/masters/{host}-{number}", f"{number}\n")
                other.stdin.write(f"{host}\n")
            other.stdin.flush()
            assert [other.stdout.readline() for _ in HOSTS] == ["True\n"] * len(HOSTS)
            time.sleep(0.3)
        hosts.calm()
        no_conflict(hosts, "wwwshared")
    finally:
        other.stdin.close()
        other.wait()
        other.stdout.close()
    for host in HOSTS:
        assert hosts.path(host, f"{SHARED}/masters/web1-9").exists()
        assert hosts.ask(host, "csyncsync.push", "wwwshared")["state"] == "pushed"


def test_the_work_of_a_change_does_not_depend_on_the_tree(hosts):
    """One changed file means the same csync2 commands in a directory of three files and in one of a thousand."""
    hosts.write("web1", "/usr/local/sbin/csync2", NOTING_CSYNC2).chmod(0o755)
    noted = hosts.path("web1", "/run/csyncsync/csync2/commands")
    try:
        commands = {}
        for size in (3, 1000):
            for number in range(size):
                hosts.write("web1", f"{SHARED}/cost/{number}", "x\n")
            hosts.calm("wwwshared")
            noted.unlink(missing_ok=True)
            hosts.write("web1", f"{SHARED}/cost/1", f"one of {size:4}\n")
            hosts.everywhere(f"{SHARED}/cost/1", f"one of {size:4}\n")
            hosts.settled("wwwshared")
            commands[size] = sorted(noted.read_text("utf-8").splitlines())
        assert commands[3] == commands[1000] != []
        assert not any(line.endswith((" /", SHARED)) for line in commands[1000])
    finally:
        hosts.path("web1", "/usr/local/sbin/csync2").unlink()
