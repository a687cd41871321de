"""
Decide, on the master, who pushes when.

In each group one host pushes at a time (see csync2lib/master/lease.py): csync2's hosts hinder each other when they push
at once. The reactor calls ``sync``, ``pushed`` and ``apply``; none of them waits for a minion, so its few threads stay
free. ``join`` waits, and runs as a process of its own. What only an administrator calls is in csyncsync_admin.py, under
the same name.
"""

from csync2lib.master import conflicts, facts, joins, lease, outcome, pushes
from csync2lib.master.cluster import Cluster
from csync2lib.master.commands import command


def _cluster():
    return Cluster(__opts__, __salt__)


@command
def sync(group=None, host=None, test=False, restore=False):
    """
    Have a group pushed: by the host that asks for it, or (from the command line) by every member in turn, after a check
    of the whole group.

    group
        One group; without it, all.
    test
        Only tell what each member would send, to whom.
    restore
        Undo what was changed on members that only receive (``receive_only``): they get what the others have, and what
        they alone have is deleted. Nothing else is pushed. With ``test``, only tell what that is.
    host
        Minion id of a host that has something to push. The reactor gives it. It is called as soon as no other host
        of the group pushes, and this function does not wait.

    Returns, without ``host``, ``{GROUP: {minion id: what csyncsync.push returned}}``, and ``"retcode": 1`` if a host
    did not answer, or has something left to send. With ``restore``, ``{GROUP: {minion id: {path: "changed", "deleted"
    or "new"}}}`` of what was undone, or why it was not.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.sync
        salt-run csyncsync.sync wwwdata
        salt-run csyncsync.sync wwwdata test=True
        salt-run csyncsync.sync wwwdata restore=True
    """
    if host is not None:
        return lease.serve(_cluster(), group, host)
    return conflicts.restore_receivers(_cluster(), group, test) if restore else pushes.sync(_cluster(), group, test)


def pushed(group, host, jid=None, state=None, refused=None, full=False):
    """
    Note that a host has ended its push, and call the next one. The reactor calls it.

    refused
        ``{minion id: [path, …]}``: what other hosts did not take. A file that two hosts refuse from each other is a
        conflict: the event ``csyncsync/GROUP/conflict`` is fired, once.
    full
        It has checked the whole group: now the records of all hosts are compared. If they differ, the event
        ``csyncsync/GROUP/differs`` is fired, and the hosts send what differs.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.pushed wwwdata web1 jid=20261122100000000000
    """
    return outcome.pushed(_cluster(), group, host, jid, state, refused, full)


@command
def join(group, host, jid=None):
    """
    Have a host that has recorded its files admitted to its group. Started by ``pushed``; waits for the hosts.

    The first host of a new group is established at once (the ``seed``, if the pillar names one). A host that was there
    when the group was made keeps its files: what differs becomes a conflict. Any other receives what the group has, and
    pushes only after that.

    Without a job id it waits until no other host of the group pushes. With one it goes on under the lease of that job,
    and does nothing if that has ended, because the host asks again. Returns what was done, in words.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.join wwwdata web4
    """
    return joins.join(_cluster(), group, host, jid)


@command
def apply(group=None, host=None, reporter=None):
    """
    Have the hosts of a group read pillar and mine again: ``csyncsync.refresh``, without waiting.

    group
        One group; without it, all.
    host
        Only on this host, and only if it has published its facts before.
    reporter
        Minion id of the host whose facts changed. The reactor gives it; it has to be a member of the group.

    Returns the minion ids that were called.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.apply
        salt-run csyncsync.apply wwwdata
    """
    return facts.apply(_cluster(), group, host, reporter)


@command
def status(group=None):
    """
    A table of hosts and groups: what needs somebody, and what to do then; in sync, or how far behind.

    Returns ``{"outputter": "csyncsync", "data": {"groups": {GROUP: {minion id: row}}, "retcode": 1 if anything needs
    somebody}}``, which is also the exit code; ``csync2lib.report.report`` says what is in a row. With ``--out=json``
    the data is shown.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.status
        salt-run csyncsync.status wwwdata --out=json
    """
    return pushes.status(_cluster(), group)
