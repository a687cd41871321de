"""What an administrator does with a cluster that runs: pause it, look into it, and begin anew."""

import hashlib
import json
import os
import time

import pytest
from places import HOSTS, SHARED

pytestmark = pytest.mark.usefixtures("in_sync")


def behind(hosts, path, seconds=4):
    """Watch for so long that a file of web1 does not get to the others."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert [host for host in HOSTS if hosts.path(host, path).exists()] == ["web1"]
        time.sleep(0.2)


# --- Pauses


def test_a_paused_group_keeps_its_changes_until_it_is_resumed(hosts):
    before = hosts.read("web1", f"{SHARED}/paused") or ""
    done = hosts.run("csyncsync.pause", "wwwshared", "comment=new disks")
    assert done == {"wwwshared": dict.fromkeys(HOSTS, "paused until it is resumed")}
    assert hosts.run("csyncsync.pause", "wwwshared", "comment=new disks") == done
    hosts.write("web1", f"{SHARED}/paused", before + "x")
    hosts.write("web1", "/var/www/data/ini/not-paused", before + "y")
    hosts.everywhere("/var/www/data/ini/not-paused", before + "y")
    behind(hosts, f"{SHARED}/paused")
    table = hosts.states("wwwshared")
    assert "paused until somebody resumes it (new disks)" in table["web1"]
    assert "salt-run csyncsync.resume wwwshared" in table["web1"]
    assert hosts.run("csyncsync.resume", "wwwshared") == {"wwwshared": dict.fromkeys(HOSTS, "not paused")}
    hosts.everywhere(f"{SHARED}/paused", before + "x", seconds=15)
    hosts.settled("wwwshared")
    assert hosts.states("wwwshared") == dict.fromkeys(HOSTS, "in sync")


def test_a_pause_ends_by_itself(hosts):
    hosts.run("csyncsync.pause", "wwwshared", "minutes=0.1")
    hosts.write("web1", f"{SHARED}/ends-{int(time.time())}", "x")
    hosts.equal(seconds=45)


def test_a_paused_host_sends_and_gets_nothing_and_the_others_go_on(hosts):
    """One of the others hears of it only when it is back."""
    mark = str(time.time())
    hosts.bed.kill("web3")
    try:
        done = hosts.run("csyncsync.pause", "host=web2")
        assert set(done) == {"wwwdata", "wwwshared"}
        assert done["wwwshared"]["web1"] == "not paused, but sends nothing to web2"
        assert done["wwwshared"]["web3"].endswith("it hears of this when it next asks to push")
        hosts.write("web2", f"{SHARED}/paused-host", mark)
        hosts.bed.boot("web3")
        hosts.write("web3", f"{SHARED}/goes-on", mark)
        hosts.everywhere(f"{SHARED}/goes-on", mark, hosts=["web1", "web3"], seconds=90)
        time.sleep(3)
        assert hosts.read("web2", f"{SHARED}/goes-on") != mark
        assert hosts.read("web1", f"{SHARED}/paused-host") != mark
    finally:
        hosts.bed.boot("web3")
        hosts.run("csyncsync.resume", "host=web2")
    for name in ("paused-host", "goes-on"):
        hosts.everywhere(f"{SHARED}/{name}", mark, seconds=60)


@pytest.mark.parametrize(
    "arguments, text",
    [
        ([], "name a group, or a host"),
        (["wwwnone"], "there is no group 'wwwnone'; there are: wwwdata, wwwshared"),
        (["host=web9"], "web9 is no member of any group"),
        (["wwwshared", "minutes=-1"], "minutes=-1 is no number above 0"),
        (["wwwshared", "minutes=soon"], "minutes='soon' is no number above 0"),
    ],
)
def test_what_cannot_be_paused_is_told(hosts, arguments, text):
    assert text in hosts.run("csyncsync.pause", *arguments)


# --- A look into it


def test_a_test_of_sync_tells_what_would_be_sent_and_does_nothing(hosts):
    hosts.run("csyncsync.pause", "wwwshared")
    try:
        hosts.shell("web1", f"mkdir {SHARED}/test-of-sync; echo x > '{SHARED}/test-of-sync/a b%'")
        time.sleep(1)
        before = hosts.shell("web1", "sha256sum /var/lib/csync2/*wwwshared.db3")
        done = hosts.run("csyncsync.sync", "wwwshared", "test=True")["wwwshared"]
        assert hosts.shell("web1", "sha256sum /var/lib/csync2/*wwwshared.db3") == before
        names = [f"{SHARED}/test-of-sync", f"{SHARED}/test-of-sync/a%20b%25"]
        for other in ("web2", "web3"):
            assert done["web1"]["send"][other] == {"entries": 2, "paths": names}
            assert done[other]["send"] == {}
    finally:
        hosts.run("csyncsync.resume", "wwwshared")
    hosts.calm("wwwshared")
    done = hosts.run("csyncsync.sync", "wwwshared")["wwwshared"]
    assert [done[host]["state"] for host in HOSTS] == ["pushed"] * 3
    hosts.remove("web1", f"{SHARED}/test-of-sync")


def test_verify_finds_what_the_databases_do_not_know(hosts):
    path, shown = (f"{SHARED}/verify/einé{end}Lüge%" for end in ("\n", "\\x0a"))
    hosts.write("web1", path, "content\n")
    hosts.everywhere(path, "content\n")
    hosts.settled("wwwshared")
    done = hosts.salt_run("--out=json", "csyncsync.verify", "wwwshared")
    found = json.loads(done.stdout)
    assert (found["differences"], found["silent"], found["retcode"]) == ({}, [], 0)
    assert "1 of 1 parts read" in done.stderr
    # The same size and second: csync2's check sees nothing.
    file = hosts.path("web2", path)
    times = os.stat(file)
    hosts.run("csyncsync.pause", "wwwshared")
    try:
        file.write_bytes(b"contenT\n")
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        os.chmod(hosts.path("web3", f"{SHARED}/verify"), 0o711)
        done = hosts.salt_run("--out=json", "csyncsync.verify", "wwwshared", "rate=1")
        assert done.returncode == 1
        found = json.loads(done.stdout)["differences"]
        assert set(found) == {shown, f"{SHARED}/verify"}
        digests = [hashlib.sha256(content).hexdigest() for content in (b"content\n", b"contenT\n", b"content\n")]
        assert [found[shown][host]["sha256"] for host in HOSTS] == digests
        assert [found[f"{SHARED}/verify"][host]["mode"] for host in HOSTS] == ["0755", "0755", "0711"]
    finally:
        hosts.run("csyncsync.resume", "wwwshared")
    hosts.equal()
    hosts.remove("web1", f"{SHARED}/verify")


# --- To begin anew


def test_reset_makes_one_hosts_content_win(hosts):
    """What others have changed, made or deleted, and what nobody can see, is as on the source afterwards."""
    top = f"{SHARED}/reset"
    for name in ("kept", "changed", "deleted", "hidden/file"):
        hosts.write("web1", f"{top}/{name}", f"{name}\n")
    hosts.calm("wwwshared")
    wanted = hosts.tree("web1", SHARED)
    hosts.run("csyncsync.pause", "wwwshared")
    hosts.write("web2", f"{top}/changed", "by web2\n")
    hosts.write("web3", f"{top}/changed", "by web3\n")
    hosts.shell("web3", f"rm -r {top}/deleted {top}/hidden; mkdir -p {top}/more/than; echo x > {top}/more/than/this")
    hosts.write("web2", f"{top}/hidden/other", "x\n")
    told = hosts.run("csyncsync.reset", "wwwshared", "source=web1", "test=True")
    assert told["web1"] == "its content wins"
    assert told["web2"] == {"replaced": [f"{top}/changed"], "deleted": [f"{top}/hidden/other"]}
    assert set(told["web3"]) == {"replaced", "deleted", "made"}
    assert hosts.read("web2", f"{top}/changed") == "by web2\n"
    assert "is to be a member that sends" in hosts.run("csyncsync.reset", "wwwshared", "source=web9")
    done = hosts.run("csyncsync.reset", "wwwshared", "source=web1")
    hosts.run("csyncsync.resume", "wwwshared")
    assert done["web1"] == "its content wins"
    assert [done[host].startswith("got ") for host in ("web2", "web3")] == [True, True], done
    hosts.settled("wwwshared", seconds=90)
    assert hosts.equal() == wanted
    assert hosts.states("wwwshared") == dict.fromkeys(HOSTS, "in sync")
    hosts.remove("web1", top)


def test_a_host_that_is_silent_is_told_and_makes_the_exit_code_1(hosts):
    """Also where a reset would have to have all."""
    hosts.stop_minion("web3")
    try:
        done = hosts.salt_run("--out=json", "csyncsync.sync", "wwwshared")
        found = json.loads(done.stdout)
        assert (done.returncode, found["retcode"]) == (1, 1)
        assert [found["wwwshared"][host]["state"] for host in ("web1", "web2")] == ["pushed"] * 2
        assert found["wwwshared"]["web3"].startswith("did not answer")
        found = hosts.run("csyncsync.conflicts", "wwwshared")
        assert (found["retcode"], [*found["wwwshared"]["… unknown"]]) == (1, ["web3"])
        done = hosts.run("csyncsync.reset", "wwwshared", "source=web1")
        assert done == "web3 did not answer; start it, or take it out of csyncsync:groups:wwwshared:members"
    finally:
        hosts.start_minion("web3")
    assert hosts.status("web1", "wwwshared")["state"] == "established"
