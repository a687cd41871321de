"""
Set a group up on this host, and take it off again: what is written down of it, its directories, pins and units.

The states call it. What only Salt can do is passed in.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterator
from typing import Any

from csync2lib import beneath, confinement, journal, storage, waits
from csync2lib.config import membership
from csync2lib.csync2 import command, custody
from csync2lib.csync2.database import Database
from csync2lib.csync2.names import is_group_name
from csync2lib.errors import CsyncsyncError
from csync2lib.facts import Functions
from csync2lib.group import Group, GroupConfig
from csync2lib.guard import is_empty_directory
from csync2lib.host import ThisHost

#: Seconds until the watcher, and a push that is under way, have seen that a group's config is gone.
LET_GO_WITHIN = 15.0
#: What checks a group now and then, and what sees that commands are due.
UNITS = {"timer": "csyncsync-full@{}.timer", "actions": "csyncsync-action@{}.path"}
#: The directory of the units that the states bring.
UNIT_DIRECTORY = "/etc/systemd/system"


# --- Install ---------------------------------------------------------------------------------------------


def install(
    group: Group, found: dict[str, Any], salt: Functions, test: bool = False, new_key: bool = False
) -> dict[str, Any]:
    """
    Given what ``csyncsync.groups`` says of a group, do and return what ``csyncsync.install`` does. Raises
    CsyncsyncError, OSError.
    """
    old, new = group.said(), _config(group, found)
    if not test:
        for directory in ("journal", "due", "output"):
            os.makedirs(group.path(directory), mode=0o700, exist_ok=True)
        os.makedirs(os.path.dirname(new.database), exist_ok=True)
    made = _make_backup_directory(group.name, found["options"]["backup_directory"], test)
    if old.get("receive_only", new.receive_only) != new.receive_only and os.path.exists(group.database) and not test:
        group.reset()  # what it had changed others have not taken, or are not to take any more
    roots, problems = group.guard.note_roots(new.include, test, found["options"].get("files", ()))
    changes: dict[str, Any] = {"made": made + roots} if made or roots else {}
    changes.update(_differences(old, new))
    if old != new._asdict():
        changes = changes or {"facts": "updated"}
        if not test:
            group.note_dropped(group.dropped() | ({*old.get("hosts", {})} - {*new.hosts}))
            _write(group, old, new)
    if not test:
        confinement.await_current(group.host)
    pins = group.pin(new, test)
    changes.update(pins)
    if not test and (new_key or pins):
        # A connection goes on with the key and the certificate with which it began, for as long as the other side
        # likes; what a peer was sending is sent again. Peers that failed are tried again.
        custody.end_all()
        group.forget("peers.json", "large.json")
    changes.update(_unit(group.name, "timer", True, salt, test))
    changes.update(_unit(group.name, "actions", bool(new.rules["commands"]), salt, test))
    if not test and not problems and not all(map(is_empty_directory, new.include)):
        _begin(group, salt)
    return {"changes": changes, "problems": problems}


def _config(group: Group, found: dict[str, Any]) -> GroupConfig:
    options = found["options"]
    return GroupConfig(
        group=group.name,
        include=options["include"],
        exclude=options["exclude"],
        receive_only=membership.receives_only(options, group.host.minion),
        hosts=found["hosts"],
        unpublished=found["unpublished"],
        address=found["hosts"][group.host.minion]["address"],
        address_wanted=options["address"],
        database=group.database,
        hold=options["hold"],
        rules=found["context"],
    )


def _write(group: Group, old: dict[str, Any], new: GroupConfig) -> None:
    storage.write_json(group.path("config.json"), new._asdict())
    was = {minion: host["address"] for minion, host in old.get("hosts", {}).items()}
    now = {minion: host["address"] for minion, host in new.hosts.items()}
    moved = {was[minion]: now[minion] for minion in now.keys() & was.keys() if was[minion] != now[minion]}
    if moved and os.path.exists(group.database):  # what waits for a host that has another address waits for it there
        with group.open_database(write=True) as database:
            database.readdress(moved)
    if old and old["rules"] != new.rules:
        journal.write(group.journal, [], whole=True)
        if os.path.exists(group.database):
            confinement.await_current(group.host)
            command.run(group.name, "-R")  # forget what is no longer included


def _differences(old: dict[str, Any], new: GroupConfig) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """(kind, ``{"added": […], "removed": […]}``) of what is another one than before."""
    for kind, before, after in (
        ("hosts", _lines(old.get("hosts", {})), _lines(new.hosts)),
        ("include", set(old.get("include", ())), set(new.include)),
    ):
        found = {"added": sorted(after - before), "removed": sorted(before - after)}
        if before != after:
            yield kind, {what: items for what, items in found.items() if items}


def _lines(hosts: dict[str, dict[str, str]]) -> set[str]:
    return {f"{minion} {host['name']}@{host['address']}" for minion, host in hosts.items()}


def _make_backup_directory(group: str, path: str | None, test: bool) -> list[str]:
    """
    Have a directory for root alone. csync2 gives the directories in it to the owners of those that the files were in: a
    user who can reach one puts a symlink there, and csync2 writes through it. Returns what was made.
    """
    if not path:
        return []
    what = f"csyncsync:groups:{group}:backup_directory {path}"
    if (real := os.path.realpath(path)) != path:
        raise CsyncsyncError(f"{what} is, or lies below, a symlink to {real}: name the real directory")
    try:
        status = beneath.lstat(path)
    except FileNotFoundError:
        if not test:
            beneath.make_directories(path, 0o700)
        return [path]
    except OSError as err:
        raise CsyncsyncError(f"{what}: {err.strerror}")
    if not stat.S_ISDIR(status.st_mode):
        raise CsyncsyncError(f"{what} is no directory")
    if status.st_uid or status.st_mode & 0o077:
        raise CsyncsyncError(
            f"{what} is not for root alone: run chown root {path} && chmod 700 {path} if it is for backups only, else"
            " name a directory in it"
        )
    return []


def _begin(group: Group, salt: Functions) -> None:
    """Have this host's files recorded, aside: that takes minutes if there are many, and needs no turn of the group."""
    if not os.path.exists(f"{UNIT_DIRECTORY}/csyncsync-push@.service"):
        return
    with contextlib.suppress(sqlite3.Error):  # the push says what is wrong with the database
        if group.state() == Database.NEW:
            salt["service.start"](f"csyncsync-push@{group.name}.service", no_block=True)


