"""
A real Salt master and two real minions, for the promises that hang on Salt's own loader.

They are daemons in temporary directories and listen on 127.0.0.1 alone. The minions run on this very machine, so
their config says ``test: true``: no state that they apply writes anything.
"""

import glob
import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import jinja2
import pytest
import yaml
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[2]
#: What an administrator's file_roots hold of the repository.
SERVED = ("_beacons", "_modules", "_pillar", "_runners", "_states", "_utils", "states")

# The same examples on every run; no example is judged by how long it took.
settings.register_profile("csyncsync", deadline=None, derandomize=True, database=None)
settings.load_profile("csyncsync")


@pytest.fixture(scope="session")
def salt_factories_default_root_dir(tmp_path_factory):
    """Where the factories put the daemons' directories. Short: the paths of sockets have a limit."""
    return tmp_path_factory.mktemp("salt")


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """A copy of what the master serves, so that nothing of this run lands in the repository."""
    copy = tmp_path_factory.mktemp("tree")
    for name in SERVED:
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


class GroupsFile:
    """The file that the master's ext_pillar reads: pillar.example, if a test does not say otherwise."""

    def __init__(self, path):
        self.path = path
        self.path.write_text(self.example, encoding="utf-8")

    example = (REPOSITORY / "pillar.example").read_text(encoding="utf-8")

    @contextmanager
    def holding(self, text):
        self.path.write_text(text, encoding="utf-8")
        try:
            yield self
        finally:
            self.path.write_text(self.example, encoding="utf-8")


@pytest.fixture(scope="session")
def groups_file(tmp_path_factory):
    return GroupsFile(tmp_path_factory.mktemp("pillar") / "csyncsync.yaml")


@pytest.fixture(scope="session")
def master(salt_factories, tree, groups_file):
    """A master as the README sets it up: file_roots, states/csyncsync/files/master.conf.jinja, sync_all, start."""
    template = jinja2.Environment(autoescape=False).from_string(
        (tree / "states/csyncsync/files/master.conf.jinja").read_text(encoding="utf-8")
    )
    daemon = salt_factories.salt_master_daemon(
        "master",
        overrides={
            **yaml.safe_load(template.render(groups_file=str(groups_file.path))),
            "file_roots": {"base": [str(tree), str(tree / "states")], "prod": []},
            "worker_threads": 2,
        },
    )
    synced = daemon.salt_run_cli().run("saltutil.sync_all")
    assert synced.returncode == 0, synced
    with daemon.started():
        yield daemon


def _minion(master, name):
    return master.salt_minion_daemon(name, overrides={"test": True})


@pytest.fixture(scope="session")
def cold_minion(master):
    """web1, which the groups of pillar.example cover. It has never synced anything."""
    with _minion(master, "web1").started() as daemon:
        yield daemon


@pytest.fixture(scope="session")
def outsider(master):
    """db1, accepted by the master, and in no group."""
    with _minion(master, "db1").started() as daemon:
        yield daemon


@pytest.fixture(scope="session")
def call(master):
    """``call(minion id, function, *arguments, **keywords)``: what the minion returns for a job of the master."""
    client = master.salt_client()

    def _call(minion, function, *arguments, **keywords):
        return client.run(function, *arguments, minion_tgt=minion, timeout=60, **keywords)

    return _call
