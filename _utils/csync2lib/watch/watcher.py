"""
The watcher: from what happens in the groups' directories to lines in their journals, and a push that is asked for.

It rides on the minion's event loop, in small slices. A path that has been quiet for a moment is ready; what csync2
itself has written is left out; the rest is written into the group's journal, and one event goes out. Once a second it
looks at the groups' configs, roots, journals and what is left to push.

The beacon starts it, and runs it from a copy of this file that Salt does not know. May call ``csync2inotify``,
``csync2echo``, ``csync2file``, ``csync2journal``, ``csync2left``, ``csync2backup``, ``csync2status``,
``csync2metrics``, ``csync2cert``, Salt's event bus and the standard library.
"""

import asyncio
import collections
import heapq
import itertools
import json
import logging
import os
import random
import re
import shutil
import subprocess
import threading
import time

import salt.utils.event

from csync2lib import journal, storage, waits
from csync2lib.backups import GENERATIONS, make_room, make_way
from csync2lib.certificate import end
from csync2lib.csync2 import temporary
from csync2lib.report import metrics
from csync2lib.report import status as host_status
from csync2lib.watch import echo, inotify
from csync2lib.watch.tree import COMPARE, NOTE, Tree

log = logging.getLogger(__name__)

#: The beacon's name, as it stands in the tags of its events.
BEACON = "csyncsync"
#: In the directory of state: a link to where the metrics are to be written.
METRICS = "metrics.prom"
#: Seconds from close() to the real end: Salt calls close() at every refresh, and beacon() again right after.
CLOSE_DELAY = 10
#: After so many seconds without a change in a group, the next ones go out when it has been quiet for this share of
#: settle; of what follows them soon, or goes on for longer than settle, each path settles on its own.
CALM, CALM_SHARE = 0.5, 0.25
#: Seconds of work in one callback of the event loop, and in one tick where there is no loop.
SLICE = 0.015
TICK_SLICE = 0.2
#: While much happens: seconds between two readings of events, and between two looks at what is ready. Many at once
#: cost a fraction of what they cost one by one.
READ_PACE, WORK_PACE = 0.01, 0.05
#: Seconds between looks at configs, include roots and journals.
HOUSEKEEPING = 1.0
#: Paths judged with one opening of csync2's database.
BATCH = 200
#: Seconds between two looks at a path that csync2 may not have finished: at first, and at last.
COMMIT_POLL = (0.25, 1.0)
#: Seconds that csync2 may keep one of its temporary files untouched.
TEMPORARY_SETTLE = 2.0
#: A path that went out so many times in a row, each within max_delay, is hot.
HOT = 3
#: Seconds between looks whether a push has taken the journal, while more has been written into it.
ASK_AGAIN = 0.2
STATUS_INTERVAL = 5.0
#: Seconds between two writings of the metrics, and the share of the time that they may take: to count what is to be
#: sent takes a while if that is much.
METRICS_INTERVAL, METRICS_SHARE = 15.0, 0.02

#: What an entry that waits leaves to a newer one of the same path.
MERGED = ("tree", "moved", "deleted", "came", "covers", "own", "written", "compare", "told", "csync2s")

_GROUP_NAME = re.compile(r"[a-z0-9]{1,64}\Z")


