"""What a peer was sent last, and in which state."""

import csync2sent
import pytest

REG, OTHER, GONE = b"v1:mtime=1:mode=33188:uid=0:gid=0:type=reg:size=5", b"v1:mtime=2:type=reg", b"---"
NAME = b"/a%20b"


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "10.0.0.2")


def test_nothing_was_sent(path):
    sent = csync2sent.Sent(path)
    assert sent.states(NAME) == sent.begun(NAME) == set()
    sent.begin({})
    sent.end([], [])
    assert sent.states(NAME) == set()


def test_what_the_peer_took_last_and_what_was_sent_since(path):
    for state in (GONE, OTHER, REG):
        csync2sent.Sent(path).begin({NAME: state, b"/b": state})
        if state == OTHER:
            csync2sent.Sent(path).end([NAME], [])
    sent = csync2sent.Sent(path)
    assert sent.states(NAME) == {OTHER, REG}, "what came before is history"
    assert sent.begun(NAME) == {REG}
    assert sent.states(b"/b") == sent.begun(b"/b") == {GONE, OTHER, REG}
    sent.end([NAME, b"/b"], [])
    assert sent.states(NAME) == sent.states(b"/b") == {REG}
    assert not sent.begun(NAME)


def test_what_was_not_sent_after_all(path):
    sent = csync2sent.Sent(path)
    sent.begin({NAME: REG})
    for _ in range(3):
        sent.begin({NAME: REG})
        sent.end([], [NAME])
    assert sent.begun(NAME) == {REG}, "the first time it was interrupted"
    sent.end([], [NAME])
    assert sent.states(NAME) == set()


def test_it_is_forgotten_one_day(path, monkeypatch):
    sent, now = csync2sent.Sent(path), csync2sent.time.time()
    sent.begin({NAME: REG})
    for later, states, fresh in ((500, {REG}, {REG}), (700, {REG}, set()), (90000, set(), set())):
        monkeypatch.setattr(csync2sent.time, "time", lambda later=later: now + later)
        sent = csync2sent.Sent(path)
        assert (sent.states(NAME), sent.begun(NAME, 600)) == (states, fresh)


def test_a_line_that_was_cut_off_is_none(path):
    csync2sent.Sent(path).begin({NAME: REG})
    with open(path, "rb") as file:
        whole = file.read()
    for end in range(len(whole)):
        with open(path, "wb") as file:
            file.write(whole[:end])
        sent = csync2sent.Sent(path)
        sent.begin({b"/b": OTHER})
        assert sent.states(b"/b") == {OTHER}
        assert all(REG.startswith(state) for state in sent.states(NAME))


def test_a_log_does_not_grow_for_ever(path, tmp_path, monkeypatch):
    monkeypatch.setattr(csync2sent, "MOST", 1000)
    sent = csync2sent.Sent(path)
    for number in range(100):
        sent.begin({b"/%d" % number: REG})
        assert sent.states(b"/%d" % number) == {REG}
        assert sent.states(b"/%d" % max(0, number - 10)) == {REG}
        sent.end([b"/%d" % number], [])
    assert sent.states(b"/0") == set()
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2500
