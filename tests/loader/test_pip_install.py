"""`pip install` of the repository: Salt's loader finds every room through the package's entry point."""

import json
import os
import shutil
import subprocess
import sys

import csync2lib
import pytest

#: Prints, of each of Salt's loaders, what it has of csyncsync.
LOADED = """
import json, sys
import salt.config, salt.loader
opts = salt.config.minion_config(sys.argv[1], role="minion")
opts.update(salt.config.master_config(sys.argv[2]), __role="minion", id="web1", grains={}, file_client="local")
utils = salt.loader.utils(opts)
modules = salt.loader.minion_mods(opts, utils=utils)
rooms = {
    "execution": modules,
    "states": salt.loader.states(opts, modules, utils, None),
    "beacons": salt.loader.beacons(opts, modules, {}),
    "runner": salt.loader.runner(opts, utils=utils, context={}),
    "pillar": salt.loader.pillars(opts, modules, context={}),
    "output": salt.loader.outputters(opts),
}
ours = {room: sorted(name for name in there if name.startswith("csyncsync")) for room, there in rooms.items()}
print(json.dumps(ours))
"""


@pytest.fixture(scope="module")
def installed(repository, tmp_path_factory):
    """The directory that pip installed a copy of the repository into (nothing is built in the repository itself)."""
    work = tmp_path_factory.mktemp("pip")
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "tests")
    shutil.copytree(repository, work / "source", ignore=ignored)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*pip, "--target", str(work / "site"), str(work / "source")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return work / "site"


@pytest.fixture(scope="module")
def salt_with_the_package(installed, tmp_path_factory):
    """``run(*python arguments)``: a Python that has the package, and a Salt config in directories of its own."""
    root = tmp_path_factory.mktemp("config")
    for role in ("minion", "master"):
        config = {"root_dir": str(root), "id": "web1", "file_client": "local", "log_file": "log"}
        (root / role).write_text(json.dumps(config), encoding="utf-8")

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *[argument.replace("CONFIG", str(root)) for argument in arguments]],
            env={**os.environ, "PYTHONPATH": str(installed)},
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_the_package_holds_every_room(installed, tree):
    rooms = {"beacons", "modules", "output", "pillar", "runners", "states"}
    wanted = {f"csyncsync/{room}/{path.name}" for room in rooms for path in (tree / f"_{room}").glob("*.py")}
    there = {str(path.relative_to(installed)) for path in installed.glob("csyncsync/*/*.py")}
    assert there == wanted
    # What they import: Salt puts no package's utils on the path.
    package = {str(path.relative_to(tree / "_utils")) for path in (tree / "_utils").rglob("*.py")}
    assert {str(path.relative_to(installed)) for path in installed.glob("csync2lib/**/*.py")} == package


def test_the_version_is_the_packages(installed):
    [metadata] = installed.glob("csyncsync-*.dist-info/METADATA")
    assert f"\nVersion: {csync2lib.VERSION}\n" in metadata.read_text(encoding="utf-8")


def test_every_loader_of_salt_finds_its_room(salt_with_the_package):
    found = salt_with_the_package("-c", LOADED, "CONFIG/minion", "CONFIG/master")
    assert {"csyncsync.groups", "csyncsync.push"} <= set(found["execution"]), found
    assert "csyncsync.group_present" in found["states"], found
    assert "csyncsync.beacon" in found["beacons"], found
    assert "csyncsync.sync" in found["runner"], found
    assert found["pillar"] == found["output"] == ["csyncsync"], found


def test_salt_call_answers_without_any_sync(salt_with_the_package):
    arguments = ["--local", "--config-dir=CONFIG", "--out=json", "csyncsync.installed"]
    command = "import sys; sys.argv[0] = 'salt-call'; from salt.scripts import salt_call; salt_call()"
    assert isinstance(salt_with_the_package("-c", command, *arguments)["local"], list)
