"""
The states of csyncsync: this host's certificate, its published facts, and the groups that it is in.

A state reads, compares, returns early when nothing is to do, writes, and reads again. It may call the execution
module ``csyncsync`` and ``file.managed``, which lays the files out and shows their differences (never a key's).
It asks the master for the pillar once more when a group's key has changed.
"""

import os
import time

import salt.pillar
import salt.utils.files
from salt.exceptions import CommandExecutionError, SaltException

__virtualname__ = "csyncsync"


def __virtual__():
    if "csyncsync.groups" in __salt__:
        return __virtualname__
    return False, "csyncsync: its execution module is not loaded (salt '*' saltutil.sync_all)"


def _result(name, result=True, comment="", changes=None):
    return {"name": name, "result": result, "comment": comment, "changes": changes or {}}


def certificate_present(name):
    """
    Make sure that this host has a key and a certificate of its own that csync2 can use.

    .. code-block:: yaml

        This host has a certificate for csync2:
          csyncsync.certificate_present: []
    """
    before = __salt__["csyncsync.certificate"]()
    if before["valid"]:
        return _result(name, comment=f"The certificate is there, valid until {before['not_after']}.")
    changes = {"certificate": {"old": before["reason"], "new": "a P-256 key and a self-signed certificate"}}
    if __opts__["test"]:
        return _result(name, None, f"A certificate would be made: {before['reason']}.", changes)
    after = __salt__["csyncsync.certificate"](create=True)
    if not after["valid"]:
        return _result(name, False, f"The new certificate cannot be used: {after['reason']}.")
    changes["certificate"]["new"] = f"SHA-256 {after['fingerprint']}, valid until {after['not_after']}"
    return _result(name, comment="A certificate was made.", changes=changes)


def member_published(name):
    """
    Make sure that the mine holds this host's facts (``csyncsync.member``) as they are now.

    When they changed, the event ``csyncsync/GROUP/facts`` makes the master have the group's other hosts read them.

    .. code-block:: yaml

        The other hosts know this host:
          csyncsync.member_published: []
    """
    try:
        facts = __salt__["csyncsync.member"]()
    except CommandExecutionError as err:
        if __opts__["test"]:
            return _result(name, None, "The facts would be published.", {"mine": {"new": "csyncsync.member"}})
        return _result(name, False, str(err))
    minion = __opts__["id"]
    old = _published(minion)
    if old == facts:
        return _result(name, comment="The mine holds this host's facts.")
    changes = {"mine": {"old": _shown(old), "new": _shown(facts)}}
    if __opts__["test"]:
        return _result(name, None, "The facts would be published.", changes)
    __salt__["mine.send"]("csyncsync.member")
    until = time.monotonic() + 20  # Salt hands them on to the master without waiting for it
    while _published(minion) != facts:
        if time.monotonic() > until:
            return _result(name, False, "The mine did not take the facts: does the master answer, and allow the mine?")
        time.sleep(0.5)
    for group in __salt__["csyncsync.groups"]()["groups"]:
        __salt__["event.send"](f"csyncsync/{group}/facts", {"group": group})
    return _result(name, comment="The facts were published.", changes=changes)


def _published(minion):
    """A host's facts as the mine has them, None if it has none."""
    return (__salt__["mine.get"](minion, "csyncsync.member") or {}).get(minion)


def _shown(facts):
    """Facts for a diff: the certificate is long and says nothing to a reader."""
    if not isinstance(facts, dict):
        return None
    return {key: value for key, value in facts.items() if key != "certificate"}


