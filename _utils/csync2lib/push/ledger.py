"""
Logs of the states of files that this host and others had in common: what a peer was sent last, and what stood here
before a change.

csync2 refuses what is sent to a peer that has a mark on the path: also if the mark is there for a third host that is
away, or because csync2 died there before it had committed what it got. A state that was common tells that nobody has
changed the file there. May call the standard library; knows nothing of csync2 but its encoded names and states, which
hold no white space.
"""

import os
import re
import time

#: Bytes of a log until it becomes the old one, which is kept until the next one is full: some 10,000 entries each.
MOST = 1_500_000
#: Seconds for which an entry counts: a host that loses power may be off for hours.
KEPT = 86400.0

_NUMBER = re.compile(rb"[0-9]+(\.[0-9]*)?\Z")
_BEGUN, _TAKEN, _NOT_SENT = b"+", b"=", b"-"


class Log:
    """
    A file with a line when an entry begins to be sent, and one with what came of it.

    It only grows, and is read only once a peer refuses something, so it costs a push two short writes. A line that was
    cut off, by a full disk or a loss of power, is none.
    """

    def __init__(self, path):
        self.path = path
        self._read = None

    def begin(self, states):
        """Note ``{encoded name: state as csync2 writes it}`` before it is sent."""
        self._append((_BEGUN, name, state) for name, state in states.items())

    def end(self, taken, not_sent):
        """Note which of the names that have begun the peer has taken, and which it was not sent, or has refused."""
        self._append([(_TAKEN, name) for name in taken] + [(_NOT_SENT, name) for name in not_sent])

    def take(self, states):
        """Note ``{encoded name: state}`` that was common."""
        self._append(line for name, state in states.items() for line in ((_BEGUN, name, state), (_TAKEN, name)))

    def names(self):
        """The encoded names, as a set, of all that the log tells of."""
        return set(self._entries())

    def taken(self, name):
        """``(state, when it began to be sent)`` that was common last, (None, 0) if that is not known."""
        return self._entries().get(name, ((None, 0), ()))[0]

    def begun(self, name, seconds=KEPT):
        """
        ``[(state, when, in seconds since the epoch), …]`` in which a name began to be sent within the last seconds, to
        an end that is unknown.
        """
        _, begun = self._entries().get(name, (None, ()))
        return [(state, when) for state, when in begun if time.time() - when < seconds]

    def _append(self, entries):
        now = b"%.6f" % time.time()
        text = b"".join(b"\n" + b" ".join((now, *entry)) for entry in entries)
        if not text:
            return
        self._read = None
        with open(self.path, "ab") as file:
            file.write(text)
            full = file.tell() > MOST
        if full:
            os.replace(self.path, f"{self.path}.old")

    def _entries(self):
        """``{encoded name: ((state that was taken last or None, when), [(state, when it began to be sent), …])}``."""
        if self._read is None:
            self._read = {}
            for path in (f"{self.path}.old", self.path):
                try:
                    with open(path, "rb") as file:
                        lines = file.read().split(b"\n")
                except FileNotFoundError:
                    continue
                for line in lines:
                    self._take(line.split(b" "))
        return self._read

    def _take(self, words):
        if len(words) < 3 or not _NUMBER.match(words[0]) or not -1 < time.time() - float(words[0]) < KEPT:
            return
        when, what, name, *state = words
        taken, begun = self._read.get(name, ((None, 0), []))
        if what == _BEGUN and len(state) == 1:
            self._read[name] = (taken, [*begun, (state[0], float(when))])
        elif begun and not state:
            self._read[name] = (begun[-1], []) if what == _TAKEN else (taken, begun[:-1])
