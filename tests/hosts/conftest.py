"""The promises on real hosts: a testbed for all tests, and the questions that they ask it."""

import contextlib
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "testbed"))

from bed.bus import listen
from bed.cluster import Testbed
from bed.hosts import ENVIRONMENT
from bed.install import not_in_sync, set_up_master
from places import PILLAR, SHARED

#: What takes longest comes before what is short, so that all testbeds come to the end together; first come the files
#: with tests that run alone: these wait for all that runs, which is short then.
ORDER = [
    "hostile",
    "exact",
    "names",
    "pushers",
    "join",
    "rotate",
    "faults",
    "conflicts",
    "backups",
    "guards",
    "secrets",
    "answers",
    "forged",
]
ORDER += ["actions", "chaos", "first_content", "calm", "hot", "day_two", "states", "monitoring", "mine", "tls", "flow"]
#: The tests without hosts come after the file that keeps one testbed busy for long.
AFTER = 0.5

#: How much longer everything may take when another testbed works beside this one.
PATIENCE = 3 if "PYTEST_XDIST_WORKER" in os.environ else 1

#: Runs on the master: for each line of JSON, [minions, function, arguments, seconds], prints what they returned.
CALL = """
import json, sys
import salt.client
client = salt.client.LocalClient()
for line in sys.stdin:
    minions, function, arguments, seconds = json.loads(line)
    try:
        answer = client.cmd(minions, function, arguments, tgt_type="list", timeout=seconds)
    except Exception as err:
        answer = repr(err)
    print(json.dumps(answer, default=repr), flush=True)
"""

#: Runs on the master: for each line of JSON, the arguments of salt-run, prints its exit code, output and errors. A copy
#: of this process is salt-run: to load Salt takes longer than most of what the runner is asked.
RUN = """
import json, os, sys, tempfile, traceback
import salt.cli.run, salt.client, salt.loader, salt.minion, salt.output, salt.runner, salt.scripts, setproctitle
for line in sys.stdin:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            code, sys.argv = 1, ["/usr/local/bin/salt-run", *json.loads(line)]
            try:
                for number, file in enumerate((open(os.devnull), out, err)):
                    os.dup2(file.fileno(), number)
                setproctitle.setproctitle(" ".join(sys.argv))
                salt.scripts.salt_run()
                code = 0
            except SystemExit as end:
                code = end.code or 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = [file.seek(0) or file.read().decode("utf-8", "surrogateescape") for file in (out, err)]
        print(json.dumps([code, *texts]), flush=True)
"""

