"""
Watch the trees that csync2 synchronizes, and tell the master that a group has something to push.

The beacon watches every group that has a ``config.json`` below its state directory (the state
``csyncsync.group_present`` writes it). A path that has been quiet for a moment is written into the group's
journal, ``<state_dir>/<group>/journal/``; then one event of fixed size goes out. ``csyncsync.push`` reads the
journal. What csync2 itself has written is left out.

Configure it with a state (or in the minion's config, or in the pillar):

.. code-block:: yaml

    watch what csync2 synchronizes:
      beacon.present:
        - name: csyncsync
        - settle: 0.1

=============  ======================  =====================================================================
Option         Default                 Meaning
=============  ======================  =====================================================================
``settle``     0.1                     seconds that a path must be quiet before it goes out; also the least
                                       time between two events of a group
``max_delay``  2                       seconds: a path that keeps changing goes out once in this time. One
                                       that is held open and written to, once in five times this time
``max_paths``  10000                   with more paths than this at once the whole group is checked instead
``retry``      5                       seconds until an event is repeated while something is left to push;
                                       doubles up to 30
``state_dir``  /var/lib/csyncsync      where the groups' configs, journals and status are
=============  ======================  =====================================================================

The event on the master's bus has the tag ``salt/beacon/<minion id>/csyncsync/<group>`` and the data

.. code-block:: json

    {"id": "web1", "group": "wwwdata", "count": 3, "whole": false}

``count`` is the number of paths since the last event (0 when an event is repeated) and ``whole`` says that the
whole group is to be checked. While the journal has not been taken since the last event there is no new one. An
``error`` with a text is there if not everything can be watched. The event holds no paths, and nothing in it
needs trust.

The journal holds files named ``<time in ns>-<counter>.paths``: absolute paths as bytes, each ended by a NUL.
A path that ends with ``/`` stands for a directory and everything below it. The empty file ``whole`` stands for
the whole group; each mark is a new file put over the old one, so whoever discharges it can tell them apart.

``<state_dir>/<group>/watch.json`` says how many directories are watched (by all groups together), whether the
first walk is done, how many walks there were, what is wrong, and which paths keep changing.

The watcher rides on the minion's event loop, in small slices. Where there is no asyncio loop (Salt 3006) it
works at the beacon's ticks, once a second. It outlives refreshes of the minion's modules.
"""

import asyncio
import collections
import ctypes
import errno
import fcntl
import hashlib
import heapq
import importlib.util
import itertools
import json
import logging
import os
import random
import re
import shutil
import sqlite3
import stat
import struct
import subprocess
import sys
import threading
import time
import types

import salt.utils.event

log = logging.getLogger(__name__)

__virtualname__ = "csyncsync"

STATE_DIR = "/var/lib/csyncsync"
DEFAULTS = {"settle": 0.1, "max_delay": 2, "max_paths": 10000, "retry": 5, "state_dir": STATE_DIR}
#: What Salt itself puts into, or reads from, the configuration of a beacon.
SALT_OPTIONS = (
    "interval",
    "disable_during_state_run",
    "enabled",
    "_beacon_name",
    "beacon_module",
    "run_once",
)

#: The module object that keeps the watcher while Salt loads this file anew.
HOLDER = "csyncsync_watcher"
#: Seconds from close() to the real end: Salt calls close() at every refresh, and beacon() again right after.
CLOSE_DELAY = 10
#: Seconds of work in one callback of the event loop, and in one tick where there is no loop.
SLICE = 0.015
TICK_SLICE = 0.2
#: The descriptor's number is at least this.
HIGH_DESCRIPTOR = 400
#: While much happens: seconds between two readings of events, and between two looks at what is ready. Many at once
#: cost a fraction of what they cost one by one.
READ_PACE, WORK_PACE = 0.01, 0.05
#: Seconds between looks at configs, include roots and journals.
HOUSEKEEPING = 1.0
#: Paths judged with one opening of csync2's database.
BATCH = 200
#: While a peer sends to this host: seconds to wait for csync2's daemon to write down, commit and finish what it does
#: to a path (it commits every four seconds or so, later on a busy host), and between two looks.
COMMIT_WAIT = 60.0
COMMIT_POLL = (0.25, 1.0)
RECORD_WAIT = 1.0
#: The same for a file that looks as recorded, but was seen to be written to: in a directory that is new here, csync2's
#: rename may have come too early to be seen.
OWN_WAIT = 3.0
#: Where systemd has a directory for each connection (csync2@.service.conf of the states); csync2.c: char *csync_port;
#: and the states of a connection that csync2 has not closed: established, close wait.
CONNECTIONS = "/run/csync2"
PORT = 30865
CONNECTED = (b"01", b"08")
#: Seconds to wait for the second half of a rename, and between csync2's rename of a file and its last write to it.
MOVE_WAIT = 0.5
LANDING_WAIT = 2.0
#: Seconds that csync2 may keep one of its temporary files untouched, and may write to it.
TEMPORARY_SETTLE = 2.0
TEMPORARY_WAIT = 600.0
#: Seconds between checks of the whole group because a file with several names was changed through one of them.
LINKED_INTERVAL = 30.0
#: A path that went out so many times in a row, each within max_delay, is hot.
HOT = 3
RETRY_CAP = 30.0
#: Seconds between looks whether a push has taken the journal, while more has been written into it.
ASK_AGAIN = 0.2
#: Seconds between attempts to watch what could not be watched.
REWALK = 30.0
STATUS_INTERVAL = 5.0
#: Seconds after which no master is expected to answer: of the oldest journal entry, of the mark "left".
ALONE_AFTER = 20.0
LEFT_ALONE_AFTER = 90.0
ALONE_SPREAD = 5.0
ALONE_INTERVAL = (15.0, 30.0)

_GROUP_NAME = re.compile(r"[a-z0-9]{1,64}\Z")
#: rsync.c, get_tmpname(): a dot, the name, a dot and mkstemp()'s six characters.
_TEMPORARY = re.compile(rb"\..*\.[A-Za-z0-9]{6}\Z", re.DOTALL)


def __virtual__():
    if not sys.platform.startswith("linux"):
        return False, "the csyncsync beacon needs inotify"
    return __virtualname__


def validate(config):
    """
    Given the beacon's configuration, return ``(True, text)``, or ``(False, text naming the bad option)``.
    """
    if not isinstance(config, list):
        return False, "Configuration for csyncsync beacon must be a list."
    for item in config:
        if not isinstance(item, dict):
            return (
                False,
                f"Configuration for csyncsync beacon: {item!r} is no mapping of an option to its value.",
            )
        for option, value in item.items():
            problem = _option_problem(option, value)
            if problem:
                return False, f"Configuration for csyncsync beacon: option {option!r} {problem}."
    return True, "Valid beacon configuration"


def beacon(config):
    """
    Start the watcher, or keep it going. Returns the events that are due, if it works without an event loop.
    """
    return _watcher(_options(config), dict(__opts__)).tick()


def close(config):
    """
    Close the watcher, unless the next beacon() comes within ten seconds (as it does at each refresh).
    """
    watcher = getattr(sys.modules.get(HOLDER), "watcher", None)
    if watcher is not None and watcher.pid == os.getpid():
        watcher.close_later()


