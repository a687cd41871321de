"""The metrics: what Prometheus reads is what the host's files say; alerts and dashboard ask for nothing else."""

import asyncio
import json
import os
import re
import time
from pathlib import Path

import pytest
import yaml
from csync2lib.certificate import DAYS, end, make
from csync2lib.journal import discharge, forget, take, write
from csync2lib.master import shapes
from csync2lib.report import metrics as metrics_module
from csync2lib.report import status as host_status
from csync2lib.report.words import one_line
from csync2lib.watch import status as watch_status
from prometheus_client.parser import text_string_to_metric_families
from watching import on_loop

MONITORING = Path(__file__).resolve().parents[2] / "docs/monitoring"
NOW = 1_800_000_000.5
#: How an action ended that did well (actions.results()).
ACTION = {"exec": "reload", "exit": 0, "why": "", "time": 1, "log": "/l", "running": None, "waiting": None}


def status(**changes):
    """What csyncsync.status says of a group of three hosts."""
    return {
        "state": "established",
        "dirty": {"web2": 3},
        "error": "",
        "journal": 2,
        "refused": {"web2": ["/a", "/b"]},
        "unreachable": {"web3": "no route"},
        "held": "",
        "paused": "",
        "waiting_since": NOW - 90,
        "last_push": {"time": NOW - 5, "seconds": 0.25, "checked": 7, "pushes": 12, "errors": 1},
        "watching": True,
        "watch": {"watches": 40, "limit": 1000, "hot": ["/hot"], "time": NOW},
        "unpublished": [],
        "hosts": {"web1": "web1@10.0.0.1", "web2": "web2@10.0.0.2", "web3": "web3@10.0.0.3"},
        "database_bytes": 4096,
        "in_sync": False,
        "differences": 4,
        "actions": [ACTION, {**ACTION, "why": "exit 1"}, {**ACTION, "running": 90.0}],
        **changes,
    }


def text(**groups):
    return metrics_module.text(groups, "web1", NOW + 86400, NOW)


def parsed(content):
    """``{name: {labels as a sorted tuple: value}}``, by Prometheus' own parser; a name comes once."""
    found = {}
    for family in text_string_to_metric_families(content):
        assert family.documentation
        assert family.type in ("gauge", "counter")
        for sample in family.samples:
            values = found.setdefault(sample.name, {})
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in values
            values[labels] = sample.value
    return found


def values(content, **labels):
    """``{name without "csyncsync_": value}`` of the samples with just these labels."""
    wanted = tuple(sorted(labels.items()))
    return {
        name.removeprefix("csyncsync_"): found[wanted] for name, found in parsed(content).items() if wanted in found
    }


# --- The text


def test_the_status_is_told_in_seconds_and_bytes():
    content = text(data=status())
    assert values(content) == {
        "metrics_timestamp_seconds": NOW,
        "certificate_expiry_timestamp_seconds": NOW + 86400,
        "watches": 40,
        "watches_limit": 1000,
    }
    assert values(content, group="data") == {
        "in_sync": 0,
        "lag_seconds": 90,
        "watching": 1,
        "database_bytes": 4096,
        "journal_files": 2,
        "differences_total": 4,
        "hot_files": 1,
        "action_problems": 2,
        "held": 0,
        "paused": 0,
        "pushes_total": 12,
        "push_errors_total": 1,
        "last_push_timestamp_seconds": NOW - 5,
        "last_push_duration_seconds": 0.25,
        "last_push_paths": 7,
    }
    peers = {peer: values(content, group="data", peer=peer) for peer in ("web1", "web2", "web3")}
    assert peers == {
        "web1": {},
        "web2": {"dirty_entries": 3, "refused_paths": 2, "peer_unreachable": 0},
        "web3": {"dirty_entries": 0, "refused_paths": 0, "peer_unreachable": 1},
    }
    states = {state: values(content, group="data", state=state)["database_state"] for state in metrics_module.STATES}
    assert states == {"new": 0, "recorded": 0, "established": 1, "unknown": 0}


def test_each_metric_has_one_help_and_one_type_and_a_fitting_name():
    lines = text(data=status(), other=status()).splitlines()
    for kind in ("HELP", "TYPE"):
        names = [line.split()[2] for line in lines if line.startswith(f"# {kind} ")]
        assert names == list(metrics_module.METRICS)
    for name, (kind, _) in metrics_module.METRICS.items():
        assert name.endswith("_total") == (kind == "counter")


def test_a_host_that_has_only_just_begun_tells_what_it_knows():
    """No push, no watcher, no database, no certificate."""
    new = status(last_push={}, watch={}, waiting_since=None, database_bytes=None, state="unknown", dirty={}, refused={})
    content = metrics_module.text({"data": new}, "web1", None, NOW)
    assert values(content) == {"metrics_timestamp_seconds": NOW}
    found = values(content, group="data")
    assert (found["pushes_total"], found["push_errors_total"], found["lag_seconds"]) == (0, 0, 0)
    assert not {"database_bytes", "last_push_timestamp_seconds", "last_push_paths"} & {*found}
    assert parsed(metrics_module.text({}, "web1", None, NOW)) == {"csyncsync_metrics_timestamp_seconds": {(): NOW}}


