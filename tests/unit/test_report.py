"""What the status of hosts comes to: what needs somebody comes first, and says what to do."""

import urllib.parse

import pytest
from csync2lib.report import report
from csync2lib.report import table as table_module

NOW = 1_800_000_000.0
GIB = 2**30
FULL = {"path": "/srv", "free": GIB, "total": 100 * GIB}
FAILED = {"state": "error", "comment": "why", "time": 1}


def status(**changes):
    """What csyncsync.status returns of a group that is in sync."""
    found = {
        "state": "established",
        "journal": 0,
        "dirty": {},
        "refused": {},
        "unreachable": {},
        "held": "",
        "paused": "",
        "last_push": {"time": NOW - 60, "state": "pushed", "checked": 3, "seconds": 0.2, "comment": ""},
        "watching": True,
        "watch": {"watches": 12, "limit": 1000, "error": None, "hot": []},
        "waiting_since": None,
        "database_bytes": 5 * 2**20,
        "files": 10,
        "bytes": 3 * GIB,
        "disks": [{"path": "/srv", "free": 30 * GIB, "total": 100 * GIB}],
        "versions": {"csync2": "2.0"},
        "certificate_end": NOW + 400 * 86400,
        "error": "",
    }
    return {"g": {**found, **changes}}


def rows(**answers):
    return report.report("g", sorted(answers), answers, {}, NOW)


def test_in_sync():
    found = rows(web1=status(), web2=status())
    assert [found[host]["state"] for host in found] == ["in sync", "in sync"]
    assert found["web1"]["problems"] == []
    assert (found["web1"]["to_send"], found["web1"]["oldest"], found["web1"]["free"]) == (0, None, 30 * GIB)


def test_a_name_makes_no_line_and_no_color_of_its_own():
    name = urllib.parse.quote("/d/x\nwww on web1: in sync\x1b[2J\u202e\\")
    found = rows(web1=status(refused={"web2": [name]}), web2=status(refused={"web1": [name]}))
    lines = table_module.table({"g": found})
    assert lines[0] == "g on web1: CONFLICT with web2: /d/x\\x0awww on web1: in sync\\x1b[2J\\xe2\\x80\\xae\\\\"
    assert all(char.isprintable() for line in lines for char in line)


def test_what_waits_for_long_is_a_problem_if_nothing_says_why():
    late = {"waiting_since": NOW - 720, "journal": 2}
    assert rows(web1=status(**late), web2=status())["web1"]["problems"] == [
        ["2 flushes to check: waits for 12 min", "salt-run csyncsync.sync g"]
    ]
    for why in ({"paused": "paused"}, {"state": "recorded"}, {"waiting_since": NOW - 500}):
        assert not rows(web1=status(**{**late, **why}), web2=status())["web1"]["problems"]
    assert len(rows(web1=status(**late, held="why"), web2=status())["web1"]["problems"]) == 1


def test_a_disk_that_is_not_there_has_no_room():
    found = rows(web1=status(disks=[]), web2=status())
    assert " of " not in table_module.table({"g": {"web1": found["web1"]}})[-1]


@pytest.mark.parametrize(
    ("answer", "what", "remedy"),
    [
        (None, "no answer", "salt-run manage.down"),
        ("KeyError: 'x'", "no status: KeyError: 'x'", "salt web1 state.apply csyncsync"),
        ({}, "not set up", "salt web1 state.apply csyncsync"),
        (status(held="90 files vanished"), "HELD: 90 files", "salt-run csyncsync.release g host=web1"),
        (status(watching=False, watch={"error": "no room"}), "not watching: no room", "salt web1 state.apply"),
        (status(watching=False, watch={}), "not watching", "salt web1 state.apply"),
        (status(last_push=FAILED), "last push failed: why", "csyncsync.push g"),
        (status(cannot_write={"web2": {"/a%0a": "busy"}}), r"web2 cannot write /a\x0a: busy", "push g full=True"),
        (
            status(unread={"/a%0a": "Input/output error"}),
            r"left out, and as it was elsewhere: /a\x0a: Input",
            "full=True",
        ),
        (status(unreachable={"web2": "refused"}, waiting_since=NOW - 100), "web2 unreachable: refused", "port 30865"),
        (status(certificate_end=NOW + 86400), "certificate ends in 1 days", "rotate_certificate web1"),
        (status(disks=[FULL]), "disk of /srv is nearly full: 1.0 GiB", "web1"),
    ],
)
def test_what_needs_somebody_says_what_to_do(answer, what, remedy):
    answers, why = {"web2": status()}, {}
    if answer is not None:
        (why if isinstance(answer, str) else answers)["web1"] = answer
    found = report.report("g", ["web1", "web2"], answers, why, NOW)["web1"]
    [[told, to_do]] = found["problems"]
    assert told.startswith(what) and remedy in to_do
    assert found["state"] == told
    lines = table_module.table({"g": {"web1": found, "web2": rows(web2=status())["web2"]}})
    assert lines[0].startswith(f"g on web1: {what}") and remedy in lines[1]


