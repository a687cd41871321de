"""A group's key and a host's certificate change while all write: nothing is lost, and the old ones are refused."""

import contextlib
import subprocess
import threading
import time

import pytest
from bed.network import address
from bed.shell import remove_tree
from model import as_written, begun, changing
from places import HOSTS, SHARED

TOP = f"{SHARED}/rotate"
GROUP = "wwwshared"
KEY = f"/etc/csync2_{GROUP}.key"
MASTERS_KEY = f"/etc/salt/pki/master/csyncsync/{GROUP}.key"
CERTIFICATE = ("/etc/csync2_ssl_cert.pem", "/etc/csync2_ssl_key.pem")

#: Runs on a host, and speaks csync2's protocol with its certificate to another one: opens a connection, then sends each
#: line of its standard input on it, and prints what is answered. Arguments: its own address, the other's.
OPEN = r"""
import itertools, signal, socket, ssl, sys
signal.alarm(120)
sock = socket.create_connection((sys.argv[2], 30865), timeout=10)
sock.settimeout(10)
sock.sendall(b"SSL\n")
sock.recv(1000)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.load_cert_chain("/etc/csync2_ssl_cert.pem", "/etc/csync2_ssl_key.pem")
sock = context.wrap_socket(sock)
first = [b"CONFIG wwwshared\n", b"HELLO %s\n" % sys.argv[1].encode()]
for line in itertools.chain(first, iter(sys.stdin.buffer.readline, b"")):
    try:
        sock.sendall(line)
        print(sock.recv(1000), flush=True)
    except OSError as err:
        print(repr(err), flush=True)
    sys.stdout.flush()
"""


pytestmark = pytest.mark.usefixtures("in_sync")


def key(hosts, host):
    return hosts.read(host, MASTERS_KEY if host == "master" else KEY).strip()


def have_one_key(hosts):
    """The one key that the master and all hosts have."""
    (found,) = {key(hosts, host) for host in ("master", *HOSTS)}
    return found


def certificate(hosts, host):
    return hosts.ask(host, "csyncsync.certificate")["fingerprint"]


def both_ways(hosts, host, name, seconds=60):
    """What this host writes gets to all, and what another one writes gets to it."""
    other = hosts.others(host)[0]
    hosts.write(host, f"{SHARED}/{name}-from-{host}", "x\n")
    hosts.write(other, f"{SHARED}/{name}-to-{host}", "x\n")
    for way in ("from", "to"):
        hosts.everywhere(f"{SHARED}/{name}-{way}-{host}", "x\n", seconds=seconds)


# --- What was valid before -------------------------------------------------------------------------------


def client(hosts, origin, peer, *flags):
    """What csync2 says on one host that has something to send to another, with what lies in its /etc."""
    path = f"{SHARED}/old-{origin}-to-{peer}"
    hosts.write(origin, path, "from one that was valid before\n")
    script = f"""
        mkdir -p /tmp/aside && cp /var/lib/csync2/{origin}_{GROUP}.db3 /tmp/aside
        csync2 -C {GROUP} -D /tmp/aside -m {path}
        csync2 -C {GROUP} -D /tmp/aside -v -v -v {" ".join(flags)} -u -P {address(peer)} {path} 2>&1
        rm -rf /tmp/aside {path}"""
    return hosts.exec(origin, "sh", "-c", script, check=False, errors="replace").stdout


@contextlib.contextmanager
def files_of(hosts, host, files):
    """These files on a host, ``{path: content}``, which does nothing else meanwhile."""
    new = {path: hosts.read(host, path) for path in files}
    hosts.stop_minion(host)
    hosts.exec(host, "systemctl", "stop", "csyncsync-server")
    try:
        for path, content in files.items():
            hosts.path(host, path).write_text(content, encoding="ascii")
        yield
    finally:
        for path, content in new.items():
            hosts.path(host, path).write_text(content, encoding="ascii")
        hosts.exec(host, "systemctl", "start", "csyncsync-server")
        hosts.start_minion(host)


