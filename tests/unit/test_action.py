"""What csync2 leaves to be run, how it is run, and what is told of it."""

import json
import os
import shutil
import subprocess
import time

import pytest
from csync2lib import actions as actions_module
from csync2lib.config import schema, template
from csync2lib.csync2.names import encode
from test_config import host, render


class Group:
    """A group's directory, as group_present lays it out."""

    def __init__(self, directory, *actions):
        self.directory = directory
        for name in ("due", "output"):
            (directory / name).mkdir(parents=True)
        self.change(*actions)

    def change(self, *actions):
        """Give the group other actions."""
        checked = schema.validate({"g": {"members": "*", "include": "/srv", "action": list(actions)}})
        assert checked["errors"] == {}
        self.context = template.context(
            "g", checked["groups"]["g"], {"web1": host(1, name="web1")}, "/k", self.directory / "due"
        )
        (self.directory / "config.json").write_text(json.dumps({"rules": self.context}), encoding="utf-8")

    def arrive(self, *numbers):
        """Leave notes of these commands (all), as csync2 does."""
        for number in numbers or range(len(self.context["commands"])):
            (self.directory / "due" / self.context["commands"][number]["key"]).touch()

    def run(self, **options):
        """Run what is due; what is told then."""
        actions_module.run_due(str(self.directory), **options)
        return self.told()

    def results(self):
        return actions_module.results(str(self.directory), self.context["commands"])

    def told(self):
        return actions_module.told(self.results())

    def left(self):
        return sorted(path.name for path in (self.directory / "due").iterdir())


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log; a 'b'"


def test_output_code_and_time_of_the_last_run_are_kept(tmp_path):
    group = Group(tmp_path / "g", {"exec": "echo '(;#@)' $((1+1)) 100%; echo err >&2; pwd"})
    group.arrive()
    began = time.time()
    for _ in range(2):
        group.arrive()
        assert group.run() == []
    (result,) = group.results()
    with open(result["log"], encoding="utf-8") as file:
        assert file.read() == "(;#@) 2 100%\nerr\n/\n", "the output of one run"
    assert (result["exit"], result["why"], result["running"], result["waiting"]) == (0, "", None, None)
    assert began <= result["time"] <= time.time()
    assert 0 <= result["seconds"] < 5
    assert group.left() == []


def test_the_program_runs_beside_utils_that_are_named_as_modules_of_python(tmp_path, monkeypatch):
    group, utils = Group(tmp_path / "g", {"exec": "echo here"}), tmp_path / "utils"
    package = os.path.dirname(actions_module.__file__)
    shutil.copytree(package, utils / "csync2lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("json", "logging", "signal"):
        (utils / f"{name}.py").write_text("raise RuntimeError('of a user')")
    monkeypatch.setattr(actions_module, "__file__", str(utils / "csync2lib/actions.py"))
    group.arrive()
    subprocess.run([*actions_module.command_line(), str(group.directory)], check=True)
    assert [result["exit"] for result in group.results()] == [0]


def test_a_logfile_is_appended_to(tmp_path, log):
    group = Group(tmp_path / "g", {"exec": "echo here", "logfile": str(log)})
    for _ in range(2):
        group.arrive()
        group.run()
    assert log.read_text(encoding="utf-8") == "here\n" * 2
    assert group.results()[0]["log"] == str(log)


def test_a_logfile_that_cannot_be_written_is_a_failure(tmp_path):
    group = Group(tmp_path / "g", {"exec": "echo here", "logfile": str(tmp_path / "none/log")})
    group.arrive()
    assert "its output cannot be written: No such file or directory" in group.run()[0]


def test_a_failure_is_told_until_the_command_succeeds(tmp_path, monkeypatch):
    monkeypatch.setenv("THERE", str(tmp_path / "there"))  # the path itself may be too long to be told
    group = Group(tmp_path / "g", {"exec": ["test -e $THERE", "true"]})
    group.arrive()
    (text,) = group.run()
    assert text == f"action failed: 'test -e $THERE' exit 1, see {group.results()[0]['log']}"
    group.arrive(1)
    assert group.run() == [text]
    (tmp_path / "there").touch()
    group.arrive(0)
    assert group.run() == []


def test_a_failure_goes_with_its_action(tmp_path):
    group = Group(tmp_path / "g", {"exec": "false"})
    group.arrive()
    assert group.run()
    group.change({"exec": "true"})
    assert group.told() == []
    group.arrive()
    group.run()
    group.change({"exec": "false"})
    assert group.told() == [], "it has not run since then"


def test_commands_run_in_the_order_of_the_pillar_each_once(tmp_path):
    commands = [f"echo {number} >>{tmp_path}/order" for number in "312"]
    group = Group(tmp_path / "g", {"exec": commands}, {"exec": commands[0], "pattern": "/srv/*"})
    group.arrive()
    group.arrive()
    group.run()
    assert (tmp_path / "order").read_text(encoding="utf-8").split() == ["3", "1", "2"]


def test_what_comes_while_the_command_runs_has_it_run_once_more(tmp_path):
    due = tmp_path / "g/due"
    group = Group(tmp_path / "g", {"exec": f"echo here >>{tmp_path}/ran; : >{due}/$(basename {due}/*.taken .taken)"})
    group.arrive()
    group.run()
    assert group.left() == [group.context["commands"][0]["key"]]
    group.run()
    assert (tmp_path / "ran").read_text(encoding="utf-8") == "here\n" * 2


def test_an_interrupted_run_is_made_again(tmp_path, log):
    group = Group(tmp_path / "g", {"exec": "echo here", "logfile": str(log)})
    group.arrive()
    key = group.left()[0]
    os.rename(tmp_path / "g/due" / key, tmp_path / "g/due" / f"{key}.taken")
    group.arrive()
    group.run()
    assert log.read_text(encoding="utf-8") == "here\n"
    assert group.left() == []


def test_notes_of_commands_that_are_gone_are_dropped(tmp_path):
    group = Group(tmp_path / "g", {"exec": "true"})
    group.arrive()
    (tmp_path / "g/due/.123").touch()
    os.utime(tmp_path / "g/due/.123", (1, 1))
    (tmp_path / "g/due/.124").touch()
    group.change({"exec": "false"})
    assert group.run() == []
    assert group.left() == [".124"], "that one is just being written"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("exit 3", "exit 3"),
        ("nosuchcommand", "exit 127"),
        ("kill -9 $$", "was killed by signal 9"),
        ("sleep 60", "took longer than 0.3 s and was ended"),
        ("trap '' TERM; sleep 60; sleep 60", "took longer than 0.3 s and was ended"),
        ("exec >&- 2>&-; sleep 60", "took longer than 0.3 s and was ended"),
        ("yes", "took longer than 0.3 s and was ended"),
        ("x" * 140_000, "cannot be run: Argument list too long"),
    ],
)
def test_why_a_command_failed(monkeypatch, command, why):
    monkeypatch.setattr(actions_module, "KILLED_WITHIN", 0.3)
    began = time.monotonic()
    assert actions_module.run(command.encode(), 0.3)[1] == why
    assert time.monotonic() - began < 5


