"""
Run the commands of a group's actions, and tell how they ended.

csync2 would wait for a command with the connection open, and the host that sends waits for that. So its config has
none: it leaves a note in the group's directory ``due`` (template.context()), systemd sees that there is one
(csyncsync-action@GROUP.path), and starts this module as a program (__main__.py), by Python alone: Salt takes a second
to begin.

A note is named after its command; it stays until the command has ended, and one that comes meanwhile has the command
run once more.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from csync2lib import storage, waits
from csync2lib.config.action import is_quoted

#: A command of ``commands`` in ``template.context()``: ``{"key", "exec", "logfile"}``.
Command = Mapping[str, Any]

#: Seconds that a command which has to be ended may take to do as it is told.
KILLED_WITHIN = 5.0
#: Seconds from the first note on until commands run: a push runs csync2 several times.
DEBOUNCE = 0.5
#: Bytes of a run's output that are kept: its end.
OUTPUT = 1_048_576
#: The end of a note's name while its command runs, and seconds after which one that was never finished is deleted.
_TAKEN, _STALE = ".taken", 60.0


# --- The program -----------------------------------------------------------------------------------------


def run_due(directory: str, limit: float = waits.ACTION_LIMIT) -> None:
    """Run what is due in a group's directory, in the order of the pillar, and note how it ended. Raises OSError."""
    due = os.path.join(directory, "due")
    commands = storage.read_json(os.path.join(directory, "config.json"), {}).get("rules", {}).get("commands", [])
    notes = _take(due, {command["key"] for command in commands})
    for command in commands:
        names = notes.get(command["key"], [])
        # csync2 leaves this one, too, when the names of the files are more than a command line takes.
        plain = [name for name in names if name == command["key"] + _TAKEN]
        with_files = [name for name in names if name not in plain]
        if "%%" not in command["exec"] or not with_files:
            _run_noted(directory, commands, command, limit, plain)
            continue
        for name in plain:
            os.unlink(os.path.join(due, name))
        for name in with_files:
            _run_noted(directory, commands, command, limit, [name])


def _take(due: str, keys: set[str]) -> dict[str, list[str]]:
    """Rename the notes of these commands, so that later ones are others. Returns ``{key: [name, …]}``."""
    taken: dict[str, set[str]] = {}
    for name in sorted(os.listdir(due)):
        key, path = name.partition(".")[0], os.path.join(due, name)
        if key not in keys:  # one that csync2 is writing, or whose command is no longer in the pillar
            if key or time.time() - os.lstat(path).st_mtime > _STALE:
                os.unlink(path)
        elif name.endswith(_TAKEN):  # the run before this one was interrupted
            taken.setdefault(key, set()).add(name)
        else:
            os.rename(path, path + _TAKEN)
            taken.setdefault(key, set()).add(name + _TAKEN)
    return {key: sorted(names) for key, names in taken.items()}


def _run_noted(
    directory: str, commands: Sequence[Command], command: Command, limit: float, names: Sequence[str]
) -> None:
    """Run one command for these notes, if there are any; note first that it runs, and then how it ended."""
    if not names:
        return
    paths = [os.path.join(directory, "due", name) for name in names]
    log = command["logfile"] or os.path.join(directory, "output", command["key"])
    began, clock = time.time(), time.monotonic()
    noted = storage.read_json(os.path.join(directory, "actions.json"), {})
    noted = {one["key"]: noted[one["key"]] for one in commands if one["key"] in noted}
    before = noted.get(command["key"], {})
    _note(directory, {**noted, command["key"]: {**before, "running": began}})
    line, problem = _command_line(command["exec"], paths[0])
    code, why, output = (None, problem, b"") if problem else run(line, limit)
    for path in paths:  # whatever happens now, it has run
        os.unlink(path)
    try:
        with open(log, "ab" if command["logfile"] else "wb") as file:
            file.write(output)
    except OSError as err:
        why = why or f"its output cannot be written: {err.strerror}"
    seconds = round(time.monotonic() - clock, 3)
    noted[command["key"]] = {"exit": code, "why": why, "time": began, "seconds": seconds, "log": log}
    _note(directory, noted)


def _command_line(command: str, note: str) -> tuple[bytes, str]:
    """
    (the command as the shell gets it, "" or why there is none): as csync2 does it, the names of files stand where the
    first %% is, as its database has them.
    """
    line = os.fsencode(command)
    if b"%%" not in line:
        return line, ""
    if not is_quoted(command):  # an older version let it in
        return b"", "has %% outside of single quotes: change it in the pillar (salt-call csyncsync.groups)"
    with open(note, "rb") as file:
        names = file.read().strip()
    return line.replace(b"%%", names, 1), "" if names else "the names of the files are too long for %%"


