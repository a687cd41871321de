"""How a host comes into a group: what it sends, keeps and deletes afterwards, by csync2's own check."""

import json
import os

import pytest
from csync2lib.csync2 import command
from csync2lib.csync2.database import Database
from csync2lib.errors import CommandError, CsyncsyncError
from csync2lib.group import Group, ThisHost
from csync2lib.join import unsent
from csync2lib.join.admit import admit
from csync2lib.join.join import join, reset
from csync2lib.join.unsent import as_text, from_text
from csync2lib.push import transfer

ME, WEB2, WEB3 = "10.0.0.1", "10.0.0.2", "fd00::3"


class Host:
    """web1 with a tree of files, whose csync2 is real but for what it would ask its peers."""

    def __init__(self, tree, directory):
        self.tree, self.state = tree, directory / "state"
        databases = str(tree.csync2.directory)
        self.group = Group("data", ThisHost("web1", "web1", databases, str(self.state), databases))
        hosts = {"web1": ME, "web2": WEB2, "web3": WEB3}
        config = {
            "group": "data",
            "include": [os.fsdecode(tree.path)],
            "exclude": [],
            "hosts": {name: {"name": name, "address": ip, "certificate": "aa"} for name, ip in hosts.items()},
            "name": "web1",
            "address": ME,
            "database": self.group.database,
        }
        os.makedirs(self.group.journal)
        (self.state / "data/config.json").write_text(json.dumps(config))
        #: {peer: csync2's answer to -T as {"L", "R" or "X": [name, …]}}; who is not here does not answer
        self.differences = {WEB2: {}, WEB3: {}}
        #: what was dirty when something was sent, and the paths that turned out to have changed meanwhile
        self.sent, self.changed, self.problem = [], set(), ""

    def run(self, group, *args, peer=None, fine=(0,)):
        if "-T" in args:
            if peer not in self.differences:
                raise CommandError(f"Connection to {peer} failed: it does not answer")
            found = self.differences[peer].items()
            lines = [
                f"{kind}\t{ME}\t{peer}\t{os.fsdecode(self.tree / name)}\n" for kind, names in found for name in names
            ]
            return "".join(lines).encode()
        done = self.tree.csync2(group, *args)
        assert done.returncode in fine, done.stdout
        return done.stdout.encode()

    def send(self, group, database, notes, peers, members, since, changed):
        self.sent.append(self.dirty())
        changed |= self.changed
        return dict.fromkeys(peers, self.problem)

    def dirty(self):
        """``{name below the tree: {peer, …}}``"""
        found = {}
        with self.group.open_database() as database:
            for path, peer, _ in database.dirty():
                found.setdefault(os.path.relpath(path, self.tree.path), set()).add(peer)
        return found

    def join(self, **options):
        answer = join(self.group, **options)
        assert answer.pop("group") == "data"
        return answer

    def noted(self, name):
        path = self.state / "data" / name
        return path.read_text() if path.exists() else None


@pytest.fixture
def web1(tree, tmp_path, monkeypatch):
    for name in (b"a", b"b", b"c"):
        tree.write(name, b"content of " + name)
    host = Host(tree, tmp_path)
    monkeypatch.setattr(command, "run", host.run)
    monkeypatch.setattr(transfer, "send_all", host.send)
    monkeypatch.setattr(unsent, "WATCHER_JUDGES", 0)
    return host


def established(host):
    assert host.join() == {"state": "established", "unsent": []}
    return host


def lose_database(host):
    os.unlink(host.group.database)


def test_the_first_host_is_established_with_nothing_to_send(web1):
    established(web1)
    assert web1.dirty() == {}
    assert web1.group.state() == Database.ESTABLISHED
    assert web1.noted("established") == "web1"
    assert web1.noted("journal/whole") == ""


def test_an_established_host_keeps_what_it_has_to_send(web1):
    established(web1)
    with web1.group.open_database(write=True) as database:
        database.mark([web1.tree / b"a"], ME, WEB2)
    assert web1.join(source="web2") == {"state": "established", "unsent": []}
    assert web1.dirty() == {b"a": {WEB2}}


def test_a_host_that_joins_is_clean_when_the_source_sends(web1):
    web1.differences[WEB2] = {"L": [b"a"], "X": [b"b"], "R": [b"d"]}
    assert web1.join(source="web2") == {"state": "recorded", "unsent": []}
    assert web1.dirty() == {}
    assert json.loads(web1.noted("alone")) == {"paths": [os.fsdecode(web1.tree / b"a")]}


