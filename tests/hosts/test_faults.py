"""Hosts and masters die and come back: nobody else is held up, and nobody runs anything by hand."""

import contextlib
import os
import pathlib
import re
import shutil
import time

import pytest
from chaos import lock
from places import HOSTS, SHARED

pytestmark = pytest.mark.usefixtures("in_sync")


def test_a_dead_host_delays_nobody_else(hosts):
    """Before and after the others have noticed; when it is back, it has everything."""
    hosts.bed.kill("web3")
    try:
        for number in range(3):
            hosts.write("web1", f"{SHARED}/while-web3-is-dead-{number}", "x\n")
            hosts.everywhere(f"{SHARED}/while-web3-is-dead-{number}", "x\n", hosts=["web1", "web2"])
        hosts.write("web2", f"{SHARED}/from-web2-while-web3-is-dead", "x\n")
        hosts.everywhere(f"{SHARED}/from-web2-while-web3-is-dead", "x\n", hosts=["web1", "web2"])
    finally:
        hosts.bed.boot("web3")
    hosts.calm(seconds=120)


def test_a_host_that_died_when_it_was_its_turn_holds_nobody_up(hosts):
    """The master is told by Salt, in words, that the host is not connected: that is no sign of life."""
    hosts.bed.kill("web3")
    try:
        hosts.salt_run("csyncsync.sync", "wwwshared", "host=web3")
        hosts.write("web1", f"{SHARED}/not-its-turn", "x\n")
        hosts.everywhere(f"{SHARED}/not-its-turn", "x\n", hosts=["web1", "web2"], seconds=45)
    finally:
        hosts.bed.boot("web3")
    hosts.equal(seconds=120)


def test_others_change_each_others_files_while_a_host_is_dead(hosts):
    """What waits for it on one host is no reason to refuse what another host makes of the same file."""
    top, living = f"{SHARED}/by-turns", ["web1", "web2"]

    def over():
        """The trees are the same, and csync2 has said so, too: to change what is still under way is a conflict."""
        hosts.equal(top, hosts=living, seconds=15)
        hosts.eventually(lambda: not [host for host in living if busy(host)], 15, "it is over on both")

    def busy(host):
        found = hosts.status(host, "wwwshared")
        return found["journal"] or set(found["dirty"]) - {"web3"}

    for name in ("deleted", "dir/a", "dir/b", "mode"):
        hosts.write("web1", f"{top}/{name}", "0\n")
    hosts.calm("wwwshared")
    hosts.bed.kill("web3")
    try:
        for turn in range(1, 7):
            host = living[turn % 2]
            hosts.write(host, f"{top}/file", f"turn {turn}\n")
            hosts.write(host, f"{top}/{turn % 3}/made", f"turn {turn}\n")
            hosts.path(host, f"{top}/mode").chmod(0o600 + turn)
            hosts.everywhere(f"{top}/file", f"turn {turn}\n", hosts=living, seconds=15)
            over()
        hosts.write("web1", f"{top}/deleted", "1\n")
        hosts.write("web1", f"{top}/dir/a", "1\n")
        over()
        hosts.path("web2", f"{top}/deleted").unlink()
        shutil.rmtree(hosts.path("web2", f"{top}/dir"))
        over()
        hosts.write("web1", f"{top}/deleted", "made again\n")
        hosts.write("web1", f"{top}/dir", "a file now\n")
        over()
    finally:
        hosts.bed.boot("web3")
    hosts.calm("wwwshared", seconds=90)
    assert hosts.read("web3", f"{top}/file") == "turn 6\n"


