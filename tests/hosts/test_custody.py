"""
csync2 in custody: who can write in an include, on whatever host, and who is root on a member, gets no further than the
includes. Each attack runs for CUSTODY_SECONDS.
"""

import contextlib
import os
import subprocess
import time

import pytest
from bed.hosts import ENVIRONMENT
from places import HOSTS, SHARED

SECONDS = float(os.environ.get("CUSTODY_SECONDS", "4"))
PYTHON = "/opt/salt/bin/python"
#: Outside of all includes: a directory and a file of root's, in which nothing may change, and which nobody may read.
OUTSIDE, SECRET = "/etc/outside", "/etc/outside/secret"
TEXT = "for root alone\n"

#: Exchanges two names in one step, again and again: what csync2 looked at is something else when it comes back.
EXCHANGE = """
import ctypes, sys, time
libc, until = ctypes.CDLL(None), time.monotonic() + float(sys.argv[1])
one, two = (name.encode() for name in sys.argv[2:4])
while time.monotonic() < until:
    libc.renameat2(-100, one, -100, two, 2)  # RENAME_EXCHANGE
    time.sleep(float(sys.argv[4]))
"""

#: Speaks csync2's protocol to a host as root of a member can, who has its key and its certificate.
MEMBER = r"""
import socket, ssl, sys
peer, me = sys.argv[1:3]
key = open("/etc/csync2_wwwshared.key").read().strip()
for command in sys.argv[3:]:
    with socket.create_connection((peer, 30865), timeout=10) as sock:
        sock.settimeout(10)
        sock.sendall(b"SSL\n")
        sock.recv(1000)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain("/etc/csync2_ssl_cert.pem", "/etc/csync2_ssl_key.pem")
        sock = context.wrap_socket(sock)
        for line in ("CONFIG wwwshared", f"HELLO {me}", command.replace("KEY", key)):
            sock.sendall(line.encode() + b"\n")
            answer = sock.recv(1000)
        while b"data_follows" in answer and len(answer) < 1000 and (more := sock.recv(1000)):
            answer += more
        print(command, "->", answer)
"""

#: Opens many connections, says something on each, and holds them.
HOLD = r"""
import socket, sys, time
held = []
for _ in range(int(sys.argv[2])):
    try:
        held.append(socket.create_connection((sys.argv[1], 30865), timeout=5))
        held[-1].sendall(sys.argv[3].encode())
    except OSError:
        pass
print(len(held), flush=True)
until = time.monotonic() + float(sys.argv[4])
while time.monotonic() < until:
    time.sleep(0.2)
"""


@pytest.fixture(autouse=True)
def outside(hosts, in_sync):
    for host in HOSTS:
        directory = hosts.path(host, OUTSIDE)
        directory.mkdir(mode=0o700, exist_ok=True)
        (directory / "secret").write_text(TEXT)
        (directory / "secret").chmod(0o600)
    yield
    for host in HOSTS:
        hosts.shell(host, f"rm -rf {OUTSIDE}")


def looks(hosts, host):
    """What stands outside, with all that csync2 can change of it."""
    found = {}
    for path in sorted([hosts.path(host, OUTSIDE), *hosts.path(host, OUTSIDE).rglob("*")]):
        status = path.lstat()
        content = path.read_text() if path.is_file() else None
        found[path.name] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content)
    return found


@pytest.fixture
def playground(hosts, request):
    """A directory of www-data's in an include, on all hosts."""
    place = f"{SHARED}/custody-{''.join(filter(str.isalpha, request.node.name))[:40]}"
    made = hosts.path("web1", place)
    made.mkdir()
    os.chown(made, 33, 33)
    hosts.eventually(lambda: all(hosts.path(host, place).is_dir() for host in HOSTS), 30)
    hosts.eventually(lambda: all(hosts.path(host, place).stat().st_uid == 33 for host in HOSTS), 30)
    yield place
    for host in HOSTS:  # a conflict may be left of an attack
        # What is exchanged to its last moment, or still arrives, is no directory that rm has looked at.
        hosts.eventually(lambda host=host: not hosts.exec(host, "rm", "-rf", place, check=False).returncode, 30)
    hosts.eventually(lambda: hosts.push_wholly("web1", "wwwshared"), 30)
    hosts.salt_run("csyncsync.release", "wwwshared")  # after a long attack it was most of the group
    hosts.calm("wwwshared", seconds=90)


