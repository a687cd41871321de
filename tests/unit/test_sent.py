"""What a peer was sent last, and in which state."""

import pytest
from csync2lib.push import ledger

REG, OTHER, GONE = b"v1:mtime=1:mode=33188:uid=0:gid=0:type=reg:size=5", b"v1:mtime=2:type=reg", b"---"
NAME = b"/a%20b"


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "10.0.0.2")


def test_nothing_was_sent(path):
    sent = ledger.Log(path)
    assert sent.taken(NAME) == (b"", 0) and not sent.begun(NAME)
    sent.begin({})
    sent.end([], [])
    sent.take({})
    assert sent.taken(NAME) == (b"", 0)


def test_what_the_peer_took_last_and_what_was_sent_since(path):
    for state in (GONE, OTHER, REG):
        ledger.Log(path).begin({NAME: state, b"/b": state})
        if state == OTHER:
            ledger.Log(path).end([NAME], [])
    sent = ledger.Log(path)
    assert sent.taken(NAME)[0] == OTHER, "what came before is history"
    assert [state for state, _ in sent.begun(NAME)] == [REG]
    assert [state for state, _ in sent.begun(b"/b")] == [GONE, OTHER, REG]
    sent.end([NAME, b"/b"], [])
    assert sent.taken(NAME)[0] == sent.taken(b"/b")[0] == REG
    assert not sent.begun(NAME)
    sent.take({NAME: GONE})
    assert sent.taken(NAME)[0] == GONE


def test_what_was_not_sent_after_all(path):
    sent = ledger.Log(path)
    sent.begin({NAME: REG})
    for _ in range(3):
        sent.begin({NAME: REG})
        sent.end([], [NAME])
    assert len(sent.begun(NAME)) == 1, "the first time it was interrupted"
    sent.end([], [NAME])
    assert not sent.begun(NAME)


def test_it_is_forgotten_one_day(path, monkeypatch):
    sent, now = ledger.Log(path), ledger.time.time()
    sent.take({NAME: OTHER})
    sent.begin({NAME: REG})
    for later, taken, fresh in ((500, OTHER, 1), (700, OTHER, 0), (90000, b"", 0)):
        monkeypatch.setattr(ledger.time, "time", lambda later=later: now + later)
        sent = ledger.Log(path)
        assert (sent.taken(NAME)[0], len(sent.begun(NAME, 600))) == (taken, fresh)


def test_a_line_that_was_cut_off_is_none(path):
    ledger.Log(path).begin({NAME: REG})
    with open(path, "rb") as file:
        whole = file.read()
    for end in range(len(whole)):
        with open(path, "wb") as file:
            file.write(whole[:end])
        sent = ledger.Log(path)
        sent.begin({b"/b": OTHER})
        assert [state for state, _ in sent.begun(b"/b")] == [OTHER]
        assert all(REG.startswith(state) for state, _ in sent.begun(NAME))


def test_a_log_does_not_grow_for_ever(path, tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "MOST", 1000)
    sent = ledger.Log(path)
    for number in range(100):
        sent.begin({b"/%d" % number: REG})
        sent.end([b"/%d" % number], [])
        assert sent.taken(b"/%d" % number)[0] == REG
        assert sent.taken(b"/%d" % max(0, number - 9))[0] == REG
    assert sent.taken(b"/0") == (b"", 0)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2500
