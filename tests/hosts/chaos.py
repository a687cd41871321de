"""What breaks, and how it is put right again. Nothing here runs a command of csyncsync or csync2."""

import contextlib
import time

DATABASE = "/var/lib/csync2/{host}_wwwshared.db3"

#: Keeps csync2's database locked for as long as it runs.
LOCK = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
database.execute("BEGIN " + sys.argv[2])
database.execute("SELECT count(*) FROM file").fetchall()
time.sleep(float(sys.argv[3]))
"""

#: Fires 1,000 events a second on the master's bus, each for a reactor of csyncsync.
FLOOD = """
import sys, time, salt.config, salt.utils.event
options = salt.config.master_config("/etc/salt/master")
until = time.time() + float(sys.argv[1])
with salt.utils.event.get_master_event(options, options["sock_dir"], listen=False) as bus:
    while time.time() < until:
        for _ in range(100):
            bus.fire_event({"data": "x" * 200}, "chaos/flood")
        time.sleep(0.1)
"""


def python(hosts, host, script, *arguments):
    """Start a script on a host, beside everything else."""
    hosts.exec(
        host, "systemd-run", "--quiet", "--collect", "/opt/salt/bin/python", "-W", "ignore", "-c", script, *arguments
    )


def lock(hosts, host, mode, seconds):
    """
    Lock csync2's database on a host for so long: nobody reads (EXCLUSIVE), nobody writes (IMMEDIATE), or nobody commits
    (DEFERRED).
    """
    python(hosts, host, LOCK, DATABASE.format(host=host), mode, str(seconds))


@contextlib.contextmanager
def master_stopped(hosts, host):
    hosts.close()
    hosts.exec("master", "systemctl", "stop", "salt-master")
    yield 15
    hosts.exec("master", "systemctl", "start", "salt-master")


@contextlib.contextmanager
def master_killed(hosts, host):
    hosts.close()
    hosts.bed.kill("master")
    yield 5
    hosts.bed.boot("master")


@contextlib.contextmanager
def minion_started_without_a_master(hosts, host):
    hosts.close()
    hosts.exec("master", "systemctl", "stop", "salt-master")
    hosts.exec(host, "systemctl", "restart", "salt-minion")
    yield 8
    hosts.exec("master", "systemctl", "start", "salt-master")


@contextlib.contextmanager
def minion_killed(hosts, host):
    hosts.exec(host, "systemctl", "kill", "--signal=KILL", "salt-minion", check=False)
    yield 3
    hosts.exec(host, "systemctl", "restart", "salt-minion")


@contextlib.contextmanager
def watcher_killed(hosts, host):
    hosts.exec(host, "systemctl", "kill", "--signal=KILL", "csyncsync-watch", check=False)
    yield 3


@contextlib.contextmanager
def watcher_replaced(hosts, host):
    hosts.exec(host, "systemctl", "restart", "csyncsync-watch")
    yield 1


@contextlib.contextmanager
def minion_restarted(hosts, host):
    hosts.exec(host, "systemctl", "restart", "salt-minion")
    yield 1


@contextlib.contextmanager
def minion_upgraded(hosts, host):
    """As far as the formula goes: all modules are synced and loaded anew."""
    with contextlib.suppress(AssertionError):  # the master has just been killed
        for function in ("saltutil.sync_all", "saltutil.refresh_pillar", "saltutil.refresh_modules"):
            hosts.call([host], function)
    yield 1


@contextlib.contextmanager
def host_powered_off(hosts, host):
    hosts.bed.kill(host)
    yield 5
    hosts.bed.boot(host)


@contextlib.contextmanager
def network_cut(hosts, host):
    hosts.bed.cut(host)
    yield 15
    hosts.bed.heal(host)


@contextlib.contextmanager
def csync2_killed(hosts, host):
    """Whatever csync2 runs there, again and again."""
    for _ in range(20):
        hosts.exec(host, "pkill", "-KILL", "-x", "csync2", check=False)
        time.sleep(0.2)
    yield 0


@contextlib.contextmanager
def csync2_stopped(hosts, host):
    """The processes stand still, and nobody accepts a connection."""
    hosts.exec(host, "systemctl", "kill", "--signal=STOP", "csyncsync-server", check=False)
    hosts.exec(host, "pkill", "-STOP", "-x", "csync2", check=False)
    yield 5
    hosts.exec(host, "pkill", "-CONT", "-x", "csync2", check=False)
    hosts.exec(host, "systemctl", "kill", "--signal=CONT", "csyncsync-server", check=False)


@contextlib.contextmanager
def push_killed(hosts, host):
    """With the job of the minion that runs it: whoever holds the lock of the group."""
    script = """
        inode=$(stat -c %i /var/lib/csyncsync/wwwshared/lock)
        kill -KILL $(awk -v i=$inode '$6 ~ ":" i "$" { print $5 }' /proc/locks) 2>/dev/null"""
    for _ in range(10):
        hosts.exec(host, "sh", "-c", script, check=False)
        time.sleep(0.3)
    yield 0


@contextlib.contextmanager
def reactor_killed(hosts, host):
    hosts.exec("master", "pkill", "-KILL", "-f", "Reactor", check=False)
    yield 3


@contextlib.contextmanager
def database_deleted(hosts, host):
    hosts.path(host, DATABASE.format(host=host)).unlink(missing_ok=True)
    yield 1


@contextlib.contextmanager
def database_truncated(hosts, host):
    with contextlib.suppress(FileNotFoundError), open(hosts.path(host, DATABASE.format(host=host)), "r+b") as file:
        file.truncate(5000)
    yield 1


@contextlib.contextmanager
def database_locked(hosts, host):
    lock(hosts, host, "EXCLUSIVE", 20)
    yield 20


@contextlib.contextmanager
def bus_flooded(hosts, host):
    python(hosts, "master", FLOOD, "10")
    yield 10


FAULTS = {
    name: fault
    for name, fault in vars().items()
    if callable(fault) and getattr(fault, "__wrapped__", None) and name != "contextmanager"
}
