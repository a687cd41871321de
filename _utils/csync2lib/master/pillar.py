"""The groups of a minion, with their keys, from the one file that the master's config names."""

from __future__ import annotations

from typing import Any

import salt.utils.files
import salt.utils.yaml

from csync2lib import keys
from csync2lib.config import membership, schema

#: What may stand beside the groups, and is the same for all their members.
HOST_OPTIONS = ("confine", "max_user_watches", "metrics")


def pillar_of(minion: str, file: str, pki_dir: str) -> dict[str, Any]:
    """
    What stands below ``csyncsync`` in a minion's pillar: ``{"groups": {GROUP: options with "key"}}``, the options of
    hosts, and ``{"errors": {GROUP: [message, …]}}`` of groups that cannot be used. Raises whatever a file may cause.
    """
    with salt.utils.files.fopen(file, "r", encoding="utf-8") as opened:
        found = (salt.utils.yaml.safe_load(opened) or {})["csyncsync"]
    given = found["groups"]
    checked = schema.validate(given)
    groups: dict[str, Any] = {}
    errors: dict[str, list[str]] = {}
    if not isinstance(given, (dict, type(None))):
        raise TypeError("groups is no mapping")
    for name, options in (given or {}).items():
        if name in checked["groups"]:
            if membership.matches(checked["groups"][name]["members"], minion):
                key = options.get("key") or keys.make_once(keys.path(pki_dir, name))
                groups[name] = {**options, "key": key}
        elif membership.may_match(options, minion):
            errors[str(name)] = checked["errors"].get(str(name), [f"csyncsync:groups:{name} cannot be used"])
    others = {name: value if name in HOST_OPTIONS else None for name, value in found.items() if name != "groups"}
    beside = others if groups or errors else {}
    return {"groups": groups, **beside, **({"errors": errors} if errors else {})}
