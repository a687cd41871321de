"""
Nothing is deleted that nobody deleted: what is away with its file system, or cannot be read, stays on the other hosts,
is named in the status, and stops nothing else.
"""

import contextlib
import ctypes
import os
import shutil
import time

import pytest
from places import HOSTS

#: The top of each group of this file.
TOPS = {group: f"/srv/{group}" for group in ("mounted", "unread", "overlaid", "two")}
FILES = 30
#: An include that is a file, and exists nowhere.
LATER = f"{TOPS['two']}/etc/later.conf"
#: sys/mount.h
MNT_DETACH = 2


@pytest.fixture(scope="module")
def groups(hosts):
    """A group for each kind, so that they are set up at once; of the last one, two includes, and a file."""
    tops = {group: [top] for group, top in TOPS.items()}
    tops["two"] = [*(f"{TOPS['two']}/{name}" for name in ("one", "other", "file.conf")), {"file": LATER}]
    hosts.shell("web1", OVERLAY)
    for host in HOSTS:
        hosts.write(host, f"{TOPS['two']}/file.conf", "conf\n")
    try:
        with hosts.pillar({group: {"members": "web*", "include": includes} for group, includes in tops.items()}):
            hosts.apply(sls="csyncsync.groups")
            hosts.settled(*TOPS, seconds=120)
            yield
    finally:
        hosts.shell("web1", f"umount -l {TOPS['overlaid']} /srv/layers", check=False)
        for host in HOSTS:
            for top in TOPS.values():
                shutil.rmtree(hosts.path(host, top), ignore_errors=True)


#: An include on a file system that has another device number each time that it is mounted, as btrfs and NFS.
MOUNT_OVERLAY = "mount -t overlay -o lowerdir=/srv/layers/a,upperdir=/srv/layers/b,workdir=/srv/layers/w overlay"
OVERLAY = f"""
mkdir -p /srv/layers {TOPS["overlaid"]} && mount -t tmpfs tmpfs /srv/layers
mkdir /srv/layers/a /srv/layers/b /srv/layers/w && {MOUNT_OVERLAY} {TOPS["overlaid"]}
"""


def fill(hosts, host, top, files=FILES):
    for number in range(files):
        hosts.write(host, f"{top}/{number % 3}/{number}", f"{number}\n")


def shows(hosts, group, *texts, host="web1", seconds=60):
    """Wait until the administrator's table says all of this of a host."""

    def said():
        rows = hosts.run("csyncsync.status", group)["groups"][group]
        told = "\n".join(f"{what}: {remedy}" for what, remedy in rows[host]["problems"])
        assert all(text in told for text in texts), f"{texts}: {rows[host]}"

    hosts.eventually(said, seconds)


def calm_again(hosts, group, seconds=60):
    hosts.calm(group, tops=[TOPS[group]], seconds=seconds)
    assert hosts.states(group) == dict.fromkeys(HOSTS, "in sync")


# --- What is mounted below an include


def test_what_lies_on_a_file_system_that_was_unmounted_stays_elsewhere(hosts, groups):
    top, disk = TOPS["mounted"], f"{TOPS['mounted']}/disk"
    hosts.shell("web1", f"mkdir {disk} && mount -t tmpfs -o mode=755 tmpfs {disk}")
    fill(hosts, "web1", disk)
    tree = hosts.calm("mounted", tops=[top])
    hosts.shell("web1", f"umount {disk}")
    shows(hosts, "mounted", disk, "salt-run csyncsync.release mounted")
    hosts.push_wholly("web1", "mounted")
    hosts.write("web1", f"{top}/beside", "x\n")
    hosts.write("web2", f"{disk}/0/meanwhile", "x\n")
    hosts.everywhere(f"{top}/beside", "x\n")
    hosts.everywhere(f"{disk}/0/meanwhile", "x\n", hosts=["web2", "web3"])
    assert {**hosts.tree("web2", top), **tree}.keys() == {*tree, b"beside", b"disk/0/meanwhile"}


