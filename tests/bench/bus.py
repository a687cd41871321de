"""The master's events and jobs, counted."""

import contextlib

from bed.bus import listen


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
        run.update(beacon_events=len(ear.tagged("salt/beacon/")), jobs=jobs(bed) - before)
