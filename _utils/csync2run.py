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
import re
import shutil
import signal
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
#: Seconds without a sign of life from a run after which it is ended, though the peer answers others: of one that may
#: go through the whole group, and of a transfer, where a sign is missing while the peer reads a file or waits for its
#: database (csync2.c: lock timeout 12 s), with the bytes a second that it reads at least. Doubled after each try.
STALLED_AFTER = 120.0
TRANSFER_STALLED_AFTER, READ_RATE = 20.0, 10_000_000
STALLED = "it stands still"
#: Seconds without a sign of life after which is asked whether the two sides wait for each other for good.
STANDS_STILL = 3.0
#: Bytes of paths on one command line; Linux allows 2 MiB in all and 128 KiB for each (execve(2)).
COMMAND_BYTES = 100_000
#: Peers that are sent to at once, and entries that one run of csync2 sends to one of them.
PEERS_AT_ONCE = 8
PART = 5000
#: Runs of csync2 for one part, when something interrupts them; paths given to one that leaves others out.
ATTEMPTS = 20
MOST_NAMED = 200
#: Seconds until a file is tried again in whose place the peer has a directory, or for which it has no space.
BLOCKED_FOR = 30.0
#: Runs in a row, each ended by the peer and without any success, after which nothing more is sent to it.
CLOSED_AT_MOST = 4
#: Files that are sent first to a peer that failed lately: enough to see why.
FEW = 5
#: What csync2 says when it gives up because the peer ended the connection or, its disk being full, sent nonsense. It
#: may also die without a word.
_CLOSED = re.compile(
    rb"^(?:(?:Write|Read|Format)-error while (?:sending|receiving) data|Got an error from librsync, too bad)",
    re.MULTILINE,
)
#: What tells that the peer cannot write a file: at the third -v, what it answers (daemon.c: strerror(errno), which need
#: not be the true one); and at any, that it cannot make the temporary file for a signature.
_CANNOT_WRITE = re.compile(
    rb"^response from peer\((?P<path>.+?)\): \S+ \[\d+\] <- (?P<why>No space left on device|Read-only file system|"
    rb"Disk quota exceeded|Input/output error|No such file or directory)$"
    rb"|^I/O Error '(?P<error>Input/output error)' in rsync-check: (?P<basis>.+?)$",
    re.MULTILINE,
)


class CommandError(csync2.Csync2Error):
    """csync2 ended with an error, could not be started, or had to be ended."""


class Interrupted(CommandError):
    """csync2 did not come to its end: a signal killed it, or it and the peer's csync2 wait for each other for good."""

    def __init__(self, why, output):
        super().__init__(why)
        self.output = output


class Closed(Interrupted):
    """csync2 gave up in the middle, because the peer's csync2 did: it could not write what it got, say."""


def run(group, *args, peer=None, fine=(0,), patience=STALLED_AFTER, hopeless=None):
    """
    Run ``csync2 -C group …`` and return what it printed, as bytes.

    peer
        Address of the peer that the run talks to: the run is ended when that peer no longer answers.
    patience
        Seconds for which the run may stand still while the peer answers others.
    hopeless
        Asked once, when the run stands still: tells whether it will never go on.
    fine
        Exit codes that are no error (1 is any error of csync2, 2 is "nothing to list" or "in sync").

    Raises CommandError, Interrupted, Closed.
    """
    command = ["csync2", "-C", group, *args]
    log.debug("csync2 -C %s %s … (%d arguments)", group, args[0], len(args))
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/"
        )
    except FileNotFoundError as err:
        raise CommandError("csync2 is not installed: run state.apply csyncsync.package") from err
    output = _wait(process, peer, patience, hopeless)
    if peer and (process.returncode == -signal.SIGPIPE or _CLOSED.search(output)):
        raise Closed(f"Connection to {peer} ended", output)
    if process.returncode not in fine:
        # With more than two -v csync2 prints the group's key.
        text = "" if args.count("-v") > 2 else output.decode("utf-8", "backslashreplace").strip()[-400:]
        why = f"csync2 -C {group} {args[0]} ended with {process.returncode}: {text}"
        raise Interrupted(why, output) if process.returncode < 0 else CommandError(why)
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


