"""Events for the minion's own bus, which the minion hands on to the master. Nothing else in ``watch`` imports Salt."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import salt.utils.event

log = logging.getLogger(__name__)

#: The beacon's name, as it stands in the tags of its events.
BEACON = "csyncsync"


class Notifier:
    """
    Fires events of groups.

    opts
        The minion's.
    at_ticks
        Whether events are only collected in ``outbox``, because Salt fires what the beacon's ticks return.
    """

    def __init__(self, opts: dict[str, Any], at_ticks: bool) -> None:
        self.opts, self.at_ticks = opts, at_ticks
        self.outbox: list[dict[str, Any]] = []

    def fire(self, group: str, count: int, full_rescan: bool, error: str | None = None) -> None:
        """Tell that a group has something to push; may block. The beacon's documentation tells the fields."""
        data = {"id": self.opts.get("id"), "group": group, "count": count, "whole": full_rescan}
        if error:
            data["error"] = error
        if self.at_ticks:
            self.outbox.append({"tag": group, **data})
            return
        tag = f"salt/beacon/{data['id']}/{BEACON}/{group}"
        beacons = [{"tag": tag, "data": data, "beacon_name": BEACON}]
        try:
            self._send({"beacons": beacons}, "__beacons_return")
        except (Exception, asyncio.CancelledError) as err:  # pylint: disable=broad-except
            # Salt raises many things here; the event is repeated as long as the journal is not empty.
            log.debug("csyncsync: the event of group %s could not be fired: %s", group, err)

    def _send(self, data: dict[str, Any], tag: str) -> None:
        """Fire an event the way the minion does itself with what a beacon returns."""
        with salt.utils.event.get_event("minion", opts=self.opts, listen=False) as event:
            event.fire_event(data, tag)

    def collected(self) -> list[dict[str, Any]]:
        """What was to be fired since the last tick."""
        events, self.outbox = self.outbox, []
        return events
