"""How a group gets onto a host, and off it again."""

import contextlib
import os
import re
import stat

import pytest
from csync2lib import setup, storage
from csync2lib.csync2 import command
from csync2lib.errors import CsyncsyncError
from csync2lib.group import Group, ThisHost

HOSTS = {
    "web1": {"name": "web1", "address": "10.0.0.1", "certificate": "AA"},
    "web2": {"name": "web2", "address": "10.0.0.2", "certificate": "BB"},
}


class Minion:
    """web1, with a tree of files, csync2's database, and Salt's functions, which only note that they were called."""

    def __init__(self, tree, directory):
        databases = str(tree.csync2.directory)
        self.tree, self.directory = tree, directory
        self.group = Group("data", ThisHost("web1", "web1", str(directory), str(directory / "state"), databases))
        self.called, self.ran, self.enabled, self.applied = [], [], set(), {}
        self.found = {
            "hosts": dict(HOSTS),
            "unpublished": [],
            "options": {
                "include": [os.fsdecode(tree.path)],
                "exclude": [],
                "receive_only": [],
                "address": None,
                "backup_directory": None,
                "tls": True,
                "hold": {"number": 100, "share": 0.5},
            },
            "context": {"commands": [], "include": [os.fsdecode(tree.path)]},
        }
        names = ("cmd.run_all", "service.enable", "service.start", "service.disable", "service.stop", "state.apply")
        self.salt = {name: self.function(name) for name in names}
        self.salt["service.enabled"] = lambda unit: unit in self.enabled
        self.salt["state.apply"] = lambda *arguments, **kwargs: self.called.append((arguments, kwargs)) or self.applied

    def function(self, name):
        return lambda *arguments, **_: self.called.append((name, *arguments))

    def install(self, **options):
        return setup.install(self.group, self.found, self.salt, **options)

    def remove(self, **options):
        return setup.remove(self.group, self.salt, **options)


@pytest.fixture
def minion(tree, tmp_path, monkeypatch):
    made = Minion(tree, tmp_path)
    tree.check()
    monkeypatch.setattr(command, "run", lambda *arguments, **_: made.ran.append(arguments) or b"")
    monkeypatch.setattr(setup, "UNIT_DIRECTORY", str(tmp_path / "units"))
    (tmp_path / "units").mkdir()
    return made


# --- Install ---------------------------------------------------------------------------------------------


def test_a_new_group_is_written_down_and_its_hosts_are_pinned(minion):
    done = minion.install()
    assert done == {
        "changes": {
            "hosts": {"added": ["web1 web1@10.0.0.1", "web2 web2@10.0.0.2"]},
            "include": {"added": [os.fsdecode(minion.tree.path)]},
            "certificates": {"pinned": ["10.0.0.2"], "dropped": []},
        },
        "problems": [],
    }
    assert minion.group.config.peers == {"10.0.0.2"}
    with minion.group.open_database() as database:
        assert database.certificates() == {"10.0.0.2": "BB"}
    assert sorted(os.listdir(minion.group.directory)) == ["config.json", "due", "journal", "output", "roots.json"]
    assert [call[0] for call in minion.called] == ["cmd.run_all"]  # connections with other pins are ended
    minion.called.clear()
    assert minion.install() == {"changes": {}, "problems": []}
    assert (minion.called, minion.ran) == ([], [])


def test_a_test_writes_nothing(minion):
    assert set(minion.install(test=True)["changes"]) == {"hosts", "include", "certificates"}
    assert (os.path.exists(minion.group.directory), minion.called, minion.ran) == (False, [], [])


def test_what_came_and_went_is_told(minion):
    minion.install()
    minion.found["hosts"] = {"web1": HOSTS["web1"], "web3": {**HOSTS["web2"], "name": "web3"}}
    changes = minion.install()["changes"]
    assert changes == {"hosts": {"added": ["web3 web3@10.0.0.2"], "removed": ["web2 web2@10.0.0.2"]}}
    minion.found["unpublished"] = ["web3"]
    assert minion.install()["changes"] == {"facts": "updated"}


def test_with_another_config_the_whole_group_is_checked_and_csync2_forgets_what_is_no_longer_included(minion):
    minion.install()
    minion.found["context"] = {**minion.found["context"], "exclude": ["*.bak"]}
    assert minion.install()["changes"] == {"facts": "updated"}
    assert minion.ran == [("data", "-R")]
    assert os.listdir(minion.group.journal) == ["whole"]


def test_what_an_older_version_wrote_down_is_written_anew(minion):
    minion.install()
    storage.write_json(minion.group.path("config.json"), {"group": "data", "rules": minion.found["context"]})
    assert set(minion.install()["changes"]) == {"hosts", "include"}
    assert minion.group.config.name == "web1"


