"""
A minion that is in another hand does harm in the groups that the master put it in, and nowhere else.

web4 is a minion of no group, web3 a member of wwwshared and wwwdata, and wwwtwo is web1's and web2's alone. What the
hostile ones send goes over their own channel to the master, past Salt's client code.
"""

import contextlib
import json
import re
import subprocess
import threading
import time

import pytest
from places import HOSTS, SHARED

GROUPS = ("wwwdata", "wwwshared", "wwwtwo")
TWO = "/var/www/two"
RECORDS = "/var/cache/salt/master/csyncsync"

#: Runs on a minion: sends each load of a list (a Python expression on its standard input) to the master, as it is.
SEND = """
import json, sys
import salt.channel.client, salt.config, salt.minion
options = salt.config.minion_config("/etc/salt/minion")
options.update(salt.minion.resolve_dns(options))
with salt.channel.client.ReqChannel.factory(options) as channel:
    for load in eval(sys.stdin.read()):
        try:
            if load["cmd"] == "_pillar":
                answer = channel.crypted_transfer_decode_dictentry(load, dictkey="pillar")
            else:
                answer = channel.send({"id": options["id"], **load}, tries=1, timeout=20)
        except Exception as err:
            answer = repr(err)
        print(json.dumps(answer, default=repr), flush=True)
"""

#: Runs on a minion: fires events of a list (JSON) over and over: seconds, events a second.
FLOOD = """
import json, sys, time
import salt.config, salt.utils.event
options = salt.config.minion_config("/etc/salt/minion")
events, seconds, rate = json.loads(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
began, fired = time.monotonic(), 0
with salt.utils.event.MinionEvent(options, listen=False) as bus:
    while time.monotonic() - began < seconds:
        batch = [events[number % len(events)] for number in range(fired, fired + rate // 10)]
        assert bus.fire_event({"beacons": batch}, "__beacons_return", timeout=30000)
        fired += len(batch)
        time.sleep(max(0, began + fired / rate - time.monotonic()))
print(fired / (time.monotonic() - began))
"""

OWNED = "/tmp/owned"
TRICKS = (
    "",
    "../x",
    "../../../../etc/salt/x",
    "/etc/passwd",
    "*",
    "-C",
    f"$(touch {OWNED})",
    f"`touch {OWNED}`; touch {OWNED}",
    f"wwwtwo\n\nOwned:\n  local.cmd.run:\n    - tgt: '*'\n    - arg: ['touch {OWNED}']\n",
    f"wwwtwo\nOwned: {{runner.salt.cmd: [{{args: [{{fun: cmd.run}}, {{cmd: 'touch {OWNED}'}}]}}]}}",
    f"{{{{ salt['cmd.run']('touch {OWNED}') }}}}",
    f"#!py\nimport os\nos.system('touch {OWNED}')\ndef run(): return {{}}",
    f"!!python/object/apply:os.system ['touch {OWNED}']",
    "wwwtwo\0",
    "\u2028\U0001f600\x1b[2J",
    "x" * 900_000,
)
#: What stands where text is expected.
ODD = (None, 7, 2**63, -1.5, True, [], ["wwwtwo"], {"wwwtwo": {}}, [[[[["web1"]]]]])


@pytest.fixture(scope="module", autouse=True)
def two(hosts):
    """The groups as above; afterwards web4 is gone, and all is as it was."""
    groups = {name: {**options, "members": list(HOSTS)} for name, options in hosts.groups().items()}
    with hosts.pillar({**groups, "wwwtwo": {"members": ["web1", "web2"], "include": [TWO]}}):
        hosts.apply()
        hosts.bed.up(4)
        hosts.settled("wwwtwo", hosts=["web1", "web2"])
        hosts.settled("wwwdata", "wwwshared")
        yield
        hosts.bed.salt_key("-d", "web4", "-y")
        hosts.bed.kill("web4")


def send(hosts, sender, loads):
    """Send loads, a Python expression, from a minion to the master; what the master answered."""
    done = hosts.exec(sender, "/opt/salt/bin/python", "-W", "ignore", "-c", SEND, input=loads, timeout=300)
    return [json.loads(line) for line in done.stdout.splitlines()]


def fire(hosts, sender, events):
    """Fire [(tag, data), …] from a minion, one by one (the master notes the sender) and all at once (it does not)."""
    loads = [{"cmd": "_minion_event", "tag": tag, "data": data} for tag, data in events]
    loads += [{"cmd": "_minion_event", "pretag": None, "events": [{"tag": tag, "data": data}]} for tag, data in events]
    send(hosts, sender, repr(loads))


