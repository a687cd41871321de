"""What the master is told is data: a member's root answers anything, and the others are served as usual."""

import contextlib
import json
import re

from places import HOSTS, SHARED

MODULE = "/var/cache/salt/minion/extmods/modules/csyncsync_admin.py"
LIES = "/run/lies"

#: In the place of the module that answers the master: each function returns what stands in a file, as Python.
LIAR = """
__virtualname__ = "csyncsync"
def __virtual__():
    return __virtualname__
""" + "".join(
    f"def {name}(*args, **kwargs):\n    return eval(open({LIES!r}).read())\n"
    for name in ("status", "marked", "versions", "contents", "win", "backups", "restore")
)

ANSWERS = {
    "few words": '{"wwwshared": {"state": "established"}}',
    "no group": '{"state": "established"}',
    "a list": '["wwwshared", 7]',
    "a text": r'"in sync\nroot on web1: \x1b[2J\x9b1m\u202e"',
    "a name": r'{"wwwshared": {"state": "\x1b]0;x\x07"}, "\x1b[31m\n": {}}',
    "no number": '{"wwwshared": {"journal": float("nan"), "held": float("inf")}, "files": 1e400}',
    "rubbish in rubbish": "eval('[' * 80 + ']' * 80)",
    "much": '"x" * 900_000',
    "paths": '{"paths": {"/x": []}, "more": "many"}',
    "what cannot be said": '{1: b"\\xff", (2, 3): {4}}',
    "an error": r'(_ for _ in ()).throw(Exception("\x1b[2J\nroot on web1: all is lost"))',
}


@contextlib.contextmanager
def lying(hosts):
    """web3's root has its answers come out of a file."""
    file = hosts.path("web3", MODULE)
    before = file.read_bytes()

    def answers_with(what):
        def it_does():
            return hosts.ask("web3", "csyncsync.contents", "wwwshared") == what

        hosts.write("web3", LIES, repr(what))
        hosts.ask("web3", "saltutil.refresh_modules")
        hosts.eventually(it_does, 30, "web3 has loaded the module")

    try:
        file.write_text(LIAR)
        answers_with("the liar's")
        yield
    finally:
        file.write_bytes(before)
        hosts.ask("web3", "saltutil.refresh_modules")
        hosts.eventually(lambda: isinstance(hosts.ask("web3", "csyncsync.contents", "wwwshared"), dict), 30)


def raw(text):
    """The characters of a terminal's text that do something, but for the colors that Salt gives it."""
    text = re.sub(r"\x1b\[0[0-9;]*m", "", text)
    return [char for char in text if not char.isprintable() and char != "\n"]


def test_a_member_that_answers_rubbish_spoils_nothing_for_the_others(hosts):
    """Two hosts have a conflict; all that the runner is asked for serves it."""
    path = f"{SHARED}/answers"
    hosts.write("web1", path, "first\n")
    hosts.calm()
    # One that web1 and web2 alone know of: neither can reach the other when it changes the file.
    hosts.shell("web1", "systemctl stop csyncsync-server")
    hosts.shell("web2", "systemctl stop csyncsync-server")
    try:
        for host in ("web1", "web2"):
            hosts.write(host, path, f"changed on {host}\n")
        hosts.eventually(
            lambda: all(path in hosts.ask(h, "csyncsync.marked", "wwwshared") for h in ("web1", "web2")), 60
        )
    finally:
        for host in ("web1", "web2"):
            hosts.shell(host, "systemctl start csyncsync-server")
    hosts.eventually(lambda: "CONFLICT" in hosts.states("wwwshared")["web1"], 90, "the conflict is shown")
    log = len(hosts.read("master", "/var/log/salt/master"))
    with lying(hosts):
        for name, lie in ANSWERS.items():
            hosts.write("web3", LIES, lie)
            shown = hosts.salt_run("csyncsync.status", "wwwshared")
            told = [line for line in (shown.stdout + shown.stderr).splitlines() if "wwwshared on web3: " in line]
            assert shown.stdout.count(f"wwwshared on web1: CONFLICT with web2: {path}") == 1, (name, shown)
            assert len(told) == 1 and ("no status: " in told[0] or "not set up" in told[0]), (name, told)
            assert not raw(shown.stdout + shown.stderr), name
        for lie in ("few words", "a name", "an error"):
            hosts.write("web3", LIES, ANSWERS[lie])
            found = hosts.run("csyncsync.conflicts", "wwwshared", "diff=True")["wwwshared"]
            assert {*found[path]} >= {"web1", "web2", "diff"} and "web3" in found["… unknown"], found
            seen = hosts.run("csyncsync.verify", "wwwshared", "rate=0")
            assert {*seen["hosts"]} == {"web1", "web2"} and {*seen["unknown"]} == {"web3"}, seen
            assert seen["differences"][path]["web1"]["size"] == len("changed on web1\n")
            old = hosts.run("csyncsync.backups", "wwwshared")
            assert "backup_directory is not set" in str(old)
            assert not raw(json.dumps([found, seen, old]))
        done = hosts.run("csyncsync.resolve", "wwwshared", path, "winner=web1")
        assert done == {path: "web1's version is on all hosts that answer, and gets to web3 later"}
    hosts.everywhere(path, "changed on web1\n", seconds=60)
    hosts.settled("wwwshared")
    assert hosts.states("wwwshared") == dict.fromkeys(HOSTS, "in sync")
    assert "Traceback" not in hosts.read("master", "/var/log/salt/master")[log:]
