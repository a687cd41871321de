"""
Run csync2, and watch over it: with many paths, towards one peer, towards all peers at once.

Paths are bytes: no shell, no decoding. May call ``csync2`` (the grammar and the database); knows nothing of Salt, so
that it may run in threads.
"""

import concurrent.futures
import contextlib
import ipaddress
import logging
import os
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time

import csync2

log = logging.getLogger(__name__)

#: csync2.c: char *csync_port
PORT = 30865
#: Where a send keeps its copy of the peer's part of the database: in memory, because a crash loses nothing with it.
RUN_DIR = "/run/csyncsync"
#: Seconds after which a peer that may hang is asked whether it still answers; how long it may take to take the
#: connection (its kernel does that, so a dead host is known soon), and to greet (a busy host is no dead one).
ANSWER_AFTER, CONNECT_WITHIN, ANSWER_WITHIN = 1.0, 1.0, 3.0
#: The same for a peer that failed lately: a dead host costs the others next to nothing.
DOUBTFUL_WITHIN = 1.0
#: Seconds without a sign of life from a running transfer after which it is ended (the peer answers others).
STALLED_AFTER = 120.0
#: Bytes of paths on one command line; Linux allows 2 MiB in all and 128 KiB for each (execve(2)).
COMMAND_BYTES = 100_000
#: Peers that are sent to at once, and entries that one run of csync2 sends to one of them.
PEERS_AT_ONCE = 8
PART = 5000


class CommandError(csync2.Csync2Error):
    """csync2 ended with an error, could not be started, or had to be ended."""


def run(group, *args, peer=None, fine=(0,)):
    """
    Run ``csync2 -C group …`` and return what it printed, as bytes.

    peer
        Address of the peer that the run talks to: the run is ended when that peer no longer answers.
    fine
        Exit codes that are no error (1 is any error of csync2, 2 is "nothing to list" or "in sync").

    Raises CommandError.
    """
    command = ["csync2", "-C", group, *args]
    log.debug("csync2 -C %s %s … (%d arguments)", group, args[0], len(args))
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/"
        )
    except FileNotFoundError as err:
        raise CommandError("csync2 is not installed: run state.apply csyncsync.package") from err
    output, ended = _wait(process, peer)
    if ended:
        raise CommandError(ended)
    if process.returncode not in fine:
        text = output.decode("utf-8", "backslashreplace").strip()[-400:]
        raise CommandError(f"csync2 -C {group} {args[0]} ended with {process.returncode}: {text}")
    return output


def run_paths(group, flags, paths):
    """``csync2 -C group FLAGS PATH …`` with as many commands as the length of the paths asks for."""
    batch, size = [], 0
    for path in paths:
        if batch and size + len(path) > COMMAND_BYTES:
            run(group, *flags, *batch)
            batch, size = [], 0
        batch.append(path)
        size += len(path) + 1
    if batch:
        run(group, *flags, *batch)


def _wait(process, peer):
    """Wait for csync2. Returns (its output, why it had to be ended)."""
    moved, switches, queues = time.monotonic(), None, {}
    while True:
        try:
            return process.communicate(timeout=ANSWER_AFTER if peer else None)[0], ""
        except subprocess.TimeoutExpired:
            pass
        now, unsent = _switches(process.pid), _queues(process.pid, peer)
        drained = any(unsent.get(connection, queue) != queue for connection, queue in queues.items())
        queues = unsent
        if now != switches or drained:
            moved, switches = time.monotonic(), now
            continue
        stalled = time.monotonic() - moved > STALLED_AFTER
        if stalled or not answers(peer):
            process.kill()
            why = "stalled" if stalled else "does not answer"
            return process.communicate()[0], f"Connection to {peer} ended: it {why}"


