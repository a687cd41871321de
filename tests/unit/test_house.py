"""
The rules of the house, read from the imports of all product files, and its measures.

A rule is a function of one file that returns what is wrong there. Each is tried on a file that breaks it, too.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from csync2lib.csync2.names import is_group_name

REPOSITORY = Path(__file__).resolve().parents[2]
LIBRARY = "csync2lib"
LOADED = ("_beacons", "_modules", "_output", "_pillar", "_runners", "_states")

#: The floors of csync2lib, from the ground up: who may import whom. A part imports its own floor and those below.
FLOORS = (
    ("beneath", "errors", "storage", "waits"),
    ("config", "csync2"),
    (
        *("actions", "backups", "certificate", "confinement", "contents", "facts", "group", "guard", "host", "journal"),
        *(
            "keys",
            "local_changes",
            "pauses",
            "received",
            "records",
            "restore",
            "server",
            "setup",
            "signature",
            "versions",
        ),
    ),
    ("report",),
    ("push", "watch"),
    ("join",),
    ("__main__", "alone"),
)
#: Neighbours who do not know each other.
APART = {"push": ("watch",), "watch": ("push",)}
#: What runs on the master is beside that: it imports nothing that works on a host's own files.
MASTER = (
    *("errors", "storage", "waits", "config", "csync2.names"),
    *("contents", "keys", "records", "signature", "versions", "report", "master"),
)
#: What of the library imports Salt.
OF_SALT = ("csync2lib/master/", "csync2lib/watch/notify.py")
#: What the minion's own process may not have: what starts threads; SQLite, whose locks are the process's; and all of
#: this package, which an upgrade would leave there as it was.
WITH_THREADS = ("threading", "concurrent", "asyncio", "sqlite3", LIBRARY)
#: What takes long to import, and is not needed as a rule: the one thing that a function may import itself.
LATE = ("cryptography",)
#: What is given a path follows symlinks in it, which a user of an include can put there while root looks: with a path
#: these are for files of csyncsync's and the system's own; beneath.py has what is for includes and backups.
WITH_PATHS = {"open"} | {
    f"os.{name}"
    for name in (
        *(
            "access",
            "chmod",
            "chown",
            "fwalk",
            "getxattr",
            "lchown",
            "link",
            "listdir",
            "listxattr",
            "lstat",
            "makedirs",
        ),
        *(
            "mkdir",
            "mkfifo",
            "mknod",
            "open",
            "readlink",
            "remove",
            "removedirs",
            "rename",
            "renames",
            "replace",
            "rmdir",
        ),
        *("scandir", "setxattr", "stat", "statvfs", "symlink", "truncate", "unlink", "utime", "walk"),
        *("path.exists", "path.getmtime", "path.getsize", "path.isdir", "path.isfile", "path.islink", "path.lexists"),
        *("path.ismount", "path.samefile"),
    )
}
#: Modules that know paths, too.
WITH_PATHS_TOO = ("fileinput", "glob", "pathlib", "shutil", "tempfile")
#: Files, or functions of a file, that use them, and what for.
OWN = {
    "_beacons/csyncsync.py": "what the watcher reads, and its lock",
    "_states/csyncsync.py": "keys",
    "csync2lib/actions.py": "notes in the group's directory, and logs that the pillar names",
    "csync2lib/certificate.py": "certificate and key",
    "csync2lib/csync2/command.py": "/proc",
    "csync2lib/confinement.py": "csync2's program, configs and keys",
    "csync2lib/csync2/custody.py": "/proc, /run",
    "csync2lib/csync2/database.py": "csync2's databases",
    "csync2lib/csync2/kept.py": "csync2's databases",
    "csync2lib/csync2/namespace.py": "/proc, csync2's program, and what a new namespace holds",
    "csync2lib/csync2/unfinished.py: opened": "/proc",
    "csync2lib/signature.py": "the minion's key",
    "csync2lib/group.py": "csync2's databases, and the directories of groups",
    "csync2lib/guard.py: _has_records_below": "csync2's database",
    "csync2lib/guard.py: _is_deleted_by_others": "csync2's database",
    "csync2lib/guard.py: _is_familiar": "csync2's database",
    "csync2lib/guard.py: _uuid": "/dev",
    "csync2lib/host.py": "the directories of groups",
    "csync2lib/join/join.py: join": "a note in the group's directory",
    "csync2lib/join/record.py: put_back": "a note in the group's directory",
    "csync2lib/journal.py": "the journal",
    "csync2lib/keys.py": "keys",
    "csync2lib/push/check.py: check": "a note in the group's directory",
    "csync2lib/push/ledger.py: _append": "the ledger",
    "csync2lib/push/ledger.py: _lines": "the ledger",
    "csync2lib/push/preview.py": "csync2's database",
    "csync2lib/push/refusals.py: __init__": "a note in /run",
    "csync2lib/push/refusals.py: add": "a note in /run",
    "csync2lib/push/runs.py": "directories in /run",
    "csync2lib/push/sending.py: _csync2": "a database in /run",
    "csync2lib/received.py: __init__": "the server's notes of what is received",
    "csync2lib/received.py: _read": "the same, and notes in the groups' directories",
    "csync2lib/received.py: write": "the server's notes of what is received",
    "csync2lib/records.py: _change": "csync2's database",
    "csync2lib/report/metrics.py": "the file of metrics",
    "csync2lib/report/status.py: read": "csync2's database",
    "csync2lib/restore.py: copy": "files that are open",
    "csync2lib/server.py": "/proc, /run",
    "csync2lib/setup.py": "the group's directory, databases, units; whether backup_directory is a symlink",
    "csync2lib/storage.py": "what csyncsync keeps for itself",
    "csync2lib/watch/copies.py": "a note in the group's directory",
    "csync2lib/watch/flush.py: _is_asked": "the journal",
    "csync2lib/watch/groups.py": "configs, databases, and the directories of groups",
    "csync2lib/watch/handover.py: take": "what another watcher has left in /run",
    "csync2lib/watch/options.py": "what the beacon has written",
    "csync2lib/watch/service.py": "/run",
    "csync2lib/watch/verdict.py: _drop": "notes in the group's directory",
    "csync2lib/watch/verdict.py: _may_be_csync2s": "csync2's database",
    "csync2lib/watch/verdict.py: _open": "csync2's database",
}
#: Names of the kind __name__ that are Python's, not Salt's loader's.
PYTHONS = ("__name__", "__file__", "__doc__", "__slots__")

#: Lines of all product files, with docstrings. It only goes down.
TOTAL = 17_090
#: Lines of a file, and of a function.
FILE, FUNCTION = 450, 60
#: What is longer still, with its lines. Whoever makes one shorter writes that down; the list only gets shorter.
LONG: dict[str, int] = {}
#: What breaks another rule as yet. The list only gets shorter.
NOT_YET: set[str] = set()
#: Lines by which a listed one may be shorter than is written down.
SLACK = 20


@dataclasses.dataclass(frozen=True)
class File:
    """A product file: its path in the repository (in _utils for the library), and its text."""

    path: str
    text: str

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def is_library(self) -> bool:
        return self.path.startswith(f"{LIBRARY}/")

    @property
    def module(self) -> str:
        """As others import it."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def imports(self, tree: ast.AST | None = None) -> list[str]:
        """All that is imported, in full: ``from a import b`` is ``a.b``, be it a module or not."""
        found = []
        for node in ast.walk(tree or self.tree):
            if isinstance(node, ast.Import):
                found += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                found += [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]
        return found

    @functools.cached_property
    def functions(self) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
        """``{"Class.name": function}``"""
        found, inside = {}, [("", self.tree)]
        while inside:
            name, node = inside.pop()
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                found[name] = node
            for child in ast.iter_child_nodes(node):
                named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
                inside.append((".".join(filter(None, (name, child.name))) if named else name, child))
        return found


