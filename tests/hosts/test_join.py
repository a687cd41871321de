"""Hosts come, lose what they knew, and leave: the group's content is what counts, and nobody tells the others."""

import contextlib
import os
import shutil
import time

import pytest
from places import HOSTS, SHARED

ALL = ("web1", "web2", "web3", "web4")
DATABASE = "/var/lib/csync2/web1_wwwshared.db3"
#: Neither the database, nor its second name, nor its copy.
NOTHING_LEFT = "rm -f /var/lib/csync2/*_wwwshared.db3* /var/lib/csyncsync/wwwshared/*.db3*"
LONG_AGO = 1_500_000_000
#: What csync2's database says of itself then (SQLite's user version).
RECORDED = b"\0\0\0\1"
#: No name stands behind this one.
LAST = chr(0x10FFFF)


@pytest.fixture(scope="module")
def joined(hosts):
    """web4, with an old copy of one file and a file of its own, after its state.apply; what the others had before."""
    hosts.write("web1", f"{SHARED}/contested", "the group's version\n")
    hosts.calm()
    before = hosts.tree("web1")
    hosts.bed.up(4)
    os.utime(
        hosts.write("web4", f"{SHARED}/contested", "an old copy, and longer than the other\n"), (LONG_AGO, LONG_AGO)
    )
    hosts.write("web4", f"{SHARED}/extra/of-web4", "web4's own\n")
    hosts.apply("web4")
    return before


def test_the_others_learn_of_a_new_host_by_themselves(hosts, joined):
    for host in HOSTS:
        hosts.eventually(lambda host=host: hosts.named_in(host, "wwwshared") == list(ALL), 30, f"{host} knows web4")
        hosts.eventually(lambda host=host: hosts.named_in(host, "wwwdata") == list(ALL), 30, f"{host} knows web4")


def test_a_new_host_gets_what_the_group_has(hosts, joined):
    hosts.everywhere(f"{SHARED}/contested", "the group's version\n", hosts=ALL, seconds=90)
    hosts.equal(SHARED, "/var/www/data/ini", hosts=ALL, seconds=90)


def test_what_only_the_new_host_has_reaches_all(hosts, joined):
    hosts.everywhere(f"{SHARED}/extra/of-web4", "web4's own\n", hosts=ALL, seconds=90)


def test_a_new_host_overwrites_nothing(hosts, joined):
    hosts.equal(hosts=ALL, seconds=90)
    for host in HOSTS:
        tree = hosts.tree(host)
        assert {path: tree.get(path) for path in joined} == joined


def test_changes_go_both_ways_with_the_new_host(hosts, joined):
    hosts.settled(hosts=ALL, seconds=90)
    hosts.write("web4", f"{SHARED}/from-web4", "x\n")
    hosts.write("web2", f"{SHARED}/to-web4", "x\n")
    hosts.everywhere(f"{SHARED}/from-web4", "x\n", hosts=ALL)
    hosts.everywhere(f"{SHARED}/to-web4", "x\n", hosts=ALL)


def test_a_host_of_whose_database_nothing_is_left_overwrites_nobody(hosts, joined):
    """It holds an old copy, from a backup that lacks one; what was deleted elsewhere is all that it may bring back."""
    hosts.write("web1", f"{SHARED}/lost/file", "the newer version\n")
    hosts.write("web1", f"{SHARED}/lost/newer-than-the-backup", "x\n")
    hosts.calm(hosts=ALL)
    hosts.stop_minion("web3")
    hosts.shell("web3", NOTHING_LEFT)
    os.utime(hosts.write("web3", f"{SHARED}/lost/file", "an old copy from a backup\n"), (LONG_AGO, LONG_AGO))
    hosts.path("web3", f"{SHARED}/lost/newer-than-the-backup").unlink()
    before = hosts.tree("web1")
    hosts.start_minion("web3")
    hosts.everywhere(f"{SHARED}/lost/file", "the newer version\n", hosts=ALL, seconds=90)
    hosts.settled("wwwshared", hosts=ALL, seconds=90)
    hosts.equal(hosts=ALL)
    assert hosts.tree("web1") == before


