"""Which tests stay together when they run beside each other."""

import importlib.util

import pytest
from watching import REPO

spec = importlib.util.spec_from_file_location("tests_conftest", REPO / "tests/conftest.py")
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)


@pytest.mark.parametrize(
    ("nodeid", "unit"),
    [
        ("tests/loader/test_loaded.py::test_it", "tests/loader"),
        ("tests/unit/test_x.py::test_it[a]", "tests/unit/test_x.py"),
        ("tests/hosts/test_join.py::test_it[a]", "tests/hosts/test_join.py"),
        ("tests/hosts/test_flow.py::test_it[a::b.py/x]", "tests/hosts/test_flow.py::test_it"),
        ("tests/hosts/test_states.py::TestThis::test_it[a]", "tests/hosts/test_states.py::TestThis"),
    ],
)
def test_what_shares_something_stays_together(nodeid, unit):
    assert tests.unit_of_work(nodeid) == unit


def test_the_files_that_stay_together_are_there():
    assert [name for name in tests.TOGETHER if not (REPO / f"tests/hosts/test_{name}.py").exists()] == []
