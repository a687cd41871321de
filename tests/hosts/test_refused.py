"""What one host cannot write, whatever the reason, stops nothing else, and is named with that host's own words."""

import array
import fcntl
import os
import shutil
import time

import pytest
from places import HOSTS

GROUP, TOP = "refused", "/srv/refused"
#: linux/fs.h: FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IMMUTABLE_FL, FS_APPEND_FL
GET, SET, IMMUTABLE, APPEND = 0x80086601, 0x40086602, 0x10, 0x20


def immutable(hosts, path, wanted, flag=IMMUTABLE):
    """As chattr(1) does; a container may not."""
    handle = os.open(hosts.path("web3", path), os.O_RDONLY | os.O_NONBLOCK)
    try:
        flags = array.array("L", [0])
        fcntl.ioctl(handle, GET, flags)
        flags[0] = flags[0] | flag if wanted else flags[0] & ~flag
        fcntl.ioctl(handle, SET, flags)
    finally:
        os.close(handle)


def append_only(hosts, path, wanted):
    immutable(hosts, path, wanted, APPEND)


def bound(hosts, path, wanted, options=""):
    """Mounted once more at itself."""
    if wanted:
        hosts.shell("web3", f"mount --bind '{path}' '{path}'{options}")
    else:
        hosts.shell("web3", f"umount '{path}'")


def read_only(hosts, path, wanted):
    bound(hosts, path, wanted, f" && mount -o remount,bind,ro '{path}'")


#: What web3 cannot write, and how that comes.
KINDS = {"m-file": immutable, "m-append": append_only, "m-mount": bound, "m-dir": immutable, "m-ro": read_only}


NAMES = ("a", "m-file", "m-file-behind", "m-append", "m-mount", "m-dir/file", "m-dir-behind", "m-ro/file", "z")


@pytest.fixture(scope="module")
def refused(hosts):
    """web1 has changed what web3 cannot write, and files that sort before and behind each of that."""
    with hosts.pillar({GROUP: {"members": "web*", "include": [TOP]}}):
        hosts.apply(sls="csyncsync.groups")
        hosts.settled(GROUP, seconds=120)
        for name in NAMES:
            hosts.write("web1", f"{TOP}/{name}", "first\n")
        hosts.calm(GROUP, tops=[TOP])
        for name, make in KINDS.items():
            make(hosts, f"{TOP}/{name}", True)
        try:
            for name in NAMES:
                hosts.write("web1", f"{TOP}/{name}", "second version\n")
            hosts.write("web1", f"{TOP}/m-dir/new", "x\n")
            yield
        finally:
            for name, make in KINDS.items():
                if name in LEFT:
                    make(hosts, f"{TOP}/{name}", False)
    for host in HOSTS:
        shutil.rmtree(hosts.path(host, TOP))


#: What is not mended yet.
LEFT = {*KINDS}


def test_all_else_arrives(hosts, refused):
    for name in ("a", "m-file-behind", "m-dir-behind", "z"):
        hosts.everywhere(f"{TOP}/{name}", "second version\n", seconds=60)
    hosts.equal(TOP, hosts=["web1", "web2"], seconds=60)
    hosts.write("web2", f"{TOP}/later", "x\n")
    hosts.everywhere(f"{TOP}/later", "x\n", seconds=60)


@pytest.mark.parametrize("name", ["m-file", "m-append", "m-mount", "m-dir/file", "m-ro/file"])
def test_the_status_names_it_with_the_hosts_own_words(hosts, refused, name):
    def told():
        said = hosts.status("web1", GROUP)["cannot_write"]["web3"].get(f"{TOP}/{name}", "")
        assert any(words in said for words in ("not permitted", "busy", "Read-only", "journalctl -t csync2")), said
        problems = hosts.run("csyncsync.status", GROUP)["groups"][GROUP]["web1"]["problems"]
        assert any(what.startswith("web3 cannot write ") for what, _ in problems), problems

    hosts.eventually(told, 90)


def test_it_is_tried_again_but_seldom_and_no_copies_of_it_stay_anywhere(hosts, refused):
    hosts.write("web3", f"{TOP}/.m-file.abc123", "somebody's own\n").chmod(0o600)
    before = hosts.status("web1", GROUP)["last_push"]["pushes"]
    time.sleep(30)
    assert hosts.status("web1", GROUP)["last_push"]["pushes"] - before <= 8
    for host in HOSTS:
        assert [path.name for path in hosts.path(host, TOP).glob(".m*")] == [".m-file.abc123"], host
    said = hosts.shell("web3", "journalctl -t csync2 -o cat -S -5min --no-pager")
    assert f"while renaming tmp file to to be patched file in rsync-patch: {TOP}/m-file" in said, "the log has it"


def test_what_is_asked_for_is_tried_at_once(hosts, refused):
    mark = time.time()
    hosts.push_wholly("web1", GROUP)
    said = hosts.shell("web3", f"journalctl -t csync2 -o cat -S @{int(mark)} --no-pager")
    assert f"{TOP}/m-file" in said


@pytest.mark.parametrize("name", KINDS)
def test_it_arrives_when_it_can_be_written(hosts, refused, name):
    KINDS[name](hosts, f"{TOP}/{name}", False)
    LEFT.discard(name)
    file = f"{TOP}/{name}/file" if name in ("m-dir", "m-ro") else f"{TOP}/{name}"
    hosts.everywhere(file, "second version\n", seconds=90)


def test_all_are_in_sync_in_the_end(hosts, refused):
    hosts.calm(GROUP, tops=[TOP], seconds=90)
    hosts.eventually(lambda: hosts.states(GROUP) == dict.fromkeys(HOSTS, "in sync"), 60)