@pytest.mark.parametrize("loss", ["rm", "truncate -s 5000", "truncate -s 0"])
def test_what_is_done_on_a_host_without_database_and_minion_counts(hosts, joined, loss):
    """Nobody watches, and csync2 knows nothing: the database is put back, and tells what has been changed there."""
    top = f"{SHARED}/lost/meanwhile"
    for name in ("rewritten", "mode", "deleted", "moved", "directory/a", "directory/b/c", "as-it-was", "others"):
        hosts.write("web3", f"{top}/{name}", f"{name}, the first version\n")
    hosts.shell("web3", f"mkdir {top}/empty; ln -s rewritten {top}/link")
    hosts.calm(hosts=ALL)
    hosts.stop_minion("web3")
    hosts.shell("web3", f"{loss} {DATABASE.replace('web1', 'web3')}")
    hosts.shell(
        "web3",
        f"cd {top}; rm -r deleted directory; rmdir empty; mv moved here; echo 'another text' >rewritten; echo x >new"
        "; chmod 600 mode; ln -sf new link; mkdir new-directory",
    )
    hosts.write("web1", f"{top}/others", "changed elsewhere meanwhile\n")
    hosts.everywhere(f"{top}/others", "changed elsewhere meanwhile\n", hosts=("web1", "web2", "web4"))
    hosts.start_minion("web3")
    hosts.everywhere(f"{top}/rewritten", "another text\n", hosts=ALL, seconds=90)
    hosts.settled("wwwshared", hosts=ALL, seconds=90)
    hosts.equal(hosts=ALL)
    names = {"rewritten", "mode", "here", "as-it-was", "others", "new", "new-directory", "link"}
    assert {path.name for path in hosts.path("web3", top).iterdir()} == names
    assert hosts.read("web3", f"{top}/others") == "changed elsewhere meanwhile\n"
    assert os.readlink(hosts.path("web3", f"{top}/link")) == "new"
    assert hosts.path("web3", f"{top}/mode").stat().st_mode & 0o777 == 0o600
    hosts.remove("web1", top)


def test_a_host_whose_database_is_lost_while_its_minion_runs(hosts, joined):
    """What somebody does on it arrives: it was put back, and nothing has happened."""
    for name in ("second", "to-be-a-file/a/b", "to-be-gone/a/b"):
        hosts.write("web1", f"{SHARED}/lost/{name}", "the newer version\n")
    hosts.calm(hosts=ALL)
    hosts.shell("web3", "rm -f /var/lib/csync2/*wwwshared*")
    hosts.write("web3", f"{SHARED}/lost/second", "written after the loss\n")
    hosts.shell("web3", f"cd {SHARED}/lost; mv to-be-gone to-be-a-file /root; echo x >to-be-a-file")
    hosts.everywhere(f"{SHARED}/lost/second", "written after the loss\n", hosts=ALL, seconds=90)
    hosts.everywhere(f"{SHARED}/lost/to-be-a-file", "x\n", hosts=ALL, seconds=90)
    hosts.everywhere(f"{SHARED}/lost/to-be-gone/a/b", None, hosts=ALL, seconds=90)
    hosts.calm("wwwshared", hosts=ALL, seconds=90)


def test_a_deletion_counts_wherever_the_path_stands(hosts, joined):
    """csync2 -T forgets one behind all others, if there is a new one before it; and it has its own order of names."""
    gone = [f"{SHARED}/lost/a b/x", f"{SHARED}/{LAST}/{LAST}"]
    for path in (*gone, f"{SHARED}/lost/a!"):
        hosts.write("web1", path, "x\n")
    hosts.calm(hosts=ALL)
    hosts.shell("web3", "rm -f /var/lib/csync2/*wwwshared*")
    for path in gone:
        hosts.path("web3", path).unlink()
    hosts.write("web3", f"{SHARED}/{LAST}/new", "x\n")
    _all_are_gone(hosts, gone)
    hosts.remove("web1", f"{SHARED}/{LAST}")