def test_a_host_that_was_off_catches_up_both_ways(hosts):
    """Changes elsewhere while it was off, and changes on its disk that no watcher saw: equal within a minute."""
    hosts.write("web1", f"{SHARED}/off/changed", "1\n")
    hosts.write("web1", f"{SHARED}/off/deleted", "1\n")
    hosts.calm()
    hosts.bed.kill("web2")
    try:
        hosts.write("web1", f"{SHARED}/off/new-elsewhere", "x\n")
        hosts.write("web3", f"{SHARED}/off/changed", "longer, and changed elsewhere\n")
        hosts.path("web1", f"{SHARED}/off/deleted").unlink()
        hosts.write("web2", f"{SHARED}/off/new-offline/a/b", "written while it was off\n")
    finally:
        hosts.bed.boot("web2")
    hosts.everywhere(f"{SHARED}/off/new-offline/a/b", "written while it was off\n", seconds=60)
    hosts.everywhere(f"{SHARED}/off/new-elsewhere", "x\n", seconds=60)
    hosts.everywhere(f"{SHARED}/off/changed", "longer, and changed elsewhere\n", seconds=60)
    hosts.everywhere(f"{SHARED}/off/deleted", None, seconds=60)
    hosts.equal(seconds=60)


def test_a_host_whose_network_was_cut_catches_up_both_ways(hosts):
    hosts.bed.cut("web3")
    try:
        hosts.write("web3", f"{SHARED}/cut/from-web3", "x\n")
        hosts.write("web1", f"{SHARED}/cut/from-web1", "x\n")
        hosts.everywhere(f"{SHARED}/cut/from-web1", "x\n", hosts=["web1", "web2"], seconds=10)
    finally:
        hosts.bed.heal("web3")
    hosts.everywhere(f"{SHARED}/cut/from-web3", "x\n", seconds=60)
    hosts.everywhere(f"{SHARED}/cut/from-web1", "x\n", seconds=60)


@pytest.mark.parametrize("unit", ["salt-minion", "csyncsync-watch"])
def test_what_is_killed_in_a_burst_loses_nothing(hosts, unit):
    """systemd starts it again, or not at all until now."""
    for number in range(100):
        hosts.write("web1", f"{SHARED}/killed-{unit}/{number}", f"{number}\n")
        if number == 50:
            hosts.exec("web1", "systemctl", "kill", "--signal=KILL", unit)
    hosts.exec("web1", "systemctl", "restart", unit)
    tree = hosts.equal(seconds=60)
    assert len([path for path in tree if path.startswith(f"killed-{unit}/".encode())]) == 100


def test_what_a_host_could_not_record_is_not_its_own(hosts):
    """Its csync2 writes a file and gives up at its locked database: the file's deletion is no conflict afterwards."""
    path, old = f"{SHARED}/unrecorded/new", f"{SHARED}/unrecorded/old"
    hosts.write("web1", old, "x\n")
    hosts.everywhere(old, "x\n")
    hosts.settled("wwwshared")
    lock(hosts, "web2", "IMMEDIATE", 25)
    time.sleep(1)
    hosts.write("web1", path, "new\n")
    hosts.everywhere(path, "new\n", hosts=["web2"], seconds=20)
    hosts.path("web1", path).unlink()
    hosts.path("web1", old).unlink()
    hosts.exec("web2", "systemctl", "kill", "--signal=KILL", "csyncsync-watch")  # the next one has all checked
    hosts.everywhere(path, None, seconds=90)
    hosts.everywhere(old, None, seconds=30)
    hosts.calm("wwwshared")


def test_what_a_host_took_and_did_not_commit_is_not_its_own(hosts):
    """Its csync2 says that all is well, and is killed before the commit: what is changed and deleted next arrives."""
    top = f"{SHARED}/uncommitted"
    hosts.write("web1", f"{top}/replaced", "x\n")
    hosts.calm("wwwshared")
    lock(hosts, "web2", "DEFERRED", 12)
    time.sleep(1)
    for name in ("same-size", "deleted", "with its mode", "dir/file"):
        hosts.write("web1", f"{top}/{name}", "1\n")
    hosts.path("web1", f"{top}/replaced").unlink()
    hosts.path("web1", f"{top}/link").symlink_to("dir")
    hosts.everywhere(f"{top}/replaced", None, hosts=["web2", "web3"])
    hosts.equal(top, hosts=["web1", "web2"])
    hosts.eventually(lambda: not hosts.status("web1", "wwwshared")["dirty"], 20, "csync2 has said that all is well")
    hosts.exec("web2", "pkill", "-KILL", "-x", "csync2", check=False)
    hosts.write("web1", f"{top}/same-size", "2\n")
    hosts.path("web1", f"{top}/deleted").unlink()
    hosts.path("web1", f"{top}/with its mode").chmod(0o600)
    hosts.write("web1", f"{top}/replaced/by a directory", "x\n")
    shutil.rmtree(hosts.path("web1", f"{top}/dir"))
    hosts.path("web1", f"{top}/link").unlink()
    hosts.path("web1", f"{top}/link").symlink_to("same-size")
    hosts.equal(seconds=90)
    assert hosts.read("web3", f"{top}/same-size") == "2\n"
    hosts.settled("wwwshared", seconds=60)