def _option_problem(option, value):
    """What is wrong with one option ("" if nothing)."""
    if option in SALT_OPTIONS:
        return ""
    if option not in DEFAULTS:
        return f"is unknown; there are: {', '.join(DEFAULTS)}"
    if option == "state_dir":
        return "" if isinstance(value, str) and value.startswith("/") else "is not an absolute path"
    if option == "max_paths":
        good = isinstance(value, int) and not isinstance(value, bool) and value > 0
        return "" if good else "is not a whole number above 0"
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 3600
    return "" if good else "is not a number of seconds above 0, up to 3600"


def _options(config):
    """All options, with their defaults, as an object."""
    values = dict(DEFAULTS)
    for item in config:
        values.update({option: value for option, value in item.items() if option in DEFAULTS})
    return types.SimpleNamespace(**values)


def _watcher(options, opts):
    """
    Return the living watcher, or start one.

    It lives in sys.modules, because Salt forgets this module; and its code is a copy of this file that Salt does
    not know, because a refresh executes this file anew in the very same globals: the watcher's classes would no
    longer be the ones its objects are made of.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    holder = sys.modules.setdefault(HOLDER, types.ModuleType(HOLDER))
    watcher = getattr(holder, "watcher", None)
    if watcher is not None and watcher.pid == os.getpid() and not watcher.closed:
        if watcher.version == VERSION and watcher.loop is loop and watcher.options.state_dir == options.state_dir:
            watcher.options, watcher.opts = options, opts
            return watcher
        log.info("csyncsync: a new watcher takes over")
        watcher.close()
    code = _load(os.path.abspath(__file__), "csyncsync_watcher_code")
    holder.watcher = code.Watcher(options, opts, loop, VERSION)
    return holder.watcher


def _version():
    """What tells this code from another version of it."""
    try:
        with open(__file__, "rb") as source:
            return hashlib.sha256(source.read()).hexdigest()
    except OSError:
        return "unknown"


VERSION = _version()


# --- The C library ---------------------------------------------------------------------------------------

IN_MODIFY = 0x2
IN_ATTRIB = 0x4
IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_UNMOUNT = 0x2000
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x1000000
IN_DONT_FOLLOW = 0x2000000
IN_EXCL_UNLINK = 0x4000000
IN_ISDIR = 0x40000000

MASK = (
    IN_MODIFY
    | IN_ATTRIB
    | IN_CLOSE_WRITE
    | IN_MOVED_FROM
    | IN_MOVED_TO
    | IN_CREATE
    | IN_DELETE
    | IN_DELETE_SELF
    | IN_MOVE_SELF
    | IN_ONLYDIR
    | IN_DONT_FOLLOW
    | IN_EXCL_UNLINK
)
_EVENT = struct.Struct("iIII")

FNM_PATHNAME = 1
FNM_LEADING_DIR = 8
_LC_ALL_MASK = 0x1FBF

_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_libc.inotify_rm_watch.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.fnmatch.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int)
_libc.newlocale.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_libc.newlocale.restype = ctypes.c_void_p
_libc.uselocale.argtypes = (ctypes.c_void_p,)
_libc.uselocale.restype = ctypes.c_void_p
_C_LOCALE = _libc.newlocale(_LC_ALL_MASK, b"C", None)


class Excludes:
    """
    A group's exclude patterns, matched as csync2 does (groups.c, match_pattern_list()).

    Nothing below an excluded directory is watched, also where only its base name is excluded: csync2's recursive
    check (check.c, csync_check_mod()) does not go into it either, and the peers lack that directory.
    """

    def __init__(self, patterns):
        self.names, self.paths = [], []
        for given in patterns:
            pattern = given[:1] + given[1:].rstrip(b"/")
            if pattern.startswith(b"/"):
                self.paths.append((pattern, FNM_LEADING_DIR | (0 if b"**" in pattern else FNM_PATHNAME)))
            elif pattern:
                self.names.append((pattern, 0))

    def match(self, path, name):
        """Tell whether a path, with this base name, is excluded."""
        if not self.names and not self.paths:
            return False
        # csync2 never leaves the C locale, while Salt runs in the user's: there a byte is not a character.
        before = None if path.isascii() else _libc.uselocale(_C_LOCALE)
        try:
            return any(not _libc.fnmatch(pattern, name, flags) for pattern, flags in self.names) or any(
                not _libc.fnmatch(pattern, path, flags) for pattern, flags in self.paths
            )
        finally:
            if before is not None:
                _libc.uselocale(before)


# --- What is watched -------------------------------------------------------------------------------------


class Node:
    """A directory. Its path is made from its parents, so that a rename changes one place."""

    __slots__ = ("children", "excluded", "name", "parent", "wd")

    def __init__(self, name, parent):
        self.name = name
        self.parent = parent
        self.children = {}
        self.wd = None
        self.excluded = False


class Root(Node):
    """
    An include. For one that is no directory, its parent directory is watched for that one name (``only``).
    """

    __slots__ = ("group", "identity", "only", "path")

    def __init__(self, group, path, only, identity):
        super().__init__(os.path.dirname(path) if only else path, None)
        self.group = group
        self.path = path
        self.only = only
        self.identity = identity


class Entry:
    """A changed path that waits until it is ready."""

    __slots__ = (
        "came",
        "commits",
        "compare",
        "covers",
        "first",
        "group",
        "hold",
        "judged",
        "last",
        "moved",
        "own",
        "path",
        "queued",
        "temporary",
        "tree",
        "writing",
        "written",
    )

    def __init__(self, group, path, now):
        self.group = group
        self.path = path
        self.first = self.last = now
        self.writing = False
        #: written to in place, at any time
        self.written = False
        #: not csync2's work: csync2 writes to a temporary file, renames it, and closes it
        self.own = False
        #: came with the directory above it, and what csync2 recorded here was another file
        self.compare = False
        #: the directory and everything below it
        self.tree = False
        #: came, or left its place to another, so its content need not be what csync2 recorded
        self.moved = False
        #: a directory that was moved here
        self.came = False
        #: something below it was not noted on its own, because this entry stands for it
        self.covers = False
        self.temporary = _TEMPORARY.match(os.path.basename(path)) is not None
        #: when it was first found ready, and the number of the database's commit then
        self.judged = None
        self.commits = None
        self.hold = 0.0
        #: when the heap brings it up
        self.queued = 0.0


class Group:
    """One csync2 group: its config, its includes, and what waits."""

    def __init__(self, name, directory):
        self.name = name
        self.directory = directory
        self.journal = os.path.join(directory, "journal")
        self.signature = None
        self.include = []
        self.exclude = []
        self.excludes = Excludes([])
        self.database = None
        self.roots = {}
        self.pending = {}
        self.ready = collections.deque()
        self.out = []
        self.recent = {}
        self.whole = False
        #: a file with several names was changed through one of them
        self.linked = False
        self.flushing = None
        self.last_flush = self.last_whole = self.last_fired = 0.0
        #: paths in the journal that no event has told, the oldest journal file when the last one went out, and when to
        #: look again whether it has been taken
        self.unasked = 0
        self.asked = None
        self.ask_at = 0.0
        self.repeats = 0
        self.walking = 0
        self.walked = False
        self.walks = 0
        self.unwatched = set()
        #: why the last one of them could not be watched: an error's number
        self.problem = 0
        self.rewalk_at = 0.0
        self.error = None
        self.error_told = False
        self.config_error = None
        self.alone_at = 0.0
        #: spread, so that hosts that lost their master together do not push together
        self.alone_after = ALONE_AFTER + random.uniform(0, ALONE_SPREAD)
        self.status = None
        self.status_at = 0.0
        self.gone = False

    def waiting(self):
        """How many paths are on their way."""
        return len(self.pending) + len(self.ready) + len(self.out)


#: How a directory is walked: its first time, new below a watched one, again after lost events, to note every
#: single path in it, and to have the files in it compared.
FIRST, NEW, AGAIN, NOTE, COMPARE = "first", "new", "again", "note", "compare"
#: What becomes of a path that is ready.
GO, ALONE, DROP, WAIT = "go", "alone", "drop", "wait"


class Watcher:
    """
    Watches all groups with one inotify descriptor, in slices, on an event loop or (loop None) at ticks.
    """

    def __init__(self, options, opts, loop, version):
        self.version = version
        self.pid = os.getpid()
        self.options, self.opts, self.loop = options, opts, loop
        self.closed = False
        self.groups = {}
        #: watch descriptor -> Node, or a list of them (one directory seen at two places: a bind mount)
        self.nodes = {}
        #: cookie -> (Node, when): the first halves of renames of directories
        self.moving = {}
        #: cookie -> when: the first halves of renames of files that are named as csync2's temporary ones
        self.renaming = {}
        #: path -> when: files that were renamed from such a name, and not closed since
        self.landing = {}
        self.heap = []
        self.sequence = itertools.count()
        self.chores = collections.deque()
        self.new = collections.deque()
        self.walk = []
        self.scan = None
        self.outbox = []
        self.children = []
        self.helper = None
        self.helper_mtime = None
        self.receiving, self.receiving_at = False, 0.0
        self.timer = self.house_timer = self.close_timer = None
        self.timer_at = self.read_at = self.worked_at = 0.0
        self.ticked = time.monotonic()
        self.fd = -1
        self.fd_error = 0
        self._open()
        if loop is not None:
            self._housekeep_on_loop()

    # --- Called by the beacon

    def tick(self):
        """Called at each of Salt's ticks; return the events that Salt is to fire."""
        self.ticked = time.monotonic()
        if self.close_timer is not None:
            self.close_timer.cancel()
            self.close_timer = None
        if self.loop is not None:
            return []
        deadline = self.ticked + TICK_SLICE
        self._guarded(self._housekeep)
        while self._read() and time.monotonic() < deadline:
            pass
        while self._guarded(self._work, deadline) and time.monotonic() < deadline:
            pass
        events, self.outbox = self.outbox, []
        return events

    def close_later(self):
        """Close, unless tick() is called soon."""
        if self.close_timer is not None or self.closed:
            return
        if self.loop is not None:
            self.close_timer = self.loop.call_later(CLOSE_DELAY, self.close)
        else:
            self.close_timer = threading.Timer(CLOSE_DELAY, self.close)
            self.close_timer.daemon = True
            self.close_timer.start()

    def close(self):
        """Write down what waits, unjudged, and give everything back."""
        if self.closed:
            return
        self.closed = True
        for timer in (self.timer, self.house_timer, self.close_timer):
            if timer is not None:
                timer.cancel()
        if self.fd >= 0:
            while self._read():
                pass
            if self.loop is not None:
                self.loop.remove_reader(self.fd)
            os.close(self.fd)
            self.fd = -1
        for group in self.groups.values():
            if group.flushing is not None:
                group.flushing.join(5)
            waiting = [*group.pending.values(), *group.ready]
            group.out += [(entry.path, entry.tree, False) for entry in waiting]
            lines, whole = self._take(group)
            if lines or whole:
                try:
                    _write_journal(group.journal, lines, whole, next(self.sequence))
                except OSError as err:
                    log.error("csyncsync: cannot write the journal of group %s: %s", group.name, err)
        log.debug("csyncsync: the watcher is closed")

    # --- The event loop

    def _housekeep_on_loop(self):
        if self.closed:
            return
        self._guarded(self._housekeep)
        self.house_timer = self.loop.call_later(HOUSEKEEPING, self._housekeep_on_loop)
        self._arm(self._next_due())

    def _readable(self):
        """The loop says that there are events."""
        if self.closed:
            return
        self._read()
        self._arm(self._next_due())
        before, self.read_at = self.read_at, time.monotonic()
        if self.read_at - before < READ_PACE and self.fd >= 0:
            self.loop.remove_reader(self.fd)
            self.loop.call_later(READ_PACE, self._read_again)

    def _read_again(self):
        if not self.closed:
            self._listen()

    def _run(self):
        """The loop says that something is due."""
        self.timer = None
        if self.closed:
            return
        self.worked_at = time.monotonic()
        more = self._guarded(self._work, self.worked_at + SLICE)
        self.worked_at = 0.0 if more else self.worked_at
        self._arm(self._next_due())

    def _arm(self, due):
        """Be called at this time, or earlier."""
        if self.loop is None or self.closed or due is None:
            return
        due = max(due, self.worked_at + WORK_PACE)
        if self.timer is not None:
            if self.timer_at <= due:
                return
            self.timer.cancel()
        self.timer_at = due
        # Never at once: the loop's other callbacks come in between.
        self.timer = self.loop.call_later(max(0.002, due - time.monotonic()), self._run)

    def _next_due(self):
        """When there is something to do next (None: nothing)."""
        now = time.monotonic()
        if self._walking() or any(group.ready for group in self.groups.values()):
            return now
        due = [self.heap[0][0]] if self.heap else []
        due += [when + MOVE_WAIT for _, when in self.moving.values()]
        due += [self._flush_due(group) for group in self.groups.values() if self._to_flush(group)]
        due += [group.ask_at for group in self.groups.values() if self._to_ask(group)]
        return min(due) if due else None

    def _guarded(self, work, *args):
        """
        Do it. An error that nobody foresaw must not end the watching: tell it, and check the whole groups.
        """
        try:
            return work(*args)
        except Exception:  # pylint: disable=broad-except
            log.exception("csyncsync: the watcher failed at something; the groups will be checked as a whole")
            for group in self.groups.values():
                group.whole = True
            return None

    def _work(self, deadline):
        """One slice of everything that is due. Returns True if there is more."""
        now = time.monotonic()
        self._end_moves(now)
        self._walk_on(deadline)
        self._settle(now)
        deadline = time.monotonic() + SLICE
        for group in tuple(self.groups.values()):
            self._judge_batch(group, deadline)
            if self._to_flush(group) and self._flush_due(group) <= time.monotonic():
                self._flush(group)
            elif self._to_ask(group) and group.ask_at <= time.monotonic():
                self._ask_aside(group)
        return self._walking() or any(group.ready for group in self.groups.values())

    # --- inotify

    def _open(self):
        """Get a descriptor; on failure every watch fails with the same error, and housekeeping tries again."""
        ctypes.set_errno(0)
        self.fd = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        self.fd_error = ctypes.get_errno() if self.fd < 0 else 0
        if self.fd < 0:
            return
        # Others on this loop close a descriptor first and take it from the loop later, when its number may be
        # somebody else's: keep away from the low numbers, which are handed out again and again.
        try:
            high = fcntl.fcntl(self.fd, fcntl.F_DUPFD_CLOEXEC, HIGH_DESCRIPTOR)
        except OSError:
            high = None
        if high is not None:
            os.close(self.fd)
            self.fd = high
        self._listen()

    def _listen(self):
        """Hear of events from the loop; again and again, in case that somebody took the descriptor from it."""
        if self.loop is not None and self.fd >= 0:
            self.loop.remove_reader(self.fd)
            self.loop.add_reader(self.fd, self._readable)

    def _read(self):
        """Read and handle one buffer of events. Returns True if there may be more."""
        if self.fd < 0:
            return False
        try:
            buffer = os.read(self.fd, 32768)
        except BlockingIOError:
            return False
        self._guarded(self._handle, buffer)
        return True

    def _handle(self, buffer):
        """Given a buffer of inotify events, note what they say."""
        now = time.monotonic()
        places = {}
        offset, end = 0, len(buffer)
        while offset < end:
            wd, mask, cookie, length = _EVENT.unpack_from(buffer, offset)
            offset += _EVENT.size
            name = buffer[offset : offset + length].rstrip(b"\0") if length else b""
            offset += length
            if mask & IN_Q_OVERFLOW:
                log.warning("csyncsync: events were lost (fs.inotify.max_queued_events); checking everything")
                self._walk_again()
                continue
            found = self.nodes.get(wd)
            if found is None:
                continue
            for node in tuple(found) if isinstance(found, list) else (found,):
                if mask & IN_IGNORED:
                    self._disown(node, removed=True)
                elif not name:
                    self._self_event(node, mask, now)
                elif mask & IN_ISDIR:
                    self._directory_event(node, mask, cookie, name, now)
                    places.clear()
                else:
                    if node not in places:
                        places[node] = _locate(node)
                    root, directory = places[node]
                    if root is not None:
                        self._file_event(root, directory, mask, cookie, name, now)

    def _self_event(self, node, mask, now):
        """Only a root has nobody above it who hears of its own changes."""
        if not isinstance(node, Root) or node.only is not None or node.group is None:
            return
        if mask & IN_ATTRIB and not mask & (IN_DELETE_SELF | IN_MOVE_SELF):
            if not node.excluded:
                self._note(node.group, node.path, now)
        elif mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT):
            self._check_root(node.group, node.path)

    def _file_event(self, root, directory, mask, cookie, name, now):
        """Something happened to a file (or link, socket …) in a watched directory."""
        renamed = mask & IN_MOVED_TO and self.renaming.pop(cookie, None) is not None
        if mask & IN_MOVED_FROM and _TEMPORARY.match(name):
            self.renaming[cookie] = now
        if root.only is not None and root.only != name:
            return
        path = root.path if root.only else directory + b"/" + name
        if root.group.excludes.match(path, name):
            return
        # Also what came and went at once is judged: a check of the directory may have seen, and sent, it in between.
        entry = self._note(root.group, path, now)
        if renamed:
            self.landing[path] = now
        elif mask & (IN_MODIFY | IN_CLOSE_WRITE) and path in self.landing:
            # rsync.c, csync_rs_patch(): the file gets its name before its buffers are written and it is closed.
            if mask & IN_CLOSE_WRITE:
                del self.landing[path]
        elif mask & (IN_MODIFY | IN_CLOSE_WRITE | IN_CREATE | IN_MOVED_TO):
            entry.own = True
            entry.written = entry.written or bool(mask & IN_MODIFY)
        if mask & IN_MODIFY:
            entry.writing = True
        elif entry.writing and not mask & IN_ATTRIB:
            entry.writing = False
            due = self._due(entry)
            if due < entry.queued:
                self._queue(entry, due)

    def _directory_event(self, parent, mask, cookie, name, now):
        """Something happened to a directory in a watched directory."""
        root, directory = _locate(parent)
        if root is None:
            return
        if root.only is not None:
            if root.only == name:
                self._check_root(root.group, root.path)
            return
        path = directory + b"/" + name
        excluded = root.group.excludes.match(path, name)
        if mask & (IN_MOVED_FROM | IN_DELETE):
            node = parent.children.pop(name, None)
            if node is not None:
                node.parent = None
                if mask & IN_MOVED_FROM:
                    self.moving[cookie] = (node, now)
                else:
                    self._drop(node)
        elif mask & (IN_CREATE | IN_MOVED_TO):
            self._directory_came(parent, name, excluded, cookie if mask & IN_MOVED_TO else 0)
        if excluded:
            return
        entry = self._note(root.group, path, now)
        if not mask & IN_ATTRIB:
            entry.tree = True
            entry.moved = entry.moved or not mask & IN_CREATE
            entry.came = entry.came or bool(mask & IN_MOVED_TO)

    def _directory_came(self, parent, name, excluded, cookie):
        """A directory was made, or moved here (then with a cookie)."""
        node, _ = self.moving.pop(cookie, (None, None))
        known = parent.children.get(name)
        if node is None and known is not None and not cookie:
            return  # a walk was faster than the event
        if known is not None:
            self._drop(known)
        if node is None:
            node = Node(name, parent)
            mode = NEW
        else:
            node.name, node.parent = name, parent
            # Other patterns may exclude what is below its new name; new directories may be in it.
            self.chores.append(self._exclude_again(node))
            mode = NEW if node.wd is None else None
        parent.children[name] = node
        if excluded:
            self._drop_watches(node)
            node.excluded = True
        elif mode:
            node.excluded = False
            self.new.append((node, mode))

    def _end_moves(self, now):
        """Directories whose rename has no second half were moved out."""
        for cookie, (node, when) in tuple(self.moving.items()):
            if now - when >= MOVE_WAIT:
                del self.moving[cookie]
                self._drop(node)

    # --- Watches

    def _watch(self, node, path):
        """Watch a directory. Returns 0 or the error's number."""
        if self.fd < 0:
            return self.fd_error
        wd = _libc.inotify_add_watch(self.fd, path, MASK)
        if wd < 0:
            return ctypes.get_errno()
        if node.wd == wd:
            return 0
        if node.wd is not None:
            self._disown(node)
        self._take_over(wd, path)
        node.wd = wd
        found = self.nodes.get(wd)
        if found is None:
            self.nodes[wd] = node
        elif isinstance(found, list):
            found.append(node)
        else:
            self.nodes[wd] = [found, node]
        return 0

    def _take_over(self, wd, path):
        """
        A directory that was watched under another path is no longer there (it was moved while nobody heard of
        it), unless it can be seen at both places.
        """
        found = self.nodes.get(wd)
        for other in tuple(found) if isinstance(found, list) else (found,) if found is not None else ():
            root, there = _locate(other)
            if root is None or not _same_directory(there, path):
                self._disown(other, keep=True)

    def _disown(self, node, removed=False, keep=False):
        """Take the watch from a node, and back from the kernel if no other node has it."""
        wd, node.wd = node.wd, None
        found = self.nodes.get(wd)
        if isinstance(found, list):
            found.remove(node)
            if found:
                return
        elif found is not node:
            return
        del self.nodes[wd]
        if not removed and not keep and self.fd >= 0:
            _libc.inotify_rm_watch(self.fd, wd)

    def _drop(self, node):
        """Forget a directory and everything below it."""
        if node.parent is not None and node.parent.children.get(node.name) is node:
            del node.parent.children[node.name]
        node.parent = None
        self._drop_watches(node)

    def _drop_watches(self, node):
        """Give back the watches of a directory and of everything below it, in slices."""
        top, node.children = [node, *node.children.values()], {}
        for child in top[1:]:
            child.parent = None
        self._unwatch(node)
        if len(top) > 1:
            self.chores.append(self._unwatch_all(top[1:]))

    def _unwatch_all(self, stack):
        while stack:
            node = stack.pop()
            stack.extend(node.children.values())
            self._unwatch(node)
            yield

    def _unwatch(self, node):
        for group in self.groups.values():
            group.unwatched.discard(node)
        if node.wd is not None:
            self._disown(node)

    # --- Walking

    def _walking(self):
        return bool(self.chores or self.new or self.walk or self.scan)

    def _walk_on(self, deadline):
        """Walk until the deadline: new directories before the great walks."""
        while self._walking():
            if self.scan is None:
                self.scan = self._next_scan()
            for _ in self.scan:
                if time.monotonic() >= deadline:
                    return
            self.scan = None
            if time.monotonic() >= deadline:
                return

    def _next_scan(self):
        if self.chores:
            return self.chores.popleft()
        if self.new:
            node, mode = self.new.popleft()
            return self._scan(node, mode)
        node, mode, group = self.walk.pop()
        return self._scan_counted(node, mode, group)

    def _push_walk(self, node, mode, group):
        group.walking += 1
        self.walk.append((node, mode, group))

    def _scan_counted(self, node, mode, group):
        """A step of a group's great walk; the last one ends it."""
        try:
            yield from self._scan(node, mode)
        except Exception:  # pylint: disable=broad-except
            log.exception("csyncsync: cannot walk a directory of group %s", group.name)
        group.walking -= 1
        if not group.walking:
            self._walk_done(group)

    def _walk_done(self, group):
        """From here on nothing escapes; what happened before is found by checking the whole group."""
        if group.gone:
            return
        group.whole = True
        group.walked = True
        group.walks += 1
        self._tell_unwatched(group)
        self._write_status(group, force=True)

    def _walk_again(self):
        """Events were lost: look at every directory again."""
        for group in self.groups.values():
            group.whole = True
            for root in group.roots.values():
                if root is not None:
                    self._push_walk(root, AGAIN, group)

    def _scan(self, node, mode):
        """
        Watch a directory, then read it: what is made in between comes as an event, so nothing is missed.
        A generator: the walk can stop at each of its steps.
        """
        root, path = _locate(node)
        if root is None or node.excluded:
            return
        group = root.group
        problem = self._watch(node, path)
        if problem in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            if node is not root:
                self._drop(node)
            return
        if problem:
            group.unwatched.add(node)
            group.problem = problem
            group.rewalk_at = time.monotonic() + REWALK
        else:
            group.unwatched.discard(node)
        if root.only is not None:
            return
        try:
            entries = os.scandir(path)
        except OSError as err:
            log.debug("csyncsync: cannot read a directory: %s", err.strerror)
            return
        seen = set()
        with entries:
            yield from self._scan_entries(node, mode, entries, seen)
        if mode == AGAIN:
            for name in [name for name in node.children if name not in seen]:
                self._drop(node.children[name])

    def _scan_entries(self, node, mode, entries, seen):
        root, path = _locate(node)
        covered = mode == NEW and self._cover(root.group, path)
        try:
            for number, item in enumerate(entries):
                if number % 16 == 0:
                    yield
                    # Meanwhile, the directory may have been moved, or what covers it may have gone out.
                    root, path = _locate(node)
                    if root is None:
                        return
                    covered = mode == NEW and self._cover(root.group, path)
                name = item.name
                if item.is_dir(follow_symlinks=False):
                    seen.add(name)
                    self._scan_child(node, mode, root.group, path + b"/" + name, covered)
                elif mode in (NEW, NOTE, COMPARE) and not covered:
                    inner = path + b"/" + name
                    if not root.group.excludes.match(inner, name):
                        entry = self._note(root.group, inner, time.monotonic())
                        entry.compare = entry.compare or mode == COMPARE
        except OSError as err:
            log.debug("csyncsync: cannot read a directory to its end: %s", err.strerror)

    def _scan_child(self, parent, mode, group, path, covered):
        """The walk came to a directory in a directory."""
        name = os.path.basename(path)
        child = parent.children.get(name)
        if child is None:
            child = parent.children[name] = Node(name, parent)
            child.excluded = group.excludes.match(path, name)
        elif mode in (FIRST, NEW):
            return  # somebody has it in hand already
        if child.excluded:
            return
        if mode in (FIRST, AGAIN):
            self._push_walk(child, mode, group)
        else:
            if not covered and mode != COMPARE:
                self._note(group, path, time.monotonic()).tree = True
            self.new.append((child, mode))

    def _cover(self, group, path):
        """Tell whether an entry that stands for this directory and everything below it is still waiting."""
        while path:
            entry = group.pending.get(path)
            if entry is not None and entry.tree:
                entry.covers = True
                entry.last = time.monotonic()
                return True
            path = path.rpartition(b"/")[0]
        return False

    def _exclude_again(self, top):
        """Apply the excludes anew to a directory and what is below it, without reading the disk."""
        stack = [top]
        while stack:
            node = stack.pop()
            root, path = _locate(node)
            if root is None or root.only is not None:
                continue
            excluded = root.group.excludes.match(path, os.path.basename(path))
            if excluded and not node.excluded:
                self._drop_watches(node)
            elif node.excluded and not excluded:
                node.excluded = False
                self._push_walk(node, FIRST, root.group)
            else:
                stack.extend(node.children.values())
            node.excluded = excluded
            yield

    def _tell_unwatched(self, group):
        """Say once, where it can be seen, that not everything could be watched."""
        if not group.unwatched:
            group.error, group.error_told = None, False
            return
        group.error = self._unwatched_text(group)
        if not group.error_told:
            group.error_told = True
            log.error("csyncsync: %s", group.error)
            self._fire(group, 0, True, group.error)

    def _unwatched_text(self, group):
        watched, missing = len(self.nodes), sum(len(other.unwatched) for other in self.groups.values())
        if self.fd < 0:
            reason = os.strerror(self.fd_error)
            return f"group {group.name} is not watched: inotify: {reason} (fs.inotify.max_user_instances?)"
        reason = os.strerror(group.problem)
        if group.problem == errno.ENOSPC:
            reason = (
                f"fs.inotify.max_user_watches is {_watch_limit()}, {watched} are in use here and at least"
                f" {watched + missing} are needed (pillar csyncsync:max_user_watches)"
            )
        return (
            f"{len(group.unwatched)} directories of group {group.name} are not watched: {reason};"
            f" until then the whole group is checked every {REWALK:.0f} seconds"
        )

    # --- From events to ready paths

    def _note(self, group, path, now):
        """A path changed: it becomes ready when it has been quiet."""
        entry = group.pending.get(path)
        if entry is not None:
            entry.last = now
            return entry
        if group.waiting() >= self.options.max_paths:
            group.pending.clear()
            group.ready.clear()
            group.out.clear()
            group.whole = True
        entry = group.pending[path] = Entry(group, path, now)
        self._queue(entry, now + self.options.settle)
        return entry

    def _queue(self, entry, due):
        """Look at an entry at this time, and not when it was to be looked at before."""
        entry.queued = due
        heapq.heappush(self.heap, (due, next(self.sequence), entry))

    def _due(self, entry):
        """When an entry is ready, as far as is known now."""
        longest = entry.first + self.options.max_delay * (5 if entry.writing or entry.temporary else 1)
        settle = max(self.options.settle, TEMPORARY_SETTLE) if entry.temporary else self.options.settle
        due = longest if entry.writing else min(entry.last + settle, longest)
        last, times = entry.group.recent.get(entry.path, (0.0, 0))
        if times >= HOT:
            due = max(due, last + self.options.max_delay)
        return max(due, entry.hold)

    def _settle(self, now):
        """Move the entries that are due from pending to ready."""
        for _ in range(2000):
            if not self.heap or self.heap[0][0] > now:
                return
            queued, _, entry = heapq.heappop(self.heap)
            group = entry.group
            if queued != entry.queued or group.pending.get(entry.path) is not entry or group.gone:
                continue
            due = self._due(entry)
            if due > now:
                self._queue(entry, due)
                continue
            del group.pending[entry.path]
            entry.judged = entry.judged or now
            group.ready.append(entry)

    # --- The echo filter

    def _judge_batch(self, group, deadline):
        """Decide about the ready paths of a group, with csync2's database opened once, until the deadline."""
        if not group.ready:
            return
        # Looked at before the database is: what is committed in between then shows as a difference that waits.
        receiving, commits = self._is_receiving(), _commits(group.database)
        database, locked = self._database(group)
        try:
            for number in range(BATCH):
                if not group.ready or (number % 16 == 15 and time.monotonic() >= deadline):
                    break
                entry = group.ready.popleft()
                if entry.commits is None:
                    entry.commits = commits
                verdict = self._judge(entry, database, locked)
                if verdict in (GO, ALONE) and receiving and self._may_be_csync2s(entry, verdict, commits):
                    verdict = WAIT
                self._carry_out(group, entry, verdict)
        finally:
            if database is not None:
                database.__exit__(None, None, None)

    def _is_receiving(self):
        """Tell whether a peer's csync2 is connected; looked up again before the next path can have settled."""
        now = time.monotonic()
        if now - self.receiving_at > min(0.05, self.options.settle / 2):
            self.receiving_at, self.receiving = now, _is_connected()
        return self.receiving

    def _database(self, group):
        """Return csync2's database or None, and whether one is there that cannot be read now."""
        if self.helper is None or not group.database or not os.path.exists(group.database):
            return None, False
        try:
            return self.helper.Database(group.database), False
        except sqlite3.Error:
            return None, True

    def _judge(self, entry, database, locked):
        """Given a ready entry, return GO, ALONE, DROP, or WAIT if the database is locked. When in doubt it goes."""
        try:
            status = os.lstat(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            status = None
        except OSError:
            return GO
        if status is None or not stat.S_ISREG(status.st_mode):
            entry.own = False
        if database is None and not locked:
            return DROP if status is None and entry.temporary else GO
        try:
            if database is not None:
                return self._compare(entry, status, database)
        except sqlite3.Error:
            pass
        except (OSError, ValueError):
            return GO
        return GO if entry.own or time.monotonic() - entry.judged >= COMMIT_WAIT else WAIT

    def _compare(self, entry, status, database):
        """Compare a path's state with csync2's record of it."""
        record = database.record(entry.path)
        if status is None:
            return GO if record is not None or database.has_below(entry.path) else DROP
        text = self.helper.check_text(entry.path, status)
        if record is not None and status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            entry.group.linked = entry.group.linked or entry.written or text != record
        if entry.came:
            entry.came = database.has_below(entry.path)
        if record is None or text != record:
            return DROP if entry.compare and not entry.own else GO
        if stat.S_ISDIR(status.st_mode):
            return GO if entry.moved else DROP
        if stat.S_ISLNK(status.st_mode):
            return DROP
        # csync2's own check cannot see a change that leaves size, second, mode and owner as they were recorded.
        if entry.own or entry.compare:
            return ALONE
        return DROP if status.st_mtime_ns % 10**9 == 0 or _is_unfinished(status) else ALONE

    def _may_be_csync2s(self, entry, verdict, commits):
        """
        While a peer sends: tell whether csync2's daemon may still be about to write down, commit, or finish what it
        did to this path. It takes several steps: content, owner, mode, time.
        """
        age = time.monotonic() - entry.judged
        if entry.temporary:
            return age < TEMPORARY_WAIT
        if verdict == ALONE:
            return not entry.compare and age < (OWN_WAIT if entry.own else COMMIT_WAIT)
        if entry.own or age >= COMMIT_WAIT:
            return False
        uncommitted = os.path.exists(entry.group.database or "") and os.path.exists(f"{entry.group.database}-journal")
        # What was open when the path was first looked at, and the transaction after it, are committed by then.
        return age < RECORD_WAIT or (uncommitted and commits - entry.commits < 2)

    def _carry_out(self, group, entry, verdict):
        if verdict == WAIT:
            self._wait(group, entry)
            return
        if verdict == DROP:
            if entry.tree and entry.covers:
                self._walk_below(group, entry, NOTE)
            return
        if entry.tree and entry.came:
            self._walk_below(group, entry, COMPARE)
        now = time.monotonic()
        last, times = group.recent.get(entry.path, (0.0, 0))
        group.recent[entry.path] = (now, times + 1 if now - last < self.options.max_delay * 1.5 else 0)
        group.out.append((entry.path, entry.tree, verdict == ALONE))

    def _walk_below(self, group, entry, mode):
        node = self._find(group, entry.path)
        if node is not None:
            self.new.append((node, mode))

    def _wait(self, group, entry):
        """Look again in a moment; a newer entry of the same path takes this one in."""
        newer = group.pending.get(entry.path)
        if newer is not None:
            for name in ("tree", "moved", "came", "covers", "own", "written", "compare"):
                setattr(newer, name, getattr(newer, name) or getattr(entry, name))
            newer.judged = entry.judged
            return
        now = time.monotonic()
        entry.hold = now + min(max(COMMIT_POLL[0], now - entry.judged), COMMIT_POLL[1])
        group.pending[entry.path] = entry
        self._queue(entry, entry.hold)

    def _find(self, group, path):
        """The node of a directory, None if it is not known."""
        for root in group.roots.values():
            if root is None or root.only is not None:
                continue
            if path == root.path:
                return root
            if path.startswith(root.path + b"/"):
                node = root
                for name in path[len(root.path) + 1 :].split(b"/"):
                    node = node.children.get(name)
                    if node is None:
                        return None
                return node
        return None

    # --- The journal and the events

    def _to_flush(self, group):
        return bool(group.out or group.whole) and group.flushing is None and not group.gone

    def _flush_due(self, group):
        """When a group may be flushed: once per settle, and the whole mark alone once per max_delay."""
        due = group.last_flush + self.options.settle
        return due if group.out else max(due, group.last_whole + self.options.max_delay)

    def _take(self, group):
        """What the next flush writes: (lines, whole)."""
        out, group.out = group.out, []
        lines, whole = _lines(out), group.whole
        group.whole = False
        if len(lines) > self.options.max_paths:
            lines, whole = [], True
        return lines, whole

    def _flush(self, group):
        """Write what is ready into the group's journal, then fire the event."""
        lines, whole = self._take(group)
        now = time.monotonic()
        group.last_flush = now
        group.last_whole = now if whole else group.last_whole
        number = next(self.sequence)
        group.unasked += len(lines)

        def work():
            _write_journal(group.journal, lines, whole, number)
            self._ask(group, whole)

        def done(err):
            group.flushing = None
            if err is not None and not group.gone:
                log.error("csyncsync: cannot write the journal of group %s: %s", group.name, err)
                group.whole = True
                group.last_flush = group.last_whole = time.monotonic() + HOUSEKEEPING

        group.flushing = self._aside(work, done)

    def _to_ask(self, group):
        return group.unasked and group.flushing is None and not group.gone

    def _is_asked(self, group):
        """Tell whether the journal is as old as when a push was asked for: that push will take all of it."""
        return group.asked is not None and os.path.exists(os.path.join(group.journal, group.asked))

    def _ask_aside(self, group):
        """Ask for a push of what was written while the one before was taking the journal, or look again later."""
        group.ask_at = time.monotonic() + ASK_AGAIN
        if self._is_asked(group):
            return

        def done(_):
            group.flushing = None

        group.flushing = self._aside(lambda: self._ask(group), done)

    def _ask(self, group, whole=False):
        """Ask for a push, unless that was done already."""
        group.ask_at = time.monotonic() + ASK_AGAIN
        if self._is_asked(group) and not whole:
            return
        names = sorted(name for name in _names(group.journal) if name.endswith(".paths"))
        count, group.unasked, group.asked = group.unasked, 0, names[0] if names else None
        if count or whole:
            group.last_fired = time.monotonic()
            self._send(group, self._event(group, count, whole))

    def _fire(self, group, count, whole, error=None):
        """Fire an event alone."""
        group.last_fired = time.monotonic()
        event = self._event(group, count, whole, error)
        self._aside(lambda: self._send(group, event), lambda err: None)

    def _event(self, group, count, whole, error=None):
        data = {"id": self.opts.get("id"), "group": group.name, "count": count, "whole": whole}
        return {**data, "error": error} if error else data

    def _send(self, group, data):
        """Hand an event to the minion, the way it does itself with what a beacon returns."""
        if self.loop is None:
            self.outbox.append({"tag": group.name, **data})
            return
        tag = f"salt/beacon/{data['id']}/{__virtualname__}/{group.name}"
        beacons = [{"tag": tag, "data": data, "beacon_name": __virtualname__}]
        try:
            send(self.opts, {"beacons": beacons}, "__beacons_return")
        except (Exception, asyncio.CancelledError) as err:  # pylint: disable=broad-except
            # Salt raises many things here; the event is repeated as long as the journal is not empty.
            log.debug("csyncsync: the event of group %s could not be fired: %s", group.name, err)

    def _aside(self, work, done):
        """
        Do what may block (fsync on a busy disk, the minion's bus) beside the loop, then call done(error).
        """
        if self.loop is None:
            done(_error_of(work))
            return None

        def thread():
            err = asyncio.CancelledError()
            try:
                err = _error_of(work)
            finally:
                tell(err)

        def tell(err):
            try:
                self.loop.call_soon_threadsafe(finish, err)
            except RuntimeError:
                pass  # the loop has ended

        def finish(err):
            done(err)
            self._arm(self._next_due())

        worker = threading.Thread(target=thread, name="csyncsync", daemon=True)
        worker.start()
        return worker

    # --- Once a second

    def _housekeep(self):
        """Configs, roots, what is left to do, the status."""
        if self.fd < 0:
            self._reopen()
        self._listen()
        self._load_helper()
        self._read_configs()
        now = time.monotonic()
        self.children = [child for child in self.children if child.poll() is None]
        for group in tuple(self.groups.values()):
            for path in group.include:
                self._check_root(group, path)
            if group.unwatched and not group.walking:
                if not group.error_told:
                    self._tell_unwatched(group)
                if now >= group.rewalk_at:
                    self._watch_unwatched(group, now)
            old = now - 3 * self.options.max_delay
            group.recent = {path: value for path, value in group.recent.items() if value[0] > old}
            if group.linked and now - group.last_whole >= LINKED_INTERVAL:
                group.linked, group.whole = False, True
            self._repeat(group, now)
            self._write_status(group)
        self.renaming = {cookie: when for cookie, when in self.renaming.items() if now - when < LANDING_WAIT}
        self.landing = {path: when for path, when in self.landing.items() if now - when < LANDING_WAIT}

    def _reopen(self):
        """Try again to get a descriptor, when the unwatched directories are tried again too."""
        if any(time.monotonic() >= group.rewalk_at for group in self.groups.values()):
            self._open()

    def _watch_unwatched(self, group, now):
        """Try again what could not be watched; the end of the walk marks the whole group."""
        group.rewalk_at = now + REWALK
        nodes, group.unwatched = group.unwatched, set()
        for node in nodes:
            self._push_walk(node, FIRST, group)

    def _load_helper(self):
        """Load what knows csync2's database, by its path: beacons get no utils. Anew when it has changed."""
        here = os.path.dirname(os.path.abspath(__file__))
        for folder in ("utils", "_utils"):
            path = os.path.join(os.path.dirname(here), folder, "csync2.py")
            try:
                mtime = os.stat(path).st_mtime_ns
            except OSError:
                continue
            if mtime != self.helper_mtime:
                self.helper_mtime = mtime
                try:
                    self.helper = _load(path, "csyncsync_watcher_csync2")
                except Exception as err:  # pylint: disable=broad-except
                    log.error("csyncsync: cannot load %s, csync2's own writes are not left out: %s", path, err)
            return
        if self.helper_mtime is None:
            self.helper_mtime = 0
            log.error("csyncsync: the util module csync2 is missing (saltutil.sync_utils brings it)")

    def _read_configs(self):
        """Take in configs that are new or have changed, and let go of groups that are no more."""
        found = {}
        try:
            with os.scandir(self.options.state_dir) as entries:
                for item in entries:
                    if _GROUP_NAME.match(item.name):
                        try:
                            status = os.stat(os.path.join(item.path, "config.json"))
                        except OSError:
                            continue
                        found[item.name] = (status.st_mtime_ns, status.st_ino)
        except FileNotFoundError:
            pass
        except OSError as err:
            log.error("csyncsync: cannot read %s: %s", self.options.state_dir, err)
            return
        for name in [name for name in self.groups if name not in found]:
            self._remove_group(self.groups.pop(name))
        for name, signature in found.items():
            group = self.groups.get(name)
            if group is None:
                group = self.groups[name] = Group(name, os.path.join(self.options.state_dir, name))
                _sweep(group.journal)
                self._write_status(group, force=True)
            if group.signature != signature:
                group.signature = signature
                self._configure(group)

    def _configure(self, group):
        """Read a group's config and watch the differences."""
        path = os.path.join(group.directory, "config.json")
        try:
            with open(path, encoding="utf-8") as file:
                config = json.load(file)
            include = _outermost([_raw(item) for item in config["include"]])
            exclude = [_raw(item) for item in config.get("exclude") or []]
            database = config.get("database")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
            log.error("csyncsync: cannot use %s: %s %s", path, type(err).__name__, err)
            group.config_error = f"cannot use {path}: {err}"
            return
        group.config_error = None
        group.database = database if isinstance(database, str) else None
        for gone in [path for path in group.roots if path not in include]:
            self._remove_root(group, gone)
        if exclude != group.exclude:
            group.exclude, group.excludes = exclude, Excludes(exclude)
            for root in group.roots.values():
                if root is not None:
                    self.chores.append(self._exclude_again(root))
            group.whole = group.whole or group.walked
        group.include = include
        for path in include:
            self._check_root(group, path)
        if not group.walking and not group.walked:
            self._walk_done(group)  # nothing is there to be watched yet

    def _check_root(self, group, path):
        """Watch an include that has appeared, let go of one that has vanished, or both if it is another now."""
        try:
            status = os.lstat(path)
        except OSError:
            status = None
        root = group.roots.get(path)
        if status is not None and stat.S_ISDIR(status.st_mode):
            only, identity = None, (status.st_dev, status.st_ino)
        elif status is not None or (root is not None and root.only is not None):
            # A file may be gone for a moment, while another is renamed to its name.
            only, identity = os.path.basename(path), _identity(os.path.dirname(path))
        else:
            only = identity = None
        if root is not None and root.identity == identity and root.only == only:
            return
        if root is not None:
            self._remove_root(group, path)
        group.roots[path] = None
        if identity is None:
            return
        root = group.roots[path] = Root(group, path, only, identity)
        root.excluded = group.excludes.match(path, os.path.basename(path))
        self._push_walk(root, FIRST, group)

    def _remove_root(self, group, path):
        root = group.roots.pop(path, None)
        if root is not None:
            self._drop_watches(root)
            root.group = None

    def _remove_group(self, group):
        """A group's config is gone: stop watching, and leave its directory alone."""
        group.gone = True
        for path in list(group.roots):
            self._remove_root(group, path)
        group.pending.clear()
        group.ready.clear()
        group.out.clear()

    def _repeat(self, group, now):
        """While something is left, fire the event again and again, more and more slowly."""
        oldest, whole = _oldest(group.journal)
        left = _mtime(os.path.join(group.directory, "left"))
        if oldest is None and left is None:
            group.repeats = 0
            return
        if group.flushing is not None:
            return
        if now - group.last_fired >= min(self.options.retry * 2**group.repeats, RETRY_CAP):
            group.repeats = min(group.repeats + 1, 10)
            self._fire(group, 0, whole)
        wall = time.time()
        waits = (oldest is not None and wall - oldest > group.alone_after) or (
            left is not None and wall - left > LEFT_ALONE_AFTER
        )
        # Not while the master lets this host wait for another one, nor when its own long push has only just ended.
        for name, patience in (("waits", LEFT_ALONE_AFTER), ("push.json", group.alone_after)):
            told = _mtime(os.path.join(group.directory, name))
            waits = waits and (told is None or not 0 <= wall - told <= patience)
        if waits and now >= group.alone_at and not _locked(os.path.join(group.directory, "lock")):
            group.alone_at = now + random.uniform(*ALONE_INTERVAL)
            self._push_alone(group)

    def _push_alone(self, group):
        """No master answers: start the push here."""
        command = shutil.which("systemctl")
        if command is None:
            return
        log.info("csyncsync: no push of group %s has been asked for; starting it here", group.name)
        try:
            child = subprocess.Popen(
                [command, "start", "--no-block", f"csyncsync-push@{group.name}.service"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            self.children.append(child)
        except OSError as err:
            log.error("csyncsync: cannot start the push of group %s: %s", group.name, err)

    def _write_status(self, group, force=False):
        """Write watch.json, if it says something new."""
        now = time.monotonic()
        if group.gone or (not force and now - group.status_at < STATUS_INTERVAL):
            return
        hot = [path for path, (_, times) in group.recent.items() if times >= HOT][:10]
        status = {
            "watches": len(self.nodes),
            "limit": _watch_limit(),
            "ready": group.walked,
            "walks": group.walks,
            "error": group.config_error or group.error,
            "hot": [path.decode("utf-8", "backslashreplace") for path in sorted(hot)],
            "pid": self.pid,
        }
        if status == group.status:
            return
        group.status, group.status_at = status, now
        try:
            _write(os.path.join(group.directory, "watch.json"), json.dumps({**status, "time": time.time()}))
        except OSError as err:
            log.debug("csyncsync: cannot write the status of group %s: %s", group.name, err)


# --- Helpers ---------------------------------------------------------------------------------------------


def send(opts, data, tag):
    """Fire an event on the minion's own bus."""
    with salt.utils.event.get_event("minion", opts=opts, listen=False) as event:
        event.fire_event(data, tag)


def _locate(node):
    """Given a node, return its root and its path; (None, None) if it hangs on no root (any more)."""
    names = []
    while node.parent is not None:
        names.append(node.name)
        node = node.parent
    if not isinstance(node, Root) or node.group is None:
        return None, None
    names.append(node.name)
    return node, b"/".join(reversed(names))


def _same_directory(one, other):
    return _identity(one) == _identity(other) is not None


def _identity(path):
    """Device and inode of a path, None if it is not there."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _raw(path):
    """A path or pattern of a config as bytes, whatever the minion's locale."""
    return path.encode("utf-8", "surrogateescape")


def _outermost(paths):
    """The includes without those that are below another one: its watches cover them."""
    paths = [path.rstrip(b"/") for path in paths]
    if not all(path.startswith(b"/") for path in paths):
        raise ValueError("an include is not an absolute path")
    tops = []
    for path in sorted(set(paths)):
        if not any(path.startswith(top + b"/") for top in tops):
            tops.append(path)
    return tops


def _lines(out):
    """
    Given [(path, tree, alone), …], return the lines of a journal file. What is below a tree of the same flush
    is left out, unless it must be named alone.
    """
    trees = {path for path, tree, _ in out if tree}
    lines = {}
    for path, tree, alone in out:
        if trees and not alone and _below_any(path, trees):
            continue
        lines[path + b"/" if tree else path] = None
    return list(lines)


def _below_any(path, trees):
    """Tell whether a path is below one of these, or is one of them itself without standing for a tree."""
    path = path.rpartition(b"/")[0]
    while path:
        if path in trees:
            return True
        path = path.rpartition(b"/")[0]
    return False


def _write_journal(directory, lines, whole, number):
    """Write one flush: lines into a new file, the mark as a new file over the old one. Survives a power cut."""
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        pass
    temporary = os.path.join(directory, f".tmp-{os.getpid()}-{number}")
    if lines:
        name = f"{time.time_ns():020d}-{number}.paths"
        _put(temporary, os.path.join(directory, name), b"".join(line + b"\0" for line in lines))
    if whole:
        _put(temporary, os.path.join(directory, "whole"), b"")
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put(temporary, path, content):
    """Write a file durably, then give it its name."""
    with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)


def _write(path, text):
    """Write a small file atomically."""
    temporary = os.path.join(os.path.dirname(path), f".tmp-{os.path.basename(path)}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    os.rename(temporary, path)


def _sweep(directory):
    """Remove what a crash left half-written in a journal."""
    try:
        for name in os.listdir(directory):
            if name.startswith(".tmp-"):
                os.unlink(os.path.join(directory, name))
    except OSError:
        pass


def _oldest(directory):
    """When the oldest entry of a journal was made (None: it is empty), and whether the whole mark is set."""
    try:
        names = [name for name in os.listdir(directory) if not name.startswith(".")]
    except OSError:
        return None, False
    times = [int(name[:20]) / 10**9 for name in names if name.endswith(".paths") and name[:20].isdigit()]
    whole = _mtime(os.path.join(directory, "whole")) if "whole" in names else None
    if whole is not None:
        times.append(whole)
    return (min(times) if times else time.time()) if names else None, whole is not None


def _names(directory):
    """What is in a directory, [] if it is not there."""
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _mtime(path):
    """When a file was changed, None if it is not there."""
    try:
        return os.stat(path).st_mtime
    except OSError:
        return None


def _locked(path):
    """Tell whether somebody holds this lock."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _is_connected():
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


def _commits(database):
    """How many transactions have been committed to a database of SQLite (its header's file change counter)."""
    try:
        with open(database or "", "rb") as file:
            return int.from_bytes(file.read(28)[24:], "big")
    except OSError:
        return 0


def _is_unfinished(status):
    """Tell whether a file is as csync2's mkstemp() makes it: the peer went away before it told owner and mode."""
    return (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o600, 0, 0)


def _watch_limit():
    """How many directories one user may watch; 0 if unknown."""
    try:
        with open("/proc/sys/fs/inotify/max_user_watches", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def _error_of(work):
    """Do the work and return the exception it raised, if any."""
    try:
        work()
    except Exception as err:  # pylint: disable=broad-except
        return err
    return None


def _load(path, name):
    """Load a Python file as a module of its own, which nobody else gets."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
