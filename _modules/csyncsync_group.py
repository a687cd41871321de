"""
Who is in which group, and how this host becomes a member: facts, certificate, config, and the first content.

The states, and the runner, call it.
"""

import importlib.util

from csync2lib import certificate as certificate_module
from csync2lib import keys, setup
from csync2lib.errors import raised_as
from csync2lib.facts import Facts
from csync2lib.group import Group
from csync2lib.host import ThisHost
from csync2lib.join import admit as admit_module
from csync2lib.join import compare
from csync2lib.join import join as join_module
from salt.exceptions import CommandExecutionError

__virtualname__ = "csyncsync"


def __virtual__():
    if importlib.util.find_spec("cryptography") is None:
        return False, "csyncsync: Python's cryptography, which Salt's packages hold, cannot be imported"
    return __virtualname__


def _host():
    return ThisHost.of(__opts__["id"], __grains__.get("os_family"))


def _group(name):
    return Group(name, _host())


def _facts():
    return Facts(_host(), __pillar__, __salt__, __opts__.get("master_ip") or "")


# --- Facts and membership --------------------------------------------------------------------------------


@raised_as(CommandExecutionError)
def member():
    """
    The facts about this host that the others need, as they stand in the mine.

    Returns ``{"name": host name, "addresses": {"": primary address, GROUP: address, …}, "certificate": PEM}``.
    A group has an entry of its own if its pillar sets ``address``. Raises CommandExecutionError if this host
    has no certificate yet, or no address that fits.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.member
    """
    return _facts().member()


@raised_as(CommandExecutionError)
def groups(group=None, facts=True):
    """
    The groups of this host as pillar and mine have them now: who is in them, and what is wrong.

    group
        Only this one.
    facts
        Without them only the pillar is judged: no hosts, and ``groups`` stays empty.

    Returns ``{"groups": {GROUP: {"hosts": {minion id: {"name", "address", "certificate"}}, "unpublished": [minion
    id, …], "options": {…}, "context": {…}}}, "errors": {GROUP: [message, …]}}``. Groups that this minion is no
    member of are left out. ``unpublished`` are members that have no facts in the mine now: their last known ones count.
    No key is among the options.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.groups
        salt web1 csyncsync.groups wwwdata
    """
    return _facts().groups(group, facts)


# --- Files of a group ------------------------------------------------------------------------------------


def installed():
    """
    The groups that are installed on this host, whether the pillar still has them or not.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.installed
    """
    return _host().installed()


@raised_as(CommandExecutionError)
def refresh(accepted=None):
    """
    Read pillar and mine again: ``csyncsync.groups`` and ``csyncsync.service`` are applied, beside whatever state run
    is under way.

    accepted
        ``{GROUP: [minion id, …]}``: whom the master has accepted; the runner gives it. Who is not among them has left.

    A call that finds one running waits for it; a call that finds one waiting returns, because that one will read
    what is newest anyway. Returns the names of the states that failed, or a line that says why nothing was done.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.refresh
    """
    return setup.refresh(_host(), accepted, __salt__)


def paths(group):
    """
    Where csync2 and csyncsync keep a group on this host.

    Returns ``{"config", "key", "database", "state"}``, all absolute paths.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.paths wwwdata
    """
    there = _group(group)
    return {"config": there.config_file, "key": there.key_file, "database": there.database, "state": there.directory}


@raised_as(CommandExecutionError)
def install(group, test=False, new_key=False, found=None):
    """
    Write down a group for the watcher and for ``push``, note its include roots, and pin its hosts' certificates.

    ``group_present`` calls this after csync2's config and key are in place. An include root that was never seen
    and does not exist is made, as a directory; one that was seen before is never made again, because it may be an
    unmounted disk.

    The ``backup_directory`` is made, for root alone; one that others can enter is refused.

    new_key
        The group's key is another one than before.
    found
        What ``csyncsync.groups`` said of the group; without it, that is asked: the mine is on the master.

    Returns ``{"changes": {…}, "problems": [message, …]}``. With ``test=True`` nothing is written.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.install wwwdata test=True
    """
    return setup.install(_group(group), found or _facts().group(group), __salt__, test, new_key)


@raised_as(CommandExecutionError)
def remove(group, test=False):
    """
    Take a group off this host: csync2's config, key and database, and this module's notes on it.

    The synchronized files stay as they are. Returns the list of what was removed.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.remove wwwold test=True
    """
    return setup.remove(_group(group), __salt__, test)


@raised_as(CommandExecutionError)
def pinned(group):
    """
    Which certificates this host accepts from the other hosts of a group.

    Returns ``{minion id: SHA-256 in hexadecimal}``, as ``csyncsync.certificate`` shows it on the host itself.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.pinned wwwdata
    """
    return _group(group).pinned()


@raised_as(CommandExecutionError)
def key_proof(group, salt):
    """
    Prove that this host has a group's key, without saying it. The runner compares.

    salt
        Any text; another one each time.

    Returns 16 hexadecimal digits, the same on all hosts that have the same key.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.key_proof wwwdata "$RANDOM"
    """
    there = _group(group).require()
    return keys.proof(keys.read(there.key_file) or "", str(salt))


# --- The certificate -------------------------------------------------------------------------------------