def test_what_somebody_changed_there_is_a_conflict_all_the_same(hosts):
    """Also of a file that the host took and did not commit."""
    path = f"{SHARED}/uncommitted-and-changed"
    lock(hosts, "web2", "DEFERRED", 12)
    time.sleep(1)
    hosts.write("web1", path, "sent\n")
    hosts.everywhere(path, "sent\n", hosts=["web2"])
    hosts.eventually(lambda: not hosts.status("web1", "wwwshared")["dirty"], 20, "csync2 has said that all is well")
    hosts.bed.cut("web2")
    try:
        hosts.exec("web2", "pkill", "-KILL", "-x", "csync2", check=False)
        time.sleep(1)  # the time of the file, as csync2 records it, tells
        hosts.write("web2", path, "web2\n")
        hosts.write("web1", path, "web1\n")
    finally:
        hosts.bed.heal("web2")
    try:
        hosts.eventually(lambda: hosts.status("web1", "wwwshared")["refused"].get("web2"), 60, "it is a conflict")
        assert (hosts.read("web1", path), hosts.read("web2", path)) == ("web1\n", "web2\n")
    finally:
        hosts.run("csyncsync.resolve", "wwwshared", path, "winner=web2")
    hosts.everywhere(path, "web2\n")


@pytest.mark.parametrize("how", ["csync2 is killed", "the host is powered off"])
def test_what_a_host_took_and_did_not_commit_it_sends_to_nobody(hosts, how):
    """Whom it came from is cut off, so nobody tells it; a third host has changed some of it since."""
    top = f"{SHARED}/taken-{how.replace(' ', '-')}"
    for name in ("changed", "deleted", "changed again", "deleted later", "kept"):
        hosts.write("web1", f"{top}/{name}", "1\n")
    hosts.calm("wwwshared")
    lock(hosts, "web2", "DEFERRED", 20)
    time.sleep(1)
    for name in ("changed", "changed again", "new\n", "dir/new", "deleted later"):
        hosts.write("web1", f"{top}/{name}", "from web1\n")
    hosts.path("web1", f"{top}/deleted").unlink()
    hosts.path("web1", f"{top}/kept").chmod(0o600)
    hosts.equal(top)
    hosts.eventually(lambda: not hosts.status("web1", "wwwshared")["dirty"], 20, "csync2 has said that all is well")
    hosts.bed.cut("web1")
    try:
        if how == "csync2 is killed":
            hosts.exec("web2", "pkill", "-KILL", "-x", "csync2", check=False)
            hosts.write("web2", f"{top}/here", "web2\n")
        else:
            hosts.bed.kill("web2")
        hosts.write("web3", f"{top}/changed again", "web3\n")
        hosts.path("web3", f"{top}/deleted later").unlink()
        if how != "csync2 is killed":
            hosts.bed.boot("web2")
            hosts.eventually(lambda: hosts.call(["web2"], "test.ping", seconds=3), 60, "the minion answers")
            hosts.write("web2", f"{top}/here", "web2\n")
        hosts.everywhere(f"{top}/here", "web2\n", hosts=["web2", "web3"], seconds=60)
        hosts.push_wholly("web2", "wwwshared")
        hosts.everywhere(f"{top}/changed again", "web3\n", hosts=["web2", "web3"], seconds=60)
        hosts.everywhere(f"{top}/deleted later", None, hosts=["web2", "web3"], seconds=60)
        assert [path for path in hosts.ask("web2", "csyncsync.marked", "wwwshared") if not path.endswith("/here")] == []
    finally:
        hosts.bed.heal("web1")
    hosts.calm("wwwshared", tops=[top], seconds=120)
    assert hosts.read("web1", f"{top}/changed again") == "web3\n"
    assert hosts.read("web1", f"{top}/deleted later") is None
    assert hosts.read("web2", f"{top}/dir/new") == "from web1\n"