def group_present(name):
    """
    Make sure that this host is in a group as pillar and mine have it: key, config, pinned certificates.

    name
        The group, as under ``csyncsync:groups`` of the pillar.

    If the pillar or a published fact cannot be used, the state fails, names it, and what stood before stays. A host
    that the group's ``members`` do not cover leaves the group.

    .. code-block:: yaml

        The group wwwdata is on this host:
          csyncsync.group_present:
            - name: wwwdata
    """
    cold = __opts__["test"] and not __salt__["csyncsync.certificate"]()["valid"]
    found = __salt__["csyncsync.groups"](name, facts=not cold)
    if found["errors"]:
        return _result(name, False, "\n".join(line for lines in found["errors"].values() for line in lines))
    if cold:
        return _result(name, None, "The group would be set up.", {"group": {"new": name}})
    if name not in found["groups"]:
        return group_absent(name)
    group, where = found["groups"][name], __salt__["csyncsync.paths"](name)
    try:
        key = _newest_key(name, where["key"])
    except SaltException as err:
        return _result(name, False, f"the group's key changed, and the master does not tell the newest one: {err}")
    if not key:
        return _result(
            name, False, f"csyncsync:groups:{name}:key is missing: set it, or let the csyncsync ext_pillar make the key"
        )
    return _set_up(name, group, where, key)


def _set_up(name, group, where, key):
    """Have a group's files, given what ``csyncsync.groups`` and ``csyncsync.paths`` say, and have it written down."""
    changes, test, had_key = {}, __opts__["test"], os.path.exists(where["key"])
    try:
        __salt__["csyncsync.install"](name, test=True, found=group)  # what it refuses must not get into csync2's config
    except CommandExecutionError as err:
        return _result(name, False, str(err))
    managed = __states__["file.managed"]
    source, context = "salt://csyncsync/files/csync2.cfg.jinja", {"group": group["context"]}
    files = {
        "key": managed(where["key"], contents=key, mode="0600", user="root", show_changes=False),
        "config": managed(where["config"], source=source, template="jinja", context=context, mode="0600", user="root"),
    }
    for what, result in files.items():
        if result["result"] is False:
            return _result(name, False, f"{what}: {result['comment']}", changes)
        if result["changes"]:
            changes[what] = "changed (not shown)" if what == "key" else result["changes"]
    new_key = had_key and "key" in changes
    try:
        done = __salt__["csyncsync.install"](name, test=test, new_key=new_key, found=group)
    except CommandExecutionError as err:
        return _result(name, False, str(err), changes)
    changes.update(done["changes"])
    comments = []
    if group["unpublished"]:
        comments = ["Without facts in the mine, kept as known last: " + ", ".join(group["unpublished"]) + "."]
    if done["problems"]:
        comments.append("To be mended: " + "; ".join(done["problems"]) + ".")
        return _result(name, False, " ".join(comments), changes)
    others = len(group["hosts"]) - 1
    comments.insert(0, f"The group is shared with {others} other host{'s' if others != 1 else ''}.")
    return _result(name, None if changes and test else True, " ".join(comments), changes)


def _newest_key(name, path):
    """
    The group's key. Where it is not the one that the host has, the master is asked again.

    This state run may have read its pillar before the key was changed, minutes ago, and another one may have brought
    the new key since: an old key must not come back.
    """
    key = _key_in(__pillar__, name)
    if not os.path.exists(path) or _holds(path, key):
        return key
    opts = dict(__opts__)  # it is changed there
    now = salt.pillar.get_pillar(
        opts, dict(__grains__), opts["id"], opts.get("saltenv"), pillarenv=opts.get("pillarenv")
    )
    return _key_in(now.compile_pillar(), name) or key


def _holds(path, key):
    with salt.utils.files.fopen(path, encoding="utf-8", errors="replace") as file:
        return file.read().strip() == key


def _key_in(pillar, name):
    groups = (pillar.get("csyncsync") or {}).get("groups") or {}
    return (groups.get(name) or {}).get("key")


def group_absent(name):
    """
    Make sure that a group is not on this host. The files that it synchronized stay as they are.

    .. code-block:: yaml

        The group wwwold is gone:
          csyncsync.group_absent:
            - name: wwwold
    """
    present = __salt__["csyncsync.remove"](name, test=True)
    if not present:
        return _result(name, comment="The group is not on this host.")
    changes = {"removed": present}
    if __opts__["test"]:
        return _result(name, None, "The group would be taken off this host; its files would stay.", changes)
    __salt__["csyncsync.remove"](name)
    left = __salt__["csyncsync.remove"](name, test=True)
    if left:
        return _result(name, False, f"Still there: {', '.join(left)}.", changes)
    return _result(name, comment="The group was taken off this host; its files stayed.", changes=changes)
