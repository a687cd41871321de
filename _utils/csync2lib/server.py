"""
csync2's server on this host: accepts connections, and gives each to a csync2 of its own, in custody.

csync2 asks who somebody is late, and waits for the answer for as long as it takes. So what is no host of a group is not
let in at all, and who has not said within seconds which group is meant is cut off. Started by systemd
(csyncsync-server.service) as a program (__main__.py).
"""

from __future__ import annotations

import collections
import contextlib
import errno
import hashlib
import ipaddress
import json
import math
import os
import pathlib
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from csync2lib import confinement, storage
from csync2lib.csync2 import custody, namespace, unfinished
from csync2lib.csync2.command import PORT
from csync2lib.csync2.log import SYSTEM, Log, updated
from csync2lib.errors import CommandError
from csync2lib.host import ThisHost
from csync2lib.received import Received

#: An empty directory, in which a namespace is made.
PLACE = "/run/csyncsync-namespace"
#: What a peer's csync2 says first, with TLS and without (csync2.c, main()).
FIRST = (b"SSL\n", b"CONFIG ")
#: Connections of one host at once: such as have said nothing yet; with a csync2; of these, such as have not begun, that
#: is, not said which group they mean.
MOST_SILENT, MOST, MOST_NOT_BEGUN = 256, 128, 64
#: Connections of all hosts that have said nothing yet, of the open files that a process may have.
SILENT_SHARE = 0.5
#: Files that the server may have open, if the host lets it.
OPEN_FILES = 8192
#: Seconds in which a connection has to begin, and after which it may have to make room for another one.
BEGIN_WITHIN, ROOM_AFTER = 5.0, 1.0
#: Seconds between two looks at the host's groups and mounts, and at connections that have not begun; and between two
#: times that what csync2 says is heard: to be woken for each message would take longer than to hear it.
LOOK, HEAR = 1.0, 0.02
#: Addresses of no member that are named in the log.
MOST_REFUSED = 100
#: Connections that the kernel keeps waiting.
BACKLOG = 1024


class Connection:
    """A connection, and its csync2."""

    def __init__(self, source: str, process: subprocess.Popen[bytes]) -> None:
        self.source, self.process = source, process
        self.since = time.monotonic()
        self.begun = False
        #: how much csync2 has read, and since when it has read no more
        self.read, self.idle_since = 0, self.since

    def look(self, now: float) -> None:
        """Find out what became of it: csync2 opens a group's database when it knows the group."""
        self.begun = self.begun or custody.has_open(self.process.pid, ".db3")
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{self.process.pid}/io", encoding="ascii") as file:
            read = int(file.readline().split()[1])
            if read != self.read:
                self.read, self.idle_since = read, now


class Silent(NamedTuple):
    """A connection on which nothing was said yet."""

    source: str
    socket: socket.socket
    since: float