def test_a_clock_that_was_set_back_makes_no_lag():
    assert values(text(data=status(waiting_since=NOW + 3600)), group="data")["lag_seconds"] == 0


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\\nb", "a\nb", "\\", "ä", '"} 1\n# '])
def test_a_label_is_read_as_it_was_meant(name):
    found = parsed(text(data=status(hosts={"web1": "", name: ""}, dirty={name: 5})))
    assert found["csyncsync_dirty_entries"] == {(("group", "data"), ("peer", one_line(name))): 5}


# --- The status, from files


@pytest.fixture
def group(tmp_path):
    """The directory of a group, with a config."""
    directory = tmp_path / "data"
    (directory / "journal").mkdir(parents=True)
    hosts = {"web1": {"name": "web1", "address": "10.0.0.1"}, "web2": {"name": "web2", "address": "10.0.0.2"}}
    (directory / "config.json").write_text(json.dumps({"hosts": hosts, "unpublished": []}))
    return directory


def read(group):
    return host_status.read(str(group), str(group / "data.db3"), "web1")


def test_the_master_takes_a_hosts_status_as_it_is(group):
    """Nothing that the report needs is dropped, and nothing of it is called rubbish."""
    (group / "push.json").write_text(json.dumps({"state": "pushed", "checked": 1, "time": 7.5, "refused": {}}))
    (group / "watch.json").write_text(json.dumps({"ready": True, "watches": 3, "limit": 9, "error": None, "hot": []}))
    found = {**read(group), "held": "", "paused": ""}
    taken = shapes.check("csyncsync.status", {"data": found})["data"]
    unknown = {"database_bytes", "differences", "hosts", "in_sync", "unpublished"}
    assert {name: taken.get(name) for name in found if name not in {*unknown, "watch", "last_push", "error"}} == {
        name: value for name, value in found.items() if name not in {*unknown, "watch", "last_push", "error"}
    }


def test_a_change_waits_from_its_journal_entry_until_a_push_left_nothing(group):
    journal = str(group / "journal")
    assert read(group)["waiting_since"] is None
    before = time.time()
    write(journal, [b"/a"], False, 1)
    assert before <= read(group)["waiting_since"] <= time.time()
    first = read(group)["waiting_since"]
    time.sleep(0.01)
    discharge(take(journal)[0])
    write(journal, [b"/b"], False, 2)
    assert read(group)["waiting_since"] == first, "it was checked, and not yet sent"
    discharge(take(journal)[0])
    forget(journal)
    assert read(group)["waiting_since"] is None
    (group / "push.json").write_text(json.dumps({"since": 1000}))
    assert read(group)["waiting_since"] == 1000


def test_a_pause_of_the_group_or_of_this_host_is_seen_until_it_ends(group):
    for host, until, paused in (
        ("*", None, True),
        ("web1", time.time() + 60, True),
        ("web1", 1, False),
        ("web2", None, False),
    ):
        (group / "paused.json").write_text(json.dumps({host: {"until": until, "comment": ""}}))
        assert read(group)["paused"] is paused
    assert values(text(data=status(paused="until …")), group="data")["paused"] == 1


def test_a_group_without_a_config_has_no_status(group):
    (group / "config.json").unlink()
    assert read(group) == {}


def test_a_database_that_is_missing_is_told(group):
    found = read(group)
    assert (found["state"], found["in_sync"], found["database_bytes"]) == ("unknown", False, None)
    assert "data.db3" in found["error"]


def test_when_a_certificate_ends():
    certificate, _ = make()
    assert end(certificate) == pytest.approx(time.time() + DAYS * 86400, abs=60)
    assert end("nonsense") is end(None) is None


# --- The file


def test_the_file_is_replaced_and_nothing_else_is_left(tmp_path):
    link, file = tmp_path / "link", tmp_path / "out/csyncsync.prom"
    file.parent.mkdir()
    link.symlink_to(file)
    for content in ("first\n", "second\n"):
        metrics_module.publish(link, content)
        assert {path.name: path.read_text() for path in file.parent.iterdir()} == {"csyncsync.prom": content}


def test_nothing_is_left_if_the_link_goes_meanwhile(tmp_path, monkeypatch):
    link, replace = tmp_path / "link", os.replace
    link.symlink_to(tmp_path / "csyncsync.prom")
    monkeypatch.setattr(os, "replace", lambda *paths: (link.unlink(), replace(*paths)))
    metrics_module.publish(link, "text\n")
    assert os.listdir(tmp_path) == []


