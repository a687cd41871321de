"""Run commands, report progress, fail with one line, and lock."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

STARTED = time.monotonic()


class TestbedError(Exception):
    """A failure that is told to the user in one line."""

    __test__ = False  # pytest: not a test class


def say(text):
    """Print a progress line with the seconds since the command began."""
    print(f"[{time.monotonic() - STARTED:5.1f}s] {text}", file=sys.stderr, flush=True)


def run(*cmd, check=True, **options):
    """Run a command with its output captured; a failure raises TestbedError with its last lines."""
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, **options}
    if options.get("input") is not None:
        del options["stdin"]
    words = [str(word) for word in cmd]
    try:
        done = subprocess.run(words, check=False, **options)
    except FileNotFoundError as error:
        raise TestbedError(f"{words[0]}: command not found") from error
    if check and done.returncode:
        lines = ((done.stderr or "") + (done.stdout or "")).strip().splitlines()
        raise TestbedError(f"`{' '.join(words)[:200]}` failed ({done.returncode}): {' / '.join(lines[-4:])}")
    return done


def wait_for(what, probe, seconds, pause=0.1):
    """Call `probe` until it returns something true, and return that."""
    end = time.monotonic() + seconds
    while True:
        result = probe()
        if result:
            return result
        if time.monotonic() > end:
            raise TestbedError(f"{what} took longer than {seconds} seconds")
        time.sleep(pause)


def remove_tree(path):
    """Delete a folder; what is mounted in it or on it is unmounted first, so that only files of ours go."""
    path = Path(path)
    while True:
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text("utf-8").splitlines()]
        below = [mount for mount in mounts if mount == str(path) or mount.startswith(f"{path}/")]
        if not below:
            break
        run("umount", "--lazy", below[-1])
    if path.exists():
        shutil.rmtree(path)


@contextlib.contextmanager
def locked(path, what):
    """Hold a lock file for the time of a `with` block, and remove it afterwards."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(path, "w", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting: another command is busy with {what} …")
                fcntl.flock(file, fcntl.LOCK_EX)
            # The holder before us removed the file: what we locked may no longer be what others see.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                try:
                    yield
                finally:
                    path.unlink()
                return
