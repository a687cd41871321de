"""csync2's server: whom it lets wait."""

import os
import socket

import pytest
from csync2lib import server as server_module
from csync2lib.csync2 import custody
from csync2lib.host import ThisHost


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(custody, "RUN_DIR", str(tmp_path))
    monkeypatch.setattr(custody, "LOG", str(tmp_path / "log"))
    made = server_module.Server(ThisHost("", "web1", str(tmp_path), str(tmp_path / "state"), str(tmp_path)))
    yield made
    for silent in [*made.silent.values()]:
        silent.socket.close()
    made.log.close()


def test_the_host_with_the_most_silent_connections_makes_room(server):
    """Whoever may connect from several hosts takes no place from another one, nor the server's last open file."""
    server.most_silent, connections = 40, []
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listening:
        sources = ["127.0.0.9"] * 3 + [f"127.0.0.{number}" for number in (2, 3, 4)] * 30
        server.members = {*sources}
        for source in sources:
            connections.append(socket.create_connection(listening.getsockname(), 5, (source, 0)))
            server.accept(listening)
    assert len(server.silent) == 40
    found = [silent.source for silent in server.silent.values()]
    assert found.count("127.0.0.9") == 3
    assert {found.count(f"127.0.0.{number}") for number in (2, 3, 4)} <= {12, 13}
    for connection in connections:
        connection.close()


def test_a_stranger_is_not_let_in(server, capsys):
    server.members = {"127.0.0.2"}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connection = socket.create_connection(listening.getsockname(), 5, ("127.0.0.3", 0))
        server.accept(listening)
        connection.close()
    assert not server.silent
    assert "127.0.0.3 is no host of any group here" in capsys.readouterr().err


def test_what_csync2_says_goes_on_to_the_log_and_its_copies_go(server, tmp_path, monkeypatch):
    include = tmp_path / "include"
    include.mkdir()
    for name in ("file", ".file.aB3dE6"):
        (include / name).write_text("x")
    server.includes = [os.fsencode(include)]
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as system,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as csync2,
    ):
        system.bind(str(tmp_path / "system"))
        monkeypatch.setattr("csync2lib.csync2.log.SYSTEM", str(tmp_path / "system"))
        said = "I/O Error 'File exists' while renaming tmp file to to be patched file in rsync-patch: "
        said += f"{include}/file\n"
        csync2.connect(custody.LOG)
        for text in (said.replace("patched", "sent"), said):
            csync2.sendall(b"<132>Nov 30 00:17:01 csync2[7]: " + text.encode() + b"\0")
        server.hear_csync2()
        assert said.encode() in b"".join(system.recv(4096) for _ in range(2))
    assert os.listdir(include) == ["file"]
