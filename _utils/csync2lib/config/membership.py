"""Who is in a group: given its target and what the mine holds, the hosts of its config."""

import fnmatch
import ipaddress
import re
import ssl

from csync2lib.config import schema
from csync2lib.errors import CsyncsyncError

#: csync2 compares lower-cased names and keeps 255 characters (myhostname[256]); Linux allows 64.
_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,62}[a-z0-9])?\Z")


# --- Membership ------------------------------------------------------------------------------------------


def matches(members, minion):
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


def may_match(options, minion):
    """
    Given a group's options as they stand in the pillar, tell whether a minion may be meant, if nobody can know.

    A broken group must show its error where it was meant to be.
    """
    if not isinstance(options, dict) or "members" not in options:
        return True
    problems = schema.Problems("")
    members = schema.members(options["members"], problems)
    return bool(problems.messages) or matches(members, minion)


def receives_only(options, minion):
    """Given a group's validated options, tell whether this minion only receives (csync2's slave hosts)."""
    return any(fnmatch.fnmatchcase(minion, pattern) for pattern in options["receive_only"])


def hosts(name, options, published, known=None, accepted=None):
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
        The minion ids that the master has accepted and that match the target, if the master said so. Whoever is
        not among them has left.

    Returns ``{"hosts": {minion id: {"name", "address", "certificate"}}, "unpublished": [minion id, …]}``, the
    hosts sorted by minion id. Raises Csync2Error, naming the minion, if a published value cannot be used.
    """
    result = {}
    for minion in sorted(published):
        if (accepted is None or minion in accepted) and matches(options["members"], minion):
            result[minion] = _host(name, minion, published[minion])
    unpublished = []
    for minion, host in sorted((known or {}).items()):
        if minion in result or not matches(options["members"], minion):
            continue
        if accepted is None or minion in accepted:
            result[minion] = host
            unpublished.append(minion)
    for field in ("name", "address"):
        owners = {}
        for minion, host in result.items():
            first = owners.setdefault(host[field], minion)
            if first != minion:
                raise CsyncsyncError(
                    f"minions {schema.shown(first)} and {schema.shown(minion)} both publish the {field}"
                    f" {host[field]}: csync2 cannot tell them apart; correct one of them"
                )
    return {"hosts": dict(sorted(result.items())), "unpublished": unpublished}


def _host(group, minion, facts):
    """Given one minion's published facts, return its host entry, or raise Csync2Error."""
    if not schema.MINION_ID.match(minion) or not isinstance(facts, dict):
        raise CsyncsyncError(
            f"minion {schema.shown(minion)} publishes no csyncsync.member facts: run state.apply csyncsync there"
        )
    name, addresses = facts.get("name"), facts.get("addresses")
    if not isinstance(name, str) or not _HOST_NAME.match(name):
        raise CsyncsyncError(f"minion {schema.shown(minion)} publishes {schema.shown(name)!r}, which is no host name")
    address = addresses.get(group, addresses.get("")) if isinstance(addresses, dict) else None
    try:
        ip = ipaddress.ip_address(address if isinstance(address, str) else None)
    except ValueError:
        raise CsyncsyncError(
            f"minion {schema.shown(minion)} publishes {schema.shown(address)!r}, which is no address"
        ) from None
    ip = getattr(ip, "ipv4_mapped", None) or ip  # ::ffff:10.0.0.1 is 10.0.0.1
    if ip.is_unspecified or ip.is_multicast or ip.is_loopback or getattr(ip, "scope_id", None):
        raise CsyncsyncError(f"minion {schema.shown(minion)} publishes {ip}, which the other hosts cannot reach")
    try:
        certificate = certificate_data(facts.get("certificate"))
    except CsyncsyncError as err:
        raise CsyncsyncError(f"minion {schema.shown(minion)} {err}") from None
    return {"name": name, "address": str(ip), "certificate": certificate}


def certificate_data(pem):
    """
    Given a certificate in PEM, return it as csync2 keeps it: the DER form in upper-case hexadecimal.

    Raises Csync2Error if it is none. (conn.c, conn_check_peer_cert())
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


def _is_der_certificate(der):
    """OpenSSL is asked; but it lets something follow the certificate, so the length that DER begins with has to fit."""
    start = {b"\x81": 3, b"\x82": 4}.get(der[1:2], 0)
    if int.from_bytes(der[2:start], "big") != len(der) - start:
        return False
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=der)
    except (ssl.SSLError, ValueError):
        return False
    return True