def _wait(process, peer, patience, hopeless):
    """Wait for csync2 and return its output. Raises CommandError, Interrupted when it had to be ended."""
    moved, switches, queues = time.monotonic(), None, {}
    while True:
        try:
            return process.communicate(timeout=ANSWER_AFTER if peer else None)[0]
        except subprocess.TimeoutExpired:
            pass
        now, unsent = _switches(process.pid), _queues(process.pid, peer)
        drained = any(unsent.get(connection, queue) != queue for connection, queue in queues.items())
        queues = unsent
        if now != switches or drained:
            moved, switches = time.monotonic(), now
            continue
        still = time.monotonic() - moved
        why = ""
        if not answers(peer):
            why = "it does not answer"
        elif still > patience:
            why = STALLED
        if why:
            process.kill()
            process.communicate()
            raise CommandError(f"Connection to {peer} ended: {why}")
        if still > STANDS_STILL and hopeless:
            if hopeless():
                process.kill()
                raise Interrupted(f"Connection to {peer} ended: both sides wait", process.communicate()[0])
            hopeless = None


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


def send_all(group, database, peers, failed=None):
    """
    Send what is marked in a database to several peers at once. Returns ``{peer: why it could not be reached}``, with ""
    for one that answered, whatever it refused.

    failed
        ``{peer: how often in a row it stood still}`` of those that failed lately: they are asked first whether they
        answer, and get the more time the more often they stood still.

    Each peer gets a run of csync2 of its own, with a copy of its part of the database: runs that share a database wait
    for each other by whole seconds, and keep csync2's server from writing into it.
    """
    alone, failed = threading.Lock(), failed or {}

    def send(peer):
        if peer in failed and not answers(peer, DOUBTFUL_WITHIN):
            return f"Connection to {peer} failed: it does not answer"
        try:
            _Send(group, database, peer, failed.get(peer)).all(alone)
        except CommandError as err:
            return str(err)
        return ""

    with concurrent.futures.ThreadPoolExecutor(max_workers=PEERS_AT_ONCE) as pool:
        return dict(zip(peers, pool.map(send, peers)))


