"""
What a minion answers the master, signed with its own Salt key.

Salt notes in no answer who has sent it: each job's id reaches all minions, and any of them can send an answer in the
name of another one. The key is the one that the master has accepted; what is signed has a question of the master's in
it, another one each time.
"""

from __future__ import annotations

import json

#: What stands in a job's return: ``{"answer": JSON, "signature": hexadecimal}``.
Signed = dict[str, str]


def signed(key_file: str, minion: str, question: str, function: str, answer: str) -> Signed:
    """Sign an answer, given the path of the minion's private key. Raises OSError, ValueError, TypeError."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    with open(key_file, "rb") as file:
        # Salt has checked this key when it made it; to do so again takes up to a second.
        key = serialization.load_pem_private_key(file.read(), None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError(f"{key_file} holds no RSA key")
    message = _message(minion, question, function, answer)
    return {"answer": answer, "signature": key.sign(message, padding.PKCS1v15(), hashes.SHA256()).hex()}


def is_signed(key: str, said: Signed, minion: str, question: str, function: str) -> bool:
    """Given a minion's public key in PEM, tell whether that minion has signed this answer. Raises ValueError."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    public = serialization.load_pem_public_key(key.encode())
    if not isinstance(public, rsa.RSAPublicKey):
        raise ValueError("no RSA key")
    message = _message(minion, question, function, said["answer"])
    try:
        public.verify(bytes.fromhex(said["signature"]), message, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def _message(minion: str, question: str, function: str, answer: str) -> bytes:
    """What is signed: JSON, so that no part can be taken for the beginning of the next one."""
    return json.dumps(["csyncsync", minion, question, function, answer]).encode("ascii")
