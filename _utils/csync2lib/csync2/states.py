"""The state of a file as csync2 records it: a line of text with type, owner, mode, size and whole seconds."""

import os
import re
import stat

from csync2lib.csync2.names import encode


def check_text(path, status):
    """
    Given a path (bytes) and its lstat, return the state that csync2 would record (checktxt.c, version 1).

    Two states of one file that differ only within a second, at the same size, have the same text.
    """
    mode = status.st_mode
    text = "v1"
    if not stat.S_ISLNK(mode) and not stat.S_ISDIR(mode):
        text += f":mtime={int(status.st_mtime_ns // 10**9)}"
    text += f":mode={mode}:uid={_as_int(status.st_uid)}:gid={_as_int(status.st_gid)}"
    if stat.S_ISREG(mode):
        text += f":type=reg:size={status.st_size}"
    elif stat.S_ISDIR(mode):
        text += ":type=dir"
    elif stat.S_ISCHR(mode):
        text += f":type=chr:dev={_as_int(status.st_rdev)}"
    elif stat.S_ISBLK(mode):
        text += f":type=blk:dev={_as_int(status.st_rdev)}"
    elif stat.S_ISFIFO(mode):
        text += ":type=fifo"
    elif stat.S_ISSOCK(mode):
        text += ":type=sock"
    raw = text.encode()
    if stat.S_ISLNK(mode):
        raw += b":type=lnk:target=" + encode(os.readlink(path)[:4095])
    return raw


def is_older(status, text):
    """Given a file's lstat and a recorded state of it, tell whether the file's time is older than the recorded one."""
    recorded = re.match(rb"v1:mtime=(-?[0-9]+):", text)
    return (
        recorded is not None and stat.S_ISREG(status.st_mode) and status.st_mtime_ns // 10**9 < int(recorded.group(1))
    )


def is_made_here(path):
    """
    Tell whether there is a file that was surely made here: any other may be csync2's, recorded or not. The time
    that it gives to a file is a whole second.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_mtime_ns % 10**9 != 0


def _as_int(number):
    """A number as C's ``%d`` prints it: an id above 2147483647 is negative there."""
    return (number + 2**31) % 2**32 - 2**31
