"""What the check records, beside what csync2's own would: real trees, a real csync2."""

import errno
import json
import os
import random
import shutil
import socket
import subprocess

import pytest
from csync2lib import beneath, journal
from csync2lib.csync2.database import Database
from csync2lib.push import check as check_module
from csync2lib.push.differences import LONGEST, TOO_LONG
from csync2lib.push.preview import preview
from pair import HERE, THERE, pair

__all__ = ["pair"]

NAMES = [
    b"a",
    b"a b",
    b"a-b",
    b"a.b",
    b"a\n",
    b"%41",
    b"\xff\xfe",
    b"z",
    b"A'\"$|\\",
    "ä€😀".encode(),
    b"swap.tmp",
    b"core",
]


@pytest.fixture
def tree(pair):
    pair.forget()
    pair.group.forget("unread.json", "recorded")
    with pair.group.open_database(write=True) as database:
        database.set_state(Database.ESTABLISHED)
    return pair


@pytest.fixture
def excludes(pair):
    """``excludes(patterns)``: the group leaves these out from now on, for csync2 as for the check."""
    path = pair.group.path("config.json")
    config = pair.hosts[HERE].directory / "csync2_data.cfg"
    before = {file: open(file, encoding="utf-8").read() for file in (path, config)}

    def change(patterns):
        said = json.loads(before[path])
        with open(path, "w", encoding="utf-8") as file:
            json.dump({**said, "exclude": patterns}, file)
        lines = "".join(f'  exclude "{pattern}";\n' for pattern in patterns)
        config.write_text(before[config].replace("\n}\n", f"\n{lines}}}\n"), encoding="utf-8")

    yield change
    for file, text in before.items():
        with open(file, "w", encoding="utf-8") as opened:
            opened.write(text)


def below(pair, *names):
    return os.path.join(os.fsencode(pair.include), *names)


def change(top, chance, number):
    """Do so many random things in a directory, deletions and changes of kinds among them."""
    for _ in range(number):
        directory = top
        while chance.random() < 0.6:
            directory = os.path.join(directory, chance.choice(NAMES))
        path = os.path.join(directory, chance.choice(NAMES))
        kind = chance.choice(["file", "file", "file", "directory", "link", "fifo", "gone", "mode"])
        try:
            if kind == "gone":
                shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
                continue
            os.makedirs(directory, exist_ok=True)
            if kind == "mode":
                os.chmod(path, chance.choice([0o600, 0o755]))
            elif kind == "file":
                with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK), "wb") as file:
                    file.write(b"x" * chance.randrange(9))
                os.utime(path, (1, chance.randrange(10**9)))
            elif kind == "directory":
                os.mkdir(path)
            elif kind == "link":
                os.symlink(chance.choice(NAMES), path)
            else:
                os.mkfifo(path)
        except OSError:
            pass  # something else stands there


def records(path):
    with Database(str(path)) as database:
        return dict(database.states()), sorted(database.dirty())


def by_csync2(pair, directory):
    """What csync2's own check makes of a copy of the database: (records, dirty entries)."""
    directory.mkdir(exist_ok=True)
    copy = directory / os.path.basename(pair.group.database)
    copy.unlink(missing_ok=True)
    with pair.group.open_database() as database:
        database.backup(str(copy))
    subprocess.run(["csync2", "-C", "data", "-D", str(directory), "-cr", "/"], check=True, capture_output=True)
    return records(copy)


@pytest.mark.parametrize("patterns", [[], ["*.tmp", "core"], ["/**/a", "{top}/z"]], ids=["all", "names", "paths"])
@pytest.mark.parametrize("seed", range(4))
def test_it_records_what_csync2s_own_check_would(tree, excludes, tmp_path, seed, patterns):
    chance = random.Random(seed)
    excludes([pattern.replace("{top}", str(tree.include)) for pattern in patterns])
    for _ in range(3):
        change(os.fsencode(tree.include), chance, 60)
        wanted = by_csync2(tree, tmp_path / "copy")
        told = preview(tree.group)["send"].get("web2", {"entries": 0})["entries"]
        tree.check()
        found = records(tree.group.database)
        assert found == wanted
        assert told == len({path for path, peer, _ in found[1]})
        with tree.group.open_database(write=True) as database:  # as if all had been sent
            database.keep_dirty(lambda path, peer: chance.random() < 0.2)


