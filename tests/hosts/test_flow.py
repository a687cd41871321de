"""A change made on any host is on all hosts, whatever it is and whatever it is called."""

import os
import shutil
import time
from pathlib import Path

import pytest
from places import HOSTS, SHARED


@pytest.fixture(params=HOSTS)
def origin(request):
    """The host on which the change is made."""
    return request.param


@pytest.fixture
def shared(hosts, origin):
    """A directory of the origin's own, which all hosts have."""
    top = hosts.path(origin, f"{SHARED}/of-{origin}")
    top.mkdir(exist_ok=True)
    hosts.equal()
    return top


def arrived(hosts, *paths, gone=()):
    """Wait until the trees are equal; the paths (below the shared directory) are there, and those gone are not."""
    tree = hosts.equal()
    for path in paths:
        assert os.fsencode(path) in tree
    for path in gone:
        assert os.fsencode(path) not in tree
    return tree


def test_a_file_reaches_all_hosts(hosts, origin, shared):
    (shared / "file").write_text("hello\n", encoding="utf-8")
    arrived(hosts, f"of-{origin}/file")
    (shared / "file").write_text("hello again\n", encoding="utf-8")
    hosts.everywhere(f"{SHARED}/of-{origin}/file", "hello again\n")


def test_an_empty_file_and_an_empty_directory_reach_all_hosts(hosts, origin, shared):
    (shared / "empty").touch()
    (shared / "nothing").mkdir()
    arrived(hosts, f"of-{origin}/empty", f"of-{origin}/nothing")


def test_a_tree_made_and_written_at_once_reaches_all_hosts(hosts, origin, shared):
    for number in range(5):
        directory = shared / f"tree{number}/a/b/c"
        directory.mkdir(parents=True)
        (directory / "file").write_text(f"{number}\n", encoding="utf-8")
        (directory.parent / "other").write_text(f"{number}\n", encoding="utf-8")
    arrived(hosts, *(f"of-{origin}/tree{number}/a/b/{name}" for number in range(5) for name in ("c/file", "other")))


def test_symlinks_reach_all_hosts_as_symlinks(hosts, origin, shared):
    (shared / "to-file").symlink_to("file")
    (shared / "to-nowhere").symlink_to("/no/such/place with a blank")
    (shared / "to-directory").symlink_to("..")
    arrived(hosts, f"of-{origin}/to-file", f"of-{origin}/to-nowhere", f"of-{origin}/to-directory")
    (shared / "to-file").unlink()
    (shared / "to-file").symlink_to("other")
    tree = arrived(hosts)
    assert tree[f"of-{origin}/to-file".encode()][-1] == b"other"


def test_a_change_of_mode_or_owner_reaches_all_hosts(hosts, origin, shared):
    (shared / "file").write_text("x\n", encoding="utf-8")
    (shared / "directory").mkdir()
    arrived(hosts, f"of-{origin}/file", f"of-{origin}/directory")
    (shared / "file").chmod(0o640)
    (shared / "directory").chmod(0o2770)
    tree = arrived(hosts)
    assert tree[f"of-{origin}/file".encode()][1] == "0o640"
    os.chown(shared / "file", 33, 12345)
    os.chown(shared / "directory", 33, 33)
    tree = arrived(hosts)
    assert tree[f"of-{origin}/file".encode()][2:4] == (33, 12345)
    assert tree[f"of-{origin}/directory".encode()][1:4] == ("0o2770", 33, 33)


def test_a_rename_of_a_file_and_of_a_directory_reaches_all_hosts(hosts, origin, shared):
    (shared / "old/deep").mkdir(parents=True)
    (shared / "old/deep/file").write_text("moved\n", encoding="utf-8")
    (shared / "before").write_text("renamed\n", encoding="utf-8")
    arrived(hosts, f"of-{origin}/old/deep/file", f"of-{origin}/before")
    (shared / "old").rename(shared / "new")
    (shared / "before").rename(shared / "after")
    arrived(
        hosts,
        f"of-{origin}/new/deep/file",
        f"of-{origin}/after",
        gone=[f"of-{origin}/old", f"of-{origin}/before"],
    )


def test_a_deletion_of_a_file_and_of_a_tree_reaches_all_hosts(hosts, origin, shared):
    (shared / "tree/a/b").mkdir(parents=True)
    for number in range(20):
        (shared / f"tree/a/b/{number}").write_text("x\n", encoding="utf-8")
    (shared / "single").write_text("x\n", encoding="utf-8")
    arrived(hosts, f"of-{origin}/tree/a/b/19", f"of-{origin}/single")
    shutil.rmtree(shared / "tree")
    (shared / "single").unlink()
    arrived(hosts, gone=[f"of-{origin}/tree", f"of-{origin}/single"])


def test_a_file_replaced_by_a_directory_and_back_reaches_all_hosts(hosts, origin, shared):
    (shared / "thing").write_text("a file\n", encoding="utf-8")
    arrived(hosts, f"of-{origin}/thing")
    (shared / "thing").unlink()
    (shared / "thing").mkdir()
    (shared / "thing/inside").write_text("now a directory\n", encoding="utf-8")
    arrived(hosts, f"of-{origin}/thing/inside")
    shutil.rmtree(shared / "thing")
    (shared / "thing").write_text("a file again\n", encoding="utf-8")
    arrived(hosts, f"of-{origin}/thing", gone=[f"of-{origin}/thing/inside"])


NAMES = [
    b"with blank",
    b" begins and ends with a blank ",
    b"single ' and double \" quote",
    b"new\nline",
    b"tab\tand\x01control",
    "Grüße-日本-🐘".encode(),
    b"not-utf-8-\xff\xfe",
    b"-rf",
    b"--help",
    b"100%",
    b"%41%0A",
    b"$HOME `id` $(id) ; & | > <",
    b"back\\slash",
    b"*?[a-z]{x}",
    b":colon:",
    b"~",
    b"n" * 255,
]