def test_what_a_host_made_and_deleted_before_it_could_join_is_no_lost_disk(hosts, joined):
    """Nobody else ever had it, so the guard need not hold its deletion."""
    hosts.calm(hosts=ALL)
    top, file = f"{SHARED}/much", hosts.path("web3", DATABASE.replace("web1", "web3"))
    hosts.exec("master", "systemctl", "stop", "salt-master")
    try:
        hosts.shell("web3", f"{NOTHING_LEFT}; mkdir {top}; cd {top}; touch $(seq 300)")
        hosts.eventually(lambda: file.exists() and file.read_bytes()[60:64] == RECORDED, 90, "all is recorded")
        hosts.shell("web3", f"rm -r {top}")
    finally:
        hosts.exec("master", "systemctl", "start", "salt-master")
    hosts.settled("wwwshared", hosts=ALL, seconds=120)
    hosts.equal(hosts=ALL)


def test_a_host_joins_anew_from_one_that_is_up_to_date(hosts, joined):
    """web1 is paused, and behind: it is to bring back neither the old version nor what was deleted."""
    changed, gone = f"{SHARED}/lost/changed", f"{SHARED}/lost/gone"
    for path in (changed, gone):
        hosts.write("web1", path, "the first version\n")
    hosts.calm(hosts=ALL)
    hosts.run("csyncsync.pause", "host=web1")
    try:
        hosts.write("web2", changed, "the newer version\n")
        hosts.shell("web2", f"rm {gone}")
        hosts.everywhere(changed, "the newer version\n", hosts=("web3", "web4"))
        hosts.everywhere(gone, None, hosts=("web3", "web4"))
        hosts.shell("web4", NOTHING_LEFT)
        hosts.eventually(lambda: hosts.status("web4", "wwwshared")["state"] == "recorded", 60, "web4 joins anew")
        hosts.eventually(lambda: hosts.status("web4", "wwwshared")["state"] == "established", 90, "it has joined")
        assert hosts.read("web4", changed) == "the newer version\n"
        assert hosts.read("web4", gone) is None
    finally:
        hosts.run("csyncsync.resume", "host=web1")
    hosts.everywhere(changed, "the newer version\n", hosts=ALL, seconds=90)
    _all_are_gone(hosts, [gone])


def _all_are_gone(hosts, gone):
    for path in gone:
        hosts.everywhere(path, None, hosts=ALL, seconds=120)
    hosts.settled("wwwshared", hosts=ALL, seconds=90)
    hosts.equal(hosts=ALL)


def test_a_host_that_lost_its_database_waits_for_one_that_has_deleted_something(hosts, joined):
    """Else it would bring back what only it has by now."""
    gone = [f"{SHARED}/lost/deleted/{name}" for name in ("a", "b/c")]
    for path in gone:
        hosts.write("web1", path, "x\n")
    hosts.calm(hosts=ALL)
    hosts.bed.cut("web3")
    hosts.shell("web2", f"rm -r {SHARED}/lost/deleted")
    hosts.everywhere(gone[0], None, hosts=("web1", "web4"), seconds=30)
    hosts.stop_minion("web2")
    hosts.shell("web3", NOTHING_LEFT)
    hosts.bed.heal("web3")
    time.sleep(10)
    hosts.start_minion("web2")
    _all_are_gone(hosts, gone)


#: As if csync2 had died before it committed what it had received below a directory.
UNWRITTEN = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=30)
database.execute("DELETE FROM file WHERE filename = :top OR filename GLOB :top || '/*'", {"top": sys.argv[2]})
database.commit()
for directory, _, names in os.walk(sys.argv[2]):
    for path in (directory, *(os.path.join(directory, name) for name in names)):
        os.chmod(path, os.stat(path).st_mode)