class _Send:
    """What one peer is sent. Its methods raise CommandError when the peer cannot be reached."""

    def __init__(self, group, database, peer, stalled):
        self.group, self.database, self.peer = group, database, peer
        self.stalled, self.failed = stalled or 0, stalled is not None
        self.directory = os.path.join(RUN_DIR, group, peer)
        self.blocked = _Blocked(f"{self.directory}.blocked")

    def all(self, alone):
        """Send all that is marked. ``alone`` is the lock of the database that all share."""
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(self.directory, mode=0o700)
        try:
            if self.failed:
                self._try(alone)
            left, held = self._parts()
            if held:
                self._parts()  # what only now is empty goes now
            elif left:
                # Directories that only now are empty; and paths whose parent the peer lacks: csync2 then needs the
                # records of everything below that. One at a time, because this is the database that all share.
                only = left[:MOST_NAMED] if self.blocked.names else ()
                if len(left) > MOST_NAMED:
                    self._again(left[:FEW], alone)
                self._again(only, alone, verbose=len(left) <= MOST_NAMED)
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _try(self, alone):
        """
        To a peer that failed lately, because its disk is full, say: first what frees space, then a few files. What it
        has no space for is left out for a while, so that others get their turn.
        """
        after, few, blocked = b"", [], []
        while True:
            with csync2.Database(self.database, timeout=20) as shared:
                part = shared.part(self.peer, after, PART)
            if not part:
                break
            after = part[-1][1]
            self._entries([entry for entry in part if not os.path.lexists(csync2.decode(entry[1]))])
            for entry in part:
                found = blocked if self.blocked.has(entry[1]) else few
                if len(found) < FEW and _is_file(entry[1]):
                    found.append(entry)
        if not few:
            self.blocked.clear()
        left = self._entries(few or blocked)
        if left:
            self._again(left, alone, block=True)
        else:
            self.blocked.clear()

    def _again(self, paths, alone, verbose=True, block=False):
        """
        Try some paths (none: all) once more, with the database that all share. Raises CommandError if the peer says,
        which takes a verbose run, that it cannot write.
        """
        interrupted = None
        try:
            with alone:
                verbosely = ["-v"] * 3 * verbose
                output = run(self.group, *verbosely, "-u", "-P", self.peer, *paths, peer=self.peer, fine=(0, 1))
        except Interrupted as err:
            output, interrupted = err.output, err
        why, names = _cannot_write(output)
        if block:
            self.blocked.add(names)
        if names:
            raise CommandError(f"{self.peer} cannot write: {why}")
        if interrupted:
            raise interrupted

    def _parts(self):
        """
        Send part after part. Returns what the peer, which answers, has left (see _entries), and whether anything
        was held.

        What replaces a directory goes after what was in the directory, and only if all that is gone: csync2's two sides
        wait for each other for good when a file is sent to a place where the peer has a directory that is not empty.
        """
        after, left, held = b"", [], False
        while True:
            with csync2.Database(self.database, timeout=20) as shared:
                part = shared.part(self.peer, after, PART)
                late = {entry for entry in part if shared.dirty_below(self.peer, entry[1]) and _replaces(entry[1])}
            if not part:
                return left, held
            after = part[-1][1]
            left += self._entries([entry for entry in part if entry not in late])
            with csync2.Database(self.database, timeout=20) as shared:
                ready = [entry for entry in late if not shared.dirty_below(self.peer, entry[1])]
            held = held or len(ready) < len(late)
            left += self._entries(ready)

    def _entries(self, entries):
        """Send some entries of the database. Returns the paths that the peer has left, but for blocked ones."""
        waiting, closed = [entry for entry in entries if not self.blocked.has(entry[1])], 0
        for attempt in range(1, ATTEMPTS + 1):
            if not waiting:
                break
            refused, interrupted = self._once(waiting, *["-v"] * bool(closed))
            moved, waiting = len(waiting), [entry for entry in waiting if entry[1] in refused]
            if not interrupted:
                break
            closed = self._closed(interrupted, closed if moved == len(waiting) else 0)
            if attempt == ATTEMPTS:
                raise interrupted
            waiting = [entry for entry in waiting if not self.blocked.has(entry[1])]
        return [csync2.decode(entry[1]) for entry in waiting]

    def _closed(self, interrupted, times):
        """
        Count how often in a row the peer closed the connection at the first file. That is left out from the second time
        on: for a file that does not fit, all after it would have to wait.
        """
        if not isinstance(interrupted, Closed):
            return 0
        if times >= CLOSED_AT_MOST:
            raise CommandError(f"Connection to {self.peer} ended, each time: is its disk full?")
        if times:
            self.blocked.add(_last(interrupted.output, self.peer))
        return times + 1

    def _once(self, entries, *more):
        """One run of csync2 with some entries. Returns (names that are still to be sent, why it was interrupted)."""
        copy, interrupted = self._copy(self.directory, entries), None
        flags = (*more, "-D", self.directory, "-u", "-P", self.peer)
        try:
            output = run(
                self.group,
                *flags,
                peer=self.peer,
                fine=(0, 1),
                patience=self._patience(entries),
                hopeless=lambda: self._is_blocked(copy, entries),
            )
        except Interrupted as err:
            output, interrupted = err.output, err
        with csync2.Database(copy, timeout=20) as sent:
            refused = sent.dirty_names()
        done = [entry for entry in entries if entry[1] not in refused]
        if done:
            with csync2.Database(self.database, timeout=20, write=True) as shared:
                shared.discharge(self.peer, done)
        problem = _unreachable(output)
        if problem:
            raise CommandError(problem)
        return refused, interrupted

    def _patience(self, entries):
        largest = max(_size(entry[1]) for entry in entries)
        return (TRANSFER_STALLED_AFTER + largest / READ_RATE) * 2**self.stalled

    def _copy(self, directory, entries):
        path = os.path.join(directory, os.path.basename(self.database))
        with csync2.Database(self.database, timeout=20) as shared:
            shared.copy(path, entries)
        return path

    def _is_blocked(self, copy, entries):
        """Ask the peer which of the files that are still to be sent are directories there."""
        with csync2.Database(copy, timeout=20) as sent:
            waiting = sent.dirty_names()
        probe = os.path.join(self.directory, "probe")
        os.makedirs(probe, exist_ok=True)
        self._copy(probe, [entry for entry in entries if entry[1] in waiting and _is_file(entry[1])])
        flags = ("-v", "-v", "-D", probe, "-u", "-d", "-P", self.peer)
        try:
            output = run(self.group, *flags, peer=self.peer, fine=(0, 1), hopeless=lambda: True)
        except Interrupted as err:  # it takes its time, over a large file perhaps
            output = err.output
        except CommandError:
            return False
        return self.blocked.add(_directories(output, self.peer))