def test_to_keep_its_files_they_stay_dirty_where_they_may_be_otherwise(web1):
    """What the host alone has, for all; what differs, also by contents, for the source."""
    web1.differences[WEB2] = {"L": [b"a"], "X": [b"b"]}
    web1.join(source="web2", keep=True)
    assert web1.dirty() == {b"a": {WEB2, WEB3}, b"b": {WEB2}, b"c": {WEB2}}  # c: without digests nothing is known


def test_when_it_is_admitted_it_sends_what_it_alone_had_and_still_has(web1):
    web1.differences[WEB2] = {"L": [b"a"]}
    web1.join(source="web2")
    web1.differences[WEB2] = {"L": [b"a", b"c"]}  # the source has deleted c meanwhile
    assert web1.join(source="web2", admitted=True) == {"state": "established", "unsent": []}
    assert web1.dirty() == {b"a": {WEB2, WEB3}}
    assert web1.noted("alone") is None


def test_a_host_that_lost_its_database_keeps_its_unsent_changes_and_deletions(web1):
    established(web1)
    a, d = (os.fsdecode(web1.tree / name) for name in (b"a", b"d"))
    (web1.state / "data/journal/00000000000000000001-1.paths").write_bytes(os.fsencode(f"{d}\0{a}\0"))
    lose_database(web1)
    web1.differences[WEB2] = {"X": [b"a", b"b"], "R": [b"d"]}
    assert web1.join(source="web2") == {"state": "recorded", "unsent": [f"{d}/", f"{a}/"]}
    assert web1.dirty() == {b"a": {WEB2, WEB3}}
    web1.differences = {WEB2: {"R": [b"d"]}}  # web3 does not answer, so it may have all
    assert web1.join(source="web2", admitted=True) == {"state": "established", "unsent": [f"{d}/", f"{a}/"]}
    assert web1.dirty() == {b"a": {WEB2, WEB3}, b"d": {WEB2, WEB3}}


def test_reset_forgets_all_but_the_files(web1):
    established(web1)
    reset(web1.group)
    assert web1.group.state() == Database.NEW
    assert web1.noted("established") is None
    with web1.group.open_database() as database:
        assert database.count() == 0


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({}, {b"a", b"b", b"c", b"gone"}),
        ({"remove": True}, {b"a", b"b", b"c", b"gone", b"there"}),
        ({"unsent": ["/nowhere", "{a}"]}, {b"b", b"c", b"gone"}),
    ],
)
def test_a_host_is_sent_what_it_lacks_or_may_have_otherwise(web1, options, sent):
    """What was dirty before stays so, and what the other one refused does not."""
    established(web1)
    with web1.group.open_database(write=True) as database:
        database.mark([web1.tree / b"gone"], ME, WEB3)
    if "unsent" in options:
        options = {"unsent": [line.format(a=os.fsdecode(web1.tree / b"a")) for line in options["unsent"]]}
    web1.differences[WEB3] = {"L": [b"a"], "X": [b"b"], "R": [b"there"]}
    answer = admit(web1.group, "web3", **options)
    assert web1.sent == [{name: {WEB3} for name in sent}]
    assert answer == {"group": "data", "marked": len(sent), "left": 1}
    assert web1.dirty() == {b"gone": {WEB3}}


def test_to_keep_the_hosts_files_what_it_refused_stays_dirty(web1):
    established(web1)
    web1.differences[WEB3] = {"X": [b"b"]}
    admit(web1.group, "web3", keep=True)
    assert set(web1.dirty()) == {b"a", b"b", b"c"}


def test_what_changes_while_it_is_sent_is_checked_again_and_stays_dirty(web1):
    established(web1)
    web1.changed = {web1.tree / b"a"}
    admit(web1.group, "web3")
    assert set(web1.dirty()) == {b"a"}
    assert [path.read_bytes() for path in (web1.state / "data/journal").glob("*-push.paths")] == [
        (web1.tree / b"a") + b"\0"
    ]


def test_a_host_that_cannot_be_reached_is_not_admitted(web1):
    established(web1)
    web1.problem = "Connection to fd00::3 failed"
    with pytest.raises(CsyncsyncError, match=r"^web3: Connection to fd00::3 failed$"):
        admit(web1.group, "web3")
    assert web1.dirty() == {}


def test_only_an_established_host_admits(web1):
    with pytest.raises(CsyncsyncError, match=r"^web9 is not in this host's config of data yet$"):
        admit(web1.group, "web9")
    with pytest.raises(CsyncsyncError, match=r"^this host is not established itself$"):
        admit(web1.group, "web3")


def test_unsent_changes_as_text_and_back():
    entries = {b"/a b\xff": False, b"/dir": True}
    assert as_text(entries) == ["/a%20b%FF", "/dir/"]
    assert from_text(as_text(entries)) == entries
    assert from_text(None) == {}
    assert len(as_text({b"/%d" % number: False for number in range(6000)})) == unsent.MOST_UNSENT
