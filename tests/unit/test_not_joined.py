"""What a host says that has not joined a group: no bare error of SQLite's, whatever is wrong with the database."""

import json
import os
import sqlite3

import pytest
from csync2lib.csync2.database import Database
from csync2lib.errors import CsyncsyncError, raised_as
from csync2lib.group import Group, GroupConfig, ThisHost
from csync2lib.join.admit import claims
from csync2lib.push.preview import preview
from csync2lib.report import status


@pytest.fixture
def group(tree, tmp_path):
    """A group that is installed, of which csync2 knows nothing."""
    host = ThisHost("web1", "web1", str(tree.csync2.directory), str(tmp_path / "state"), str(tree.csync2.directory))
    found = Group("data", host)
    hosts = {"web1": {"name": "web1", "address": "10.0.0.1", "certificate": ""}}
    hosts |= {name: {"name": name, "address": address, "certificate": ""} for name, address in tree.peers.items()}
    config = GroupConfig("data", [os.fsdecode(tree.path)], [], hosts, "10.0.0.1", found.database)
    os.makedirs(found.directory)
    with open(found.path("config.json"), "w", encoding="utf-8") as file:
        json.dump(config._asdict(), file)
    return found


def test_a_preview_says_that_the_host_has_not_joined(group):
    told = preview(group)
    assert (told["state"], told["send"], told["comment"]) == ("test", {}, "this host has not joined the group yet")
    assert not os.path.exists(group.database), "a test makes nothing"


@pytest.mark.parametrize("content", [b"", b"no database, but long enough to be looked at" * 100])
def test_a_database_that_cannot_be_read_is_named(group, content):
    with open(group.database, "wb") as file:
        file.write(content)

    class SaltsError(Exception):
        pass

    with pytest.raises(SaltsError, match="csync2's database: ") as caught:
        raised_as(SaltsError)(group.left)(group.config)
    assert isinstance(caught.value.__cause__, sqlite3.Error)


def test_a_group_whose_name_is_digits_is_found_by_its_number(tmp_path):
    os.makedirs(tmp_path / "7")
    host = ThisHost("web1", "web1", str(tmp_path), str(tmp_path))
    assert Group(7, host).name == "7"
    assert status.of_host(host, 7) == status.of_host(host, "7")


def test_what_a_host_did_not_take_though_it_could_is_what_it_lacks(group, tree):
    """It may have changed it, too, or have a directory there, or no directory above it."""
    for name in (b"changed", b"same", b"dir/file", b"kept/file", b"a-file", b"link-target"):
        tree.write(name)
    tree.check("-cIr", "/")
    with tree.database(write=True) as database:
        changed = [tree / name for name in (b"changed", b"deleted", b"dir")]
        database.make_dirty(changed, "10.0.0.1", "10.0.0.2")

    def path(name):
        return f"{os.fsdecode(tree.path)}/{name}"

    asked = ["changed", "changed/", "same", "dir", "dir/file", "a-file/below", "missing", "dir/missing/"]
    asked += ["deleted/", "deleted/file", "deleted/in/it", "deleted-not/file", "kept", "kept/"]
    found = claims(group, [path(name) for name in asked])
    assert found == {
        path("changed"): "changed",
        path("changed/"): "changed",
        path("dir"): "changed",
        path("deleted/"): "changed",
        path("deleted/file"): "changed",
        path("deleted/in/it"): "changed",
        path("kept"): "place",
        path("a-file/below"): "place",
    }
    with pytest.raises(CsyncsyncError, match="is in no include of data"):
        claims(group, ["/etc/passwd"])


def test_who_only_receives_is_nobodys_source(group):
    rules = {
        "hosts": [
            {"name": name, "address": host["address"], "receive_only": name == "web2"}
            for name, host in group.config.hosts.items()
        ]
    }
    config = group.config._replace(rules=rules)
    assert [name for name in config.hosts if config.why_no_source(name)] == ["web2"]
    assert "csyncsync:groups:data:receive_only" in config.why_no_source("web2")
    assert group.config.why_no_source("web2") == "", "an older version wrote no rules"


def test_what_is_forgotten_of_a_group_makes_it_new(group, tree):
    tree.write(b"file")
    tree.check()
    with group.open_database(write=True) as database:
        database.set_state(Database.ESTABLISHED)
    group.reset()
    with group.open_database() as database:
        assert (database.state(), database.count()) == (Database.NEW, 0)
