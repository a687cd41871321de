"""The config that csync2 gets: byte for byte as written down, and nothing in it that breaks out of its line."""

import re
from pathlib import Path

import pytest
import salt.utils.templates
import yaml
from csync2lib.config import membership, schema, template
from csync2lib.csync2.database import Database
from csync2lib.csync2.names import database_path
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
TEMPLATE = (REPOSITORY / "states/csyncsync/files/csync2.cfg.jinja").read_text(encoding="utf-8")


def render(context, **jinja_env):
    """The template as file.managed renders it."""
    return salt.utils.templates.render_jinja_tmpl(
        TEMPLATE, {"opts": {"jinja_env": jinja_env}, "saltenv": "", "sls": "", "group": context}
    )


def host(number, **changes):
    return {"name": f"host{number}", "address": f"10.0.0.{number}", "certificate": "00", **changes}


DUE = "/var/lib/csyncsync/g/due"
HOSTS = {"web1": host(1), "web2": host(2), "web3": host(3, name="web-3.example.org", address="fd00::3")}


# --- Golden files -----------------------------------------------------------------------------------------

EVERYTHING = {
    "members": ["web1", "web2", "web3"],
    "include": ["/srv/data", "/srv/with blank; and #"],
    "exclude": [".*.swp", "/srv/data/cache/**"],
    "auto": "younger",
    "action": [
        {
            "pattern": ["/srv/data/*.conf", "/srv/data/sites"],
            "exec": ["systemctl reload nginx", "logger 'changed: %%'"],
            "logfile": "/var/log/csync2-nginx.log",
            "do-local": True,
        },
        {"exec": "true", "do-local-only": True},
        {"exec": "sync"},
    ],
    "backup_directory": "/var/backups/csync2",
    "backup_generations": 5,
    "receive_only": ["web3"],
    "address": "10.0.0.0/24",
    "hold": {"number": 20, "share": 0.3},
    "seed": "web1",
    "tls": False,
    "key": "k" * 64,
}


def golden_groups():
    example_pillar = yaml.safe_load((REPOSITORY / "pillar.example").read_text(encoding="utf-8"))
    return {**example_pillar["csyncsync"]["groups"], "everything": EVERYTHING}


@pytest.mark.parametrize("name", ["wwwdata", "wwwshared", "everything"])
def test_a_groups_config_is_the_golden_one(name, csync2_in):
    checked = schema.validate(golden_groups())
    assert checked["errors"] == {}
    context = template.context(name, checked["groups"][name], HOSTS, f"/etc/csync2_{name}.key", DUE)
    text = render(context)
    assert text.encode() == (GOLDEN / f"{name}.cfg").read_bytes()
    assert "k" * 64 not in text
    csync2_in.host = "host2"
    csync2_in.configure(name, text.replace(f"/etc/csync2_{name}.key", csync2_in.key_file))
    done = csync2_in(name, "-M")
    assert (done.returncode, done.stdout) == (2, "")


def test_the_golden_files_are_of_all_groups_of_the_example_and_of_one_with_every_option():
    assert {path.stem for path in GOLDEN.glob("*.cfg")} == set(golden_groups())
    assert set(EVERYTHING) == set(schema.OPTIONS)


def test_the_order_in_which_hosts_are_known_does_not_matter():
    options = schema.validate(golden_groups())["groups"]["everything"]
    backwards = dict(reversed(HOSTS.items()))
    assert template.context("g", options, backwards, "/k", DUE) == template.context("g", options, HOSTS, "/k", DUE)


# --- Whatever validate() accepts --------------------------------------------------------------------------

# Everything, the odd ones often; what validate() refuses is left out below.
odd = st.one_of(
    st.sampled_from(list(" ;#@:(){}%'`$&|<>~!,=^\\*?[]+-._/\x80\x85\xa0é\u2028\ufeff\uffff🐟")),
    st.characters(),
    st.sampled_from(
        [
            "{{ group }}",
            "{% endfor %}",
            "{#",
            "#}",
            "nossl",
            "tempdir",
            "lock-timeout",
            "config ",
            "host ",
            "//",
            "\\n",
            "%41",
            "**",
            '"',
            '"; key "/etc/shadow',
            "\n",
        ]
    ),
)
text = st.lists(odd, min_size=1, max_size=12).map("".join)
paths = st.one_of(text.map("/srv/".__add__), st.lists(text, min_size=1, max_size=3).map(lambda p: "/" + "/".join(p)))
ids = st.one_of(st.sampled_from(["web1", "web2", "web*"]), text)
some_actions = st.fixed_dictionaries(
    {"exec": text | st.lists(text, min_size=1, max_size=3)},
    optional={
        "pattern": st.one_of(paths, text, st.lists(paths, max_size=3)),
        "logfile": paths,
        "do-local": st.booleans(),
        "do_local_only": st.booleans(),
    },
)
OPTIONAL = {
    "exclude": st.one_of(text, st.lists(st.one_of(text, paths), max_size=4)),
    "auto": st.sampled_from(schema.AUTO_METHODS),
    "action": st.one_of(some_actions, st.lists(some_actions, max_size=3)),
    "backup_directory": paths,
    "backup_generations": st.integers(2, 10000),
    "receive_only": st.lists(ids, max_size=3),
    "tls": st.booleans(),
}


