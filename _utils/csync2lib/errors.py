"""The one family of errors of this package; a loader file raises them as Salt's, which has no traceback shown."""


class CsyncsyncError(Exception):
    """Something cannot be done, or be accepted. The message names the thing and the way out."""


class CommandError(CsyncsyncError):
    """csync2 ended with an error, could not be started, or had to be ended. ``output`` is what it had printed."""

    def __init__(self, why, output=b""):
        super().__init__(why)
        self.output = output


class Interrupted(CommandError):
    """
    csync2 did not come to its end: a signal killed it, or it and the peer's csync2 wait for each other for good.

    ``by_peer`` tells whether the peer closed the connection.
    """

    def __init__(self, why, output, by_peer=False):
        super().__init__(why, output)
        self.by_peer = by_peer