#: Runs on a host: for each line of JSON, its minion id, prints what csyncsync.status returns there. A process of a
#: minion's takes a third of a second of a core for it, and tests ask for it more than for anything else.
STATUS = """
import json, os, sqlite3, sys
sys.path.insert(0, "/var/cache/salt/minion/extmods/utils")
for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            from csync2lib.host import ThisHost
            from csync2lib.report import status
            answer = status.of_host(ThisHost.of(json.loads(line), None))
        except Exception as err:
            answer = repr(err)
        print(json.dumps(answer), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def pytest_collection_modifyitems(items):
    """Bring the files of this directory into ORDER."""

    def rank(item):
        name = item.path.stem.removeprefix("test_")
        return ORDER.index(name) if item.path.parent == Path(__file__).parent and name in ORDER else AFTER

    items.sort(key=rank)


class Hosts:
    """The hosts of the testbed, and what the tests do with them and want to know of them."""

    def __init__(self, bed, names):
        self.bed, self.names = bed, names
        self._scripts, self._running = {}, threading.Lock()
        #: How often minions were asked something, or the master's runner.
        self._asked = 0

    # ---- commands

    def call(self, hosts, function, *arguments, seconds=30):
        """{host: what a function of its minion returned}; whoever is silent is left out."""
        self._asked += 1
        answer = self._answer("master", CALL, [list(hosts), function, list(arguments), seconds])
        assert isinstance(answer, dict), answer
        return answer

    def _answer(self, host, script, question, again=(OSError, ValueError)):
        """What a script that runs on a host answers; it is started for the first question."""
        for _ in range(2):
            try:
                return self._ask_script(host, script, question)
            except again:  # the host was restarted, and the script with it
                self._end(host, script)
        raise AssertionError(f"{host} cannot be asked")

    def _ask_script(self, host, script, question):
        if (host, script) not in self._scripts:
            self._scripts[host, script] = subprocess.Popen(
                self.bed.find(host).enter("/opt/salt/bin/python", "-W", "ignore", "-c", script),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
            )
        process = self._scripts[host, script]
        process.stdin.write(json.dumps(question).encode() + b"\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    def _end(self, host, script):
        if process := self._scripts.pop((host, script), None):
            process.kill()
            process.wait()

    def close(self):
        """End the scripts on the hosts; the next question starts one anew."""
        for host, script in [*self._scripts]:
            self._end(host, script)

    def exec(self, host, *command, **options):
        """Run a command on a host."""
        return self.bed.exec(host, *command, **options)

    def shell(self, host, script, **options):
        """Run a script on a host; its output."""
        return self.bed.exec(host, "sh", "-c", script, **options).stdout

    def stop_minion(self, host):
        """And the watcher: nobody watches. Killed, because a minion takes eight seconds to end."""
        self.shell(host, f"systemctl kill --signal=KILL {WATCHING}; systemctl stop {WATCHING}")

    def start_minion(self, host):
        """And the watcher; returns when the minion answers."""
        self.shell(host, f"systemctl start {WATCHING}")
        self.eventually(lambda: self.call([host], "test.ping", seconds=3), 60, f"the minion of {host} answers")

    def watcher_log(self, host):
        return self.shell(host, "journalctl --no-pager -o cat -u csyncsync-watch")

    def ask(self, host, function, *arguments):
        """What a function of one host's minion returns."""
        answers = self.call([host], function, *arguments)
        assert host in answers, f"{host} did not answer {function}"
        return answers[host]

    def run(self, *arguments):
        """What a runner returns, or the one line in which it says why it cannot; then its exit code tells so, too."""
        self._asked += 1
        done = self.salt_run("--out=json", *arguments)
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            pytest.fail(f"salt-run {arguments}: {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        if isinstance(answer, dict) and "problem" in answer:
            assert done.returncode == 1, answer
            return answer["problem"]
        return answer

    def salt_run(self, *arguments):
        """salt-run on the master, as somebody who types it sees it: a subprocess.CompletedProcess."""
        if self._running.acquire(blocking=False):
            try:
                # What has begun is not done twice.
                return subprocess.CompletedProcess(arguments, *self._answer("master", RUN, arguments, again=OSError))
            finally:
                self._running.release()
        return self.bed.salt_run(*arguments, check=False)  # another thread has the script

    def states(self, group):
        """``{host: what salt-run csyncsync.status says of its state in a group}``."""
        rows = self.run("csyncsync.status", group)["groups"][group]
        return {host: row["state"] for host, row in rows.items()}

    def statuses(self, host):
        """What csyncsync.status returns on a host, whether or not its minion runs."""
        assert self.bed.find(host).leader(), f"{host} is off"
        found = self._answer(host, STATUS, host)
        assert isinstance(found, dict), f"{host}: {found}"
        return found

    def status(self, host, group):
        """csyncsync.status of a group on a host, {} if it has none."""
        return self.statuses(host).get(group) or {}

    def push_wholly(self, host, group):
        """Have a host push the whole group now; what csyncsync.push returned."""

        def pushed():
            answer = self.ask(host, "csyncsync.push", group, "full=True")
            assert isinstance(answer, dict), answer
            assert answer["state"] != "running"
            return answer

        return self.eventually(pushed, 60)

    def apply(self, *hosts, sls="csyncsync", test=False, may_fail=False):
        """state.apply on these hosts (all); {host: {state's id: what it returned}}."""
        hosts = hosts or self.names
        answers = self.call(hosts, "state.apply", sls, "queue=True", f"test={test}", seconds=180)
        result = {}
        for host in hosts:
            assert isinstance(answers.get(host), dict), f"{host}: {answers.get(host, 'no answer')}"
            result[host] = {states["__id__"]: states for states in answers[host].values()}
            failed = [f"{name}: {found['comment']}" for name, found in result[host].items() if found["result"] is False]
            assert may_fail or not failed, f"{host}: {failed}"
        return result

    # ---- files

    def path(self, host, path):
        """Where a host's file is reached from here."""
        root = self.bed.root(host)
        if isinstance(path, bytes):
            return os.path.join(os.fsencode(root), path.lstrip(b"/"))
        return root / path.lstrip("/")

    def place(self, host, path):
        """A function that returns where a host's file is reached from here, None while the host is off."""
        return lambda: os.fsencode(self.path(host, path)) if self.bed.find(host).leader() else None

    def write(self, host, path, content):
        """Write a file on a host, and the directories above it."""
        file = Path(os.fsdecode(self.path(host, path)))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def read(self, host, path):
        """A file's content, None if it is not there."""
        try:
            return Path(os.fsdecode(self.path(host, path))).read_bytes().decode()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def tree(self, host, top=SHARED, skip=()):
        """Everything below a directory: {path: (type, mode, uid, gid, hash of the content or link's target)}."""
        return self.tree_at(self.path(host, top), skip)

    @staticmethod
    def tree_at(path, skip=()):
        """The same of any directory of this machine."""
        start, result = os.fsencode(path), {}
        for directory, names, files in os.walk(start):
            for name in [b"."] * (directory == start) + names + files:
                if name not in skip:
                    path = os.path.join(directory, name)
                    result[os.path.relpath(path, start)] = _described(path)
        return result

    def equal(self, *tops, hosts=None, seconds=30):
        """Wait until these directories are the same on all hosts; the tree of the last one."""
        hosts = hosts or self.names

        def same():
            for top in tops or (SHARED,):
                first = self.tree(hosts[0], top)
                for host in hosts[1:]:
                    assert not _difference(first, self.tree(host, top)), f"{top} differs on {hosts[0]} and {host}"
            return first

        return self.eventually(same, seconds)

    def remove(self, host, path, seconds=60):
        """Delete a shared tree on a host and so on all; also if it is most of the group, which the guard holds."""
        self.settled("wwwshared", seconds=seconds)  # to delete what a push has not yet finished is a conflict
        self.exec(host, "rm", "-rf", path)

        def gone():
            if not any(self.path(name, path).exists() for name in self.names):
                return True
            if self.status(host, "wwwshared").get("held"):
                self.salt_run("csyncsync.release", "wwwshared")
            return False

        self.eventually(gone, seconds, f"{path} is deleted")

    def others(self, origin):
        """All hosts but this one."""
        return [host for host in self.names if host != origin]

    def everywhere(self, path, content, hosts=None, seconds=30):
        """Wait until a file has this content (None: is not there) on all of these hosts."""

        def arrived():
            for host in hosts or self.names:
                found = self.read(host, path)
                assert found == content, f"{path} on {host} is {found!r:.200}, not {content!r:.200}"

        self.eventually(arrived, seconds)

    # ---- csync2's files

    def config(self, host, group):
        """csync2's config of a group, None if it is not there."""
        return self.read(host, f"/etc/csync2_{group}.cfg")

    def named_in(self, host, group):
        """The hosts that a host's config of a group names."""
        return [name for name in [*self.names, "web4"] if f'"{name}"@' in (self.config(host, group) or "")]

    def settled(self, *groups, hosts=None, seconds=60):
        """Wait until each of these groups (all) is in sync on each of these hosts, as the hosts see it."""
        hosts, groups = hosts or self.names, groups or ("wwwdata", "wwwshared")
        notes = {}

        def in_sync():
            notes.update(self._notes(hosts, groups))
            for host in hosts:
                statuses = self.statuses(host)
                for group in groups:
                    found = statuses.get(group)
                    assert found, f"{host} does not have {group}"
                    assert found["in_sync"], f"{host}: {group}: {found}"
                    assert found["watching"], f"{host}: {group}: {found}"

        def something_happens():
            """To ask all the time keeps hosts from what they are waited for."""
            until = time.monotonic() + 1
            while self._notes(hosts, groups) == notes and time.monotonic() < until:
                time.sleep(0.05)

        self.eventually(in_sync, seconds, pause=something_happens)

    def _notes(self, hosts, groups):
        """When hosts noted something about groups: ``{path: time}``."""
        found = {}
        for host in hosts:
            for group in groups:
                top = self.path(host, f"/var/lib/csyncsync/{group}")
                for path in (top, top / "journal", top / "push.json", top / "watch.json"):
                    with contextlib.suppress(OSError):
                        found[path] = path.stat().st_mtime_ns
        return found

    def calm(self, *groups, tops=(), hosts=None, seconds=60):
        """Wait until what was done is over: as equal(), then as settled(); the tree."""
        tree = self.equal(*tops, hosts=hosts, seconds=seconds)
        self.settled(*groups, hosts=hosts, seconds=seconds)
        return tree

    # ---- pillar

    def groups(self):
        """The groups of the pillar on the master, as they stand in its file."""
        return yaml.safe_load(self.path("master", PILLAR).read_text(encoding="utf-8"))["csyncsync"]["groups"]

    def set_groups(self, groups):
        """Write the groups into the master's pillar file, as an administrator's editor would."""
        file = self.path("master", PILLAR)
        temporary = file.with_suffix(".new")
        temporary.write_text(yaml.safe_dump({"csyncsync": {"groups": groups}}), encoding="utf-8")
        temporary.chmod(0o600)
        temporary.replace(file)

    @contextlib.contextmanager
    def pillar(self, changes):
        """Change groups of the pillar (None takes one out); they are what they were afterwards, on the hosts too."""
        before = self.groups()
        groups = {**before, **changes}
        self.set_groups({name: options for name, options in groups.items() if options is not None})
        try:
            yield
        finally:
            self.set_groups(before)
            self.apply(sls="csyncsync.groups,csyncsync.service")

    # ---- events

    def bus(self):
        """Listen on the master's bus, as a context manager that yields a Bus."""
        return listen(self.bed)

    # ---- waiting

    def eventually(self, probe, seconds=30, what="", pause=None):
        """
        Call the probe until it neither raises AssertionError nor returns False; what it returned.

        A probe that does not come true in time fails the test, with the last objection and the state of the hosts. The
        seconds are those of a machine that has nothing else to do. ``pause()`` returns when it is worth asking again;
        without it, files are looked at all the time, and minions asked now and then: that keeps them from working.
        """
        until = time.monotonic() + seconds * PATIENCE
        while True:
            asked, began = self._asked, time.monotonic()
            try:
                result = probe()
                if result is not False:
                    return result
                objection = "not yet"
            except (AssertionError, OSError) as err:
                objection = str(err)
            if time.monotonic() > until:
                pytest.fail(f"not within {seconds * PATIENCE} s: {what} {objection}\n{self.diagnosis()}", pytrace=True)
            if pause:
                pause()
            else:
                time.sleep(0.05 if self._asked == asked else min(2 * (time.monotonic() - began), 1.0))

    def diagnosis(self):
        """What the master thinks of the groups, and the ends of the logs."""
        parts = []
        with contextlib.suppress(Exception):
            done = self.bed.salt_run("csyncsync.status", check=False, timeout=60)
            parts.append("salt-run csyncsync.status:\n" + done.stdout + done.stderr[-500:])
        for host, _, state, _, _ in self.bed.status():
            log = "master" if host == "master" else "minion"
            with contextlib.suppress(OSError):
                text = (self.bed.root(host) / "var/log/salt" / log).read_text("utf-8", "replace")
                lines = [line for line in text.splitlines() if not any(noise in line for noise in NOISE)]
                parts.append(f"{host} ({state}), end of its log:\n" + "\n".join(line[:400] for line in lines[-15:]))
            with contextlib.suppress(Exception):
                lines = self.watcher_log(host).splitlines()[-10:]
                parts.append(f"{host}, end of its watcher's log:\n" + "\n".join(line[:400] for line in lines))
        return "\n".join(parts)


#: What hears of changes, and what is asked to push them.
WATCHING = "salt-minion csyncsync-watch"
#: Salt's own complaints about itself.
NOISE = (
    "Task was destroyed",
    "task: <Task",
    "future: <Task",
    "already awaited coroutine",
    "slow subscriber",
    "unclosed ",
    "salt.loaded.int.beacons",
    "cached the public key",
)


#: Hashes of files by what tells that they were not changed since: all hosts' trees are looked at again and again.
_HASHES = {}


def _described(path):
    try:
        status = os.lstat(path)
        kind = stat.S_IFMT(status.st_mode)
        content = None
        if stat.S_ISREG(kind):
            content = _hash(path, status)
        elif stat.S_ISLNK(kind):
            content = os.readlink(path)
    except OSError:
        return "vanished while it was read"
    return (oct(kind), oct(stat.S_IMODE(status.st_mode)), status.st_uid, status.st_gid, content)


def _hash(path, status):
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    found = _HASHES.get(key)
    if found is None:
        began = time.time_ns()
        with open(path, "rb") as file:
            found = hashlib.sha256(file.read()).hexdigest()
        if began - status.st_ctime_ns > 10**9:  # what is written in the same tick of the kernel's clock looks the same
            _HASHES[key] = found
    return found


def _difference(first, second):
    keys = [key for key in sorted({*first, *second}) if first.get(key) != second.get(key)]
    return {key: (first.get(key), second.get(key)) for key in keys[:10]}


@pytest.fixture(scope="session")
def _bed():
    # Tests that run beside these have a testbed of their own.
    os.environ["TESTBED_NAME"] = os.environ.get("TESTBED_NAME", "test") + os.environ.get("PYTEST_XDIST_WORKER", "")
    keep = bool(os.environ.get("TESTBED_KEEP"))  # for work on a test: neither begin anew nor clean up
    bed = Testbed(tested="CHAOS_MINUTES" not in os.environ)  # make chaos has the real times
    if not keep:
        bed.down()
    try:
        bed.up(0)
        set_up_master(bed)  # before minions talk with it: they take long to miss a master that restarts
        bed.up(3)
        yield bed
    finally:
        if not keep:
            bed.down()


@pytest.fixture(scope="session")
def hosts(_bed):
    """Three hosts on which the formula is installed, in sync."""
    hosts = Hosts(_bed, ["web1", "web2", "web3"])

    def installed():
        lagging = not_in_sync(_bed, hosts.names, {host: hosts.statuses(host) for host in hosts.names})
        assert not lagging, "; ".join(lagging)

    hosts.apply()
    hosts.eventually(installed, 120, pause=lambda: time.sleep(0.5))
    hosts.write("web1", f"{SHARED}/stays", "An include that is emptied looks like a lost disk.\n")
    yield hosts
    hosts.close()


@pytest.fixture
def in_sync(hosts):
    """A test begins when what the one before did is over, everywhere."""
    hosts.calm(seconds=120)


@pytest.fixture(scope="module", autouse=True)
def _in_sync_before(hosts):
    """So does a file, whichever one comes before it on this testbed."""
    hosts.calm(seconds=120)
