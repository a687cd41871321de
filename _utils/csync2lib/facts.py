"""
Who this host is, and which groups it is in: what it publishes of itself, and what pillar and mine say of the others.

What only Salt knows is passed in.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import socket
from collections.abc import Callable, Mapping
from typing import Any

from csync2lib import storage
from csync2lib.config import membership, schema, template
from csync2lib.csync2.command import PORT
from csync2lib.errors import CsyncsyncError
from csync2lib.group import Group
from csync2lib.host import ThisHost

#: Salt's execution functions, by name.
Functions = Mapping[str, Callable[..., Any]]


class Facts:
    """
    What pillar (from any hand), mine and network say of this host now. ``salt`` has Salt's ``mine.get`` and
    ``network.interfaces``, ``master`` is the master's IP address, "" if none is known.
    """

    def __init__(self, host: ThisHost, pillar: Mapping[str, Any], salt: Functions, master: str = "") -> None:
        self.host, self.salt, self.master = host, salt, master
        self.pillar: Any = {} if (found := pillar.get("csyncsync")) is None else found

    @functools.cached_property
    def _checked(self) -> dict[str, Any]:
        """What schema.validate() returns, with what the master has found wrong. Raises CsyncsyncError."""
        if not isinstance(self.pillar, dict):
            raise CsyncsyncError("csyncsync of the pillar is not a mapping: it holds the key 'groups'")
        checked = schema.validate(self.pillar.get("groups"))
        checked["errors"].update(self.pillar.get("errors") or {})
        return checked

    # ---- This host

    def member(self) -> dict[str, Any]:
        """What ``csyncsync.member`` returns. Raises CsyncsyncError."""
        certificate = storage.read(self.host.certificate)
        if not certificate:
            raise CsyncsyncError(f"{self.host.certificate} is missing: run state.apply csyncsync.certificate first")
        addresses = {"": self._primary_address()}
        for name, options in self._checked["groups"].items():
            if options["address"]:
                with contextlib.suppress(CsyncsyncError):  # groups() names it; the others keep their facts
                    addresses[name] = self._address(name, options["address"])
        return {"name": self.host.name, "addresses": addresses, "certificate": certificate}

    @functools.cached_property
    def _own_addresses(self) -> dict[str, list[str]]:
        """``{interface: [address, …]}`` without loopback and link-local ones."""
        found: dict[str, list[str]] = {}
        for interface, data in self.salt["network.interfaces"]().items():
            for entry in (data.get("inet") or []) + (data.get("inet6") or []):
                ip = ipaddress.ip_address(entry["address"].split("%")[0])
                if not ip.is_loopback and not ip.is_link_local:
                    found.setdefault(interface, []).append(str(ip))
        return found

    def _primary_address(self) -> str:
        """The address that faces the master; without one, the first that is not loopback."""
        own = [address for addresses in self._own_addresses.values() for address in addresses]
        with contextlib.suppress(OSError, ValueError):
            family = socket.AF_INET6 if ":" in self.master else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((self.master.strip("[]"), PORT))  # sends nothing: asks the routing table
                address: str = sock.getsockname()[0]
            if address in own:
                return address
        if not own:
            raise CsyncsyncError("this host has no address that others could reach: set csyncsync:groups:…:address")
        return own[0]

    def _address(self, group: str, wanted: str) -> str:
        """This host's address for a group's ``address``: an interface, a network, or a literal address."""
        own = self._own_addresses
        if wanted in own:
            return own[wanted][0]
        for address in (address for addresses in own.values() for address in addresses):
            with contextlib.suppress(ValueError):
                if ipaddress.ip_address(address) in ipaddress.ip_network(wanted):
                    return address
        raise CsyncsyncError(
            f"csyncsync:groups:{group}:address {wanted} is on no interface of this host; it has {own or 'none'}"
        )

    # ---- Its groups

    def groups(self, group: str | None = None, facts: bool = True) -> dict[str, Any]:
        """What ``csyncsync.groups`` returns."""
        group = None if group is None else str(group)  # a command line's YAML makes a number of digits
        errors = {name: lines for name, lines in self._checked["errors"].items() if group in (None, name) or not name}
        result: dict[str, Any] = {"groups": {}, "errors": errors}
        for name, options in self._checked["groups"].items():
            if not facts or group not in (None, name) or not membership.matches(options["members"], self.host.minion):
                continue
            there = Group(name, self.host)
            try:
                found = self._membership(there, options)
            except CsyncsyncError as err:
                errors[name] = [f"csyncsync:groups:{name} {err}"]
                continue
            found["options"] = {option: value for option, value in options.items() if option != "key"}
            found["context"] = template.context(name, options, found["hosts"], there.key_file, there.path("due"))
            result["groups"][name] = found
        return result

    def group(self, name: str) -> dict[str, Any]:
        """What groups() says of one of them. Raises CsyncsyncError."""
        name = str(name)
        found = self.groups(name)
        if name not in found["groups"]:
            lines = [line for lines in found["errors"].values() for line in lines]
            raise CsyncsyncError("; ".join(lines) or f"no member of {name}")
        told: dict[str, Any] = found["groups"][name]
        return told

    def _membership(self, group: Group, options: dict[str, Any]) -> dict[str, Any]:
        if options["address"]:
            self._address(group.name, options["address"])  # one that this host lacks is an error here, not at a peer
        members = options["members"]
        published = self.salt["mine.get"](members["tgt"], "csyncsync.member", members["tgt_type"])
        published = published if isinstance(published, dict) else {}
        published[self.host.minion] = self.member()  # the mine may lag behind
        accepted = (self.pillar.get("accepted") or {}).get(group.name)
        return membership.hosts(group.name, options, published, group.said().get("hosts"), accepted)