@contextlib.contextmanager
def connection(hosts, origin, peer):
    """A connection that is open meanwhile; yields ``ask(line)``."""
    arguments = ("python3", "-c", OPEN, address(origin), address(peer))
    with subprocess.Popen(
        hosts.bed.find(origin).enter(*arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert "OK" in process.stdout.readline()
        assert "OK" in process.stdout.readline()

        def ask(line):
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
            return process.stdout.readline()

        yield ask


def test_the_old_key_is_refused_everywhere(hosts):
    """Of a host that has a good certificate, too; and on a connection that it had opened before."""
    old = have_one_key(hosts)
    hosts.write("web1", f"{SHARED}/secret", "for members only\n")
    hosts.everywhere(f"{SHARED}/secret", "for members only\n")
    with files_of(hosts, "web3", {KEY: f"{old}\n"}):
        assert "Permission denied" not in client(hosts, "web3", "web1", "-d"), "the key is good before"
    hosts.settled()
    with connection(hosts, "web3", "web1") as ask:
        assert "OK" in ask(f"SIG {old} {SHARED}/secret")
        answer = hosts.run("csyncsync.rotate_key", GROUP)
        assert answer == dict.fromkeys(HOSTS, "has the new key")
        assert "OK" not in ask(f"SIG {old} {SHARED}/secret")
    assert have_one_key(hosts) != old
    for origin in ("web3", "web1"):
        with files_of(hosts, origin, {KEY: f"{old}\n"}):
            for peer in hosts.others(origin):
                said = client(hosts, origin, peer)
                assert "Permission denied" in said, said
                assert hosts.read(peer, f"{SHARED}/old-{origin}-to-{peer}") is None
    both_ways(hosts, "web3", "new-key")


def test_the_old_certificate_is_refused_everywhere(hosts):
    old = {path: hosts.read("web3", path) for path in CERTIFICATE}
    group_key, before = key(hosts, "web3"), certificate(hosts, "web3")
    with connection(hosts, "web3", "web1") as ask:
        assert "OK" in ask(f"SIG {group_key} {SHARED}")
        answer = hosts.run("csyncsync.rotate_certificate", "web3")
        assert answer == dict.fromkeys(HOSTS, "has the new certificate of web3")
        assert "OK" not in ask(f"SIG {group_key} {SHARED}")
    assert certificate(hosts, "web3") != before
    assert not hosts.path("web3", CERTIFICATE[1] + ".old").exists()
    both_ways(hosts, "web3", "new-certificate")
    hosts.settled()
    with files_of(hosts, "web3", old):
        for peer in ("web1", "web2"):
            said = client(hosts, "web3", peer)
            assert "Identification failed" in said, said
            assert hosts.read(peer, f"{SHARED}/old-web3-to-{peer}") is None
    both_ways(hosts, "web3", "new-certificate-again")


# --- While all write -------------------------------------------------------------------------------------


@pytest.fixture
def parts(hosts, tmp_path):
    """``{host: its part of the tree}``, with something in it."""
    made = begun(hosts, TOP, tmp_path)
    yield made
    for host in HOSTS:
        hosts.remove(host, f"{TOP}-{host}")


@contextlib.contextmanager
def gap(hosts):
    """Measure how long a change takes from host to host meanwhile: yields a list that takes seconds."""
    took, ended = [], threading.Event()

    def measure():
        number = 0
        while not ended.is_set():
            number += 1
            hosts.write("web1", f"{SHARED}/beat", f"{number}\n")
            began = time.monotonic()
            while hosts.read("web2", f"{SHARED}/beat") != f"{number}\n" and time.monotonic() - began < 120:
                time.sleep(0.02)
            took.append(time.monotonic() - began)

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        yield took
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("function", ["rotate_key", "rotate_certificate"])
def test_nothing_is_lost_while_all_write(hosts, parts, function):
    argument = GROUP if function == "rotate_key" else "web2"
    with changing(parts), gap(hosts) as took:
        time.sleep(4)
        usual, number = max(took, default=0), len(took)
        for _ in range(2):
            began = time.monotonic()
            answer = hosts.run(f"csyncsync.{function}", argument)
            seconds = time.monotonic() - began
            assert answer.keys() == set(HOSTS)
            assert all(text.startswith("has the new ") for text in answer.values()), answer
            time.sleep(2)
        time.sleep(3)
    most = max(took[number:])
    print(f"{function}: took {seconds:.1f} s; a change {usual:.1f} s before, {most:.1f} s at most")
    as_written(hosts, TOP, parts, 90)
    hosts.equal()
    have_one_key(hosts)
    assert not any("CONFLICT" in text for text in hosts.states(GROUP).values())


# --- Hosts that are not there ----------------------------------------------------------------------------


def test_a_host_that_is_off_takes_the_new_key_and_certificate_when_it_is_back(hosts, parts):
    old = have_one_key(hosts)
    hosts.bed.kill("web3")
    try:
        with changing({host: parts[host] for host in ("web1", "web2")}):
            answer = hosts.run("csyncsync.rotate_key", GROUP)
            assert answer["web3"] == "did not answer: gets the new key when it is back"
            assert {answer["web1"], answer["web2"]} == {"has the new key"}
            answer = hosts.run("csyncsync.rotate_certificate", "web1")
            assert answer["web3"] == "did not answer: gets the new certificate of web1 when it is back"
            assert "web3 does not answer" in hosts.run("csyncsync.rotate_certificate", "web3")
    finally:
        hosts.bed.boot("web3")
    began = time.monotonic()
    as_written(hosts, TOP, parts, 120)
    print(f"web3 has everything {time.monotonic() - began:.0f} s after its boot")
    assert have_one_key(hosts) != old
    both_ways(hosts, "web3", "was-off")


def test_a_host_that_is_cut_off_takes_the_new_key_and_certificate_when_it_is_reached_again(hosts, parts):
    """Its minion has not started anew, and Salt tells nobody that it can be reached again."""
    old = have_one_key(hosts)
    hosts.bed.cut("web3")
    try:
        with changing(parts):
            answer = hosts.run("csyncsync.rotate_key", GROUP)
            assert answer["web3"] == "did not answer: gets the new key when it is back"
            hosts.run("csyncsync.rotate_certificate", "web1")
    finally:
        hosts.bed.heal("web3")
    began = time.monotonic()
    as_written(hosts, TOP, parts, 180)
    print(f"web3 has everything {time.monotonic() - began:.0f} s after it could be reached")
    assert have_one_key(hosts) != old
    both_ways(hosts, "web3", "was-cut-off")


SLOW = """
include:
  - csyncsync.groups
It takes its time:
  cmd.run:
    - name: touch /run/slow; sleep 20; rm /run/slow
    - order: first
"""


def test_a_state_run_that_began_before_does_not_bring_the_old_key_back(hosts):
    old = have_one_key(hosts)
    hosts.write("master", "/srv/salt/slow.sls", SLOW)
    hosts.bed.salt("--async", "web2", "state.apply", "slow")
    hosts.eventually(lambda: hosts.path("web2", "/run/slow").exists(), 30, "the slow state runs")
    hosts.run("csyncsync.rotate_key", GROUP)
    assert hosts.path("web2", "/run/slow").exists(), "the slow state run goes on"
    assert have_one_key(hosts) != old
    hosts.eventually(lambda: not hosts.ask("web2", "saltutil.is_running", "state.apply"), 60, "the slow state has run")
    assert have_one_key(hosts) != old
    both_ways(hosts, "web2", "slow")


# --- What is not ours, or not there ----------------------------------------------------------------------


def test_a_key_of_the_pillar_is_changed_there(hosts):
    options, old = hosts.groups()[GROUP], have_one_key(hosts)
    with hosts.pillar({GROUP: {**options, "key": "A" * 64}}):
        hosts.run("csyncsync.apply", GROUP)
        hosts.eventually(lambda: {key(hosts, host) for host in HOSTS} == {"A" * 64}, 60, "all have the pillar's key")
        answer = hosts.run("csyncsync.rotate_key", GROUP)
        assert answer == (
            f"the key of {GROUP} is not made by the csyncsync ext_pillar: change csyncsync:groups:{GROUP}:key in your"
            f" pillar, then run: salt-run csyncsync.apply {GROUP}"
        )
        assert {key(hosts, host) for host in HOSTS} == {"A" * 64}
        hosts.set_groups({**hosts.groups(), GROUP: {**options, "key": "B" * 64}})
        hosts.run("csyncsync.apply", GROUP)
        hosts.eventually(lambda: {key(hosts, host) for host in HOSTS} == {"B" * 64}, 60, "all have the changed key")
        both_ways(hosts, "web2", "pillar-key")
    assert have_one_key(hosts) == old


def test_what_is_not_there_is_told_in_a_line(hosts):
    old = have_one_key(hosts)
    assert hosts.run("csyncsync.rotate_key", "nosuch").startswith("there is no group 'nosuch'; there are: wwwdata")
    assert hosts.run("csyncsync.rotate_certificate", "web9").startswith("there is no host 'web9' in any group")
    assert have_one_key(hosts) == old


# --- The dates of certificates ---------------------------------------------------------------------------

EXPIRED = """
import datetime, sys
sys.path.insert(0, "/var/cache/salt/minion/extmods/utils")
from csync2lib import certificate
certificate.DAYS = -0.5
for path, text in zip(("/etc/csync2_ssl_cert.pem", "/etc/csync2_ssl_key.pem"), certificate.make()):
    with open(path, "w") as file:
        file.write(text)
"""


def test_a_certificate_that_has_expired_goes_on(hosts):
    hosts.exec("web3", "/opt/salt/bin/python", "-c", EXPIRED)
    hosts.apply("web3", sls="csyncsync.groups")
    found = hosts.ask("web3", "csyncsync.certificate")
    assert found["valid"]
    assert found["not_after"] <= time.strftime("%Y-%m-%d", time.gmtime())
    both_ways(hosts, "web3", "expired")
    assert hosts.run("csyncsync.rotate_certificate", "web3") == dict.fromkeys(HOSTS, "has the new certificate of web3")
    both_ways(hosts, "web3", "no-longer-expired")


# --- A host that is installed anew -----------------------------------------------------------------------


def pinned(hosts, host):
    return hosts.ask(host, "csyncsync.pinned", GROUP)


def test_a_host_that_is_installed_anew_under_its_name(hosts):
    """An empty disk, another key of Salt, another certificate; nobody does anything on the others."""
    hosts.write("web1", f"{SHARED}/before-the-new-web3/a/b", "x\n")
    before, old = hosts.equal(), certificate(hosts, "web3")
    hosts.settled()
    host = hosts.bed.find("web3")
    host.stop()
    remove_tree(host.state)
    hosts.bed.salt_key("-d", "web3", "-y")
    for name in ("web1", "web2"):
        hosts.eventually(lambda name=name: "web3" not in pinned(hosts, name), 30, f"{name} drops the old web3")
    hosts.write("web2", f"{SHARED}/before-the-new-web3/a/b", "changed meanwhile\n")
    hosts.bed.up(3)
    hosts.run("csyncsync.apply")
    hosts.eventually(lambda: not hosts.ask("web1", "saltutil.is_running", "csyncsync.refresh"), 60)
    assert "web3" not in pinned(hosts, "web1"), "its name is accepted, its new certificate is not known yet"
    hosts.apply("web3")
    new = certificate(hosts, "web3")
    assert new != old
    for name in ("web1", "web2"):
        hosts.eventually(lambda name=name: pinned(hosts, name).get("web3") == new, 60, f"{name} knows the new web3")
    tree = hosts.equal(seconds=120)
    assert {*before} <= {*tree}
    assert hosts.read("web3", f"{SHARED}/before-the-new-web3/a/b") == "changed meanwhile\n"
    hosts.settled(seconds=120)
    both_ways(hosts, "web3", "installed-anew")