def _switches(pid):
    """How often the process has waited for something and gone on: it stands still while csync2 hangs."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            return [line for line in file if line.startswith("voluntary_ctxt_switches")]
    except OSError:
        return []


def _queues(pid, peer):
    """
    ``{connection: bytes that wait to be taken}`` of this host's connections to csync2 on the peer.

    On a slow line csync2 sleeps for seconds until there is room in a full queue, and a question would wait just as long
    behind it: that the queue moves shows that the peer lives. It stands still when the peer hangs or is dead.
    """
    queues = {}
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/net/{name}", encoding="ascii", errors="replace") as file:
            for line in file:
                _, local, remote, state, queue = line.split()[:5]
                if state == "01" and remote == _as_in_proc(peer):  # established
                    queues[local] = queue.partition(":")[0]
    return queues


def _as_in_proc(address):
    """Given an address, return it with csync2's port as /proc/net/tcp shows it: words in the machine's byte order."""
    packed = ipaddress.ip_address(address).packed
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{PORT:04X}"


def answers(peer, within=ANSWER_WITHIN):
    """
    Tell whether csync2 on the peer still begins to talk: it answers "SSL" and the first message of a TLS handshake.

    Nothing is asked of us before that, so no certificate is needed; and a peer that only greets is found out.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.wrap_bio(incoming, outgoing).do_handshake()
    try:
        with socket.create_connection((peer, PORT), timeout=CONNECT_WITHIN) as sock:
            sock.settimeout(within)
            sock.sendall(b"SSL\n")
            if not sock.recv(64).startswith(b"OK"):
                return False
            sock.sendall(outgoing.read())
            return bool(sock.recv(64))
    except OSError:
        return False


# --- Sending ---------------------------------------------------------------------------------------------


def send_all(group, database, peers, doubtful=()):
    """
    Send what is marked in a database to several peers at once. Returns ``{peer: why it could not be reached}``, with ""
    for one that answered, whatever it refused.

    doubtful
        Those of the peers that failed lately: they are asked first whether they answer.

    Each peer gets a run of csync2 of its own, with a copy of its part of the database: runs that share a database wait
    for each other by whole seconds, and keep csync2's server from writing into it.
    """
    alone = threading.Lock()

    def send(peer):
        if peer in doubtful and not answers(peer, DOUBTFUL_WITHIN):
            return f"Connection to {peer} failed: it does not answer"
        return _send(group, database, peer, alone)

    with concurrent.futures.ThreadPoolExecutor(max_workers=PEERS_AT_ONCE) as pool:
        return dict(zip(peers, pool.map(send, peers)))


def _send(group, database, peer, alone):
    directory = os.path.join(RUN_DIR, group, peer)
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory, mode=0o700)
    try:
        left, held = _send_parts(group, database, peer, directory)
        if held:
            _send_parts(group, database, peer, directory)  # what only now is empty goes now
        elif left:
            # Directories that only now are empty; and paths whose parent the peer lacks: csync2 then needs the records
            # of everything below that. One at a time, because this is the database that all share.
            with alone:
                run(group, "-u", "-P", peer, peer=peer, fine=(0, 1))
    except CommandError as err:
        return str(err)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return ""


def _send_parts(group, database, peer, directory):
    """
    Send part after part. Returns whether the peer, which answers, has left anything, and whether anything was held.

    What replaces a directory goes after what was in the directory, and only if all that is gone: csync2's two sides
    wait for each other for good when a file is sent to a place where the peer has a directory that is not empty.
    """
    after, left, held = b"", False, False
    while True:
        with csync2.Database(database, timeout=20) as shared:
            part = shared.part(peer, after, PART)
            late = {entry for entry in part if shared.dirty_below(peer, entry[1]) and _replaces(entry[1])}
        if not part:
            return left, held
        after = part[-1][1]
        left = _send_entries(group, database, peer, directory, [entry for entry in part if entry not in late]) or left
        with csync2.Database(database, timeout=20) as shared:
            ready = [entry for entry in late if not shared.dirty_below(peer, entry[1])]
        held = held or len(ready) < len(late)
        left = _send_entries(group, database, peer, directory, ready) or left


def _replaces(name):
    """Tell whether there is anything but a directory at a place, given its encoded name."""
    path = csync2.decode(name)
    return os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path))


def _send_entries(group, database, peer, directory, entries):
    """Send some entries of the database. Tells whether the peer has left any. Raises CommandError."""
    if not entries:
        return False
    copy = os.path.join(directory, os.path.basename(database))
    with csync2.Database(database, timeout=20) as shared:
        shared.copy(copy, entries)
    output = run(group, "-D", directory, "-u", "-P", peer, peer=peer, fine=(0, 1))
    with csync2.Database(copy, timeout=20) as sent:
        refused = sent.dirty_names()
    done = [entry for entry in entries if entry[1] not in refused]
    if done:
        with csync2.Database(database, timeout=20, write=True) as shared:
            shared.discharge(peer, done)
    problem = _unreachable(output)
    if problem:
        raise CommandError(problem)
    return bool(refused)


def _unreachable(output):
    """The line in which csync2 says that it could not talk to the peer ("" if there is none)."""
    for line in output.decode("utf-8", "backslashreplace").splitlines():
        if "onnect" in line or "SSL" in line or "TLS" in line or "cetrif" in line:
            return line[:200]
    return ""