def test_nothing_of_a_command_that_had_to_be_ended_goes_on(tmp_path):
    actions_module.run(f"(sleep 0.5; : >{tmp_path}/late) & wait".encode(), 0.1)
    time.sleep(0.8)
    assert not (tmp_path / "late").exists()


def test_what_a_command_leaves_behind_is_not_waited_for():
    began = time.monotonic()
    assert actions_module.run(b"sleep 30 & echo here", 20) == (0, "", b"here\n")
    assert time.monotonic() - began < 3


def test_the_end_of_a_long_output_is_kept():
    code, _, output = actions_module.run(b"seq 1000000", 20)
    assert (code, len(output)) == (0, actions_module.OUTPUT)
    assert output.endswith(b"\n999999\n1000000\n")


def test_what_runs_or_waits_for_long_is_told(tmp_path):
    group = Group(tmp_path / "g", {"exec": ["sleep 1000", "true"]})
    group.arrive()
    assert group.told() == []
    first, second = (command["key"] for command in group.context["commands"])
    os.utime(tmp_path / "g/due" / second, (time.time() - 80,) * 2)
    os.rename(tmp_path / "g/due" / first, tmp_path / "g/due" / f"{first}.taken")
    text = json.dumps({first: {"running": time.time() - 90}})
    (tmp_path / "g/actions.json").write_text(text, encoding="utf-8")
    assert group.told() == ["action running for 90 s: 'sleep 1000'", "action waiting for 80 s: 'true'"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rules": {}}'])
def test_files_that_are_damaged_stop_nothing(tmp_path, text):
    group = Group(tmp_path / "g", {"exec": "true"})
    (tmp_path / "g/actions.json").write_text(text, encoding="utf-8")
    group.arrive()
    assert group.run() == []
    assert group.results()[0]["exit"] == 0
    (tmp_path / "g/config.json").write_text(text, encoding="utf-8")
    group.arrive()
    actions_module.run_due(str(tmp_path / "g"))
    assert group.left() == []


# --- With csync2's names ----------------------------------------------------------------------------------

HOSTILE = [
    b"a b",
    b"$(touch BAD)",
    b"`touch BAD`",
    b"'; touch BAD; '",
    b"%%",
    b"\n touch BAD",
    b";&(<>|*~#",
    b"\xff",
    b"\\",
]


def checked_by_csync2(csync2_in, group, tree):
    """Have csync2 check a tree whose files an action of the group names, with do-local."""
    options = schema.validate(
        {"g": {"members": "*", "include": str(tree), "action": {**group.action, "pattern": "*", "do-local": True}}}
    )["groups"]["g"]
    context = template.context(
        "g", options, {"web1": host(1, name="web1")}, csync2_in.key_file, group.directory / "due"
    )
    csync2_in.configure("g", render(context))
    (group.directory / "config.json").write_text(json.dumps({"rules": context}), encoding="utf-8")
    group.context = context
    assert csync2_in("g", "-cr", "/").returncode == 0


def test_names_of_files_run_no_commands(csync2_in, tmp_path, monkeypatch, log):
    monkeypatch.chdir(tmp_path)
    tree, group = tmp_path / "tree", Group(tmp_path / "g")
    group.action = {"exec": "printf '%s\\n' '%%'; pwd", "logfile": str(log)}
    tree.mkdir()
    for name in HOSTILE:
        (tree / os.fsdecode(name)).touch()
    checked_by_csync2(csync2_in, group, tree)
    assert group.run() == []
    names, where = log.read_bytes().splitlines()
    assert set(names.split(b" ")) == {encode(os.fsencode(tree / os.fsdecode(name))) for name in HOSTILE} | {
        os.fsencode(tree)
    }
    assert where == b"/"
    assert not list(tmp_path.rglob("BAD"))
    assert group.left() == []


def test_more_names_than_a_command_line_takes_are_a_failure(csync2_in, tmp_path):
    tree, group = tmp_path / "tree", Group(tmp_path / "g")
    group.action = {"exec": "echo '%%'"}
    tree.mkdir()
    for number in range(1200):
        (tree / f"{'x' * 120}{number}").touch()
    checked_by_csync2(csync2_in, group, tree)
    assert "the names of the files are too long for %%" in group.run()[0]
    (tree / "one").touch()
    assert csync2_in("g", "-cr", "/").returncode == 0
    assert group.run() == []
    assert group.left() == []
