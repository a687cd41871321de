"""The journal: what the watcher writes is what a push takes."""

import math
import os
import resource
import time

import pytest
from csync2lib import journal as journal_module


@pytest.fixture
def journal(tmp_path):
    return str(tmp_path / "journal")


def test_what_is_written_is_taken(journal):
    lines = [b"/a/one", b"/a/d/", b"/a/\xff \n'\"%"]
    journal_module.write(journal, lines, False, 1)
    journal_module.write(journal, [b"/a/one", b"/a/d", b"/a/two"], False, 2)
    files, entries, whole = journal_module.take(journal)
    assert entries == {b"/a/one": False, b"/a/d": True, lines[2]: False, b"/a/two": False}
    assert not whole
    assert os.stat(journal).st_mode & 0o777 == 0o700
    assert {os.stat(file).st_mode & 0o777 for file in files} == {0o600}
    journal_module.discharge(files)
    assert journal_module.take(journal) == ([], {}, False)


def test_when_the_last_event_was_heard(journal):
    journal_module.write(journal, [b"/a", b"/b/"], False, 1, 1700000000_500000000)
    journal_module.write(journal, [b"/a"], False, 2, 1700000003_500000000)
    journal_module.write(journal, [b"/c"], True, "push")
    files, entries, _ = journal_module.take(journal)
    assert journal_module.heard(files) == {b"/a": 1700000003.5, b"/b": 1700000000.5, b"/c": math.inf}
    assert entries.keys() == journal_module.heard(files).keys()


def test_a_flush_for_which_there_is_no_room_leaves_nothing(journal):
    journal_module.write(journal, [b"/a"], False, 1)
    before, limits = os.listdir(journal), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            journal_module.write(journal, [b"/longer/than/that"], False, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(journal) == before


def test_a_flush_that_comes_while_the_journal_is_taken_stays(journal):
    journal_module.write(journal, [b"/a"], True, 1)
    files, entries, whole = journal_module.take(journal)
    assert (entries, whole) == ({b"/a": False}, True)
    journal_module.write(journal, [b"/b"], True, 2)
    journal_module.discharge(files)
    assert journal_module.take(journal)[1:] == ({b"/b": False}, True)


def test_a_check_that_failed_takes_the_same_again(journal):
    journal_module.write(journal, [b"/a"], True, 1)
    assert journal_module.take(journal) == journal_module.take(journal)


def test_a_push_marks_the_whole_group_too(journal):
    os.mkdir(journal)
    journal_module.write(journal, [], whole=True)
    assert journal_module.take(journal)[2]


def test_what_is_not_finished_is_left_out(journal):
    journal_module.write(journal, [b"/a"], False, 1)
    unfinished = os.path.join(journal, ".tmp-1-1")
    with open(unfinished, "wb") as file:
        file.write(b"/b")
    assert journal_module.take(journal)[1] == {b"/a": False}


def test_the_oldest_flush(journal):
    assert journal_module.oldest(journal) == (None, False)
    before = time.time()
    journal_module.write(journal, [b"/a"], False, 1)
    journal_module.write(journal, [b"/b"], True, 2)
    first = journal_module.names(journal)[0]
    assert journal_module.oldest(journal) == (int(first[:20]) / 10**9, True)
    assert before - 1 < journal_module.oldest(journal)[0] < time.time() + 1
    journal_module.discharge(journal_module.take(journal)[0])
    assert journal_module.oldest(journal) == (None, False)


def test_what_is_below_a_tree_is_left_out_unless_it_must_be_named_alone():
    out = [
        (b"/a/d", True, False),
        (b"/a/d/e/f", False, False),
        (b"/a/d/e", True, False),
        (b"/a/d/g", False, True),
        (b"/a/dd", False, False),
        (b"/a/dd", False, False),
    ]
    assert journal_module.lines(out) == [b"/a/d/", b"/a/d/g/.", b"/a/dd"]


def test_what_is_checked_is_unsent_until_it_is_forgotten(journal):
    journal_module.write(journal, [b"/a", b"/d/"], True, 1)
    journal_module.discharge(journal_module.take(journal)[0])
    journal_module.write(journal, [b"/b"], False, 2)
    assert journal_module.names(journal) and journal_module.take(journal)[1] == {b"/b": False}
    assert journal_module.unsent(journal) == {b"/a": False, b"/d": True, b"/b": False}
    journal_module.write(journal, [b"/a"], False, 3)
    assert list(journal_module.unsent(journal)) == [b"/d", b"/b", b"/a"]  # what changed last stands last
    journal_module.forget(journal)
    assert journal_module.unsent(journal) == {b"/b": False, b"/a": False}


def test_only_so_many_checked_flushes_are_kept(journal, monkeypatch):
    monkeypatch.setattr(journal_module, "MOST_CHECKED", 3)
    for number in range(5):
        journal_module.write(journal, [b"/%d" % number], False, number)
        journal_module.discharge(journal_module.take(journal)[0])
    assert journal_module.unsent(journal) == {b"/2": False, b"/3": False, b"/4": False}


@pytest.mark.parametrize(
    "path, among",
    [(b"/a", True), (b"/a/b", False), (b"/d", True), (b"/d/e/f", True), (b"/dd", False), (b"/", False), (b"/c", False)],
)
def test_a_tree_stands_for_all_that_is_in_it(path, among):
    assert journal_module.is_among({b"/a": False, b"/d": True}, path) is among
    assert journal_module.is_among({b"": True}, path)
    assert not journal_module.is_among({}, path)
