"""What the template of csync2's config lays out: given a group, its options and its hosts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from csync2lib.config import membership
from csync2lib.csync2.custody import LOCK_TIMEOUT
from csync2lib.csync2.names import TEMPDIR


def context(
    name: str, options: Mapping[str, Any], members: Mapping[str, Mapping[str, str]], key_file: str, due: str
) -> dict[str, Any]:
    """
    What the config template lays out; every string in it can stand between quotes. ``commands`` is for actions.py, not
    for the config: each command once. The hosts stand in the order of their minion ids, the same on every host
    (csync2's ``auto: left`` needs that).

    due
        The directory for notes of commands that are to run. Its path holds nothing that is special to a shell.
    """
    plain = ("tls", "include", "exclude", "auto", "backup_directory", "backup_generations")
    return {
        **{option: options[option] for option in plain},
        "name": name,
        "tempdir": TEMPDIR,
        "lock_timeout": LOCK_TIMEOUT,
        "key_file": key_file,
        "hosts": [
            {
                "name": host["name"],
                "address": host["address"],
                "receive_only": membership.receives_only(options, minion),
            }
            for minion, host in sorted(members.items())
        ],
        "actions": [_noting(action, due) for action in options["action"]],
        "commands": list(_commands_of(options["action"]).values()),
    }


def _commands_of(actions: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """``{key: {"key", "exec", "logfile"}}`` of these actions. A key stands for a command and where its output goes."""
    commands: dict[str, dict[str, Any]] = {}
    for action in actions:
        for command in action["exec"]:
            key = hashlib.sha256(f"{action['logfile'] or ''}\0{command}".encode()).hexdigest()[:12]
            commands[key] = {"key": key, "exec": command, "logfile": action["logfile"]}
    return commands


def _noting(action: Mapping[str, Any], due: str) -> dict[str, Any]:
    """
    Given an action, return it as csync2 is to have it: it runs no command, but leaves a note that one is due.

    csync2 puts the names of files there: no name holds a quote (see config/action.py). If they are more than a command
    line takes, csync2 cannot even start the shell, so there is a note without them as well; csync2 leaves that first
    (action.c: it sorts by the encoded command).
    """
    notes = []
    for key, command in _commands_of([action]).items():
        notes.append(f": >{due}/{key}")
        if "%%" in command["exec"]:
            notes.append(f"cd {due} && echo '%%' >.$$ && mv .$$ {key}.$$")
    kept = {option: action[option] for option in ("pattern", "do_local", "do_local_only")}
    return {**kept, "exec": notes}
