"""
The hosts of a master, as it knows them: accepted keys, groups and members, and what a host answers.

Who is in a group is what the master's pillar and its accepted keys say, not what an event says.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import salt.client
import salt.utils.minions

from csync2lib import waits
from csync2lib.config import membership, schema
from csync2lib.csync2.names import is_group_name
from csync2lib.errors import CsyncsyncError
from csync2lib.master import record as records
from csync2lib.master.questions import Answers, Question
from csync2lib.master.shapes import Shape

log = logging.getLogger(__name__)

#: Seconds that what the pillar says about a minion's groups is kept.
PILLAR_AGE = 60
#: The same for a group that was not there: it may just have been added.
PILLAR_AGE_WITHOUT = 1
#: Seconds between two lines in the log about one minion that asks for groups it is not in.
REFUSED_TOLD = 60

#: A group's validated options, without its key.
Options = Mapping[str, Any]
#: The one function of others that hosts are asked for.
FIND_JOB = "saltutil.find_job"

# For as long as the process lives, and for all threads of it: a Cluster is made for each call.
_groups_of: dict[str, tuple[float, dict[str, Options]]] = {}
_refused: dict[str, float] = {}
_local = threading.local()


class Cluster:
    """
    A master and its minions, given its config and the runner's functions by name: ``mine.get``, ``pillar.show_pillar``,
    ``pillar.clear_pillar_cache``.
    """

    def __init__(self, opts: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]]) -> None:
        self.opts, self.functions = opts, functions

    # --- Members -------------------------------------------------------------------------------------------

    def accepted(self, tgt: object, tgt_type: str = "list") -> list[str]:
        """The minions whose keys are accepted, of those that a target covers."""
        return sorted(salt.utils.minions.CkMinions(self.opts).check_minions(tgt, tgt_type).get("minions", []))

    def is_accepted(self, minion: str) -> bool:
        return minion in self.accepted([minion])

    def published(self) -> dict[str, Any]:
        """``{minion id: facts}`` of the mine; not all of these minions need be accepted."""
        facts: dict[str, Any] = self.functions["mine.get"]("*", "csyncsync.member")
        return facts

    def members(self, options: Options) -> list[str]:
        return self.accepted(options["members"]["tgt"], options["members"]["tgt_type"])

    def not_gone(self, members: Mapping[str, list[str]]) -> dict[str, list[str]]:
        """
        ``{GROUP: [minion id, …]}`` of whom hosts need not take for gone, given the members as far as they are known
        here: also of hosts in no such group, as the pillar may say something else by now. Hosts read it themselves.
        """
        there = self.accepted([*self.published()])
        return {group: sorted({*minions, *there}) for group, minions in members.items()}

    def member(self, group: object, host: object) -> Options | None:
        """The group's options if this host is an accepted member of it, else None (and a line in the log)."""
        if isinstance(group, str) and isinstance(host, str) and host and self.is_accepted(host):
            options = self.groups_of(host, group).get(group)
            if options:
                return options
        if time.monotonic() - _refused.get(str(host)[:80], float("-inf")) > REFUSED_TOLD:
            _refused[str(host)[:80]] = time.monotonic()
            log.warning("csyncsync: minion %.80r asks for group %.80r, which it is no member of", host, group)
        return None

    # --- Groups --------------------------------------------------------------------------------------------

    def groups_of(self, minion: str, group: str | None = None) -> dict[str, Options]:
        """``{GROUP: options}`` of one accepted minion; kept for a short while."""
        read, groups = _groups_of.get(minion, (float("-inf"), {}))
        if time.monotonic() - read > (PILLAR_AGE if group is None or group in groups else PILLAR_AGE_WITHOUT):
            groups = self._read_groups(minion)
            _groups_of[minion] = (time.monotonic(), groups)
        return groups

    def _read_groups(self, minion: str) -> dict[str, Options]:
        """From the minion's pillar; a group that is broken there is as it was last: that is what the hosts have."""
        pillar = self.functions["pillar.show_pillar"](minion)
        raw = pillar.get("csyncsync") if isinstance(pillar, dict) else None
        raw = raw if isinstance(raw, dict) else {}
        checked = schema.validate(raw.get("groups"))
        broken = {**checked["errors"], **(raw.get("errors") or {})}
        groups = {name: {**options, "key": None} for name, options in checked["groups"].items()}
        recorded = set(self.recorded())
        for name in recorded if "" in broken else recorded & set(broken):
            with self.record(name) as record:
                if record.options:
                    groups[name] = record.options
        return {name: options for name, options in groups.items() if membership.matches(options["members"], minion)}

    def groups(self, group: str | None = None) -> dict[str, Options]:
        """``{GROUP: options}`` of one group, or all, of hosts that have published facts. Raises CsyncsyncError."""
        groups: dict[str, Options] = {}
        for minion in self.published():
            if self.is_accepted(minion):
                for name, options in self.groups_of(minion).items():
                    groups.setdefault(name, options)
        if group is None:
            return groups
        if group not in groups:
            there = ", ".join(sorted(groups)) or "none (run: salt '*' state.apply csyncsync)"
            raise CsyncsyncError(f"there is no group {group!r}; there are: {there}")
        return {group: groups[group]}

    def group(self, group: str) -> Options:
        """The options of a group. Raises CsyncsyncError."""
        return self.groups(group)[group]

    # --- Notes ---------------------------------------------------------------------------------------------

    def recorded(self) -> list[str]:
        """The groups that have a record here."""
        with contextlib.suppress(FileNotFoundError):
            return [name[:-5] for name in os.listdir(records.directory(self.opts)) if name.endswith(".json")]
        return []

    def record(self, group: str) -> contextlib.AbstractContextManager[records.Record]:
        """A group's record, under its lock; written back if it is changed. Raises CsyncsyncError."""
        if not is_group_name(group):
            raise CsyncsyncError(f"{group!r:.80} is no group name")
        return records.opened(records.path_of(self.opts, group))

    # --- Jobs ----------------------------------------------------------------------------------------------

    def client(self) -> Any:
        """Salt's, one for each thread: making one takes longer than asking it."""
        if not hasattr(_local, "client"):
            _local.client = salt.client.get_local_client(mopts=dict(self.opts))
        return _local.client

    def call(
        self,
        minions: list[str],
        function: str,
        arguments: list[Any],
        seconds: float = waits.ANSWER,
        shape: Shape | None = None,
        **options: Any,
    ) -> Answers:
        """
        What minions return, checked by the function's shape, or another one (see shapes.py); whoever is silent, and
        does not say either that the job still runs, is left out.
        """
        question = Question(self.opts, function, arguments, options, shape)
        if minions:
            question.ask(self.client(), minions, seconds, self.running if function != FIND_JOB else lambda *_: [])
        return question.answers

    def running(self, minions: list[str], jid: str, seconds: float = waits.ANSWER) -> list[str]:
        """Who of these still works on a job. Waits for their answers."""
        return [minion for minion, runs in self.call(minions, FIND_JOB, [jid], seconds).items() if runs]

    def step(self, minion: str, function: str, arguments: list[Any], **options: Any) -> Any:
        """What one minion returns, checked. Raises CsyncsyncError, with its own words, if it could not."""
        answers = self.call([minion], function, arguments, **options)
        if minion not in answers:
            raise CsyncsyncError(f"{minion}: {answers.why.get(minion, 'did not answer')}")
        return answers[minion]

    def statuses(self, group: str, minions: list[str]) -> dict[str, dict[str, Any]]:
        """``{minion id: what csyncsync.status says of the group}`` of those that answer."""
        answers = self.call(minions, "csyncsync.status", [group])
        return {minion: answer.get(group) or {} for minion, answer in answers.items()}


def aside(function: Callable[..., object], *arguments: Any) -> None:
    """In a thread, because it takes its time: the reactor has ten threads for all groups."""
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(function, *arguments), daemon=True).start()
