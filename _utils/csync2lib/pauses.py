"""What is paused of a group, and until when."""

import os
import time

from csync2lib import storage

#: In the place of a host, in what is paused: the whole group.
ALL_HOSTS = "*"


def pauses(directory):
    """What is paused of a group, given its directory, and has not ended by itself (see ``csyncsync.paused``)."""
    found, now = storage.read_json(os.path.join(directory, "paused.json"), {}), time.time()
    return {host: pause for host, pause in found.items() if pause["until"] is None or pause["until"] > now}
