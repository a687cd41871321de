"""A process that hangs with a lock ends, and says where it hung; one that gives signs of life does not."""

import subprocess
import sys
import time

import pytest
from csync2lib import watchdog

#: Takes a lock of a file, then hangs on one of Python's, as a process does that was forked beside a thread.
HANGING = """
import fcntl, sys, threading
sys.path.insert(0, sys.argv[1])
from csync2lib import watchdog
file, lock = open(sys.argv[2], "w"), threading.Lock()
fcntl.flock(file, fcntl.LOCK_EX)
with watchdog.ended_after(float(sys.argv[3])):
    lock.acquire()
    print("hangs", flush=True)
    lock.acquire(timeout=4)
print("goes on")
"""


def hanging(tmp_path, seconds):
    folder = watchdog.__file__.rpartition("/csync2lib/")[0]
    command = [sys.executable, "-c", HANGING, folder, str(tmp_path / "lock"), str(seconds)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_what_hangs_ends_and_shows_where(tmp_path):
    done = hanging(tmp_path, 0.5)
    assert (done.returncode, done.stdout) == (1, "hangs\n")
    assert 'File "<string>", line 10' in done.stderr


@pytest.mark.parametrize("seconds", [0, 30])
def test_what_may_take_so_long_goes_on(tmp_path, seconds):
    assert hanging(tmp_path, seconds).stdout == "hangs\ngoes on\n"


def test_signs_of_life_keep_it_going_and_nothing_is_left_behind():
    with watchdog.ended_after(1):
        for _ in range(15):
            time.sleep(0.1)
            watchdog.alive()
    watchdog.alive()
    time.sleep(1.2)  # it would be dead