def run(line: bytes, limit: float) -> tuple[int | None, str, bytes]:
    """
    Run a command of root's shell, for so many seconds at most. Returns (exit code, "" or why it counts as failed, the
    end of its output); the code is None if it had to be ended, or could not begin.
    """
    try:
        process = subprocess.Popen(
            [b"/bin/sh", b"-c", line],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
        )
    except OSError as err:
        return None, f"cannot be run: {err.strerror}", b""
    output = _follow(process, limit)
    if process.poll() is None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, number)
                output += _follow(process, KILLED_WITHIN)
        return None, f"took longer than {limit:g} s and was ended", output[-OUTPUT:]
    code = process.returncode
    if code < 0:
        return code, f"was killed by signal {-code}", output
    return code, f"exit {code}" if code else "", output


def _follow(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """Wait for a process, at most that long. Returns the end of what it prints."""
    until, kept = time.monotonic() + seconds, bytearray()
    assert process.stdout is not None
    while time.monotonic() < until:
        ended = process.poll() is not None
        if select.select([process.stdout], [], [], 0.05)[0]:
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(until - time.monotonic(), 0))
                break
            kept += chunk
            del kept[:-OUTPUT]
        elif ended:  # what it left behind may hold the pipe
            break
    return bytes(kept)


def _note(directory: str, noted: Mapping[str, Any]) -> None:
    """Write ``actions.json``; a disk that is full is no reason to run nothing."""
    path = os.path.join(directory, "actions.json")
    try:
        storage.write(path, json.dumps(noted, indent=1, sort_keys=True), mode=0o644, durable=False)
    except OSError as err:
        print(f"cannot write {path}: {err.strerror}", file=sys.stderr)


# --- Status ----------------------------------------------------------------------------------------------


def results(directory: str, commands: Iterable[Command]) -> list[dict[str, Any]]:
    """
    Given a group's directory and ``commands`` of its context, return how each command that has run, or is to run, last
    ended: ``[{"exec", "exit": code, "why": "" or why it counts as failed, "time", "seconds", "log": path, "running":
    seconds, "waiting": seconds}]``. ``running`` is since when it runs, None if it does not; ``waiting`` is how long it
    has waited for its turn. ``exit`` and ``time`` are None if it has not ended yet.
    """
    noted = storage.read_json(os.path.join(directory, "actions.json"), {})
    since, now = _waiting(directory), time.time()
    found = []
    for command in commands:
        result = noted.get(command["key"])
        if result is None and command["key"] not in since:
            continue
        result = {"exit": None, "why": "", "time": None, "seconds": None, "log": None, **(result or {})}
        for state, begin in (("running", result.get("running")), ("waiting", since.get(command["key"]))):
            result[state] = None if begin is None else round(max(now - begin, 0), 1)
        found.append({"exec": command["exec"], **result})
    return found


def _waiting(directory: str) -> dict[str, float]:
    """``{key: when the first note came}`` of commands that wait to be run."""
    waiting: dict[str, float] = {}
    with contextlib.suppress(OSError), os.scandir(os.path.join(directory, "due")) as entries:
        for entry in entries:
            key = entry.name.partition(".")[0]
            if key and not entry.name.endswith(_TAKEN):
                with contextlib.suppress(OSError):
                    waiting[key] = min(entry.stat().st_mtime, waiting.get(key, float("inf")))
    return waiting


def told(found: Iterable[Mapping[str, Any]], most: int = 80) -> list[str]:
    """Given what results() returned, say what is wrong, or takes its time, as a list of texts."""
    texts: list[str] = []
    for result in found:
        command = result["exec"] if len(result["exec"]) <= most else result["exec"][: most - 1] + "…"
        if result["why"]:
            texts.append(f"action failed: '{command}' {result['why']}, see {result['log']}")
        for state in ("running", "waiting"):
            if (result[state] or 0) > waits.ACTION_SHOWN:
                texts.append(f"action {state} for {result[state]:.0f} s: '{command}'")
    return texts


def command_line(module: str = "actions") -> list[str]:
    """The beginning of the command line that runs main() of a module of this package, without Salt."""
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
    return [sys.executable, "-I", program, module]


def main(arguments: Sequence[str]) -> None:
    """The program: run what is due in the group's directory that is the one argument."""
    time.sleep(DEBOUNCE)
    try:
        run_due(arguments[0])
    except OSError as error:
        sys.exit(str(error))