class Server:
    """Listens, and keeps the namespace that csync2 runs in."""

    def __init__(self, host: ThisHost) -> None:
        self.host = host
        self.log, self.received = Log(), Received(host)
        self.includes: list[bytes] = []
        #: when csync2 had last said nothing that was not heard
        self.heard = time.time()
        self.listening: dict[str, socket.socket] = {}
        self.silent: dict[int, Silent] = {}
        self.connections: list[Connection] = []
        #: the namespace's descriptor (-1: none), what it shows, and why there is none
        self.namespace, self.shows, self.problem = -1, "", "csync2's server has only just begun"
        #: the addresses of all hosts of all groups, and some of others who tried
        self.members: set[str] = set()
        self.refused: set[str] = set()
        self.told: custody.Notice | None = None
        self.looked = float("-inf")
        self.most_silent = int(resource.getrlimit(resource.RLIMIT_NOFILE)[0] * SILENT_SHARE)

    # ---- What it serves

    def look(self) -> None:
        """
        Find out from the host's groups and mounts who may come, where to listen, and what csync2 may see, if it is
        possible; whatever asks for it, the server goes on.
        """
        self.looked = time.monotonic()
        try:
            configs = [*self.host.configs().values()]
            self.members = {_plain(host["address"]) for config in configs for host in config.get("hosts", {}).values()}
            self.includes = [os.fsencode(path) for config in configs for path in config.get("include", ())]
            # On the groups' own addresses if each of them sets ``address``, else on all ("").
            own = all(config.get("address_wanted") for config in configs)
            unheard = self._listen({config["address"] if own else "" for config in configs})
            self._confine()
            self._tell(self.problem or unheard)
        except OSError as err:
            _log(f"cannot look at this host's groups: {err}")

    def _confine(self) -> None:
        """Make the namespace anew if it does not show what it should."""
        if os.path.exists(custody.UNCONFINED):
            self.problem = ""
            return
        wanted, text = confinement.of_host(self.host)
        if text == self.shows and not self.problem:
            return
        os.makedirs(PLACE, mode=0o700, exist_ok=True)
        try:
            made = namespace.make(wanted, PLACE, {SYSTEM: custody.LOG})
        except OSError as err:
            made, self.problem = -1, _why_not(err)
        else:
            self.problem = ""
        before, self.namespace, self.shows = self.namespace, made, text
        link = f"{custody.NAMESPACE}.new"
        storage.remove(link)
        if made >= 0:
            os.symlink(f"/proc/{os.getpid()}/fd/{made}", link)
            os.replace(link, custody.NAMESPACE)
        else:
            storage.remove(custody.NAMESPACE)
        if before >= 0:
            os.close(before)

    def _tell(self, problem: str) -> None:
        said = custody.Notice(os.getpid(), self.shows, problem)
        if said != self.told:
            if problem and (self.told is None or problem != self.told.problem):
                _log(problem)
            storage.write(custody.NOTICE, json.dumps(said._asdict()), durable=False)
            self.told = said

    def _listen(self, addresses: set[str]) -> str:
        """Listen on these addresses, and on no others. Returns why that cannot be done ("" if it is)."""
        for address in {*self.listening} - addresses:
            self.listening.pop(address).close()
        problem = ""
        for address in sorted(addresses - {*self.listening}):
            try:
                self.listening[address] = _listening(address)
            except OSError as err:
                problem = f"csync2's port {PORT} on {address or 'all addresses'}: {err.strerror}"
                if err.errno == errno.EADDRINUSE:
                    problem += f", by {_holder()}: end that, and disable it"
        return problem

    # ---- Connections

    def accept(self, listening: socket.socket) -> None:
        """Wait for the first words of a member's connection, and close any other."""
        try:
            connection, address = listening.accept()
        except OSError:
            return  # it is gone already
        source = _plain(address[0])
        if source not in self.members:
            connection.close()
            if source not in self.refused and len(self.refused) < MOST_REFUSED:
                # Perhaps a host that comes from another address than it should: that is said once.
                self.refused.add(source)
                _log(f"{source} is no host of any group here: it is not let in")
            return
        self.silent[connection.fileno()] = Silent(source, connection, time.monotonic())
        others = [silent for silent in self.silent.values() if silent.source == source]
        if len(others) > MOST_SILENT:
            self._close(others[0])
        elif len(self.silent) > self.most_silent:  # of who has the most
            sources = collections.Counter(silent.source for silent in self.silent.values())
            [(most, _)] = sources.most_common(1)
            self._close(next(silent for silent in self.silent.values() if silent.source == most))

    def hear(self, silent: Silent) -> None:
        """Give a connection on which something was said to a csync2, or close it."""
        try:
            said = silent.socket.recv(max(map(len, FIRST)), socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if any(said.startswith(first) for first in FIRST) and self._make_room(silent.source):
            self._confine()
            try:
                self._start(silent.socket, silent.source)
            except (CommandError, OSError) as err:
                _log(f"cannot start csync2: {err}")
        elif said and any(first.startswith(said) for first in FIRST):
            return
        self._close(silent)

    def _close(self, silent: Silent) -> None:
        del self.silent[silent.socket.fileno()]
        silent.socket.close()

    def _start(self, connection: socket.socket, source: str) -> None:
        with custody.Entrance() as entrance:
            # What it tells (-v) is heard in custody only: outside, it would go to the host's own log.
            told = ["-v"] if entrance.handles else []
            process = subprocess.Popen(
                entrance.command("csync2", "-i", "-l", *told),
                stdin=connection.fileno(),
                stdout=connection.fileno(),
                pass_fds=entrance.handles,
                cwd="/",
            )
        self.connections.append(Connection(source, process))
        os.mkdir(os.path.join(custody.SERVING, str(process.pid)))

    def _make_room(self, source: str) -> bool:
        """Have room for one more connection of a host. Tells whether there is some."""
        now = time.monotonic()
        there = [connection for connection in self.connections if connection.source == source]
        new = [connection for connection in there if not connection.begun]
        if len(new) < MOST_NOT_BEGUN and len(there) < MOST:
            return True
        for connection in there:
            connection.look(now)
        new = [connection for connection in there if not connection.begun and now - connection.since > ROOM_AFTER]
        if len(new) >= MOST_NOT_BEGUN:
            min(new, key=lambda connection: connection.since).process.kill()
            return True
        if len(there) < MOST:
            return True
        idle = min(there, key=lambda connection: connection.idle_since)
        if now - idle.idle_since <= ROOM_AFTER:
            return False
        idle.process.kill()
        return True

    def end_all(self) -> None:
        """End all connections: a key or a certificate has changed, with which they began."""
        for connection in self.connections:
            connection.process.kill()

    def reap(self) -> None:
        """See which csync2 has ended. One that was killed, or has failed, may not have recorded what it did."""
        ended = [connection for connection in self.connections if connection.process.poll() is not None]
        if not ended:
            return
        while not self.hear_csync2():  # all that these have said is there by now
            pass
        for connection in ended:
            self.connections.remove(connection)
            self.received.ended(connection.process.pid, recorded=not connection.process.returncode)
            os.rmdir(os.path.join(custody.SERVING, str(connection.process.pid)))

    def hear_csync2(self) -> bool:
        """
        Take note of what csync2 says: which paths it receives; and a file that it could not give its name is of no use,
        and it makes more. Tells whether that was all.
        """
        now = time.time()
        messages, is_all = self.log.hear()
        for pid, text in messages:
            if path := updated(text):
                self.received.note(pid, path)
                continue
            path = unfinished.not_renamed(text)
            if path and any(namespace.is_below(path, include) for include in self.includes):
                unfinished.delete_not_renamed(path, self.heard)
        self.received.write()
        if is_all:
            self.heard = now
        return is_all

    def cut_off(self) -> None:
        """End what has not begun in time."""
        now = time.monotonic()
        for connection in self.connections:
            connection.look(now)
            if not connection.begun and now - connection.since > BEGIN_WITHIN:
                connection.process.kill()
        for silent in [silent for silent in self.silent.values() if now - silent.since > BEGIN_WITHIN]:
            self._close(silent)

    # ---- Its life

    def serve(self) -> None:
        """Serve until somebody ends this process."""
        signals, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        try:
            with open("/proc/self/mountinfo", "rb") as mounted:
                while self._serve_once(signals, mounted):
                    pass
        finally:
            self.end_all()
            for connection in self.connections:
                connection.process.wait()
            self.reap()

    def _serve_once(self, signals: int, mounted: Any) -> bool:
        """Tells whether to go on."""
        poll = select.poll()
        sockets = {listening.fileno(): listening for listening in self.listening.values()}
        for handle in (signals, *sockets, *self.silent):
            poll.register(handle, select.POLLIN)
        poll.register(mounted, select.POLLPRI)
        now = time.monotonic()
        if now - self.looked >= LOOK:
            self.look()
            self.cut_off()
        told = b""
        until = min(self.looked + LOOK, now + HEAR if self.connections else math.inf)
        for handle, _ in poll.poll(max(0.0, until - time.monotonic()) * 1000):
            if handle == signals:
                told = os.read(signals, 4096)
            elif handle in sockets:
                self.accept(sockets[handle])
            elif handle in self.silent:
                self.hear(self.silent[handle])
            elif handle == mounted.fileno():
                self.look()
        self.hear_csync2()
        self.reap()
        if signal.SIGUSR1 in told:
            self.end_all()
        if signal.SIGHUP in told:
            self.look()
        return signal.SIGTERM not in told


# --- Addresses -------------------------------------------------------------------------------------------


def _listening(address: str) -> socket.socket:
    family = socket.AF_INET if address and ":" not in address else socket.AF_INET6
    if not address and not os.path.exists("/proc/net/if_inet6"):
        family = socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND (linux/in.h): the address may come later
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(address)))
        sock.bind((address, PORT))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _plain(address: str) -> str:
    """An address as the configs have it: a socket of IPv6 has IPv4's inside its own."""
    found = ipaddress.ip_address(address.partition("%")[0])
    return str(getattr(found, "ipv4_mapped", None) or found)


