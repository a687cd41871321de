"""Whether hosts agree: digests of what csync2 has recorded, and what follows from them."""

import errno
import json
import os
import shutil
import socket

import pytest
from csync2lib import journal, local_changes, records
from csync2lib.csync2.states import stands
from csync2lib.group import DIFFERENCES
from csync2lib.master import agreement, record
from csync2lib.push.win import mark
from csync2lib.report.report import report
from csync2lib.report.status import is_at_rest
from pair import pair
from salt.exceptions import SaltException
from test_check import keep_clean, look, tree
from test_report import NOW, status

__all__ = ["pair", "tree"]


@pytest.fixture
def known(tree):
    """A group whose files are all recorded, and sent."""
    for name in (b"a b", b"dir/nl\nx", b"dir/\xff", b"z"):
        tree.write(name)
    os.symlink("a b", os.fsencode(tree.include) + b"/link")
    tree.check()
    keep_clean(tree)
    tree.group.forget("local", "held", records.NOTED, DIFFERENCES)
    yield tree
    tree.group.forget("local")


@pytest.fixture
def config(known):
    """``config(option=…)``: what the group's config says from now on."""
    path = known.group.path("config.json")
    before = open(path, encoding="utf-8").read()

    def change(**options):
        with open(path, "w", encoding="utf-8") as file:
            json.dump({**json.loads(before), **options}, file)

    yield change
    with open(path, "w", encoding="utf-8") as file:
        file.write(before)


def test_digests_are_of_all_records_and_of_nothing_else(known):
    before = records.digests(known.group)
    assert len(before) == records.DIGESTS
    assert records.digests(known.group) == before
    look(known)
    keep_clean(known)
    assert records.digests(known.group) == before, "they do not depend on when they were made"
    path = known.write(b"dir/new")
    known.check()
    changed = [slot for slot, (one, other) in enumerate(zip(before, records.digests(known.group))) if one != other]
    assert 1 <= len(changed) <= 2, "the file, and the time of no directory is recorded"
    found = records.entries(known.group, changed, 5000)
    assert os.fsdecode(path) in found
    os.unlink(path)
    known.check()
    assert records.digests(known.group) == before


def test_digests_that_are_kept_are_read_and_not_made_anew(known, monkeypatch):
    before = records.digests(known.group)
    monkeypatch.setattr(records, "_records", lambda group: pytest.fail("they are known"))
    assert records.digests(known.group) == before


def test_another_include_makes_them_anew(known, config):
    before = records.digests(known.group)
    config(include=[f"{known.include}/dir"])
    assert records.digests(known.group) != before, "an include itself is left out"


def test_an_include_that_is_a_file_is_compared(known, config):
    config(include=[f"{known.include}/z"])
    before = records.digests(known.group)
    with known.group.open_database(write=True) as database:
        database.forget([os.fsencode(f"{known.include}/z")])
    assert records.digests(known.group) != before


