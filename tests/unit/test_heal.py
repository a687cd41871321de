"""What hosts have differently though nobody has anything to send: what is plainly older is replaced, no more."""

import os
import shutil
import time
import urllib.parse

import pytest
from csync2lib import records
from csync2lib.csync2.database import Database
from csync2lib.csync2.states import stands
from csync2lib.push import peers
from csync2lib.push.win import mark
from pair import HERE, THERE, pair
from test_check import below, dirty, keep_clean, look, tree

__all__ = ["pair", "tree"]


@pytest.fixture
def flag(tree):
    """A file that both hosts have."""
    tree.group.forget(f"sent/{THERE}", "sent/before")
    tree.group.guard.note_roots([str(tree.include)])
    tree.write(b"flag", b"1")
    tree.write(b"other", b"1")
    look(tree)
    send(tree)
    time.sleep(1.1)  # csync2 records whole seconds
    return below(tree, b"flag")


def send(tree):
    peers.send(tree.group, tree.group.config, [THERE], time.time())


def received(tree, path):
    """As csync2's server records what it has received."""
    with tree.group.open_database(write=True) as database:
        database.take_in([(path, stands(path), database.record(path))], HERE, [])


def mark_both(tree, path):
    with Database(str(tree.hosts[THERE].directory / f"{THERE}_data.db3"), timeout=5, write=True) as database:
        database.mark([path], THERE, [HERE])
    mark(tree.group, [urllib.parse.quote_from_bytes(path)])


def there(tree):
    path = tree.there / "flag"
    return path.read_bytes() if path.exists() else None


def test_a_change_that_was_never_sent_replaces_what_both_had(tree, flag):
    tree.write(b"flag", b"newer")
    look(tree)
    keep_clean(tree)
    mark_both(tree, flag)
    send(tree)
    assert there(tree) == b"newer"


def test_what_was_deleted_there_does_not_come_back(tree, flag):
    """It was deleted here once, made again there, received here, and deleted there again, which this host missed."""
    os.unlink(flag)
    look(tree)
    send(tree)
    assert there(tree) is None
    time.sleep(1.1)
    tree.write(b"flag", b"again")
    os.utime(flag, (int(time.time()),) * 2)
    received(tree, flag)
    mark_both(tree, flag)
    send(tree)
    assert there(tree) is None
    assert flag in dirty(tree), "a conflict"


def test_a_deletion_that_was_never_sent_counts(tree, flag):
    """Found here, and for some reason not made dirty: as if another host had sent it."""
    os.unlink(flag)
    look(tree)
    keep_clean(tree)
    mark_both(tree, flag)
    send(tree)
    assert there(tree) is None


def test_directories_that_the_other_has_never_got_are_made_there(tree, flag):
    """It does not say that they are to be deleted: it has never deleted them."""
    paths = [below(tree, name) for name in (b"new", b"new/sub")]
    os.makedirs(paths[1])
    look(tree)
    keep_clean(tree)
    for path in paths:
        mark(tree.group, [f"{urllib.parse.quote_from_bytes(path)}/"])
    send(tree)
    assert (tree.there / "new" / "sub").is_dir()


def test_who_lacks_a_directory_has_it_deleted_only_if_it_was_deleted_there(tree, flag):
    never, once = below(tree, b"never"), below(tree, b"once")
    os.mkdir(once)
    look(tree)
    os.rmdir(once)
    look(tree)
    keep_clean(tree)
    names = [f"{urllib.parse.quote_from_bytes(path)}/" for path in (never, once)]
    assert [*mark(tree.group, names)] == names[1:]
    assert dirty(tree) == {once}


def test_a_deletion_of_directories_that_the_other_has_missed_counts(tree, flag):
    tree.write(b"top/sub/f")
    os.unlink(below(tree, b"top/sub/f"))
    look(tree)
    send(tree)
    assert (tree.there / "top" / "sub").is_dir()
    paths = [below(tree, name) for name in (b"top", b"top/sub")]
    shutil.rmtree(paths[0])
    look(tree)
    keep_clean(tree)
    for path in paths:
        mark_both(tree, path)
    send(tree)
    assert not (tree.there / "top").exists()


def made_here(tree, *names, test=True):
    paths = [urllib.parse.quote_from_bytes(below(tree, name)) for name in names]
    return {os.path.basename(path) for path in mark(tree.group, paths, test)}


def test_what_was_made_here_is_told_from_what_was_received(tree, flag):
    """So that who has only received something gives way; also when it is asked again."""
    for name in (b"ours", b"gone", b"changed", b"theirs", b"over"):
        tree.write(name)
    look(tree)
    send(tree)
    first = stands(below(tree, b"changed"))
    time.sleep(1.1)
    os.unlink(below(tree, b"gone"))
    tree.write(b"changed", b"newer")
    look(tree)
    send(tree)
    for name in (b"theirs", b"over", b"new"):
        path = tree.write(name, b"of another host")
        os.utime(path, (int(time.time()),) * 2)
        received(tree, path)
    names = (b"ours", b"gone", b"changed", b"theirs", b"over", b"new", b"never")
    (older,) = mark(tree.group, [urllib.parse.quote_from_bytes(below(tree, b"changed"))], test=True).values()
    assert records.digest(first) in older
    assert records.digest(stands(below(tree, b"changed"))) not in older
    for _ in range(2):
        assert made_here(tree, *names) == {"ours", "gone", "changed"}
        assert dirty(tree) == set()
    made_here(tree, b"theirs", b"never", test=False)
    assert dirty(tree) == {below(tree, b"theirs"), below(tree, b"never")}
    send(tree)
    assert made_here(tree, *names) == {"ours", "gone", "changed"}


def test_a_change_below_a_directory_that_was_deleted_there_brings_back_that_alone(tree, flag):
    """The deletion of the rest is on its way here."""
    for name in (b"top/sub/f", b"top/sub/other", b"top/else/f"):
        tree.write(name)
    look(tree)
    send(tree)
    assert (tree.there / "top" / "sub" / "f").is_file()
    shutil.rmtree(tree.there / "top")
    with Database(str(tree.hosts[THERE].directory / f"{THERE}_data.db3"), timeout=5, write=True) as database:
        database.forget(database.below(below(tree, b"top")))  # a third host had it deleted
    tree.write(b"top/sub/f", b"newer")
    look(tree)
    send(tree)
    assert sorted(path.relative_to(tree.there).as_posix() for path in (tree.there / "top").rglob("*")) == [
        "top/sub",
        "top/sub/f",
    ]
    assert dirty(tree) == set()


def test_what_was_put_back_there_does_not_go(tree, flag):
    """The other host took a version from here, changed it (received here), and has the old version again on purpose."""
    tree.write(b"flag", b"theirs")
    os.utime(flag, (int(time.time()),) * 2)
    received(tree, flag)
    mark_both(tree, flag)
    send(tree)
    assert there(tree) == b"1"
    assert flag in dirty(tree), "a conflict"
