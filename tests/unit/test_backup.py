"""Which old versions csync2 has kept, what may be something else, and how one of them is put back."""

import hashlib
import os
import stat

import pytest
from csync2lib import backups
from csync2lib import restore as restore_module
from csync2lib.errors import CsyncsyncError

NOBODY = 65534


class Host:
    """An include, its backup_directory, and what csync2 would have put there."""

    def __init__(self, path):
        self.include, self.top = path / "include", path / "backups"
        self.include.mkdir()
        self.kept = self.top / str(self.include)[1:]
        self.kept.mkdir(parents=True)
        self.clock = 1_700_000_000

    def keep(self, name, content, mode=0o640):
        """Put a version there; one second younger than that before."""
        path = self.kept / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(mode)
        self.clock += 1
        os.utime(path, (self.clock, self.clock))
        return path

    def find(self, *names, most=100, **options):
        """{name: [(generation, sha256 or size), …]}, and how many more."""
        paths = [os.fsencode(self.include / name) for name in names or [""]]
        found, more = backups.find(os.fsencode(self.top), [path.rstrip(b"/") for path in paths], most, **options)
        start = len(os.fsencode(self.include)) + 1
        return {os.fsdecode(path[start:]): versions for path, versions in found.items()}, more

    def generations(self, *names, **options):
        found, _ = self.find(*names, **options)
        return {name: [version["generation"] for version in versions] for name, versions in found.items()}

    def restore(self, name, generation=0):
        root = os.fsencode(self.include)
        return restore_module.restore(os.fsencode(self.top), os.fsencode(self.include / name), generation, root)

    def versions(self, name):
        """What is kept of a file: {generation: content}."""
        generations = self.generations(name).get(name, [])
        return {n: (self.kept / (f"{name}.{n}" if n else name)).read_text() for n in generations}


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


# --- What there is ---------------------------------------------------------------------------------------


def test_the_newest_comes_first_whatever_its_number(host):
    for name in ("d/file.2", "d/file.4", "d/file", "other"):
        host.keep(name, name)
    assert host.generations() == {"other": [0], "d/file": [0, 4, 2]}
    assert list(host.find()[0]) == ["other", "d/file"]
    assert host.generations("d") == host.generations("d/file") == {"d/file": [0, 4, 2]}
    assert host.generations("nothing") == {}


def test_a_version_is_described_and_read_if_its_path_is_named(host):
    host.keep("file", "text\n")
    [version] = host.find("file", content=True)[0]["file"]
    assert version["sha256"] == hashlib.sha256(b"text\n").hexdigest()
    assert (version["size"], version["mode"], version["time"]) == (5, "0640", "2023-11-14 22:13:21 UTC")
    assert "sha256" not in host.find(content=True)[0]["file"][0]


def test_of_many_files_those_that_were_replaced_last_are_shown(host):
    for number in range(20):
        host.keep(f"d{number % 3}/f{number:02}", "x")
    found, more = host.find(most=3)
    assert (list(found), more) == (["d1/f19", "d0/f18", "d2/f17"], 17)


def test_what_is_named_twice_is_shown_once(host):
    host.keep("d/e/file", "x")
    host.keep("d/other", "x")
    found, more = host.find("d", "d/e", "d/e/file", "d/e/file", content=True)
    assert (sorted(found), more) == (["d/e/file", "d/other"], 0)
    assert ["sha256" in found[name][0] for name in sorted(found)] == [True, False]


def test_only_files_are_versions(host):
    (host.kept / "link").symlink_to("/etc/passwd")
    os.mkfifo(host.kept / "pipe")
    (host.kept / "directory").mkdir()
    assert host.find("", "link", "pipe", "directory") == ({}, 0)


def test_what_may_be_another_files_is_doubted(host):
    host.keep("log.1", "x")
    assert host.generations() == {"log.1": [0]}, "no other file's"
    host.keep("log", "x")
    assert host.generations() == {"log": [0, 1]}
    assert "doubt" not in host.find()[0]["log"][1]
    (host.include / "log.1").write_text("a file of that name")
    found, _ = host.find()
    assert host.generations() == {"log": [0, 1], "log.1": [0]}
    assert found["log"][1]["doubt"] == "may be of log.1"
    assert found["log.1"][0]["doubt"] == "may be generation 1 of log"
    assert host.generations("log.1") == {"log.1": [0]}