def everything(hosts):
    """What a hostile minion is not to change: on the hosts and on the master."""
    found = {(host, group): hosts.config(host, group) for host in HOSTS for group in GROUPS}
    # Without the journals of csync2's databases, which come and go.
    script = "sha256sum /etc/csync2*; ls /var/lib/csyncsync /var/lib/csync2 | grep -v journal; true"
    found.update({host: hosts.shell(host, script) for host in (*HOSTS, "web4")})
    found["records"] = sorted(path.name for path in hosts.path("master", RECORDS).iterdir() if ".tmp" not in path.name)
    found["keys"] = hosts.shell("master", "cd /etc/salt/pki/master; sha256sum csyncsync/*; ls minions")
    return found


def log_of_master(hosts):
    return hosts.path("master", "/var/log/salt/master").read_text("utf-8", "replace")


def works(hosts, name):
    """Changes reach all, in every group, and the minions answer."""
    for host in HOSTS:
        hosts.write(host, f"{SHARED}/hostile/{name}-{host}", f"{host}\n")
    hosts.write("web2", f"{TWO}/hostile-{name}", "x\n")
    for host in HOSTS:
        hosts.everywhere(f"{SHARED}/hostile/{name}-{host}", f"{host}\n", seconds=60)
    hosts.everywhere(f"{TWO}/hostile-{name}", "x\n", hosts=["web1", "web2"], seconds=60)
    assert hosts.read("web3", f"{TWO}/hostile-{name}") is None
    assert set(hosts.call(HOSTS, "test.ping")) == set(HOSTS)


@contextlib.contextmanager
def harmless(hosts, name, *functions):
    """What happens in here makes no job but pushes (and the test's own), and changes nothing; after it all works."""
    before, answered = everything(hosts), len(log_of_master(hosts))
    with hosts.bus() as bus:
        yield
        works(hosts, name)
        jobs = [data for tag, data, _ in bus.tagged("salt/job/") if tag.endswith("/new")]
    ours = {"csyncsync.push", "csyncsync.wait", "csyncsync.refresh", "csyncsync.answer", "test.ping"}
    assert {job["fun"] for job in jobs} <= {*ours, *functions}
    assert not [job for job in jobs if "web4" in job["minions"]]
    assert not [job for job in jobs if "wwwtwo" in json.dumps(job["arg"]) and "web3" in job["minions"]]
    assert everything(hosts) == before
    for host in ("master", *HOSTS):
        assert not hosts.path(host, OWNED).exists(), host
    # Salt's own event bus has tracebacks of its own, about a tag with an empty line in it.
    assert not re.search(r'File ".*csync|Failed to render|Unable to render', log_of_master(hosts)[answered:])


@pytest.mark.parametrize("sender", ["web3", "web4"])
def test_what_stands_in_an_event_harms_nobody(hosts, sender):
    """Other groups, other ids, YAML, Jinja, paths and shell: in the tag and in each field of each event."""
    events = []
    for trick in (*TRICKS, *ODD):
        text = str(trick)[:200]
        events += [
            (f"salt/beacon/{text}/csyncsync/wwwtwo", {"id": "web1", "group": "wwwtwo", "count": trick}),
            ("salt/beacon/web1/csyncsync/x", {"id": "web1", "group": trick}),
            ("salt/beacon/web1/csyncsync/wwwtwo", {"id": trick, "group": "wwwtwo"}),
            ("csyncsync/x/pushed", {"id": "web1", "group": trick, "data": {"group": trick}}),
            ("csyncsync/wwwtwo/pushed", {"id": trick, "data": {"group": "wwwtwo", "state": "joining", "jid": trick}}),
            ("csyncsync/wwwtwo/pushed", {"id": "web1", "data": {"group": "wwwtwo", "state": trick, "refused": trick}}),
            ("csyncsync/wwwtwo/facts", {"id": "web1", "group": "wwwtwo", "data": {"group": trick}}),
            ("salt/minion/x/start", {"id": trick}),
            ("salt/key", {"id": trick, "act": trick}),
        ]
    with harmless(hosts, f"fields-{sender}"):
        fire(hosts, sender, events)


def test_what_a_push_of_another_host_is_said_to_have_done_harms_nobody(hosts):
    """Well-formed, from a minion of no group, in the names of members, with fields as large as Salt lets them be."""
    many = {f"web{number}": [f"{TWO}/{'x' * 900}"] * 20 for number in range(40)}
    said = (
        {"group": "wwwtwo", "state": "pushed", "jid": "20260101000000000000", "left": {}, "refused": many},
        {"group": "wwwtwo", "state": "joining", "jid": "20260101000000000000"},
        {"group": "wwwtwo", "state": "held", "jid": None, "seconds": "x" * 900_000},
        {"group": "wwwtwo", "state": "pushed", "refused": {"web2": "x" * 900_000}},
        {"group": "wwwtwo", "state": "pushed", "refused": {"x" * 900_000: ["x"]}},
    )
    with harmless(hosts, "pushed"):
        fire(hosts, "web4", [("csyncsync/wwwtwo/pushed", {"id": host, "data": d}) for d in said for host in HOSTS])


