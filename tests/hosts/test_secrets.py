"""A group's key is on the hosts of the group, and nowhere else: on no disk, in no log, event, return or difference."""

import json
import os
import subprocess

import pytest
from places import HOSTS

PLACES = "/etc /var /srv /root /tmp /run /home /opt/salt/var"
#: Salt's master keeps the last pillar of each minion here (MINION.p, MINION:ENV.p), unless minion_data_cache is off.
SALTS_OWN_CACHE = "/var/cache/salt/master/pillar"


def found_on(hosts, host, key):
    """The files of a host that hold the key; its journal is one of them if it does."""
    script = f"grep -rlaF -D skip -f - {PLACES} 2>/dev/null; true"
    files = hosts.exec(host, "sh", "-c", script, input=f"{key}\n").stdout.split("\n")[:-1]
    if key in hosts.exec(host, "journalctl", "--no-pager", "--output=export", check=False, errors="replace").stdout:
        files.append("the journal")
    return sorted(files)


def on_master(hosts, key, members):
    """The files of the master that hold the key; Salt's own cache of the members' pillar is left out."""

    def is_cache(path):
        directory, name = os.path.split(path)
        return directory == SALTS_OWN_CACHE and name.removesuffix(".p").split(":")[0] in members

    return [path for path in found_on(hosts, "master", key) if not is_cache(path)]


@pytest.fixture(scope="module")
def key(hosts):
    return hosts.read("master", "/etc/salt/pki/master/csyncsync/wwwshared.key").strip()


@pytest.fixture(scope="module")
def seen(hosts, key):
    """What could be seen while the key was laid out on all hosts: events, returns and, on web1, a log in full."""
    assert len(key) == 64

    def laid_out_anew():
        """By these two: the master may have the states applied at any time, for what another test did."""
        for host in ("web1", "web2"):
            hosts.path(host, "/etc/csync2_wwwshared.key").write_text("X" * 64 + "\n", encoding="ascii")
        done = hosts.exec("web1", "salt-call", "-l", "debug", "state.apply", "csyncsync.groups", "queue=True")
        answers = hosts.apply()
        return (done, answers) if answers["web2"]["The group wwwshared is on this host"]["changes"] else False

    with hosts.bus() as bus:
        done, answers = hosts.eventually(laid_out_anew, 60)
        hosts.write("web1", "/var/www/shared/pushed-with-the-key", "x\n")
        hosts.everywhere("/var/www/shared/pushed-with-the-key", "x\n", seconds=60)
        hosts.eventually(lambda: bool(bus.tagged("csyncsync/wwwshared/pushed")), 20)
        return {
            "the events": json.dumps(bus.all()),
            "the returns of state.apply": json.dumps(answers),
            "the debug log of state.apply": done.stdout + done.stderr,
        }


def test_the_key_is_shown_by_no_event_no_return_and_no_debug_log(seen, key):
    for what, text in seen.items():
        assert len(text) > 1000
        assert key not in text, f"{what} holds the key: …{text[max(0, text.find(key) - 200) : text.find(key)]}…"


def test_the_key_is_returned_by_no_function(hosts, seen, key):
    for function, arguments in (
        ("csyncsync.member", []),
        ("csyncsync.groups", []),
        ("csyncsync.status", []),
        ("csyncsync.install", ["wwwshared", "test=True"]),
        ("mine.get", ["*", "csyncsync.member"]),
    ):
        assert key not in json.dumps(hosts.ask("web1", function, *arguments)), function
    for runner in (["csyncsync.status"], ["csyncsync.apply"], ["mine.get", "*", "csyncsync.member"]):
        assert key not in json.dumps(hosts.run(*runner)), runner


def test_the_key_is_in_one_file_of_the_master_and_of_each_member(hosts, seen, key):
    for host in HOSTS:
        assert found_on(hosts, host, key) == ["/etc/csync2_wwwshared.key"], host
    assert on_master(hosts, key, HOSTS) == ["/etc/salt/pki/master/csyncsync/wwwshared.key"]


def test_private_keys_never_leave_their_host(hosts, seen):
    lines = hosts.read("web1", "/etc/csync2_ssl_key.pem").splitlines()
    assert found_on(hosts, "web1", lines[1]) == ["/etc/csync2_ssl_key.pem"]
    for host in ("master", "web2"):
        assert found_on(hosts, host, lines[1]) == []
    assert not any(lines[1] in text for text in seen.values())


def test_a_host_that_is_in_no_group_gets_no_key(hosts):
    with hosts.pillar({"wwwalone": {"members": ["web1"], "include": ["/var/www/alone"]}}):
        hosts.apply(sls="csyncsync.groups")
        key = hosts.read("master", "/etc/salt/pki/master/csyncsync/wwwalone.key").strip()
        assert hosts.read("web1", "/etc/csync2_wwwalone.key").strip() == key
        assert on_master(hosts, key, ["web1"]) == ["/etc/salt/pki/master/csyncsync/wwwalone.key"]
        assert "wwwalone" in hosts.ask("web1", "pillar.items")["csyncsync"]["groups"]
        for host in ("web2", "web3"):
            items = json.dumps(hosts.ask(host, "pillar.items"))
            assert "wwwalone" not in items
            assert key not in items
            assert found_on(hosts, host, key) == []
        forged = '{"csyncsync": {"groups": {"wwwalone": {"members": "web*", "include": ["/var/www/alone"]}}}}'
        answer = hosts.exec("web2", "salt-call", "--out=json", "pillar.items", f"pillar={forged}", check=False).stdout
        assert key not in answer, "a minion shapes its request, not what it gets"


