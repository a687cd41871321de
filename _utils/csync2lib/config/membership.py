"""Who is in a group: given its target and what the mine holds, the hosts of its config."""

from __future__ import annotations

import dataclasses
import fnmatch
import ipaddress
import re
import ssl
from collections.abc import Collection, Mapping
from typing import Any

from csync2lib.config.schema import matches_any
from csync2lib.config.schema import members as checked_members
from csync2lib.config.values import MINION_ID, Problems, shown
from csync2lib.errors import CsyncsyncError

#: csync2 compares lower-cased names and keeps 255 characters (myhostname[256]); Linux allows 64.
HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,62}[a-z0-9])?\Z")


@dataclasses.dataclass(frozen=True)
class Host:
    """A host of a group, as csync2's config has it; ``config.json`` and ``csyncsync.groups`` hold it as a mapping."""

    #: What csync2 calls the host (``-N``): its lower-case host name.
    name: str
    #: The IP address at which the other hosts reach it, in its one canonical form.
    address: str
    #: Its TLS certificate, as certificate_data() gives it.
    certificate: str

    def as_dict(self) -> dict[str, str]:
        return {"name": self.name, "address": self.address, "certificate": self.certificate}


# --- Membership ------------------------------------------------------------------------------------------


def matches(members: Mapping[str, Any], minion: str) -> bool:
    """
    Given a group's validated ``members`` and a minion id, tell whether the target covers that id.

    The same rules as the master's (glob, list, pcre): used where no master is asked.
    """
    tgt, tgt_type = members["tgt"], members["tgt_type"]
    if tgt_type == "list":
        return minion in tgt
    if tgt_type == "pcre":
        return re.match(tgt, minion) is not None
    return fnmatch.fnmatchcase(minion, tgt)


def may_match(options: object, minion: str) -> bool:
    """
    Given a group's options as they stand in the pillar, tell whether a minion may be meant, if nobody can know.

    A broken group must show its error where it was meant to be.
    """
    if not isinstance(options, dict) or "members" not in options:
        return True
    problems = Problems("")
    members = checked_members(options["members"], problems)
    return members is None or bool(problems.messages) or matches(members, minion)


def receives_only(options: Mapping[str, Any], minion: str) -> bool:
    """Given a group's validated options, tell whether this minion only receives (csync2's slave hosts)."""
    return matches_any(options["receive_only"], minion)


def require_sender(group: str, options: Mapping[str, Any], members: Collection[str], minion: object, what: str) -> None:
    """Raise CsyncsyncError, with who could be it, unless a minion is a member that sends; ``what`` it is to be."""
    senders = [member for member in members if not receives_only(options, member)]
    if minion not in senders:
        only = f"{minion} only receives (csyncsync:groups:{group}:receive_only); " if minion in members else ""
        there = ", ".join(senders) or f"none, csyncsync:groups:{group}:receive_only covers all members"
        raise CsyncsyncError(f"{only}{what} is to be a member that sends: {there}")


def hosts(
    name: str,
    options: Mapping[str, Any],
    published: Mapping[str, Any],
    known: Mapping[str, Mapping[str, str]] | None = None,
    accepted: Collection[str] | None = None,
) -> dict[str, Any]:
    """
    Given what the mine answered for one group, return the hosts that belong into its config.

    name, options
        The group and its validated options.
    published
        ``{minion id: facts}`` as the mine returned it; every value is suspect.
    known
        ``{minion id: host}`` of the config that stands now. Whoever is still a target but has not published
        keeps that line.
    accepted
        The minion ids that the master has accepted, of all that may be members, if the master said so. Whoever is not
        among them has left.

    Returns ``{"hosts": {minion id: {"name", "address", "certificate"}}, "unpublished": [minion id, …]}``, the
    hosts sorted by minion id. Raises CsyncsyncError, naming the minion, if a published value cannot be used.
    """
    result: dict[str, Host] = {}
    for minion in sorted(published):
        if (accepted is None or minion in accepted) and matches(options["members"], minion):
            result[minion] = _host(name, minion, published[minion])
    unpublished = []
    for minion, host in sorted((known or {}).items()):
        if minion in result or not matches(options["members"], minion):
            continue
        if accepted is None or minion in accepted:
            result[minion] = Host(host["name"], host["address"], host["certificate"])
            unpublished.append(minion)
    _must_differ({minion: host.name for minion, host in result.items()}, "name")
    _must_differ({minion: host.address for minion, host in result.items()}, "address")
    return {"hosts": {minion: host.as_dict() for minion, host in sorted(result.items())}, "unpublished": unpublished}


def _must_differ(values: Mapping[str, str], field: str) -> None:
    owners: dict[str, str] = {}
    for minion, value in values.items():
        first = owners.setdefault(value, minion)
        if first != minion:
            raise CsyncsyncError(
                f"minions {shown(first)} and {shown(minion)} both publish the {field}"
                f" {value}: csync2 cannot tell them apart; correct one of them"
            )


def _host(group: str, minion: str, facts: Any) -> Host:
    """Given what one minion has published, return its host. Raises CsyncsyncError."""
    if not MINION_ID.match(minion) or not isinstance(facts, dict):
        raise CsyncsyncError(
            f"minion {shown(minion)} publishes no csyncsync.member facts: run state.apply csyncsync there"
        )
    name, addresses = facts.get("name"), facts.get("addresses")
    if not isinstance(name, str) or not HOST_NAME.match(name):
        raise CsyncsyncError(f"minion {shown(minion)} publishes {shown(name)!r}, which is no host name")
    address = addresses.get(group, addresses.get("")) if isinstance(addresses, dict) else None
    try:
        ip = ipaddress.ip_address(address if isinstance(address, str) else "")
    except ValueError:
        raise CsyncsyncError(f"minion {shown(minion)} publishes {shown(address)!r}, which is no address") from None
    ip = getattr(ip, "ipv4_mapped", None) or ip  # ::ffff:10.0.0.1 is 10.0.0.1
    if ip.is_unspecified or ip.is_multicast or ip.is_loopback or getattr(ip, "scope_id", None):
        raise CsyncsyncError(f"minion {shown(minion)} publishes {ip}, which the other hosts cannot reach")
    try:
        certificate = certificate_data(facts.get("certificate"))
    except CsyncsyncError as err:
        raise CsyncsyncError(f"minion {shown(minion)} {err}") from None
    return Host(name, str(ip), certificate)


def certificate_data(pem: object) -> str:
    """
    Given a certificate in PEM, return it as csync2 keeps it: the DER form in upper-case hexadecimal.

    Raises CsyncsyncError if it is none. (conn.c, conn_check_peer_cert())
    """
    if not isinstance(pem, str) or len(pem) > 16384 or pem.count("-----BEGIN") != 1:
        raise CsyncsyncError("publishes no certificate")
    try:
        der = ssl.PEM_cert_to_DER_cert(pem.strip() + "\n")
    except (ValueError, TypeError) as err:
        raise CsyncsyncError("publishes a certificate that is none") from err
    if not _is_der_certificate(der):
        raise CsyncsyncError("publishes a certificate that is none")
    return der.hex().upper()


def _is_der_certificate(der: bytes) -> bool:
    """OpenSSL is asked; but it lets something follow the certificate, so the length that DER begins with has to fit."""
    start = {b"\x81": 3, b"\x82": 4}.get(der[1:2], 0)
    if int.from_bytes(der[2:start], "big") != len(der) - start:
        return False
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=der)
    except (ssl.SSLError, ValueError):
        return False
    return True
