"""
What csync2 says while it serves a peer: to syslog(3), which in its namespace is a socket of the server's.

It is a stream, not a datagram socket (glibc's syslog(3) takes either): a message ends with a NUL, which no path holds,
the kernel keeps what csync2 has said before it was killed, and many messages are heard at once.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct

from csync2lib import storage
from csync2lib.csync2 import custody

#: Where it goes on to.
SYSTEM = "/dev/log"
#: Bytes of a message, at most: a path, and some words. And of what is read of one csync2 at once.
MOST, AT_ONCE = 1 << 14, 1 << 16
#: Processes that are listened to at once: more than the server has.
MOST_OPEN = 1024
#: What syslog(3) puts before a message: facility and level (csync2.c, csync_openlog(): LOG_LOCAL0), the time, by whom.
_HEAD = re.compile(rb"<([0-9]{1,3})>[A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8} csync2\[[0-9]+\]: ?")
#: The level (syslog.h) from which on csync2 only tells how it gets on: it does so for csyncsync alone.
_INFO = 6
#: csync2.c: its last words, which it has said something is enough for.
_FINISHED = b"Finished with 0 errors."
#: daemon.c, csync_daemon_session(), with ``-v``: after it has written a path, and before owner, mode and time follow. A
#: name may hold the same words, and a newline; the name of a peer cannot.
_UPDATED = re.compile(rb"Updated (/.*) from [^ \n]+\.\Z", re.DOTALL)


def updated(said: bytes) -> bytes | None:
    """Given a message of csync2's, return the path that it has received, None if it says something else."""
    found = _UPDATED.match(said)
    return found[1] if found else None


class _Open:
    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.pid: int = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        #: the begin of a message
        self.rest = b""


class Log:
    """Hears what each csync2 says, and passes on to the host's log what an administrator may want to know."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        storage.remove(custody.LOG)
        self.socket.bind(custody.LOG)
        self.socket.listen(MOST_OPEN)
        self.open: list[_Open] = []
        self._system = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    def hear(self) -> tuple[list[tuple[int, bytes]], bool]:
        """``[(process id, message), …]`` since; and whether that is all: a peer may cause as much as it likes."""
        with contextlib.suppress(OSError):
            while len(self.open) < MOST_OPEN:
                self.open.append(_Open(self.socket.accept()[0]))
        said: list[tuple[int, bytes]] = []
        there, self.open, is_all = self.open, [], True
        for one in there:
            is_open, more = self._read(one, said)
            is_all = is_all and not more
            if is_open:
                self.open.append(one)
            else:
                one.socket.close()
        return said, is_all

    def _read(self, one: _Open, said: list[tuple[int, bytes]]) -> tuple[bool, bool]:
        """Take what one csync2 has said. Tells whether it may say more, and whether it has already."""
        try:
            data = one.socket.recv(AT_ONCE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True, False
        except OSError:
            return False, False
        *messages, one.rest = (one.rest + data).split(b"\0")
        for message in messages:
            head = _HEAD.match(message)
            text = message[head.end() :].removesuffix(b"\n") if head else message
            if head:
                said.append((one.pid, text))
            if not head or (int(head[1]) & 7 < _INFO and text != _FINISHED):
                with contextlib.suppress(OSError):
                    self._system.sendto(message, SYSTEM)
        return bool(data) and len(one.rest) <= MOST, len(data) == AT_ONCE

    def close(self) -> None:
        for one in (self.socket, self._system, *(one.socket for one in self.open)):
            one.close()
