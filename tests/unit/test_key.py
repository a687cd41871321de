"""A group's key on the master: made once, replaced whole, and proved without being told."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from csync2lib import keys
from csync2lib.config import schema


@pytest.fixture
def file(tmp_path):
    return keys.path(str(tmp_path), "data")


def test_a_new_key_replaces_the_old_one_and_nothing_else_is_there(file):
    before = keys.make_once(file)
    keys.replace(file)
    after = keys.read(file)
    assert after != before
    assert after == keys.make_once(file)
    assert os.listdir(os.path.dirname(file)) == ["data.key"]
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert schema.validate({"data": {"members": "*", "include": ["/srv"], "key": after}})["errors"] == {}


def test_whoever_reads_meanwhile_reads_a_whole_key(file):
    keys.make_once(file)
    with ThreadPoolExecutor(4) as pool:
        read = [pool.submit(lambda: {len(keys.make_once(file)) for _ in range(200)}) for _ in range(3)]
        for _ in range(50):
            keys.replace(file)
        assert set.union(*(one.result() for one in read)) == {64}


def test_a_key_that_cannot_be_written_leaves_the_old_one_and_no_other(file, monkeypatch):
    before = keys.make_once(file)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        keys.replace(file)
    assert keys.read(file) == before
    assert os.listdir(os.path.dirname(file)) == ["data.key"]


def test_a_proof_tells_who_has_the_key_and_is_good_for_one_question():
    key, other = "A" * 64, "A" * 63 + "B"
    assert keys.proof(key, "1") == keys.proof(key, "1")
    assert len({keys.proof(key, "1"), keys.proof(key, "2"), keys.proof(other, "1")}) == 3
    assert len(keys.proof(key, "1")) == 16


def test_no_key_is_no_error(file):
    assert keys.read(file) is None
