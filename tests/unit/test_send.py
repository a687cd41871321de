"""What csync2 says while it sends (update.c, csync_debug()), and what is made of it."""

import math
import os
import time

import pytest
from csync2lib.csync2 import custody, output, states
from csync2lib.csync2.names import decode, encode
from csync2lib.csync2.states import GONE, check_text
from csync2lib.push import ledger, refusals, transfer
from csync2lib.push.sending import may_differ

PEER = "10.0.0.2"
HELLO = (b"Connecting to host 10.0.0.2 (SSL) ...\n", b"Connect to 10.0.0.2:30865 (10.0.0.2).\n")
STAYS = b"File stays in dirty state. Try again later...\n"


def told(*lines, errors=0):
    """Messages of csync2's: those whole, and ``Updating NAME``."""
    said = [line if line.endswith(b"\n") else b"%s on 10.0.0.2 ...\n" % line for line in lines]
    end = [b"Connection closed.\n", b"Finished with %d errors.\n" % errors] if errors is not None else []
    return output.UpdateOutput([*HELLO, *said, *end], PEER)


def test_all_names_are_seen_in_their_order():
    found = told(b"Deleting /d/gone", b"Updating /d", b"Updating /d/a b", b"Updating /d/nl\nx", STAYS, errors=1)
    assert found.names == [b"/d/gone", b"/d", b"/d/a%20b", b"/d/nl%0Ax"]
    assert not found.unreachable
    assert not found.is_cut_off


def test_what_the_peer_has_taken_and_what_was_under_way():
    taken = told(b"Updating /a", b"Updating /refused", STAYS, b"Deleting /b", b"Updating /last", STAYS, errors=3)
    assert taken.sent == {b"/a", b"/b", b"/last"}


@pytest.mark.parametrize(
    "lines, errors, cut_off",
    [
        ((b"Updating /a", STAYS), 1, False),
        ((b"Updating /a", STAYS), 2, True),
        ((b"Updating /a", STAYS, b"Updating /b"), 2, True),
        ((b"Updating /a", b"Format-error while receiving data.\n"), None, True),
        ((), 1, False),
    ],
    ids=["refused", "no goodbye", "at the next one", "gave up", "no name at all"],
)
def test_a_connection_that_the_peer_closed(lines, errors, cut_off):
    assert told(*lines, errors=errors).is_cut_off is cut_off


def test_a_connection_has_ended_at_what_the_peer_could_not_write():
    """csync2 has gone on to other paths by then, of which nobody knows anything."""
    lines = (b"Updating /a", b"Updating /broken", STAYS, b"Updating /next", STAYS, b"Updating /z", b"Format-error\n")
    found = told(*lines, errors=None)
    assert (found.ended_at, found.answered) == (b"/broken", [b"/a", b"/broken"])
    found = told(b"Updating /a", b"Updating /b", errors=2)
    assert (found.ended_at, found.answered) == (b"/b", [b"/a"])
    found = told(b"Updating /a", STAYS, errors=1)
    assert found.answered == [b"/a"]
    assert told(errors=1).ended_at is None


@pytest.mark.parametrize(
    "line",
    [
        b"ERROR: Connection to remote host `10.0.0.2' failed.\n",
        b"SSL: handshake failed: A TLS fatal alert has been received. (GNUTLS_E_FATAL_ALERT_RECEIVED)\n",
        b"Peer did provide a wrong SSL X509 cetrificate.\n",
    ],
)
def test_a_peer_that_cannot_be_reached(line):
    assert told(line, errors=None).unreachable == line.decode().strip()