def test_everybody_may_read_the_file_and_nobody_chooses_what_is_written_to(tmp_path):
    """The directory may be another user's."""
    victim = tmp_path / "victim"
    victim.write_text("stays")
    for name in ("csyncsync.prom", f".csyncsync.prom.tmp{os.getpid()}"):
        (tmp_path / name).symlink_to(victim)
    (tmp_path / "link").symlink_to(tmp_path / "csyncsync.prom")
    before = os.umask(0o077)
    try:
        metrics_module.publish(tmp_path / "link", "text\n")
    finally:
        os.umask(before)
    assert victim.read_text() == "stays"
    file = tmp_path / "csyncsync.prom"
    assert (file.read_text(), file.is_symlink(), file.stat().st_mode & 0o777) == ("text\n", False, 0o644)


# --- The watcher


def metrics(host):
    return values((host.state.parent / "csyncsync.prom").read_text())


def configure(host):
    (host.state / "metrics.prom").symlink_to(host.state.parent / "csyncsync.prom")
    host.make_database()
    hosts = {"web1": {"name": "web1", "address": "10.0.0.1"}, "web2": {"name": "web2", "address": "b"}}
    host.config(hosts=hosts, unpublished=[])


@on_loop
async def test_the_watcher_writes_what_it_knows_again_and_again(host, monkeypatch):
    configure(host)
    await host.start()
    file = host.state.parent / "csyncsync.prom"
    await host.until(file.exists)
    assert metrics(host)["metrics_timestamp_seconds"] == pytest.approx(time.time(), abs=5)
    assert parsed(file.read_text())["csyncsync_dirty_entries"] == {(("group", "data"), ("peer", "web2")): 0}
    monkeypatch.setattr(watch_status, "METRICS_INTERVAL", 0.1)
    host.watcher.metrics.due = 0.0
    host.mark(host.tree / "file")
    await host.until(
        lambda: parsed(file.read_text())["csyncsync_dirty_entries"][("group", "data"), ("peer", "web2")] == 1
    )


@on_loop
async def test_the_watcher_writes_only_while_there_is_a_link(host, monkeypatch):
    configure(host)
    link, file = host.state / "metrics.prom", host.state.parent / "csyncsync.prom"
    link.unlink()
    await host.start()
    monkeypatch.setattr(watch_status, "METRICS_INTERVAL", 0.1)
    await asyncio.sleep(1.5)
    assert not file.exists()
    link.symlink_to(file)
    await host.until(file.exists, 3)
    link.unlink()
    file.unlink()
    await asyncio.sleep(1.5)
    assert not file.exists()


@on_loop
async def test_a_directory_that_cannot_be_written_to_is_told_once_and_watching_goes_on(host, monkeypatch, caplog):
    configure(host)
    (host.state / "metrics.prom").unlink()
    (host.state / "metrics.prom").symlink_to(host.state / "missing/csyncsync.prom")
    await host.start()
    monkeypatch.setattr(watch_status, "METRICS_INTERVAL", 0.1)
    host.watcher.metrics.due = 0.0
    await asyncio.sleep(3.5)
    told = [record.getMessage() for record in caplog.records if "csyncsync:metrics" in record.getMessage()]
    assert len(told) == 1
    assert "/missing/csyncsync.prom" in told[0]
    (host.tree / "file").write_text("x")
    await host.until(lambda: host.lines() == [b"file"])


# --- Alerts and dashboard


def alerts():
    return [
        rule for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"] for rule in group["rules"]
    ]


def dashboard():
    return json.loads((MONITORING / "dashboard.json").read_text())


def queries():
    """Each query of the alerts and the dashboard."""
    panels = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    variables = [variable.get("definition", "") for variable in dashboard()["templating"]["list"]]
    return [rule["expr"] for rule in alerts()] + panels + variables


def test_alerts_and_dashboard_ask_for_metrics_and_labels_that_there_are():
    there = parsed(text(data=status()))
    labels = {name for found in there.values() for names in found for name, _ in names} | {"instance"}
    named = [name for query in queries() for name in re.findall(r"\bcsyncsync_\w+", query)]
    assert len(named) > 20
    assert {*named} - {*there} == set()
    asked = [label for query in queries() for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", query)]
    asked += [
        word for query in queries() for names in re.findall(r"\bby \(([^)]*)\)", query) for word in names.split(", ")
    ]
    assert {*asked} - labels == set()
    shown = re.findall(r"\$labels\.(\w+)|\{\{(\w+)\}\}", json.dumps([alerts(), dashboard()]))
    assert shown
    assert {one or other for one, other in shown} - labels == set()


def test_each_metric_is_asked_for():
    asked = " ".join(queries())
    assert {name for name in metrics_module.METRICS if not re.search(rf"\b{name}\b", asked)} == set()


def test_the_labels_that_an_alert_shows_are_its_metrics():
    there = {
        name: {label for names in found for label, _ in names} for name, found in parsed(text(data=status())).items()
    }
    for rule in alerts():
        has = set.intersection(*(there[name] for name in re.findall(r"\bcsyncsync_\w+", rule["expr"]))) | {"instance"}
        shown = {label for words in rule["annotations"].values() for label in re.findall(r"\$labels\.(\w+)", words)}
        assert shown <= has, rule["alert"]
