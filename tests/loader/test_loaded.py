"""After the sync everything that the documentation names is loaded, answers, and describes itself."""

import json
import re
from pathlib import Path

import pytest
import salt.config
import salt.loader
import salt.runner

EXECUTION = {
    "member",
    "groups",
    "push",
    "status",
    "installed",
    "paths",
    "certificate",
    "renew_certificate",
    "pinned",
    "key_proof",
    "join",
    "digests",
    "user_number",
    "code",
    "claims",
    "admit",
    "wait",
    "kept",
    "marked",
    "versions",
    "win",
    "backups",
    "restore",
    "paused",
    "contents",
    "reset",
    "metrics",
    "command",
}
STATES = {"certificate_present", "member_published", "group_present", "group_absent"}
RUNNER = {
    "sync",
    "pushed",
    "join",
    "apply",
    "release",
    "status",
    "conflicts",
    "resolve",
    "pause",
    "resume",
    "verify",
    "reset",
    "rotate_key",
    "rotate_certificate",
    "backups",
    "restore",
}
BEACON = {"beacon", "validate"}
#: How a command stands in the documentation, in comments and in messages: salt-run csyncsync.sync wwwdata
IN_WORDS = {
    "runner": re.compile(r"\bsalt-run\s+csyncsync\.(\w+)"),
    "execution": re.compile(r"\bsalt(?:-call)?\s(?:--\w+\s)?(?:'[^']+'|[\w*]+\s)?\s*csyncsync\.(\w+)"),
    "sls": re.compile(r"\bstate\.apply\s+csyncsync\.(\w+)"),
}


@pytest.fixture(scope="module")
def documents(repository):
    """What a user may read: the documentation, and every file whose comments and messages name commands."""
    patterns = (
        "*.md",
        "docs/**/*",
        "pillar.example",
        "_*/*.py",
        "states/**/*.sls",
        "states/**/*.jinja",
        "tests/demo/*",
    )
    files = [path for pattern in patterns for path in sorted(repository.glob(pattern)) if path.is_file()]
    return {str(path.relative_to(repository)): path.read_text(encoding="utf-8", errors="replace") for path in files}


@pytest.fixture(scope="module")
def execution_docs(minion, call):
    return _short(call("web1", "sys.doc", "csyncsync"))


@pytest.fixture(scope="module")
def state_docs(minion, call):
    return _short(call("web1", "sys.state_doc", "csyncsync"))


@pytest.fixture(scope="module")
def runner_docs(master_opts):
    """What ``salt-run -d csyncsync`` prints."""
    with salt.runner.RunnerClient(master_opts) as client:
        return _short(client.get_docs("csyncsync"))


@pytest.fixture(scope="module")
def beacon_docs(minion):
    functions = salt.loader.beacons(salt.config.minion_config(minion.config_file), None, context={})
    return {name: functions[name].__doc__ for name in functions if name.startswith("csyncsync.")}


def _short(docs):
    """Salt's answer without the module's own docstring."""
    return {name: text for name, text in docs.items() if name.startswith("csyncsync.")}


def _functions(docs):
    return {name.split(".")[1] for name in docs}


def test_the_execution_module_is_there(execution_docs):
    assert EXECUTION - _functions(execution_docs) == set()


def test_the_states_are_there(state_docs):
    assert STATES - _functions(state_docs) == set()


def test_the_runner_is_there(runner_docs):
    assert RUNNER - _functions(runner_docs) == set()


def test_the_beacon_is_there(minion, call, beacon_docs):
    assert "- csyncsync\n" in call("web1", "beacons.list_available") + "\n"
    assert BEACON - _functions(beacon_docs) == set()


def test_the_package_is_there_as_a_whole_on_minion_and_master(minion, master_opts, repository):
    ours = repository / "_utils"
    package = {path.relative_to(ours): path.read_bytes() for path in ours.rglob("*.py")}
    for opts in (salt.config.minion_config(minion.config_file), master_opts):
        there = Path(opts["extension_modules"]) / "utils"
        assert {path.relative_to(there): path.read_bytes() for path in there.rglob("*.py")} == package


@pytest.mark.parametrize("room", ["execution", "state", "runner", "beacon"])
def test_every_public_function_has_a_docstring(room, request):
    docs = request.getfixturevalue(f"{room}_docs")
    assert {name for name, text in docs.items() if not (text or "").strip()} == set()


@pytest.mark.parametrize("room", ["execution", "runner"])
def test_every_command_shows_how_to_call_it(room, request):
    docs = request.getfixturevalue(f"{room}_docs")
    examples = {name: (text or "").partition("CLI Example:\n\n")[2] for name, text in docs.items()}
    assert {name for name, example in examples.items() if f" {name}" not in example} == set()


@pytest.mark.parametrize("room", ["execution", "runner", "sls"])
def test_every_command_that_is_named_anywhere_exists(room, request, documents, tree):
    if room == "sls":
        there = {path.stem for path in (tree / "states/csyncsync").glob("*.sls")}
    else:
        there = _functions(request.getfixturevalue(f"{room}_docs"))
    named = {name: path for path, text in documents.items() for name in IN_WORDS[room].findall(text)}
    assert named, "the documents name no command at all"
    assert {name: path for name, path in named.items() if name not in there} == {}


def test_the_execution_module_answers(minion, call):
    assert call("web1", "csyncsync.status") == {}
    assert call("web1", "csyncsync.installed") == []
    assert call("web1", "csyncsync.certificate")["valid"] is False


def test_salt_run_answers_while_no_host_has_published_anything(minion, master):
    answer = master.salt_run_cli().run("csyncsync.status")
    assert (answer.returncode, answer.data) == (0, {"groups": {}, "retcode": 0}), answer


def test_salt_run_tells_of_each_group_which_member_is_not_set_up(minion, outsider, master, call):
    for host in ("web1", "db1"):  # a mine entry makes no member
        assert call(host, "mine.send", "csyncsync.member", mine_function="test.ping")
    try:
        answer = master.salt_run_cli().run("csyncsync.status")
    finally:
        for host in ("web1", "db1"):
            call(host, "mine.delete", "csyncsync.member")
    row = {"state": "not set up", "problems": [["not set up", "salt web1 state.apply csyncsync"]]}
    expected = {"groups": {group: {"web1": row} for group in ("wwwdata", "wwwshared")}, "retcode": 1}
    assert (answer.returncode, answer.data) == (1, expected), json.dumps(answer.data)
