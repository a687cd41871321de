"""What absent.sls takes off a host that leaves."""

import jinja2
import pytest
import yaml
from conftest import REPOSITORY

SLS = (REPOSITORY / "states/csyncsync/absent.sls").read_text(encoding="utf-8")
METRICS, TARGET = "/var/lib/csyncsync/metrics.prom", "/srv/metrics/csyncsync.prom"


def removed(metrics):
    """``{id: [path, …]}`` of the file.absent states, rendered for a host with or without metrics."""
    functions = {
        "csyncsync.installed": lambda: ["wwwdata"],
        "file.is_link": lambda path: metrics and path == METRICS,
        "file.readlink": {METRICS: TARGET}.get,
        "mine.get": lambda *_: {},
    }
    text = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(SLS)
    states = yaml.safe_load(text.render(salt=functions, grains={"id": "web1"}))
    return {
        name: [path for option in state["file.absent"] for path in option.get("names", ())]
        for name, state in states.items()
        if "file.absent" in state
    }


@pytest.mark.parametrize("metrics", [False, True])
def test_all_units_are_removed_with_and_without_metrics(metrics):
    gone = removed(metrics)["The units of csyncsync are gone"]
    assert "/etc/systemd/system/csyncsync-action@.path" in gone
    assert "/etc/systemd/system/csyncsync-action@.service" in gone
    assert all(path.startswith("/etc/systemd/system/") for path in gone)


def test_metrics_are_removed_where_there_are_some_and_nothing_else_with_them():
    assert removed(True)["Its metrics are gone"] == [METRICS, TARGET]
    assert "Its metrics are gone" not in removed(False)