def test_the_log_names_a_minion_that_asks_for_groups_it_is_not_in(hosts):
    for sender, group in (("web4", "wwwshared"), ("web3", "wwwtwo")):
        load = {"cmd": "_minion_event", "tag": f"csyncsync/{group}/facts", "data": {"group": group}}
        line = f"minion '{sender}' asks for group '{group}', which it is no member of"
        before, until = len(log_of_master(hosts)), time.monotonic() + 90  # once a minute
        while line not in log_of_master(hosts)[before:] and time.monotonic() < until:
            send(hosts, sender, repr([load]))
            time.sleep(1)
        assert line in log_of_master(hosts)[before:]


def test_nobody_speaks_to_the_master_as_another_minion(hosts):
    """Pillar, mine and events of web1 are refused to web4: its channel is web4's."""
    mine = hosts.ask("web1", "mine.get", "web1", "csyncsync.member")
    pillar = {"id": "web1", "cmd": "_pillar", "grains": {}, "saltenv": "base", "pillarenv": None, "ver": "2"}
    forged = {"id": "web1", "cmd": "_mine", "data": {"csyncsync.member": "forged"}, "clear": False}
    answers = send(hosts, "web4", repr([pillar, forged]))
    assert "wwwshared" not in json.dumps(answers)
    assert hosts.ask("web1", "mine.get", "web1", "csyncsync.member") == mine


@pytest.mark.parametrize(("sender", "secret"), [("web4", GROUPS), ("web3", ("wwwtwo",))])
def test_no_request_for_pillar_brings_another_groups_key(hosts, sender, secret):
    """With an override of groups, ext_pillar's arguments, grains and environment, over the minion's own channel."""
    keys = [hosts.read("master", f"/etc/salt/pki/master/csyncsync/{group}.key").strip() for group in secret]
    groups = {group: {"members": "*", "include": ["/srv"]} for group in GROUPS}
    claim = {"csyncsync": {"groups": groups}, "ext_pillar": [{"csyncsync": {"groups": "/srv/pillar/csyncsync.sls"}}]}
    load = {
        "id": sender,
        "cmd": "_pillar",
        "saltenv": "base",
        "pillarenv": "base",
        "ver": "2",
        "grains": {"id": "web1"},
    }
    asked = [{**load, "pillar_override": claim}, {**load, "extra_minion_data": claim}, {**load, "ext": {"id": "web1"}}]
    answers = json.dumps(send(hosts, sender, repr(asked)))
    assert "csyncsync" in answers
    assert not [key for key in keys if key in answers]


MINE = {
    "ten megabytes": '"x" * 10_000_000',
    "ten megabytes in a certificate": '{"name": "web3", "addresses": {}, "certificate": "x" * 10_000_000}',
    "binary data": '{"name": b"\\xff\\x00web1", "addresses": {b"\\xff": b"\\x00"}, "certificate": bytes(range(256))}',
    "a million names": '{f"name{n}": n for n in range(1_000_000)}',
    "a deep tree": 'json.loads("[" * 400 + "]" * 400)',
}


@pytest.mark.parametrize("content", ["ten megabytes", "binary data"])
def test_what_a_minion_of_no_group_publishes_is_nobodys_business(hosts, content):
    with harmless(hosts, f"mine-{list(MINE).index(content)}", "state.apply", "csyncsync.status"):
        send(hosts, "web4", f'[{{"cmd": "_mine", "data": {{"csyncsync.member": {MINE[content]}}}}}]')
        answers = hosts.apply(sls="csyncsync.groups")
        assert "web4" not in json.dumps(answers)
        assert "web4" not in json.dumps(hosts.run("csyncsync.status"))


@pytest.mark.parametrize("content", MINE)
def test_what_a_member_publishes_stops_changes_to_its_own_groups_alone(hosts, content):
    """They are named and stay as they are; files go on, in them as in the others."""
    true = hosts.ask("web3", "csyncsync.member")
    try:
        with harmless(hosts, f"mine-of-a-member-{list(MINE).index(content)}", "state.apply"):
            send(hosts, "web3", f'[{{"cmd": "_mine", "data": {{"csyncsync.member": {MINE[content]}}}}}]')
            states = hosts.apply("web1", sls="csyncsync.groups", may_fail=True)["web1"]
            assert states["The group wwwtwo is on this host"]["result"] is True
            failed = states["The group wwwshared is on this host"]
            assert failed["result"] is False
            assert "web3" in failed["comment"]
            assert len(failed["comment"]) < 1000
    finally:
        send(hosts, "web3", repr([{"cmd": "_mine", "data": {"csyncsync.member": true}}]))
        hosts.apply(sls="csyncsync.groups")


