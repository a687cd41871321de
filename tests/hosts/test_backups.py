"""What others overwrote or deleted is kept, listed, and put back on all hosts."""

import hashlib
import os
import shutil
import stat

import pytest
from places import HOSTS

GROUP, TOP, BACKUPS = "wwwkept", "/srv/kept", "/var/backups/files/csync2"
OPTIONS = {"members": "web*", "include": [TOP], "backup_directory": BACKUPS, "backup_generations": 4}


@pytest.fixture(scope="module")
def kept(hosts):
    """The hosts, with a group that keeps old versions."""
    with hosts.pillar({GROUP: OPTIONS}):
        predicted = hosts.apply(sls="csyncsync.groups", test=True)
        assert not hosts.path("web1", BACKUPS).exists()
        done = hosts.apply(sls="csyncsync.groups")
        for host in HOSTS:
            made = [
                answer[host][f"The group {GROUP} is on this host"]["changes"]["made"] for answer in (predicted, done)
            ]
            assert made == [[BACKUPS, TOP]] * 2
            status = hosts.path(host, BACKUPS).stat()
            assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o700, 0)
            assert stat.S_IMODE(hosts.path(host, BACKUPS).parent.stat().st_mode) == 0o755
        hosts.settled(GROUP, seconds=60)
        yield hosts
    for host in HOSTS:
        for path in (TOP, BACKUPS):
            shutil.rmtree(hosts.path(host, path), ignore_errors=True)


def put(hosts, host, name, content):
    """
    Bring a file to a host, and wait until all have it.

    In one step: if owner and mode came later than its content, that may be another push, and a conflict with the next
    host that writes to it.
    """
    file, there = hosts.write(host, f"{TOP}.new", content), hosts.path(host, f"{TOP}/{name}")
    os.chown(file, 33, 33)
    file.chmod(0o640)
    there.parent.mkdir(parents=True, exist_ok=True)
    file.rename(there)
    hosts.calm(GROUP, tops=[TOP])


def delete(hosts, host, name):
    hosts.exec(host, "rm", "-r", f"{TOP}/{name}")
    hosts.calm(GROUP, tops=[TOP])


def digest(content):
    return hashlib.sha256(content.encode()).hexdigest()


def listed(hosts, *names):
    """{name: {host: [(generation, sha256, the line)]}}."""
    answer = hosts.run("csyncsync.backups", GROUP, *(f"{TOP}/{name}" for name in names))
    return {
        path.removeprefix(f"{TOP}/"): {
            host: [(int(line.split()[1].rstrip(":")), line.partition("sha256 ")[2][:64], line) for line in lines]
            for host, lines in there.items()
        }
        for path, there in answer.items()
        if path.startswith("/")
    }


def restore(hosts, name, *arguments):
    answer = hosts.run("csyncsync.restore", GROUP, f"{TOP}/{name}", *arguments)
    return answer[f"{TOP}/{name}"] if isinstance(answer, dict) else answer


def test_a_second_state_apply_changes_nothing(kept):
    for answers in kept.apply(sls="csyncsync.groups").values():
        assert answers[f"The group {GROUP} is on this host"]["changes"] == {}


def test_what_was_overwritten_and_deleted_is_listed_and_put_back(kept):
    versions = ["the first\n", "the second version\n", "the third\n"]
    kept.shell("web1", f"mkdir {TOP}/dir; chown 33:33 {TOP}/dir; chmod 2775 {TOP}/dir")
    for host, content in zip(("web1", "web2", "web1"), versions):
        put(kept, host, "dir/file", content)
    delete(kept, "web1", "dir")
    digests = [digest(content) for content in versions]
    found = listed(kept, "dir/file")["dir/file"]
    assert {host: [sha for _, sha, _ in lines] for host, lines in found.items()} == {
        "web1": digests[:1],
        "web2": digests[:0:-1],
        "web3": digests[::-1],
    }
    older = found["web3"][1][0]
    assert found["web3"][0][0] == 0 < older
    assert f"generation {older}: {len(versions[1])} bytes, replaced 20" in found["web3"][1][2]
    assert " UTC, 0640 www-data:www-data, sha256 " in found["web3"][1][2]
    assert "dir/file" in listed(kept)
    assert list(listed(kept, "dir")) == ["dir/file"]

    done = restore(kept, "dir/file", "host=web3", f"generation={older}")
    assert done == f"generation {older} of web3, {len(versions[1])} bytes, is back on all hosts"
    kept.everywhere(f"{TOP}/dir/file", versions[1], seconds=1)
    kept.equal(TOP)
    for host in HOSTS:
        for name, mode in (("dir", 0o2775), ("dir/file", 0o640)):
            status = kept.path(host, f"{TOP}/{name}").stat()
            assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (mode, 33, 33), (host, name)
    kept.settled(GROUP)
    assert restore(kept, "dir/file", "host=web3", f"generation={older}").endswith(" is what is there already")

    done = restore(kept, "dir/file", "host=web3")
    assert done.endswith(" is back on all hosts; what was there is generation 0 now")
    kept.everywhere(f"{TOP}/dir/file", versions[2], seconds=1)
    assert [sha for _, sha, _ in listed(kept, "dir/file")["dir/file"]["web3"]][:2] == [digests[1], digests[1]]
    kept.settled(GROUP)
    assert kept.states(GROUP) == dict.fromkeys(HOSTS, "in sync")


def test_as_many_versions_are_kept_as_are_wanted(kept):
    for number in range(7):
        put(kept, "web1", "often", f"{number}\n")
    wanted = [digest(f"{number}\n") for number in (5, 4, 3, 2)]
    assert [sha for _, sha, _ in listed(kept, "often")["often"]["web2"]] == wanted


