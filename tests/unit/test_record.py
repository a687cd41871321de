"""What the master notes of a group is in its file as it was in all versions, and nothing is lost on the way."""

import json
import threading

import pytest
from csync2lib.master import record
from csync2lib.master.record import Lease, Record

#: As versions before wrote it.
FILES = (
    {"admitted": [], "founders": None, "lease": None, "waiting": []},
    {
        "admitted": ["web1", "web2"],
        "behind": {"web3": 1.5},
        "conflicts": [["/a", "web1", "web2"]],
        "founders": [],
        "known": ["web1"],
        "lease": {"checked": 2.5, "host": "web1", "jid": "20261122100000000000", "since": 1.5},
        "anew": [],
        "next": None,
        "options": {"include": ["/a"], "seed": None},
        "paused": {},
        "refused": {"web1": {"web2": ["/a"]}, "web2": {"web1": ["/a"]}},
        "returning": {"web3": 3.5},
        "told": 4.5,
        "waiting": ["web2"],
    },
    {
        "admitted": [],
        "founders": ["web1"],
        "lease": {"checked": 2.5, "host": "", "jid": "process 7", "pid": 7, "since": 1.5},
        "later": "of another version",
        "paused": {"*": {"comment": "", "until": None}},
        "waiting": [],
    },
)
NEW = json.loads(Record().to_json())


@pytest.fixture
def file(tmp_path):
    return str(tmp_path / "csyncsync/wwwdata.json")


def read(file):
    with open(file, encoding="utf-8") as opened:
        return json.load(opened)


@pytest.mark.parametrize("said", FILES, ids=["new", "host", "process"])
def test_a_file_of_any_version_is_written_as_it_was_read(said):
    found = json.loads(Record.from_json(json.dumps(said)).to_json())
    lease = said["lease"] and {"pid": None, **said["lease"]}
    assert found == {**NEW, **said, "lease": lease}


def test_a_new_record_says_nothing_that_nobody_knows(file):
    with record.opened(file):
        pass
    assert read(file) == NEW
    assert {name: value for name, value in NEW.items() if value} == {}


def test_what_is_changed_is_written_and_found_again(file):
    with record.opened(file) as notes:
        notes.lease = Lease("web1", "7", 1.5, 2.5)
        notes.waiting.append("web2")
        notes.paused = {}
    assert read(file) == {
        **NEW,
        "lease": {"host": "web1", "jid": "7", "since": 1.5, "checked": 2.5, "pid": None},
        "waiting": ["web2"],
        "paused": {},
    }
    with record.opened(file) as notes:
        assert (notes.lease, notes.waiting, notes.paused) == (Lease("web1", "7", 1.5, 2.5), ["web2"], {})


def test_what_was_emptied_is_empty_in_the_file(file):
    for behind in ({"web1": 1.5}, {}):
        with record.opened(file) as notes:
            notes.behind = behind
        assert read(file)["behind"] == behind


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_a_damaged_file_is_made_anew(file, content):
    with record.opened(file):
        pass
    with open(file, "wb") as opened:
        opened.write(content)
    with record.opened(file) as notes:
        assert notes == Record()
    assert read(file) == NEW


def test_an_error_leaves_the_file_as_it_was(file):
    with record.opened(file):
        pass
    with pytest.raises(KeyError), record.opened(file) as notes:
        notes.waiting.append("web1")
        raise KeyError
    assert read(file) == NEW


def test_who_changes_it_at_once_loses_nothing(file):
    def note(number):
        for _ in range(20):
            with record.opened(file) as notes:
                notes.waiting.append(f"web{number}")

    threads = [threading.Thread(target=note, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read(file)["waiting"]) == 80
