"""The documentation leads somewhere, and says what the code says."""

import importlib.util
import re

import pytest
import yaml
from conftest import REPOSITORY
from csync2lib.config import schema
from csync2lib.config.action import ACTION_OPTIONS
from csync2lib.config.defaults import HOLD

DOCS = REPOSITORY / "docs"
PAGES = sorted(
    [*DOCS.glob("*.md"), REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", REPOSITORY / "tests/testbed/README.md"]
)
#: A link or a picture; code has none.
LINK = re.compile(r"\]\(([^()\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)


def prose(page):
    return CODE.sub("", page.read_text(encoding="utf-8"))


def anchors(page):
    """What GitHub calls the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    found = []
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        same = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other) is not None for other in found)
        found.append(f"{slug}-{same}" if same else slug)
    return found


def links(page):
    """(link, file, anchor) of each relative link of a page."""
    for link in LINK.findall(prose(page)):
        if not re.match(r"[a-z]+:", link):
            path, _, anchor = link.partition("#")
            yield link, (page.parent / path).resolve() if path else page, anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_leads_somewhere(page):
    lost = [link for link, file, anchor in links(page) if not file.exists() or (anchor and anchor not in anchors(file))]
    assert lost == []


def test_every_page_is_reached_from_the_readme():
    reached, waiting = set(), [REPOSITORY / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        waiting += [file for _, file, _ in links(page) if file.suffix == ".md" and file not in reached]
    assert {page.name for page in PAGES if page.parent == DOCS and page not in reached} == set()


@pytest.fixture(scope="module")
def commands():
    """docs/commands.py, which writes the pages of commands."""
    spec = importlib.util.spec_from_file_location("docs_commands", DOCS / "commands.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["commands.md", "functions.md"])
def test_the_pages_of_commands_are_as_the_code_is(commands, name):
    page = next(page for page in commands.PAGES if page.name == name)
    assert (DOCS / name).read_text(encoding="utf-8") == commands.text(page), f"docs/{name} is old: run make docs"


def test_every_docstring_becomes_markdown(commands):
    for page in commands.PAGES:
        text = commands.text(page)
        assert "``" not in text.replace("```", "")
        assert ".. " not in text
        assert "CLI Example" not in text


# --- The pillar ------------------------------------------------------------------------------------------


def table(section):
    """``{option: its default}`` of the table in a section of the page on the pillar."""
    text = (DOCS / "pillar.md").read_text(encoding="utf-8").partition(f"{section}\n")[2]
    rows = re.findall(r"^\| (.+) \|$", re.split(r"^#", text, maxsplit=1, flags=re.MULTILINE)[0], re.MULTILINE)
    cells = [row.split(" | ") for row in rows[1:]]
    return {re.sub(r"\[?`(\w+)`.*", r"\1", cell[0]): cell[2] for cell in cells}


def test_the_pillars_page_has_every_option():
    assert set(table("## Options of a group")) == set(schema.OPTIONS)
    assert set(table("### action")) == set(ACTION_OPTIONS)
    assert set(table("## Options of the hosts")) == {"confine", "max_user_watches", "metrics"}


def test_the_pillars_page_has_the_defaults_of_the_schema():
    told = table("## Options of a group")
    checked = schema.validate({"data": {"members": "web*", "include": "/srv/data"}})["groups"]["data"]
    for option in ("exclude", "auto", "receive_only", "hold", "tls", "action"):
        assert yaml.safe_load(told[option].strip("`")) == checked[option]
    assert checked["hold"] == HOLD


def test_the_examples_of_the_pillars_page_are_accepted():
    text = (DOCS / "pillar.md").read_text(encoding="utf-8")
    for example in re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        lines = [example] if not example.startswith("members") else example.splitlines()
        for found in map(yaml.safe_load, lines):
            groups = found["csyncsync"]["groups"] if "csyncsync" in found else {"data": found}
            given = {name: {"members": "*", "include": "/srv/x", **options} for name, options in groups.items()}
            assert schema.validate(given)["errors"] == {}
