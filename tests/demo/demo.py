#!/usr/bin/python3
"""
Boot a Salt master and three hosts, apply the states, and show files appear, change and vanish on all hosts.

The cluster stays up afterwards; `make demo-down` ends it.
"""

import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "testbed"))
os.environ.setdefault("TESTBED_NAME", "demo")

from bed.cluster import Testbed  # noqa: E402
from bed.install import install  # noqa: E402
from bed.shell import TestbedError, say  # noqa: E402

PATIENCE = 60  # seconds
SHARED, DATA = Path("var/www/shared"), Path("var/www/data/zip")


def everywhere(bed, hosts, path, wanted):
    """Wait until the file has this content (None: is gone) on all hosts. Returns the seconds for each host."""
    began, seconds = time.monotonic(), {}
    files = {host: bed.root(host) / path for host in hosts}
    while len(seconds) < len(hosts):
        for host, file in files.items():
            if host not in seconds and content(file) == wanted:
                seconds[host] = time.monotonic() - began
        if time.monotonic() - began > PATIENCE:
            raise TestbedError(
                f"/{path} is not the same everywhere after {PATIENCE} s; see: testbed salt-run csyncsync.status"
            )
        time.sleep(0.005)
    return seconds


def content(file):
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def show(bed, hosts, path, origin, what, wanted):
    """Make one change on one host and print when the others had it."""
    file = bed.root(origin) / path
    if wanted is None:
        file.unlink()
    else:
        file.write_text(wanted, encoding="utf-8")
    seconds = everywhere(bed, hosts, path, wanted)
    others = "   ".join(f"{host} {seconds[host]:5.2f} s" for host in hosts if host != origin)
    print(f"  {what:8} /{path!s:28} on {origin}   →   {others}", flush=True)


def show_slow_sync(bed, hosts):
    """A large file goes through wwwdata; a small one through wwwshared overtakes it."""
    print("\nA large file in wwwdata does not delay a small one in wwwshared:", flush=True)
    large = DATA / "large.zip"
    size = 300 * 1024 * 1024
    with open(bed.root("web1") / large, "wb") as file:
        for _ in range(size // 2**20):
            file.write(os.urandom(2**20))
    began = time.monotonic()
    time.sleep(1)  # the large one is on its way
    show(bed, hosts, SHARED / "small.txt", "web1", "appear", "overtaken\n")
    files = [bed.root(host) / large for host in hosts]
    while not all(file.exists() and file.stat().st_size == size for file in files):
        if time.monotonic() - began > 300:
            raise TestbedError("the large file is not everywhere after 300 s")
        time.sleep(0.1)
    print(f"  the large file ({size >> 20} MiB) was everywhere after {time.monotonic() - began:.1f} s", flush=True)
    (bed.root("web1") / large).unlink()


def main():
    """The whole demonstration."""
    bed = Testbed()
    bed.up(3)
    hosts = bed.hosts()[:3]
    install(bed, hosts)
    print(
        "\nThree web servers, two groups (pillar.example), one `state.apply`. From any host to any other:\n", flush=True
    )
    for origin in hosts:
        path = SHARED / f"from-{origin}.txt"
        show(bed, hosts, path, origin, "appear", "hello\n")
        show(bed, hosts, path, origin, "change", "hello again\n")
        show(bed, hosts, path, origin, "vanish", None)
    show_slow_sync(bed, hosts)
    command = f"TESTBED_NAME={bed.name} tests/testbed/testbed"
    print(
        f"""
The cluster is up. Try:
  {command} exec web2 -- sh -c 'echo hi >/var/www/shared/hi'
  {command} exec web3 -- cat /var/www/shared/hi
  {command} salt-run csyncsync.status
  {command} salt-run state.event pretty=True          # watch the chain: beacon, job, pushed
  {command} exec master -- vi /srv/pillar/csyncsync.sls && {command} salt '*' state.apply csyncsync
  make demo-down                                        # end it
"""
    )


if __name__ == "__main__":
    try:
        main()
    except TestbedError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        say("interrupted; `make demo-down` ends what is running")
        sys.exit(130)
