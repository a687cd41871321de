"""A push was killed while it sent: what the peer has of that is completed, and what somebody did there since is his."""

import os
import time

import pytest
from csync2lib.csync2.database import Database
from csync2lib.csync2.names import encode
from csync2lib.push import ledger
from pair import THERE, pair

__all__ = ["pair"]

NAMES = (b"old", b"new", b"dir/new", b"sp ace\n")


@pytest.fixture
def interrupted(pair):
    """All of NAMES came to the peer, and this host does not know; some of them it had in an older version before."""
    pair.forget()
    pair.group.forget("sent/" + THERE, "sent/.before")
    with pair.group.open_database(write=True) as database:
        database.set_state(Database.ESTABLISHED)
    pair.write(b"old", b"before")
    pair.check()
    pair.send()
    for name in NAMES:
        pair.write(name, b"other")
    pair.check()
    paths = [os.path.join(os.fsencode(pair.include), name) for name in NAMES]
    ledger.PeerLedger(pair.group.path("sent"), THERE).begin(encode(path) for path in paths)
    with pair.group.open_database() as database:
        dirty = database.dirty()
    pair.send()
    assert pair.left() == set()
    ledger.PeerLedger(pair.group.path("sent"), THERE).begin(encode(path) for path in paths)
    with pair.group.open_database(write=True) as database:
        database.mark([path for path, _, _ in dirty], pair.group.config.address, [THERE])
    return pair


def there(pair, name):
    path = os.path.join(os.fsencode(pair.there), name)
    with open(path, "rb") as file:
        return file.read()


def test_what_nobody_touched_is_sent_again(interrupted):
    interrupted.send()
    assert interrupted.left() == set()
    assert {there(interrupted, name) for name in NAMES} == {b"other"}


@pytest.mark.parametrize("name", NAMES)
def test_what_somebody_has_deleted_there_does_not_come_back_by_force(interrupted, name):
    os.unlink(os.path.join(os.fsencode(interrupted.there), name))
    interrupted.check_there()
    interrupted.send()
    assert not os.path.lexists(os.path.join(os.fsencode(interrupted.there), name))
    assert {os.path.basename(path) for path in interrupted.left()} == {os.path.basename(name)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("later", [2, 50])
def test_what_somebody_has_written_there_is_a_conflict_though_it_has_the_same_size(interrupted, name, later):
    interrupted.write(name, b"THEIR", interrupted.there)
    now = time.time() + later
    os.utime(os.path.join(os.fsencode(interrupted.there), name), (now, now))
    interrupted.check_there()
    interrupted.send()
    assert there(interrupted, name) == b"THEIR"
