"""Work that may block (fsync on a busy disk, the minion's bus, csync2's database), beside the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable


class Aside:
    """Does such work in threads; ``after`` is called on the loop when some is done."""

    def __init__(self, after: Callable[[], None]) -> None:
        self.after = after

    def run(self, work: Callable[[], object], done: Callable[[Exception | None], None]) -> threading.Thread:
        """Do the work aside, then call done(error) on the loop. Returns the thread."""
        loop = asyncio.get_running_loop()

        def thread() -> None:
            error = None
            try:
                work()
            except Exception as err:  # pylint: disable=broad-except
                error = err
            try:
                loop.call_soon_threadsafe(finish, error)
            except RuntimeError:
                pass  # the loop has ended

        def finish(error: Exception | None) -> None:
            done(error)
            self.after()

        worker = threading.Thread(target=thread, name="csyncsync", daemon=True)
        worker.start()
        return worker