# --- A flood of events -----------------------------------------------------------------------------------


def changed(host, group):
    return {"tag": f"salt/beacon/{host}/csyncsync/{group}", "data": {"id": host, "group": group, "count": 1}}


def said(host, group, what):
    data = {"group": group, "state": "pushed", "jid": "20260101000000000000", "refused": {}}
    return {"tag": f"csyncsync/{group}/{what}", "data": {"id": host, "data": data}}


FLOODS = {
    "of a member": ("web3", [changed("web3", "wwwshared")]),
    "of a minion of no group": ("web4", [changed("web4", "wwwshared"), said("web4", "wwwtwo", "facts")]),
    "in the names of others": (
        "web4",
        [make for host in HOSTS for make in (changed(host, "wwwshared"), said(host, "wwwshared", "pushed"))]
        + [said("web1", "wwwtwo", "facts"), {"tag": "salt/minion/web2/start", "data": {"id": "web2"}}],
    ),
}
SECONDS, RATE = 12, 1000


def memory_of_reactor(hosts):
    """Kilobytes that the reactor's process holds."""
    script = "for p in /proc/[0-9]*; do grep -qa Reactor $p/cmdline 2>/dev/null && grep VmRSS $p/status; done; true"
    return max(int(size) for size in re.findall(r"(\d+) kB", hosts.shell("master", script)))


def number_of_jobs(hosts):
    """Jobs of minions, and calls of the runner, that the master has noted."""
    return int(hosts.shell("master", "find /var/cache/salt/master/jobs -name jid | wc -l"))


@pytest.mark.machine  # a flood, and a test beside it that is as busy, are too much for two cores
@pytest.mark.parametrize("flood", FLOODS)
def test_a_thousand_events_a_second_stop_nothing(hosts, flood):
    """Changes arrive and minions answer meanwhile, jobs and log stay few and short, and nothing is left behind."""
    sender, events = FLOODS[flood]
    hosts.settled("wwwshared")
    log, memory, jobs = len(log_of_master(hosts)), memory_of_reactor(hosts), number_of_jobs(hosts)
    began = time.monotonic()
    command = ("/opt/salt/bin/python", "-W", "ignore", "-c", FLOOD, json.dumps(events), str(SECONDS), str(RATE))
    flooding = subprocess.Popen(hosts.bed.find(sender).enter(*command), stdout=subprocess.PIPE, text=True)
    took, pinged = [], []
    asking = threading.Thread(target=lambda: pinged.append(_answering(hosts)))
    asking.start()
    while flooding.poll() is None:
        took.append(_arrival(hosts, flood))
    rate, ended = float(flooding.stdout.read()), time.monotonic()
    asking.join()
    while _arrival(hosts, flood) > 2:
        pass
    healed = time.monotonic() - ended
    said = log_of_master(hosts)[log:]
    grown, jobs = memory_of_reactor(hosts) - memory, number_of_jobs(hosts) - jobs
    print(
        f"flood {flood}: {rate:.0f} events/s; changes took up to {max(took):.1f} s, test.ping {pinged[0]:.1f} s; normal"
        f" {healed:.1f} s after it; {jobs} jobs, {len(said.splitlines())} lines in the log, reactor {grown:+d} kB"
    )
    assert rate > RATE * 0.8
    assert pinged[0] < 60
    # A busy master is at the last of these events long after the flood.
    assert jobs < 120 + 16 * (time.monotonic() - began), "rate_limit.LIMITS, for each of three hosts"
    assert len(said) < 100_000
    assert f"'{sender}'" in said or "others" in flood
    assert grown < 30_000
    hosts.settled("wwwshared", seconds=120)


def _arrival(hosts, flood):
    """Seconds that a small change takes from web1 to web2."""
    path = f"{SHARED}/hostile/{flood.replace(' ', '-')}-{time.monotonic_ns()}"
    began = time.monotonic()
    hosts.write("web1", path, "x\n")
    hosts.everywhere(path, "x\n", hosts=["web2"], seconds=60)
    return time.monotonic() - began


def _answering(hosts):
    """Seconds until both minions that do not flood have answered."""
    began = time.monotonic()
    hosts.eventually(lambda: set(hosts.call(["web1", "web2"], "test.ping")) == {"web1", "web2"}, 60)
    return time.monotonic() - began