def test_of_many_paths_that_a_host_cannot_write_some_are_named():
    found = rows(web1=status(cannot_write={"web2": dict.fromkeys("abcdefg", "busy")}), web2=status())["web1"]
    told = [what for what, _ in found["problems"]]
    assert told == [*(f"web2 cannot write {path}: busy" for path in "abcde"), "web2 cannot write 2 more paths"]


def test_what_ends_by_itself_is_no_problem():
    found = rows(
        web1=status(dirty={"web2": 3}, journal=2, waiting_since=NOW - 30, unreachable={"web2": "down"}),
        web2=status(state="recorded"),
        web3=status(paused="paused until somebody resumes it", dirty={"web1": 9}),
    )
    assert found["web1"]["state"] == "3 to send to web2, web2 unreachable, 2 flushes to check"
    assert found["web1"]["oldest"] == 30
    assert found["web2"]["state"] == "joining (recorded)"
    assert found["web3"]["state"] == "paused until somebody resumes it"
    assert not any(row["problems"] for row in found.values())


def test_a_conflict_is_one_if_both_refuse_it():
    paths = [f"/srv/{number}" for number in range(7)]
    found = rows(web1=status(refused={"web2": [*paths, "/srv/mine"]}), web2=status(refused={"web1": paths}))
    told = [what for what, _ in found["web1"]["problems"]]
    assert told == [*(f"CONFLICT with web2: {path}" for path in paths[:5]), "2 more CONFLICTS"]
    lines = table_module.table({"g": {"web1": found["web1"]}})
    assert lines[5:8] == ["g on web1: 2 more CONFLICTS", "    salt-run csyncsync.conflicts g diff=True", ""]
    assert rows(web1=status(refused={"web2": paths}), web2=status())["web1"]["problems"] == []


def test_the_smallest_disk_and_other_versions_are_named():
    small = [{"path": "/a", "free": 50 * GIB, "total": 60 * GIB}, {"path": "/b", "free": 10 * GIB, "total": 60 * GIB}]
    found = rows(web1=status(), web2=status(disks=small), web3=status(versions={"csync2": "1.34"}))
    assert [found[host]["smallest_disk"] for host in found] == [False, True, False]
    lines = table_module.table({"g": found})
    assert lines[0] == "note: web3 has csync2 1.34, the others 2.0"
    assert "10.0 GiB of 60.0 GiB (smallest)" in "\n".join(lines)


def test_the_table_has_a_line_for_each_host_and_those_with_problems_first():
    found = rows(web1=status(), web2=status(held="x" * 100), web3=status(watch={"hot": ["/srv/log"], "watches": 1}))
    lines = table_module.table({"g": found, "h": rows(web1=status() | {"h": {}})}, lambda text, bad: f"{bad:d} {text}")
    table = lines[lines.index("") + 1 :]
    assert table[0].split()[:3] == ["GROUP", "HOST", "STATE"]
    assert [line.split()[:3] for line in table[1:]] == [
        ["1", "g", "web2"],
        ["0", "g", "web1"],
        ["0", "g", "web3"],
        ["0", "h", "web1"],
    ]
    assert "note: g on web3: hot: /srv/log" in lines
    assert max(map(len, table)) < 180


def test_a_host_that_cannot_join_says_why_and_is_a_problem_after_a_while():
    why = "waits for web1: no established host that sends answers"
    for since, problems in (
        (NOW - 5, []),
        (NOW - 500, [["joining (recorded): " + why, "salt-run csyncsync.join g web2"]]),
    ):
        answers = {"web1": status(), "web2": status(state="recorded")}
        joining = {"web2": {"since": since, "why": why}, "web1": {"since": since, "why": "has joined since"}}
        found = report.report("g", ["web1", "web2"], answers, {}, NOW, joining)
        assert found["web2"]["state"] == f"joining (recorded): {why}"
        assert found["web2"]["problems"] == problems
        assert found["web1"]["state"] == "in sync"
