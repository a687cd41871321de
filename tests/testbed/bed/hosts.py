"""One host: its disk, its boot, its hard power-off, and the ways into it."""

import contextlib
import os
import shutil
import subprocess
import uuid
from pathlib import Path

from .cgroup import Cgroup
from .network import address
from .shell import TestbedError, remove_tree, run, wait_for

REPOSITORY = Path(__file__).resolve().parents[3]
FORMULA = ("_modules", "_states", "_beacons", "_runners", "_output", "_pillar", "_utils", "states", "pillar.example")

MASTER_CONFIG = """\
interface: {address}
open_mode: False
auto_accept: False
worker_threads: 5
timeout: 5
gather_job_timeout: 5
"""

# A minion must find its way back soon after its master or its network was gone: the keepalive
# notices a master that lost power (it sends no FIN), the other numbers are short waits.
MINION_CONFIG = """\
id: {host}
master: {master}
acceptance_wait_time: 1
acceptance_wait_time_max: 2
random_reauth_delay: 1
auth_timeout: 5
auth_tries: 20
recon_default: 500
recon_max: 3000
recon_randomize: False
tcp_keepalive: True
tcp_keepalive_idle: 3
tcp_keepalive_cnt: 3
tcp_keepalive_intvl: 2
grains_cache: False
"""

#: For master and minions of a testbed for tests. Salt loads its private key anew for whatever a minion asks or answers,
#: and to check one of the usual 2048 bits takes 55 ms of a core (cryptography 50): a third of what a test needs.
SMALL_KEYS = "keysize: 1024\n"

# nspawn leaves a reboot from inside the host to who started it: it ends with this exit code.
KEEP_ON = 'while :; do "$@"; [ $? -eq 133 ] || exit; done'

ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "TERM": os.environ.get("TERM", "dumb"),
    "USER": "root",
}


