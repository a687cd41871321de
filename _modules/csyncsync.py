"""
Keep the files of several hosts the same, with csync2: push what changed here to the others.

A *group* (one csync2 config, ``csync2 -C GROUP``) is a set of directories that its *hosts* share. What is called with
every change stands here; ``csyncsync_group`` and ``csyncsync_admin`` have the other functions of the module
``csyncsync``, so that a push does not load what it does not need.

Nothing that this module returns, logs or sends as an event holds a key or a private key.
"""

import importlib.util
import json
import logging
import os

from csync2lib import pauses as pauses_module
from csync2lib import signature
from csync2lib.errors import raised_as
from csync2lib.group import Group
from csync2lib.host import ThisHost
from csync2lib.join.record import record
from csync2lib.push import push as push_module
from csync2lib.push.preview import preview
from csync2lib.report.words import printable
from salt.exceptions import CommandExecutionError

log = logging.getLogger(__name__)

__virtualname__ = "csyncsync"


def __virtual__():
    if importlib.util.find_spec("cryptography") is None:
        return False, "csyncsync: Python's cryptography, which Salt's packages hold, cannot be imported"
    return __virtualname__


def _group(name):
    return Group(name, ThisHost.of(__opts__["id"], __grains__.get("os_family")))


# --- Questions of the master -----------------------------------------------------------------------------


def answer(question, function, arguments=(), options=None, **kwargs):
    """
    Answer the runner, so that it knows who has answered what.

    question
        A text of the runner's, another one each time.
    function
        One of this module's, or saltutil.find_job; with its arguments and its options by name.

    Returns ``{"answer": JSON of {"value": what the function returned} or {"error": why it could not}, "signature": of
    this minion's Salt key}``.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.answer "$RANDOM" csyncsync.status '[wwwdata]'
    """
    options = dict(options or {})
    if function == "csyncsync.push":  # is to know that a master has asked for it
        options["__pub_jid"] = kwargs.get("__pub_jid")
    told = json.dumps(_value(function, arguments, options))
    key_file = os.path.join(__opts__["pki_dir"], "minion.pem")
    return signature.signed(key_file, __opts__["id"], str(question), str(function), told)


def _value(function, arguments, options):
    if function != "saltutil.find_job" and not str(function).startswith("csyncsync."):
        return {"error": f"{function} is none of csyncsync's functions"}
    try:
        return {"value": __salt__[function](*arguments, **options)}
    except CommandExecutionError as err:
        return {"error": str(err)}
    except Exception as err:  # pylint: disable=broad-except
        # Salt would return a traceback, which nobody has signed.
        log.error("csyncsync: %s failed: %s", function, printable(err), exc_info_on_loglevel=logging.DEBUG)
        return {"error": f"{type(err).__name__}: {err}"}


# --- Push ------------------------------------------------------------------------------------------------


@raised_as(CommandExecutionError)
def push(group, full=False, release=False, test=False, paused=None, anew=False, **kwargs):
    """
    Send what changed on this host to the group's other hosts, peer by peer.

    full
        Check the whole group, not only the paths in the journal.
    release
        Let a push through that is held because it would delete most of the group, or because an include root
        is on another file system than before.
    test
        Only tell what a full push would send, to whom: ``{"group", "state": "test", "send": {minion id: {"entries",
        "paths": [the first 1,000, percent-encoded]}}, "comment"}``: what is dirty, and what differs from its record.
    paused
        What is paused, as the master has it (see ``csyncsync.paused``). The runner gives it.
    anew
        Have this host join the group anew, because while it was no member the others kept nothing for it. The runner
        gives it.

    Returns ``{"group", "state", "checked": paths, "left": {address: entries}, "refused": {minion id: [path, …]},
    "seconds", "comment"}``. The event ``csyncsync/GROUP/pushed`` says the same; the first push that is held, or fails,
    also sends ``csyncsync/GROUP/held`` or ``…/error`` with its comment. ``refused`` are the first paths that
    hosts which answered did not take, because the same file was changed there too. ``state`` is one of

    ========  ======================================================================
    pushed    done; what could not be sent (dead peers, conflicts) stands in ``left``
    joining   the host has recorded its files and waits to be admitted by the runner
    held      a guard holds deletions or an include: ``comment`` says why; all else was sent
    paused    the group or this host is paused; nothing was sent, and all changes are kept
    running   another push of the group is under way on this host
    error     csync2 failed; ``comment`` says how
    ========  ======================================================================

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.push wwwdata
        salt web1 csyncsync.push wwwdata full=True
        salt web1 csyncsync.push wwwdata test=True
    """
    found = _group(group)
    if test:
        return preview(found)
    asked = push_module.Asked(full, release, anew, paused, kwargs.get("__pub_jid"))
    return push_module.push(found, asked, record, _tell).as_dict()


def _tell(tag, data):
    """Tell the master; without one (salt-call --local) there is nobody to tell."""
    if __opts__.get("file_client") != "local" and __opts__.get("master_uri"):
        __salt__["event.send"](tag, data)


@raised_as(CommandExecutionError)
def wait(group):
    """
    Note that the master has queued this host, because another one pushes. The runner calls it.

    A host that is not told so in time pushes by itself.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.wait wwwdata
    """
    push_module.note_heard(_group(group))
    return True


# --- Pauses ----------------------------------------------------------------------------------------------


@raised_as(CommandExecutionError)
def paused(group, pauses=None):
    """
    What of a group is paused: it sends and gets nothing, and all changes are kept.

    pauses
        Note these, the master's; the runner's ``pause`` and ``resume`` call it.

    Returns ``{minion id, or "*" for the whole group: {"until": seconds since the epoch or None, "comment": text}}``.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.paused wwwdata
    """
    found = _group(group).require()
    if pauses is not None:
        pauses_module.take(found.directory, pauses)
    return pauses_module.pauses(found.directory)
