"""A file whose sending takes long holds up nobody, and arrives; a socket is no change."""

import os
import threading
import time

import pytest
from places import HOSTS, SHARED

pytestmark = pytest.mark.usefixtures("in_sync")

#: Bytes of a file without blocks that csync2 reads, on both sides, for many seconds.
SPARSE = int(os.environ.get("SPARSE_BYTES", "300_000_000"))
#: Seconds that a small change may take meanwhile.
MEANWHILE = 6


def test_a_sparse_file_holds_up_nobody_and_arrives(hosts):
    """Also while it is written again and again."""
    top = f"{SHARED}/large-{int(time.time())}"
    hosts.write("web1", f"{top}/small", "0\n")
    hosts.calm("wwwshared", tops=[top])
    path, enough = hosts.path("web1", f"{top}/sparse"), threading.Event()

    def write_again():
        for number in range(1000):
            with open(path, "r+b" if number else "wb") as file:
                file.truncate(SPARSE + number)
                file.write(b"%d" % number)
            if enough.wait(4):
                return

    writer, took = threading.Thread(target=write_again), []
    writer.start()
    try:
        until = time.monotonic() + 25
        while time.monotonic() < until:
            for host in HOSTS:
                began, name = time.monotonic(), f"{top}/of-{host}-{len(took)}"
                hosts.write(host, name, "x\n")
                hosts.everywhere(name, "x\n", seconds=60)
                took.append(time.monotonic() - began)
            time.sleep(0.5)
    finally:
        enough.set()
        writer.join()
    print(f"{len(took)} small changes beside a sparse file: up to {max(took):.1f} s")
    size = path.stat().st_size

    def arrived():
        return {(hosts.path(host, top) / "sparse").stat().st_size for host in HOSTS} == {size}

    began = time.monotonic()
    hosts.eventually(arrived, 240, "the sparse file is everywhere")
    print(f"the sparse file was everywhere {time.monotonic() - began:.1f} s after it was written last")
    hosts.settled("wwwshared", seconds=120)
    assert max(took) < MEANWHILE
    hosts.remove("web2", top)
    hosts.settled("wwwshared")


def test_a_socket_is_no_change(hosts):
    """Alone, in a new directory, in place of a file and a file in its place; a directory that it is in is renamed."""
    top = f"{SHARED}/sockets-{int(time.time())}"
    make = "import os, stat, sys; [os.mknod(path, stat.S_IFSOCK | 0o777) for path in sys.argv[1:]]"

    def sockets(*names):
        hosts.exec("web1", "/opt/salt/bin/python", "-c", make, *(f"{top}/{name}" for name in names))

    hosts.write("web1", f"{top}/file", "first\n")
    hosts.everywhere(f"{top}/file", "first\n")
    hosts.shell("web1", f"mkdir {top}/d")
    sockets("alone", "d/socket")
    hosts.shell("web1", f"rm {top}/file")
    sockets("file")
    hosts.everywhere(f"{top}/file", None, hosts=["web2", "web3"])
    hosts.settled("wwwshared", seconds=30)
    there = {"d", "e"}
    assert sorted(os.listdir(hosts.path("web2", top))) == sorted(os.listdir(hosts.path("web3", top))) == ["d"]
    hosts.shell("web1", f"rm {top}/file; echo second >{top}/file; mv {top}/d {top}/e")
    hosts.everywhere(f"{top}/file", "second\n")
    hosts.eventually(lambda: {*os.listdir(hosts.path("web3", top))} & there == {"e"}, 30, "the directory is renamed")
    answer = hosts.push_wholly("web1", "wwwshared")
    assert answer["left"] == {}
    hosts.settled("wwwshared", seconds=30)
    assert hosts.states("wwwshared") == dict.fromkeys(HOSTS, "in sync")
    hosts.exec("web1", "rm", "-r", top)
    hosts.eventually(lambda: not any(hosts.path(host, top).exists() for host in HOSTS), 30, "all are gone")
    hosts.settled("wwwshared", seconds=30)
