"""The metrics that a host's node exporter finds: there with the option, true, and gone with it."""

import json
import time

import pytest
import yaml
from places import HOSTS, PILLAR, SHARED
from prometheus_client.parser import text_string_to_metric_families

DIRECTORY = "/var/lib/prometheus/node-exporter"
FILE = f"{DIRECTORY}/csyncsync.prom"
LINKED = "The metrics are written into csyncsync:metrics"
UNLINKED = "The metrics are no longer written where they were"
PEER = (("group", "wwwshared"), ("peer", "web3"))
GROUP = (("group", "wwwshared"),)


def set_option(hosts, value, option="metrics"):
    """Set an option of hosts in the master's pillar file; None takes all out."""
    beside = {} if value is None else {option: value}
    text = yaml.safe_dump({"csyncsync": {"groups": hosts.groups(), **beside}})
    hosts.path("master", PILLAR).write_text(text, encoding="utf-8")


@pytest.fixture(autouse=True)
def _without_the_option(hosts):
    hosts.calm(seconds=90)
    yield
    set_option(hosts, None)
    hosts.apply(sls="csyncsync.watch")


def changed(answers):
    """{host: the ids of the states that changed something, or would}."""
    return {
        host: sorted(name for name, found in states.items() if found["changes"] or found["result"] is None)
        for host, states in answers.items()
    }