def test_a_change_arrives_without_the_master(hosts):
    """And when the master is back, everything goes on as before."""
    hosts.close()
    hosts.bed.kill("master")
    try:
        for number in range(3):
            hosts.write("web1", f"{SHARED}/without-the-master-{number}", "x\n")
            hosts.everywhere(f"{SHARED}/without-the-master-{number}", "x\n", seconds=60 if not number else 5)
    finally:
        hosts.bed.boot("master")
    hosts.eventually(lambda: set(hosts.call(HOSTS, "test.ping", seconds=5)) == set(HOSTS), 90, "the minions answer")
    hosts.write("web2", f"{SHARED}/with-the-master-again", "x\n")
    hosts.everywhere(f"{SHARED}/with-the-master-again", "x\n", seconds=60)
    hosts.equal(seconds=60)


def test_a_host_that_has_found_no_master_yet_watches(hosts):
    """Salt runs no beacon there; the watcher needs none."""
    hosts.close()
    hosts.exec("master", "systemctl", "stop", "salt-master")
    try:
        hosts.exec("web1", "systemctl", "restart", "salt-minion")
        for number in range(2):
            path = f"{SHARED}/not-seen-by-a-minion-{number}"
            hosts.write("web1", path, "x\n")
            hosts.everywhere(path, "x\n", seconds=60)
        hosts.write("web1", f"{SHARED}/just-before-the-master", "x\n")
    finally:
        hosts.exec("master", "systemctl", "start", "salt-master")
    hosts.everywhere(f"{SHARED}/just-before-the-master", "x\n", seconds=60)
    hosts.write("web1", f"{SHARED}/seen-by-a-minion", "x\n")
    hosts.everywhere(f"{SHARED}/seen-by-a-minion", "x\n", seconds=60)
    hosts.equal(seconds=60)


TEMPORARY = re.compile(rb"(^|/)\.[^/]*\.[A-Za-z0-9]{6}$")
DISK = "/srv/disk"
#: Kills a push so many seconds after it has the group's lock, with which its check begins.
KILL_A_CHECK = """
salt-call --local csyncsync.push {group} full=True >/dev/null 2>&1 & push=$!
while flock --nonblock /var/lib/csyncsync/{group}/lock true; do kill -0 $push || exit 1; sleep 0.002; done
sleep {after}
kill -KILL $push
"""


def kill_a_check(hosts, host, group):
    """A check of a small tree takes milliseconds: it may be over before anybody sees it."""
    for after in (0, 0.01, 0.03):
        script = KILL_A_CHECK.format(group=group, after=after)
        assert any(not hosts.exec(host, "sh", "-c", script, check=False).returncode for _ in range(20))


@pytest.fixture
def small_disk(hosts):
    """A group whose files are on a small disk of their own on web3."""
    hosts.shell("web3", f"mkdir -p {DISK} && mount -t tmpfs -o size=4m,mode=755 tmpfs {DISK}")
    try:
        with hosts.pillar({"wwwdisk": {"members": "web*", "include": [DISK], "exclude": ["ballast"]}}):
            hosts.apply(sls="csyncsync.groups")
            hosts.settled("wwwdisk", seconds=60)
            yield DISK
    finally:
        hosts.shell("web3", f"umount {DISK}")
        for host in HOSTS:
            shutil.rmtree(hosts.path(host, DISK))


