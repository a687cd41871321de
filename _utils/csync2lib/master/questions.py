"""
What the master asks minions, and who has answered what.

The master's bus tells neither who has sent an event nor that it is the answer to anything: any minion can send the
return of any job, in the name of any other one. So a question is a job ``csyncsync.answer``, whose return the minion
has signed; here it is verified with the key that the master has accepted, and read field by field (``shapes``). An
event that is no such answer changes nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import salt.cache
from salt.exceptions import SaltException

from csync2lib import signature, storage, waits
from csync2lib.errors import CsyncsyncError
from csync2lib.master.shapes import Shape, Unusable, check
from csync2lib.report.words import printable

# Salt's, one for each thread: to make one takes longer than to ask it.
_local = threading.local()

#: What may take hours, as long as the host says that it works on it. Nobody waits for anything else that long: a host
#: may say so for ever.
LONG = frozenset(f"csyncsync.{name}" for name in ("admit", "contents", "digests", "join", "push", "refresh", "reset"))

#: Characters of what a host says why it has no answer.
WHY = 1000


class Answers(dict[str, Any]):
    """
    ``{minion id: what it returned}``, checked, of those that could do what they were asked.

    ``why`` says of others, that answered, why not; printable. Who is in neither is silent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.why: dict[str, str] = {}

    def heard(self) -> set[str]:
        """Who has answered, whatever it was."""
        return {*self, *self.why}

    def missing(self, minions: Iterable[str], silent: str) -> dict[str, str]:
        """``{minion id: why}`` of those of these minions that there is no answer of."""
        return {minion: self.why.get(minion, silent) for minion in minions if minion not in self}

    def told(self, minion: str, silent: str) -> Any:
        """What a host returned, or why it could not, or what is said of one that is silent."""
        return self.get(minion, self.why.get(minion, silent))


@dataclasses.dataclass
class Question:
    """One question, and the answers to it as they come."""

    opts: Mapping[str, Any]
    function: str
    arguments: list[Any]
    options: Mapping[str, Any]
    #: What is expected to be returned, if that is not what the function returns as a rule.
    shape: Shape | None
    #: Not all of it digits: Salt reads arguments as YAML.
    name: str = dataclasses.field(default_factory=lambda: f"question-{secrets.token_hex(16)}")
    answers: Answers = dataclasses.field(default_factory=Answers)
    silent: set[str] = dataclasses.field(default_factory=set)
    #: Who has returned a text that is not signed: by Salt, which does not know the function, or by somebody else, who
    #: may be quicker than the host. So it ends no waiting.
    unsigned: dict[str, str] = dataclasses.field(default_factory=dict)

    def ask(self, client: Any, minions: list[str], seconds: float, still_running: StillRunning) -> None:
        """
        Publish the question, and wait for the answers: after so many seconds of silence it is asked who still works on
        it. Raises SaltException.
        """
        arguments = [self.name, self.function, self.arguments, dict(self.options)]
        listened = client.event.cpub
        try:
            job = client.run_job(minions, "csyncsync.answer", arguments, tgt_type="list", ret="", listen=True)
            if not job:
                return
            self.silent = {*job["minions"]} & {*minions}
            try:
                self._wait(client, job["jid"], seconds, still_running)
            finally:
                client.event.unsubscribe(f"salt/job/{job['jid']}")
        finally:
            if not listened:
                client.event.close_pub()
        for minion, text in [*self.unsigned.items()]:
            self._refused(minion, text)

    def _wait(self, client: Any, jid: str, seconds: float, still_running: StillRunning) -> None:
        until = time.monotonic() + seconds
        end = math.inf if self.function in LONG else until + waits.QUICK
        while self.silent:
            event = client.event.get_event(
                wait=0.2, tag=f"salt/job/{jid}/ret/", full=True, match_type="startswith", auto_reconnect=True
            )
            if event:
                self.take(event.get("data"))
            if self.silent and time.monotonic() > until:
                running = still_running(sorted(self.silent), jid)
                with contextlib.suppress(SaltException):  # the bus loses what comes too fast
                    for minion, found in client.get_cache_returns(jid).items():
                        self.take({"id": minion, "return": found.get("ret")})
                if not running or time.monotonic() > end:
                    return
                until = time.monotonic() + seconds

    def take(self, event: object) -> None:
        """Take in what may be the answer of a minion, from any hand."""
        minion = event.get("id") if isinstance(event, dict) else None
        if not isinstance(event, dict) or not isinstance(minion, str) or minion not in self.silent:
            return
        said = event.get("return")
        if isinstance(said, dict) and self._is_from(minion, said):
            self.silent.discard(minion)
            self.unsigned.pop(minion, None)
            try:
                self.answers[minion] = self._read(said["answer"])
            except Unusable as err:
                self._refused(minion, str(err), what="gave an answer that cannot be used: ")
            except CsyncsyncError as err:
                self._refused(minion, str(err))
        elif minion not in self.unsigned:
            text = _line(said) if isinstance(said, str) else "gave an answer that it has not signed"
            self.unsigned[minion] = text

    def _is_from(self, minion: str, said: signature.Signed) -> bool:
        if not isinstance(said.get("answer"), str) or not isinstance(said.get("signature"), str):
            return False
        try:
            return signature.is_signed(_key(self.opts, minion), said, minion, self.name, self.function)
        except (ValueError, SaltException, OSError):
            return False

    def _read(self, text: str) -> Any:
        """What the function returned. Raises Unusable; CsyncsyncError, with the host's own words, if it could not."""
        try:
            told = json.loads(text)
        except (ValueError, RecursionError):
            raise Unusable("it is no JSON") from None
        if isinstance(told, dict) and isinstance(told.get("error"), str):
            raise CsyncsyncError(_line(told["error"]))
        if not isinstance(told, dict) or "value" not in told:
            raise Unusable("value is missing")
        return check(self.function, told["value"], self.shape)

    def _refused(self, minion: str, why: str, what: str = "") -> None:
        self.silent.discard(minion)
        self.unsigned.pop(minion, None)
        self.answers.why[minion] = what + (why if what else printable(why))[:WHY]


#: Given minions and a job's id, returns those that still work on it.
StillRunning = Callable[[list[str], str], Iterable[str]]


def _line(text: str) -> str:
    """The line of an error of Salt's that says what is wrong: the last one of a traceback, else the first one."""
    lines = text.strip().splitlines() or [""]
    return lines[-1 if "Traceback" in text else 0] or "returned nothing"


def _key(opts: Mapping[str, Any], minion: str) -> str:
    """The accepted key of a minion, as PEM. Raises ValueError or OSError without one."""
    driver = opts.get("keys.cache_driver")
    if not driver:  # before Salt 3007
        return storage.read(os.path.join(opts["pki_dir"], "minions", minion)) or ""
    if not hasattr(_local, "cache"):
        _local.cache = salt.cache.Cache(opts, driver=driver)
    found = _local.cache.fetch("keys", minion)
    if not isinstance(found, dict) or found.get("state") != "accepted":
        raise ValueError(f"the key of {minion} is not accepted")
    return str(found["pub"])
