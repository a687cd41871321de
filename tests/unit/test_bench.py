"""The benchmark's report: figures, verdicts, and the page that says what is missed."""

import importlib.util
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "bench" / "report.py"
spec = importlib.util.spec_from_file_location("bench_report", SOURCE)
report = importlib.util.module_from_spec(spec)
spec.loader.exec_module(report)


def runs(*seconds, missing=7):
    """Runs that took so long; None: not converged."""
    cost = {"cpu": {"web1": 0.5, "web2": 0.1, "master": 0.25}, "memory": 2**20}
    return [{"seconds": s, "missing": 0 if s is not None else missing, **cost} for s in seconds]


def row(target=None, limit=120, **systems):
    """A workload's results."""
    return {
        "title": "a small file", "order": 0, "target": target or {}, "limit": limit,
        "date": "2026-11-22", "command": "make bench", "systems": systems,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "share", "wanted"),
    [([3], 0.95, 3), ([1, 2, 3], 0.5, 2), ([4, 1, 3, 2], 0.5, 2.5), (range(101), 0.95, 95), ([1, 2], 1, 2)],
)
def test_percentiles_are_interpolated(values, share, wanted):
    assert report.percentile(values, share) == pytest.approx(wanted)


def test_a_run_that_did_not_converge_counts_with_the_limit():
    found = report.figures(runs(10, None, None), 120)
    assert (found["median"], found["failed"], found["missing"], found["runs"]) == (120, 2, 7, 3)
    assert report.time_text(found, "median") == "> 120 s"
    assert report.figures(runs(1, 2, None), 120)["median"] == 2
    assert report.time_text(report.figures(runs(1, 2, None), 120), "median") == "2.00 s"


@pytest.mark.parametrize(
    ("target", "ours", "recipe", "met"),
    [
        ({"ratio": 0.3}, (0.3, 0.3), (1.0, 1.0), True),
        ({"ratio": 0.3}, (0.31, 0.31), (1.0, 1.0), False),
        ({"ratio": 0.3}, (0.1, 0.1, None), (1.0, 1.0), False),  # it must not lose anything
        ({"ratio": 0.1}, (1, 1), (None, None), True),  # the recipe took more than 120 s
        ({"ratio": 0.1}, (1, 1), None, False),  # nothing to compare with
        ({"seconds": 4}, (3, 4), None, True),
        ({"seconds": 4}, (3, 3, 4.1), None, False),  # each run counts
        ({"seconds": 4}, (3, None), None, False),
        ({}, (3,), (9,), None),
    ],
)
def test_targets(target, ours, recipe, met):
    others = recipe and report.figures(runs(*recipe), 120)
    assert report.verdict(target, report.figures(runs(*ours), 120), others)[1] is met


def test_the_page_says_what_is_missed():
    workload = row({"ratio": 0.3}, recipe=runs(1.0, 1.0), syncthing=runs(0.4, 0.4), csyncsync=runs(0.5, 0.5))
    page = report.page({"workloads": {"small": workload}})
    assert "| a small file | 1.00 s, 1.00 s (2) | 0.400 s, 0.400 s (2) | 0.500 s, 0.500 s (2) | 0.5 | 1.2 |" in page
    assert "**missed**" in page
    assert "- a small file: the target is ratio ≤ 0.3, measured was 0.5." in page
    assert "- a small file: slower than Syncthing" in page


def test_the_page_of_a_good_run_misses_nothing():
    workload = row({"seconds": 4}, recipe=runs(None), csyncsync=runs(1, 2))
    page = report.page({"workloads": {"all200": workload}})
    assert "> 120 s, > 120 s (1); 1 not converged, up to 7 copies missing" in page
    assert "Nothing: all targets are met." in page
    assert "| a small file | 0.30 s, 1 MiB | – | 0.30 s, 1 MiB (master: 0.25 s) |" in page


def test_the_page_shows_a_bus_that_died():
    counted = {"beacon_events": 266, "jobs": 1992, "silent": "web1 did not answer test.ping", "limit": 60}
    page = report.page({"plain": {**runs(None)[0], **counted}})
    assert "| 266 | 1,992 | not converged after 60 s, 7 copies missing | web1 did not answer test.ping |" in page


def test_the_page_tells_what_could_not_be_measured():
    assert "could not be measured: no pyinotify" in report.page({"plain": {"failed": "no pyinotify"}})


def test_a_run_adds_its_rows_to_those_of_earlier_ones(tmp_path):
    file = tmp_path / "benchmarks.json"
    assert report.load(file) == {}
    report.save(file, {"workloads": {"small": row(csyncsync=runs(0.123456))}})
    found = report.load(file)
    found["workloads"]["million"] = row(csyncsync=runs(0.2))
    report.save(file, found)
    assert sorted(report.load(file)["workloads"]) == ["million", "small"]
    assert report.load(file)["workloads"]["small"]["systems"]["csyncsync"][0]["seconds"] == 0.1235