@st.composite
def accepted_groups(draw):
    """A group's validated options. What validate() refuses is left out, option by option."""
    given_options = {"members": "*", "include": ["/srv/data"]}
    wanted = [("include", draw(st.lists(paths, min_size=1, max_size=3)))]
    wanted += [(option, draw(strategy)) for option, strategy in OPTIONAL.items() if draw(st.booleans())]
    for option, value in wanted:
        values = value if isinstance(value, list) else [value]
        good = [v for v in values if not schema.validate({"g": {**given_options, option: [v]}})["errors"]]
        if isinstance(value, list) and good:
            given_options[option] = good
        elif not schema.validate({"g": {**given_options, option: value}})["errors"]:
            given_options[option] = value
    return schema.validate({"g": given_options})["groups"]["g"]


names = st.from_regex(membership.HOST_NAME, fullmatch=True)
addresses = st.ip_addresses().map(str)
some_hosts = st.dictionaries(st.sampled_from(["web1", "web2", "web3", "db1"]), st.builds(host, st.integers(1, 9)))
odd_hosts = st.dictionaries(
    st.sampled_from(["web1", "web2", "web3", "db1"]),
    st.fixed_dictionaries({"name": names, "address": addresses, "certificate": st.just("00")}),
)

# csync2's scanner (cfgfile_scanner.l): a word, a mark, or a string that ends at the next quote.
SCANNER = re.compile(r'[ \r\n\t]+|#[^\r\n]*|(?P<string>"[^"]*")|(?P<mark>[{}();@])|(?P<word>[^ \r\n\t@;()#"]+)')


def scan(config):
    """Given a config, return its statements as csync2 reads them: lists of words, marks, and quoted strings."""
    statements, tokens, position = [], [], 0
    while position < len(config):
        match = SCANNER.match(config, position)
        assert match, f"csync2's scanner stops at {config[position : position + 20]!r}"
        position = match.end()
        if match.lastgroup == "mark" and match.group() in ";{}":
            statements.append((*tokens, match.group()))
            tokens = []
        elif match.lastgroup:
            tokens.append(match.group())
    assert not tokens
    return statements


def quoted(*values):
    return tuple(f'"{value}"' for value in values)


def expected(context):
    """The statements that a context stands for."""
    result = [] if context["tls"] else [("nossl", "*", "*", ";")]
    result += [
        ("tempdir", *quoted("csync2-temporary"), ";"),
        ("lock-timeout", *quoted(60), ";"),
        ("group", *quoted(context["name"]), "{"),
    ]
    for entry in context["hosts"]:
        line = (*quoted(entry["name"]), "@", *quoted(entry["address"]))
        result.append(("host", *(("(", *line, ")") if entry["receive_only"] else line), ";"))
    result.append(("key", *quoted(context["key_file"]), ";"))
    result += [("include", *quoted(path), ";") for path in context["include"]]
    result += [("exclude", *quoted(pattern), ";") for pattern in (*context["exclude"], "/**/..", "/**/.")]
    result.append(("auto", *quoted(context["auto"]), ";"))
    if context["backup_directory"] is not None:
        result.append(("backup-directory", *quoted(context["backup_directory"]), ";"))
    if context["backup_generations"] is not None:
        result.append(("backup-generations", *quoted(context["backup_generations"]), ";"))
    for action in context["actions"]:
        result.append(("action", "{"))
        if action["pattern"]:
            result.append(("pattern", *quoted(*action["pattern"]), ";"))
        result.append(("exec", *quoted(*action["exec"]), ";"))
        if action["do_local_only"]:
            result.append(("do-local-only", ";"))
        elif action["do_local"]:
            result.append(("do-local", ";"))
        result.append(("}",))
    return [*result, ("}",)]


@given(accepted_groups(), st.one_of(some_hosts, odd_hosts))
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_no_value_breaks_out_of_its_line(options, members):
    context = template.context("g", options, members, "/etc/csync2_g.key", DUE)
    config = render(context)
    assert scan(config) == expected(context)
    assert config.endswith("}\n")


@pytest.mark.parametrize("name", ["wwwdata", "wwwshared", "everything"])
@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("trim", [False, True])
def test_settings_of_the_minions_jinja_do_not_change_what_csync2_reads(name, trim, strip):
    options = schema.validate(golden_groups())["groups"][name]
    context = template.context(name, options, HOSTS, "/etc/csync2.key", DUE)
    found = scan(render(context, trim_blocks=trim, lstrip_blocks=strip))
    assert found == expected(context)