@functools.cache
def product() -> tuple[File, ...]:
    there = [(path, path.relative_to(REPOSITORY / "_utils")) for path in (REPOSITORY / "_utils").rglob("*.py")]
    for directory in (*LOADED, "csyncsync"):
        there += [(path, path.relative_to(REPOSITORY)) for path in (REPOSITORY / directory).rglob("*.py")]
    return tuple(File(name.as_posix(), path.read_text(encoding="utf-8")) for path, name in sorted(there))


def of_library(imported: str) -> str:
    """What of the library is imported: ``csync2.names.decode``; "" of anything else, and of the package's own names."""
    name = imported.removeprefix(f"{LIBRARY}.")
    return "" if name in (imported, "VERSION") else name


# --- The rules -------------------------------------------------------------------------------------------


def imports_go_down(file: File) -> list[str]:
    if not file.is_library:
        return []
    part = file.module.split(".")[1] if "." in file.module else ""
    levels = {name: level for level, names in enumerate(FLOORS) for name in names}
    wrong = []
    for name in filter(None, map(of_library, file.imports())):
        other = name.split(".")[0]
        if part == "master":
            fine = any(f"{name}.".startswith(f"{known}.") for known in MASTER)
        else:
            fine = levels.get(other, len(FLOORS)) <= levels.get(part, -1) and other not in APART.get(part, ())
        if not fine:
            wrong.append(f"{file.path} may not import {name}")
    return wrong


