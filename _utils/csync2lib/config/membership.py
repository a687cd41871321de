"""Who is in a group: given its target and what the mine holds, the hosts of its config."""

from __future__ import annotations

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


#: A host of a group, as csync2's config has it: ``{"name": what csync2 calls it (-N), its lower-case host name,
#: "address": the IP address at which the other hosts reach it, in its one canonical form, "certificate": of TLS, as
#: certificate_data() gives it}``.
Host = Mapping[str, str]


def matches(members: Mapping[str, Any], minion: str) -> bool:
    """Tell whether a group's ``members`` cover a minion id, as the master would: used where no master is asked."""
    tgt, tgt_type = members["tgt"], members["tgt_type"]
    if tgt_type == "list":
        return minion in tgt
    if tgt_type == "pcre":
        return re.match(tgt, minion) is not None
    return fnmatch.fnmatchcase(minion, tgt)


def may_match(options: object, minion: str) -> bool:
    """Tell whether a group that is broken in the pillar may be meant for a minion: it must show its error there."""
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
    Given a group, its validated options, and ``{minion id: facts}`` of the mine, of which every value is suspect,
    return ``{"hosts": {minion id: host}, "unpublished": [minion id, …]}`` of its config, sorted. Raises CsyncsyncError,
    naming the minion, if a published value cannot be used.

    known
        The hosts of the config that stands now. Whoever is still a target but has not published stays as it is there.
    accepted
        The minion ids that the master has accepted, of all that may be members, if the master said so. Whoever is not
        among them has left.
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
            result[minion] = {field: host[field] for field in ("name", "address", "certificate")}
            unpublished.append(minion)
    _must_differ(result, "name")
    _must_differ(result, "address")
    return {"hosts": dict(sorted(result.items())), "unpublished": unpublished}


def _must_differ(found: Mapping[str, Host], field: str) -> None:
    owners: dict[str, str] = {}
    for minion, host in found.items():
        first, value = owners.setdefault(host[field], minion), host[field]
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
    return {"name": name, "address": str(ip), "certificate": certificate}


def certificate_data(pem: object) -> str:
    """
    A certificate in PEM as csync2 keeps it (conn.c, conn_check_peer_cert()): the DER form in upper-case hexadecimal.
    Raises CsyncsyncError if it is none.
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
