"""Who is in conflict with whom, who wins by a policy, and what a host says of a path."""

import hashlib
import os

import pytest
from csync2lib.master import conflicts
from csync2lib.versions import TEXT, version


def test_a_conflict_is_what_hosts_want_to_send_to_each_other():
    marked = {
        "web1": {"/a": ["web2", "web3"], "/b": ["web2"], "/d": ["web3"]},
        "web2": {"/a": ["web1"], "/b": ["web3"], "/c": ["web1"]},
        "web3": {"/d": ["web1"], "/a": ["web2"]},
        "web4": {},
    }
    assert conflicts.find(marked) == {"/a": ["web1", "web2"], "/d": ["web1", "web3"]}


def test_what_stands_below_a_path_is_found_on_all_hosts():
    marked = {"web1": {"/a": [], "/a/b": [], "/ab": []}, "web2": {"/a/c/d": []}}
    assert conflicts.below(marked, "/a") == {"/a/b", "/a/c/d"}


def file(mtime, size):
    return {"type": "file", "mtime": mtime, "size": size}


@pytest.mark.parametrize(
    ("policy", "winner"), [("younger", "web2"), ("older", "web1"), ("bigger", "web1"), ("smaller", "web2")]
)
def test_a_policy_names_the_winner(policy, winner):
    versions = {"web1": file(1, 20), "web2": file(2, 10), "web3": {"type": "nothing", "mtime": 0, "size": 0}}
    assert conflicts.winner(policy, versions) == winner


@pytest.mark.parametrize("versions", [{}, {"web1": file(1, 1), "web2": file(1, 1)}, {"web1": {"type": "directory"}}])
def test_who_is_as_good_as_another_does_not_win(versions):
    with pytest.raises(ValueError, match=r"equally good|no host has a file"):
        conflicts.winner("younger", versions)


def test_what_is_there_is_described(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"text\n")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    path.chmod(0o640)
    found = version(os.fsencode(path), text=True)
    assert found["sha256"] == hashlib.sha256(b"text\n").hexdigest()
    assert (found["type"], found["size"], found["mode"], found["text"]) == ("file", 5, "0640", "text\n")
    assert found["time"] == "2023-11-14 22:13:20 UTC"
    (tmp_path / "link").symlink_to("file")
    assert version(os.fsencode(tmp_path / "link"))["target"] == "file"
    assert version(os.fsencode(tmp_path))["type"] == "directory"
    assert version(os.fsencode(path / "below"))["type"] == "nothing"


def test_a_long_file_and_one_that_is_no_text_have_none(tmp_path):
    (tmp_path / "binary").write_bytes(b"a\0b")
    (tmp_path / "long").write_bytes(b"x" * (TEXT + 1))
    for name in ("binary", "long"):
        assert "text" not in version(os.fsencode(tmp_path / name), text=True)


def test_texts_are_compared():
    versions = {"web1": {"text": "a\nb\n"}, "web2": {"text": "a\nc\n"}, "web3": {}}
    assert conflicts.difference(versions).splitlines() == [
        "--- web1", "+++ web2", "@@ -1,2 +1,2 @@", " a", "-b", "+c"
    ]  # fmt: skip
    assert conflicts.difference({"web1": {"text": "a"}}) == ""
