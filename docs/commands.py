"""
Write the reference of all commands, docs/commands.md and docs/functions.md, from their docstrings (make docs).

It reads the source and imports none of it, so it needs no Salt.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
LIBRARY = REPOSITORY / "_utils"


class Page(NamedTuple):
    """A page of the reference, and the loader files whose functions it describes."""

    name: str
    files: tuple[str, ...]
    title: str
    introduction: str


PAGES = (
    Page(
        "commands.md",
        ("_runners/csyncsync.py", "_runners/csyncsync_admin.py"),
        "Commands of the master",
        "Run them on the master with `salt-run`. `salt-run -d csyncsync` prints the same text.\n"
        "What all of them have in common: [operations](operations.md#how-commands-behave).",
    ),
    Page(
        "functions.md",
        ("_modules/csyncsync.py", "_modules/csyncsync_admin.py", "_modules/csyncsync_group.py"),
        "Functions of the minions",
        "The execution module `csyncsync`. `salt web1 sys.doc csyncsync` prints the same text.\n"
        "The runner and the states call most of it. People may need `status`, `metrics`, `push`, `paused`, `groups`,\n"
        "`installed` and `certificate`.",
    ),
)


def text(page: Page) -> str:
    """The whole text of a page."""
    found = sorted(functions(page), key=lambda function: function[0])
    summaries = [f"| [`{name}`](#{name}) | {summary(docstring)} |" for name, _, docstring in found]
    parts = [f"## {name}\n\n`{signature}`\n\n{markdown(docstring)}" for name, signature, docstring in found]
    made = f"Made by `make docs` from {', '.join(f'`{file}`' for file in page.files)}, not by hand."
    head = f"# {page.title}\n\n{page.introduction}\n\n{made}\n\n| name | does |\n|---|---|\n" + "\n".join(summaries)
    return "\n\n".join([head, *parts]) + "\n"


# --- The source ------------------------------------------------------------------------------------------


def functions(page: Page) -> Iterator[tuple[str, str, str]]:
    """(name, signature, docstring) of each public function of a page's files."""
    for file in page.files:
        tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                node.args.defaults = [literal(value, tree) for value in node.args.defaults]
                yield node.name, f"csyncsync.{node.name}({ast.unparse(node.args)})", ast.get_docstring(node) or ""


def literal(value: ast.expr, tree: ast.Module) -> ast.expr:
    """The value of a default that is a constant of this file, or of a module of the library that it imports."""
    if isinstance(value, ast.Name):
        return constant(value.id, tree)
    if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name):
        for node in tree.body:
            for alias in node.names if isinstance(node, ast.ImportFrom) else ():
                if (alias.asname or alias.name) == value.value.id:
                    file = LIBRARY / str(node.module).replace(".", "/") / f"{alias.name}.py"
                    return constant(value.attr, ast.parse(file.read_text(encoding="utf-8")))
    return value


def constant(name: str, tree: ast.Module) -> ast.expr:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets):
            return node.value
    raise LookupError(name)


# --- Markdown --------------------------------------------------------------------------------------------


def summary(docstring: str) -> str:
    """The first sentence."""
    return re.split(r"(?<=\.)\s", code(docstring.partition("\n\n")[0].replace("\n", " ")))[0]


def code(line: str) -> str:
    return line.replace("``", "`")


def markdown(docstring: str) -> str:
    """A docstring as Markdown: paragraphs, terms with an indented text below them, simple tables, and the example."""
    paragraphs = [block.split("\n") for block in inspect.cleandoc(docstring).split("\n\n")]
    blocks = [[line for line in lines if line.strip() != "CLI Example:"] for lines in paragraphs]
    made: list[str] = []
    for lines in blocks:
        if lines == [".. code-block:: bash"]:
            made.append("```")
        elif made and made[-1] == "```":
            made[-1] = "\n".join(["```", *(line.strip() for line in lines), "```"])
        elif lines and lines[0].startswith("==="):
            made.append("\n".join(table(lines)))
        elif lines:
            made.append(code("\n".join(items(lines))))
    return "\n\n".join(made)


def items(lines: list[str]) -> Iterator[str]:
    """A paragraph, in which each line with an indented one below it is a term."""
    for line, below in zip(lines, [*lines[1:], ""]):
        is_term = below.startswith("    ") and not line.startswith("    ")
        yield f"- **{line}**:" if is_term else line.replace("    ", "  ", 1) if line.startswith("    ") else line


def table(lines: list[str]) -> Iterator[str]:
    """A simple table of two columns, without a header."""
    width = len(lines[0].split()[0])
    yield from ("| | |", "|---|---|")
    for line in lines[1:-1]:
        yield f"| `{line[:width].strip()}` | {code(line[width:].strip())} |"


if __name__ == "__main__":
    for wanted in PAGES:
        (REPOSITORY / "docs" / wanted.name).write_text(text(wanted), encoding="utf-8")
