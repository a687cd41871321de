"""
Names of files that hold csync2's own words, sent and compared by two real csync2s: none of them is taken for a message.

The other host is a csync2 on this one that sees another tree at the same place.
"""

import os
import shutil

import pytest
from csync2lib.csync2 import command
from csync2lib.csync2.names import encode, printable
from csync2lib.csync2.output import UpdateOutput
from csync2lib.errors import CommandError
from csync2lib.join.compare import compare
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pair import THERE, pair

__all__ = ["pair"]


#: What csync2 says (update.c, conn.c, csync2.c, rsync.c), as a whole and cut into pieces.
WORDS = [
    *(b"Updating ", b"Deleting ", b" on 127.0.0.3 ...", b" on 127.0.0.2 ...", b"Marking file as dirty: "),
    *(b"ERROR: Connection to remote host `127.0.0.3' failed.", b"ERROR: Connection to ", b"SSL: ", b"Peer did "),
    *(
        b"File stays in dirty state. Try again later...",
        b"File is already up to date on peer.",
        b"missing parent dir : ",
    ),
    *(b"Finished with 0 errors.", b"Finished with 9 errors.", b"Finished with ", b"Connection closed."),
    *(b">>> PEER:  ", b">>> PEER:  ---", b">>> LOCAL: v1", b"File is different on peer (rsync sig).", b"---"),
    *(b"Fetched tuple from peer: ", b" [v1:mode=16877:uid=0:gid=0:type=dir]", b" [", b"]", b"v1:type=sock"),
    *(b"L\t127.0.0.2\t127.0.0.3\t", b"R\t127.0.0.2\t127.0.0.3\t", b"X\t127.0.0.2\t127.0.0.3\t", b"OK (cmd_finished)."),
    *(b"response from peer(", b"): 127.0.0.3 [0] <- No space left on device", b"ERROR from peer: ", b"mkstemp "),
    *(b"\n", b"\n", b"\r", b"\n\n", b" ", b"\t", b"%", b"%0A", b"\\", b"\xff", b"\xe2\x80\xa8", b"a", b"b", b"/", b"'"),
]


def fits(name):
    return all(part not in (b"", b".", b"..") and len(part) < 200 for part in name.split(b"/"))


NAMES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=7).map(b"".join).filter(fits)


def are_together(names):
    """No name is a directory of another one."""
    return not any(other.startswith(name + b"/") for name in names for other in names)


#: Some that a peer was cut off by, or that hid another file's fate.
EVIL = {
    b"a on 127.0.0.3 ...\nERROR: Connection to b",
    b"a on 127.0.0.3 ...\nSSL: x",
    b"b on 127.0.0.3 ...\nFile stays in dirty state. Try again later...\nFinished with 7 errors.\n",
    b"c\n>>> PEER:  ---\n>>> LOCAL: v1\n",
    b"d\nFetched tuple from peer: e [v1:mode=16877:uid=0:gid=0:type=dir]\nR\t127.0.0.2\t127.0.0.3\t",
    b"e on 127.0.0.3 ...\nmissing parent dir : f",
}


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(names=st.sets(NAMES, min_size=1, max_size=6).filter(are_together))
@example(names=EVIL)
def test_all_arrive_and_go_whatever_they_are_called(pair, names):
    pair.forget()
    for name in names:
        pair.write(name, name)
    pair.check()
    assert pair.send() == {THERE: ""}
    assert pair.left() == set()
    assert pair.tree(pair.there) == pair.tree(pair.include)
    assert names <= set(pair.tree(pair.there))
    config = pair.group.config
    assert compare(pair.group, config, THERE) == (set(), set(), set())
    for name in {name.split(b"/")[0] for name in names}:
        path = os.path.join(os.fsencode(pair.include), name)
        (shutil.rmtree if os.path.isdir(path) else os.unlink)(path)
    pair.check()
    assert pair.send() == {THERE: ""}
    assert pair.left() == set()
    assert pair.tree(pair.there) == {}


@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(names=st.sets(NAMES.filter(lambda name: b"/" not in name), min_size=3, max_size=6))
@example(names=EVIL)
def test_a_conflict_is_one_of_that_file_alone(pair, names):
    pair.forget()
    refused, only_here, *_ = sorted(names)
    for name in names - {only_here}:
        pair.write(name, b"first")
    pair.check()
    pair.send()
    for name in names:
        pair.write(name, b"of this host")
    pair.write(refused, b"of the other one", pair.there)
    pair.write(b"only there", b"", pair.there)
    pair.check_there()
    pair.check()
    path = os.path.join(os.fsencode(pair.include), refused)
    found = compare(pair.group, pair.group.config, THERE)
    inside = {os.path.join(os.fsencode(pair.include), name) for name in names}
    assert found.only_here == {os.path.join(os.fsencode(pair.include), only_here)}
    assert found.only_there == {os.path.join(os.fsencode(pair.include), b"only there")}
    assert found.different == inside - found.only_here
    assert pair.send() == {THERE: ""}
    assert pair.left() == {path}
    assert pair.tree(pair.there) == {**dict.fromkeys(names, b"of this host"), refused: b"of the other one"} | {
        b"only there": b""
    }


def test_each_name_is_read_as_it_is_and_an_error_is_one_line(pair):
    pair.forget()
    for name in EVIL:
        pair.write(name)
    pair.check()
    for name in os.listdir(os.fsencode(pair.include)):
        os.unlink(os.path.join(os.fsencode(pair.include), name))
    messages = command.run("data", "-v", "-u", "-P", THERE, fine=(0, 1))
    told = UpdateOutput(messages, THERE)
    inside = {encode(os.path.join(os.fsencode(pair.include), name)) for name in EVIL}
    assert inside <= {*told.names} and all(told.deleted[name] for name in inside)
    assert not told.unreachable and not told.lacking and not told.is_cut_off
    with pytest.raises(CommandError) as raised:
        command.run("data", "-v", "-u", "-P", THERE, fine=(7,))
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"a\nb\x1b[2J\x7f", "a\\x0ab\\x1b[2J\\x7f"),
        (b"a\\x0a", "a\\\\x0a"),
        ("ä\u2028\u202e".encode() + b"\xff", "ä\\xe2\\x80\\xa8\\xe2\\x80\\xae\\xff"),
    ],
)
def test_what_is_shown_is_one_line_and_tells_all(raw, shown):
    assert printable(raw) == shown


def test_the_bounds_of_messages_are_kept_up_to_the_longest_name(pair):
    """csync2 writes a message at once, however long a name is."""
    pair.forget()
    parts = [b"\nSSL: %d " % number + b"x" * 200 for number in range(16)]
    name = b"/".join(parts)
    pair.write(name)
    pair.check()
    assert pair.send() == {THERE: ""}
    assert pair.left() == set()
    assert pair.tree(pair.there) == pair.tree(pair.include)
