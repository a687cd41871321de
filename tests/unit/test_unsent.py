"""A host joins anew: what it lacks, and others have, it has deleted, or never had."""

import os
import shutil

import pytest
from csync2lib.csync2.database import Database
from csync2lib.csync2.kept import copied_database
from csync2lib.join.join import deleted_here
from pair import pair

__all__ = ["pair"]

NAMES = (b"here/file", b"here/sub/file", b"gone/file", b"gone/sub/file", b"file", b"named", b"place/file")


@pytest.fixture(params=[True, False], ids=["with a copy", "without one"])
def host(pair, request):
    """It had some files, of which some are gone; there is a directory that it has made."""
    pair.forget()
    with pair.group.open_database(write=True) as database:
        database.set_state(Database.ESTABLISHED)
    for name in NAMES:
        pair.write(name)
    pair.check()
    copy = copied_database(pair.group.directory, pair.group.database)
    if request.param:
        with pair.group.open_database() as database:
            database.backup(copy)
    yield pair, request.param
    if request.param:
        os.unlink(copy)


def test_only_what_was_here_was_deleted_here(host):
    pair, has_copy = host
    for name in NAMES:
        os.unlink(os.path.join(os.fsencode(pair.include), name))
    for directory in ("gone", "place"):
        shutil.rmtree(pair.include / directory)
    (pair.include / "place").write_text("a file, where a directory was")

    def path(name):
        return os.path.join(os.fsencode(pair.include), name)

    unsent = {path(b"here"): True, path(b"gone"): True, path(b"named"): True, path(b"place"): True}
    there = {path(name) for name in (*NAMES, b"here/new", b"here/sub/new", b"gone/new", b"other")}
    surely = {path(name) for name in (b"gone/file", b"gone/sub/file", b"gone/new", b"named", b"place/file")}
    known = {path(name) for name in (b"here/file", b"here/sub/file")}
    assert deleted_here(pair.group, there, unsent) == surely | (known if has_copy else set())
