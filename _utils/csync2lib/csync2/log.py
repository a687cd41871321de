"""What csync2 says while it serves a peer: to syslog(3), which in its namespace is a socket of the server's."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from csync2lib import storage
from csync2lib.csync2 import custody

#: Where it goes on to.
SYSTEM = "/dev/log"
#: Bytes of a message, at most: a path, and some words.
MOST = 1 << 14
#: Messages that are heard at once.
AT_ONCE = 50


class Log:
    """Hears what csync2 says, and passes it on to the host's log."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        storage.remove(custody.LOG)
        self.socket.bind(custody.LOG)

    def hear(self) -> Iterator[bytes]:
        """Yields messages, some at a time: a peer may cause as many as it likes."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(AT_ONCE):
                said = self.socket.recv(MOST)
                with contextlib.suppress(OSError):
                    self.socket.sendto(said, SYSTEM)
                yield said
