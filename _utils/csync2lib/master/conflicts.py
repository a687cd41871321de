"""
Conflicts: which files two hosts refuse from each other, what each of them has, and whose version is to win.

For the runner on the master (who is in conflict, who wins) and for the module on the hosts (what is there). May call
the standard library alone.
"""

import difflib

#: csync2's own words for a policy (its config's ``auto``) that can be applied to one path: what the winner has most of.
POLICIES = {
    "younger": lambda version: version["mtime"],
    "older": lambda version: -version["mtime"],
    "bigger": lambda version: version["size"],
    "smaller": lambda version: -version["size"],
}


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


def difference(versions):
    """Given ``{host: version}`` with texts, return a unified diff from the first one to each other ("" without)."""
    texts = [(host, versions[host]["text"]) for host in sorted(versions) if "text" in versions[host]]
    lines = []
    for host, text in texts[1:]:
        first, before = texts[0]
        lines += difflib.unified_diff(before.splitlines(), text.splitlines(), first, host, lineterm="")
    return "\n".join(lines)