def _holder() -> str:
    """Which process has csync2's port, in words."""
    inodes = set()
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/net/{name}", encoding="ascii") as file:
            for line in file:
                fields = line.split()
                if fields[1].endswith(f":{PORT:04X}") and fields[3] == "0A":  # listening
                    inodes.add(f"socket:[{fields[9]}]")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if not inodes.isdisjoint(name for _, name in custody.descriptors(pid)):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", errors="backslashreplace") as file:
                return f"process {pid} ({file.read().strip()!r})"
    return "another process"


def _why_not(err: OSError) -> str:
    where = f" ({os.fsdecode(err.filename)})" if err.filename else ""
    return (
        f"csync2 cannot be confined on this host: {err.strerror}{where}; it needs Linux 5.10, and the right to mount."
        " To run it unconfined all the same, set csyncsync:confine to false in the pillar"
    )


def _log(text: str) -> None:
    print(text.encode("ascii", "backslashreplace").decode(), file=sys.stderr, flush=True)


# --- The program -----------------------------------------------------------------------------------------


def code() -> str:
    """A digest of this package: a server that runs another version of it is to be restarted."""
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(__file__).resolve().parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def main(arguments: Sequence[str]) -> None:
    """The program: serve. The one argument is the directory of csync2's configs."""
    os.makedirs(custody.RUN_DIR, mode=0o700, exist_ok=True)
    os.chmod(custody.RUN_DIR, 0o700)
    os.makedirs(custody.RUNS, mode=0o700, exist_ok=True)
    shutil.rmtree(custody.SERVING, ignore_errors=True)
    os.mkdir(custody.SERVING)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, OPEN_FILES), most))
    Server(ThisHost("", socket.gethostname().lower(), *arguments[:1])).serve()