def test_a_disk_that_was_full_or_read_only_gets_everything(hosts, small_disk):
    """And nothing of csync2's failed attempts stays there or gets to the others, whoever looks at it."""

    def left(host):
        return [path for path in hosts.tree(host, DISK) if TEMPORARY.search(path)]

    def healed():
        assert not left("web3")
        assert len(hosts.equal(DISK, seconds=90)) == 103

    hosts.shell("web3", f"head -c 3500000 /dev/zero >{DISK}/ballast")
    for number in range(100):
        hosts.write("web1", f"{DISK}/burst/{number}", os.urandom(20_000))
    hosts.equal(DISK, hosts=["web1", "web2"], seconds=60)
    hosts.eventually(lambda: left("web3"), 30, "csync2 leaves something")
    hosts.push_wholly("web3", "wwwdisk")
    kill_a_check(hosts, "web3", "wwwdisk")
    hosts.push_wholly("web3", "wwwdisk")
    hosts.stop_minion("web3")  # it sees no more what comes meanwhile
    hosts.start_minion("web3")
    hosts.eventually(lambda: hosts.status("web1", "wwwdisk")["cannot_write"].get("web3"), 60, "it is shown")
    hosts.write("web2", f"{DISK}/meanwhile", "x\n")
    hosts.everywhere(f"{DISK}/meanwhile", "x\n", hosts=["web1", "web2"], seconds=30)
    hosts.push_wholly("web3", "wwwdisk")
    assert not left("web1")
    assert not left("web2")
    hosts.path("web3", f"{DISK}/ballast").unlink()
    hosts.eventually(healed, 90)
    hosts.shell("web3", f"mount -o remount,ro {DISK}")
    for number in range(50):
        hosts.write("web1", f"{DISK}/burst/{number}", os.urandom(10_000))
    hosts.equal(DISK, hosts=["web1", "web2"], seconds=60)
    hosts.eventually(lambda: hosts.status("web1", "wwwdisk")["cannot_write"].get("web3"), 60, "it is shown")
    hosts.shell("web3", f"mount -o remount,rw {DISK}")
    hosts.eventually(healed, 90)
    hosts.settled("wwwdisk", seconds=90)


# --- A wrong clock ---------------------------------------------------------------------------------------

#: Of a unit: what it starts has a clock that is so many seconds off (clock.c).
CLOCK = """[Service]
Environment=LD_PRELOAD={library}
Environment=CLOCK_OFFSET={offset}
"""
LIBRARY = "/usr/local/lib/clock.so"
DROP_INS = "/run/systemd/system"
#: Killed, because a minion takes its time to end.
RESTART = """
systemctl daemon-reload
systemctl kill --signal=KILL salt-minion
systemctl restart salt-minion csyncsync-server csyncsync-watch
"""
CLOCKED = ("salt-minion", "csyncsync-server", "csyncsync-watch", "csyncsync-push@", "csyncsync-full@")


def clock(hosts, host):
    """The time as a minion has it, 0 if it does not answer."""
    answer = str(hosts.ask(host, "status.time", "%s"))
    return int(answer) if answer.isdigit() else 0


@contextlib.contextmanager
def clock_off(hosts, host, offset):
    """All that syncs on a host has a clock that is so many seconds off; yields the seconds to add to times of files."""
    hosts.shell(host, "apt-get -qq install -y --no-install-recommends tcc libc6-dev")
    hosts.write(host, "/root/clock.c", (pathlib.Path(__file__).parent / "clock.c").read_text(encoding="utf-8"))
    hosts.exec(host, "tcc", "-shared", "-o", LIBRARY, "/root/clock.c")
    for unit in CLOCKED:
        hosts.write(host, f"{DROP_INS}/{unit}.service.d/clock.conf", CLOCK.format(library=LIBRARY, offset=offset))
    hosts.shell(host, RESTART)
    try:
        hosts.eventually(lambda: abs(clock(hosts, host) - time.time() - offset) < 60, 90, "the clock is off")
        yield
    finally:
        for unit in CLOCKED:
            hosts.path(host, f"{DROP_INS}/{unit}.service.d/clock.conf").unlink()
        hosts.shell(host, RESTART)


