"""Syncthing, Debian's package: what a user would pick instead."""

import json
import xml.etree.ElementTree as XML
from copy import deepcopy

from bed.network import address

from .base import System

HOME = "/root/.config/syncthing"

# Hosts know each other, nobody else is asked; the watcher waits one second (10 by default). `restartOnWakeup` and
# `reconnectionIntervalS` matter only after the benchmark has let it stand still.
OPTIONS = {
    "globalAnnounceEnabled": "false",
    "localAnnounceEnabled": "false",
    "relaysEnabled": "false",
    "natEnabled": "false",
    "startBrowser": "false",
    "crashReportingEnabled": "false",
    "autoUpgradeIntervalH": "0",
    "urAccepted": "-1",
    "restartOnWakeup": "false",
    "reconnectionIntervalS": "5",
}

# Runs on a host: prints what its Syncthing answers to some questions, as JSON.
ASK = """
import json, sys, urllib.request
key, *paths = sys.argv[1:]
def get(path):
    request = urllib.request.Request("http://127.0.0.1:8384/rest/" + path, headers={"X-API-Key": key})
    return json.load(urllib.request.urlopen(request, timeout=10))
print(json.dumps([get(path) for path in paths]))
"""


class Syncthing(System):
    """Syncthing with a watcher of one second."""

    name, label = "syncthing", "Syncthing, 1 s watcher"
    daemons = ("syncthing@root.service",)
    skip = (".stfolder",)

    def __init__(self, bed, hosts):
        super().__init__(bed, hosts)
        self.devices, self.keys = {}, {}

    def install(self):
        for host in self.hosts:
            out = self._shell(
                host,
                f"""
                export DEBIAN_FRONTEND=noninteractive HOME=/root
                dpkg -s syncthing >/dev/null 2>&1 || apt-get install -y -q --no-install-recommends syncthing >&2
                [ -e {HOME}/config.new ] || {{
                    syncthing generate --config={HOME} --no-default-folder --skip-port-probing >&2
                    cp {HOME}/config.xml {HOME}/config.new
                }}
                syncthing --device-id --config={HOME} --data={HOME}
                """,
            )
            self.devices[host] = out.split()[-1]

    def begin(self):
        for host in self.hosts:
            self._configure(host)
            self._shell(host, "systemctl start syncthing@root")
        self.wait(self._unsettled, 1800)

    def _configure(self, host):
        """The config as `syncthing generate` made it, with the other hosts and one folder in it."""
        home = self.bed.root(host) / HOME[1:]
        root = XML.parse(home / "config.new").getroot()
        options, defaults = root.find("options"), root.find("defaults")
        for name, value in OPTIONS.items():
            options.find(name).text = value
        self.keys[host] = root.find("gui/apikey").text
        for device in root.findall("device"):
            root.remove(device)
        folder = deepcopy(defaults.find("folder"))
        shared = folder.find("device")
        folder.remove(shared)
        for other in self.hosts:
            device = deepcopy(defaults.find("device"))
            device.attrib.update(id=self.devices[other], name=other)
            device.find("address").text = f"tcp://{address(other)}:22000"
            root.append(device)
            member = deepcopy(shared)
            member.attrib["id"] = self.devices[other]
            folder.append(member)
        folder.attrib.update(id=self.tree.name, label=self.tree.name, path=self.place, fsWatcherDelayS="1")
        root.append(folder)
        # What it needs to believe that the folder is there, as if its owner had added it by hand.
        (self.bed.root(host) / self.place[1:] / ".stfolder").mkdir(exist_ok=True)
        XML.ElementTree(root).write(home / "config.xml")

    def _ask(self, host, *paths):
        done = self.bed.exec(host, "python3", "-c", ASK, self.keys[host], *paths, check=False)
        return json.loads(done.stdout) if not done.returncode else None

    def _unsettled(self):
        """What a host still has to do, or does not know yet of another."""
        folder = self.tree.name
        others = [f"db/completion?folder={folder}&device={self.devices[host]}" for host in self.hosts]
        for host in self.hosts:
            answer = self._ask(host, f"db/status?folder={folder}", "system/connections", *others)
            if answer is None:
                return f"{host} does not answer yet"
            status, connections, *completions = answer
            connected = sum(entry["connected"] for entry in connections["connections"].values())
            known, needed = status["globalFiles"], status["needTotalItems"]
            if status["state"] != "idle" or needed or known < self.tree.count():
                return f"{host} is {status['state']}, {known} files known, {needed} needed"
            if connected < len(self.hosts) - 1:
                return f"{host} has {connected} connections"
            least = min(entry["completion"] for entry in completions)
            if least < 100:
                return f"{host} sees one at {least:.0f} %"
        return ""

    def ready(self):
        return self._unsettled()

    def end(self):
        for host in self.hosts:
            self._shell(
                host,
                f"""
                systemctl kill -s CONT syncthing@root 2>/dev/null
                systemctl stop syncthing@root
                rm -rf {HOME}/index-v0.14.0.db
                """,
            )

    def version(self):
        return self._shell(self.hosts[0], "dpkg-query -W -f '${Package} ${Version}' syncthing").strip()

    def _shell(self, host, script):
        return self.bed.exec(host, "sh", "-c", script).stdout
