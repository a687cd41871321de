"""Progress lines, and a sign of life in between when something takes long."""

import contextlib
import threading
import time

from bed import shell

SILENCE = 15  # seconds

_last = {"text": "", "at": time.monotonic()}


def say(text):
    """Print a progress line."""
    _last.update(text=text, at=time.monotonic())
    shell.say(text)


@contextlib.contextmanager
def alive():
    """For the time of a `with` block: after so much silence, say what is still under way."""
    over = threading.Event()

    def beat():
        told = 0
        while not over.wait(1):
            quiet = time.monotonic() - _last["at"]
            told = min(told, quiet)
            if quiet - told > SILENCE:
                told = quiet
                shell.say(f"    … for {quiet:.0f} s: {_last['text'].strip(' …')}")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