def test_what_csync2_has_written_over_is_doubted(host):
    name = "n" * 254  # no suffix fits behind it
    host.keep(name, "x")
    host.keep("n" * 253, "x")
    host.keep("file", "x")
    (host.kept / "file.1").mkdir()
    found, _ = host.find(generations=2)
    doubted = {name for name, versions in found.items() if "as an older version did" in versions[0].get("doubt", "")}
    assert doubted == {name, "file"}
    assert "doubt" not in host.find(generations=3)[0]["file"][0]


def back_up(host, name, generations):
    """As csync2 does it: the newest version becomes the last one, whatever is there."""
    if (host.kept / name).exists():
        os.rename(host.kept / name, host.kept / f"{name}.{generations - 1}")
    host.keep(name, (host.include / name).read_text())


@pytest.mark.parametrize("generations", [2, 3, 4, 6])
def test_as_many_versions_are_kept_as_are_wanted(host, generations):
    for number in range(9):
        (host.include / "file").write_text(f"{number}")
        back_up(host, "file", generations)
        for _ in range(2):
            backups.make_room(os.fsencode(host.top), os.fsencode(host.include / "file"), generations)
        kept = list(host.versions("file").values())
        assert kept == [f"{older}" for older in range(number, max(number - generations, -1), -1)][:generations]


def test_room_is_made_of_no_other_files_versions(host):
    host.keep("log.3", "a file of its own")
    backups.make_room(os.fsencode(host.top), os.fsencode(host.include / "log"), 4)
    host.keep("log", "x")
    (host.include / "log.3").write_text("")
    backups.make_room(os.fsencode(host.top), os.fsencode(host.include / "log"), 4)
    assert sorted(os.listdir(host.kept)) == ["log", "log.3"]


def test_a_directory_in_place_of_a_file_gets_its_way(host):
    for name in ("a", "b/c", "b/kept"):
        host.keep(name, name)
    host.keep("a.1", "older")
    for name in ("a", "b/c"):
        (host.include / name).mkdir(parents=True)
    (host.include / "b/kept").write_text("a file")
    backups.sweep(os.fsencode(host.top), [os.fsencode(host.include)])
    assert sorted(path.name for path in host.kept.rglob("*")) == ["a.1", "a.2", "b", "c.1", "kept"]
    assert host.generations("a", "b") == {"b/kept": [0], "b/c.1": [0]}
    for name in ("a/in", "b/c/in"):
        host.keep(name, "x")
    own = {"a.1": [0], "a.2": [0], "b/c.1": [0]}  # there may have been files of these names beside the directories
    assert host.generations() == {"b/c/in": [0], "a/in": [0], "a": [1, 2], "b/kept": [0], "b/c": [1], **own}
    assert host.generations("a") == {"a/in": [0], "a": [1, 2]}
    assert {version["doubt"] for version in host.find("a")[0]["a"]} == {"may be of a.1", "may be of a.2"}


# --- Putting one back ------------------------------------------------------------------------------------


def test_a_deleted_file_comes_back_with_its_directories(host):
    host.keep("a/b/file", "old\n", 0o4751)
    for path, mode in ((host.kept / "a", 0o2775), (host.kept / "a/b", 0o700)):
        os.chown(path, NOBODY, NOBODY)
        path.chmod(mode)
    os.chown(host.kept / "a/b/file", NOBODY, 0)
    (host.kept / "a/b/file").chmod(0o4751)
    done = host.restore("a/b/file")
    assert done == {"size": 4, "sha256": hashlib.sha256(b"old\n").hexdigest(), "changed": True, "kept": None}
    looks = {}
    for path in (host.include / "a", host.include / "a/b", host.include / "a/b/file"):
        status = path.stat()
        looks[path.name] = (oct(stat.S_IMODE(status.st_mode)), status.st_uid, status.st_gid)
    assert looks == {
        "a": ("0o2775", NOBODY, NOBODY),
        "b": ("0o700", NOBODY, NOBODY),
        "file": ("0o4751", NOBODY, 0),
    }
    assert os.listdir(host.include / "a/b") == ["file"]
    assert host.versions("a/b/file") == {0: "old\n"}


