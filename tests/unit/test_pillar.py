"""The key provider: each group's key is made once, and reaches the group's members alone."""

import copy
import importlib.util
import json
import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from csync2lib.config import schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SOURCE = Path(__file__).resolve().parents[2] / "_pillar/csyncsync.py"
KEY = "TopSecretKey0123456789.ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmno"
DATA = {"members": "web*", "include": ["/srv/data"]}
SHARED = {"members": ["web1", "db1"], "include": ["/srv/shared"], "exclude": ["*.swp"]}


class Provider:
    """The ext_pillar of a master whose keys and groups are in one directory."""

    def __init__(self, directory):
        self.directory, self.file = directory, directory / "csyncsync.yaml"
        spec = importlib.util.spec_from_file_location("csyncsync_ext_pillar", SOURCE)
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self.module.__opts__ = {"pki_dir": str(directory / "pki")}

    def write(self, content):
        if not isinstance(content, (str, bytes)):
            content = json.dumps({"csyncsync": {"groups": content}})  # JSON is YAML
        self.file.write_bytes(content if isinstance(content, bytes) else content.encode())

    def pillar(self, minion, pillar=None):
        return self.module.ext_pillar(minion, {} if pillar is None else pillar, groups=str(self.file))

    def groups(self, minion, pillar=None):
        return self.pillar(minion, pillar)["csyncsync"]["groups"]

    def errors(self, minion):
        return self.pillar(minion)["csyncsync"].get("errors", {})

    def keys(self):
        """The files with keys."""
        return sorted((self.directory / "pki/csyncsync").glob("*"))


@pytest.fixture
def provider(tmp_path):
    return Provider(tmp_path)


@pytest.fixture(autouse=True)
def all_logs(caplog):
    caplog.set_level(logging.NOTSET)


def test_a_member_gets_its_groups_as_they_stand_in_the_file_with_a_key(provider):
    provider.write({"data": DATA, "shared": SHARED})
    groups = provider.groups("web1")
    keys = {name: options.pop("key") for name, options in groups.items()}
    assert groups == {"data": DATA, "shared": SHARED}
    assert keys["data"] != keys["shared"]


def test_a_made_key_is_one_that_csync2_takes(provider):
    provider.write({"data": DATA})
    assert schema.validate(provider.groups("web1"))["errors"] == {}
    assert len(provider.groups("web1")["data"]["key"]) == 64


def test_a_key_is_made_once_and_only_root_can_read_it(provider):
    provider.write({"data": DATA})
    keys = {provider.groups(minion)["data"]["key"] for minion in ("web1", "web2", "web1")}
    assert len(keys) == 1
    (file,) = provider.keys()
    assert (file.name, file.read_text(encoding="ascii")) == ("data.key", f"{keys.pop()}\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_key_outlives_the_master_process_and_changes_when_its_file_is_deleted(provider, tmp_path):
    provider.write({"data": DATA})
    key = provider.groups("web1")["data"]["key"]
    assert Provider(tmp_path).groups("web1")["data"]["key"] == key
    provider.keys()[0].unlink()
    assert provider.groups("web1")["data"]["key"] != key


def test_many_requests_at_once_get_one_key(provider):
    provider.write({"data": DATA})
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(lambda n: provider.groups(f"web{n}")["data"]["key"], range(64)))
    assert len(keys) == 1
    assert len(provider.keys()) == 1


def test_a_key_that_stands_in_the_file_is_left_alone(provider):
    provider.write({"data": {**DATA, "key": KEY}})
    assert provider.groups("web1")["data"]["key"] == KEY
    assert provider.keys() == []


@pytest.mark.parametrize("minion", ["db1", "web", "Web1", "xweb1", "", "*", "web*x/../web1\n", "data"])
def test_a_minion_that_a_group_does_not_mean_gets_nothing_of_it(provider, minion):
    provider.write({"data": {**DATA, "members": "web?", "key": KEY}, "made": {**SHARED, "members": ["web1"]}})
    assert provider.groups(minion) == {}
    assert provider.keys() == []


def test_the_options_of_hosts_reach_the_members_of_any_group(provider):
    options = {"metrics": "/srv/metrics", "max_user_watches": 5}
    provider.write(json.dumps({"csyncsync": {"groups": {"data": DATA}, **options, "other": 1}}))
    found = provider.pillar("web1")["csyncsync"]
    assert {name: found[name] for name in found if name != "groups"} == {**options, "other": None}
    assert provider.pillar("db1")["csyncsync"] == {"groups": {}}


def test_groups_are_handed_out_one_by_one(provider):
    provider.write({"data": DATA, "shared": SHARED})
    assert {m: sorted(provider.groups(m)) for m in ("web1", "web2", "db1", "db2")} == {
        "web1": ["data", "shared"],
        "web2": ["data"],
        "db1": ["shared"],
        "db2": [],
    }


@pytest.mark.parametrize(
    "override",
    [
        {"csyncsync": {"groups": {"data": {"members": "*", "include": ["/srv/data"]}}}},
        {"csyncsync": {"groups": {"mine": {"members": "*", "include": ["/"]}}}},
        {"csyncsync": None, "master": {"pki_dir": "/nowhere"}},
        {"id": "web1", "minion_id": "web1"},
        None,
        "nonsense",
    ],
)
def test_what_a_minions_request_brings_along_is_not_read_and_not_changed(provider, override):
    provider.write({"data": {**DATA, "key": KEY}})
    before = copy.deepcopy(override)
    assert provider.groups("db1", override) == {}
    assert provider.groups("web1", override) == {"data": {**DATA, "key": KEY}}
    assert override == before


