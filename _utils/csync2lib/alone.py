"""
A push that no master has asked for, as a program of its own: Salt takes a second to begin.

systemd's units start it (csyncsync-push@.service, csyncsync-full@.service). There is nobody to tell of it.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Sequence

from csync2lib.errors import CsyncsyncError
from csync2lib.group import Group
from csync2lib.host import ThisHost
from csync2lib.join.record import record
from csync2lib.push.push import Asked, push


def main(arguments: Sequence[str]) -> None:
    """The program: the arguments are a minion id, the directory of csync2's configs, a group, and perhaps "full"."""
    minion, system, group, *more = arguments
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    host = ThisHost(minion, socket.gethostname().lower(), system)
    try:
        result = push(Group(group, host), Asked(full="full" in more), record, lambda tag, data: None)
    except CsyncsyncError as err:
        sys.exit(str(err))
    if result.comment:
        print(f"{group}: {result.state}: {result.comment}")
