"""The one family of errors of this package; a loader file raises them as Salt's, which has no traceback shown."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Sequence
from typing import TypeVar

Function = TypeVar("Function", bound=Callable[..., object])


class CsyncsyncError(Exception):
    """Something cannot be done, or be accepted. The message names the thing and the way out."""


class CommandError(CsyncsyncError):
    """csync2 ended with an error, could not be started, or had to be ended. ``output``: the messages until then."""

    def __init__(self, why: str, output: Sequence[bytes] = ()) -> None:
        super().__init__(why)
        self.output = output


class Interrupted(CommandError):
    """csync2 did not come to its end: a signal killed it, or it and the peer's csync2 wait for each other for good."""

    def __init__(self, why: str, output: Sequence[bytes], by_peer: bool = False) -> None:
        super().__init__(why, output)
        #: whether the peer closed the connection
        self.by_peer = by_peer


def raised_as(kind: type[Exception]) -> Callable[[Function], Function]:
    """
    A decorator for functions of a loader file: what they raise of this family, or because csync2's database is missing,
    locked or damaged, is raised as Salt's kind, CommandExecutionError: this package does not know Salt.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def converted(*args: object, **kwargs: object) -> object:
            try:
                return function(*args, **kwargs)
            except CsyncsyncError as err:
                raise kind(str(err)) from err
            except sqlite3.Error as err:
                raise kind(f"csync2's database: {err}") from err

        return converted  # type: ignore[return-value]

    return decorate
