"""What the benchmark asks of every system."""

import time

import trees
from bed.shell import TestbedError
from meter import Meter
from progress import say

#: A host that uses less than this, in seconds of processor time above its idle use, for QUIET seconds is at rest.
REST, QUIET = 0.03, 1.3


class System:
    """A system that keeps a tree the same on some hosts. Its daemons stand still while others are measured."""

    #: Its name in results, and in the report.
    name = label = ""
    #: The systemd units that are its daemons on the hosts, and those whose memory counts with them.
    daemons = ()
    #: The unit that runs csync2 for its peers, if it needs one: one at a time has csync2's port.
    listener = ""
    #: What a walk through the tree leaves out.
    skip = ()

    def __init__(self, bed, hosts):
        self.bed, self.hosts = bed, list(hosts)
        self.meter = Meter(bed, hosts)
        self.tree = self.place = None
        self.idle = {}
        self._canaries = 0

    # ---- what each system does in its own way

    def install(self):
        """Bring its packages and settings to the hosts. Called again when there are more hosts."""
        raise NotImplementedError

    def begin(self):
        """Start it on the tree, which is the same on all hosts, and return when it says that it is in sync."""
        raise NotImplementedError

    def end(self):
        """Stop it, and forget the tree."""
        raise NotImplementedError

    def ready(self):
        """Why it could not carry a change now ("" if it could); asked after it has stood still."""
        return ""

    def version(self):
        """What is measured, with its version."""
        raise NotImplementedError

    # ---- what is the same for all

    def top(self, host):
        """Its tree on a host, as it is reached from outside."""
        return str(self.bed.root(host)) + self.place

    def lay(self, tree):
        """Make the files of a tree on all hosts."""
        self.tree, self.place = tree, f"/srv/bench/{self.name}/{tree.name}"
        say(f"  {self.label}: making {tree} on {len(self.hosts)} hosts …")
        trees.remove([self.top(host) for host in self.hosts])
        for number, _ in enumerate(trees.make([self.top(host) for host in self.hosts], tree), 1):
            if tree.count() > 10_000:
                say(f"  {self.label}: {number} of {len(self.hosts)} trees made")

    def start(self):
        """Begin, and prove that a change on each host arrives on all, and that the trees are equal then."""
        began = time.monotonic()
        say(f"  {self.label}: starting on {self.tree}, {len(self.hosts)} hosts …")
        self.begin()
        for host in self.hosts[:3]:
            self.canary(host, 300)
        self.idle = {}
        self.quiet(60)
        self.wait(self._differ, 120, pause=2)
        say(f"  {self.label}: in sync after {time.monotonic() - began:.0f} s")

    def _differ(self):
        different = len(set(trees.digests([self.top(host) for host in self.hosts], self.skip))) > 1
        return "it is at rest, but the trees differ" if different else ""

    def finish(self):
        """End, and delete the trees."""
        self.end()
        trees.remove([self.top(host) for host in self.hosts])

    def again(self):
        """Start anew with fresh trees, after a workload that it did not master."""
        say(f"  {self.label}: did not converge; begins anew …")
        self.end()
        self.lay(self.tree)
        self.start()

    def pause(self):
        """Let it stand still."""
        self.meter.stop(self.daemons)
        self.listen(False)

    def listen(self, wanted):
        """Have csync2's port, or leave it to others."""
        for host in self.hosts if self.listener else ():
            self.bed.exec(host, "systemctl", "start" if wanted else "stop", self.listener)

    def resume(self):
        """Let it go on, and return when it carries changes again and is at rest."""
        self.listen(True)
        self.meter.go_on(self.daemons)
        self.wait(self.ready, 90)
        self.canary(self.hosts[0], 120)
        self.quiet()

    def canary(self, host, seconds):
        """Change a file on one host, and wait until it is the same on all."""
        self._canaries += 1
        content = f"{self._canaries} from {host}\n" * (1 + self._canaries % 7)
        with open(f"{self.top(host)}/{trees.CANARY}{host}", "w", encoding="utf-8") as file:
            file.write(content)

        def missing():
            for other in self.hosts:
                try:
                    with open(f"{self.top(other)}/{trees.CANARY}{host}", encoding="utf-8") as file:
                        if file.read() != content:
                            return f"{other} has not got what {host} wrote"
                except FileNotFoundError:
                    return f"{other} has not got what {host} wrote"
            return ""

        self.wait(missing, seconds, pause=0.02)

    def wait(self, objection, seconds, pause=0.5):
        """Wait until there is no objection any more; every ten seconds it is told what it is waiting for."""
        began = told = time.monotonic()
        while why := objection():
            now = time.monotonic()
            if now - began > seconds:
                raise TestbedError(f"{self.label}: after {seconds} s: {why}")
            if now - told > 10:
                told = now
                say(f"  {self.label}: waiting for {now - began:.0f} s: {why[:150]}")
            time.sleep(pause)

    def quiet(self, seconds=20):
        """Wait, at most so long, until its hosts have been at rest for QUIET seconds; whether they have."""
        limit = time.monotonic() + seconds
        since = self.meter.read()
        while time.monotonic() < limit:
            time.sleep(0.1)
            spent = self.meter.spent(since, self.idle or {host.name: 0.05 for host in self.meter.hosts})
            spent.pop("master")
            if max(spent.values()) > REST:
                since = self.meter.read()
            elif time.monotonic() - since[0] >= QUIET:
                return True
        return False

    def memory(self):
        """Resident bytes of its daemons on the host where they use most."""
        return max(host.memory(self.daemons) for host in self.meter.hosts)
