"""Work that may block (fsync on a busy disk, the minion's bus, csync2's database), beside the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable


class Aside:
    """
    Does such work in threads; where there is no loop (None), at once.

    after
        Called on the loop when some work is done.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None, after: Callable[[], None]) -> None:
        self.loop, self.after = loop, after

    def run(self, work: Callable[[], None], done: Callable[[BaseException | None], None]) -> threading.Thread | None:
        """Do the work aside, then call done(error) on the loop. Returns the thread; None: all is done."""
        loop = self.loop
        if loop is None:
            done(_error_of(work))
            return None

        def thread() -> None:
            err: BaseException | None = asyncio.CancelledError()
            try:
                err = _error_of(work)
            finally:
                tell(err)

        def tell(err: BaseException | None) -> None:
            try:
                loop.call_soon_threadsafe(finish, err)
            except RuntimeError:
                pass  # the loop has ended

        def finish(err: BaseException | None) -> None:
            done(err)
            self.after()

        worker = threading.Thread(target=thread, name="csyncsync", daemon=True)
        worker.start()
        return worker


def _error_of(work: Callable[[], None]) -> Exception | None:
    """Do the work and return the exception it raised, if any."""
    try:
        work()
    except Exception as err:  # pylint: disable=broad-except
        return err
    return None