@pytest.mark.parametrize("seed", range(4))
def test_what_the_journal_names_comes_to_the_same(tree, tmp_path, seed):
    """Each path that differs is named, alone or with the tree above it."""
    chance = random.Random(seed)
    for _ in range(3):
        before = tree.tree(tree.include)
        change(os.fsencode(tree.include), chance, 60)
        wanted = by_csync2(tree, tmp_path / "copy")[0]
        names = sorted({*before, *tree.tree(tree.include)})
        lines = [below(tree, name) + (b"/" if chance.random() < 0.2 else b"") for name in names]
        journal.write(tree.group.journal, lines, False, "named")
        tree.check(full=False)
        assert records(tree.group.database)[0] == wanted


def failing(monkeypatch, wrong, number):
    """The kernel fails with this error number where a path's last name is ``wrong``, as a broken disk does."""
    for function in ("lstat_in", "open_directory"):
        real = getattr(beneath, function)

        def fail(handle, name, real=real):
            if name == wrong:
                raise OSError(number, os.strerror(number))
            return real(handle, name)

        monkeypatch.setattr(beneath, function, fail)
    real_lstat = beneath.lstat

    def lstat(path):
        if wrong in os.fsencode(path).split(b"/"):
            raise OSError(number, os.strerror(number))
        return real_lstat(path)

    monkeypatch.setattr(beneath, "lstat", lstat)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOTCONN, errno.EACCES, errno.ESTALE, errno.ENAMETOOLONG])
@pytest.mark.parametrize("wrong", [b"dead", b"file"])
@pytest.mark.parametrize("full", [True, False], ids=["full rescan", "journal"])
def test_what_cannot_be_read_is_not_deleted(tree, monkeypatch, number, wrong, full):
    """It is left as it is recorded, and named; the rest goes on; it heals."""
    for name in (b"dead/file", b"dead/d/file", b"other/file1", b"gone"):
        tree.write(name)
    tree.check()
    before, _ = records(tree.group.database)
    with tree.group.open_database(write=True) as database:
        database.keep_dirty(lambda path, peer: False)
    os.unlink(below(tree, b"gone"))
    tree.write(b"new")
    with monkeypatch.context() as patch:
        failing(patch, wrong, number)
        journal.write(tree.group.journal, [below(tree, name) + b"/" for name in (b"dead", b"gone", b"new")], False, "n")
        tree.check(full)
        found, dirty = records(tree.group.database)
        assert {path for path, _, _ in dirty} == {below(tree, b"gone"), below(tree, b"new")}
        assert found == {
            **{p: t for p, t in before.items() if p != below(tree, b"gone")},
            below(tree, b"new"): found[below(tree, b"new")],
        }
        told = check_module.storage.read_json(tree.group.path("unread.json"), {})
        assert set(told.values()) == {os.strerror(number)}
        assert all(path.rpartition("/")[2] == wrong.decode() for path in told)
    shutil.rmtree(below(tree, b"dead"))
    journal.write(tree.group.journal, [below(tree, b"new")], False, "n")
    tree.check(full=False)
    left = [path for path in records(tree.group.database)[0] if wrong in path.split(b"/")]
    assert not left, "what has come back is looked at"
    assert check_module.storage.read_json(tree.group.path("unread.json"), {}) == {}


def test_a_path_that_csync2_cannot_carry_is_left_out_and_named(tree):
    handle = os.open(tree.include, os.O_RDONLY)
    for _ in range(25):
        os.mkdir(b"n" * 200, dir_fd=handle)
        handle = os.open(b"n" * 200, os.O_RDONLY, dir_fd=handle)
    tree.write(b"other")
    tree.check()
    found = records(tree.group.database)[0]
    assert max(map(len, found)) <= LONGEST
    assert below(tree, b"other") in found
    [(path, why)] = check_module.storage.read_json(tree.group.path("unread.json"), {}).items()
    assert why == TOO_LONG
    assert len(path) > LONGEST
    subprocess.run(["rm", "-rf", below(tree, b"n" * 200)], check=True)
    journal.write(tree.group.journal, [below(tree, b"n" * 200)], False, "n")
    tree.check(full=False)
    assert not [path for path in records(tree.group.database)[0] if b"nnn" in path]
    assert check_module.storage.read_json(tree.group.path("unread.json"), {}) == {}


def test_what_is_received_while_it_is_looked_at_is_no_change(tree, monkeypatch):
    """csync2's server has written a file, and commits just before the check does."""
    path = tree.write(b"file", b"received")
    take_in, late = Database.take_in, []

    def commit(database, found, *arguments):
        if not late:
            late.append(True)
            with Database(tree.group.database, timeout=5, write=True) as server:
                server.take_in(
                    [(path, found[0][1], None)] if found[0][0] == path else [(p, n, b) for p, n, b in found], HERE, []
                )
        return take_in(database, found, *arguments)

    monkeypatch.setattr(Database, "take_in", commit)
    tree.check()
    _, dirty = records(tree.group.database)
    assert path not in {name for name, _, _ in dirty}