def test_files_of_any_name_reach_all_hosts(hosts):
    """Made, changed and deleted; as files, and as directories with a file in them."""
    top = hosts.path("web1", f"{SHARED}/names".encode())
    os.mkdir(top)
    for name in NAMES:
        _write(os.path.join(top, name), b"1\n")
        os.mkdir(os.path.join(top, b"d" + name[:200]))
        _write(os.path.join(top, b"d" + name[:200], name), b"1\n")
    tree = arrived(hosts, *(b"names/" + name for name in NAMES))
    assert len([path for path in tree if path.startswith(b"names/")]) == 3 * len(NAMES)
    for name in NAMES:
        _write(os.path.join(top, name), b"changed\n")
    arrived(hosts)
    for name in NAMES[::2]:
        os.unlink(os.path.join(top, name))
        shutil.rmtree(os.path.join(top, b"d" + name[:200]))
    tree = arrived(hosts, gone=[b"names/" + name for name in NAMES[::2]])
    assert len([path for path in tree if path.startswith(b"names/")]) == 3 * len(NAMES[1::2])
    shutil.rmtree(top)
    arrived(hosts, gone=[b"names"])


def _write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def test_rewrites_of_the_same_size_within_one_second_all_arrive(hosts):
    """csync2's clock has whole seconds: it cannot see them by itself."""
    file = hosts.path("web1", f"{SHARED}/rewritten")
    second = int(time.time())
    for number in range(10):
        file.write_text(f"version {number}\n", encoding="utf-8")
        os.utime(file, ns=(second * 10**9, second * 10**9 + number + 1))
        hosts.everywhere(f"{SHARED}/rewritten", f"version {number}\n")


def test_what_the_pillar_excludes_stays_where_it_is(hosts):
    for host in HOSTS:
        hosts.write(host, f"{SHARED}/.{host}.swp", "mine\n")
    hosts.write("web1", f"{SHARED}/after-the-excluded", "x\n")
    hosts.everywhere(f"{SHARED}/after-the-excluded", "x\n")
    for host in HOSTS:
        found = [path for path in hosts.tree(host) if path.endswith(b".swp")]
        assert found == [f".{host}.swp".encode()]
        hosts.path(host, f"{SHARED}/.{host}.swp").unlink()


def test_a_file_of_the_other_group_reaches_all_hosts(hosts):
    for top in ("ini", "png", "zip"):
        hosts.write("web2", f"/var/www/data/{top}/file", top)
    for top in ("ini", "png", "zip"):
        hosts.everywhere(f"/var/www/data/{top}/file", top)


def test_changes_on_all_hosts_at_once_reach_all_hosts(hosts):
    for number in range(20):
        for host in HOSTS:
            hosts.write(host, f"{SHARED}/at-once/{host}-{number}", f"{host}\n")
    tree = hosts.equal(seconds=60)
    assert len([path for path in tree if path.startswith(b"at-once/")]) == 60


def test_a_change_is_an_event_a_job_and_an_event(hosts):
    """What an administrator sees on the bus: the beacon, the push of that host, and its end."""
    hosts.settled()
    with hosts.bus() as bus:
        hosts.write("web1", f"{SHARED}/chain", "x\n")
        hosts.everywhere(f"{SHARED}/chain", "x\n")
        hosts.eventually(lambda: bool(bus.tagged("csyncsync/wwwshared/pushed")), 20, "the push ends with an event")
        chain = []
        for tag, data, _ in bus.all():
            if tag == "salt/beacon/web1/csyncsync/wwwshared":
                chain.append("beacon")
                assert data["group"] == "wwwshared"
                assert "chain" not in str(data), "the event tells no paths"
            elif tag.startswith("salt/job/") and tag.endswith("/new") and data["fun"] == "csyncsync.push":
                chain.append(f"job for {','.join(data['minions'])}")
            elif tag == "csyncsync/wwwshared/pushed":
                chain.append(f"pushed by {data['id']}")
                assert data["data"]["state"] == "pushed"
    assert chain[:3] == ["beacon", "job for web1", "pushed by web1"]


def test_what_csync2_writes_does_not_travel_back(hosts):
    """After a burst of 300 files on one host, the hosts that received them have nothing to tell."""
    hosts.settled()
    with hosts.bus() as bus:
        for number in range(300):
            hosts.write("web1", f"{SHARED}/burst/{number % 10}/{number}", f"{number}\n")
        tree = hosts.equal(seconds=60)
        assert len([path for path in tree if path.startswith(b"burst/")]) == 310
        hosts.settled("wwwshared")
        notes = {host: _last_push(hosts, host) for host in ("web2", "web3")}
        time.sleep(5)  # nothing is to happen
        tags = [f"salt/beacon/{host}/csyncsync/wwwshared" for host in ("web2", "web3")]
        assert not bus.tagged(*tags)
        assert {host: _last_push(hosts, host) for host in ("web2", "web3")} == notes
        assert len(bus.tagged("salt/beacon/web1/csyncsync/wwwshared")) < 30, "many files are few events"


def _last_push(hosts, host):
    return Path(hosts.path(host, "/var/lib/csyncsync/wwwshared/push.json")).read_text(encoding="utf-8")


@pytest.mark.parametrize("group", ["wwwdata", "wwwshared"])
def test_csync2_itself_finds_the_hosts_in_sync(hosts, group):
    hosts.settled(group)
    for host in HOSTS:
        done = hosts.exec(host, "csync2", "-C", group, "-T", check=False)
        assert done.returncode == 2, f"{host}: {done.stdout}{done.stderr}"
