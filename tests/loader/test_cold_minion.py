"""`state.apply csyncsync test=True` on a minion that has never synced: it tells what it would do, and does nothing."""

from pathlib import Path

import pytest


def test_the_first_run_syncs_by_itself_and_no_state_fails(cold_run):
    assert cold_run["csyncsync's modules are loaded anew"]["changes"]
    assert cold_run.failed == {}


def test_every_part_is_in_the_first_run(cold_run):
    parts = ("modules", "package", "certificate", "mine", "groups", "service", "watch")
    assert {state["__sls__"] for state in cold_run.states.values()} == {f"csyncsync.{part}" for part in parts}


@pytest.mark.parametrize(
    "announced",
    [
        "This host has a certificate for csync2",
        "The other hosts know this host",
        "The group wwwdata is on this host",
        "The group wwwshared is on this host",
    ],
)
def test_what_would_change_is_announced(cold_run, announced):
    state = cold_run[announced]
    assert (state["result"], bool(state["changes"])) == (None, True), state


def test_nobody_sees_a_traceback(cold_run):
    assert "Traceback" not in cold_run.text
    assert "Traceback" not in cold_run.log


def test_nothing_is_written(cold_run, cold_minion):
    assert cold_run.written == []
    assert not (Path(cold_minion.config_dir) / "minion.d/beacons.conf").exists()


def test_the_next_run_has_nothing_to_sync_and_announces_the_same(cold_run, minion, apply):
    again = apply("csyncsync")
    assert again.failed == {}
    assert set(cold_run.states) - set(again.states) == {"csyncsync's modules are loaded anew"}
    assert {name: state["result"] for name, state in again.states.items()} == {
        name: state["result"] for name, state in cold_run.states.items() if name in again.states
    }
