"""
Give each group of csyncsync a key, and the key to the group's members alone.

Master config; the file has the form of ``pillar.example`` and is plain YAML:

.. code-block:: yaml

    ext_pillar:
      - csyncsync:
          groups: /srv/pillar/csyncsync.yaml

A minion that a group's ``members`` cover gets the group with its key as pillar ``csyncsync:groups:GROUP``; no other
minion sees it, so the file needs no line in ``top.sls``. A ``key`` that stands in the file is left alone; otherwise
it is made once and kept in ``<pki_dir>/csyncsync/GROUP.key``, mode 0600.

Nothing but the minion's id, which the master has verified, and that file decide: the pillar that is passed in can be
shaped by the minion's own request (``pillar_override``), so it is never read.
"""

import logging

from csync2lib.master.pillar import pillar_of

log = logging.getLogger(__name__)


def ext_pillar(minion_id, pillar, groups=None):
    """
    Given a minion's id, return ``{"csyncsync": {"groups": {GROUP: options with "key"}}}`` of its groups, and, if it has
    any, the options of hosts that stand beside the groups (of others only the name, so that a state names it).

    A group that cannot be used comes as ``csyncsync:errors:GROUP`` instead, a list of messages, so that the minion's
    state says what is wrong with it; nothing that stands in it is passed on. If the file cannot be read, only
    ``csyncsync:errors`` is returned, and what is on the hosts stays. Never raises: that would block every state.
    """
    try:
        return {"csyncsync": pillar_of(minion_id, groups, __opts__["pki_dir"])}
    except Exception as err:  # pylint: disable=broad-except
        # Only the kind of error: the text of a YAML error quotes the file, which may hold keys.
        kind = type(err).__name__
        log.error("csyncsync ext_pillar: %s cannot be used (%s): no groups for %s", groups, kind, minion_id)
        message = f"csyncsync:groups cannot be read by the master: {kind} with {groups}, which its ext_pillar names"
        return {"csyncsync": {"errors": {"": [message]}}}