def test_a_disk_that_is_full_does_not_keep_hosts_from_being_compared(known, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    known.group.forget(records.NOTED)
    monkeypatch.setattr(records.storage, "write_json", full)
    assert len(records.digests(known.group)) == records.DIGESTS


def test_only_so_many_paths_are_named(known):
    assert len(records.entries(known.group, range(records.DIGESTS), 3)) == 3
    names = records.entries(known.group, range(records.DIGESTS), 5000)
    assert f"{known.include}/dir/nl%0Ax" in names
    assert f"{known.include}/dir/%FF" in names


def test_what_is_marked_goes_to_all_once_more(known):
    names = [f"{known.include}/z", f"{known.include}/was%20here"]
    mark(known.group, names)
    with known.group.open_database() as database:
        assert {path for path, _, forced in database.dirty() if not forced} == {
            os.fsencode(f"{known.include}/z"),
            os.fsencode(f"{known.include}/was here"),
        }
    assert json.loads(open(known.group.path(DIFFERENCES), encoding="utf-8").read()) == {"total": 2}


def test_what_is_recorded_and_missing_is_not_sent_as_a_deletion(known):
    """A check finds out whether it was deleted, or its disk is away; a file that has changed is sent as it is now."""
    top = os.fsencode(known.include)
    os.unlink(top + b"/z")
    changed = known.write(b"a b", b"changed")
    mark(known.group, [f"{known.include}/z", f"{known.include}/a%20b"])
    with known.group.open_database() as database:
        assert {path for path, _, _ in database.dirty()} == {changed}
        assert database.record(changed) == stands(changed)


def test_directories_with_something_else_in_them_are_kept(known):
    for name in (b"all/recorded/f", b"more/recorded/f", b"socket/f"):
        known.write(name)
    look(known)
    top = os.fsencode(known.include)
    known.write(b"more/recorded/not yet")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(top + b"/socket")  # a socket's path is short
        server.bind("s")
        os.chdir("/")
    asked = [top + b"/" + name for name in (b"all", b"all/recorded", b"more", b"more/recorded", b"socket", b"none")]
    there = [f"{known.include}/{name}/" for name in ("more", "more/recorded", "socket")]
    assert records.kept(known.group, asked) == there


# --- On the master ---------------------------------------------------------------------------------------


class Hosts:
    """Hosts that say what they have recorded, each time they are asked."""

    def __init__(self, *times, left=(), kept=()):
        self.times, self.left, self.kept = list(times), [*left], kept

    def call(self, hosts, function, arguments):
        if function == "csyncsync.kept":
            return {host: [path for path in arguments[1] if path in self.kept] for host in hosts}
        found = self.times.pop(0)
        left = self.left
        return {host: {"calm": found[host] is not None, "left": left, "paths": found[host] or {}} for host in hosts}


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(agreement.time, "sleep", lambda seconds: None)


def statuses(**slots):
    """What hosts say, with digests that begin so."""
    rest = ["0" * 16] * (records.DIGESTS - 1)
    return {host: {"records": found and [found * 16, *rest], "files": 10} for host, found in slots.items()}


def differences(times, **slots):
    return agreement.differences(Hosts(*times), "g", statuses(**slots))


def test_hosts_that_agree_are_asked_nothing():
    assert differences([], web1="1", web2="1") == {}


@pytest.mark.parametrize("silent", [None, []])
def test_nobody_knows_while_a_host_has_something_to_send(silent):
    assert differences([], web1="1", web2=silent, web3="2") is None
    assert agreement.differences(Hosts(), "g", {**statuses(web1="1", web2="2"), "web3": {}}) is None


def test_what_differs_twice_differs():
    first = {"web1": {"/a": "1", "/b": "1"}, "web2": {"/a": "2", "/b": "1"}, "web3": {"/a": "2", "/c": "1", "/b": "1"}}
    assert differences([first, first], web1="1", web2="2", web3="3") == {
        "/a": {"web1": "1", "web2": "2", "web3": "2"},
        "/c": {"web1": None, "web2": None, "web3": "1"},
    }


def test_a_directory_that_a_host_keeps_is_no_difference():
    """What is in it, and not of the group, is only there."""
    there = {"web1": {"/kept/": "1", "/gone/": "1", "/mode/": "1"}, "web2": {"/mode/": "2"}}
    found = agreement.differences(Hosts(there, there, kept=["/kept/"]), "g", statuses(web1="1", web2="2"))
    assert sorted(found) == ["/gone/", "/mode/"]


def test_a_change_that_was_under_way_is_no_difference():
    first, other = {"web1": {"/a": "1"}, "web2": {"/a": "2"}}, {"web1": {"/a": "2"}, "web2": {"/a": "2"}}
    assert differences([first, other], web1="1", web2="2") == {}
    assert differences([first, {**other, "web2": {"/a": "3"}}], web1="1", web2="2") == {}, "another one is under way"
    assert differences([{**first, "web2": None}], web1="1", web2="2") is None
    assert differences([first, {**first, "web1": None}], web1="1", web2="2") is None


def test_what_a_host_has_refused_is_left_out():
    """A conflict may stand for long: it does not hide what else differs, as what lies below a place that is refused."""
    first = {"web1": {"/a": "1", "/d": "1", "/e": "1"}, "web2": {"/a": "2", "/d/": "2", "/d/below": "3", "/e": "1"}}
    found = agreement.differences(Hosts(first, first, left=["/a", "/d"]), "g", statuses(web1="1", web2="2"))
    assert found == {"/d/below": {"web1": None, "web2": "3"}}


@pytest.mark.parametrize(
    ("said", "at_rest"),
    [
        ({}, True),
        ({"dirty": {"web2": 2}, "refused": {"web2": ["/a", "/b"]}}, True),
        ({"dirty": {"web2": 2}, "refused": {"web2": ["/a"]}, "cannot_write": {"web2": {"/b": "File exists"}}}, True),
        ({"dirty": {"web2": 2}, "refused": {"web2": ["/a"]}, "cannot_write": {"web2": {"/a": "File exists"}}}, False),
        ({"dirty": {"web2": 1}, "refused": {"web3": ["/a"]}}, False),
        ({"dirty": {"web2": 1}, "refused": {"web2": ["/a"]}, "unreachable": {"web2": "no answer"}}, False),
        ({"unreachable": {"web2": "no answer"}}, True),
        ({"journal": 1}, False),
        ({"state": "recorded"}, False),
    ],
)
def test_a_host_is_at_rest_if_others_have_refused_all_that_it_is_to_send(said, at_rest):
    status = {"state": "established", "journal": 0, "dirty": {}, "refused": {}, "cannot_write": {}, "unreachable": {}}
    assert is_at_rest({**status, **said}) == at_rest


def test_who_differs_is_who_has_not_what_most_have():
    found = {
        "/a": {"web1": "1", "web2": "2", "web3": "2"},
        "/b": {"web1": "1", "web2": "1", "web3": None},
        "/c": {"web1": None, "web2": "1", "web3": "2"},
    }
    assert agreement.by_host(found) == {"web1": ["/a"], "web2": ["/c"], "web3": ["/b", "/c"]}
    assert agreement.by_host({"/a": {"web1": "1", "web2": "2"}}) == {"web2": ["/a"]}


def test_the_report_says_who_differs_and_what_to_do():
    answers = {host: status() for host in ("web1", "web2", "web3")}
    rows = report("g", [*answers], answers, {}, NOW, None, {"web2": ["/srv/a%20b", "/srv/c"]})
    assert rows["web2"]["state"] == "differs from web1, web3: 2 paths, as /srv/a b"
    assert rows["web2"]["problems"] == [[rows["web2"]["state"], "salt-run csyncsync.sync g"]]
    assert rows["web1"]["state"] == "in sync"


# --- A host that only receives ---------------------------------------------------------------------------


@pytest.fixture
def receiver(known, config):
    """The host receives only, and has what it has received."""
    config(receive_only=True)
    look(known)
    return known


def changes(tree):
    return local_changes.changes(tree.group.directory, tree.group.database, 5000)


@pytest.mark.parametrize("full", [True, False])
def test_what_is_changed_there_is_noted_and_neither_recorded_nor_sent(receiver, full):
    top = os.fsencode(receiver.include)
    before = records.digests(receiver.group)
    with open(top + b"/z", "wb") as file:
        file.write(b"local")
    os.unlink(top + b"/a b")
    os.mkdir(top + b"/new")
    with open(top + b"/new/\xfe", "wb") as file:
        file.write(b"x")
    if not full:
        journal.write(receiver.group.journal, [top + b"/z", top + b"/a b", top + b"/new"], False, 1)
    assert look(receiver, full=full).held == ""
    name = os.fsdecode(top)
    wanted = {f"{name}/a%20b": "deleted", f"{name}/new": "new", f"{name}/new/%FE": "new", f"{name}/z": "changed"}
    assert changes(receiver) == wanted
    assert records.digests(receiver.group) == before
    with receiver.group.open_database() as database:
        assert not database.dirty()
    assert look(receiver, full=False).named == 0
    assert changes(receiver) == wanted, "a check of nothing forgets nothing"
    os.unlink(top + b"/new/\xfe")
    os.rmdir(top + b"/new")
    look(receiver, full=full)
    assert set(changes(receiver).values()) == {"deleted", "changed"}


def test_all_that_is_deleted_there_is_no_lost_disk(receiver):
    top = os.fsencode(receiver.include)
    for name in os.listdir(top):
        path = top + b"/" + name
        os.unlink(path) if os.path.islink(path) or not os.path.isdir(path) else shutil.rmtree(path)
    assert look(receiver).held == ""
    assert set(changes(receiver).values()) == {"deleted"}


def test_what_others_have_sent_since_is_no_local_change(receiver):
    path = receiver.write(b"z", b"local")
    look(receiver)
    assert len(changes(receiver)) == 1
    with receiver.group.open_database(write=True) as database:
        database.take_in([(path, stands(path), database.record(path))], "10.0.0.1", [])
    assert changes(receiver) == {}


# --- Who sends what is not the same


class Marking:
    """All hosts; which of them have made what they have, and what they know as older; notes what each one marks."""

    def __init__(self, own, silent=()):
        self.own, self.silent, self.marked = own, silent, {}

    def call(self, hosts, function, arguments, test=False, but=None):
        assert function == "csyncsync.mark"
        assert hosts == MEMBERS, "all at the same time: who is late takes what is older"
        there = [host for host in hosts if host not in self.silent]
        if not test:
            self.marked.update({host: [name for name in arguments[1] if name not in but[host]] for host in there})
        return {
            host: {name: older for name, older in self.own.get(host, {}).items() if name in arguments[1]}
            for host in there
        }


MEMBERS = ["web1", "web2", "web3"]
#: Two versions of a file, one of which a host has; somebody has deleted it; a directory.
FOUND = {
    "/a": {"web1": "new", "web2": "old", "web3": "other"},
    "/b": {"web1": "1", "web2": "2", "web3": "2"},
    "/c": {"web1": None, "web2": "old", "web3": "old"},
    "/d/": {"web1": "dir", "web2": None, "web3": None},
}


def test_who_has_received_again_what_another_host_knows_as_older_gives_way():
    """What nobody has made, or what the other one has never seen, is a conflict as before."""
    cluster = Marking({"web1": {"/a": ["older", "old"], "/c": ["old"], "/d/": []}})
    assert agreement.mark(cluster, "g", MEMBERS, FOUND)
    assert cluster.marked == {"web1": ["/a", "/b", "/c", "/d/"], "web2": ["/b"], "web3": ["/a", "/b"]}


def test_what_two_hosts_have_made_both_send():
    cluster = Marking({"web1": {"/a": ["old", "other"]}, "web3": {"/a": ["new"]}})
    assert agreement.mark(cluster, "g", MEMBERS, {"/a": FOUND["/a"]})
    assert cluster.marked == {"web1": ["/a"], "web2": [], "web3": ["/a"]}


@pytest.mark.parametrize(
    ("own", "there", "marked"),
    [
        ({"web1": ["1"], "web2": ["0"]}, ("2", "1", "2"), ["web1", "web3"]),
        ({"web1": ["1", "2"], "web2": []}, ("3", "1", "3"), ["web1", "web3"]),
        ({"web1": ["1"], "web2": ["0"], "web3": ["2", "1"]}, ("2", "1", "3"), ["web3"]),
        ({"web1": ["1"], "web2": ["2"]}, ("2", "1", "0"), ["web1", "web2", "web3"]),
        ({"web1": ["1"], "web2": ["0"]}, (None, "1", None), ["web1", "web2"]),
        ({"web1": ["1"], "web2": []}, ("2", None, "1"), ["web1", "web2"]),
        ({"web1": ["2"], "web2": ["3"], "web3": ["1"]}, ("1", "2", "3"), ["web1", "web2", "web3"]),
    ],
    ids=["it", "and it was changed twice since", "in turn", "both", "it, then deleted", "deleted", "in a circle"],
)
def test_who_has_made_what_another_host_knows_as_older_gives_way(own, there, marked):
    """It has missed what was made of it; but a deletion is a conflict with what somebody has made."""
    cluster = Marking({host: {"/a": known} for host, known in own.items()})
    assert agreement.mark(cluster, "g", MEMBERS, {"/a": dict(zip(MEMBERS, there))})
    assert [host for host in MEMBERS if cluster.marked[host]] == marked


def test_nobody_marks_anything_unless_all_answer():
    cluster = Marking({"web1": {"/a": []}}, silent=["web2"])
    assert not agreement.mark(cluster, "g", MEMBERS, FOUND)
    assert cluster.marked == {}


# --- Until hosts have been compared


class Master:
    """What ``compare`` needs of a Cluster: a record that outlives the process."""

    def __init__(self, directory):
        self.opts = {"cachedir": str(directory)}

    def record(self, group):
        return record.opened(record.path_of(self.opts, group))

    def group(self, name):
        return {}

    def members(self, group):
        return MEMBERS


@pytest.mark.parametrize(
    ("answers", "asked", "due"),
    [
        ([{}], 1, False),
        ([{"/a": {}}], 1, False),
        ([None, {}], 2, False),
        ([SaltException("gone"), {}], 2, False),
        ([None] * 100, agreement.TRIES, True),
    ],
    ids=["they agree", "they send what differs", "busy", "the master is", "busy for long"],
)
def test_a_comparison_is_due_until_it_was_made(tmp_path, monkeypatch, answers, asked, due):
    master, calls = Master(tmp_path), []

    def heal(cluster, group, members):
        calls.append(group)
        answer = answers[len(calls) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(agreement, "heal", heal)
    with master.record("g") as noted:
        noted.compare = True
    agreement.compare(master, "g")
    assert len(calls) == asked
    with master.record("g") as noted:
        assert noted.compare == due


def test_a_comparison_that_was_cut_off_is_still_due(tmp_path, monkeypatch):
    """The master is stopped while it waits."""
    master = Master(tmp_path)
    with master.record("g") as noted:
        noted.compare = True
    monkeypatch.setattr(agreement.time, "sleep", lambda seconds: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        agreement.compare(master, "g")
    with master.record("g") as noted:
        assert noted.compare
