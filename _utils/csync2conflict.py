"""
Conflicts: which files two hosts refuse from each other, what each of them has, and whose version is to win.

For the runner on the master (who is in conflict, who wins) and for the module on the hosts (what is there). May call
the standard library alone.
"""

import difflib
import grp
import hashlib
import os
import pwd
import stat
import time

#: csync2's own words for a policy (its config's ``auto``) that can be applied to one path: what the winner has most of.
POLICIES = {
    "younger": lambda version: version["mtime"],
    "older": lambda version: -version["mtime"],
    "bigger": lambda version: version["size"],
    "smaller": lambda version: -version["size"],
}
#: Bytes of a file's text that are sent for a diff.
TEXT = 65_536


def find(marked):
    """
    Given ``{host: {path: [host, …] that it is to be sent to}}``, return ``{path: [host, …]}`` of those that hosts want
    to send to each other.
    """
    found = {}
    for host, paths in marked.items():
        for path, peers in paths.items():
            if any(host in marked.get(peer, {}).get(path, ()) for peer in peers):
                found.setdefault(path, []).append(host)
    return {path: sorted(hosts) for path, hosts in sorted(found.items())}


def below(marked, path):
    """Every path that any host is to send, and that stands below a path; percent-encoded, as all of them."""
    return {name for paths in marked.values() for name in paths if name.startswith(path + "/")}


def winner(policy, versions):
    """
    Given ``{host: version}`` as version() describes it, return the host whose version wins by a policy.

    A host that has no file there does not win. Raises ValueError if two are as good, or none has a file.
    """
    most = POLICIES[policy]
    files = {host: most(version) for host, version in versions.items() if version["type"] == "file"}
    best = [host for host, value in files.items() if value == max(files.values())]
    if len(best) != 1:
        raise ValueError(f"{' and '.join(best)} are equally good" if best else "no host has a file there")
    return best[0]


def version(path, text=False, pace=None):
    """
    What this host has at a path in bytes: ``{"type", "size": bytes, "mtime": seconds since the epoch, "time": the same
    in words, UTC, "mode", "owner", "sha256" or "target"}``, with ``{"type": "nothing", …}`` if nothing is there.

    text
        Also ``"text"``, if the file is not long, and is text.
    pace
        Called with the number of bytes, after each part of a file that was read.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return {"type": "nothing", "size": 0, "mtime": 0}
    kind = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
    result = {"type": kind.get(stat.S_IFMT(status.st_mode), "special"), **described(status)}
    if result["type"] == "link":
        result["target"] = os.readlink(path).decode("utf-8", "backslashreplace")
    if result["type"] == "file":
        result.update(_content(path, text and status.st_size <= TEXT, pace))
    return result


def described(status):
    """``{"size", "mtime", "time", "mode", "owner"}`` of a file's status, as version() has them."""
    return {
        "size": status.st_size,
        "mtime": status.st_mtime,
        "time": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(status.st_mtime)),
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "owner": f"{_name(pwd.getpwuid, status.st_uid)}:{_name(grp.getgrgid, status.st_gid)}",
    }


def _name(look_up, number):
    try:
        return look_up(number)[0]
    except KeyError:
        return str(number)


def _content(path, text, pace):
    digest, content = hashlib.sha256(), b""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
                if pace:
                    pace(len(part))
                content = content + part if text else b""
    except OSError as err:
        return {"sha256": f"cannot be read: {err.strerror}"}
    result = {"sha256": digest.hexdigest()}
    if text and b"\0" not in content:
        result["text"] = content.decode("utf-8", "backslashreplace")
    return result


def difference(versions):
    """Given ``{host: version}`` with texts, return a unified diff from the first one to each other ("" without)."""
    texts = [(host, versions[host]["text"]) for host in sorted(versions) if "text" in versions[host]]
    lines = []
    for host, text in texts[1:]:
        first, before = texts[0]
        lines += difflib.unified_diff(before.splitlines(), text.splitlines(), first, host, lineterm="")
    return "\n".join(lines)