def change(hosts, host, round_, offset):
    """New, changed, moved and deleted files on a host, with the times that its clock gives them."""
    top = f"{SHARED}/clock/{host}"
    for number in range(10):
        file = hosts.write(host, f"{top}/{number}", f"{host} {round_} {number}\n" * (round_ + 1))
        os.utime(file, (time.time() + offset, time.time() + offset))
    if round_:
        hosts.path(host, f"{top}/0").rename(hosts.path(host, f"{top}/moved"))
        hosts.path(host, f"{top}/1").unlink()


def take_turns(hosts, offsets):
    """All hosts change files of their own, and one after the other the same file; then all have the last version."""
    for round_ in range(2):
        for host in HOSTS:
            offset = offsets.get(host, 0)
            change(hosts, host, round_, offset)
            file = hosts.write(host, f"{SHARED}/clock/of-all", f"{host} {round_} {offset}\n")
            os.utime(file, (time.time() + offset, time.time() + offset))
            hosts.everywhere(f"{SHARED}/clock/of-all", f"{host} {round_} {offset}\n", seconds=60)
            hosts.settled("wwwshared")  # to change what a push has not yet finished is a conflict
    tree = hosts.equal(seconds=60)
    assert len([path for path in tree if path.startswith(b"clock/web")]) == 3 * (1 + 9)


def a_host_is_cut_off(hosts, offset):
    """What is noted of a peer that failed, and when to try it again, has the wrong time."""
    hosts.bed.cut("web2")
    try:
        change(hosts, "web3", 0, offset)
        hosts.equal(hosts=["web1", "web3"], seconds=60)
    finally:
        hosts.bed.heal("web2")


def the_master_is_away(hosts, offset):
    """Hosts push by themselves, after a time that they measure."""
    hosts.close()
    hosts.exec("master", "systemctl", "stop", "salt-master")
    try:
        for host in HOSTS:
            change(hosts, host, 0, offset if host == "web3" else 0)
        hosts.equal(seconds=90)
    finally:
        hosts.exec("master", "systemctl", "start", "salt-master")


@pytest.mark.parametrize(("offset", "meanwhile"), [(600, a_host_is_cut_off), (-600, the_master_is_away)])
def test_a_clock_that_is_ten_minutes_off_stops_nothing(hosts, offset, meanwhile):
    """Nor does its return to the right time, with all that was noted meanwhile."""
    with clock_off(hosts, "web3", offset):
        take_turns(hosts, {"web3": offset})
        meanwhile(hosts, offset)
        hosts.equal(seconds=90)
    hosts.eventually(lambda: all(clock(hosts, host) for host in HOSTS), 90, "the minions answer")
    take_turns(hosts, {})
    hosts.settled("wwwshared", seconds=60)
    hosts.remove("web1", f"{SHARED}/clock")


def test_what_is_deleted_while_a_check_fails_is_deleted_on_all(hosts):
    """
    Also if it is named as csync2's temporary files are, and if the check had found it changed: csync2 fails if a
    directory becomes a file meanwhile; here it is killed.
    """
    hosts.equal(seconds=60)
    top = f"{SHARED}/failed"
    hosts.shell("web1", f"mkdir -p {top}/.dir.AbC123/in; touch {top}/.file.AbC123 {top}/.changed.AbC123")
    hosts.calm("wwwshared")
    hosts.stop_minion("web1")
    hosts.shell("web1", f"rm -r {top}/.dir.AbC123 {top}/.file.AbC123; echo x >{top}/.changed.AbC123")
    kill_a_check(hosts, "web1", "wwwshared")
    hosts.shell("web1", f"rm {top}/.changed.AbC123")
    hosts.start_minion("web1")
    hosts.calm("wwwshared")
    hosts.remove("web1", top)
