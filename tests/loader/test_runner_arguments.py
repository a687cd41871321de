"""What reaches the runner from events is a hint: whoever is no accepted member of a group gets nothing."""

import json
import shutil
import time
from pathlib import Path

import pytest
import salt.cache
import salt.runner

LONG = "x" * 10240
GROUPS = (
    "",
    "nosuch",
    "../x",
    "../../x",
    "/tmp/x",
    "wwwdata/../x",
    "wwwdata\0",
    "wwwdata\n",
    "$(id)",
    "wwwdata; id",
    "`id`",
    "*",
    "-C",
    LONG,
    None,
    5,
    True,
    ["wwwdata"],
    {"wwwdata": {}},
)
HOSTS = (
    "",
    "web2",
    "web3",
    "WEB1",
    "web1 ",
    "web*",
    "*",
    "web1,db1",
    "../web1",
    "../minions/web1",
    "web1\0",
    "web1\n",
    "$(id)",
    "E@.*",
    "web1 or db1",
    LONG,
    5,
    True,
    ["web1"],
    {"web1": 1},
)


#: What a push or a join does on hosts.
STEPS = ("csyncsync.push", "csyncsync.join", "csyncsync.admit", "csyncsync.digests", "csyncsync.refresh")


@pytest.fixture(scope="module")
def run(master, master_opts, minion, outsider):
    """``run(function, *arguments, **keywords)``: a function of the runner, in this process."""
    # web2 has asked to be accepted, web3 was rejected.
    pki = Path(master.config["pki_dir"])
    for directory, name in (("minions_pre", "web2"), ("minions_rejected", "web3")):
        shutil.copyfile(pki / "minions/web1", pki / directory / name)
    with salt.runner.RunnerClient(master_opts) as client:

        def _run(function, *arguments, **keywords):
            return client.cmd(f"csyncsync.{function}", list(arguments), kwarg=keywords, print_event=False)

        yield _run


def _files(master):
    """What a record of a group could be, anywhere below the master's directories."""
    root = Path(master.config["root_dir"])
    found = [path for path in root.rglob("*") if ".json" in path.name or path.name.startswith("x")]
    return sorted(str(path.relative_to(root)) for path in found)


def _is_refused(answer):
    """Tell whether a call did nothing, and said so if people make it."""
    return answer is False or "is no member of" in answer["data"]["problem"]


def test_a_member_is_called(run, published, master):
    """The same call with honest arguments: what the tests below look for does happen here."""
    assert run("sync", group="wwwdata", host="web1") is True
    assert published() == ["csyncsync.push"]
    assert "cache/csyncsync/wwwdata.json" in _files(master)


@pytest.mark.parametrize("function", ["sync", "pushed"])
def test_no_group_but_a_real_one_is_served(run, published, master, function):
    before, began = _files(master), time.monotonic()
    served = [group for group in GROUPS if not _is_refused(run(function, group=group, host="web1"))]
    assert served == []
    assert time.monotonic() - began < 60  # a refusal waits for nobody
    assert (published(), _files(master)) == ([], before)


@pytest.mark.parametrize("function", ["sync", "pushed"])
def test_no_host_but_an_accepted_member_is_served(run, published, master, function):
    before, began = _files(master), time.monotonic()
    served = [host for host in (*HOSTS, "db1") if not _is_refused(run(function, group="wwwdata", host=host))]
    assert served == []
    assert time.monotonic() - began < 60  # a refusal waits for nobody
    assert (published(), _files(master)) == ([], before)


def test_what_a_push_tells_of_itself_changes_nothing_of_another_hosts(run, published, master):
    record = Path(master.config["cachedir"]) / "csyncsync/wwwdata.json"
    record.unlink(missing_ok=True)  # a lease of a test before may be checked just now
    run("sync", group="wwwdata", host="web1")
    before, jobs = record.read_text(encoding="utf-8"), published()
    for jid in ("", "20260101000000000000", LONG, "../x", 5, ["x"], {"a": "b"}):
        for state in ("held", "joining", "pushed"):
            assert run("pushed", group="wwwdata", host="web1", jid=jid, state=state) is True
    asked = {*published()} - {*jobs}
    assert (record.read_text(encoding="utf-8"), asked) == (
        before,
        {"csyncsync.answer"},
    )  # the host is asked, and no more


def test_a_lease_from_the_future_is_checked_and_freed(run, published, master):
    """The master's clock was set back; the holder knows nothing of that job."""
    record = Path(master.config["cachedir"]) / "csyncsync/wwwdata.json"
    run("sync", group="wwwdata", host="web1")
    found = json.loads(record.read_text(encoding="utf-8"))
    found["lease"] = {"host": "web1", "jid": "20300101000000000000", "since": 2e9, "checked": 2e9}
    found.update(waiting=["web1"], told=2e9)
    record.write_text(json.dumps(found), encoding="utf-8")
    assert run("sync", group="wwwdata", host="web1") is True
    until = time.monotonic() + 20
    while "20300101000000000000" in record.read_text(encoding="utf-8") and time.monotonic() < until:
        time.sleep(0.2)
    assert "20300101000000000000" not in record.read_text(encoding="utf-8")
    assert {"csyncsync.answer", "csyncsync.push"} <= set(published())


def test_a_join_without_its_turn_does_nothing(run, published, master):
    """It began late, and another host has the turn by now: two at once would both take theirs for the first host."""
    run("sync", group="wwwdata", host="web1")
    record = Path(master.config["cachedir"]) / "csyncsync/wwwdata.json"
    before, jobs = record.read_text(encoding="utf-8"), published(*STEPS)
    assert "its turn is over" in run("join", group="wwwdata", host="web1", jid="20260101000000000000")
    assert (record.read_text(encoding="utf-8"), published(*STEPS)) == (before, jobs)


def test_an_administrators_slip_is_told_and_does_nothing(run, published, master):
    before = _files(master)
    for group in ("nosuch", "../x", LONG, 5):
        for function in ("status", "sync", "apply", "release", "rotate_key"):
            assert "there is no group" in str(run(function, group=group))
        assert "web1 is no member of" in str(run("join", group=group, host="web1"))
    for host in HOSTS:
        assert "has not published its facts" in str(run("apply", host=host))
    assert (published(*STEPS), _files(master)) == ([], before)


def test_a_deleted_key_takes_the_hosts_facts_out_of_the_mine_and_no_others(run, published, master, master_opts):
    """Salt 3008 leaves them there: another machine of that name would be taken for the old one."""
    cache = salt.cache.factory(master_opts)
    for minion in ("gone", "db1"):
        cache.store("mine", minion, {"csyncsync.member": {"name": minion}, "test.ping": True})
    run("apply", group="wwwdata")
    assert "csyncsync.member" in cache.fetch("mine", "gone")
    run("apply")
    assert cache.fetch("mine", "gone") == {"test.ping": True}
    assert "csyncsync.member" in cache.fetch("mine", "db1")
    for minion in ("gone", "db1"):
        cache.flush("mine", minion)