@given(accepted_groups(), st.one_of(some_hosts, odd_hosts))
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@example(schema.validate({"g": {**EVERYTHING, "exclude": "x" * 4000}})["groups"]["g"], HOSTS)
@example(schema.validate({"g": {**EVERYTHING, "include": ["/srv/" + "é" * 1997]}})["groups"]["g"], HOSTS)
@example(schema.validate({"g": {**EVERYTHING, "exclude": [f"{n}" for n in range(2000)]}})["groups"]["g"], HOSTS)
@example(schema.validate({"g": EVERYTHING})["groups"]["g"], {f"web{n}": host(n) for n in range(2, 250)})
def test_csync2_accepts_every_accepted_group(csync2_in, options, members):
    csync2_in.host = "h" * 64
    context = template.context("g", options, {**members, "me": host(1, name=csync2_in.host)}, csync2_in.key_file, DUE)
    csync2_in.configure("g", render(context))
    done = csync2_in("g", "-M")
    assert "Near line" not in done.stdout
    assert "onfig error" not in done.stdout
    assert done.returncode == 2, done.stdout


@pytest.mark.parametrize("name", ["0", "group", "host", "on", "z" * 64])
def test_csync2_accepts_every_group_name(csync2_in, name):
    options = schema.validate({name: {"members": "*", "include": "/srv/data"}})["groups"][name]
    context = template.context(name, options, {"web1": host(1, name=csync2_in.host)}, csync2_in.key_file, DUE)
    csync2_in.configure(name, render(context))
    assert csync2_in(name, "-M").returncode == 2
    assert Path(database_path(str(csync2_in.directory), csync2_in.host, name)).exists()


@given(st.lists(text.map(lambda name: re.sub(r"[*?\[\]\\/.]", "_", name)), min_size=1, max_size=3))
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@example(["a b"])
@example([" "])
@example(["x "])
@example(["{a,b}", "!(x)", "^"])
@example(["%41", "%", "#", ";"])
@example(["é", "\x80", "\u2028"])
def test_csync2_takes_an_accepted_directory_by_its_name_and_no_other(csync2_in, tmp_path, parts):
    top = str(tmp_path / "tree")
    path = "/".join([top, *parts])
    result = schema.validate({"g": {"members": "*", "include": path}})
    if result["errors"] or max(len(part.encode()) for part in path.split("/")) > 250:
        return
    include = result["groups"]["g"]["include"][0]
    Path(include).mkdir(parents=True, exist_ok=True)
    Path(include, "file").touch()
    Path(include + "x").mkdir(exist_ok=True)
    context = template.context("g", result["groups"]["g"], {"web1": host(1, name="web1")}, csync2_in.key_file, DUE)
    csync2_in.configure("g", render(context))
    done = csync2_in("g", "-cIr", include)
    assert (done.returncode, done.stdout) == (0, "")
    csync2_in("g", "-cIr", include + "x")
    with Database(database_path(str(csync2_in.directory), "web1", "g")) as database:
        assert database.record(include.encode()) is not None
        assert database.record(include.encode() + b"/file") is not None
        assert database.record(include.encode() + b"x") is None


def recorded(csync2_in, tree, **options):
    """The names below a tree that csync2 records under these options."""
    result = schema.validate({"g": {"members": "*", "include": str(tree), **options}})
    assert result["errors"] == {}
    context = template.context(
        "g", result["groups"]["g"], {"web1": host(1, name="web1")}, csync2_in.key_file, csync2_in.directory / "due"
    )
    csync2_in.configure("g", render(context))
    assert csync2_in("g", "-cr", "/").returncode == 0
    with Database(database_path(str(csync2_in.directory), "web1", "g")) as database:
        return {str(p.relative_to(tree)) for p in tree.rglob("*") if database.record(bytes(p)) is not None}


@pytest.mark.parametrize(
    ("pattern", "left_out"),
    [
        ("*.tmp", {"a.tmp", "sub/b.tmp"}),
        ("sub", {"sub", "sub/b.tmp", "sub/c"}),
        ("sub/", {"sub", "sub/b.tmp", "sub/c"}),
        ("{tree}/sub", {"sub", "sub/b.tmp", "sub/c"}),
        ("{tree}/sub/", {"sub", "sub/b.tmp", "sub/c"}),
        ("{tree}/*.tmp", {"a.tmp"}),
        ("{tree}/**.tmp", {"a.tmp", "sub/b.tmp"}),
        ("per%cent", {"per%cent"}),
        ("semi;colon #", {"semi;colon #"}),
        ("back\\\\slash", {"back\\slash"}),
    ],
)
def test_an_accepted_exclude_leaves_out_what_it_names(csync2_in, tmp_path, pattern, left_out):
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    files = {"a.tmp", "sub/b.tmp", "sub/c", "per%cent", "semi;colon #", "back\\slash"}
    for name in files:
        (tree / name).touch()
    found = recorded(csync2_in, tree, exclude=[pattern.format(tree=tree)])
    assert (files | {"sub"}) - found == left_out


@pytest.mark.parametrize("pattern", ["*", "{tree}", "{tree}/", "{tree}/*.conf", "**.conf", "**/a.c*", "*tree**"])
def test_an_accepted_action_pattern_matches(csync2_in, tmp_path, pattern):
    tree, due = tmp_path / "tree", csync2_in.directory / "due"
    tree.mkdir()
    due.mkdir()
    (tree / "a.conf").touch()
    recorded(csync2_in, tree, action={"pattern": pattern.format(tree=tree), "exec": "true", "do-local": True})
    assert len(list(due.iterdir())) == 1