def _unit(group: str, what: str, wanted: bool, salt: Functions, test: bool) -> dict[str, str]:
    """Have one of a group's units run, or not. Returns the changes."""
    unit, template = UNITS[what].format(group), UNITS[what].format("")
    if not os.path.exists(f"{UNIT_DIRECTORY}/{template}") or wanted == salt["service.enabled"](unit):
        return {}
    if not test:
        for function in ("enable", "start") if wanted else ("disable", "stop"):
            salt[f"service.{function}"](unit)
    return {what: f"{unit} {'enabled' if wanted else 'disabled'}"}


# --- Remove ----------------------------------------------------------------------------------------------


def remove(group: Group, salt: Functions, test: bool = False) -> list[str]:
    """Do and return what ``csyncsync.remove`` does. Raises CsyncsyncError."""
    if not is_group_name(group.name):
        raise CsyncsyncError(f"{group.name!r} is no group name")
    if test or not os.path.isdir(group.directory):
        return _take_off(group, salt, test)
    with group.lock(LET_GO_WITHIN):  # a push that is under way would make something of it anew
        removed, until = _take_off(group, salt, test), time.monotonic() + LET_GO_WITHIN
        # So may the watcher, or a refresh that has read an older pillar.
        while _take_off(group, salt, test) and time.monotonic() < until:
            time.sleep(0.2)
    return removed


def _take_off(group: Group, salt: Functions, test: bool) -> list[str]:
    """Remove what there is of a group; returns that."""
    removed = [line for what in UNITS for line in _unit(group.name, what, False, salt, test).values()]
    for path in (group.config_file, group.key_file, group.database, f"{group.database}-journal"):
        if os.path.lexists(path):
            removed.append(path)
            if not test:
                storage.remove(path)  # unless another state run just did
    if os.path.isdir(group.directory):
        removed.append(group.directory)
        if not test:
            shutil.rmtree(group.directory, ignore_errors=True)
    return removed


def refresh(host: ThisHost, accepted: dict[str, list[str]] | None, salt: Functions) -> list[str] | str:
    """Do and return what ``csyncsync.refresh`` does. Raises CsyncsyncError."""
    os.makedirs(host.state, mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as waiting:
        if not waiting.enter_context(storage.locked(os.path.join(host.state, "refresh.next"))):
            return "another call waits for its turn"
        with storage.locked(os.path.join(host.state, "refresh.lock"), wait=waits.REFRESH_WAIT) as mine:
            waiting.close()
            if not mine:
                return "another call takes too long"
            pillar = {"csyncsync": {"accepted": accepted}} if accepted else None
            # The environment of the master's file server that csyncsync's states come from, as they have noted it.
            saltenv = (storage.read(os.path.join(host.state, "salt.env")) or "base").strip()
            which = "csyncsync.service,csyncsync.groups"
            states = salt["state.apply"](which, concurrent=True, pillar=pillar, saltenv=saltenv)
    if not isinstance(states, dict):
        raise CsyncsyncError("; ".join(str(line) for line in states))
    return sorted(state["__id__"] for state in states.values() if state["result"] is False)
