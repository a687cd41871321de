"""What a host publishes about itself is checked by those who read it: nobody gets into a config by it."""

import json

import pytest

GROUPS = ("wwwdata", "wwwshared")

#: Runs on a host: publishes what stands on its standard input, as any process of root's there could.
FORGE = """
import json, sys
import salt.config, salt.utils.event
options = salt.config.minion_config("/etc/salt/minion")
load = {"cmd": "_mine", "data": {"csyncsync.member": json.load(sys.stdin)}, "id": options["id"]}
with salt.utils.event.MinionEvent(options, listen=False) as bus:
    assert bus.fire_event(load, "_minion_mine", timeout=30)
"""


@pytest.fixture(scope="module", autouse=True)
def _nothing_under_way(hosts):
    """A host that still reads facts, because of what was changed before, would publish the true ones again."""
    hosts.settled()
    hosts.apply(sls="csyncsync.groups")
    yield
    hosts.apply(sls="csyncsync.groups")


@pytest.fixture
def facts(hosts):
    """web3's true facts; afterwards they are in the mine again, without an event that makes the hosts read them."""
    true = hosts.ask("web3", "csyncsync.member")
    yield true
    publish(hosts, true)


def publish(hosts, facts):
    hosts.exec("web3", "/opt/salt/bin/python", "-W", "ignore", "-c", FORGE, input=json.dumps(facts))
    hosts.eventually(lambda: in_mine(hosts).get("web3") == facts, 20, "the mine holds the forged facts")


def in_mine(hosts):
    """What web1 gets from the mine."""
    return hosts.ask("web1", "mine.get", "*", "csyncsync.member")


#: Salt cuts an event at 1 MiB.
MUCH = 900_000

FORGED = {
    "another host's name": {"name": "web2"},
    "another host's address": {"addresses": {"": "10.77.0.12"}},
    "a name with ;": {"name": "web3; host evil"},
    "a name with quotes": {"name": 'web3"@"10.9.9.9"; host "evil'},
    "a name with a newline": {"name": "web3\nnossl * *;"},
    "a name with a control character": {"name": "web3\x01"},
    "an address with quotes": {"addresses": {"": '10.77.0.13"; nossl * *; #'}},
    "a loopback address": {"addresses": {"": "127.0.0.1"}},
    "no certificate": {"certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"},
    "a very long name": {"name": "x" * MUCH},
    "a very long certificate": {"certificate": "x" * MUCH},
    "wrong types": {"name": ["web3"], "addresses": "10.77.0.13", "certificate": 7},
}


@pytest.mark.parametrize("forged", FORGED)
def test_forged_facts_change_no_config(hosts, facts, forged):
    before = {group: hosts.config("web1", group) for group in GROUPS}
    publish(hosts, {**facts, **FORGED[forged]})
    states = hosts.apply("web1", sls="csyncsync.groups", may_fail=True)["web1"]
    for group in GROUPS:
        state = states[f"The group {group} is on this host"]
        assert state["result"] is False
        assert "web3" in state["comment"]
        assert len(state["comment"]) < 1000
        assert hosts.config("web1", group) == before[group]


def test_facts_that_are_no_mapping_change_no_config(hosts, facts):
    before = {group: hosts.config("web1", group) for group in GROUPS}
    publish(hosts, "web3")
    states = hosts.apply("web1", sls="csyncsync.groups", may_fail=True)["web1"]
    assert states["The group wwwdata is on this host"]["result"] is False
    assert "web3" in states["The group wwwdata is on this host"]["comment"]
    assert {group: hosts.config("web1", group) for group in GROUPS} == before


def test_an_empty_mine_takes_nobody_out_of_a_config(hosts, facts):
    before = {group: hosts.config("web1", group) for group in GROUPS}
    assert before["wwwshared"]
    hosts.call(hosts.names, "mine.flush")
    hosts.eventually(lambda: not in_mine(hosts), 20, "the mine is empty")
    states = hosts.apply("web1", sls="csyncsync.groups")["web1"]
    for group in GROUPS:
        assert hosts.config("web1", group) == before[group]
        comment = states[f"The group {group} is on this host"]["comment"]
        assert "web2" in comment
        assert "web3" in comment
        assert hosts.status("web1", group)["unpublished"] == ["web2", "web3"]
    hosts.write("web1", "/var/www/shared/with-an-empty-mine", "x\n")
    hosts.everywhere("/var/www/shared/with-an-empty-mine", "x\n")
    hosts.apply(sls="csyncsync.mine")
    hosts.eventually(lambda: not hosts.status("web1", "wwwshared")["unpublished"], 30, "the facts are known again")


def test_publishing_puts_nobody_into_a_group(hosts):
    """The target decides: a host that publishes but is no member appears nowhere, and gets no key."""
    with hosts.pillar({"wwwtwo": {"members": ["web1", "web2"], "include": ["/var/www/two"]}}):
        hosts.apply()
        assert hosts.named_in("web1", "wwwtwo") == ["web1", "web2"]
        assert hosts.named_in("web3", "wwwtwo") == []
        assert not hosts.path("web3", "/etc/csync2_wwwtwo.key").exists()
        hosts.exec("web3", "salt-call", "event.send", "csyncsync/wwwtwo/facts", '{"group": "wwwtwo"}')
        hosts.exec("web3", "salt-call", "event.send", "salt/beacon/web1/csyncsync/wwwtwo", '{"group": "wwwtwo"}')
        hosts.settled("wwwtwo", hosts=["web1", "web2"])
        assert hosts.named_in("web1", "wwwtwo") == ["web1", "web2"]
