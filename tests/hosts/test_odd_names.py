"""Names of files that hold csync2's own words, on real hosts: they arrive and go, and stop nothing."""

import json
import os
import time

import pytest
from places import HOSTS, SHARED
from test_conflicts import apart

pytestmark = pytest.mark.usefixtures("in_sync")


def names(address):
    """As somebody would choose them who knows what csync2 says about a peer with this address."""
    return [
        f"a on {address} ...\nERROR: Connection to remote host `{address}' failed.",
        f"a on {address} ...\nSSL: handshake failed",
        f"b on {address} ...\nPeer did provide a wrong SSL X509 cetrificate.\n",
        f"c on {address} ...\nFile stays in dirty state. Try again later...\nFinished with 99 errors.\n",
        f"Updating a on {address} ...\n",
        f"d\nDeleting a on {address} ...\n>>> PEER:  ---\n>>> LOCAL: v1",
        f"e on {address} ...\nmissing parent dir : f",
        f"L\t{address}\t{address}\tg\nR\t{address}\t{address}\th",
        "i\nFetched tuple from peer: j [v1:mode=33188:uid=0:gid=0:type=reg:size=1]\nOK (cmd_finished).\n",
        f"response from peer(k): {address} [0] <- No space left on device\n",
        "\x1b[2J\u2028SSL: l",
        "Connection closed.\nFinished with 1 errors.\n",
    ]


def test_names_that_are_csync2s_own_messages_are_names(hosts):
    """All arrive; a conflict on one of them is shown as one, in one line; and all go, with every host reachable."""
    top = f"{SHARED}/names-{int(time.time())}"
    config = json.loads(hosts.read("web1", "/var/lib/csyncsync/wwwshared/config.json"))
    addresses = [config["hosts"][host]["address"] for host in HOSTS]
    ours = {f"{top}/{number}/{name}" for number, address in enumerate(addresses) for name in names(address)}
    for path in ours:
        hosts.write("web1", path, "the first version\n")
    hosts.calm("wwwshared", tops=[top], seconds=60)
    assert {path for path in ours if hosts.read("web3", path) is None} == set()

    path = f"{top}/1/{names(addresses[1])[0]}"
    with apart(hosts, "wwwshared", path, {"web1": "changed on web1\n", "web3": "changed on web3, too\n"}):
        for other in ours - {path}:
            hosts.write("web1", other, "the second version\n")
    hosts.eventually(lambda: len(hosts.run("csyncsync.conflicts", "wwwshared")["wwwshared"]) == 1, 90, "one conflict")
    for other in ours - {path}:
        hosts.everywhere(other, "the second version\n")
    hosts.eventually(lambda: not any(hosts.status(host, "wwwshared")["unreachable"] for host in HOSTS), 30, "reached")
    assert "CONFLICT with web3: " in hosts.states("wwwshared")["web1"]
    shown = hosts.salt_run("csyncsync.status", "wwwshared").stdout.splitlines()
    told = [line for line in shown if "CONFLICT with web3: " in line and "wwwshared on web1: " in line]
    assert len(told) == 1 and f"/1/a on {addresses[1]} ...\\x0aERROR: Connection to remote host" in told[0], shown
    done = hosts.run("csyncsync.resolve", "wwwshared", "winner=web1")
    assert [*done.values()] == ["web1's version is on all hosts"]
    hosts.everywhere(path, "changed on web1\n")
    hosts.exec("web2", "rm", "-rf", top)
    hosts.eventually(lambda: not any(os.path.lexists(hosts.path(host, top)) for host in HOSTS), 60, "all are gone")
    hosts.settled("wwwshared")
