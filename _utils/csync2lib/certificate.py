"""
The TLS certificate of a host: judge one, make one, keep this host's.

Salt's packages hold cryptography. Each function imports what it needs of it itself: that takes longer than a small
push, which needs nothing of it.
"""

from __future__ import annotations

import datetime
import os
from typing import TYPE_CHECKING, Any

from csync2lib import storage
from csync2lib.host import ThisHost

if TYPE_CHECKING:
    from cryptography import x509

#: The one subject that all hosts' certificates share: csync2's server names its own subject as the only
#: issuer that it accepts (LINBIT/csync2#38), so hosts with different subjects cannot talk.
SUBJECT = "csyncsync"
#: Days that a certificate is valid; csync2 pins certificates and looks at no date.
DAYS = 7300


def judge(certificate: str, key: str) -> tuple[str, str | None, str | None]:
    """
    Given a certificate and its private key as PEM texts, return ``(why they cannot be used, fingerprint, end)``.

    The first is "" if they can; fingerprint is SHA-256 in hexadecimal, end an ISO date, both None if they cannot.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    try:
        loaded = x509.load_pem_x509_certificate(certificate.encode())
        private = serialization.load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError):
        return "is damaged, or its key is", None, None
    spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if loaded.public_key().public_bytes(*spki) != private.public_key().public_bytes(*spki):
        return "and the key do not belong together", None, None
    if loaded.subject != _subject():
        return f"has the subject {loaded.subject.rfc4514_string()}, not the shared CN={SUBJECT}", None, None
    return "", loaded.fingerprint(hashes.SHA256()).hex(), _end(loaded).date().isoformat()


def end(certificate: str | None) -> float | None:
    """When a certificate in PEM ends, in seconds since the epoch; None if it is none."""
    from cryptography import x509

    try:
        loaded = x509.load_pem_x509_certificate((certificate or "").encode())
    except ValueError:
        return None
    return _end(loaded).timestamp()


def _end(loaded: x509.Certificate) -> datetime.datetime:
    if hasattr(loaded, "not_valid_after_utc"):
        return loaded.not_valid_after_utc
    return loaded.not_valid_after.replace(tzinfo=datetime.timezone.utc)


def make() -> tuple[str, str]:
    """A new key (P-256) and a certificate that it signs itself: ``(certificate, private key)``, both PEM texts."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(_subject())
        .issuer_name(_subject())
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def _subject() -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, SUBJECT)])


# --- This host's -----------------------------------------------------------------------------------------


def check(host: ThisHost) -> dict[str, Any]:
    """What ``csyncsync.certificate`` returns."""
    pem, key = storage.read(host.certificate), storage.read(host.private_key)
    fingerprint = not_after = None
    if not pem or not key:
        reason = f"there is no {host.private_key if pem else host.certificate}"
    else:
        problem, fingerprint, not_after = judge(pem, key)
        reason = f"{host.certificate} {problem}" if problem else ""
        if not problem and os.stat(host.private_key).st_mode & 0o077:
            reason = f"others can read {host.private_key}"
    if reason:
        fingerprint = not_after = None
    return {"valid": not reason, "reason": reason, "fingerprint": fingerprint, "not_after": not_after}


def renew(host: ThisHost, keep: bool = False) -> dict[str, Any]:
    """Make this host a key and a certificate; keep what was there as ``….old``. Returns the same as check()."""
    for path in (host.private_key, host.certificate):
        if keep and os.path.exists(path):
            os.replace(path, path + ".old")
    certificate, key = make()
    storage.write(host.private_key, key)
    storage.write(host.certificate, certificate, 0o644)
    return check(host)
