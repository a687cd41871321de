"""What csync2 left is told from what a user has made: only what holds nothing of its own is deleted unseen."""

import os
import time

import pytest
from csync2lib import waits
from csync2lib.csync2 import temporary as temporary_module

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="csync2 runs as root")
LONG = "n" * 255
JAPANESE = "\u65e5" * 85


def make(path, content="", mode=0o600):
    with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)
    os.chmod(path, mode)
    return os.fsencode(path)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(waits, "LEFT_AFTER", 0.0)


@pytest.mark.parametrize("name", [".name.aB3dE6", ".name.backup", ".aB3dE6", f".{LONG[:246]}.aB3dE6", ".a.b.c.000000"])
def test_names_of_temporary_files(name):
    assert temporary_module.is_temporary(name.encode())


@pytest.mark.parametrize("name", [".bashrc", "name.aB3dE6", ".name.aB3dE", ".name.aB3dE67", ".name.aB-dE6", "aB3dE6"])
def test_names_of_other_files(name):
    assert not temporary_module.is_temporary(name.encode())


@AS_ROOT
@pytest.mark.parametrize(
    ("final", "temporary"),
    [
        ("name", ".name.aB3dE6"),
        (".name", ".name.aB3dE6"),
        ("name.", ".name.aB3dE6"),
        (LONG, f".{LONG[:246]}.aB3dE6"),
        ("." + LONG[1:], f".{LONG[:246]}.aB3dE6"),
        (JAPANESE, ".aB3dE6"),
    ],
)
@pytest.mark.parametrize("content", ["", "the beg", "the beginning"])
def test_the_beginning_of_the_file_beside_it_is_left(tmp_path, final, temporary, content):
    make(tmp_path / final, "the beginning", 0o644)
    assert temporary_module.is_left(make(tmp_path / temporary, content), set())


@AS_ROOT
def test_what_a_user_may_need_is_not_left(tmp_path):
    make(tmp_path / "name", "content", 0o644)
    assert not temporary_module.is_left(make(tmp_path / ".name.aB3dE6", "other"), set())
    assert not temporary_module.is_left(make(tmp_path / ".name.aB3dE6", "content and more"), set())
    assert not temporary_module.is_left(make(tmp_path / ".alone.aB3dE6", ""), set())
    assert not temporary_module.is_left(make(tmp_path / ".name.aB3dE7", "con", 0o644), set())
    path = make(tmp_path / ".name.aB3dE8", "con")
    assert not temporary_module.is_left(path, {path})
    os.chown(path, 1, 0)
    assert not temporary_module.is_left(path, set())
    os.chown(path, 0, 0)
    waits.LEFT_AFTER = 60.0
    assert not temporary_module.is_left(path, set())


@AS_ROOT
def test_a_suffix_is_chances_if_it_looks_so_or_its_company_does(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    chance, company = make(tmp_path / ".name.aB3dE6"), make(tmp_path / ".name.tmo1fl")
    chosen = make(tmp_path / "other" / ".name.backup")
    assert temporary_module.by_chance([chance, company, chosen]) == {chance, company}
    assert temporary_module.by_chance([company, chosen]) == set()
    os.chmod(chance, 0o644)
    assert company not in temporary_module.by_chance([chance, company])
    os.chmod(chance, 0o600)
    monkeypatch.setattr(temporary_module, "TOGETHER", 0.0)
    assert temporary_module.by_chance([chance, company]) == {chance}


@AS_ROOT
def test_what_may_be_csync2s_is_held_for_a_while(tmp_path):
    path, now = make(tmp_path / ".name.aB3dE6", "x"), time.time()
    assert temporary_module.is_to_be_held(path, now - 500, True)
    assert not temporary_module.is_to_be_held(path, now - 700, True)
    assert not temporary_module.is_to_be_held(path, now + 700, True)
    assert temporary_module.is_to_be_held(path, now - 30, False)
    assert not temporary_module.is_to_be_held(path, now - 100, False)
    os.chmod(path, 0o640)
    assert not temporary_module.is_to_be_held(path, now, True)
    assert not temporary_module.is_to_be_held(os.fsencode(tmp_path / ".gone.aB3dE6"), now, True)


def test_what_is_open_is_known(tmp_path):
    path = make(tmp_path / "file")
    assert path not in temporary_module.open_paths()
    with open(path):
        assert path in temporary_module.open_paths()
