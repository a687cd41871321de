"""A lost database is put back: what was received stays the others', what was done here is sent, nothing is guessed."""

import os
import shutil
import sqlite3
import subprocess
import time
import types
from pathlib import Path

import pytest
from csync2lib import journal, received, storage, waits
from csync2lib.csync2 import kept
from csync2lib.csync2.database import Database
from csync2lib.csync2.names import encode
from csync2lib.csync2.states import stands
from csync2lib.group import ANEW
from csync2lib.join import record as joining
from csync2lib.push import check, ledger
from csync2lib.push.check import Known
from pair import HERE, THERE, pair
from test_check import below, dirty, keep_clean, look, tree

__all__ = ["pair", "tree"]

LOSSES = ["deleted", "truncated", "empty", "made anew"]


class Member:
    """A host that has what the group has, and whose database is kept."""

    def __init__(self, tree):
        self.tree, self.group = tree, tree.group
        for name in (b"a", b"b", b"dir/a", b"dir/sub/a", b"other/a", b"mode"):
            tree.write(name)
        look(tree)
        keep_clean(tree)
        self.group.pin(self.group.config)
        self.keep()

    def keep(self):
        kept.keep_link(self.group.directory, self.group.database)
        assert kept.keep_copy(self.group.directory, self.group.database)

    def lose(self, how):
        path = self.group.database
        if how == "deleted":
            os.unlink(path)
        elif how == "made anew":  # as csync2's server does when a peer comes
            os.unlink(path)
            self.group.state()
        else:
            os.truncate(path, 5000 if how == "truncated" else 0)
        if how == "truncated":  # what the push does that finds it
            kept.put_aside(self.group.directory, path)
        journal.write(self.group.journal, [], whole=True)

    def put_back(self):
        """As a push does; what is to be sent then, relative to the include."""
        self.group.state()
        done = joining.put_back(self.group)
        look(self.tree)
        return done, {os.path.relpath(path, below(self.tree)) for path in dirty(self.tree)}

    def journals(self, *names, tree=False):
        """The watcher has heard of changes here."""
        journal.write(self.group.journal, [below(self.tree, name) + b"/" * tree for name in names], False, "test")

    def received(self, name, content=b"theirs"):
        """A peer has sent this; the database that is lost knows of it, and no copy does."""
        path = self.tree.write(name, content)
        os.utime(path, (int(time.time()),) * 2)
        if os.path.exists(self.group.database):
            with self.group.open_database(write=True) as database:
                database.take_in([(path, stands(path), database.record(path))], HERE, [])


@pytest.fixture
def member(tree, monkeypatch):
    monkeypatch.setattr(waits, "TOLD_WITHIN", 0.0)
    for name in os.listdir(tree.group.journal):
        path = os.path.join(tree.group.journal, name)
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    group = tree.group
    for path in Path(group.directory).glob("*.db3*"):
        path.unlink()
    group.forget(ANEW, journal.UNWATCHED, journal.WATCHED)
    group.guard.note_roots([str(tree.include)])
    Path(group.path("established")).write_text(group.host.name, encoding="utf-8")
    with open(journal.lock_of_watcher(os.path.dirname(group.directory)), "ab") as lock:
        assert storage.try_lock(lock.fileno())
        yield Member(tree)
    if not os.path.exists(group.database):
        group.state()
    group.forget("established", ANEW, journal.UNWATCHED, journal.WATCHED)


@pytest.mark.parametrize("how", LOSSES)
def test_all_is_as_it_was(member, how):
    before = rows(member)
    member.lose(how)
    assert member.put_back() == (True, set())
    assert rows(member) == before


def rows(member):
    with member.group.open_database() as database:
        return [*database.states()], database.dirty(), database.certificates(), database.state()


@pytest.mark.parametrize("how", LOSSES)
def test_what_was_to_be_sent_still_is(member, how):
    """A deletion that some host has not got yet, too."""
    os.unlink(below(member.tree, b"a"))
    member.tree.write(b"b", b"newer")
    look(member.tree)
    member.keep()
    member.lose(how)
    assert member.put_back() == (True, {b"a", b"b"})


