"""
csync2 in custody: it runs as a user of its own, in a mount namespace that holds what it needs and nothing else.

The user tells what is csync2's: nobody else has its number, so what belongs to it is not finished. The namespace is
where paths end: csync2 goes by paths, and any user who can write in an include could lead it elsewhere by a symlink. It
is made by the server, which all connections come to (``server``), and entered by every csync2 that this host starts.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Collection, Iterator
from typing import NamedTuple

from csync2lib import storage
from csync2lib.csync2.namespace import is_below
from csync2lib.errors import CommandError

#: The number of csync2's user and group, the same on all hosts: files are sent with their owner's number, and no host
#: may have another user's files belong to csync2. systemd leaves 60578 to 61183 to nobody (systemd.io/UIDS-GIDS); no
#: distribution hands them out.
UID = 60865
#: What csync2 keeps of root's rights (linux/capability.h has the numbers): it sets owners, modes and times, and makes
#: device nodes.
CAPABILITIES = {"chown": 0, "dac_override": 1, "dac_read_search": 2, "fowner": 3, "fsetid": 4, "mknod": 27}
#: Where csyncsync keeps what is worth nothing after a reboot.
RUN_DIR = "/run/csyncsync"
#: In it, all that csync2 may write in: where it runs, with a database for each run, and where syslog(3) writes in the
#: namespace, a socket of the server's.
OF_CSYNC2 = f"{RUN_DIR}/csync2"
RUNS, LOG = f"{OF_CSYNC2}/runs", f"{OF_CSYNC2}/log"
#: A link to the namespace, and what the server says of it (Notice).
NAMESPACE, NOTICE = f"{RUN_DIR}/namespace", f"{RUN_DIR}/custody.json"
#: A directory with the number of each csync2 that serves a peer.
SERVING = f"{RUN_DIR}/serving"
#: There if the pillar says ``confine: false``. Beside the groups' directories, whose names have no dot.
UNCONFINED = "/var/lib/csyncsync/csync2.unconfined"
#: Seconds that csync2 waits for its database, at least (its own is 12): it gives up at most 6 s later (db.c), and then
#: nobody knows what it has just done.
LOCK_TIMEOUT = 60
#: Seconds of one of csync2's commands, as a rule. Seconds within which it has recorded what it has done to a path, on a
#: busy host; and if it has to wait for its database, with each of the statements that it takes.
COMMAND, RECORDED, RECORDED_LATE = 0.05, 2.0, 3 * (LOCK_TIMEOUT + 7.0)
#: Seconds of one sleep of csync2's, and something more: it also makes way for others so, at times (db.c).
SLEEP = 1.2
#: The numbers of the system calls in which a process sleeps: x86-64's, and arm64's (asm/unistd.h).
SLEEPS = (35, 230, 101, 115)
#: Seconds to wait for the server to note what a csync2 that has died did not record.
NOTED = 1.0
#: What the kernel says after the name of a file that somebody has open, and that was deleted (proc(5)).
DELETED = " (deleted)"
#: The server's unit, which the states bring.
UNIT = "/etc/systemd/system/csyncsync-server.service"


class Notice(NamedTuple):
    """
    What the server says.

    pid
        The server's process.
    shows
        What the namespace shows, as ``confinement.of_host()`` has it.
    problem
        Why there is none, or why nobody can connect ("" if all is well).
    """

    pid: int
    shows: str
    problem: str


def notice() -> Notice | None:
    """What the server says, None if there has been none since the host booted."""
    try:
        return Notice(**json.loads(storage.read(NOTICE) or "{}"))
    except (OSError, TypeError, ValueError):
        return None


def problem() -> str:
    """Why csync2 cannot run, or cannot be reached, on this host, and what to do about it ("" if it can)."""
    said = notice()
    if said is None or not os.path.exists(f"/proc/{said.pid}"):
        how = "systemctl start csyncsync-server" if os.path.exists(UNIT) else "state.apply csyncsync on this host"
        return f"csync2's server does not run: {how}"
    return said.problem


def serving(database: str) -> list[str]:
    """
    The process ids of csync2s of this host that serve a peer, and have got so far that they have opened this database;
    or may have, and are dead, and the server has not seen yet what they did not record.
    """
    with contextlib.suppress(OSError):
        return [pid for pid in os.listdir(SERVING) if _is_dead(pid) or has_open(pid, database)]
    return []


def awaits_database(pid: str) -> bool:
    """
    Tell whether a csync2 that serves a peer sleeps, as it does while somebody else has locked its database (db.c): what
    it has just done to a path it has neither recorded nor said.
    """
    if _syscall(pid)[0] in SLEEPS:
        return True
    with contextlib.suppress(OSError), open(f"/proc/{pid}/wchan", encoding="ascii") as file:
        return "nanosleep" in file.read()
    return False


def unrecorded_for(database: str, roots: Collection[bytes]) -> float:
    """
    For how many seconds csync2 may not have recorded what it did to a path below a group's includes, not even in a
    transaction that it has open: 0.0 if each that serves a peer waits for that, or reads a file there, at some time
    from now on.
    """
    began, busy, late = time.monotonic(), serving(database), False
    while busy := [pid for pid in serving(database) if pid in busy and not _has_recorded(pid, roots)]:
        late = late or any(awaits_database(pid) or _is_dead(pid) for pid in busy)
        if time.monotonic() - began >= (SLEEP if late else COMMAND):
            return RECORDED_LATE if late else RECORDED
        time.sleep(0.001)
    return 0.0


def _has_recorded(pid: str, roots: Collection[bytes]) -> bool:
    """
    Tell whether it reads from its connection, or writes the answer: recv(0, buffer, …). Or it reads a file: it has
    closed that before it changes anything.
    """
    number, first, buffer = _syscall(pid)
    if number >= 0 and first in (0, 1) and buffer:
        return True
    files = ((handle, os.fsencode(one)) for handle, one in descriptors(pid) if not one.endswith(DELETED))
    return any(is_below(one, root) and _is_read(pid, handle) for handle, one in files for root in roots)


def _syscall(pid: str) -> tuple[int, int, int]:
    """The number of the system call that a process waits in, and its first arguments; (-1, 0, 0) if it does not."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/syscall", encoding="ascii") as file:
        number, first, second, *_ = file.read().split()
        return int(number), int(first, 16), int(second, 16)
    return -1, 0, 0