#: Runs on a host: collects the command lines and environments of all processes until its standard input ends, which
#: then is what to look for in them; prints those that hold a word of it, and how many processes of a name there were.
SAMPLE = """
import collections, glob, json, os, select, sys, time
seen, texts = collections.defaultdict(set), {}
while not select.select([sys.stdin], [], [], 0.002)[0]:
    for directory in glob.glob("/proc/[0-9]*"):
        try:
            line = open(directory + "/cmdline", "rb").read()
            seen[open(directory + "/comm").read().strip()].add(directory)
            texts[line + open(directory + "/environ", "rb").read()] = line
        except OSError:
            continue
needles = [word.encode() for word in sys.stdin.read().split()]
found = {line.decode("utf-8", "replace")[:100] for text, line in texts.items() if any(word in text for word in needles)}
print(json.dumps([sorted(found), {name: len(there) for name, there in seen.items()}]))
"""


def private_lines(hosts):
    """A line of each host's private key."""
    return {host: hosts.read(host, "/etc/csync2_ssl_key.pem").splitlines()[1] for host in HOSTS}


def rotate(hosts):
    """Change the group's key, and web2's certificate; what the commands printed."""
    done = [hosts.bed.salt_run("csyncsync.rotate_key", "wwwshared", "-l", "debug")]
    done.append(hosts.bed.salt_run("csyncsync.rotate_certificate", "web2", "-l", "debug"))
    for each, what in zip(done, ("the new key", "the new certificate of web2")):
        assert each.stdout.count(f"has {what}") >= len(HOSTS), each.stdout + each.stderr[-2000:]
    return "".join(each.stdout + each.stderr for each in done)


def test_no_process_shows_a_key_while_states_and_pushes_run(hosts, key):
    """Keys are laid out anew and rotated, a certificate is made, and files are pushed, on all hosts."""
    words = [key, *private_lines(hosts).values()]
    watching = {
        host: subprocess.Popen(
            hosts.bed.find(host).enter("python3", "-c", SAMPLE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for host in ("master", *HOSTS)
    }
    for host in HOSTS:
        hosts.path(host, "/etc/csync2_wwwshared.key").write_text("X" * 64 + "\n", encoding="ascii")
    hosts.apply()
    printed = rotate(hosts)
    for number in range(5):
        hosts.write("web1", f"/var/www/shared/while-processes-are-watched-{number}", "x\n")
        hosts.everywhere(f"/var/www/shared/while-processes-are-watched-{number}", "x\n", seconds=60)
    hosts.bed.salt_run("csyncsync.sync", "wwwshared")
    words += [hosts.read("web1", "/etc/csync2_wwwshared.key").strip(), *private_lines(hosts).values()]
    assert len(set(words)) == 2 + len(HOSTS) + 1
    assert not any(word in printed for word in words)
    for process in watching.values():
        process.stdin.write("\n".join(words))
        process.stdin.close()
    for host, process in watching.items():
        found, seen = json.loads(process.stdout.read())
        assert found == [], host
        assert host == "master" or seen.get("csync2"), f"{seen} on {host}"


@pytest.fixture
def logging_all(hosts):
    """Master and minions write all that they can say into their logs."""

    def restart():
        hosts.close()
        hosts.exec("master", "systemctl", "restart", "salt-master")
        for host in HOSTS:
            hosts.shell(host, "systemctl kill --signal=KILL salt-minion; systemctl restart salt-minion")
        hosts.eventually(lambda: set(hosts.call(HOSTS, "test.ping", seconds=5)) == set(HOSTS), 90, "the minions answer")

    files = [("master", "/etc/salt/master.d/log.conf"), *((host, "/etc/salt/minion.d/log.conf") for host in HOSTS)]
    for host, path in files:
        hosts.write(host, path, "log_level_logfile: debug\n")
    restart()
    yield
    for host, path in files:
        hosts.path(host, path).unlink()
    restart()


def test_no_debug_log_and_no_cache_holds_a_key(hosts, logging_all):
    """Of the daemons, while a key is laid out anew and rotated, certificates are made anew, files are pushed."""
    old = hosts.read("master", "/etc/salt/pki/master/csyncsync/wwwshared.key").strip()
    hosts.path("web2", "/etc/csync2_wwwshared.key").write_text("X" * 64 + "\n", encoding="ascii")
    hosts.path("web3", "/etc/csync2_ssl_key.pem").unlink()
    hosts.apply()
    old_private = private_lines(hosts)["web2"]
    with hosts.bus() as bus:
        rotate(hosts)
        hosts.write("web1", "/var/www/shared/while-all-is-logged", "x\n")
        hosts.everywhere("/var/www/shared/while-all-is-logged", "x\n", seconds=60)
        hosts.settled("wwwshared")
        events = json.dumps(bus.all())
    new = hosts.read("master", "/etc/salt/pki/master/csyncsync/wwwshared.key").strip()
    private = private_lines(hosts)
    assert not any(word in events for word in (old, new, old_private, *private.values()))
    for host in HOSTS:
        assert "[DEBUG" in hosts.read(host, "/var/log/salt/minion")
        assert found_on(hosts, host, new) == ["/etc/csync2_wwwshared.key"], host
        assert found_on(hosts, host, old) == [], f"the old key is kept on {host}"
    assert "[DEBUG" in hosts.read("master", "/var/log/salt/master")
    assert on_master(hosts, new, HOSTS) == ["/etc/salt/pki/master/csyncsync/wwwshared.key"]
    assert found_on(hosts, "master", old) == [], "the old key is kept on the master"
    assert [found_on(hosts, host, old_private) for host in ("master", *HOSTS)] == [[]] * 4
    for owner, line in private.items():
        for host in ("master", *HOSTS):
            assert found_on(hosts, host, line) == ["/etc/csync2_ssl_key.pem"] * (host == owner), (owner, host)
