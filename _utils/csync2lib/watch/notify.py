"""Events on the minion's own bus, which the minion hands on to the master. Nothing else in ``watch`` imports Salt."""

from __future__ import annotations

import datetime
import logging
import socket

import salt.transport.frame
import salt.utils.msgpack
import salt.version

from csync2lib.watch.options import Options

log = logging.getLogger(__name__)

#: The beacon's name, as it stands in the tags of its events.
BEACON = "csyncsync"
#: The tag of what a beacon returns, on the minion's bus, and what stands between a tag and its data
#: (salt/minion.py, handle_event(); salt/utils/event.py, TAGEND).
RETURNED, TAG_END = b"__beacons_return", b"\n\n"
#: Seconds to wait for the minion to take an event.
TAKEN_WITHIN = 5.0


class Notifier:
    """Fires events of groups. Not by ``salt.utils.event``: to import that takes 25 MiB."""

    def __init__(self, options: Options) -> None:
        self.options = options

    @staticmethod
    def salt_version() -> str:
        """The version of Salt whose framing this process has."""
        return str(salt.version.__version__)

    def fire(self, group: str, count: int, full_rescan: bool, error: str | None = None) -> bool:
        """
        Tell that a group has something to push, as the minion does with what a beacon returns; may block. The beacon's
        documentation tells the fields.

        Returns whether there is a minion that listens. It drops what comes while it is not connected to a master.
        """
        minion = self.options.id
        data = {"id": minion, "group": group, "count": count, "whole": full_rescan}
        if error:
            data["error"] = error
        tag = f"salt/beacon/{minion}/{BEACON}/{group}"
        try:
            stamp = datetime.datetime.now(datetime.timezone.utc).isoformat()
            told = {"beacons": [{"tag": tag, "data": data, "beacon_name": BEACON}], "_stamp": stamp}
            event = RETURNED + TAG_END + salt.utils.msgpack.dumps(told, use_bin_type=True)
            address = self.options.bus
            with socket.socket(socket.AF_INET if isinstance(address, int) else socket.AF_UNIX) as bus:
                bus.settimeout(TAKEN_WITHIN)
                bus.connect(("127.0.0.1", address) if isinstance(address, int) else address)
                bus.sendall(salt.transport.frame.frame_msg_ipc(event, raw_body=True))
        except OSError as err:
            log.debug("csyncsync: the event of group %s could not be fired: %s", group, err)
            return False
        return True
