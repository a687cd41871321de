"""Hosts talk only with hosts whose certificate they were told of, and that have the group's key."""

import stat

import pytest
from places import HOSTS

GROUPS = ("wwwdata", "wwwshared")

#: Speaks csync2's protocol from the master, a stranger to the groups. First argument: plain, tls or tls+certificate.
STRANGER = r"""
import os, socket, ssl, subprocess, sys, tempfile
with socket.create_connection(("10.77.0.11", 30865), timeout=10) as sock:
    sock.settimeout(10)
    if sys.argv[1] != "plain":
        sock.sendall(b"SSL\n")
        print("SSL:", sock.recv(1000))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if sys.argv[1] == "tls+certificate":
            context.load_cert_chain("/tmp/stranger.crt", "/tmp/stranger.key")
        sock = context.wrap_socket(sock)
    for line in (b"CONFIG wwwshared\n", b"HELLO web2\n", sys.argv[2].encode() + b"\n"):
        sock.sendall(line)
        answer = sock.recv(1000)
        print(line, answer)
        if not answer:
            break
"""


def test_the_configs_ask_for_tls(hosts):
    for host in HOSTS:
        for group in GROUPS:
            assert "nossl" not in hosts.config(host, group)


def test_keys_are_readable_by_root_alone(hosts):
    for host in HOSTS:
        names = ["csync2_ssl_key.pem", *(f"csync2_{group}.key" for group in GROUPS)]
        for name in [*names, *(f"csync2_{group}.cfg" for group in GROUPS)]:
            status = hosts.path(host, f"/etc/{name}").stat()
            assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o600, 0, 0), f"{name} on {host}"
    for group in GROUPS:
        status = hosts.path("master", f"/etc/salt/pki/master/csyncsync/{group}.key").stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, 0)


def test_each_host_has_a_private_key_of_its_own_and_each_group_too(hosts):
    assert len({hosts.read(host, "/etc/csync2_ssl_key.pem") for host in HOSTS}) == 3
    assert len({hosts.read(host, f"/etc/csync2_{group}.key") for host in HOSTS for group in GROUPS}) == 2


def stranger(hosts, how, command):
    done = hosts.exec("master", "/opt/salt/bin/python", "-c", STRANGER, how, command, check=False, timeout=60)
    return done.stdout + done.stderr


@pytest.mark.parametrize("how", ["plain", "tls", "tls+certificate"])
def test_a_stranger_is_refused(hosts, how):
    """Neither without TLS, nor with TLS, nor with a certificate of the right subject, though it knows the key."""
    hosts.write("web1", "/var/www/shared/secret", "for members only\n")
    hosts.write("web1", "/var/www/shared/precious", "x\n")
    hosts.everywhere("/var/www/shared/precious", "x\n")
    hosts.exec("master", "/opt/salt/bin/python", "-c", CERTIFICATE)
    key = hosts.read("web1", "/etc/csync2_wwwshared.key").strip()
    for command in (f"SIG {key} /var/www/shared/secret", f"DEL {key} /var/www/shared/precious"):
        said = stranger(hosts, how, command)
        last = said.strip().splitlines()[-1]
        assert "b'OK" not in last, said
        assert "for members only" not in said
    assert hosts.read("web1", "/var/www/shared/precious") == "x\n"


CERTIFICATE = """
import datetime
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "csyncsync")])
made = (
    x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    .not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(9))
    .sign(key, hashes.SHA256())
)
pem = serialization.Encoding.PEM
open("/tmp/stranger.crt", "wb").write(made.public_bytes(pem))
open("/tmp/stranger.key", "wb").write(
    key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
)
"""


@pytest.fixture
def set_aside(hosts):
    """Takes files of web3 aside; afterwards they are back, and the hosts in sync again."""
    kept = []

    def aside(*paths):
        for path in paths:
            file = hosts.path("web3", path)
            file.rename(f"{file}.kept")
            kept.append(path)

    yield aside
    for path in kept:
        file = hosts.path("web3", path)
        file.with_name(file.name + ".kept").replace(file)
    hosts.calm("wwwshared", seconds=90)


def refused(hosts, name):
    """A change on web1 reaches web2 and not web3, one on web3 reaches nobody."""
    hosts.write("web1", f"/var/www/shared/{name}-to-web3", "x\n")
    hosts.write("web3", f"/var/www/shared/{name}-from-web3", "x\n")
    hosts.everywhere(f"/var/www/shared/{name}-to-web3", "x\n", hosts=["web1", "web2"])
    hosts.push_wholly("web3", "wwwshared")
    hosts.push_wholly("web1", "wwwshared")
    assert hosts.read("web3", f"/var/www/shared/{name}-to-web3") is None
    for host in ("web1", "web2"):
        assert hosts.read(host, f"/var/www/shared/{name}-from-web3") is None
    assert "web3" in hosts.status("web1", "wwwshared")["dirty"]


