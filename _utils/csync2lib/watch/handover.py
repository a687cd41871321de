"""
What a watcher leaves to the one that takes its place: which directory has which watch of the kernel's descriptor.

systemd keeps the descriptor while the process is replaced, and the kernel goes on adding events to it. So nothing is
missed, and nothing has to be walked again.
"""

from __future__ import annotations

import marshal
import os
from typing import Any

from csync2lib import storage
from csync2lib.csync2.excludes import Excludes
from csync2lib.watch.groups import WatchedConfig, WatchedGroup
from csync2lib.watch.inotify import MASK, Node, Root, Watches
from csync2lib.watch.watcher import Watcher

#: Changes when what is written does, and with the events that are asked for.
FORMAT = [1, MASK]
#: What the echo filter knows of csync2's writes that are under way.
ECHO = ("renaming", "landing", "landed")


def keep(path: str, watcher: Watcher) -> None:
    """Write down what a closed watcher watches, if nothing is under way, and all is in the journals. Raises OSError."""
    unsaved = any(group.changes.full_rescan for group in watcher.groups.values())
    if watcher.watches.fd < 0 or watcher.tree.walks.is_busy() or unsaved:
        return
    groups = [_said(group) for group in watcher.groups.values() if group.walked and not group.walking]
    # In Python's own form, as it is read by the same Python in a moment: 100,000 directories in a tenth of a second.
    storage.write(path, marshal.dumps([FORMAT, groups, [getattr(watcher.echo, name) for name in ECHO]]), durable=False)


def take(path: str, watcher: Watcher, descriptor: int) -> bool:
    """
    Have a watcher that has not started go on with what was written down, and with the kernel's descriptor. Tells
    whether that could be done. It can be done once.
    """
    try:
        with open(path, "rb") as file:
            read = marshal.load(file)
        os.unlink(path)
        [known, groups, echo] = read
    except (OSError, EOFError, ValueError, TypeError):
        return False
    if known != FORMAT:
        return False
    watcher.watches.fd = descriptor
    vars(watcher.echo).update(zip(ECHO, echo))
    for said in groups:
        group = _group(said, watcher)
        watcher.groups[group.name] = group
    return True


def _said(group: WatchedGroup) -> dict[str, Any]:
    roots = [root for root in group.roots.values() if root is not None]
    return {
        "name": group.name,
        "include": group.config.include,
        "exclude": group.config.exclude,
        "missing": [path for path, root in group.roots.items() if root is None],
        "roots": [(root.path, root.only, tuple(root.identity), _rows(root, group)) for root in roots],
        "walks": group.walks,
        "linked": (group.linked, group.flushes.last_rescan),
        "asked": (group.flushes.unasked, group.flushes.asked, group.flushes.last_fired),
        "database": group.database_seen,
        "problem": group.problem,
    }


def _rows(root: Root, group: WatchedGroup) -> list[tuple[int, bytes, int | None, bool, bool]]:
    """
    A root and the directories below it: (number of the row of what it is in, name, watch, whether it is excluded,
    whether it could not be watched), what is in a directory after it.
    """
    rows: list[tuple[int, bytes, int | None, bool, bool]] = []
    todo: list[tuple[int, Node]] = [(-1, root)]
    while todo:
        above, node = todo.pop()
        rows.append((above, node.name, node.wd, node.excluded, node in group.unwatched))
        todo.extend((len(rows) - 1, child) for child in node.children.values())
    return rows


def _group(said: dict[str, Any], watcher: Watcher) -> WatchedGroup:
    """A group as it was: its config is read anew, and what has changed in it is then found."""
    group = WatchedGroup(said["name"], os.path.join(watcher.state_dir, said["name"]))
    group.config = WatchedConfig(include=said["include"], exclude=said["exclude"])
    group.excludes = Excludes(group.config.exclude)
    group.roots = dict.fromkeys(said["missing"])
    for path, only, identity, rows in said["roots"]:
        group.roots[path] = _root(Root(group, path, only, identity), rows, group, watcher.watches)
    group.walked, group.walks, (group.linked, group.flushes.last_rescan) = True, said["walks"], said["linked"]
    group.flushes.unasked, group.flushes.asked, group.flushes.last_fired = said["asked"]
    group.database_seen, group.problem = said["database"], said["problem"]
    return group


def _root(root: Root, rows: list[tuple[int, bytes, int | None, bool, bool]], group: Any, watches: Watches) -> Root:
    nodes: list[Node] = []
    for above, name, wd, excluded, unwatched in rows:
        node = Node(name, nodes[above]) if nodes else root
        nodes.append(node)
        if node.parent is not None:
            node.parent.children[name] = node
        node.excluded = excluded
        if unwatched:
            group.unwatched.add(node)
        if wd is not None:
            watches.give(node, wd)
    return root
