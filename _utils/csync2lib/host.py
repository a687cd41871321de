"""The host that this process runs on."""

from __future__ import annotations

import os
import socket
from typing import Any, NamedTuple

from csync2lib import storage
from csync2lib.csync2.names import is_group_name


class ThisHost(NamedTuple):
    """The host that this process runs on, and where it keeps what all groups share."""

    minion: str
    #: its host name as csync2 has it: lower-cased
    name: str
    #: the directory of csync2's configs and keys: a constant of its build
    system: str = "/etc"
    state: str = "/var/lib/csyncsync"
    databases: str = "/var/lib/csync2"

    @classmethod
    def of(cls, minion: str, os_family: str | None) -> ThisHost:
        """Given its minion id and Salt's grain ``os_family``: the packages of SUSE's csync2 keep its configs apart."""
        return cls(minion, socket.gethostname().lower(), "/etc/csync2" if os_family == "Suse" else "/etc")

    @property
    def certificate(self) -> str:
        return os.path.join(self.system, "csync2_ssl_cert.pem")

    @property
    def private_key(self) -> str:
        return os.path.join(self.system, "csync2_ssl_key.pem")

    def installed(self) -> list[str]:
        """The names of the groups that are installed here, whether the pillar still has them or not."""
        try:
            names = sorted(os.listdir(self.state))
        except FileNotFoundError:
            return []
        return [name for name in names if is_group_name(name) and os.path.isdir(os.path.join(self.state, name))]

    def configs(self) -> dict[str, dict[str, Any]]:
        """``{group: what its config.json says}``, {} of one that has none."""
        return {name: storage.read_json(os.path.join(self.state, name, "config.json"), {}) for name in self.installed()}