def test_nor_is_it_deleted_when_the_host_boots_without_it(hosts, groups):
    disk = f"{TOPS['mounted']}/second"
    hosts.shell("web3", f"mkdir {disk} && mount -t tmpfs -o mode=755 tmpfs {disk}")
    fill(hosts, "web3", disk)
    hosts.equal(disk)
    hosts.settled("mounted", hosts=["web3"])
    # What was written where web1's disk is away waits until that is back.
    hosts.eventually(lambda: not hosts.status("web2", "mounted")["dirty"].keys() - {"web1"}, 60)
    tree = hosts.tree("web2", disk)
    hosts.bed.kill("web3")
    hosts.bed.boot("web3")
    shows(hosts, "mounted", disk, "salt-run csyncsync.release mounted", host="web3", seconds=90)
    hosts.push_wholly("web3", "mounted")
    assert hosts.tree("web2", disk) == tree
    hosts.shell("web3", f"mount -t tmpfs -o mode=755 tmpfs {disk}")  # another one, and empty
    time.sleep(3)
    hosts.push_wholly("web3", "mounted")
    assert hosts.tree("web2", disk) == tree
    hosts.shell("web3", f"umount {disk}")


def test_a_release_deletes_it_everywhere_and_says_so_before(hosts, groups):
    top, disk = TOPS["mounted"], f"{TOPS['mounted']}/second"
    shows(hosts, "mounted", "to have them deleted on all hosts", host="web3")
    released = hosts.run("csyncsync.release", "mounted", "host=web3")
    assert released["web3"]["state"] == "pushed", released
    hosts.everywhere(f"{disk}/0/0", None)
    assert hosts.tree("web2", f"{top}/disk"), "web1 was not released"


def test_what_is_hidden_by_a_file_system_stays_elsewhere_and_changes_in_that_arrive(hosts, groups):
    top, place = TOPS["mounted"], f"{TOPS['mounted']}/place"
    hosts.run("csyncsync.release", "mounted")
    fill(hosts, "web2", place)
    hosts.equal(place)
    hosts.settled("mounted")
    hosts.shell("web1", f"mount -t tmpfs -o mode=755 tmpfs {place}")
    hosts.write("web1", f"{place}/inside", "x\n")
    hosts.everywhere(f"{place}/inside", "x\n")
    shows(hosts, "mounted", place)
    assert hosts.read("web3", f"{place}/0/0") == "0\n"
    hosts.shell("web1", f"umount {place}")
    hosts.eventually(lambda: not hosts.status("web1", "mounted")["held"], 60, "it goes on by itself")
    hosts.write("web1", f"{place}/0/0", "after\n")
    hosts.everywhere(f"{place}/0/0", "after\n")
    assert hosts.tree("web2", place).keys() >= hosts.tree("web1", place).keys()
    assert hosts.read("web2", f"{top}/beside") is not None


def test_the_same_files_by_another_device_are_no_strangers(hosts, groups):
    top = TOPS["overlaid"]
    fill(hosts, "web1", top)
    hosts.calm("overlaid", tops=[top])
    before = hosts.shell("web1", f"stat -c %d {top}")
    hosts.shell("web1", f"umount -l {top}; mount -t tmpfs -o size=4k tmpfs /mnt; {MOUNT_OVERLAY} {top}; umount /mnt")
    assert hosts.shell("web1", f"stat -c %d {top}") != before
    hosts.write("web1", f"{top}/0/new", "x\n")
    hosts.push_wholly("web1", "overlaid")
    hosts.everywhere(f"{top}/0/new", "x\n")
    hosts.write("web2", f"{top}/0/0", "by web2\n")
    hosts.everywhere(f"{top}/0/0", "by web2\n")
    calm_again(hosts, "overlaid")


# --- What cannot be read, or carried


@contextlib.contextmanager
def dead(hosts, host, path):
    """A FUSE file system whose server has died: whatever is asked of it fails with ENOTCONN."""
    libc = ctypes.CDLL(None, use_errno=True)

    def there(act):
        child = os.fork()
        if not child:
            try:
                server = os.open("/dev/fuse", os.O_RDWR)
                libc.setns(os.open(f"/proc/{hosts.bed.find(host).leader()}/ns/mnt", os.O_RDONLY), 0)
                os._exit(act(server))
            finally:
                os._exit(99)
        assert os.waitpid(child, 0)[1] == 0

    options = "fd={},rootmode=40000,user_id=0,group_id=0"
    there(lambda fd: libc.mount(b"dead", os.fsencode(path), b"fuse", 0, options.format(fd).encode()))
    try:
        yield
    finally:
        there(lambda fd: libc.umount2(os.fsencode(path), MNT_DETACH))