# --- Broken files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        f"key: {KEY}",
        f"csyncsync: {KEY}",
        f"csyncsync: {{groups: [{KEY}]}}",
        f"csyncsync: {{groups: {KEY}}}",
        "csyncsync: {}",
        f"csyncsync:\n  groups:\n    data:\n      key: {KEY}\n   members: x",
        f"csyncsync: {{groups: {{data: {{key: '{KEY}}}",
        f"\tkey: {KEY}",
        f"{{% raw %}} {KEY}",
        f"csyncsync: !!python/object/apply:os.system ['{KEY}']",
        f"csyncsync: !{KEY} x",
        f"csyncsync: {{groups: {{data: *{KEY[:20]}}}}}",
        KEY.encode() + b"\xff\xfe\x00",
    ],
)
def test_a_broken_file_gives_no_groups_and_its_error_shows_no_key(provider, caplog, content):
    provider.write(content)
    assert_unreadable(provider.pillar("web1"))
    assert str(provider.file) in caplog.text
    assert "no groups for web1" in caplog.text
    assert KEY[:20] not in caplog.text


def assert_unreadable(pillar):
    """There are no groups, not even none of them (that would take all down), and a message says why."""
    ((message,),) = pillar["csyncsync"].pop("errors").values()
    assert pillar == {"csyncsync": {}}
    assert message.startswith("csyncsync:groups cannot be read by the master")
    assert KEY[:20] not in message


def test_a_missing_file_gives_no_groups(provider, caplog):
    assert_unreadable(provider.pillar("web1"))
    assert "FileNotFoundError" in caplog.text
    assert_unreadable(provider.module.ext_pillar("web1", {}))


def test_no_place_for_keys_gives_no_groups(provider, caplog):
    (provider.directory / "pki").write_text("a file", encoding="ascii")
    provider.write({"data": DATA})
    assert_unreadable(provider.pillar("web1"))
    assert "no groups for web1" in caplog.text


def test_a_file_without_groups_is_no_error(provider, caplog):
    provider.write({})
    assert provider.groups("web1") == {}
    provider.write("csyncsync: {groups: }")
    assert provider.groups("web1") == {}
    assert "csyncsync ext_pillar" not in caplog.text


# --- Broken groups ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{"include": ["srv"]}, {"typo": 1}, {"auto": "newest"}, {"tls": "no"}, {"include": ["/srv/shared/x"]}]
)
def test_a_broken_group_reaches_its_members_alone_and_as_messages(provider, change):
    provider.write({"data": {**DATA, **change, "key": KEY}, "shared": SHARED})
    assert "data" not in provider.groups("web2")
    assert provider.errors("web2")["data"][0].startswith("csyncsync:groups:data:")
    assert "data" not in provider.errors("db1")
    assert KEY not in repr([provider.pillar(minion) for minion in ("web1", "web2", "db1", "db2")])


@pytest.mark.parametrize(
    "members", [None, 7, {"tgt": "os:Debian", "tgt_type": "grain"}, {"tgt": "(", "tgt_type": "pcre"}]
)
def test_a_group_with_broken_members_is_told_to_everybody(provider, members):
    provider.write({"data": {**DATA, "members": members, "key": KEY}})
    for minion in ("web1", "db1"):
        assert provider.groups(minion) == {}
        assert provider.errors(minion)["data"][0].startswith("csyncsync:groups:data:members")
    assert provider.keys() == []


@pytest.mark.parametrize("key", [KEY + "-", KEY + "\n", KEY[:31], [KEY], {"value": KEY}])
def test_a_malformed_key_reaches_nobody(provider, caplog, key):
    provider.write({"data": {**DATA, "key": key}})
    assert provider.groups("web1") == {}
    assert list(provider.errors("web1")) == ["data"]
    assert provider.errors("db1") == {}
    assert KEY[:31] not in caplog.text


def test_a_broken_group_does_not_take_the_others_away(provider):
    provider.write({"data": {**DATA, "include": []}, "shared": SHARED, "7": None, "Bad": DATA})
    assert list(provider.groups("web1")) == ["shared"]
    assert sorted(provider.errors("web1")) == ["7", "Bad", "data"]


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(schema.OPTIONS[1:-1]), json_like, max_size=4), json_like, json_like)
@settings(suppress_health_check=list(HealthCheck))
def test_whatever_else_stands_in_the_file_a_key_reaches_no_stranger(provider, options, other, override):
    provider.write({"data": {**DATA, **options, "key": KEY}, "other": other})
    assert KEY not in repr(provider.pillar("db1", override))
    assert isinstance(provider.pillar("web1", override), dict)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: f"csyncsync: {text}"))
@settings(suppress_health_check=list(HealthCheck))
def test_whatever_the_file_is_no_minion_is_blocked(provider, content):
    provider.write(content)
    assert isinstance(provider.pillar("web1"), dict)