def samples(text):
    return {
        (sample.name.removeprefix("csyncsync_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def metrics(hosts, host):
    """{(name, labels): value} of what the node exporter would read now."""
    text = hosts.read(host, FILE)
    assert text is not None, f"{host} has no metrics"
    return samples(text)


def eventually(hosts, host, seconds=40, **expected):
    """Wait until these metrics have these values; names without "csyncsync_", of the group or of the peer."""

    def told():
        found = metrics(hosts, host)
        here = {name: found.get((name, PEER), found.get((name, GROUP))) for name in expected}
        assert here == expected
        return found

    return hosts.eventually(told, seconds)


def test_the_file_comes_with_the_option_and_goes_with_it(hosts):
    set_option(hosts, DIRECTORY)
    predicted = changed(hosts.apply(test=True))
    assert predicted["web1"] == ["The directory of csyncsync:metrics is there", LINKED]
    assert hosts.read("web1", FILE) is None
    assert changed(hosts.apply()) == predicted
    for host in HOSTS:
        hosts.eventually(lambda host=host: hosts.path(host, FILE).exists(), 20, f"{host} writes its metrics")
        status = hosts.path(host, FILE).stat()
        assert (status.st_mode & 0o777, status.st_uid, hosts.path(host, DIRECTORY).stat().st_mode & 0o777) == (
            0o644,
            0,
            0o755,
        )
    assert changed(hosts.apply()) == {host: [] for host in HOSTS}
    # What the command line shows is what the beacon writes.
    shown = samples(hosts.ask("web1", "csyncsync.metrics"))
    assert {*shown} == {*metrics(hosts, "web1")}
    assert shown["certificate_expiry_timestamp_seconds", ()] > time.time() + 365 * 86400
    assert shown["in_sync", GROUP] == shown["watching", GROUP] == 1
    set_option(hosts, f"{DIRECTORY}/other")
    hosts.apply(sls="csyncsync.watch")
    for host in HOSTS:
        other = hosts.path(host, f"{DIRECTORY}/other/csyncsync.prom")
        hosts.eventually(other.exists, 20, f"{host} writes its metrics elsewhere")
        assert not hosts.path(host, FILE).exists()
    set_option(hosts, None)
    assert changed(hosts.apply(test=True)) == {host: [UNLINKED] for host in HOSTS}
    assert changed(hosts.apply()) == {host: [UNLINKED] for host in HOSTS}
    time.sleep(2)
    for host in HOSTS:
        assert not list(hosts.path(host, DIRECTORY).glob("**/*.prom*")), f"{host}'s metrics are gone"
    assert changed(hosts.apply()) == {host: [] for host in HOSTS}


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("metrics", "var/metrics", 'csyncsync:metrics "var/metrics" is not an absolute path'),
        ("max_user_watches", "a lot", 'csyncsync:max_user_watches "a lot" is no number above 0'),
        ("max_user_watches", -1, "csyncsync:max_user_watches -1 is no number above 0"),
        ("metrix", "/srv", "csyncsync:metrix is no option; there are: groups, confine, max_user_watches, metrics"),
    ],
)
def test_what_an_option_cannot_be_is_an_error_that_names_it(hosts, option, value, message):
    """One state fails, and the others go on."""
    set_option(hosts, value, option)
    states = hosts.apply("web1", sls="csyncsync.watch", may_fail=True)["web1"].values()
    assert [state["name"] for state in states if not state["result"]] == [message]
    assert hosts.status("web1", "wwwshared")["watching"]


def test_pushes_and_a_peer_that_is_away_are_seen(hosts):
    set_option(hosts, DIRECTORY)
    hosts.apply(sls="csyncsync.watch")
    eventually(hosts, "web1", in_sync=1, lag_seconds=0, dirty_entries=0, peer_unreachable=0)
    before = metrics(hosts, "web1")
    hosts.write("web1", f"{SHARED}/measured", f"{time.time()}\n")
    hosts.equal()

    def counted():
        now = metrics(hosts, "web1")
        assert now["pushes_total", GROUP] > before["pushes_total", GROUP]
        assert now["last_push_timestamp_seconds", GROUP] > before["last_push_timestamp_seconds", GROUP]
        assert now["last_push_paths", GROUP] >= 0
        assert now["push_errors_total", GROUP] == before["push_errors_total", GROUP]

    hosts.eventually(counted, 40)
    hosts.bed.cut("web3")
    try:
        began = time.time()
        hosts.write("web1", f"{SHARED}/measured", "while web3 is away\n")
        away = eventually(hosts, "web1", peer_unreachable=1, dirty_entries=1, in_sync=0)
        written = away["metrics_timestamp_seconds", ()]
        assert 0 < away["lag_seconds", GROUP] <= written - began + 0.1
        hosts.eventually(
            lambda: metrics(hosts, "web1")["lag_seconds", GROUP] > written - began + 10, 40, "the lag grows"
        )
    finally:
        hosts.bed.heal("web3")
    hosts.equal()
    eventually(hosts, "web1", 60, peer_unreachable=0, dirty_entries=0, in_sync=1, lag_seconds=0)


def test_metrics_that_nobody_writes_any_more_grow_old(hosts):
    """The time in them is that of their writing, and without the minion another process goes on."""
    set_option(hosts, DIRECTORY)
    hosts.apply(sls="csyncsync.watch")
    hosts.eventually(lambda: hosts.path("web2", FILE).exists(), 20)
    hosts.shell("web2", "systemctl stop csyncsync-watch salt-minion")
    try:
        time.sleep(1)
        written = metrics(hosts, "web2")["metrics_timestamp_seconds", ()]
        time.sleep(20)
        assert metrics(hosts, "web2")["metrics_timestamp_seconds", ()] == written
        hosts.shell("web2", "systemctl start csyncsync-watch")
        hosts.eventually(lambda: metrics(hosts, "web2")["metrics_timestamp_seconds", ()] > written, 60, "it goes on")
    finally:
        hosts.shell("web2", "systemctl start csyncsync-watch salt-minion")
        hosts.eventually(lambda: hosts.call(["web2"], "test.ping", seconds=5) == {"web2": True}, 60)


def test_a_host_that_leaves_takes_its_metrics_along(hosts):
    set_option(hosts, DIRECTORY)
    hosts.apply(sls="csyncsync.watch")
    hosts.eventually(lambda: hosts.path("web3", FILE).exists(), 20)
    shown = hosts.ask("web3", "state.show_sls", "csyncsync.absent")
    gone = json.dumps(shown["Its metrics are gone"])
    assert FILE in gone
    assert "/var/lib/csyncsync/metrics.prom" in gone