def test_an_include_that_is_missing_is_made_once(minion):
    new = str(minion.directory / "new")
    minion.found["options"]["include"] = [new]
    assert minion.install(test=True)["changes"]["made"] == [new]
    assert not os.path.exists(new)
    minion.install()
    os.rmdir(new)
    assert minion.install()["problems"] == [f"include root {new} is missing: is its disk unmounted?"]
    assert not os.path.exists(new)


def test_a_new_key_ends_the_connections_that_began_with_the_old_one(minion):
    minion.install()
    minion.called.clear()
    storage.write(minion.group.path("peers.json"), "{}")
    minion.install(new_key=True)
    assert minion.called == [("cmd.run_all", ["systemctl", "kill", "--signal=KILL", "csync2@*.service"])]
    assert not os.path.exists(minion.group.path("peers.json"))


# --- The backup_directory --------------------------------------------------------------------------------


def test_a_backup_directory_is_made_for_root_alone(minion):
    kept = minion.directory / "kept"
    minion.found["options"]["backup_directory"] = str(kept)
    assert minion.install(test=True)["changes"]["made"] == [str(kept)]
    assert not kept.exists()
    minion.install()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert "made" not in minion.install()["changes"]


def test_a_backup_directory_that_others_can_enter_is_refused(minion):
    kept = minion.directory / "kept"
    minion.found["options"]["backup_directory"] = str(kept)
    kept.mkdir(mode=0o755)
    with pytest.raises(CsyncsyncError, match=re.escape(f"run chown root {kept} && chmod 700 {kept}")):
        minion.install()
    kept.rmdir()
    kept.write_text("")
    with pytest.raises(CsyncsyncError, match="is no directory"):
        minion.install()
    kept.unlink()
    kept.symlink_to(minion.directory / "nowhere")
    with pytest.raises(CsyncsyncError, match="is a symlink to what is not there"):
        minion.install()


# --- Units -----------------------------------------------------------------------------------------------


def test_the_units_of_a_group_run_while_it_needs_them(minion):
    for name in ("csyncsync-full@.timer", "csyncsync-action@.path"):
        (minion.directory / "units" / name).touch()
    minion.install()
    timer, actions = "csyncsync-full@data.timer", "csyncsync-action@data.path"
    assert minion.called[1:] == [("service.enable", timer), ("service.start", timer)]
    minion.enabled, minion.called = {timer}, []
    minion.found["context"] = {**minion.found["context"], "commands": [{"key": "k"}]}
    assert minion.install()["changes"] == {"facts": "updated", "actions": f"{actions} enabled"}
    minion.enabled, minion.called = {timer, actions}, []
    assert minion.remove(test=True)[:2] == [f"{timer} disabled", f"{actions} disabled"]
    assert minion.called == []
    minion.remove()
    assert minion.called == [(f"service.{do}", unit) for unit in (timer, actions) for do in ("disable", "stop")]


def test_the_files_of_a_new_host_are_recorded_aside(minion):
    (minion.directory / "units/csyncsync-push@.service").touch()
    minion.tree.write(b"file")
    minion.install()
    assert minion.called[1:] == [("service.start", "csyncsync-push@data.service")]


# --- Remove ----------------------------------------------------------------------------------------------


def test_a_group_goes_and_its_files_stay(minion):
    path = minion.tree.write(b"file")
    minion.install()
    group = minion.group
    for file in (group.config_file, group.key_file):
        storage.write(file, "")
    expected = [group.config_file, group.key_file, group.database, group.directory]
    assert minion.remove(test=True) == expected
    assert all(map(os.path.lexists, expected))
    assert minion.remove() == expected
    assert not any(map(os.path.lexists, expected))
    assert os.path.exists(path)
    assert minion.remove() == []


def test_no_path_is_removed_that_is_no_groups(minion):
    with pytest.raises(CsyncsyncError, match="is no group name"):
        setup.remove(Group("../data", minion.group.host), minion.salt)
    with pytest.raises(CsyncsyncError, match="is no group name"):
        setup.remove(Group(123, minion.group.host), minion.salt)


# --- Refresh ---------------------------------------------------------------------------------------------


def refresh(minion, accepted=None):
    return setup.refresh(minion.group.host, accepted, minion.salt, contextlib.nullcontext())


def test_a_refresh_applies_the_states_and_names_those_that_failed(minion):
    minion.applied = {"a": {"__id__": "good", "result": True}, "b": {"__id__": "bad", "result": False}}
    assert refresh(minion, {"data": ["web1"]}) == ["bad"]
    states, options = minion.called[0]
    assert states == ("csyncsync.groups,csyncsync.service",)
    assert options == {"concurrent": True, "pillar": {"csyncsync": {"accepted": {"data": ["web1"]}}}}
    minion.applied = ["the pillar does not render"]
    with pytest.raises(CsyncsyncError, match="the pillar does not render"):
        refresh(minion)


def test_one_refresh_that_waits_is_enough(minion):
    os.makedirs(minion.group.host.state)
    with storage.locked(os.path.join(minion.group.host.state, "refresh.next")):
        assert refresh(minion) == "another call waits for its turn"
    assert minion.called == []
