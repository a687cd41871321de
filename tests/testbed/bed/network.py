"""A switch without an uplink, and one cable from it to each host.

The switch is a bridge in a network namespace of its own, so nothing of the testbed shows in the
machine's own network and nothing in the testbed reaches outside.
"""

import json

from .shell import run

PREFIX = "10.77.0"


def address(host):
    """The fixed address of a host: master is .1, web1 is .11, web2 is .12, …"""
    return f"{PREFIX}.1" if host == "master" else f"{PREFIX}.{10 + int(host[3:])}"


def _mac(host):
    """A fixed hardware address, so that neighbours need not relearn it after a reboot."""
    return f"02:c5:00:00:00:{int(address(host).rsplit('.', 1)[1]):02x}"


class Network:
    """The switch and the cables of one testbed."""

    def __init__(self, name):
        self.prefix = f"csyncsync-{name}"
        self.switch = self.namespace("switch")

    def namespace(self, host):
        """The name of a host's network namespace."""
        return f"{self.prefix}-{host}"

    def _namespaces(self):
        rows = run("ip", "-j", "netns", "list").stdout.strip()
        return {row["name"] for row in json.loads(rows or "[]")}

    def create(self):
        """Make the switch, unless it is there."""
        if self.switch in self._namespaces() and self._link("switch"):
            return
        self.remove()
        run("ip", "netns", "add", self.switch)
        run("ip", "-n", self.switch, "link", "add", "switch", "type", "bridge")
        run("ip", "-n", self.switch, "link", "set", "switch", "up")

    def remove(self):
        """Remove the switch and whatever is left of the hosts' namespaces."""
        for name in self._namespaces():
            if name == self.switch or (name.startswith(self.prefix + "-") and self._is_ours(name)):
                run("ip", "netns", "delete", name, check=False)

    def _is_ours(self, name):
        # A testbed named "a" must not touch the namespaces of one named "a-b".
        host = name[len(self.prefix) + 1 :]
        return host == "master" or (host[:3] == "web" and host[3:].isdigit())

    def _link(self, port):
        """The state of one port of the switch, None if there is no such port."""
        done = run("ip", "-j", "-n", self.switch, "link", "show", "dev", port, check=False)
        return None if done.returncode else json.loads(done.stdout)[0]

    def connect(self, host):
        """Give a host that is about to boot a fresh namespace with `eth0` in it."""
        self.disconnect(host)
        inside = self.namespace(host)
        run("ip", "netns", "add", inside)
        run("ip", "-n", inside, "link", "set", "lo", "up")
        run("ip", "-n", self.switch, "link", "add", "name", host, "type", "veth",
            "peer", "name", "eth0", "address", _mac(host), "netns", inside)  # fmt: skip
        run("ip", "-n", self.switch, "link", "set", "dev", host, "master", "switch")
        run("ip", "-n", inside, "address", "add", f"{address(host)}/24", "dev", "eth0")
        run("ip", "-n", inside, "link", "set", "eth0", "up")

    def disconnect(self, host):
        """Take a host's cable and namespace away.

        The cable goes first: the peers of a host that loses power hear nothing more, no FIN, no RST.
        """
        run("ip", "-n", self.switch, "link", "delete", "dev", host, check=False)
        if self.namespace(host) in self._namespaces():
            run("ip", "netns", "delete", self.namespace(host), check=False)

    def plug(self, host, plugged):
        """Plug a host's cable into the switch (True) or pull it (False)."""
        if self._link(host):
            run("ip", "-n", self.switch, "link", "set", "dev", host, "up" if plugged else "down")