def test_a_host_with_another_certificate_is_refused_in_both_directions(hosts, set_aside):
    """The subject is the same; only the pinned certificate tells."""
    hosts.settled()
    set_aside("/etc/csync2_ssl_cert.pem", "/etc/csync2_ssl_key.pem")
    hosts.exec("web3", "salt-call", "--local", "csyncsync.certificate", "create=True")
    refused(hosts, "certificate")
    assert "web3" in hosts.status("web1", "wwwshared")["unreachable"], "the administrator is told"


def test_a_host_with_another_group_key_is_refused_in_both_directions(hosts, set_aside):
    hosts.settled()
    set_aside("/etc/csync2_wwwshared.key")
    hosts.write("web3", "/etc/csync2_wwwshared.key", "W" * 64 + "\n").chmod(0o600)
    refused(hosts, "key")


def test_a_certificate_that_is_made_anew_is_taken_over_by_all(hosts):
    """Nobody is told by hand: state.apply on its host is all."""
    hosts.settled()
    hosts.path("web3", "/etc/csync2_ssl_key.pem").unlink()
    hosts.apply("web3")
    hosts.write("web1", "/var/www/shared/renewed-to-web3", "x\n")
    hosts.write("web3", "/var/www/shared/renewed-from-web3", "x\n")
    for name in ("to", "from"):
        hosts.everywhere(f"/var/www/shared/renewed-{name}-web3", "x\n", seconds=60)
    hosts.settled()


# --- The addresses that csync2 listens on ----------------------------------------------------------------

ELSEWHERE = "10.99.0.11"


def listens(hosts, host):
    """The addresses on which a host's csync2 is listened to."""
    lines = hosts.shell(host, "ss -ltnH 'sport = :30865'").splitlines()
    return sorted(line.split()[3].rsplit(":", 1)[0] for line in lines)


def answers(hosts, address):
    """Whether somebody answers on csync2's port of an address, asked from web2."""
    script = f"import socket; socket.create_connection(({address!r}, 30865), timeout=5).close()"
    done = hosts.exec("web2", "python3", "-c", script, check=False)
    assert done.returncode == 0 or "ConnectionRefusedError" in done.stderr, done.stderr
    return done.returncode == 0


def nothing_to_do(hosts):
    found = hosts.apply()
    return not [(host, name) for host in HOSTS for name, state in found[host].items() if state["changes"]]


@pytest.fixture
def two_networks(hosts):
    """web1 has an address in another network, which web2 can reach."""
    hosts.shell("web1", f"ip address add {ELSEWHERE}/32 dev lo")
    hosts.shell("web2", f"ip route add {ELSEWHERE} via 10.77.0.11")
    yield
    hosts.shell("web1", f"ip address del {ELSEWHERE}/32 dev lo")
    hosts.shell("web2", f"ip route del {ELSEWHERE}")


def test_csync2_listens_on_the_sync_network_alone_if_every_group_names_it(hosts, two_networks):
    assert answers(hosts, ELSEWHERE), "without the option csync2 listens everywhere"
    groups = {name: {**options, "address": "10.77.0.0/24"} for name, options in hosts.groups().items()}
    with hosts.pillar(groups):
        hosts.apply()
        for number, host in enumerate(HOSTS, 11):
            assert listens(hosts, host) == [f"10.77.0.{number}"]
        assert answers(hosts, "10.77.0.11")
        assert not answers(hosts, ELSEWHERE)
        for host in HOSTS:
            hosts.write(host, f"/var/www/shared/over-the-sync-network-{host}", "x\n")
            hosts.everywhere(f"/var/www/shared/over-the-sync-network-{host}", "x\n", seconds=60)
        assert nothing_to_do(hosts)
    assert all(listens(hosts, host) == ["*"] for host in HOSTS)
    assert answers(hosts, ELSEWHERE)
    assert nothing_to_do(hosts)


def test_csync2_listens_everywhere_while_one_group_names_no_address(hosts, two_networks):
    with hosts.pillar({"wwwdata": {**hosts.groups()["wwwdata"], "address": "10.77.0.0/24"}}):
        hosts.apply()
        assert all(listens(hosts, host) == ["*"] for host in HOSTS)
        assert answers(hosts, ELSEWHERE)