@pytest.mark.parametrize("how", LOSSES)
def test_what_was_received_is_sent_to_nobody(member, how):
    """Also what was deleted here because a peer had it deleted: another host may have made it again since."""
    for name in (b"a", b"new/of/theirs"):
        member.received(name)
    path = below(member.tree, b"b")
    os.unlink(path)
    with member.group.open_database(write=True) as database:
        database.forget([path])
    member.lose(how)
    assert member.put_back() == (True, set())
    with member.group.open_database() as database:
        assert database.record(below(member.tree, b"new/of/theirs")) is not None
        assert database.record(path) is None


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", LOSSES)
def test_what_was_done_here_is_sent(member, how, when):
    """The journal names it: what was checked and not sent to all yet, and what nobody has checked."""
    if when == "after":
        member.lose(how)
    time.sleep(1.1)  # another whole second
    member.tree.write(b"a", b"newer")
    os.chmod(below(member.tree, b"mode"), 0o600)
    member.tree.write(b"new/of/ours", b"newer")
    shutil.rmtree(below(member.tree, b"dir"))
    member.journals(b"a", b"mode")
    member.journals(b"new", b"dir", tree=True)
    if when == "before":
        look(member.tree)
        member.lose(how)
    ours = {b"a", b"mode", b"new", b"new/of", b"new/of/ours", b"dir", b"dir/a", b"dir/sub", b"dir/sub/a"}
    assert member.put_back() == (True, ours)


def sent(member, *names):
    """A peer has taken this from here."""
    log = ledger.Log(os.path.join(member.group.path("sent"), next(iter(member.group.config.peers))))
    log.take({encode(below(member.tree, name)): stands(below(member.tree, name)) for name in names})


@pytest.mark.parametrize("how", LOSSES)
def test_what_was_made_after_the_copy_and_deleted_here_is_deleted_elsewhere(member, how):
    """What was sent, with a directory that the journal names as a whole; and what was received."""
    member.tree.write(b"ours/sub/file", b"ours")
    member.tree.write(b"file", b"ours")
    member.received(b"theirs")
    member.journals(b"ours", tree=True)
    sent(member, b"ours", b"ours/sub", b"ours/sub/file", b"file")
    look(member.tree)
    keep_clean(member.tree)
    member.lose(how)
    shutil.rmtree(below(member.tree, b"ours"))
    os.unlink(below(member.tree, b"file"))
    os.unlink(below(member.tree, b"theirs"))
    member.journals(b"file", b"theirs")
    member.journals(b"ours", tree=True)
    gone = {b"ours", b"ours/sub", b"ours/sub/file", b"file", b"theirs"}
    assert member.put_back() == (True, gone)


@pytest.mark.parametrize("when", ["before the copy", "received", "deleted there", "not noticed"])
def test_what_else_is_missing_is_deleted_nowhere(member, when):
    """Another host may have made it again since."""
    path = member.tree.write(b"file", b"ours")
    member.journals(b"file")
    sent(member, b"file")
    os.unlink(path)
    if when == "before the copy":
        later = time.time() + 2 * waits.TOLD_WITHIN + 10
        os.utime(kept.copied_database(member.group.directory, member.group.database), (later, later))
    elif when == "received":
        name = f"{time.time_ns():020d}-server{journal.RECEIVED}"
        line = received._line(path, received.Path(0, time.time(), time.time() + 1))
        Path(member.group.journal, name).write_bytes(line)
    elif when == "deleted there":
        sent(member, b"file")
    else:
        for file in Path(member.group.journal).glob("*.paths"):
            file.unlink()
    member.lose("truncated")
    assert member.put_back() == (True, set())