@pytest.mark.parametrize("words", ["No space left on device", "Operation not permitted", "Something new"])
def test_a_peer_that_cannot_write_says_why(words):
    answer = b"response from peer(%s): 10.0.0.2 [8] <- " + words.encode() + b"\n"
    found = told(
        *(b"Updating /d/a b", b"Local> PATCH k /d/a\\n\n", answer % b"/d/a b", STAYS),
        *(b"Updating /d/taken", answer.replace(b"[8]", b"[1]") % b"/d/taken"),
        *(b"Deleting /d/dir", b"response from peer(/d/dir): 10.0.0.2 [8] <- Directory not empty\n", STAYS),
    )
    assert found.cannot_write == {b"/d/a%20b": words}
    broken = b"I/O Error 'Input/output error' in rsync-check: /d/a\n"
    assert told(b"Updating /d/a", broken, STAYS).cannot_write == {b"/d/a": output.GAVE_UP}


def test_no_name_is_taken_for_an_answer():
    for name in (b"/d/x): 10.0.0.2 [8] <- No space left on device\n", b"/d/x): 10.0.0.2 [8] <- No space left"):
        answer = b"response from peer(%s): 10.0.0.2 [1] <- OK (cmd_finished).\n" % name
        assert told(b"Updating " + name, answer).cannot_write == {}


@pytest.fixture
def half_made(tmp_path):
    """Tells whether the peer's state of a file here, with some text and content, is taken for half made by csync2."""
    path = os.fsencode(tmp_path / "file")
    with open(path, "wb") as file:
        file.write(b"x")
    os.chmod(path, 0o640)

    def ask(fresh=False, same=True, **fields):
        text = check_text(path, os.lstat(path)).decode()
        for key, value in fields.items():
            text = ":".join(f"{key}={value}" if part.startswith(f"{key}=") else part for part in text.split(":"))
        section = [b">>> PEER:  %s\n>>> LOCAL: v1\n" % text.encode()]
        section += [] if same else [b"File is different on peer (rsync sig).\n"]
        state = told(b"Updating " + path, *section).states({})[encode(path)]
        return state.is_half_made(fresh)

    return ask


def test_what_csync2_has_just_made_is_half_made(half_made, tmp_path):
    made = {"mode": 0o100600, "uid": custody.UID, "gid": custody.UID}
    assert half_made(**made)
    assert not half_made(**made, same=False), "somebody has written to it"
    assert not half_made(**{**made, "mode": 0o100644}), "somebody has set its mode"
    assert not half_made(**{**made, "uid": 33}), "somebody has given it away"
    assert not half_made(**made, type="dir")
    os.chown(tmp_path / "file", 33, 34)
    assert half_made(mode=0o100600), "it has its owner, and not yet its mode"
    assert not half_made(mode=0o100600, gid=33), "somebody has given it away"
    gone = states.PeerState(b"/etc/passwd", b"---", False)
    link = b"v1:mode=41471:uid=0:gid=0:type=lnk:target=x"
    assert gone.is_half_made(True, {link}), "it was deleted to make room"
    assert not gone.is_half_made(False, {link}), "somebody has deleted it"
    assert not gone.is_half_made(True, {GONE, b"v1:mtime=1:mode=33188:uid=0:gid=0:type=reg:size=1"}), (
        "csync2 does not delete a file to replace it"
    )
    assert half_made(fresh=True, mode=0o100644), "it has the mode of the file that it replaced"
    assert not half_made(fresh=True, same=False, mode=0o100644)


def test_what_was_begun_of_something_that_is_here_no_more():
    sent = states.fields(b"v1:mtime=0:mode=33188:uid=33:gid=33:type=reg:size=5")

    def is_begun(text, wanted=sent):
        return states.PeerState(b"/x", text, False).is_begun(wanted)

    assert is_begun(b"v1:mtime=0:mode=33152:uid=60865:gid=60865:type=reg:size=5")
    assert is_begun(b"v1:mtime=0:mode=33152:uid=33:gid=33:type=reg:size=5")
    assert not is_begun(b"v1:mtime=0:mode=33152:uid=60865:gid=60865:type=reg:size=6"), "somebody has written to it"
    assert not is_begun(b"v1:mtime=0:mode=33188:uid=60865:gid=60865:type=reg:size=5"), "somebody has set its mode"
    assert not is_begun(b"v1:mtime=0:mode=33152:uid=1:gid=0:type=reg:size=5"), "somebody has given it away"
    assert not is_begun(b"v1:mtime=0:mode=33152:uid=0:gid=0:type=reg:size=5"), "it is a file of root's"
    assert not is_begun(b"v1:mode=16832:uid=60865:gid=60865:type=dir")
    assert not is_begun(b"---")
    assert not is_begun(b"---", states.fields(b"---"))
    assert not is_begun(b"v1:mode=16832:uid=60865:gid=60865:type=dir", states.fields(b"---"))


