"""The port that everyone writes first: Salt's own inotify beacon, a reactor, and `csync2 -x` on all hosts."""

import importlib.util
import json
from pathlib import Path

from bed.network import address
from bus import silent

from .base import System

GROUP = "plain"
CONFIG = """\
nossl * *;
group plain {{
{hosts}
  key /etc/csync2_plain.key;
  include {place};
}}
"""
REACTOR = """\
reactor:
  - 'salt/beacon/*/inotify/*':
      - salt://reactor/plain.sls
"""
SLS = """\
push what changed:
  local.cmd.run:
    - tgt: '*'
    - args:
        - cmd: csync2 -C plain -x
"""


class Plain(System):
    """Stock beacon and reactor. It takes csyncsync's place on the master, so it comes last."""

    name, label = "plain", "plain inotify beacon"
    daemons = ("salt-minion.service",)
    listener = "csync2.socket"

    def install(self):
        source = importlib.util.find_spec("pyinotify")
        if source is None:
            raise ModuleNotFoundError("pyinotify is not installed, and the beacon needs it")
        for host in self.hosts:
            (packages,) = (self.bed.root(host) / "opt/salt/lib").glob("python3*/site-packages")
            (packages / "pyinotify.py").write_bytes(Path(source.origin).read_bytes())
            self.bed.exec(host, "apt-get", "install", "-y", "-q", "csync2")
        master = self.bed.root("master")
        (master / "etc/salt/master.d/csyncsync.conf").unlink(missing_ok=True)
        (master / "etc/salt/master.d/plain.conf").write_text(REACTOR, encoding="utf-8")
        (master / "srv/salt/reactor").mkdir(parents=True, exist_ok=True)
        (master / "srv/salt/reactor/plain.sls").write_text(SLS, encoding="utf-8")

    def begin(self):
        self.listen(True)
        hosts = "\n".join(f"  host {host}@{address(host)};" for host in self.hosts)
        watched = {self.place: {"recurse": True, "auto_add": True}}
        # JSON is YAML.
        beacon = json.dumps({"beacons": {"inotify": [{"files": watched}]}})
        for host in self.hosts:
            root = self.bed.root(host)
            (root / "etc/csync2_plain.cfg").write_text(CONFIG.format(hosts=hosts, place=self.place), encoding="utf-8")
            (root / "etc/csync2_plain.key").write_text("plain" * 8 + "\n", encoding="utf-8")
            (root / "etc/csync2_plain.key").chmod(0o600)
            (root / "etc/salt/minion.d/beacons.conf").write_text(beacon + "\n", encoding="utf-8")
            self.bed.exec(host, "csync2", "-C", GROUP, "-cIr", "/")
        self.bed.exec("master", "systemctl", "restart", "salt-master")
        for host in self.hosts:
            self.bed.exec(host, "systemctl", "restart", "salt-minion")
        self.wait(lambda: silent(self.bed, self.hosts), 120)

    def end(self):
        """Nothing: the hosts are taken down after it."""

    def version(self):
        return "Salt's inotify beacon"
