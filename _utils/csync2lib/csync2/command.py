"""
Run csync2, towards a peer perhaps, and end a run whose peer no longer answers.

Paths are bytes: no shell, no decoding. May be called in threads.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import signal
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable, Collection

from csync2lib import waits
from csync2lib.csync2.custody import Entrance
from csync2lib.csync2.names import printable
from csync2lib.errors import CommandError, Interrupted

log = logging.getLogger(__name__)

#: The exit codes of setpriv(1) and env(1) when they cannot run csync2, or may not change its user.
NOT_STARTED = (125, 126, 127)
#: csync2.c: char *csync_port
PORT = 30865
STALLED = "it stands still"
#: Seconds without a sign of life after which ``hopeless`` is asked: the two sides may wait for each other forever.
STANDS_STILL = 3.0
#: Bytes of a message at most; and characters of the last messages in an error.
MESSAGE, TOLD = 65_536, 400
#: How messages begin in which csync2 shows, with three -v, what it sends and gets (conn.c): all data of all files.
DUMPS = (b"Local> ", b"Peer> ")


def run(
    group: str,
    flag: str,
    *args: str | bytes,
    peer: str | None = None,
    fine: Collection[int] = (0,),
    patience: float = waits.STALLED_AFTER,
    hopeless: Callable[[], bool] | None = None,
    cwd: str = "/",
    largest: int | None = None,
) -> list[bytes]:
    """
    Run ``csync2 -C group …`` and return its messages: what it wrote at once to its standard error, each.

    Names stand in them as they are, but a socket keeps the bounds of messages, so no name looks like another message
    (error.c, csync_vdebug(): one vfprintf() each; unbuffered, it writes up to 8,192 bytes at once).

    peer
        Address of the peer that the run talks to: the run is ended when that peer no longer answers.
    patience
        Seconds for which the run may stand still while the peer answers others.
    hopeless
        Asked once, when the run stands still: tells whether it will never go on.
    largest
        Bytes of the largest file that it may write; a signal ends it when it would write more.
    fine
        Exit codes that are no error (1 is any error of csync2, 2 is "nothing to list" or "in sync").

    Raises CommandError, Interrupted.
    """
    command = ["csync2", "-C", group, flag, *args]
    log.debug("csync2 -C %s %s … (%d arguments)", group, flag, 1 + len(args))
    limit = [] if largest is None else ["prlimit", f"--fsize={largest}:{largest}"]
    messages, csync2s_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with messages:
        try:
            with csync2s_end, Entrance() as entrance:
                process = subprocess.Popen(
                    [*limit, *entrance.command(*command, cwd=cwd)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=csync2s_end.fileno(),
                    cwd="/",
                    pass_fds=entrance.handles,
                )
        except FileNotFoundError as err:
            raise CommandError(f"{err.filename} is not installed: csync2 is run by it") from err
        output = _wait(process, messages, peer, patience, hopeless)
    # With three -v csync2 prints the group's key.
    told = "" if command.count("-v") > 2 else "; ".join(printable(one.strip()) for one in output)[-TOLD:]
    if process.returncode in NOT_STARTED:
        raise CommandError(f"csync2 cannot be run: {told}")
    if process.returncode not in fine:
        why = f"csync2 -C {group} {flag} ended with {process.returncode}: {told}"
        if process.returncode < 0:
            raise Interrupted(why, output, by_peer=process.returncode == -signal.SIGPIPE)
        raise CommandError(why, output)
    return output


def _wait(
    process: subprocess.Popen[bytes],
    messages: socket.socket,
    peer: str | None,
    patience: float,
    hopeless: Callable[[], bool] | None,
) -> list[bytes]:
    """Wait for csync2 and return its messages. Raises CommandError, Interrupted when it had to be ended."""
    moved = time.monotonic()
    work: list[str] | None = None
    queues: dict[str, str] = {}
    output: list[bytes] = []
    while not _read(messages, output, waits.ANSWER_AFTER):
        if peer is None:
            continue
        now, unsent = _work(process.pid), _queues(process.pid, peer)
        drained = any(unsent.get(connection, queue) != queue for connection, queue in queues.items())
        queues = unsent
        if now != work or drained:
            moved, work = time.monotonic(), now
            continue
        still = time.monotonic() - moved
        error: CommandError | None = None
        if not answers(peer):
            error = CommandError(f"Connection to {peer} ended: it does not answer", output)
        elif still > patience:
            error = CommandError(f"Connection to {peer} ended: {STALLED}", output)
        elif still > STANDS_STILL and hopeless:
            error = Interrupted(f"Connection to {peer} ended: both sides wait", output) if hopeless() else None
            hopeless = None
        if error:
            process.kill()
            _read(messages, output, waits.ANSWER_AFTER)
            process.wait()
            raise error
    process.wait()
    return output


def _read(messages: socket.socket, output: list[bytes], seconds: float) -> bool:
    """Read messages for so long. Returns whether their writer has ended."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        messages.settimeout(left)
        try:
            message = messages.recv(MESSAGE)
        except socket.timeout:
            break
        if not message:
            return True
        if not message.startswith(DUMPS):
            output.append(message)
    return False


def _work(pid: int) -> list[str]:
    """
    How often the process has waited for something, and its processor time: neither changes while csync2 is stuck.

    Over a large file it computes for long, and waits for nothing.
    """
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            waited = [line for line in file if line.startswith("voluntary_ctxt_switches")]
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return waited + file.read().rpartition(")")[2].split()[11:13]  # proc(5): utime, stime
    except OSError:
        return []


def _queues(pid: int, peer: str) -> dict[str, str]:
    """
    ``{connection: bytes in its send queue}`` of this host's connections to csync2 on the peer.

    A queue that moves shows that the peer lives. On a slow line this is the only sign: csync2 sleeps for seconds until
    a full queue has room, and a question to the peer would wait just as long behind that data.
    """
    packed, queues = ipaddress.ip_address(peer).packed, {}
    # As /proc/net/tcp shows it: words in the machine's byte order.
    words = "".join(f"{word:08X}" for word in struct.unpack(f"={len(packed) // 4}I", packed))
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/net/{name}", encoding="ascii", errors="replace") as file:
            for line in file:
                _, local, remote, state, queue = line.split()[:5]
                if state == "01" and remote == f"{words}:{PORT:04X}":  # established
                    queues[local] = queue.partition(":")[0]
    return queues


def answers(peer: str, within: float = waits.ANSWER_WITHIN) -> bool:
    """
    Tell whether csync2 on the peer still begins to talk: it answers "SSL" and the first message of a TLS handshake.

    Up to here the peer asks for no certificate. Its greeting alone does not count.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.wrap_bio(incoming, outgoing).do_handshake()
    try:
        with socket.create_connection((peer, PORT), timeout=waits.CONNECT_WITHIN) as sock:
            sock.settimeout(within)
            sock.sendall(b"SSL\n")
            if not sock.recv(64).startswith(b"OK"):
                return False
            sock.sendall(outgoing.read())
            return bool(sock.recv(64))
    except OSError:
        return False