def test_what_was_begun_in_place_of_an_old_file():
    """csync2 gives the new one the old one's owner and mode, then its owner, then its mode."""
    text = b"v1:mtime=%d:mode=%d:uid=%d:gid=%d:type=%s:size=%d"
    old, sent = (
        states.fields(text % fields) for fields in ((1, 33188, 0, 0, b"reg", 0), (2, 33261, 33, 33, b"reg", 5))
    )

    def is_replaced(*fields):
        return states.PeerState(b"/x", text % (0, *fields), False).is_replaced(sent, old)

    assert is_replaced(33188, 0, 0, b"reg", 5)
    assert is_replaced(33188, 33, 33, b"reg", 5)
    assert not is_replaced(33188, 1000, 1000, b"reg", 5), "somebody has given it away"
    assert not is_replaced(33184, 0, 0, b"reg", 5), "somebody has set its mode"
    assert not is_replaced(33188, 0, 0, b"reg", 0), "it is the old one"
    assert not is_replaced(33188, 0, 0, b"dir", 5)


def test_what_the_peer_has_as_far_as_csync2_tells():
    directory = b"v1:mode=16877:uid=0:gid=0:type=dir"
    here = {b"/x/same": directory, b"/x/longer": b"v1:mtime=7:mode=33188:uid=0:gid=0:type=reg:size=5", b"/x/dir": GONE}
    found = told(
        *(b"Updating /x/same", b"File is already up to date on peer.\n"),
        *(b"Updating /x/swapped", b"File is already up to date on peer.\n"),
        *(b"Updating /x/dir", b">>> PEER:  v1:mode=16877:uid=0:gid=0:type=dir\n>>> LOCAL: v1\n"),
        *(b"Updating /x/longer", b"File is different on peer (rsync sig).\n"),
        *(b"Updating /x/nothing", b">>> PEER:  ---\n>>> LOCAL: v1\n"),
        *(b"Updating /x/refused", STAYS),
    ).states(here)
    assert {name: state.text for name, state in found.items()} == {
        b"/x/same": directory,
        b"/x/dir": directory,
        b"/x/longer": b"v1:mtime=0:mode=33188:uid=0:gid=0:type=reg:size=5",
        b"/x/nothing": GONE,
    }, "of what has been swapped meanwhile, nobody knows what the peer has"
    assert [name for name, state in found.items() if state.is_directory] == [b"/x/same", b"/x/dir"]
    assert not found[b"/x/longer"].same_content


def test_blocked_names_are_remembered_for_a_while(tmp_path, monkeypatch):
    path, now = str(tmp_path / "names"), time.time()
    assert b"/c" not in refusals.Blocked(path)
    refusals.Blocked(path).add([b"/a%20b"])
    monkeypatch.setattr(refusals.time, "time", lambda: now + 20)
    refusals.Blocked(path).add([b"/c"])
    refusals.Blocked(path).add([b"/c"])  # it counts already
    assert set(refusals.Blocked(path).names) == {b"/a%20b", b"/c"}
    monkeypatch.setattr(refusals.time, "time", lambda: now + 40)
    assert set(refusals.Blocked(path).names) == {b"/c"}
    monkeypatch.setattr(refusals.time, "time", lambda: now - 40)  # the clock was set back
    assert not refusals.Blocked(path).names