@pytest.mark.parametrize("how", LOSSES)
def test_what_csync2_received_after_the_loss_is_not_sent(member, how):
    """It recorded that in a new database. While nobody watches, a directory's times do not tell whose it is."""
    with open(member.group.path(journal.UNWATCHED), "w", encoding="ascii") as file:
        file.write(f"{time.time() - 0.5:.3f}")
    member.lose(how)
    member.group.state()
    paths = {name: below(member.tree, name) for name in (b"theirs", b"ours", b"found", b"changed")}
    for path in paths.values():
        os.mkdir(path)
    links = [path + b"/link" for path in paths.values()]
    for link in links:
        os.symlink("x", link)
    theirs = [*paths.values(), *links]
    theirs = [path for path in theirs if b"ours" not in path]
    with member.group.open_database(write=True) as database:
        database.take_in([(path, stands(path), None) for path in theirs], HERE, [])
        database.mark([paths[b"found"]], HERE, [THERE])  # somebody made it here, and csync2 has found it
    os.chmod(paths[b"changed"], 0o700)
    assert member.put_back() == (True, {b"ours", b"ours/link", b"found", b"changed"})


def test_what_csync2_receives_while_a_database_is_put_back_is_not_sent(member, monkeypatch):
    """It records that in the one that is about to be replaced."""
    with open(member.group.path(journal.UNWATCHED), "w", encoding="ascii") as file:
        file.write(f"{time.time() - 0.5:.3f}")
    member.lose("made anew")
    theirs, ours, record = below(member.tree, b"theirs"), below(member.tree, b"ours"), joining._record

    def receiving(group, path, own):
        record(group, path, own)
        if path != group.database:
            for directory in (theirs, ours):
                os.mkdir(directory)
            with group.open_database(write=True) as database:
                database.take_in([(theirs, stands(theirs), None)], HERE, [])

    monkeypatch.setattr(joining, "_record", receiving)
    assert member.put_back() == (True, {b"ours"})


@pytest.mark.parametrize("how", LOSSES)
def test_what_was_done_while_nobody_watched_is_sent(member, how):
    """The kernel's times tell of it; what was received before that is not sent."""
    member.received(b"other/a")
    member.lose(how)
    time.sleep(1.1)
    with open(member.group.path(journal.UNWATCHED), "w", encoding="ascii") as file:
        file.write(f"{time.time() - 0.5:.3f}")
    time.sleep(0.6)
    member.tree.write(b"a", b"newer")
    os.chmod(below(member.tree, b"mode"), 0o600)
    os.unlink(below(member.tree, b"b"))
    shutil.rmtree(below(member.tree, b"dir"))
    ours = {b"a", b"mode", b"b", b"dir", b"dir/a", b"dir/sub", b"dir/sub/a"}
    assert member.put_back() == (True, ours)
    assert not os.path.exists(member.group.path(journal.UNWATCHED))


@pytest.mark.parametrize("how", LOSSES)
def test_what_came_from_others_while_nobody_watched_is_not_sent(member, how):
    """csync2 was killed before it could commit that: another host may have changed or deleted it since."""
    with open(member.group.path(journal.UNWATCHED), "w", encoding="ascii") as file:
        file.write(f"{time.time() - 5:.3f}")
    member.lose(how)
    for name in (b"dir/theirs", b"a"):
        path = member.tree.write(name, b"theirs")
        os.utime(path, (int(time.time()),) * 2)
    assert member.put_back() == (True, set())


@pytest.mark.parametrize("how", LOSSES)
def test_what_was_done_just_before_and_meanwhile_is_sent(member, monkeypatch, how):
    """The watcher has not told of it yet, or cannot have."""
    monkeypatch.setattr(waits, "TOLD_WITHIN", 0.5)
    member.lose(how)
    shutil.rmtree(below(member.tree, b"dir"))

    def watcher(seconds):
        time.sleep(seconds / 2)
        member.journals(b"dir", tree=True)
        member.tree.write(b"a", b"newer")
        os.unlink(below(member.tree, b"b"))

    monkeypatch.setattr(joining, "time", types.SimpleNamespace(time=time.time, sleep=watcher))
    assert member.put_back() == (True, {b"a", b"b", b"dir", b"dir/a", b"dir/sub", b"dir/sub/a"})


def test_a_watcher_that_has_died_has_not_watched(member):
    os.unlink(journal.lock_of_watcher(os.path.dirname(member.group.directory)))
    journal.note_watched(member.group.directory)
    os.utime(member.group.path(journal.WATCHED), (time.time() - 60,) * 2)
    member.lose("deleted")
    member.tree.write(b"a", b"newer")
    assert member.put_back() == (True, {b"a"})