class Entry:
    """A changed path that waits until it is ready."""

    __slots__ = (
        "came",
        "commits",
        "compare",
        "covers",
        "csync2s",
        "deleted",
        "first",
        "group",
        "hold",
        "judged",
        "last",
        "moved",
        "own",
        "path",
        "queued",
        "received",
        "temporary",
        "told",
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
        #: an event told of it, not only a walk: it may have changed since the check of the directory above it
        self.told = False
        #: the directory and everything below it
        self.tree = False
        #: came, or left its place to another, so its content need not be what csync2 recorded
        self.moved = False
        #: a directory that was deleted, and may have been made again
        self.deleted = False
        #: a directory that was moved here
        self.came = False
        #: something below it was not noted on its own, because this entry stands for it
        self.covers = False
        #: a temporary file that was made as only csync2 does; a file that had the name of such a one until now
        self.csync2s = self.received = False
        self.temporary = temporary.is_temporary(os.path.basename(path))
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
        self.excludes = inotify.Excludes([])
        #: where csync2 keeps old versions, if it does, and how many
        self.backups, self.generations = None, 0
        self.database = self.certificate = None
        #: its number and size when it was last seen
        self.database_seen = (0, 0)
        #: path -> Root, or None while the include is not there; kept by the tree, as is what could not be watched
        self.roots = {}
        self.walking = 0
        self.unwatched = set()
        #: why the last one of them could not be watched: an error's number
        self.problem = 0
        self.rewalk_at = 0.0
        self.pending = {}
        self.ready = collections.deque()
        self.out = []
        #: when the last event of what is in ``out`` was read
        self.heard = 0.0
        self.recent = {}
        #: when a file was changed last, and until when that is only the beginning after a calm
        self.changed_at = self.early_until = 0.0
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
        self.walked = False
        self.walks = 0
        self.error = None
        self.error_told = False
        self.config_error = None
        self.alone_at = 0.0
        #: spread, so that hosts that lost their master together do not push together
        self.alone_after = waits.ALONE_AFTER + random.uniform(0, waits.ALONE_SPREAD)
        self.status = None
        self.status_at = self.watched_at = 0.0
        self.gone = False

    def waiting(self):
        """How many paths are on their way."""
        return len(self.pending) + len(self.ready) + len(self.out)


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
        self.watches = inotify.Watches()
        self.tree = Tree(self.watches, self.groups, self)
        self.echo = echo.Filter()
        self.heap = []
        self.sequence = itertools.count()
        self.outbox = []
        self.children = []
        #: what is being written, when to write again, where it was written, and what was wrong with that
        self.measuring = None
        self.metrics_at, self.metrics_in, self.metrics_problem = 0.0, None, ""
        self.timer = self.house_timer = self.close_timer = None
        self.timer_at = self.read_at = self.worked_at = 0.0
        self.ticked = time.monotonic()

    # --- Called by the beacon

    def start(self):
        """Begin to watch."""
        self.watches.open()
        self._listen()
        if self.loop is not None:
            self._housekeep_on_loop()

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
        if self.watches.fd >= 0:
            while self._read():
                pass
            if self.loop is not None:
                self.loop.remove_reader(self.watches.fd)
            self.watches.close()
        for group in self.groups.values():
            if group.flushing is not None:
                group.flushing.join(5)
            waiting = [*group.pending.values(), *group.ready]
            group.out += [(entry.path, entry.tree, False) for entry in waiting]
            lines, whole, _ = self._take(group)
            if lines or whole:
                try:
                    journal.write(group.journal, lines, whole, next(self.sequence))
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
        if self.read_at - before < READ_PACE and self.watches.fd >= 0:
            self.loop.remove_reader(self.watches.fd)
            self.loop.call_later(READ_PACE, self._read_again)

    def _read_again(self):
        if not self.closed:
            self._listen()

    def _listen(self):
        """Hear of events from the loop; again and again, in case that somebody took the descriptor from it."""
        if self.loop is not None and self.watches.fd >= 0:
            self.loop.remove_reader(self.watches.fd)
            self.loop.add_reader(self.watches.fd, self._readable)

    def _read(self):
        """Read and handle one buffer of events. Returns True if there may be more."""
        buffer = self.watches.read()
        if not buffer:
            return False
        self._guarded(self.tree.handle, buffer)
        return True

    def _run(self):
        """The loop says that something is due."""
        self.timer = None
        if self.closed:
            return
        self.worked_at = time.monotonic()
        more = self._guarded(self._work, self.worked_at + SLICE)
        if more or any(group.early_until > self.worked_at for group in self.groups.values()):
            self.worked_at = 0.0
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
        if self.tree.walking() or any(group.ready for group in self.groups.values()):
            return now
        due = [self.heap[0][0]] if self.heap else []
        due += self.tree.moves_end()
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
        self.tree.end_moves(now)
        self.tree.walk_on(deadline)
        self._settle(now)
        deadline = time.monotonic() + SLICE
        for group in tuple(self.groups.values()):
            self._judge_batch(group, deadline)
            if self._to_flush(group) and self._flush_due(group) <= time.monotonic():
                self._flush(group)
            elif self._to_ask(group) and group.ask_at <= time.monotonic():
                self._ask_aside(group)
        return self.tree.walking() or any(group.ready for group in self.groups.values())

    # --- What the tree tells: events, and what a walk came to

    def file_event(self, root, directory, mask, cookie, name, now, since):
        """Something happened to a file (or link, socket …) in a watched directory, which is new since then."""
        renamed = self.echo.came_from_temporary(mask, cookie, name, now)
        if root.only is not None and root.only != name:
            return
        path = root.path if root.only else directory + b"/" + name
        group = root.group
        if path not in group.pending and group.excludes.match(path, name):
            return
        # Also what came and went at once is judged: a check of the directory may have seen, and sent, it in between.
        entry = self._note(group, path, now)
        entry.told = True
        self.echo.see(entry, mask, renamed, now, since)
        if group.backups and (renamed or mask & inotify.IN_DELETE):
            make_room(group.backups, path, group.generations)
        if now - group.changed_at > CALM:
            group.early_until = now + self.options.settle
        group.changed_at = now
        if mask & inotify.IN_MODIFY:
            entry.writing = True
        elif not mask & inotify.IN_ATTRIB:
            entry.writing = False
            due = self._due(entry)
            if due < entry.queued:
                self._queue(entry, due)

    def directory_event(self, group, path, mask, now):
        """Something happened to a directory."""
        entry = self._note(group, path, now)
        entry.told = True
        if not mask & inotify.IN_ATTRIB:
            entry.tree = True
            entry.moved = entry.moved or bool(mask & (inotify.IN_MOVED_FROM | inotify.IN_MOVED_TO))
            entry.deleted = entry.deleted or bool(mask & inotify.IN_DELETE)
            entry.came = entry.came or bool(mask & inotify.IN_MOVED_TO)
            if group.backups:
                make_way(group.backups, path)

    def found(self, group, path, tree=False, compare=False):
        """A walk came to a path that may have changed before anybody could hear of it."""
        entry = self._note(group, path, time.monotonic())
        entry.tree = entry.tree or tree
        entry.compare = entry.compare or compare

    def walked(self, group):
        """From here on nothing escapes; what happened before is found by checking the whole group."""
        if group.gone:
            return
        if not group.walked:
            try:
                journal.note_unwatched(group.directory)
            except OSError as err:
                log.debug("csyncsync: cannot note since when group %s was not watched: %s", group.name, err)
        group.whole = True
        group.walked = True
        group.walks += 1
        self._tell_unwatched(group)
        self._write_status(group, force=True)

    def covers(self, group, path):
        """Tell whether an entry that stands for this directory and everything below it is still waiting."""
        while path:
            entry = group.pending.get(path)
            if entry is not None and entry.tree:
                entry.covers = True
                entry.last = time.monotonic()
                return True
            path = path.rpartition(b"/")[0]
        return False

    def _tell_unwatched(self, group):
        """Say once, where it can be seen, that not everything could be watched."""
        if not group.unwatched:
            group.error, group.error_told = None, False
            return
        group.error = self.tree.unwatched_text(group)
        if not group.error_told:
            group.error_told = True
            log.error("csyncsync: %s", group.error)
            self._fire(group, 0, True, group.error)

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
        self._queue(entry, self._due(entry))
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
        if self._is_early(entry):
            due = entry.group.changed_at + self.options.settle * CALM_SHARE
        last, times = entry.group.recent.get(entry.path, (0.0, 0))
        if times >= HOT:
            due = max(due, last + self.options.max_delay)
        return max(due, entry.hold)

    @staticmethod
    def _is_early(entry):
        """Tell whether a file was just changed, and surely not by csync2, in a group that was calm until then."""
        group = entry.group
        return entry.own and not entry.writing and not entry.temporary and group.changed_at < group.early_until

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

    # --- From ready paths to lines

    def _judge_batch(self, group, deadline):
        """Decide about the ready paths of a group, with csync2's database opened once, until the deadline."""
        if not group.ready:
            return
        paths = [entry.path for entry in itertools.islice(group.ready, BATCH)]
        with self.echo.look(group, paths, self.options.settle * CALM_SHARE) as look:
            for number in range(len(paths)):
                if not group.ready or (number % 16 == 15 and time.monotonic() >= deadline):
                    break
                entry = group.ready.popleft()
                self._carry_out(group, entry, look.verdict(entry))

    def _carry_out(self, group, entry, verdict):
        if verdict == echo.WAIT:
            self._wait(group, entry)
            return
        if verdict == echo.DROP:
            if entry.tree and entry.covers:
                self.tree.walk_below(group, entry.path, NOTE)
            return
        if entry.tree and entry.came:
            self.tree.walk_below(group, entry.path, COMPARE)
        now = time.monotonic()
        last, times = group.recent.get(entry.path, (0.0, 0))
        group.recent[entry.path] = (now, times + 1 if now - last < self.options.max_delay * 1.5 else 0)
        group.out.append((entry.path, entry.tree, verdict == echo.ALONE))
        group.heard = max(group.heard, entry.last)

    def _wait(self, group, entry):
        """Look again in a moment; a newer entry of the same path takes this one in."""
        newer = group.pending.get(entry.path)
        if newer is not None:
            for name in MERGED:
                setattr(newer, name, getattr(newer, name) or getattr(entry, name))
            newer.judged = entry.judged
            return
        now = time.monotonic()
        entry.hold = now + min(max(COMMIT_POLL[0], now - entry.judged), COMMIT_POLL[1])
        group.pending[entry.path] = entry
        self._queue(entry, entry.hold)

    # --- The journal and the events

    def _to_flush(self, group):
        return bool(group.out or group.whole) and group.flushing is None and not group.gone

    def _flush_due(self, group):
        """When a group may be flushed: once per settle, and the whole mark alone once per max_delay."""
        due = group.last_flush + self.options.settle
        return due if group.out else max(due, group.last_whole + self.options.max_delay)

    def _take(self, group):
        """What the next flush writes: (lines, whole, when the last event of it was read, in ns since the epoch)."""
        heard = time.time_ns() - int((time.monotonic() - group.heard) * 10**9)
        out, group.out, group.heard = group.out, [], 0.0
        lines, whole = journal.lines(out), group.whole
        group.whole = False
        if len(lines) > self.options.max_paths:
            lines, whole = [], True
        return lines, whole, heard

    def _flush(self, group):
        """Write what is ready into the group's journal, then fire the event."""
        lines, whole, heard = self._take(group)
        now = time.monotonic()
        group.last_flush, group.early_until = now, 0.0
        group.last_whole = now if whole else group.last_whole
        number = next(self.sequence)
        group.unasked += len(lines)

        def work():
            journal.write(group.journal, lines, whole, number, heard)
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
        count, group.unasked, group.asked = group.unasked, 0, journal.first(group.journal)
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
        tag = f"salt/beacon/{data['id']}/{BEACON}/{group.name}"
        beacons = [{"tag": tag, "data": data, "beacon_name": BEACON}]
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
        if self.watches.fd < 0:
            self._reopen()
        self._listen()
        self._read_configs()
        now = time.monotonic()
        self.children = [child for child in self.children if child.poll() is None]
        for group in tuple(self.groups.values()):
            for path in group.include:
                self.tree.check_root(group, path)
            if group.unwatched and not group.walking:
                if not group.error_told:
                    self._tell_unwatched(group)
                if now >= group.rewalk_at:
                    self.tree.watch_unwatched(group)
            if self._lost_its_database(group):
                log.error("csyncsync: csync2's database of group %s was deleted or replaced", group.name)
                group.whole = True
            old = now - 3 * self.options.max_delay
            group.recent = {path: value for path, value in group.recent.items() if value[0] > old}
            if group.linked and now - group.last_whole >= waits.LINKED_INTERVAL:
                group.linked, group.whole = False, True
            self._repeat(group, now)
            self._write_status(group)
            self._note_watched(group, now)
        self._write_metrics(now)
        self.echo.forget_old(now)

    @staticmethod
    def _lost_its_database(group):
        """Tell whether csync2's database is not the one that it was a moment ago, or has shrunk: SQLite's do not."""
        before = group.database_seen
        try:
            status = os.stat(group.database or "")
            group.database_seen = (status.st_ino, status.st_size)
        except OSError:
            group.database_seen = (0, 0)
        return before[0] != 0 and (before[0] != group.database_seen[0] or before[1] > group.database_seen[1])

    def _reopen(self):
        """Try again to get a descriptor, when the unwatched directories are tried again too."""
        if any(time.monotonic() >= group.rewalk_at for group in self.groups.values()):
            self.watches.open()

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
                storage.sweep(group.directory)
                journal.sweep(group.journal)
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
            database, rules = config.get("database"), config.get("rules") or {}
            key, backups = rules.get("key_file"), rules.get("backup_directory")
            generations = rules.get("backup_generations")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
            log.error("csyncsync: cannot use %s: %s %s", path, type(err).__name__, err)
            group.config_error = f"cannot use {path}: {err}"
            return
        group.config_error = None
        group.database = database if isinstance(database, str) else None
        group.backups = _raw(backups) if backups else None
        group.generations = generations or GENERATIONS
        group.certificate = os.path.join(os.path.dirname(key), "csync2_ssl_cert.pem") if key else None
        for gone in [path for path in group.roots if path not in include]:
            self.tree.remove_root(group, gone)
        if exclude != group.exclude:
            group.exclude, group.excludes = exclude, inotify.Excludes(exclude)
            self.tree.exclude_again(group)
            group.whole = group.whole or group.walked
        group.include = include
        for path in include:
            self.tree.check_root(group, path)
        if not group.walking and not group.walked:
            self.walked(group)  # nothing is there to be watched yet

    def _remove_group(self, group):
        """A group's config is gone: stop watching, and leave its directory alone."""
        group.gone = True
        for path in list(group.roots):
            self.tree.remove_root(group, path)
        group.pending.clear()
        group.ready.clear()
        group.out.clear()

    def _repeat(self, group, now):
        """While something is left, fire the event again and again, more and more slowly."""
        oldest, whole = journal.oldest(group.journal)
        left = journal.mtime(os.path.join(group.directory, "left"))
        if oldest is None and left is None:
            group.repeats = 0
            return
        if group.flushing is not None:
            return
        if now - group.last_fired >= min(self.options.retry * 2**group.repeats, waits.RETRY_CAP):
            group.repeats = min(group.repeats + 1, 10)
            self._fire(group, 0, whole)
        late = _is_older(oldest, group.alone_after) or _is_older(left, waits.LEFT_ALONE_AFTER)
        # Not while the master lets this host wait for another one (of what came later it has not heard), nor when its
        # own long push has only just ended.
        for name, patience in (("waits", waits.LEFT_ALONE_AFTER), ("push.json", group.alone_after)):
            told = journal.mtime(os.path.join(group.directory, name))
            unheard = name == "waits" and None not in (told, oldest) and told < oldest
            late = late and (told is None or unheard or _is_older(told, patience))
        if late and now >= group.alone_at and not echo.is_pushing(group.directory):
            group.alone_at = now + random.uniform(*waits.ALONE_INTERVAL)
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
            "watches": len(self.watches.nodes),
            "limit": inotify.watch_limit(),
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
            path = os.path.join(group.directory, "watch.json")
            storage.write_json(path, {**status, "time": time.time()}, durable=False)
        except OSError as err:
            log.debug("csyncsync: cannot write the status of group %s: %s", group.name, err)

    def _note_watched(self, group, now):
        """Leave a sign that what happens is seen."""
        if not group.walked or now - group.watched_at < journal.WATCHED_EVERY:
            return
        try:
            journal.note_watched(group.directory)
            group.watched_at = now
        except OSError as err:
            log.debug("csyncsync: cannot note that group %s is watched: %s", group.name, err)

    def _write_metrics(self, now):
        """Write the groups' status for Prometheus, if a link says where to. Aside: csync2 locks its database."""
        link = os.path.join(self.options.state_dir, METRICS)
        path = metrics.target(link)
        if path is None or self.measuring is not None or (now < self.metrics_at and path == self.metrics_in):
            return
        self.metrics_at, self.metrics_in = now + METRICS_INTERVAL, path
        groups = [group for group in self.groups.values() if group.database]

        def work():
            began = time.thread_time()
            metrics.publish(link, self._metrics(groups))
            self.metrics_at = max(self.metrics_at, now + (time.thread_time() - began) / METRICS_SHARE)

        def done(err):
            self.measuring = None
            problem = f"{type(err).__name__} {err}" if err else ""
            if problem not in ("", self.metrics_problem):
                log.error("csyncsync: cannot write the metrics (pillar csyncsync:metrics): %s", problem)
            self.metrics_problem = problem

        self.measuring = self._aside(work, done)

    def _metrics(self, groups):
        minion, found = self.opts.get("id"), {}
        for group in groups:
            status = host_status.read(group.directory, group.database, minion)
            found.update({group.name: status} if status else {})
        certificate = next((storage.read(group.certificate) for group in groups if group.certificate), None)
        return metrics.text(found, minion, end(certificate), time.time())


# --- Helpers ---------------------------------------------------------------------------------------------


def send(opts, data, tag):
    """Fire an event on the minion's own bus."""
    with salt.utils.event.get_event("minion", opts=opts, listen=False) as event:
        event.fire_event(data, tag)


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


def _is_older(when, seconds):
    """Tell whether this was longer ago (None: it never was). A time in the future says that the clock was set back."""
    return when is not None and not 0 <= time.time() - when <= seconds


def _error_of(work):
    """Do the work and return the exception it raised, if any."""
    try:
        work()
    except Exception as err:  # pylint: disable=broad-except
        return err
    return None