def test_what_a_dead_file_system_hides_is_not_deleted(hosts, groups):
    top, place = TOPS["unread"], f"{TOPS['unread']}/m-place"
    fill(hosts, "web1", place)
    fill(hosts, "web1", f"{top}/z-behind")
    tree = hosts.calm("unread", tops=[top])
    with dead(hosts, "web1", place):
        hosts.push_wholly("web1", "unread")
        hosts.push_wholly("web1", "unread")
        shows(hosts, "unread", place, "Transport endpoint is not connected")
        hosts.write("web1", f"{top}/z-behind/0/new", "x\n")
        hosts.write("web1", f"{top}/a-before", "x\n")
        hosts.everywhere(f"{top}/z-behind/0/new", "x\n", seconds=60)
        hosts.everywhere(f"{top}/a-before", "x\n")
        assert hosts.tree("web2", top).keys() == {*tree, b"z-behind/0/new", b"a-before"}
    calm_again(hosts, "unread", seconds=90)


def test_a_path_that_is_too_long_is_named_and_stops_nothing(hosts, groups):
    top = TOPS["unread"]
    deep = f"import os; os.chdir('{top}')\nfor name in ['deep', *['d' * 200] * 25]: os.mkdir(name); os.chdir(name)"
    hosts.exec("web1", "/opt/salt/bin/python", "-c", deep)
    hosts.write("web1", f"{top}/z-behind/0/new", "beside a deep one\n")
    hosts.everywhere(f"{top}/z-behind/0/new", "beside a deep one\n")
    shows(hosts, "unread", "longer than csync2 carries")
    hosts.push_wholly("web1", "unread")
    hosts.write("web2", f"{top}/deep/new", "x\n")
    hosts.everywhere(f"{top}/deep/new", "x\n")
    hosts.settled("unread")
    hosts.shell("web1", f"rm -rf {top}/deep")
    hosts.everywhere(f"{top}/deep/new", None)
    calm_again(hosts, "unread")
    assert hosts.status("web1", "unread")["watching"]


# --- An include that is not there


def test_a_file_that_exists_nowhere_is_a_file_when_somebody_makes_it(hosts, groups):
    for host in HOSTS:
        assert hosts.shell(host, f"ls -A {TOPS['two']}/etc") == ""
    hosts.write("web2", LATER, "by web2\n")
    hosts.everywhere(LATER, "by web2\n")
    hosts.settled("two")
    hosts.write("web1", f"{LATER}.other", "x\n")  # beside it, and no include
    hosts.write("web1", LATER, "changed by web1\n")
    hosts.everywhere(LATER, "changed by web1\n")
    hosts.everywhere(f"{LATER}.other", None, hosts=["web2", "web3"])
    hosts.path("web1", f"{LATER}.other").unlink()
    calm_again(hosts, "two")


# --- An include that is deleted on purpose


def test_an_include_that_is_deleted_stops_no_other_one_and_the_advice_works(hosts, groups):
    top = TOPS["two"]
    fill(hosts, "web1", f"{top}/one")
    fill(hosts, "web1", f"{top}/other")
    hosts.calm("two", tops=[top])
    hosts.shell("web1", f"rm -r {top}/one {top}/file.conf")
    shows(hosts, "two", f"{top}/one", f"{top}/file.conf", "salt-run csyncsync.release two")
    hosts.write("web1", f"{top}/other/new", "x\n")
    hosts.everywhere(f"{top}/other/new", "x\n")
    hosts.write("web2", f"{top}/other/new2", "x\n")
    hosts.everywhere(f"{top}/other/new2", "x\n")
    assert hosts.read("web2", f"{top}/one/0/0") == "0\n"
    assert hosts.read("web3", f"{top}/file.conf") == "conf\n"
    released = hosts.run("csyncsync.release", "two")
    assert released["web1"]["state"] == "pushed", released
    for host in HOSTS:
        hosts.eventually(lambda host=host: not hosts.path(host, f"{top}/one/0").exists(), 60, f"deleted on {host}")
    hosts.everywhere(f"{top}/file.conf", None)
    hosts.settled("two")
    assert hosts.states("two") == dict.fromkeys(HOSTS, "in sync"), "the other hosts keep the include, empty"
    hosts.write("web2", f"{top}/one/again", "x\n")
    hosts.everywhere(f"{top}/one/again", "x\n")
    hosts.write("web1", f"{top}/file.conf", "again\n")
    hosts.everywhere(f"{top}/file.conf", "again\n")
    calm_again(hosts, "two")