def test_a_name_that_is_no_text(kept):
    name = "odd %41 \\ \udcff "
    put(kept, "web1", name, "old\n")
    delete(kept, "web1", name)
    shown = r"odd %41 \\ \xff\x20"
    assert list(listed(kept, shown)) == [shown]
    assert restore(kept, shown, "host=web2").endswith("is back on all hosts")
    kept.everywhere(f"{TOP}/{name}", "old\n", seconds=1)


def test_many_files_are_not_all_shown(kept):
    kept.shell("web1", f"mkdir {TOP}/many; cd {TOP}/many; for i in $(seq 60); do echo $i >$i; done")
    kept.calm(GROUP, tops=[TOP])
    delete(kept, "web1", "many")
    answer = kept.run("csyncsync.backups", GROUP, f"{TOP}/many")
    assert len([path for path in answer if path.startswith(f"{TOP}/many/")]) == 50
    more = "10 more; name a directory or a file to see them"
    assert answer["… and more"] == {"web2": more, "web3": more}
    assert all(sorted(there) == ["web2", "web3"] for path, there in answer.items() if path.startswith("/"))


def test_nothing_outside_of_the_group_can_be_named(kept):
    put(kept, "web1", "file", "old\n")
    put(kept, "web1", "file", "new\n")
    outside = kept.write("web2", f"{BACKUPS}/etc/passwd", "hostile\n")
    before = kept.read("web2", "/etc/passwd")
    (kept.path("web2", f"{BACKUPS}{TOP}") / "link").symlink_to("/etc/shadow")
    try:
        for path in ("/etc/passwd", f"{TOP}/../../etc/passwd", f"{TOP}//file", "etc/passwd", "file", "", "/"):
            answer = kept.run("csyncsync.restore", GROUP, path, "host=web2")
            assert " is not restored: web2: " in str(answer) and f"is in no include of {GROUP}" in str(answer), answer
            answer = kept.run("csyncsync.backups", GROUP, path)
            assert f"is in no include of {GROUP}" in str(answer), answer
        assert "link is a symlink" in restore(kept, "link", "host=web2")
        assert "link" not in listed(kept)
        assert "no generation 7 of" in restore(kept, "file", "host=web2", "generation=7")
        assert "is no number" in restore(kept, "file", "host=web2", "generation=../x")
        assert "is to be a member that sends: web1, web2, web3" in restore(kept, "file", "host=web9")
        assert "is to be a member that sends: web1, web2, web3" in restore(kept, "file")
        assert "no generation 0 of" in restore(kept, "nothing", "host=web2")
        assert "no host has an old version of" in kept.run("csyncsync.backups", GROUP, f"{TOP}/nothing")
        kept.shell("web1", f"rm {TOP}/file; ln -s /etc/shadow {TOP}/file")
        kept.calm(GROUP, tops=[TOP])
        assert "is a symlink by now" in restore(kept, "file", "host=web2")
        assert kept.read("web2", "/etc/passwd") == before
    finally:
        outside.unlink()
        (kept.path("web2", f"{BACKUPS}{TOP}") / "link").unlink()


def test_a_group_without_old_versions_names_its_option(kept):
    line = "csyncsync:groups:wwwshared:backup_directory is not set: no old versions are kept"
    assert kept.run("csyncsync.backups", "wwwshared") == line
    assert kept.run("csyncsync.restore", "wwwshared", "/var/www/shared/x", "host=web1") == line
    assert line in kept.ask("web1", "csyncsync.backups", "wwwshared")
    assert kept.run("csyncsync.backups", "nothing").startswith("there is no group 'nothing'; there are: ")


def test_a_directory_in_place_of_a_file_that_was_kept(kept):
    """csync2 could keep nothing of what is in it, and would take none of the changes in it."""
    for number in range(3):
        put(kept, "web1", "kind", f"{number}\n")
    kept.shell("web1", f"rm {TOP}/kind; mkdir {TOP}/kind; echo 0 >{TOP}/kind/in")
    kept.calm(GROUP, tops=[TOP])
    for number in range(3):
        put(kept, "web1", "kind/in", f"{number} in it\n")
    assert [sha for _, sha, _ in listed(kept, "kind")["kind"]["web2"]] == [digest("1\n"), digest("0\n")]
    delete(kept, "web1", "kind")
    assert [sha for _, sha, _ in listed(kept, "kind/in")["kind/in"]["web2"]] == [
        digest(content) for content in ("2 in it\n", "1 in it\n", "0 in it\n", "0\n")
    ]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        ("mkdir /var/backups/other; chmod 755 /var/backups/other", "is not for root alone: run chown root"),
        ("echo >/var/backups/other", "is no directory"),
        ("ln -s /nowhere /var/backups/other", "is, or lies below, a symlink to /nowhere: name the real directory"),
        (f"ln -s {BACKUPS} /var/backups/other", f"is, or lies below, a symlink to {BACKUPS}: name the real directory"),
    ],
)
def test_a_directory_that_is_no_place_for_backups_is_refused(kept, make, why):
    kept.shell("web1", make)
    try:
        with kept.pillar({GROUP: {**OPTIONS, "backup_directory": "/var/backups/other"}}):
            for test in (True, False):
                answer = kept.apply("web1", sls="csyncsync.groups", test=test, may_fail=True)["web1"]
                state = answer[f"The group {GROUP} is on this host"]
                assert state["result"] is False and state["changes"] == {}
                assert f"csyncsync:groups:{GROUP}:backup_directory /var/backups/other {why}" in state["comment"]
            assert BACKUPS in kept.config("web1", GROUP)
    finally:
        kept.shell("web1", "rm -rf /var/backups/other")
