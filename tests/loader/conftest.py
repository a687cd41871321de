"""
A real Salt master and two real minions, for the promises that hang on Salt's own loader.

They are daemons in temporary directories, listen on 127.0.0.1 alone, and end with the last test of this folder. The
minions run on this very machine, so their config says ``test: true``: no state that they apply writes anything.
"""

import glob
import json
import logging
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import jinja2
import pytest
import salt._logging
import salt.config
import yaml
from hypothesis import settings
from saltfactories.plugins.event_listener import EventListener

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "_utils"))
#: What of the repository the master serves.
SERVED = ("_beacons", "_modules", "_output", "_pillar", "_runners", "_states", "_utils", "states")
#: Of what the daemons log, only errors are shown beside a failed test; their own log files have all.
LOG = {"log": {"level": "error"}}
#: Where csyncsync and csync2 would write on this machine.
WRITTEN = ("/etc/csync2*", "/etc/csync2/*", "/var/lib/csync2/*", "/var/lib/csyncsync/*", "/var/lib/csyncsync/*/*")
UNITS = ("/etc/systemd/system/csync2*", "/etc/systemd/system/*/csync2*", "/etc/systemd/system/csyncsync*")

# The same examples on every run; no example is judged by how long it took.
settings.register_profile("csyncsync", deadline=None, derandomize=True, database=None)
settings.load_profile("csyncsync")


@pytest.fixture(scope="session")
def repository():
    return REPOSITORY


@pytest.fixture(scope="session")
def event_listener():
    """What hears the daemons' events, on 127.0.0.1 (the factories' own listens on all addresses)."""
    listener = EventListener()
    listener.host = "127.0.0.1"
    with listener:
        yield listener


@pytest.fixture(scope="session")
def salt_factories_config(request):
    """The same for what collects the daemons' logs; and nobody waits for daemons to end in peace."""
    salt._logging.shutdown_temp_handler()  # would print those logs once more at the very end
    for name in ("salt", "saltfactories", "pytestshellutils", "asyncio"):
        logging.getLogger(name).setLevel(logging.ERROR)
    server = request.config.pluginmanager.get_plugin("saltfactories-log-server")
    if server.log_host != "127.0.0.1":
        server.stop()
        server.log_host = "127.0.0.1"
        server.start()
    return {"log_server_host": "127.0.0.1", "slow_stop": False}


@pytest.fixture(scope="session")
def salt_factories_default_root_dir(tmp_path_factory):
    """Where the daemons' directories are; short, because the paths of sockets have a limit."""
    return tmp_path_factory.mktemp("salt")


@pytest.fixture(scope="package")
def tree(tmp_path_factory):
    """A copy of what the master serves, so that nothing of this run lands in the repository."""
    copy = tmp_path_factory.mktemp("tree")
    for name in SERVED:
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


class GroupsFile:
    """The file that the master's ext_pillar reads: pillar.example, while no test says otherwise."""

    def __init__(self, path):
        self.path = path
        shutil.copyfile(REPOSITORY / "pillar.example", path)

    @contextmanager
    def holding(self, content):
        """Something else in the file: text, or ``csyncsync:groups`` as data."""
        if not isinstance(content, str):
            content = json.dumps({"csyncsync": {"groups": content}})  # JSON is YAML
        self.path.write_text(content, encoding="utf-8")
        try:
            yield
        finally:
            shutil.copyfile(REPOSITORY / "pillar.example", self.path)


@pytest.fixture(scope="package")
def groups_file(tmp_path_factory):
    return GroupsFile(tmp_path_factory.mktemp("pillar") / "csyncsync.yaml")