def test_a_socket_is_nothing(tree):
    path = tree.write(b"file")
    tree.check()
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path)
    tree.check()
    assert path not in records(tree.group.database)[0]
    assert {name for name, peer, _ in records(tree.group.database)[1] if peer == THERE} >= {path}


# --- What looks like a lost disk --------------------------------------------------------------------------


def keep_clean(tree):
    with tree.group.open_database(write=True) as database:
        database.keep_dirty(lambda path, peer: False)


def dirty(tree):
    return {path for path, _, _ in records(tree.group.database)[1]}


def look(tree, **options):
    return check_module.check(tree.group, tree.group.config, options.pop("full", True), **options)


@pytest.fixture
def two(tree, tmp_path):
    """The group has another include, with files in both."""
    path = tree.group.path("config.json")
    before = open(path, encoding="utf-8").read()
    other = tmp_path / "other"
    other.mkdir()
    with open(path, "w", encoding="utf-8") as file:
        json.dump({**json.loads(before), "include": [str(tree.include), str(other)]}, file)
    tree.group.guard.note_roots([str(tree.include), str(other)])
    for number in range(20):
        tree.write(b"d/%d" % number)
        (other / f"{number}").write_text("x")
    tree.check()
    keep_clean(tree)
    yield other
    with open(path, "w", encoding="utf-8") as file:
        file.write(before)
    tree.group.guard.note_roots([])


def replaced(other):
    other.rename(f"{other}.away")
    other.mkdir()


def linked(other):
    other.rename(f"{other}.away")
    other.symlink_to(f"{other}.away")


@pytest.mark.parametrize(
    "lose", [lambda other: other.rename(f"{other}.away"), linked, replaced], ids=["missing", "link", "new"]
)
@pytest.mark.parametrize("back", [True, False])
def test_an_include_that_is_lost_stops_no_other_one(tree, two, lose, back):
    lose(two)
    new = tree.write(b"new")
    told = look(tree)
    assert dirty(tree) == {new}
    assert str(two) in told.held
    assert "salt-run csyncsync.release data" in told.held
    assert look(tree, full=False).held == told.held
    if back:
        shutil.rmtree(two) if two.is_dir() and not two.is_symlink() else two.unlink(missing_ok=True)
        os.rename(f"{two}.away", two)
        (two / "0").unlink()
        assert look(tree, full=False).held == ""
        assert dirty(tree) == {new, os.fsencode(two / "0")}, "what was not looked at is"
    else:
        tree.group.guard.renew_roots(release=True)
        assert look(tree, release=True).held == ""
        assert dirty(tree) == {new, *(os.fsencode(two / str(number)) for number in range(20))}, "not the include itself"
        gone = not two.exists() and not two.is_symlink()
        assert (os.fsencode(two) in records(tree.group.database)[0]) is not gone, "others may make it again"
        tree.group.guard.let_through(dirty(tree) - {new})  # as the push does
        assert look(tree).held == ""


@pytest.mark.parametrize("full", [True, False])
def test_most_of_a_group_is_not_deleted_before_an_administrator_says_so(tree, two, full):
    """And nothing else waits for that."""
    for number in range(20):
        os.unlink(below(tree, b"d/%d" % number))
    new = two / "new"
    new.write_text("x")
    journal.write(tree.group.journal, [below(tree, b"d") + b"/", os.fsencode(new)], False, "n")
    config = tree.group.config._replace(hold={"number": 3, "share": 0.1})
    told = check_module.check(tree.group, config, full)
    assert told.held.startswith("20 of 44 files have vanished here")
    assert dirty(tree) == {os.fsencode(new)}
    assert check_module.check(tree.group, config, False).held == told.held
    assert check_module.check(tree.group, config, False, release=True).held == ""
    assert len(dirty(tree)) == 21


def test_a_tree_may_be_as_deep_as_a_path_is_long(tree):
    """A user makes it step by step: each one fits into what is looked at, and the whole does not into a stack."""
    top = below(tree, b"d")
    os.mkdir(top)
    handle = os.open(top, os.O_RDONLY)
    for _ in range(900):
        os.mkdir("d", dir_fd=handle)
        last, handle = handle, os.open("d", os.O_RDONLY, dir_fd=handle)
        os.close(last)
    os.close(handle)
    tree.write(b"other")
    look(tree)
    assert {below(tree, b"other"), top + b"/d" * 900} <= dirty(tree)
    shutil.rmtree(top)
    look(tree)
    assert below(tree, b"other") in dirty(tree)
