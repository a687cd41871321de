"""A testbed: one master, some hosts, and the switch between them. Tests import `Testbed` from here."""

import json
import os
import re
from pathlib import Path

from .cgroup import Cgroup
from .hosts import Host
from .image import ensure_image, ensure_tools
from .network import Network, address
from .shell import TestbedError, locked, remove_tree, say, wait_for

STATES = Path("/var/lib/csyncsync-testbed")
#: What a host may be called.
NAME = r"master|web[0-9]+"


class Testbed:
    """
    One testbed by its name; the name tells two of them on one machine apart.

    tested
        It is made for tests: its hosts wait less, and have keys that cost less (see bed/waits.py, bed/hosts.py).
    """

    __test__ = False  # pytest: not a test class

    def __init__(self, name=None, tested=False):
        self.tested = tested
        self.name = name or os.environ.get("TESTBED_NAME") or "csyncsync"
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,19}", self.name):
            raise TestbedError(f"bad TESTBED_NAME {self.name!r}: use up to 20 lower-case letters, digits, dashes")
        if os.geteuid() != 0:
            raise TestbedError("needs root: sudo tests/testbed/testbed …")
        self.state = STATES / self.name
        self.network = Network(self.name)

    def _lock(self):
        return locked(f"/run/lock/csyncsync-testbed-{self.name}", f"testbed {self.name}")

    def _host(self, name):
        return Host(self.name, name, self.state / name, self.network, self.tested)

    def _all(self):
        """All hosts with something on disk, half-built ones too: master first, then by number."""
        names = [path.name for path in self.state.iterdir()] if self.state.exists() else []
        return [self._host(name) for name in sorted(names, key=lambda name: (name != "master", len(name), name))]

    def find(self, name):
        """An existing host by its name."""
        if re.fullmatch(NAME, name) and (host := self._host(name)).exists():
            return host
        hosts = {host.name: host for host in self._all() if host.exists()}
        if not hosts:
            raise TestbedError("not up: run `testbed up` first")
        if name not in hosts:
            raise TestbedError(f"unknown host {name!r}: there are {', '.join(hosts)}")
        return hosts[name]

    def hosts(self):
        """The names of the hosts without the master."""
        return [host.name for host in self._all() if host.exists() and host.name != "master"]

    # ---- up and down

    def up(self, hosts=3):
        """Boot the master and web1…webN, as far as they are not running, and wait for their minions."""
        ensure_tools()
        image = ensure_image()
        names = ["master"] + [f"web{number}" for number in range(1, hosts + 1)]
        with self._lock():
            wanted = [self._host(name) for name in names]
            started = self._start(wanted, image)
            for host in wanted:
                if host.is_cut():
                    self._plug(host, True)
            keys = wanted[0].root() / "etc/salt/pki/master"
            for host in wanted[1:]:
                # A minion whose key was deleted does not ask again by itself.
                if host.name not in started and not (keys / "minions" / host.name).exists():
                    say(f"restarting the minion of {host.name}, the master has no key of it …")
                    host.run("systemctl", "restart", "salt-minion")
            self._await_minions(keys, names[1:])
        say("up")

    def _start(self, wanted, image):
        """Power on those of the wanted hosts that are off, making the missing ones first; returns their names."""
        off = [host for host in wanted if not host.leader()]
        if not off:
            return []
        say(f"booting {', '.join(host.name for host in off)} …")
        self.network.create()
        for host in off:
            host.stop()  # leftovers of an interrupted call
            if not host.exists():
                host.create(image)
            host.start()
        for host in off:
            host.wait_up()
        return [host.name for host in off]

    def _await_minions(self, keys, names):
        """Accept the keys of the named minions and wait until each of them answers."""
        say("waiting for the minions …")
        missing = [name for name in names if not (keys / "minions" / name).exists()]

        def accepted():
            for name in [name for name in missing if (keys / "minions_pre" / name).exists()]:
                self.salt_key("--yes", f"--accept={name}")
            return all((keys / "minions" / name).exists() for name in missing)

        wait_for("the minions' first contact", accepted, 120)

        def answering():
            # Asks with short waits (`salt` itself cannot be told to): a minion that has not subscribed yet
            # misses the question, so it is better to ask again soon.
            done = self.salt_run("manage.up", "timeout=1", "gather_job_timeout=1", "--out=json", check=False)
            return not done.returncode and set(json.loads(done.stdout)) >= set(names)

        if names:
            wait_for("the minions' answer", answering, 120)

    def down(self):
        """Remove everything that belongs to the testbed; only the image stays."""
        with self._lock():
            for host in self._all():
                host.stop()
            # What a call left that ended before its host had a folder.
            everything = Cgroup(self.name, "")
            everything.kill()
            everything.remove()
            self.network.remove()
            remove_tree(self.state)

    # ---- inside

    def exec(self, host, *command, check=True, **options):
        """Run a command inside a host (see shell.run for the options)."""
        return self.find(host).run(*command, check=check, **options)

    def salt(self, *args, check=True, **options):
        """Run `salt` on the master."""
        return self.exec("master", "salt", *args, check=check, **options)

    def salt_run(self, *args, check=True, **options):
        """Run `salt-run` on the master."""
        return self.exec("master", "salt-run", *args, check=check, **options)

    def salt_key(self, *args, check=True, **options):
        """Run `salt-key` on the master."""
        return self.exec("master", "salt-key", *args, check=check, **options)

    def salt_json(self, *args, timeout=None):
        """Run `salt` on the master and return its answers as {minion: value}."""
        extra = [] if timeout is None else [f"--timeout={timeout}"]
        done = self.salt(*extra, "--static", "--out=json", *args, check=False)
        try:
            # Nothing printed means that no minion answered, except if it was misused (64).
            return json.loads(done.stdout or ("" if done.returncode == 64 else "{}"))
        except ValueError as error:
            text = " / ".join((done.stderr + done.stdout).strip().splitlines()[-3:])
            raise TestbedError(f"salt did not answer in JSON: {text}") from error

    def root(self, host):
        """The path under which a host's files can be reached from outside."""
        return self.find(host).root()

    # ---- faults

    def kill(self, host):
        """Power a host off hard."""
        with self._lock():
            self.find(host).stop()

    def boot(self, host):
        """Power a host on again, with its disk as it was, and wait until it is up."""
        with self._lock():
            found = self.find(host)
            if not found.leader():
                self.network.create()
                found.stop()
                found.start()
                found.wait_up()

    def cut(self, host):
        """Unplug a host's network."""
        with self._lock():
            self._plug(self.find(host), False)

    def heal(self, host):
        """Plug a host's network in again."""
        with self._lock():
            self._plug(self.find(host), True)

    def _plug(self, host, plugged):
        if plugged:
            host.cutfile.unlink(missing_ok=True)
        else:
            host.cutfile.touch()
        self.network.plug(host.name, plugged)

    def status(self):
        """One (name, address, "running" or "off", "cut" or "", pid or "") for each host."""
        rows = []
        for host in [host for host in self._all() if host.exists()]:
            pid = host.leader()
            rows.append(
                (host.name, address(host.name), "running" if pid else "off", "cut" if host.is_cut() else "", pid or "")
            )
        return rows
