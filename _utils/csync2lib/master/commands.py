"""What the commands of ``salt-run`` share: an error is one line, the exit code and progress tell; what hosts have."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any

from salt.exceptions import CommandExecutionError

from csync2lib.errors import CsyncsyncError
from csync2lib.master import shapes
from csync2lib.master.cluster import Cluster
from csync2lib.report.words import one_line

#: What is said of a host that did not answer.
SILENT = "did not answer: is its minion up? (salt-run manage.down)"
#: In the place of a path, in a list of paths: what is said of hosts that did not tell.
UNKNOWN = "… unknown"

#: ``{minion id: what it has at a path}``, as csync2lib.versions describes it.
Versions = dict[str, dict[str, Any]]


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """
    Have what is called from the command line end with one line, and exit code 1, where it raises CsyncsyncError: Salt
    would print a traceback, and the exit code of a text is 0.

    A group's name may be a number: that is what a command line's YAML makes of digits.
    """
    parameters = inspect.signature(function)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            given = parameters.bind(*args, **kwargs)
            if isinstance(given.arguments.get("group"), int):
                given.arguments["group"] = str(given.arguments["group"])
            return function(*given.args, **given.kwargs)
        except (CsyncsyncError, CommandExecutionError) as err:
            return {"outputter": "csyncsync", "data": {"problem": one_line(str(err)), "retcode": 1}}

    return wrapped


def with_exit_code(result: dict[str, Any], failed: object) -> dict[str, Any]:
    """What a command returns that could do its work only in part: Salt takes the exit code from what it shows."""
    return {**result, "retcode": 1} if failed else result


def progress(text: str) -> None:
    """Tell whoever waits at the command line. Not as an event: salt-run would print it among what is returned."""
    print(one_line(text), file=sys.stderr, flush=True)


# --- What hosts have at paths ----------------------------------------------------------------------------


def versions(
    cluster: Cluster, group: str, members: list[str], paths: Iterable[str], text: bool = False
) -> tuple[dict[str, Versions], dict[str, str]]:
    """What each of the hosts that answer has at each of these paths, and ``{minion id: why}`` of the others."""
    wanted = sorted(paths)
    shape = shapes.record(dict.fromkeys(wanted, shapes.VERSION))
    answers = cluster.call(members, "csyncsync.versions", [group, wanted, text], shape=shape)
    seen = {path: {minion: answer[path] for minion, answer in answers.items()} for path in wanted}
    return seen, answers.missing(members, SILENT)


def shown(there: Versions) -> Versions:
    """What of it is shown in a list."""
    return {
        minion: {key: value for key, value in version.items() if key not in ("text", "mtime")}
        for minion, version in there.items()
    }
