"""The pillar as the master serves it: keys for members alone, and a broken group troubles nobody but itself."""

import hashlib
import json
import stat
from pathlib import Path

import pytest

GROUPS = ("wwwdata", "wwwshared")
GOOD = {"members": "web*", "include": ["/srv/good"]}


@pytest.fixture(scope="module")
def keys(minion, master):
    """``{GROUP: key}`` as the master keeps them; the minion has asked for them by now."""
    directory = Path(master.config["pki_dir"]) / "csyncsync"
    return {path.stem: path.read_text(encoding="ascii").strip() for path in directory.glob("*.key")}


def test_a_member_gets_the_key_of_each_of_its_groups(keys, call):
    digests = "#!jinja|yaml\n" + "".join(
        f"{group}: {{{{ pillar['csyncsync']['groups']['{group}']['key'] | sha256 }}}}\n" for group in GROUPS
    )
    assert call("web1", "slsutil.renderer", string=digests) == {
        group: hashlib.sha256(keys[group].encode()).hexdigest() for group in GROUPS
    }


def test_a_member_gets_the_groups_as_they_stand_in_the_file(minion, call):
    groups = call("web1", "pillar.items", unmask=True)["csyncsync"]["groups"]
    assert {name: {**options, "key": None} for name, options in groups.items()} == {
        "wwwdata": {
            "members": "web*",
            "include": ["/var/www/data/ini", "/var/www/data/png", "/var/www/data/zip"],
            "key": None,
        },
        "wwwshared": {"members": "web*", "include": ["/var/www/shared"], "exclude": [".*.swp"], "key": None},
    }


def test_a_host_outside_gets_no_group_and_no_key(outsider, call, keys):
    pillar = call("db1", "pillar.items", unmask=True)
    assert pillar["csyncsync"] == {"groups": {}}
    assert not any(key in json.dumps(pillar) for key in keys.values())


def test_a_host_outside_cannot_ask_itself_into_a_group(outsider, call, keys):
    claim = {"csyncsync": {"groups": {group: {"members": "*", "include": ["/srv/x"]} for group in GROUPS}}}
    pillar = call("db1", "pillar.items", unmask=True, pillar=claim)
    assert not any(key in json.dumps(pillar) for key in keys.values())


def test_only_root_can_read_the_keys_on_the_master(keys, master):
    directory = Path(master.config["pki_dir"]) / "csyncsync"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    assert sorted(keys) == sorted(GROUPS)


def test_no_key_is_in_what_a_run_returns(cold_run, keys):
    assert not any(key in cold_run.text for key in keys.values())


def _group(name):
    return f"The group {name} is on this host"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("csyncsync: {groups: [", id="no YAML"),
        pytest.param("{{ an undefined call( }}", id="Jinja"),
        pytest.param("csyncsync:\n  groups: [wwwdata]\n", id="groups are a list"),
        pytest.param("csyncsync: all\n", id="a word"),
        pytest.param("- csyncsync\n", id="a list"),
        pytest.param("\0", id="a NUL"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_failed_state_that_names_the_pillar(minion, groups_file, apply, content):
    with groups_file.holding(content):
        applied = apply("csyncsync.groups")
    assert list(applied.failed) == ["The groups of the pillar can be read"]
    assert "csyncsync:groups" in str(applied["The groups of the pillar can be read"])
    assert "Traceback" not in applied.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": "web*", "include": ["srv/data"]}, ":include:0 'srv/data' is not an absolute path"),
        ({"members": "web*"}, ":include is missing"),
        (["web*"], " is a list, not a mapping of options"),
        ({"members": "web*", "include": ["/srv/x"], "includes": ["/srv/y"]}, ":includes is no option"),
    ],
    ids=["a relative include", "no include", "a list", "an unknown option"],
)
def test_a_broken_group_fails_with_its_pillar_path_and_the_others_do_not(minion, groups_file, apply, options, message):
    with groups_file.holding({"good": GOOD, "broken": options}):
        applied = apply("csyncsync.groups")
    assert list(applied.failed) == [_group("broken")], applied.text
    assert f"csyncsync:groups:broken{message}" in applied.failed[_group("broken")]
    assert applied[_group("good")]["result"] is None
    assert "Traceback" not in applied.text


def test_a_broken_group_is_no_concern_of_a_host_that_it_does_not_mean(minion, groups_file, apply):
    with groups_file.holding({"good": GOOD, "broken": {"members": "db*", "include": ["srv/data"]}}):
        applied = apply("csyncsync.groups")
    assert applied.failed == {}
    assert _group("broken") not in applied.states


def test_a_groups_name_is_never_taken_for_yaml_or_jinja(minion, groups_file, apply):
    names = ("a: b", "{{ 7 * 7 }}", "{% raw %}", "x\n  cmd.run: []\n", "it's", '"x"', "# x", "[", "../x", "5", "wwwé")
    with groups_file.holding({"good": GOOD, **{name: {"members": "web*", "include": ["/srv/x"]} for name in names}}):
        applied = apply("csyncsync.groups")
    assert applied[_group("good")]["result"] is None
    assert set(applied.failed) <= {_group(name) for name in names}
    assert {state["__sls__"] for state in applied.states.values()} <= {
        f"csyncsync.{part}" for part in ("groups", "mine", "certificate")
    }
    assert {_group(name) for name in names} <= set(applied.states)
