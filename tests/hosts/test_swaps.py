"""A user swaps a directory in an include for a symlink to one of root's: root shows and changes nothing there."""

import hashlib
import json
import shutil

import pytest
from places import HOSTS

GROUP, TOP, BACKUPS = "wwwswapped", "/srv/swapped", "/var/backups/swapped"
OPTIONS = {"members": "web*", "include": [TOP], "backup_directory": BACKUPS}
FILE = f"{TOP}/u/d/file"
#: What each side of the conflict has: of different sizes, so that no two states look the same.
CHANGED = {"web1": "changed on web1\n", "web3": "changed on web3, too\n"}
#: A directory of root's that looks like the one in the include, and what is in its file.
SECRETS, SECRET = "/root/secrets", "root's own password, longer than the others\n"
#: As the user that the directory belongs to.
USER = "setpriv --reuid=33 --regid=33 --clear-groups"
#: Run by him, exchanges two names until it is ended; not so fast that the watcher has no time for anything else.
SWAP = f"""
import ctypes, time
libc = ctypes.CDLL(None)
while True:
    libc.renameat2(-100, b'{TOP}/u/d', -100, b'{TOP}/u/away', 2)
    time.sleep(0.002)
"""


@pytest.fixture(scope="module")
def swapped(hosts):
    """
    The hosts, with a conflict and old versions of a file, when the directory above it has become a symlink on web1, and
    the copy of it in web2's backups, too; nobody pushes.
    """
    with hosts.pillar({GROUP: OPTIONS}):
        hosts.apply(sls="csyncsync.groups")
        hosts.settled(GROUP, seconds=120)
        hosts.shell("web1", f"install -d -o 33 -g 33 {TOP}/u {TOP}/u/d")
        for content in ("first\n", "second\n"):
            hosts.write("web1", FILE, content)
            hosts.calm(GROUP, tops=[TOP])
        hosts.run("csyncsync.pause", GROUP)
        for host, content in CHANGED.items():
            hosts.write(host, FILE, content)
            hosts.eventually(lambda host=host: hosts.status(host, GROUP)["journal"], 30, "the change is heard of")
        hosts.run("csyncsync.resume", GROUP)
        hosts.eventually(lambda: FILE in hosts.run("csyncsync.conflicts", GROUP)[GROUP], 60, "there is a conflict")
        hosts.run("csyncsync.pause", GROUP)
        for host in HOSTS:
            hosts.shell(host, f"mkdir -m 700 {SECRETS}")
            hosts.write(host, f"{SECRETS}/file", SECRET).chmod(0o600)
            hosts.write(host, f"{SECRETS}/file.1", SECRET).chmod(0o600)
        hosts.shell("web1", f"{USER} sh -c 'mv {TOP}/u/d {TOP}/u/away && ln -s {SECRETS} {TOP}/u/d'")
        hosts.shell("web2", f"mv {BACKUPS}{TOP}/u/d {BACKUPS}{TOP}/u/away && ln -s {SECRETS} {BACKUPS}{TOP}/u/d")
        before = {host: hosts.tree(host, SECRETS) for host in HOSTS}
        yield hosts
        hosts.run("csyncsync.resume", GROUP)
        assert {host: hosts.tree(host, SECRETS) for host in HOSTS} == before
    for host in HOSTS:
        for path in (TOP, BACKUPS, SECRETS):
            shutil.rmtree(hosts.path(host, path))


def hides(answer):
    """An answer, in which nothing is of root's file."""
    text = json.dumps(answer)
    for told in (SECRET.strip(), hashlib.sha256(SECRET.encode()).hexdigest(), f": {len(SECRET)}", f"{len(SECRET)} b"):
        assert told not in text
    return answer


def test_a_conflict_is_shown_without_what_is_elsewhere(swapped):
    shown = hides(swapped.run("csyncsync.conflicts", GROUP, "diff=True"))[GROUP][FILE]
    assert shown["web1"]["type"] == "nothing"
    assert shown["web3"]["size"] == len(CHANGED["web3"])
    there = hides(swapped.ask("web1", "csyncsync.versions", GROUP, [FILE, f"{TOP}/u/d"], True))
    assert there[FILE]["type"] == "nothing" and there[f"{TOP}/u/d"]["target"] == SECRETS


def test_a_comparison_reads_nothing_elsewhere(swapped):
    # The include, u, away and what is in it, the symlink.
    assert swapped.ask("web1", "csyncsync.contents", GROUP) == {"files": 5, "bytes": len(CHANGED["web1"])}
    digests = swapped.ask("web1", "csyncsync.contents", GROUP, f"slots={list(range(4096))}")
    assert sorted(digests) == sorted([TOP, *(f"{TOP}/u{name}" for name in ("", "/away", "/away/file", "/d"))])
    found = hides(swapped.run("csyncsync.verify", GROUP))
    assert found["differences"][FILE]["web1"]["type"] == "nothing"


def test_no_old_version_is_elsewhere_and_none_is_put_back_there(swapped):
    listed = hides(swapped.run("csyncsync.backups", GROUP, FILE))
    assert {*listed[FILE]} == {"web3"}
    assert f"{BACKUPS}{TOP}/u/d is no directory" in hides(swapped.ask("web2", "csyncsync.restore", GROUP, FILE))
    swapped.shell("web3", f"mv {TOP}/u/d {TOP}/u/away && ln -s {SECRETS} {TOP}/u/d")
    try:
        assert f"{TOP}/u/d is no directory" in hides(swapped.ask("web3", "csyncsync.restore", GROUP, FILE))
    finally:
        swapped.shell("web3", f"rm {TOP}/u/d && mv {TOP}/u/away {TOP}/u/d")


def test_nor_while_the_user_swaps_them_all_the_time(swapped):
    swapped.shell("web1", f'systemd-run -q --unit=swaps {USER} /opt/salt/bin/python3 -c "{SWAP}"')
    seen = set()
    try:
        for _ in range(6):
            there = hides(swapped.ask("web1", "csyncsync.versions", GROUP, [FILE], True))
            seen.add(there[FILE].get("text") if isinstance(there, dict) else there)
            slots = hides(swapped.ask("web1", "csyncsync.contents", GROUP, f"slots={list(range(4096))}"))
            assert not [path for path in slots if path.endswith("file.1")]
    finally:
        swapped.shell("web1", "systemctl stop swaps")
    assert seen <= {None, CHANGED["web1"]}