def _is_read(pid: str, handle: str) -> bool:
    """Tell whether a process has a file open only to read it."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/fdinfo/{handle}", encoding="ascii") as file:
        return next(int(line.split()[1], 8) for line in file if line.startswith("flags:")) & os.O_ACCMODE == os.O_RDONLY
    return False


def end_all() -> None:
    """Have the server end all connections; what peers were sending they send again."""
    if said := notice():
        with contextlib.suppress(ProcessLookupError):
            os.kill(said.pid, signal.SIGUSR1)  # server.end_all()


def await_noted() -> None:
    """Wait until the server has noted of each csync2 that is dead what it did not record."""
    until = time.monotonic() + NOTED
    with contextlib.suppress(OSError):
        while any(map(_is_dead, os.listdir(SERVING))) and time.monotonic() < until:
            time.sleep(0.01)


def _is_dead(pid: str) -> bool:
    try:
        return not os.listdir(f"/proc/{pid}/fd")  # a zombie has none
    except FileNotFoundError:
        return True


def has_open(pid: int | str, ends: str) -> bool:
    """Tell whether a process has a file open whose path ends so."""
    return any(one.endswith(ends) for _, one in descriptors(pid))


def descriptors(pid: int | str) -> Iterator[tuple[str, str]]:
    """The descriptors of a process, and what they stand for, as the kernel names it; none if it is gone."""
    directory = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for handle in os.listdir(directory):
            with contextlib.suppress(OSError):  # it is closed by now, or its path is too long
                yield handle, os.readlink(f"{directory}/{handle}")


class Entrance:
    """
    A way into custody, for one command: use it as a context manager.

    Raises CommandError if csync2 is to be confined, and cannot be.
    """

    def __init__(self) -> None:
        self.handle = -1

    def __enter__(self) -> Entrance:
        if not os.path.exists(UNCONFINED):
            try:
                self.handle = os.open(NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as err:
                raise CommandError(f"csync2 is not run unconfined: {problem() or err}") from err
        return self

    def __exit__(self, *_: object) -> None:
        if self.handle >= 0:
            os.close(self.handle)

    @property
    def handles(self) -> tuple[int, ...]:
        """The descriptors that the command's process has to inherit."""
        return (self.handle,) if self.handle >= 0 else ()

    def command(self, *command: str | bytes, cwd: str = "/") -> list[str | bytes]:
        """The command line that runs a command as csync2's user, in its namespace, in a directory there."""
        there: list[str | bytes] = [] if cwd == "/" else ["env", "-C", cwd]
        entered: list[str | bytes] = []
        if self.handle >= 0:
            entered = ["nsenter", f"--mount=/proc/self/fd/{self.handle}", "--"]
        return [*entered, *there, *_as_user(), *command]


def _as_user() -> list[str]:
    """setpriv(1): csync2's user, with what this process has of the rights: a container may lack some."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        had = int(next(line for line in file if line.startswith("CapBnd:")).split()[1], 16)
    rights = ",".join(["-all", *(f"+{name}" for name, number in CAPABILITIES.items() if had >> number & 1)])
    return [
        *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs"),
        *(f"--inh-caps={rights}", f"--ambient-caps={rights}", f"--bounding-set={rights}", "--"),
    ]
