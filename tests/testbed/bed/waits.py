"""Shorter waiting times for hosts that are tested: the same code waits seconds where it would wait minutes."""

from pathlib import Path

from .shell import TestbedError

#: The real ones.
REAL = Path(__file__).resolve().parents[3] / "_utils/csync2lib/waits.py"
#: Where a master serves others in their place: its first file root.
SERVED = "/srv/salt/_utils/csync2lib/waits.py"

#: What is shorter. Not what csync2 sets (a locked database: 12 s), nor what a busy machine needs to answer in time.
SHORTER = {
    "PEER_RETRY": (4.0, 8.0),
    "TRANSFER_STALLED_AFTER": 14.0,
    "BLOCKED_FOR": (10.0, 20.0),
    "LINKED_INTERVAL": 10.0,
    "REWALK": 10.0,
    "JOIN_WAIT": 45,
    "RETURN_PATIENCE": 60,
    "LEASE_WAIT": 12,
    "BEHIND_AGAIN": 8,
    "VERIFY_AGAIN": 4,
    "AGREE_AFTER": 15.0,
    "ACTION_SHOWN": 10.0,
    "UNREACHABLE": 30,
}
#: What is longer: with two testbeds on two cores the master has more to do than it would have elsewhere.
LONGER = {"ALONE_AFTER": (20.0, 20.0)}


def named(text):
    """``{name: seconds}`` of the source of such a file."""
    found = {}
    exec(compile(text, "waits.py", "exec"), found)
    return {name: value for name, value in found.items() if name.isupper()}


def served():
    """``{name: seconds}`` that tested hosts are served."""
    return named(shorter())


def shorter():
    """The source with the shorter times, made from the real one: all that it says holds, but for these."""
    text = REAL.read_text(encoding="utf-8")
    real = named(text)
    other = {**SHORTER, **LONGER}
    for name, value in other.items():
        if type(real.get(name)) is not type(value):
            raise TestbedError(f"{REAL.name} has no {name} like {value}: bed/waits.py is to follow it")
    lines = [f"{name} = {value}" for name, value in other.items()]
    return "\n".join([text, "# --- In a testbed", "", *lines, ""])