@pytest.mark.parametrize(("generation", "kept"), [(0, {0: "now", 2: "second"}), (2, {0: "now", 2: "first"})])
def test_what_is_there_is_kept_and_nothing_is_lost(host, generation, kept):
    host.keep("file.2", "second")
    host.keep("file", "first")
    (host.include / "file").write_text("now")
    (host.include / "file").chmod(0o600)
    before = host.versions("file")[generation]
    assert host.restore("file", generation)["kept"] == 0
    assert (host.include / "file").read_text() == before
    assert host.versions("file") == kept
    assert stat.S_IMODE((host.kept / "file").stat().st_mode) == 0o600
    assert host.generations() == {"file": [0, 2]}
    assert os.listdir(host.include) == ["file"]
    assert host.restore("file", 0)["kept"] == 0
    assert (host.include / "file").read_text() == "now", "a second one undoes the first"


def test_what_is_there_already_stays(host):
    host.keep("file", "same", 0o640)
    (host.include / "file").write_text("same")
    (host.include / "file").chmod(0o640)
    inode = (host.include / "file").stat().st_ino
    assert host.restore("file")["changed"] is False
    assert (host.include / "file").stat().st_ino == inode
    (host.include / "file").chmod(0o600)
    assert host.restore("file")["changed"] is True
    assert stat.S_IMODE((host.include / "file").stat().st_mode) == 0o640


def test_a_file_whose_backup_made_way_is_kept_in_the_place_of_the_one_put_back(host):
    host.keep("file.1", "old")
    host.keep("file/in", "x")
    (host.include / "file").write_text("now")
    assert host.restore("file", 1)["kept"] == 1
    assert host.versions("file") == {1: "now"}


def test_names_are_any_bytes(host):
    name = "odd \udcff\n\\x41" + "n" * 240
    host.keep(name, "old")
    (host.include / name).write_text("now")
    assert host.restore(name)["kept"] == 0
    assert (host.include / name).read_text() == "old"
    assert os.listdir(host.include) == [name]


def make_directory(path):
    path.mkdir()


def make_link(path):
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("make", "why"), [(make_directory, "is a directory"), (make_link, "a symlink"), (os.mkfifo, "no file")]
)
def test_what_no_backup_can_keep_stays(host, make, why):
    host.keep("file", "old")
    make(host.include / "file")
    before = os.lstat(host.include / "file")
    with pytest.raises(CsyncsyncError, match=why):
        host.restore("file")
    assert os.lstat(host.include / "file").st_ino == before.st_ino
    assert os.listdir(host.include) == ["file"]


def test_no_symlink_leads_out(host, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("secret")
    host.keep("d/file", "old")
    (host.include / "d").symlink_to(outside)
    with pytest.raises(CsyncsyncError, match="include/d is no directory"):
        host.restore("d/file")
    (host.kept / "link").symlink_to(outside)
    (host.kept / "file").symlink_to(outside / "file")
    for name in ("link/file", "file"):
        with pytest.raises(CsyncsyncError, match=r"backups/.*link is no directory|file is a symlink"):
            host.restore(name)
    os.mkfifo(host.kept / "pipe")
    with pytest.raises(CsyncsyncError, match="is no file"):
        host.restore("pipe")
    assert (outside / "file").read_text() == "secret"
    assert sorted(os.listdir(host.include)) == ["d"]


def test_what_is_not_there_is_told(host):
    host.keep("file", "old")
    for name, generation in (("file", 1), ("other", 0), ("d/file", 0), ("file/below", 0)):
        with pytest.raises(CsyncsyncError, match=f"no generation {generation} of .*{name}|is no directory"):
            host.restore(name, generation)
    host.include.rmdir()
    with pytest.raises(CsyncsyncError, match=r"include root .* is missing"):
        host.restore("file")
    assert not host.include.exists()


def test_a_change_in_the_meantime_is_not_lost(host, monkeypatch):
    host.keep("file", "old")
    (host.include / "file").write_text("now")
    copy = restore_module.copy

    def copy_while_somebody_writes(*arguments):
        done = copy(*arguments)
        (host.include / "file").write_text("changed")
        return done

    monkeypatch.setattr(restore_module, "copy", copy_while_somebody_writes)
    with pytest.raises(CsyncsyncError, match="has just been changed"):
        host.restore("file")
    assert (host.include / "file").read_text() == "changed"
    assert os.listdir(host.include) == ["file"]
    assert sorted(os.listdir(host.top)) == [host.include.parts[1]]
