"""What a host says of itself, and what pillar and mine say of its groups."""

import os

import pytest
from csync2lib.errors import CsyncsyncError
from csync2lib.facts import Facts
from csync2lib.host import ThisHost
from csync2lib.storage import write_json
from test_membership import PEM

INTERFACES = {
    "lo": {"inet": [{"address": "127.0.0.1"}], "inet6": [{"address": "::1"}]},
    "eth0": {"inet": [{"address": "192.0.2.1"}], "inet6": [{"address": "fe80::1%eth0"}]},
    "eth1": {"inet": [{"address": "10.0.0.1"}], "inet6": [{"address": "fd00::1"}]},
    "down": {"up": False},
}


class Minion:
    """web1, whose pillar and mine are what a test puts there."""

    def __init__(self, directory):
        self.host = ThisHost("web1", "web1", str(directory), str(directory / "state"), str(directory))
        (directory / "csync2_ssl_cert.pem").write_text(PEM)
        self.pillar, self.mine, self.interfaces, self.asked = {}, {}, INTERFACES, []

    def facts(self, master=""):
        functions = {"network.interfaces": lambda: self.interfaces, "mine.get": self.get}
        return Facts(self.host, {"csyncsync": self.pillar}, functions, master)

    def get(self, *target):
        self.asked.append(target)
        return self.mine

    def group(self, name="data", **options):
        self.pillar.setdefault("groups", {})[name] = {"members": "web*", "include": f"/srv/{name}", **options}

    def installed(self, name, **config):
        os.makedirs(os.path.join(self.host.state, name))
        write_json(os.path.join(self.host.state, name, "config.json"), {"group": name, **config})


@pytest.fixture
def minion(tmp_path):
    return Minion(tmp_path)


def published(number):
    return {"name": f"web{number}", "addresses": {"": f"192.0.2.{number}"}, "certificate": PEM}


# --- This host -------------------------------------------------------------------------------------------


def test_a_host_tells_its_name_its_first_address_and_its_certificate(minion):
    assert minion.facts().member() == {"name": "web1", "addresses": {"": "192.0.2.1"}, "certificate": PEM}


@pytest.mark.parametrize(
    ("wanted", "address"),
    [("eth1", "10.0.0.1"), ("10.0.0.0/8", "10.0.0.1"), ("fd00::/8", "fd00::1"), ("10.0.0.1", "10.0.0.1")],
)
def test_a_group_may_have_an_address_of_its_own(minion, wanted, address):
    minion.group(address=wanted)
    minion.group("other")
    assert minion.facts().member()["addresses"] == {"": "192.0.2.1", "data": address}


def test_an_address_that_the_host_lacks_is_an_error_of_its_group_alone(minion):
    minion.group(address="eth7")
    minion.group("other")
    assert minion.facts().member()["addresses"] == {"": "192.0.2.1"}
    found = minion.facts().groups()
    assert list(found["groups"]) == ["other"]
    assert found["errors"]["data"] == [
        "csyncsync:groups:data csyncsync:groups:data:address eth7 is on no interface of this host; it has"
        " {'eth0': ['192.0.2.1'], 'eth1': ['10.0.0.1', 'fd00::1']}"
    ]


def test_a_host_without_certificate_or_address_has_no_facts(minion):
    minion.interfaces = {"lo": INTERFACES["lo"]}
    with pytest.raises(CsyncsyncError, match="no address that others could reach"):
        minion.facts("no-address").member()
    os.unlink(minion.host.certificate)
    with pytest.raises(CsyncsyncError, match=r"is missing: run state.apply csyncsync.certificate first"):
        minion.facts().member()


# --- Its groups ------------------------------------------------------------------------------------------


def test_the_groups_of_a_host_are_those_that_it_is_a_member_of(minion):
    minion.group(key="k" * 40)
    minion.group("away", members="db*")
    minion.mine = {"web2": published(2)}
    found = minion.facts().groups()
    assert (list(found["groups"]), found["errors"]) == (["data"], {})
    data = found["groups"]["data"]
    assert list(data["hosts"]) == ["web1", "web2"]
    assert "key" not in data["options"]
    assert data["context"]["key_file"] == f"{minion.host.system}/csync2_data.key"
    assert minion.asked == [("web*", "csyncsync.member", "glob")]


@pytest.mark.parametrize("mine", [{}, None, False])
def test_who_is_silent_in_the_mine_keeps_its_line_unless_the_master_has_not_accepted_it(minion, mine):
    minion.group()
    minion.mine = mine
    line = {"name": "web2", "address": "192.0.2.2", "certificate": "AA"}
    minion.installed("data", hosts={"web2": line})
    data = minion.facts().group("data")
    assert (data["hosts"]["web2"], data["unpublished"]) == (line, ["web2"])
    minion.pillar["accepted"] = {"data": ["web1"]}
    assert list(minion.facts().group("data")["hosts"]) == ["web1"]


def test_what_is_wrong_with_the_pillar_is_told(minion):
    minion.group(include="relative")
    minion.pillar["errors"] = {"other": ["csyncsync:groups:other has no key"]}
    errors = minion.facts().groups()["errors"]
    assert set(errors) == {"data", "other"}
    assert minion.facts().groups("other")["errors"] == {"other": errors["other"]}
    with pytest.raises(CsyncsyncError, match="include"):
        minion.facts().group("data")
    with pytest.raises(CsyncsyncError, match="no member of away"):
        minion.facts().group("away")


def test_without_facts_the_pillar_alone_is_judged(minion):
    minion.group()
    os.unlink(minion.host.certificate)
    assert minion.facts().groups(facts=False) == {"groups": {}, "errors": {}}


@pytest.mark.parametrize("pillar", [["groups"], [], "", False])
def test_a_pillar_that_is_no_mapping_is_refused(minion, pillar):
    minion.pillar = pillar
    for ask in (minion.facts().groups, minion.facts().member):
        with pytest.raises(CsyncsyncError, match="is not a mapping"):
            ask()


def test_a_pillar_that_says_nothing_of_groups_has_none(minion):
    minion.pillar = None
    assert minion.facts().groups() == {"groups": {}, "errors": {}}