"""


def test_what_a_host_deletes_before_it_has_joined_anew_is_no_conflict_with_what_others_got_from_it(hosts, joined):
    """
    web1 takes for its own what it got from web3, because its csync2 has died. What web3 makes of it without its
    database nobody else ever had; nor has web3 what it got from web1 long ago.
    """
    top, file = f"{SHARED}/lost/sent", hosts.path("web3", DATABASE.replace("web1", "web3"))
    hosts.write("web1", f"{top}/here/file", "the first one\n")
    hosts.equal(hosts=ALL)
    hosts.remove("web1", top)
    hosts.write("web3", f"{top}/here/file", "what all have\n")
    hosts.calm(hosts=ALL)
    hosts.bed.cut("web3")
    try:
        hosts.shell("web3", f"{NOTHING_LEFT}; echo 'what web3 alone has' >{top}/here/file")
        hosts.exec("web1", "/opt/salt/bin/python", "-c", UNWRITTEN, DATABASE, top)
        hosts.eventually(lambda: file.exists() and file.read_bytes()[60:64] == RECORDED, 90, "all is recorded")
        hosts.shell("web3", f"rm -r {top}")
        marks = "csync2 -C wwwshared -M; true"  # it fails if there are none
        hosts.eventually(lambda: hosts.shell("web1", marks).count(top) == 3, 60, "web1 has marks")
        time.sleep(5)
    finally:
        hosts.bed.heal("web3")
    _all_are_gone(hosts, [top])


def test_what_a_host_deleted_before_it_lost_its_database_goes_to_those_who_were_away(hosts, joined):
    """
    It has been truncated. Some deletions all hosts but one had got already, others nobody; and much else was
    changed later, more than a host that joins names to the one that admits it (MOST_UNSENT).
    """
    many, some, none = (f"{SHARED}/lost/{name}" for name in ("many", "some-have-it", "nobody-has-it"))
    gone = [f"{top}/{name}" for top in (some, none) for name in ("a", "b/c", "d")]
    for path in (f"{many}/first", *gone):
        hosts.write("web1", path, "x\n")
    hosts.calm(hosts=ALL)
    hosts.bed.cut("web3")
    try:
        hosts.shell("web1", f"rm -r {some}")
        hosts.everywhere(gone[0], None, hosts=("web1", "web2", "web4"), seconds=30)
        hosts.bed.cut("web1")
        hosts.shell("web1", f"rm -r {none}; cd {many} && touch $(seq 5100)")
        count = "csync2 -C wwwshared -M | wc -l"
        hosts.eventually(lambda: int(hosts.shell("web1", count)) > 3 * 5100, 90, "web1 has checked them")
    finally:
        hosts.bed.heal("web3")
        hosts.bed.heal("web1")
    os.truncate(hosts.path("web1", DATABASE), 5000)
    _all_are_gone(hosts, gone)
    hosts.remove("web1", many)


def test_what_a_host_deleted_before_it_lost_its_database_goes_to_one_that_is_away_for_longer(hosts, joined):
    """The last copy of the database is put back, and knows of them."""
    top = f"{SHARED}/lost/deleted-while-away"
    gone = [f"{top}/{name}" for name in ("a", "b/c", "d")]
    for path in gone:
        hosts.write("web1", path, "x\n")
    hosts.calm(hosts=ALL)
    hosts.bed.cut("web3")
    try:
        hosts.shell("web1", f"rm -r {top}")
        hosts.everywhere(gone[0], None, hosts=("web1", "web2", "web4"), seconds=30)
        os.truncate(hosts.path("web1", DATABASE), 5000)
        hosts.write("web1", f"{SHARED}/lost/after", "x\n")  # a push finds the damage
        hosts.everywhere(f"{SHARED}/lost/after", "x\n", hosts=("web1", "web2", "web4"), seconds=60)
    finally:
        hosts.bed.heal("web3")
    _all_are_gone(hosts, gone)
    assert not hosts.path("web3", top).exists()


def test_a_host_taken_out_of_the_members_leaves(hosts, joined):
    """The others no longer name it, the group is taken off it, and its files stay; it can come back."""
    tree = hosts.equal(hosts=ALL)
    options = {**hosts.groups()["wwwshared"], "members": list(HOSTS)}
    with hosts.pillar({"wwwshared": options}):
        hosts.apply(*ALL)
        for host in HOSTS:
            assert hosts.named_in(host, "wwwshared") == list(HOSTS)
            assert hosts.named_in(host, "wwwdata") == list(ALL), "the other group is as it was"
        assert hosts.config("web4", "wwwshared") is None
        assert not hosts.path("web4", "/etc/csync2_wwwshared.key").exists()
        assert not hosts.path("web4", "/var/lib/csyncsync/wwwshared").exists()
        assert hosts.tree("web4") == tree
        hosts.write("web4", f"{SHARED}/no-longer-shared", "x\n")
        hosts.write("web1", f"{SHARED}/without-web4", "x\n")
        hosts.everywhere(f"{SHARED}/without-web4", "x\n")
        assert hosts.read("web4", f"{SHARED}/without-web4") is None
        assert hosts.read("web1", f"{SHARED}/no-longer-shared") is None
    hosts.apply("web4")
    hosts.everywhere(f"{SHARED}/without-web4", "x\n", hosts=ALL, seconds=90)
    hosts.everywhere(f"{SHARED}/no-longer-shared", "x\n", hosts=ALL, seconds=90)


@contextlib.contextmanager
def no_member(hosts, why):
    """web4 is none, and the others know it."""
    with contextlib.ExitStack() as stack:
        if why == "its key is deleted":
            hosts.bed.salt_key("--yes", "--delete=web4")
        else:
            options = {**hosts.groups()["wwwshared"], "members": list(HOSTS)}
            stack.enter_context(hosts.pillar({"wwwshared": options}))
            hosts.apply(*HOSTS)
        for host in HOSTS:
            hosts.eventually(lambda host=host: hosts.named_in(host, "wwwshared") == list(HOSTS), 60, f"{host} drops it")
        yield


@pytest.mark.parametrize("why", ["it is taken out", "its key is deleted"])
def test_a_host_that_was_no_member_while_it_was_off_lacks_nothing_when_it_is_back(hosts, joined, why):
    """The others keep nothing for it meanwhile, and it hears nothing of that. What it does offline counts."""
    top = f"{SHARED}/back-after-{why.replace(' ', '-')}"
    for name in ("changed", "same", "its"):
        hosts.write("web1", f"{top}/{name}", "the first version\n")
    hosts.calm(hosts=ALL)
    hosts.bed.kill("web4")
    with no_member(hosts, why):
        hosts.write("web1", f"{top}/changed", "another version\n")
        hosts.write("web2", f"{top}/new", "x\n")
        hosts.calm()
    hosts.bed.up(4)
    hosts.write("web4", f"{top}/its", "changed on web4\n")
    hosts.apply(*ALL)
    hosts.everywhere(f"{top}/changed", "another version\n", hosts=ALL, seconds=90)
    hosts.everywhere(f"{top}/its", "changed on web4\n", hosts=ALL, seconds=90)
    hosts.settled("wwwshared", hosts=ALL, seconds=90)
    hosts.equal(hosts=ALL)


def test_a_host_whose_key_is_deleted_leaves_by_itself(hosts, joined):
    hosts.settled(hosts=ALL, seconds=90)
    hosts.bed.salt_key("-d", "web4", "-y")
    for host in HOSTS:
        hosts.eventually(lambda host=host: hosts.named_in(host, "wwwshared") == list(HOSTS), 30, f"{host} drops web4")
        hosts.eventually(lambda host=host: hosts.named_in(host, "wwwdata") == list(HOSTS), 30, f"{host} drops web4")
    hosts.write("web4", f"{SHARED}/from-a-deleted-host", "x\n")
    hosts.exec("web4", "salt-call", "--local", "csyncsync.push", "wwwshared", "full=True", check=False)
    for host in HOSTS:
        assert hosts.read(host, f"{SHARED}/from-a-deleted-host") is None
    hosts.write("web1", f"{SHARED}/after-the-deletion", "x\n")
    hosts.everywhere(f"{SHARED}/after-the-deletion", "x\n")
    hosts.settled()


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind(hosts):
    yield
    if "web4" in hosts.bed.hosts():
        hosts.bed.salt_key("-d", "web4", "-y", check=False)
        hosts.bed.kill("web4")
    for host in HOSTS:
        shutil.rmtree(hosts.path(host, f"{SHARED}/lost"), ignore_errors=True)