@raised_as(CommandExecutionError)
def certificate(create=False):
    """
    The TLS certificate of this host: whether it is there and can be used.

    create
        Make a key (P-256) and a self-signed certificate if there is none that can be used.

    Returns ``{"valid": bool, "reason": why not, "fingerprint": SHA-256 in hexadecimal, "not_after": date}``.
    csync2 pins certificates and looks at no date; the key never leaves the host.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.certificate
    """
    found = certificate_module.check(_host())
    return certificate_module.renew(_host(), keep=True) if create and not found["valid"] else found


@raised_as(CommandExecutionError)
def renew_certificate():
    """
    Make this host a new private key and a new certificate, and publish it; the old ones are deleted. The runner's
    ``rotate_certificate`` calls it, and has the other hosts accept the new one.

    csync2 knows one certificate for each host: until the others have the new one, they and this host refuse each other.

    Returns what ``csyncsync.certificate`` does.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.renew_certificate
    """
    renewed = certificate_module.renew(_host())
    __salt__["mine.send"]("csyncsync.member")
    return renewed


# --- The first content of a host -------------------------------------------------------------------------


@raised_as(CommandExecutionError)
def join(group, source=None, keep=False, admitted=False, digests=None):
    """
    Take this host into a group, in two steps around ``admit`` on the source. The runner calls it.

    source
        Minion id of an established host that sends; None for the first host of a group.
    keep
        This host's own files count (first content of a group): what differs becomes a conflict. Otherwise the
        source's version replaces them. For the first host: the others, which only receive, are to get all it has.
    admitted
        The source has sent what it has; from now on this host pushes.
    digests
        With ``keep``: what ``csyncsync.digests`` returned on the source. Without it, each file is compared with the
        source's.

    Returns ``{"group", "state": "recorded" or "established", "unsent": [path, …]}``. Raises CommandExecutionError.
    ``unsent`` are the last changes that a host that lost its database had made and not sent: it keeps all. Paths are
    percent-encoded, with a ``/`` at the end where a whole tree is meant.

    CLI Example:

    .. code-block:: bash

        salt web3 csyncsync.join wwwdata source=web1
    """
    return join_module.join(_group(group), source, keep, admitted, digests)


@raised_as(CommandExecutionError)
def reset(group):
    """
    Forget what csync2 knows of a group's files, so that this host joins it anew. The runner's ``reset`` calls it.

    The files stay as they are. Returns True. Raises CommandExecutionError.

    CLI Example:

    .. code-block:: bash

        salt web3 csyncsync.reset wwwdata
    """
    _group(group).reset()
    return True


@raised_as(CommandExecutionError)
def digests(group, of=None):
    """
    Digests of the contents of this host's files, for the comparison in ``admit``. The runner calls it.

    of
        ``records``: return one digest of what csync2 has recorded, and read no file; ``all``: of contents, too.

    Returns ``{"group", "digests": [16 hexadecimal digits, …]}``, always 4,096 of them, or one; all files are read.

    CLI Example:

    .. code-block:: bash

        salt web3 csyncsync.digests wwwdata
    """
    found = _group(group).require()
    return {"group": group, "digests": [compare.digest(found, of == "all")] if of else compare.digests(found)}


@raised_as(CommandExecutionError)
def admit(group, host, digests=None, unsent=(), keep=False, remove=False):
    """
    Send to a host that joins all that it lacks, or has otherwise. The runner calls it on an established host.

    host
        Minion id of the host that joins.
    digests
        What ``csyncsync.digests`` returned there. Records that are equal prove nothing about two files that were
        written within the same second: files whose digests differ are compared with the host, byte by byte. Without
        digests all files are.
    unsent
        What ``csyncsync.join`` returned there: these paths are not sent.
    keep
        The host's own files count, so what it refuses is a conflict. Otherwise it has changed that just now.
    remove
        What the host alone has is deleted there.

    Returns ``{"group", "marked": entries, "left": entries that the host did not take, "refused": [path, …]}``:
    ``csyncsync.claims`` there says which of these it does not lack. At most 5,000 paths, percent-encoded, with a ``/``
    at the end of a directory. Raises CommandExecutionError.

    CLI Example:

    .. code-block:: bash

        salt web1 csyncsync.admit wwwdata web3
    """
    return admit_module.admit(_group(group), host, digests, unsent, keep, remove)


@raised_as(CommandExecutionError)
def returned(group, host):
    """
    Forget that a host had left the group's config here: it has joined anew. The runner calls it.

    CLI Example:

    .. code-block:: bash

        salt '*' csyncsync.returned wwwdata web4
    """
    found = _group(group).require()
    found.note_dropped(found.dropped() - {str(host)})
    return True


@raised_as(CommandExecutionError)
def claims(group, paths):
    """
    Why this host, which joins, did not take some paths, if not for a fault. The runner calls it.

    paths
        As ``csyncsync.admit`` returned them.

    Returns ``{path: "changed" on this host, too, or "place": a directory stands there, or no directory above it}``; any
    other it lacks.

    CLI Example:

    .. code-block:: bash

        salt web3 csyncsync.claims wwwdata '[/var/www/data/index.html]'
    """
    return admit_module.claims(_group(group), paths)
