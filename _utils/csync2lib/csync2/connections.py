"""Who is connected to csync2's server on this host."""

from __future__ import annotations

import os
import time

#: Where systemd has a directory for each connection (csync2@.service.conf of the states); csync2.c: char *csync_port;
#: and the states of a connection that csync2 has not closed: established, close wait.
CONNECTIONS = "/run/csync2"
PORT = 30865
CONNECTED = (b"01", b"08")


def await_silence(seconds: float) -> None:
    """Wait until nobody sends to this host, up to so many seconds: what csync2 has half made here is no change."""
    until = time.monotonic() + seconds
    while is_connected() and time.monotonic() < until:
        time.sleep(0.05)


def is_connected() -> bool:
    """
    Tell whether somebody is connected to csync2's port here (also if that cannot be known).

    The list of all connections is long on a busy host, so it is read only where systemd does not keep the short one.
    """
    try:
        return bool(os.listdir(CONNECTIONS))
    except OSError:
        pass
    known, port = False, b":%04X" % PORT
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(path, "rb") as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        known = True
        for fields in (line.split(None, 4) for line in lines if port in line):
            if fields[1].endswith(port) and fields[3] in CONNECTED:
                return True
    return not known