@contextlib.contextmanager
def as_www_data(hosts, host, *arguments):
    """A program of Python's that www-data runs on a host meanwhile."""
    command = hosts.bed.find(host).enter("setpriv", "--reuid=33", "--regid=33", "--clear-groups", PYTHON, "-c")
    with subprocess.Popen([*command, *map(str, arguments)], env=ENVIRONMENT, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


def make_own(hosts, host, script):
    hosts.exec(host, "setpriv", "--reuid=33", "--regid=33", "--clear-groups", "sh", "-c", script)


def until(seconds):
    end, turn = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        turn += 1
        yield turn


# --- Whoever can write in an include ---------------------------------------------------------------------


@pytest.mark.parametrize("pause", [0.0005, 0.02])
def test_a_receivers_user_leads_nothing_out_of_the_include(hosts, playground, pause):
    """A directory is exchanged for a symlink while another host writes, makes and deletes in it."""
    make_own(hosts, "web1", f"mkdir {playground}/d; echo 0 >{playground}/d/f")
    hosts.everywhere(f"{playground}/d/f", "0\n")
    before = looks(hosts, "web2")
    make_own(hosts, "web2", f"ln -s {OUTSIDE} {playground}/link")
    with as_www_data(hosts, "web2", EXCHANGE, SECONDS, f"{playground}/d", f"{playground}/link", pause):
        for turn in until(SECONDS):
            for name in ("f", f"new{turn}", "secret"):
                hosts.write("web1", f"{playground}/d/{name}", f"{turn}\n")
            hosts.path("web1", f"{playground}/d/sub{turn}").mkdir()
            time.sleep(0.15)
            hosts.path("web1", f"{playground}/d/new{turn}").unlink()
    assert looks(hosts, "web2") == before


def test_a_receivers_user_has_no_mode_or_owner_set_elsewhere(hosts, playground):
    make_own(hosts, "web1", f"echo x >{playground}/f")
    hosts.everywhere(f"{playground}/f", "x\n")
    before = looks(hosts, "web2")
    make_own(hosts, "web2", f"ln -s {SECRET} {playground}/link")
    with as_www_data(hosts, "web2", EXCHANGE, SECONDS, f"{playground}/f", f"{playground}/link", 0.002):
        for turn in until(SECONDS):
            file = hosts.path("web1", f"{playground}/f")
            file.chmod((0o4777, 0o666)[turn % 2])
            os.chown(file, (33, 0)[turn % 2], 33)
            os.utime(file, (1600000000 + turn, 1600000000 + turn))
            time.sleep(0.1)
    assert looks(hosts, "web2") == before


@pytest.mark.parametrize("what", ["the file", "a directory above"])
def test_a_senders_user_has_nothing_of_others_sent(hosts, playground, what):
    if what == "the file":
        one, two, target = f"{playground}/f", f"{playground}/link", SECRET
        make_own(hosts, "web1", f"echo x >{one}; ln -s {target} {two}")
        name = "f"
    else:
        one, two, target = f"{playground}/d", f"{playground}/link", OUTSIDE
        make_own(hosts, "web1", f"mkdir {one}; echo x >{one}/secret; ln -s {target} {two}")
        name = "d/secret"
    hosts.eventually(lambda: hosts.path("web2", f"{playground}/{name}").exists(), 30)
    seen = set()
    with as_www_data(hosts, "web1", EXCHANGE, SECONDS, one, two, 0.002):
        for turn in until(SECONDS):
            # The user's own file has to be changed for csync2 to look at it.
            make_own(hosts, "web1", f"echo {turn} >{playground}/other{turn % 3}; echo {turn} >{playground}/{name} || :")
            for host in ("web2", "web3"):
                with contextlib.suppress(OSError):
                    for path in hosts.path(host, playground).rglob("*"):
                        if path.is_file() and not path.is_symlink():
                            seen.add(path.read_text())
            time.sleep(0.05)
    assert TEXT not in seen
    make_own(hosts, "web1", f"echo afterwards >{playground}/other0")
    hosts.everywhere(f"{playground}/other0", "afterwards\n")
    assert TEXT not in {path.read_text() for path in hosts.path("web2", playground).rglob("*") if path.is_file()}


def test_state_is_for_root_alone(hosts):
    """Who could lock a lock would stop all pushes; who could read a database would keep csync2 from writing."""
    for host in HOSTS:
        for path in ("/var/lib/csyncsync", "/var/lib/csync2", "/run/csyncsync"):
            status = hosts.path(host, path).stat()
            assert (status.st_mode & 0o7777, status.st_uid) == (0o700, 0), f"{path} on {host}"


def test_a_users_file_is_never_taken_for_csync2s(hosts, playground):
    """As mktemp and rsync make them; written to again after a while."""
    names = [".app.conf.aB3dE6", ".other.aB3dE6", ".empty.Xy12zZ"]
    for name, owner in zip(names, (0, 33, 0)):
        path = hosts.write("web1", f"{playground}/{name}", "" if "empty" in name else "x\n")
        path.chmod(0o600)
        os.chown(path, owner, owner)
    hosts.write("web1", f"{playground}/app.conf", "x\n")  # it begins with what the temporary file holds
    for name in names:
        hosts.eventually(lambda name=name: hosts.path("web3", f"{playground}/{name}").exists(), 10)
    time.sleep(7)
    assert {path.name for path in hosts.path("web1", playground).iterdir()} == {"app.conf", *names}
    with hosts.path("web1", f"{playground}/{names[0]}").open("a") as file:
        file.write("y\n")
    hosts.path("web1", f"{playground}/{names[0]}").rename(hosts.path("web1", f"{playground}/app.conf"))
    hosts.everywhere(f"{playground}/app.conf", "x\ny\n")


# --- A member's root -------------------------------------------------------------------------------------


def test_a_members_root_ends_at_the_includes(hosts, playground):
    before = looks(hosts, "web1")
    commands = [
        f"MKLINK KEY {playground}/L {OUTSIDE}",
        f"MKDIR KEY {playground}/L/made",
        f"TYPE KEY {playground}/L/secret",
        f"TYPE KEY {playground}/../../../..{SECRET}",
        f"TYPE KEY {SHARED}/../../..{SECRET}",
        f"TYPE KEY {SHARED}/../../../etc/csync2_wwwdata.key",
        f"TYPE KEY {SHARED}/./../../../etc/shadow",
        f"MKDIR KEY {SHARED}/../../..{OUTSIDE}/made",
        f"SETMOD KEY {SHARED}/../../..{SECRET} 511",
        f"DEL KEY {SHARED}/../../..{SECRET}",
        f"SIG KEY {SHARED}/../../..{SECRET}",
        f"MKLINK KEY {playground}/P {SECRET}",
        f"SETMOD KEY {playground}/P 511",
        f"TYPE KEY {playground}/P",
    ]
    said = hosts.exec("web2", PYTHON, "-c", MEMBER, "10.77.0.11", "10.77.0.12", *commands).stdout
    assert looks(hosts, "web1") == before
    assert "for root alone" not in said, said
    assert "root:" not in said, said
    assert hosts.read("web1", "/etc/csync2_wwwdata.key").strip() not in said
    assert f"MKLINK KEY {playground}/L {OUTSIDE} -> b'OK" in said, "the member is served"
    for host in HOSTS:
        hosts.shell(host, f"rm -f {playground}/L {playground}/P")


def test_csync2_sees_and_may_nothing_else(hosts):
    """By what the kernel says of its process."""
    connected = (
        "import socket, time; s = socket.create_connection(('10.77.0.11', 30865)); s.send(b'SSL\\n'); time.sleep(9)"
    )
    with as_www_data(hosts, "web2", connected):
        pid = hosts.eventually(lambda: hosts.shell("web1", "ls /run/csyncsync/serving | head -1").strip() or False, 10)
        hosts.eventually(lambda: hosts.shell("web1", f"cat /proc/{pid}/comm") == "csync2\n", 5)
        status = hosts.shell("web1", f"cat /proc/{pid}/status")
        mounted = [line.split()[4:6] for line in hosts.shell("web1", f"cat /proc/{pid}/mountinfo").splitlines()]
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert set(fields["Uid"].split()) == {"60865"}
    assert fields["NoNewPrivs"] == "1"
    assert int(fields["CapBnd"], 16) == int(fields["CapEff"], 16) < 1 << 28
    for point, options in mounted:
        if point.startswith("/var/www"):
            assert {"nosymfollow", "nosuid", "nodev"} <= set(options.split(",")), point
        elif "rw" in options.split(","):
            assert point in ("/var/lib/csync2", "/run/csyncsync/csync2", "/dev/null", "/dev/urandom"), point
    assert not any(point.startswith(("/home", "/root", "/proc", "/opt")) for point, _ in mounted)


# --- Connections -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["", "SSL\n", "SSL\n\x16\x03\x01", "nonsense\n"])
def test_connections_of_a_members_user_cut_nobody_off(hosts, said):
    with as_www_data(hosts, "web2", HOLD, "10.77.0.11", 300, said, 60) as holding:
        assert int(holding.stdout.readline()) > 100
        for turn in range(3):
            name = f"{SHARED}/held-{turn}-{len(said)}"
            hosts.write("web2", name, "x\n")
            hosts.everywhere(name, "x\n", seconds=10)
        hosts.eventually(lambda: not hosts.shell("web1", "ls /run/csyncsync/serving").strip(), 12, "they are cut off")


def test_a_stranger_is_not_let_in_and_delays_nothing(hosts):
    idle = "import socket; s = socket.create_connection(('10.77.0.11', 30865)); s.settimeout(9); print(s.recv(9))"
    said = hosts.exec("master", PYTHON, "-c", idle, check=False)
    assert said.stdout == "b''\n" or "reset" in said.stderr, said
    hosts.eventually(lambda: not hosts.shell("web1", "ls /run/csyncsync/serving"), 5)  # another member may just send


def test_the_status_says_who_holds_csync2s_port(hosts):
    hosts.shell("web3", "systemctl stop csyncsync-server")
    try:
        hosts.shell("web3", "systemd-run --unit=foreign csync2 -ii")
        hosts.shell("web3", "systemctl start csyncsync-server")
        hosts.eventually(lambda: "'csync2'" in hosts.status("web3", "wwwshared")["error"], 15)
        assert "port 30865" in hosts.status("web3", "wwwshared")["error"]
        state = hosts.apply("web3", may_fail=True)["web3"]["The group wwwshared is on this host"]
        assert state["result"] is False
        assert "csync2's port 30865" in state["comment"]
        assert "('csync2'): end that, and disable it" in state["comment"]
    finally:
        hosts.shell("web3", "systemctl stop foreign; systemctl start csyncsync-server")
    hosts.eventually(lambda: not hosts.status("web3", "wwwshared")["error"], 15)


# --- Where csync2 cannot be confined ---------------------------------------------------------------------


def test_what_cannot_be_confined_does_not_run_until_somebody_says_so(hosts):
    """A container that may not mount: the service's rights are taken."""
    drop = "/etc/systemd/system/csyncsync-server.service.d/test.conf"
    hosts.path("web3", drop).parent.mkdir(parents=True, exist_ok=True)
    hosts.write("web3", drop, "[Service]\nCapabilityBoundingSet=~CAP_SYS_ADMIN\n")
    restart = "systemctl daemon-reload; systemctl restart csyncsync-server"
    try:
        hosts.shell("web3", restart)
        hosts.eventually(lambda: "confine to false" in hosts.status("web3", "wwwshared")["error"], 15)
        hosts.write("web1", f"{SHARED}/unconfined", "x\n")
        hosts.write("web3", f"{SHARED}/unconfined-too", "x\n")
        hosts.everywhere(f"{SHARED}/unconfined", "x\n", hosts=["web1", "web2"])
        assert "confine" in hosts.push_wholly("web3", "wwwshared")["comment"]
        assert hosts.read("web3", f"{SHARED}/unconfined") is None
        assert hosts.read("web1", f"{SHARED}/unconfined-too") is None
        hosts.path("web3", "/var/lib/csyncsync/csync2.unconfined").touch()
        hosts.eventually(lambda: not hosts.status("web3", "wwwshared")["error"], 15)
        hosts.everywhere(f"{SHARED}/unconfined", "x\n", seconds=30)
        hosts.push_wholly("web3", "wwwshared")
        hosts.everywhere(f"{SHARED}/unconfined-too", "x\n", seconds=30)
    finally:
        hosts.path("web3", drop).unlink()
        hosts.path("web3", "/var/lib/csyncsync/csync2.unconfined").unlink(missing_ok=True)
        hosts.shell("web3", restart)
    hosts.remove("web1", f"{SHARED}/unconfined")
    hosts.remove("web1", f"{SHARED}/unconfined-too")
    hosts.calm("wwwshared", seconds=90)