@pytest.fixture(scope="package")
def master(salt_factories, tree, groups_file):
    """A master as an administrator sets it up: file_roots, the config that csyncsync.master writes, sync_all, start."""
    config = (tree / "states/csyncsync/files/master.conf.jinja").read_text(encoding="utf-8")
    config = (
        jinja2.Environment()
        .from_string(config)
        .render(groups_file=str(groups_file.path), reactor=str(tree / "states/csyncsync/files/reactor.sls"))
    )
    daemon = salt_factories.salt_master_daemon(
        "master",
        overrides={
            **yaml.safe_load(config),
            "file_roots": {"base": [str(tree), str(tree / "states")]},
            "auto_accept": True,
            "pytest-master": LOG,
        },
    )
    synced = daemon.salt_run_cli().run("saltutil.sync_all")
    assert synced.returncode == 0, synced
    with daemon.started():
        yield daemon


@pytest.fixture(scope="package")
def master_opts(master):
    """The master's config as its daemons and commands read it."""
    return salt.config.master_config(master.config_file)


@pytest.fixture(scope="package")
def cold_minion(master):
    """web1, which the groups of pillar.example cover. It has never synced anything."""
    with master.salt_minion_daemon("web1", overrides={"test": True, "pytest-minion": LOG}).started() as daemon:
        yield daemon


@pytest.fixture(scope="package")
def outsider(master):
    """db1, which the master has accepted, and which is in no group."""
    with master.salt_minion_daemon("db1", overrides={"test": True, "pytest-minion": LOG}).started() as daemon:
        yield daemon


@pytest.fixture(scope="package")
def call(master):
    """``call(minion id, function, *arguments, **keywords)``: a job of the master, and what the minion returned."""
    client = master.salt_client()

    def _call(minion, function, *arguments, **keywords):
        return client.run(function, *arguments, minion_tgt=minion, timeout=60, **keywords)

    return _call


class Applied:
    """What a minion returned for ``state.apply``, by the states' ids."""

    def __init__(self, returned):
        assert isinstance(returned, dict), f"it did not render: {returned}"
        self.text = json.dumps(returned)
        self.states = {state["__id__"]: state for state in returned.values()}
        self.failed = {name: state["comment"] for name, state in self.states.items() if state["result"] is False}

    def __getitem__(self, name):
        return self.states[name]


@pytest.fixture(scope="package")
def apply(call):
    """``apply(sls)``: ``state.apply`` on web1, with ``test=True``."""

    def _apply(sls):
        return Applied(call("web1", "state.apply", sls, test=True))

    return _apply


def _files_on_this_machine():
    return sorted(path for pattern in (*WRITTEN, *UNITS) for path in glob.glob(pattern))


@pytest.fixture(scope="package")
def cold_run(cold_minion, call, apply):
    """The first ``state.apply csyncsync test=True`` of a minion that has never synced, with what changed on disk."""
    if Path("/etc/csync2_ssl_cert.pem").exists():
        pytest.skip("this machine is itself a host of csyncsync, so its states have nothing to announce")
    assert call("web1", "sys.list_functions", "csyncsync") == []
    before = _files_on_this_machine()
    applied = apply("csyncsync")
    applied.written = sorted(set(_files_on_this_machine()) ^ set(before))
    applied.log = Path(cold_minion.config["log_file"]).read_text(encoding="utf-8", errors="replace")
    return applied


@pytest.fixture(scope="package")
def minion(cold_minion, cold_run, call):
    """web1 with csyncsync's modules, which that run has synced; it loads them a moment later."""
    until = time.monotonic() + 20
    while "csyncsync.member" not in call("web1", "sys.list_functions", "csyncsync"):
        assert time.monotonic() < until, "the minion does not load what it has synced"
    return cold_minion


@pytest.fixture
def published(event_listener, master):
    """
    ``published()``: the functions of the jobs that the master has published since the test began. ``published(function,
    …)``: only of those that call these, or ask for them; a thread of a test before may just ask for something else.
    """
    began = time.time()

    def _published(*wanted):
        time.sleep(1)  # events come a moment later
        jobs = event_listener.get_events([(master.id, "salt/job/*/new")], after_time=began)
        called = [(job.data["fun"], *map(str, job.data["arg"])) for job in jobs]
        return sorted(words[0] for words in called if not wanted or {*wanted} & {*words})

    return _published