class _Blocked:
    """
    Files that csync2 is not to send now: in whose place the peer has a directory with files of its own, or for which it
    has no space.
    """

    def __init__(self, path):
        self.path, self.names = path, set()
        with contextlib.suppress(OSError):
            if 0 <= time.time() - os.stat(path).st_mtime <= BLOCKED_FOR:
                with open(path, "rb") as file:
                    self.names = set(file.read().split(b"\0")) - {b""}

    def has(self, name):
        """Tell whether a file, given its encoded name, is to be left out."""
        return name in self.names and _is_file(name)

    def add(self, names):
        """Take in encoded names. Tells whether there were any."""
        if names:
            self.names |= names
            with open(self.path, "wb") as file:
                file.write(b"\0".join(self.names))
            log.warning("csyncsync: %d files are left out for now, they cannot be made there", len(self.names))
        return bool(names)

    def clear(self):
        """Leave out nothing."""
        self.names = set()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def _is_file(name):
    """Tell whether there is a regular file at a place, given its encoded name."""
    path = csync2.decode(name)
    return os.path.isfile(path) and not os.path.islink(path)


def _size(name):
    """Bytes of what is at a place, given its encoded name."""
    try:
        return os.lstat(csync2.decode(name)).st_size
    except OSError:
        return 0


def _replaces(name):
    """Tell whether there is anything but a directory at a place, given its encoded name."""
    path = csync2.decode(name)
    return os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path))


def _directories(output, peer):
    """Encoded names of what the peer has as directories, given what ``csync2 -v -v -u -d`` printed (update.c)."""
    begin = rb"(?:^|\n)Updating (.+?) on " + re.escape(peer.encode()) + rb" \.\.\.\n"
    sections = re.split(begin, output, flags=re.DOTALL)
    found = zip(sections[1::2], sections[2::2])
    return {csync2.encode(path) for path, told in found if re.search(rb"^>>> PEER: .*type=dir", told, re.MULTILINE)}


def _last(output, peer):
    """The encoded name, in a set, of the last file that was begun, given what ``csync2 -v -u`` printed."""
    begun = re.findall(
        rb"^Updating (.+?) on " + re.escape(peer.encode()) + rb" \.\.\.$", output, re.DOTALL | re.MULTILINE
    )
    return {csync2.encode(path) for path in begun[-1:]}


def _cannot_write(output):
    """Given what ``csync2 -v -v -v -u`` printed, return (why the peer could not write a file, the encoded names)."""
    found = list(_CANNOT_WRITE.finditer(output))
    told = [(match["why"] or match["error"]).decode() for match in found]
    true = [why for why in told if why != "No such file or directory"]
    why = true[0] if true else "is its disk full?"
    return why, {csync2.encode(match["path"] or match["basis"]) for match in found}


def _unreachable(output):
    """The line in which csync2 says that it could not talk to the peer ("" if there is none)."""
    for line in output.decode("utf-8", "backslashreplace").splitlines():
        if line.startswith(("Connecting to host ", "Connect to ", "Updating ", "Deleting ")):  # with -v
            continue
        if "onnect" in line or "SSL" in line or "TLS" in line or "cetrif" in line:
            return line[:200]
    return ""