@pytest.mark.parametrize("again", [refusals.waits.BLOCKED_FOR[0] + 1, refusals.waits.BLOCKED_FOR[0] * 2])
def test_what_a_peer_cannot_write_is_tried_less_and_less_often(tmp_path, monkeypatch, again):
    path, now = str(tmp_path / "names"), time.time()
    first, most = refusals.waits.BLOCKED_FOR
    wanted, found = [first, 2 * first, 4 * first, most, most], []
    for seconds in wanted:
        monkeypatch.setattr(refusals.time, "time", lambda now=now: now)
        refusals.Blocked(path).add([b"/a"], unwritten=True)
        refusals.Blocked(path).add([b"/b"])
        found.append(refusals.Blocked(path).names[b"/a"][1])
        assert refusals.Blocked(path).names[b"/b"][1] == first
        now += seconds + again - first
    assert found == [min(seconds, most) for seconds in wanted]
    monkeypatch.setattr(refusals.time, "time", lambda: now + 3 * most)
    refusals.Blocked(path).add([b"/a"], unwritten=True)
    assert refusals.Blocked(path).names[b"/a"][1] == first, "that was long ago"


def test_what_was_noted_by_another_version_counts_no_more(tmp_path):
    (tmp_path / "names").write_bytes(b"%a /a\n" % time.time())
    assert not refusals.Blocked(str(tmp_path / "names")).names


def test_a_peer_tells_of_states_without_their_time():
    reg = b"v1:mtime=1700000000:mode=33188:uid=0:gid=0:type=reg:size=5"
    assert states.as_told(reg) == reg.replace(b"1700000000", b"0")
    assert states.as_told(b"v1:mode=16877:uid=0:gid=0:type=dir") == b"v1:mode=16877:uid=0:gid=0:type=dir"
    assert states.as_told(b"---") == b"---"


def test_what_stands_above_a_path_and_is_no_directory(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "dir/sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("dir")
    top = os.fsencode(tmp_path)

    def above(name):
        found = refusals.no_directory_above(encode(top + name))
        return found and decode(found).removeprefix(top)

    assert above(b"/file/x/y") == b"/file"
    assert above(b"/link/sub/x") == b"/link"
    assert above(b"/dir/sub/x") is None
    assert above(b"/gone/x") is None
    assert above(b"/file") is None


def test_what_has_been_taken_since_the_last_event(tmp_path):
    notes, peers = str(tmp_path), ("10.0.0.2", "10.0.0.3")
    path = os.fsencode(tmp_path / "a b\xff")
    with open(path, "w", encoding="utf-8"):
        pass
    name, state = encode(path), states.stands(path)
    logs = [ledger.Log(tmp_path / peer) for peer in peers]

    def taken(since):
        return ledger.taken(notes, peers, {path: since, path + b".other": since})

    def send(log, state=state):
        log.begin({name: state})
        log.end([name], [])

    before = time.time()
    assert not taken(before), "nobody has"
    send(logs[0])
    assert not taken(before), "only one has"
    send(logs[1])
    after = time.time()
    assert taken(before) == {path}
    assert not taken(after) and not taken(math.inf)
    logs[1].begin({name: state})
    assert not taken(before), "what came of this is not known"
    logs[1].end([], [name])
    assert taken(before) == {path}
    send(logs[0], states.GONE)
    assert not taken(before), "that was another state"
    send(logs[0])
    assert taken(before) == {path}
    os.unlink(path)
    assert not taken(before)
    assert ledger.taken(notes, peers, {}) == set()


def test_what_is_sent_in_place_of_something_else_is_checked_again(tree, tmp_path):
    """It may be gone, and the other be there again, before anybody looks: who made a link is not seen, who wrote is."""
    link, file = tree / b"link:type=reg:", tree.write(b"file")
    os.symlink("a:type=reg:b", link)
    tree.check()
    time.sleep(0.02)  # the kernel's clock ticks
    since = transfer.now()

    def differs(path):
        with tree.database() as database:
            return may_differ(database, encode(path), {encode(path): False}, {}, since)

    assert not differs(link) and not differs(file)
    os.unlink(link)
    tree.write(os.path.basename(link), b"written")
    tree.write(b"file", b"written")
    assert differs(link) and not differs(file)
    os.unlink(file)
    os.symlink("x", file)
    assert differs(file)
