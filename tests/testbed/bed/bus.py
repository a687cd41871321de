"""The master's event bus, heard for the time of a ``with`` block."""

import contextlib
import json
import subprocess
import tempfile

from .shell import wait_for

#: Runs on the master, until its standard input ends: prints each event as a line of JSON, with the time of its arrival.
LISTEN = """
import json, select, sys, time
import salt.config, salt.utils.event
options = salt.config.master_config("/etc/salt/master")
with salt.utils.event.get_event("master", sock_dir=options["sock_dir"], opts=options, listen=True) as bus:
    bus.connect_pub(timeout=10)
    print(json.dumps(["ready", {}, time.time()]), flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        event = bus.get_event(wait=1, full=True, auto_reconnect=True)
        if event:
            print(json.dumps([event["tag"], event["data"], time.time()], default=repr), flush=True)
"""


class Bus:
    """What has been heard so far, as it stands in a file: a pipe that nobody reads would hold the listener up."""

    def __init__(self, file):
        self._file, self._heard, self._rest = file, [], b""

    def all(self):
        """All that was heard; [(tag, data, time), …] without what says that the ear is open."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        self._heard += [tuple(json.loads(line)) for line in lines]
        return self._heard[1:]

    def opened(self):
        """Whether it hears already."""
        return bool(self.all() or self._heard)

    def tagged(self, *parts):
        """The events whose tag is one of these or begins with one of these."""
        return [event for event in self.all() if event[0].startswith(parts)]


@contextlib.contextmanager
def listen(bed):
    """Listen for the time of a ``with`` block; yields a Bus."""
    with tempfile.NamedTemporaryFile() as written, open(written.name, "rb") as heard:
        process = subprocess.Popen(
            bed.find("master").enter("/opt/salt/bin/python", "-W", "ignore", "-c", LISTEN),
            stdin=subprocess.PIPE,
            stdout=written,
            stderr=subprocess.DEVNULL,
        )
        try:
            bus = Bus(heard)
            wait_for("to hear the master's event bus", bus.opened, 90)
            yield bus
        finally:
            process.stdin.close()
            process.wait()