def test_what_a_disk_that_is_away_has_is_not_forgotten(member, tmp_path):
    """It stays recorded, and is held, as with any other check."""
    place = below(member.tree, b"disk")
    os.mkdir(place)
    (tmp_path / "disk").mkdir()
    subprocess.run(["mount", "--bind", tmp_path / "disk", place], check=True)
    path = member.tree.write(b"disk/file")
    look(member.tree)
    keep_clean(member.tree)
    member.keep()
    subprocess.run(["umount", place], check=True)
    member.lose("deleted")
    assert member.put_back() == (True, set())
    with member.group.open_database() as database:
        assert database.record(path) is not None


def test_certificates_that_have_changed_do_not_come_back(member):
    with member.group.open_database(write=True) as database:
        database.pin({THERE: "3082"})
    member.keep()
    member.lose("deleted")
    member.group.state()
    assert joining.put_back(member.group)
    with member.group.open_database() as database:
        assert database.certificates() == {THERE: "00"}


@pytest.mark.parametrize("why", ["it never was a member", "it is to join anew", "nothing is left", "all is damaged"])
def test_otherwise_the_host_joins(member, why):
    member.lose("deleted")
    if why == "it never was a member":
        member.group.forget("established")
    elif why == "it is to join anew":
        Path(member.group.path(ANEW)).touch()
    else:
        for path in Path(member.group.directory).glob("*.db3*"):
            path.unlink() if why == "nothing is left" else os.truncate(path, 5000)
    assert not joining.put_back(member.group)
    joining.record(member.group)
    assert member.group.state() == Database.RECORDED


def test_a_database_that_a_member_still_has_is_not_lost(member):
    joining.record(member.group)
    assert member.group.state() == Database.ESTABLISHED


@pytest.mark.parametrize("peers", ["some", "none"])
def test_commands_are_for_the_hosts_own_changes(member, tmp_path, peers):
    """Also where the host is the only one of its group."""
    ran = tmp_path / "ran"
    action = {"pattern": [], "exec": [f"touch {ran}"], "do_local": True, "do_local_only": False}
    config = member.group.config._replace(rules={"actions": [action]})
    if peers == "none":
        config = config._replace(hosts={"web1": config.hosts["web1"]})
    member.received(b"theirs")
    member.tree.write(b"b", b"newer")
    with member.group.open_database(write=True) as database:
        known = Known(member.group, config, database, lambda one: one.path.endswith(b"/b"))
        known.everything()
    known.end()
    assert not ran.exists()
    check.check(member.group, config, True)
    assert ran.exists()


# --- What is kept


def copies(member):
    return kept.copied_database(member.group.directory, member.group.database)


@pytest.mark.parametrize("how", ["damaged", "new", "recorded"])
def test_what_is_no_members_sound_database_never_replaces_a_copy(member, how):
    before = os.stat(copies(member)).st_ino
    if how == "damaged":
        os.truncate(member.group.database, 5000)
    else:
        with member.group.open_database(write=True) as database:
            database.set_state(Database.NEW if how == "new" else Database.RECORDED)
    assert not kept.keep_copy(member.group.directory, member.group.database)
    assert os.stat(copies(member)).st_ino == before
    assert len([*Path(member.group.directory).glob("*.db3*")]) == 2
    if how == "damaged":
        os.unlink(member.group.database)


def test_a_large_database_is_copied_now_and_then(member, monkeypatch):
    monkeypatch.setattr(kept, "COPIED", os.stat(member.group.database).st_size - 60 * kept.PER_SECOND)

    def again(age):
        os.utime(copies(member), (time.time() - age,) * 2)
        return kept.keep_copy(member.group.directory, member.group.database)

    assert [again(50), again(70), again(-50)] == [False, True, True]


def test_a_damaged_database_that_was_put_aside_has_a_copy(member):
    path = member.group.database
    os.truncate(path, 5000)
    kept.put_aside(member.group.directory, path)
    assert os.path.exists(f"{path}.damaged")
    assert kept.kept_databases(member.group.directory, path) == [copies(member)]
    with pytest.raises(sqlite3.Error), Database(f"{path}.damaged") as damaged:
        damaged.is_sound()
