"""csyncsync as its README sets it up: TLS, all defaults."""

import json

from bed.install import apply, not_in_sync, set_up_master
from meter import Host

from .base import System

PILLAR = "srv/pillar/csyncsync.sls"


class Csyncsync(System):
    """This project."""

    name, label = "csyncsync", "csyncsync"
    daemons = ("salt-minion.service", "csyncsync-watch.service")
    listener = "csyncsync-server.service"

    def __init__(self, bed, hosts):
        super().__init__(bed, hosts)
        self.master = Host(bed, "master")

    def group(self):
        """The group's name."""
        return "bench" + self.tree.name

    def install(self):
        self.resume_all()
        set_up_master(self.bed)

    def begin(self):
        self.resume_all()
        groups = {self.group(): {"members": self.hosts, "include": [self.place]}}
        # JSON is YAML.
        self._pillar({"csyncsync": {"groups": groups}})
        apply(self.bed, self.hosts)
        # The hourly check of everything would fall into the others' turns too.
        for host in self.hosts:
            self.bed.exec(host, "systemctl", "stop", f"csyncsync-full@{self.group()}.timer")
        self.wait(lambda: "; ".join(not_in_sync(self.bed, self.hosts)), 3600, pause=1)

    def end(self):
        self.resume_all()
        self._pillar({"csyncsync": {"groups": {}}})
        apply(self.bed, self.hosts)

    def _pillar(self, content):
        file = self.bed.root("master") / PILLAR
        file.write_text(json.dumps(content), encoding="utf-8")
        file.chmod(0o600)

    def pause(self):
        super().pause()
        self.meter.stop(("salt-master.service",), [self.master])

    def resume_all(self):
        """Let master and minions go on."""
        self.meter.go_on(("salt-master.service",), [self.master])
        self.meter.go_on(self.daemons)

    def resume(self):
        self.resume_all()
        super().resume()

    def version(self):
        script = "import salt.version; print(salt.version.__version__)"
        salt = self.bed.exec("master", "/opt/salt/bin/python", "-c", script).stdout.strip()
        csync2 = self.bed.exec(self.hosts[0], "dpkg-query", "-W", "-f", "${Version}", "csync2").stdout.strip()
        return f"Salt {salt}, csync2 {csync2}"