def only_some_know_salt(file: File) -> list[str]:
    if not file.is_library or file.path.startswith(OF_SALT):
        return []
    return [f"{file.path} may not import {name}" for name in file.imports() if name.split(".")[0] == "salt"]


def nothing_of_the_loaders_is_read(file: File) -> list[str]:
    if not file.is_library:
        return []
    names = {node.id for node in ast.walk(file.tree) if isinstance(node, ast.Name)}
    dunders = {name for name in names if name.startswith("__") and name.endswith("__")} - {*PYTHONS}
    return [f"{file.path} may not read {name}" for name in sorted(dunders)]


def loader_files_do_not_know_each_other(file: File) -> list[str]:
    if file.is_library:
        return []
    ours = {directory.strip("_") for directory in LOADED} | {"csyncsync", *LOADED}
    return [
        f"{file.path} may not import {name}"
        for name in file.imports()
        if name.startswith((".", "salt.loaded")) or name.split(".")[0] in ours
    ]


def the_minion_has_no_threads(file: File) -> list[str]:
    """It forks its jobs, and a lock that another thread holds at that moment is held in the job for ever."""
    if not file.path.startswith("_beacons/"):
        return []
    return [f"{file.path} may not import {name}" for name in file.imports() if name.split(".")[0] in WITH_THREADS]


def imports_stand_at_the_top(file: File) -> list[str]:
    return [
        f"{file.path}: {where}() may not import {name}"
        for where, function in file.functions.items()
        for name in file.imports(function)
        if name.split(".")[0] not in LATE
    ]


def annotations_are_not_evaluated(file: File) -> list[str]:
    """Those of Python 3.10 would be errors in 3.9."""
    if not file.is_library or not file.functions or "__future__.annotations" in file.imports():
        return []
    return [f"{file.path} has no: from __future__ import annotations"]


def includes_are_reached_by_descriptor(file: File) -> list[str]:
    if file.path.startswith(("csync2lib/master/", "csync2lib/beneath.py", "_pillar", "_runners", *_own_files())):
        return []
    fine = {
        node.func
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Call) and {"dir_fd", "src_dir_fd"} & {keyword.arg for keyword in node.keywords}
    }
    for name, function in file.functions.items():
        if f"{file.path}: {name.rpartition('.')[2]}" in OWN:
            fine.update(ast.walk(function))
    used = [
        (node.lineno, ast.unparse(node))
        for node in ast.walk(file.tree)
        if isinstance(node, (ast.Attribute, ast.Name)) and node not in fine
    ]
    modules = [name for name in file.imports() if name.split(".")[0] in WITH_PATHS_TOO or name in WITH_PATHS]
    wrong = [
        f"{file.path}:{line}: {name}() would follow symlinks: see beneath.py"
        for line, name in used
        if name in WITH_PATHS
    ]
    return wrong + [f"{file.path} may not import {name}: see beneath.py" for name in modules]


def _own_files() -> tuple[str, ...]:
    return tuple(path for path in OWN if ": " not in path)


def nothing_is_long(file: File) -> list[str]:
    sizes = [(file.path, len(file.text.splitlines()), FILE)]
    for name, function in file.functions.items():
        sizes.append((f"{file.path}: {name}()", (function.end_lineno or 0) - function.lineno + 1, FUNCTION))
    wrong = []
    for what, size, limit in sizes:
        if what in LONG and size < max(LONG[what] - SLACK, limit + 1):
            wrong.append(f"{what} is shorter: {size} lines; write that down, or take it off the list")
        elif size > LONG.get(what, limit):
            wrong.append(f"{what} is too long: {size} lines, not {LONG.get(what, limit)}")
    return wrong


def circles(files: Iterable[File]) -> dict[str, set[str]]:
    """Modules that import each other in a circle, and what of it."""
    modules = {file.module: file for file in files if file.is_library}
    needs = {}
    for name, file in modules.items():
        found = {imported if imported in modules else imported.rpartition(".")[0] for imported in file.imports()}
        needs[name] = (found & {*modules}) - {LIBRARY}
    while free := [name for name, others in needs.items() if not others & {*needs}]:
        for name in free:
            del needs[name]
    return needs


