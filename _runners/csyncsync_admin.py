"""What an administrator asks the master for: see csyncsync.py, which has the same name, for what runs by itself."""

from csync2lib.master import backups as backups_module
from csync2lib.master import conflicts as conflicts_module
from csync2lib.master import pauses, pushes, rotation
from csync2lib.master import verify as verify_module
from csync2lib.master.cluster import Cluster
from csync2lib.master.commands import command

__virtualname__ = "csyncsync"


def __virtual__():
    return __virtualname__


def _cluster():
    return Cluster(__opts__, __salt__)


# --- Pushes ----------------------------------------------------------------------------------------------


@command
def release(group, host=None):
    """
    Let a push through that a host holds back because most of the group vanished there, or a disk was exchanged.

    host
        Only on this minion; without it, on every member that holds one.

    Returns ``{minion id: what csyncsync.push returned}``, and ``"retcode": 1`` if one of them was not let through.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.release wwwdata
    """
    return pushes.let_through(_cluster(), group, host)


@command
def pause(group=None, host=None, minutes=None, comment=""):
    """
    Pause a group, or a host: it sends nothing and gets nothing, and all changes are kept until it is resumed.

    group
        One group; without it, all groups of the host.
    host
        Only this minion; without it, the whole group.
    minutes
        It is resumed by itself after so long.
    comment
        Why; shown in the status.

    A push that is under way goes on to its end. A host that does not answer hears of it when it next asks to push.
    Returns ``{GROUP: {minion id: "paused …"}}``.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.pause wwwdata minutes=30
        salt-run csyncsync.pause host=web2 comment='new disk'
    """
    return pauses.pause(_cluster(), group, host, minutes, comment)


@command
def resume(group=None, host=None):
    """
    End what ``csyncsync.pause`` began; what has changed meanwhile is sent at once.

    group, host
        As in ``csyncsync.pause``.

    Returns ``{GROUP: {minion id: "not paused", or what still is}}``.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.resume wwwdata
        salt-run csyncsync.resume host=web2
    """
    return pauses.resume(_cluster(), group, host)


# --- Keys and certificates that change -------------------------------------------------------------------


@command
def rotate_key(group):
    """
    Give a group a new key, which all members take at once, and end the connections that began with the old one.

    Nobody pushes meanwhile: it waits for a push that is under way, at most 20 s, and what changes is sent afterwards. A
    member that does not answer takes the new key when it starts or is reached again; until then it and the others
    refuse each other. A key that the pillar sets itself is to be changed there.

    Returns ``{minion id: text}``.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.rotate_key wwwdata
    """
    return rotation.rotate_key(_cluster(), group)


@command
def rotate_certificate(host):
    """
    Give a host a new private key and certificate. The other hosts accept them at once, and the old ones no longer.

    Nobody pushes in the host's groups meanwhile, and a host that does not answer accepts the new certificate later, as
    with ``csyncsync.rotate_key``. Returns ``{minion id: text}``.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.rotate_certificate web1
    """
    return rotation.rotate_certificate(_cluster(), host)


# --- Contents --------------------------------------------------------------------------------------------


@command
def verify(group, rate=verify_module.RATE):
    """
    Compare what a group's files really are on all its hosts: type, content, mode, owner and link target, read from the
    disks. csync2's databases are not asked.

    rate
        Megabytes that each host reads in a second at most; 0: as many as can be. The hosts read with the lowest
        priority.

    Files that change meanwhile are looked at again. Nothing is changed; ``csyncsync.sync`` sends what a host has
    missed, ``csyncsync.reset`` makes one host's content win. The exit code is 1 if hosts differ, or one did not answer.
    Returns ``{"group", "hosts": {minion id: {"files", "bytes"}}, "silent": [minion id, …], "unknown": {minion id: why},
    if hosts could not tell, "differences": {path: {minion id: {"type", "size", "time", "mode", "owner", "sha256"}}},
    "more": differences that are not shown, "seconds", "retcode"}``.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.verify wwwdata
        salt-run csyncsync.verify wwwdata rate=200
    """
    cluster = _cluster()
    return verify_module.verify(cluster, group, cluster.members(cluster.group(group)), rate)


@command
def reset(group, source, test=False):
    """
    Rebuild every database of a group; one host's content wins: what others have differently is replaced, and what they
    alone have is deleted there.

    source
        Minion id of the host whose content wins.
    test
        Only tell what would be replaced and deleted, on which host; all files are read for that.

    All members have to answer. Nobody else pushes meanwhile; what changes then on the source is sent afterwards.
    Returns ``{minion id: what was done}``, and ``"retcode": 1`` if it was not done everywhere.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.reset wwwdata source=web1 test=True
        salt-run csyncsync.reset wwwdata source=web1
    """
    return verify_module.reset(_cluster(), group, source, test)


# --- Conflicts -------------------------------------------------------------------------------------------


@command
def conflicts(group=None, diff=False):
    """
    Which files several hosts have changed while they did not see each other, and what each of them has.

    diff
        Also show how their texts differ, as a unified diff.

    Returns ``{GROUP: {path: {minion id: {"type", "size", "time", "mode", "owner", "sha256"}, "diff": text}}}``; under
    ``"… unknown"`` stand the hosts that did not answer (``"retcode": 1`` then).

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.conflicts
        salt-run csyncsync.conflicts wwwdata diff=True
    """
    return conflicts_module.conflicts(_cluster(), group, diff)


@command
def resolve(group, *paths, **kwargs):
    """
    End conflicts: one host's version replaces that of all others, on all hosts.

    paths
        As ``csyncsync.conflicts`` shows them; without any, all conflicts of the group.
    winner
        A minion id, or ``younger``, ``older``, ``bigger`` or ``smaller``: the host whose file is that.

    Waits until the others have it, at most two minutes. Returns ``{path: what became of it}``, and ``"retcode": 1`` if
    one of them is not over on all hosts that answer.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.resolve wwwdata /var/www/data/index.html winner=web1
        salt-run csyncsync.resolve wwwdata winner=younger
    """
    return conflicts_module.resolve(_cluster(), group, paths, kwargs.get("winner"))


# --- Backups ---------------------------------------------------------------------------------------------


@command
def backups(group, *paths):
    """
    Which old versions there are of files that were overwritten or deleted, and on which hosts: a host keeps what others
    had it replace (``backup_directory`` of the group), not what was changed on itself.

    paths
        Files and directories, as they are shown; without any, the whole group.

    Returns ``{path: {minion id: [a line for each version, newest first]}}`` of the 50 files that were replaced last;
    ``"… and more"`` says how many others each host has. The contents of files that are named are compared (``sha256``).

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.backups wwwdata
        salt-run csyncsync.backups wwwdata /var/www/data/ini /var/www/data/index.html
    """
    return backups_module.backups(_cluster(), group, paths)


@command
def restore(group, path, host=None, generation=0):
    """
    Put an old version of a file back, on the host that has it; the host then sends it to all others, as any change.

    path
        As ``csyncsync.backups`` shows it.
    host
        Minion id of the host whose version it is.
    generation
        As ``csyncsync.backups`` shows it. What is at the path by now is generation 0 afterwards, and what was
        generation 0 is this one: a second call puts the first one's work back.

    Waits until all have it, at most two minutes. Returns ``{path: what became of it}``, and ``"retcode": 1`` if a host
    does not have it by then.

    CLI Example:

    .. code-block:: bash

        salt-run csyncsync.restore wwwdata /var/www/data/index.html host=web2
        salt-run csyncsync.restore wwwdata /var/www/data/index.html host=web2 generation=2
    """
    return backups_module.restore(_cluster(), group, path, host, generation)
