"""The master's event bus and its jobs, heard and counted."""

import contextlib
import json
import os
import subprocess
import time

from bed.shell import TestbedError

#: Runs on the master: prints each event as a line of JSON, with the time of its arrival.
LISTEN = """
import json, time
import salt.config, salt.utils.event
options = salt.config.master_config("/etc/salt/master")
with salt.utils.event.get_event("master", sock_dir=options["sock_dir"], opts=options, listen=True) as bus:
    bus.connect_pub(timeout=10)
    print(json.dumps(["ready", {}, time.time()]), flush=True)
    while True:
        event = bus.get_event(wait=1, full=True, auto_reconnect=True)
        if event:
            print(json.dumps([event["tag"], event["data"], time.time()], default=repr), flush=True)
"""


class Bus:
    """What has been heard so far."""

    def __init__(self, pipe):
        self._pipe, self._heard, self._rest = pipe, [], b""
        os.set_blocking(pipe.fileno(), False)

    def all(self):
        """[(tag, data, time), …] without what says that the ear is open."""
        while chunk := self._pipe.read():
            self._rest += chunk
        *lines, self._rest = self._rest.split(b"\n")
        self._heard += [tuple(json.loads(line)) for line in lines]
        return self._heard[1:]

    def opened(self):
        """Whether it hears already."""
        return bool(self.all() or self._heard)

    def beacon_events(self):
        """How many events of beacons there were."""
        return sum(tag.startswith("salt/beacon/") for tag, _, _ in self.all())


def jobs(bed):
    """How many jobs the master has made, by its job cache: a dead bus tells of none."""
    return sum(1 for _ in (bed.root("master") / "var/cache/salt/master/jobs").glob("*/*/jid"))


def silent(bed, hosts):
    """Which of these hosts do not answer `test.ping` within five seconds, in words ("" if all do)."""
    answers = bed.salt_json("*", "test.ping", timeout=5)
    missing = [host for host in hosts if answers.get(host) is not True]
    return f"{', '.join(missing)} did not answer test.ping" if missing else ""


@contextlib.contextmanager
def counted(bed, run):
    """Add to a run, when the `with` block ends, how many "beacon_events" were heard in it and "jobs" made."""
    before = jobs(bed)
    with listen(bed) as ear:
        yield
        run.update(beacon_events=ear.beacon_events(), jobs=jobs(bed) - before)


@contextlib.contextmanager
def listen(bed):
    """Listen for the time of a `with` block; yields a Bus."""
    process = subprocess.Popen(
        bed.find("master").enter("/opt/salt/bin/python", "-W", "ignore", "-c", LISTEN),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        bus, limit = Bus(process.stdout), time.monotonic() + 30
        while not bus.opened():
            if time.monotonic() > limit:
                raise TestbedError("the master's event bus cannot be heard")
            time.sleep(0.05)
        yield bus
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