RULES = (
    imports_go_down,
    only_some_know_salt,
    nothing_of_the_loaders_is_read,
    loader_files_do_not_know_each_other,
    the_minion_has_no_threads,
    imports_stand_at_the_top,
    annotations_are_not_evaluated,
    includes_are_reached_by_descriptor,
    nothing_is_long,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rules_of_the_house_are_kept(rule):
    assert [problem for file in product() for problem in rule(file) if problem not in NOT_YET] == []


def test_what_is_no_longer_broken_is_not_listed():
    assert NOT_YET - {problem for rule in RULES for file in product() for problem in rule(file)} == set()


def test_nothing_imports_what_imports_it():
    assert circles(product()) == {}


def test_the_house_gets_smaller():
    assert sum(len(file.text.splitlines()) for file in product()) <= TOTAL


def test_what_is_listed_as_long_is_there():
    there = {file.path for file in product()}
    there |= {f"{file.path}: {name}()" for file in product() for name in file.functions}
    assert {*LONG} <= there


def test_what_is_said_to_use_paths_does_so(monkeypatch):
    for name in tuple(OWN):
        with monkeypatch.context() as without:
            without.delitem(OWN, name)
            assert [file.path for file in product() if includes_are_reached_by_descriptor(file)], name


def test_every_part_has_a_floor():
    parts = {file.module.split(".")[1] for file in product() if file.is_library and "." in file.module}
    assert parts <= {name for names in FLOORS for name in names} | {"master"}


# --- They can fail ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (imports_go_down, "csync2lib/storage.py", "from csync2lib import journal"),
        (imports_go_down, "csync2lib/config/schema.py", "import csync2lib.report.table"),
        (imports_go_down, "csync2lib/group.py", "from csync2lib.report.status import read"),
        (imports_go_down, "csync2lib/group.py", "from csync2lib.master import lease"),
        (imports_go_down, "csync2lib/push/push.py", "from csync2lib.watch import echo"),
        (imports_go_down, "csync2lib/push/push.py", "from csync2lib import join"),
        (imports_go_down, "csync2lib/watch/watcher.py", "from csync2lib.push.ledger import read"),
        (imports_go_down, "csync2lib/watch/watcher.py", "if TYPE_CHECKING:\n    from csync2lib.push import check"),
        (imports_go_down, "csync2lib/join/join.py", "def f():\n    from csync2lib.master import joins"),
        (imports_go_down, "csync2lib/master/lease.py", "from csync2lib.push import check"),
        (imports_go_down, "csync2lib/master/lease.py", "from csync2lib.csync2.database import Database"),
        (imports_go_down, "csync2lib/master/lease.py", "from csync2lib import group"),
        (imports_go_down, "csync2lib/__init__.py", "from csync2lib import errors"),
        (only_some_know_salt, "csync2lib/push/push.py", "import salt.utils.event"),
        (only_some_know_salt, "csync2lib/watch/watcher.py", "from salt.exceptions import SaltException"),
        (nothing_of_the_loaders_is_read, "csync2lib/group.py", "def f():\n    return __salt__['mine.get']"),
        (nothing_of_the_loaders_is_read, "csync2lib/master/lease.py", "directory = __opts__['cachedir']"),
        (loader_files_do_not_know_each_other, "_runners/csyncsync.py", "from csyncsync.modules import csyncsync"),
        (loader_files_do_not_know_each_other, "_states/csyncsync.py", "import _modules.csyncsync"),
        (loader_files_do_not_know_each_other, "_states/csyncsync.py", "import salt.loaded.ext.module.csyncsync"),
        (loader_files_do_not_know_each_other, "_states/csyncsync.py", "from . import csyncsync_group"),
        (the_minion_has_no_threads, "_beacons/csyncsync.py", "import threading"),
        (the_minion_has_no_threads, "_beacons/csyncsync.py", "from csync2lib.csync2.database import Database"),
        (imports_stand_at_the_top, "_modules/csyncsync.py", "def f():\n    import json"),
        (imports_stand_at_the_top, "csync2lib/keys.py", "class A:\n    def f(self):\n        from os import path"),
        (annotations_are_not_evaluated, "csync2lib/keys.py", "def f(a: int | None): ..."),
        (includes_are_reached_by_descriptor, "csync2lib/versions.py", "import os\na = os.lstat(b)"),
        (includes_are_reached_by_descriptor, "csync2lib/push/win.py", "a = any(map(os.path.lexists, b))"),
        (includes_are_reached_by_descriptor, "csync2lib/guard.py", "def f():\n    open(a)"),
        (includes_are_reached_by_descriptor, "csync2lib/guard.py", "def _uuid():\n    pass\nos.rename(a, b)"),
        (includes_are_reached_by_descriptor, "csync2lib/new.py", "os.path.islink(a)\nos.stat(a, dir_fd=b)"),
        (includes_are_reached_by_descriptor, "csync2lib/restore.py", "import shutil\nshutil.copy(a, b)"),
        (includes_are_reached_by_descriptor, "_modules/csyncsync.py", "from os import readlink"),
        (nothing_is_long, "csync2lib/keys.py", "a = 1\n" * (FILE + 1)),
        (nothing_is_long, "csync2lib/keys.py", "def f():\n" + "    a = 1\n" * FUNCTION),
        (nothing_is_long, "csync2lib/keys.py", "class A:\n    def f():\n" + "        a = 1\n" * FUNCTION),
    ],
)
def test_a_file_that_breaks_a_rule_is_found(rule, path, text):
    assert len(rule(File(path, text))) == 1


