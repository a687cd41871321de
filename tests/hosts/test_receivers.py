"""A host that only receives keeps what is changed on it, and shows it; nobody else gets it; it is undone on demand."""

import shutil
import time

import pytest
from places import HOSTS

GROUP, TOP = "receivers", "/srv/receivers"
#: What is changed on the host that only receives: ``{path: kind}``.
LOCAL = {
    f"{TOP}/changed": "changed",
    f"{TOP}/dir/gone": "deleted",
    f"{TOP}/tree": "deleted",
    f"{TOP}/tree/in": "deleted",
    f"{TOP}/new": "new",
    f"{TOP}/newdir": "new",
    f"{TOP}/newdir/a b": "new",
}


@pytest.fixture(scope="module")
def local(hosts):
    """web3 has changed, deleted and made files; the trees of web3 and web1 after that."""
    with hosts.pillar({GROUP: {"members": "web*", "include": [TOP], "receive_only": ["web3"]}}):
        hosts.apply(sls="csyncsync.groups")
        hosts.settled(GROUP, seconds=120)
        for name in ("changed", "dir/gone", "dir/stays", "tree/in"):
            hosts.write("web1", f"{TOP}/{name}", "by web1\n")
        hosts.calm(GROUP, tops=[TOP])
        hosts.shell("web3", f"cd {TOP} && echo local >changed && rm -r dir/gone tree && echo local >new")
        hosts.write("web3", f"{TOP}/newdir/a b", "local\n")
        hosts.eventually(lambda: hosts.ask("web3", "csyncsync.local_changes", GROUP) == LOCAL_NAMES, 30)
        yield hosts.tree("web3", TOP), hosts.tree("web1", TOP)
    for host in HOSTS:
        shutil.rmtree(hosts.path(host, TOP))


LOCAL_NAMES = {path.replace(" ", "%20"): kind for path, kind in LOCAL.items()}


def test_what_is_changed_there_stays_and_nobody_gets_it(hosts, local):
    receiver, sender = local
    for host in HOSTS:
        hosts.push_wholly(host, GROUP)
    time.sleep(5)
    assert hosts.tree("web3", TOP) == receiver
    assert hosts.tree("web1", TOP) == hosts.tree("web2", TOP) == sender
    for host in HOSTS:
        assert not hosts.status(host, GROUP)["dirty"]


def test_the_administrators_table_shows_it_and_how_to_undo_it(hosts, local):
    rows = hosts.run("csyncsync.status", GROUP)["groups"][GROUP]
    assert {row["state"] for row in rows.values()} == {"in sync"}
    (note,) = rows["web3"]["notes"]
    assert "changed (changed)" in note
    assert f"salt-run csyncsync.sync {GROUP} restore=True" in note
    assert not rows["web1"]["notes"]


def test_what_others_change_arrives(hosts, local):
    for number in range(3):
        hosts.write("web1", f"{TOP}/dir/{number}", "x\n")
        hosts.write("web2", f"{TOP}/beside/{number}", "x\n")
        hosts.everywhere(f"{TOP}/dir/{number}", "x\n")
        hosts.everywhere(f"{TOP}/beside/{number}", "x\n")
    assert hosts.read("web3", f"{TOP}/changed") == "local\n"
    hosts.write("web2", f"{TOP}/changed", "by web2\n")
    hosts.everywhere(f"{TOP}/changed", "by web2\n")
    hosts.write("web1", f"{TOP}/tree/in", "again\n")
    hosts.everywhere(f"{TOP}/tree/in", "again\n")
    hosts.settled(GROUP)
    left = {path: kind for path, kind in LOCAL_NAMES.items() if "new" in path or "gone" in path}
    hosts.eventually(lambda: hosts.ask("web3", "csyncsync.local_changes", GROUP) == left, 30)


def test_it_is_undone_on_demand(hosts, local):
    would = hosts.run("csyncsync.sync", GROUP, "restore=True", "test=True")
    assert would[GROUP] == {"web3": {path: kind for path, kind in LOCAL.items() if "new" in path or "gone" in path}}
    assert hosts.read("web3", f"{TOP}/new") == "local\n"
    assert hosts.run("csyncsync.sync", GROUP, "restore=True")[GROUP] == would[GROUP]
    tree = hosts.calm(GROUP, tops=[TOP])
    assert b"dir/gone" in tree
    assert b"new" not in tree
    assert hosts.ask("web3", "csyncsync.local_changes", GROUP) == {}
    assert hosts.run("csyncsync.sync", GROUP, "restore=True")[GROUP] == {"web3": {}}


def test_a_host_that_has_files_of_its_own_when_it_comes_keeps_them(hosts, local):
    """They stay its own when it joins anew, too."""
    hosts.write("web3", f"{TOP}/own/file", "local\n")
    hosts.eventually(lambda: len(hosts.ask("web3", "csyncsync.local_changes", GROUP)) == 2, 30)
    hosts.stop_minion("web3")
    hosts.shell("web3", f"rm /var/lib/csync2/web3_{GROUP}.db3*")
    hosts.write("web1", f"{TOP}/meanwhile", "x\n")
    hosts.start_minion("web3")
    hosts.everywhere(f"{TOP}/meanwhile", "x\n", seconds=60)
    hosts.settled(GROUP, seconds=60)
    own = {f"{TOP}/own": "new", f"{TOP}/own/file": "new"}
    hosts.eventually(lambda: hosts.ask("web3", "csyncsync.local_changes", GROUP) == own, 60)
    assert hosts.read("web3", f"{TOP}/own/file") == "local\n"
    assert hosts.read("web1", f"{TOP}/own/file") is None