class Host:
    """One host of a testbed; everything it leaves on the machine lies in `state`."""

    def __init__(self, testbed, name, state, network, tested=False):
        self.name = name
        self.tested = tested
        self.machine = f"csyncsync-{testbed}-{name}"
        self.state = Path(state)
        self.disk = self.state / "root"
        self.cutfile = self.state / "cut"
        self.network = network
        self.cgroup = Cgroup(testbed, name)

    def exists(self):
        """Whether the host has a disk."""
        return (self.state / "ready").exists()

    def leader(self):
        """The pid of the host's init, None while it is powered off."""
        return self.cgroup.leader()

    def is_cut(self):
        """Whether its network is unplugged."""
        return self.cutfile.exists()

    # ---- disk

    def create(self, image):
        """Make the host's disk: an empty layer over the image, and in it what differs from host to host."""
        remove_tree(self.state)
        for part in ("root", "upper", "work"):
            (self.state / part).mkdir(parents=True)
        (self.state / "image").symlink_to(image)
        self.mount()
        self._write("etc/hostname", f"{self.name}\n")
        self._write("etc/machine-id", f"{uuid.uuid4().hex}\n")
        self._write("etc/hosts", self._hosts_file())
        if self.name == "master":
            text = MASTER_CONFIG.format(address=address("master"))
            self._write("etc/salt/master.d/testbed.conf", text + (SMALL_KEYS if self.tested else ""))
            self._enable("salt-master.service")
        else:
            text = MINION_CONFIG.format(host=self.name, master=address("master"))
            self._write("etc/salt/minion.d/testbed.conf", text + (SMALL_KEYS if self.tested else ""))
            self._enable("salt-minion.service")
        (self.state / "ready").touch()

    def _hosts_file(self):
        lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost", f"{address('master')} master salt"]
        if self.name != "master":
            lines.append(f"{address(self.name)} {self.name}")
        return "\n".join(lines) + "\n"

    def _write(self, path, text):
        file = self.disk / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def _enable(self, unit):
        wants = self.disk / "etc/systemd/system/multi-user.target.wants"
        wants.mkdir(parents=True, exist_ok=True)
        (wants / unit).symlink_to(f"/etc/systemd/system/{unit}")

    def mount(self):
        """Mount the disk, unless it is mounted (after a reboot of the machine it is not)."""
        if not self.disk.is_mount():
            image = (self.state / "image").resolve(strict=True)
            layers = f"lowerdir={image},upperdir={self.state / 'upper'},workdir={self.state / 'work'}"
            run("mount", "-t", "overlay", "overlay", "-o", layers, self.disk)

    # ---- power

    def start(self):
        """Power the host on; returns at once."""
        self.cgroup.remove()
        self.mount()
        self.network.connect(self.name)
        self.network.plug(self.name, not self.is_cut())
        with open(self.state / "console.log", "ab") as log:
            # setsid --fork: it outlives this command, and is not the child of a long test run either.
            subprocess.run(
                ["setsid", "--fork", "sh", "-c", KEEP_ON, "sh", *self._nspawn()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=self.cgroup.enter,
                check=True,
            )

    def _nspawn(self):
        command = [
            "systemd-nspawn", "--quiet", "--boot", "--settings=no",
            "--register=no", "--keep-unit",  # no machined, no scope: works without systemd on the machine
            f"--directory={self.disk}", f"--machine={self.machine}", f"--hostname={self.name}",
            f"--network-namespace-path=/run/netns/{self.network.namespace(self.name)}",
            "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=read-only",
        ]  # fmt: skip
        if self.name == "master":
            command.append(f"--bind-ro={REPOSITORY}:/srv/checkout")
            self._link_formula()
        return command

    def _link_formula(self):
        """Show the checkout's formula at /srv/csyncsync.

        Links into one mount of the whole checkout, not a mount for each part: a mount would go on
        showing the old file or folder after git or an editor has put a new one in its place.
        """
        folder = self.disk / "srv/csyncsync"
        folder.mkdir(parents=True, exist_ok=True)
        for part in FORMULA:
            link = folder / part
            if link.is_symlink():
                link.unlink()
            if (REPOSITORY / part).exists() and not link.exists():
                link.symlink_to(f"/srv/checkout/{part}")

    def wait_up(self, seconds=60):
        """Wait until the host has booted; what may still be starting is its minion or its master."""

        def is_up():
            if not self.cgroup.pids():
                raise TestbedError(f"{self.name} did not boot: {self._last_words()}")
            if not self.leader():
                return False
            jobs = self.run("systemctl", "list-jobs", "--no-legend", check=False)
            if jobs.returncode:
                return False
            waiting = [line for line in jobs.stdout.splitlines() if " running" in line]
            reached = self.run("systemctl", "is-active", "basic.target", check=False).returncode == 0
            return reached and all("salt-" in line for line in waiting)

        wait_for(f"the boot of {self.name}", is_up, seconds)

    def _last_words(self):
        with contextlib.suppress(OSError, IndexError):
            text = (self.state / "console.log").read_text(encoding="utf-8", errors="replace")
            return text.strip().splitlines()[-1]
        return "no output"

    def stop(self):
        """Take the power away: the network falls silent, then every process ends at once."""
        self.network.disconnect(self.name)
        self.cgroup.kill()
        self.cgroup.remove()
        self._clear_nspawn()

    def _clear_nspawn(self):
        """Remove what nspawn would have removed if it had not been killed."""
        folder = Path("/run/systemd/nspawn")
        for leftover in ("propagate", "unix-export"):
            shutil.rmtree(folder / leftover / self.machine, ignore_errors=True)
        if self.disk.is_mount():
            top = self.disk.stat()
            (folder / "locks" / f"inode-{top.st_dev}:{top.st_ino}").unlink(missing_ok=True)

    # ---- ways in

    def enter(self, *command):
        """The command line that runs a command inside the host."""
        leader = self.leader()
        if not leader:
            raise TestbedError(f"{self.name} is powered off: run `testbed boot {self.name}` first")
        return ["nsenter", f"--target={leader}", "--all", "--root", "--wd", *(str(word) for word in command)]

    def run(self, *command, **options):
        """Run a command inside the host."""
        return run(*self.enter(*command), env=ENVIRONMENT, **options)

    def root(self):
        """Where the host's files can be reached from outside."""
        leader = self.leader()
        if leader:
            return Path(f"/proc/{leader}/root")
        self.mount()
        return self.disk