def test_a_circle_is_found():
    files = [
        File("csync2lib/group.py", "from csync2lib import guard\nfrom csync2lib.errors import CsyncsyncError"),
        File("csync2lib/guard.py", "from csync2lib.config.schema import HOLD"),
        File("csync2lib/config/schema.py", "import csync2lib.group"),
        File("csync2lib/errors.py", "import os"),
    ]
    assert {*circles(files)} == {"csync2lib.group", "csync2lib.guard", "csync2lib.config.schema"}
    assert circles(files[1:]) == {}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("csync2lib/__main__.py", "from csync2lib import actions"),
        ("csync2lib/report/status.py", "from csync2lib import VERSION, storage\nfrom csync2lib.csync2 import database"),
        ("csync2lib/join/join.py", "from csync2lib.push.push import push\nfrom csync2lib.join import compare"),
        ("csync2lib/master/lease.py", "import salt.client\nfrom csync2lib.csync2.names import decode"),
        ("csync2lib/certificate.py", "from __future__ import annotations\ndef f():\n    import cryptography.x509"),
        ("csync2lib/restore.py", "os.rename(a, b, src_dir_fd=c, dst_dir_fd=c)\nos.lstat(a, dir_fd=c)\nos.fstat(d)"),
        (
            "csync2lib/guard.py",
            "from __future__ import annotations\ndef _uuid():\n    open('/proc/self/mountinfo')",
        ),
        ("_modules/csyncsync_new.py", "import salt.utils\nfrom csync2lib.push import push\na = __opts__"),
        ("csync2lib/keys.py", "from __future__ import annotations\ndef f():\n" + "    a = 1\n" * (FUNCTION - 1)),
    ],
)
def test_a_file_that_keeps_the_rules_is_not(path, text):
    assert [problem for rule in RULES for problem in rule(File(path, text))] == []


@pytest.mark.parametrize(("written", "size", "good"), [(900, 900, True), (900, 880, True), (900, 901, False)])
def test_a_long_file_is_as_long_as_is_written_down(monkeypatch, written, size, good):
    monkeypatch.setitem(LONG, "csync2lib/keys.py", written)
    assert (nothing_is_long(File("csync2lib/keys.py", "a = 1\n" * size)) == []) is good


@pytest.mark.parametrize(("written", "size"), [(900, 879), (FILE + 5, FILE), (FILE + 5, FILE - 100)])
def test_one_that_got_shorter_has_to_be_written_down(monkeypatch, written, size):
    monkeypatch.setitem(LONG, "csync2lib/keys.py", written)
    [problem] = nothing_is_long(File("csync2lib/keys.py", "a = 1\n" * size))
    assert "is shorter" in problem


def test_test_files_have_names_of_their_own():
    """Two modules of one name cannot be collected together."""
    names = [path.name for path in (REPOSITORY / "tests").glob("*/test_*.py")]
    assert [name for name in names if names.count(name) > 1] == []


def test_what_is_kept_beside_the_groups_directories_has_no_groups_name():
    """Else csyncsync would take that group's directory for a file of its own, or delete it as one."""
    texts = [path.read_text("utf-8") for path in (REPOSITORY / "states").rglob("*.*")]
    texts += [file.text for file in product()]
    beside = re.compile(r"/var/lib/csyncsync/([A-Za-z0-9_.-]+)|join\((?:[a-z]+\.)*state, \"([A-Za-z0-9_.-]+)\"")
    names = {name for text in texts for found in beside.findall(text) for name in found if name}
    assert {"csync2.unconfined", "salt.env"} <= names
    # Files of older versions, which are deleted only if they are files.
    assert {name for name in names if is_group_name(name)} <= {"unconfined", "saltenv"}
