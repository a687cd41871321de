"""The pillar's schema: what is accepted, and how an error names the place and the way out."""

import copy
import datetime
import math
import time

import pytest
from csync2lib.config import membership, schema
from csync2lib.config.action import ACTION_OPTIONS
from hypothesis import given
from hypothesis import strategies as st

KEY = "TopSecretKey0123456789.ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmno"
GOOD = {"members": "web*", "include": ["/srv/data"]}
DEFAULTS = {
    "members": {"tgt": "web*", "tgt_type": "glob"},
    "include": ["/srv/data"],
    "exclude": [],
    "auto": "none",
    "action": [],
    "backup_directory": None,
    "backup_generations": None,
    "receive_only": [],
    "hold": {"number": 100, "share": 0.5},
    "address": None,
    "seed": None,
    "tls": True,
    "key": None,
    "files": [],
}
ACTION = {"pattern": [], "exec": ["true"], "logfile": None, "do_local": False, "do_local_only": False}


def group(**options):
    return {"data": {**GOOD, **options}}


def accepted(groups):
    result = schema.validate(groups)
    assert result["errors"] == {}
    return result["groups"]


def messages(groups):
    return [message for lines in schema.validate(groups)["errors"].values() for message in lines]


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_groups_are_no_error(nothing):
    assert schema.validate(nothing) == {"groups": {}, "errors": {}}


def test_an_include_may_be_said_to_be_a_file():
    options = accepted(group(include=["/srv/data", {"file": "/srv/app.conf"}]))["data"]
    assert options["include"] == ["/srv/data", "/srv/app.conf"]
    assert options["files"] == ["/srv/app.conf"]


@pytest.mark.parametrize("pattern", ["/srv/data", "/srv", "/srv/data/", "/s*/d?ta", "data", "d*"])
def test_an_include_that_is_excluded_is_an_error(pattern):
    """Nothing of it would ever be synchronized, and nothing would say so."""
    [message] = messages(group(exclude=["*.tmp", pattern]))
    assert message == "csyncsync:groups:data:include '/srv/data' is left out by csyncsync:groups:data:exclude"


@pytest.mark.parametrize("pattern", ["/srv/data/x", "/srv/dat", "srv", "/srv/data?", "/data"])
def test_an_exclude_of_something_else_is_none(pattern):
    assert accepted(group(exclude=[pattern]))["data"]["exclude"] == [pattern]


def test_files_of_two_groups_are_not_to_overlap():
    groups = {**group(include=[{"file": "/srv/data/app.conf"}]), "other": {**GOOD, "include": ["/srv/data"]}}
    assert "overlaps" in schema.validate(groups)["errors"]["other"][0]


def test_a_group_needs_only_members_and_include_and_gets_all_other_options():
    assert accepted({"data": GOOD}) == {"data": DEFAULTS}
    assert tuple(DEFAULTS) == (*schema.OPTIONS, "files")


def test_what_was_given_is_not_changed():
    groups = group(action={"exec": "true"}, exclude="*.swp", members={"tgt": "a,b", "tgt_type": "list"})
    before = copy.deepcopy(groups)
    schema.validate(groups)
    assert groups == before


@pytest.mark.parametrize(
    ("option", "value", "result"),
    [
        ("members", "*", {"tgt": "*", "tgt_type": "glob"}),
        ("members", "web[0-9]", {"tgt": "web[0-9]", "tgt_type": "glob"}),
        ("members", ["web1", "db.example.org"], {"tgt": ["web1", "db.example.org"], "tgt_type": "list"}),
        ("members", {"tgt": "web*"}, {"tgt": "web*", "tgt_type": "glob"}),
        ("members", {"tgt": "web1,web2", "tgt_type": "list"}, {"tgt": ["web1", "web2"], "tgt_type": "list"}),
        ("members", {"tgt": ["web1"], "tgt_type": "list"}, {"tgt": ["web1"], "tgt_type": "list"}),
        ("members", {"tgt": r"web\d+$", "tgt_type": "pcre"}, {"tgt": r"web\d+$", "tgt_type": "pcre"}),
        ("include", "/srv/data", ["/srv/data"]),
        ("include", ["/srv/data/", "/srv/data", "/srv/a b;#%$'é"], ["/srv/data", "/srv/a b;#%$'é"]),
        ("include", ["/runway", "/etc/csync", "/var/lib/csync2x"], ["/runway", "/etc/csync", "/var/lib/csync2x"]),
        ("exclude", ".*.swp", [".*.swp"]),
        ("exclude", ["/srv/data/**.tmp", "a%", "\\"], ["/srv/data/**.tmp", "a%", "\\"]),
        ("exclude", ["cache/", "/srv/data/cache/"], ["cache/", "/srv/data/cache/"]),
        *(("auto", method, method) for method in schema.AUTO_METHODS),
        ("action", {"exec": "true"}, [ACTION]),
        ("action", [{"exec": ["a", "b"]}, {"exec": "true"}], [{**ACTION, "exec": ["a", "b"]}, ACTION]),
        ("action", {"exec": "true", "pattern": "/srv/*"}, [{**ACTION, "pattern": ["/srv/*"]}]),
        ("action", {"exec": "true", "pattern": ["/srv/a/"]}, [{**ACTION, "pattern": ["/srv/a"]}]),
        ("action", {"exec": "true", "pattern": ["*", "**.conf"]}, [{**ACTION, "pattern": ["*", "**.conf"]}]),
        ("action", {"exec": "logger 'new: %%' %%"}, [{**ACTION, "exec": ["logger 'new: %%' %%"]}]),
        ("action", {"exec": "true", "do-local": True}, [{**ACTION, "do_local": True}]),
        ("action", {"exec": "true", "do_local_only": True}, [{**ACTION, "do_local_only": True}]),
        ("action", {"exec": "true", "logfile": "/var/log/a b"}, [{**ACTION, "logfile": "/var/log/a b"}]),
        ("backup_directory", "/var/backups/csync2/", "/var/backups/csync2"),
        ("backup_generations", 2, 2),
        ("backup_generations", 10000, 10000),
        ("receive_only", "web9", ["web9"]),
        ("receive_only", ["web9", "db*"], ["web9", "db*"]),
        ("hold", {}, {"number": 100, "share": 0.5}),
        ("hold", {"number": 0, "share": 1}, {"number": 0, "share": 1}),
        ("hold", {"share": 0.25}, {"number": 100, "share": 0.25}),
        ("address", "eth1", "eth1"),
        ("address", "bond0.12", "bond0.12"),
        ("address", "10.1.0.7", "10.1.0.7"),
        ("address", "10.1.0.7/24", "10.1.0.0/24"),
        ("address", "FD00::1", "fd00::1"),
        ("address", "fd00::1/64", "fd00::/64"),
        ("seed", "web1", "web1"),
        ("tls", False, False),
        ("key", KEY, KEY),
        ("key", "k" * 32, "k" * 32),
        ("key", "k" * 1022, "k" * 1022),
    ],
)
def test_a_good_option_gets_its_one_shape(option, value, result):
    assert accepted(group(**{option: value})) == {"data": {**DEFAULTS, option: result}}


def test_a_hyphen_may_stand_for_an_underscore():
    options = accepted(group(**{"backup-generations": 5, "receive-only": ["web9"]}))["data"]
    assert (options["backup_generations"], options["receive_only"]) == (5, ["web9"])


@pytest.mark.parametrize("name", ["a", "0", "www0data", "z" * 64])
def test_a_group_name_is_what_csync2_takes_after_its_option_c(name):
    assert list(accepted({name: GOOD})) == [name]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("", ""),
        ("Data", "Data"),
        ("www-data", "www-data"),
        ("www_data", "www_data"),
        ("www data", "www data"),
        ("data\n", r"data\n"),
        ("dätä", r"d\xe4t\xe4"),
        ("../etc", "../etc"),
        ("z" * 65, "z" * 65),
        ("z" * 1000, "z" * 79 + "…"),
        (7, "7"),
        (None, "None"),
        (True, "True"),
    ],
)
def test_a_bad_group_name_is_named(name, shown):
    assert messages({name: GOOD}) == [
        f"csyncsync:groups:{shown} is no group name: csync2 takes only [a-z0-9]+ (quote a name of digits), "
        "up to 64 characters"
    ]


def test_an_error_does_not_take_the_other_groups_away():
    result = schema.validate({"data": GOOD, "bad": {"members": "*"}})
    assert list(result["groups"]) == ["data"]
    assert result["errors"] == {"bad": ["csyncsync:groups:bad:include is missing"]}


def test_every_error_of_a_group_is_named_at_once():
    assert len(messages({"data": {"include": ["srv", "/srv", "../x"], "auto": "newest", "typo": 1}})) == 5


@pytest.mark.parametrize("groups", [[], "data", 7, True, b"data"])
def test_groups_that_are_no_mapping_are_an_error_of_the_whole(groups):
    result = schema.validate(groups)
    assert result["groups"] == {}
    assert result["errors"][""][0].startswith("csyncsync:groups is a ")


LONG = "/" + "x" * 4000
BAD_OPTIONS = [
    # option, value, what follows csyncsync:groups:data:, a telling fragment
    ("members", None, "members ", "is no glob"),
    ("members", "", "members ", "is no glob"),
    ("members", 7, "members ", "is no glob"),
    ("members", "web*\n", "members ", "is no glob"),
    ("members", [], "members ", "is an empty list"),
    ("members", ["web1", 7], "members:1 ", "is no minion id"),
    ("members", ["web 1"], "members:0 ", "is no minion id"),
    ("members", ["web1/../x"], "members:0 ", "is no minion id"),
    ("members", [""], "members:0 ", "is no minion id"),
    ("members", ["x" * 256], "members:0 ", "is no minion id"),
    ("members", {}, "members ", "needs 'tgt'"),
    ("members", {"tgt_type": "glob"}, "members ", "needs 'tgt'"),
    ("members", {"tgt": "*", "type": "glob"}, "members ", "takes 'tgt' and 'tgt_type'"),
    ("members", {"tgt": "os:Debian", "tgt_type": "grain"}, "members:tgt_type ", "grains and pillar"),
    ("members", {"tgt": "a:b", "tgt_type": "pillar"}, "members:tgt_type ", "cannot decide who is a member"),
    ("members", {"tgt": "*", "tgt_type": None}, "members:tgt_type ", "glob, list, pcre"),
    ("members", {"tgt": "*", "tgt_type": ["glob"]}, "members:tgt_type ", "glob, list, pcre"),
    ("members", {"tgt": 7, "tgt_type": "list"}, "members ", "is no list"),
    ("members", {"tgt": "a, b", "tgt_type": "list"}, "members:1 ", "is no minion id"),
    ("members", {"tgt": ["a"], "tgt_type": "glob"}, "members ", "is no glob"),
    ("members", {"tgt": "web(", "tgt_type": "pcre"}, "members:tgt ", "is no regular expression"),
    ("members", {"tgt": "a{99999999999}", "tgt_type": "pcre"}, "members:tgt ", "is no regular expression"),
    ("members", {"tgt": "(?\ud800", "tgt_type": "pcre"}, "members:tgt ", "is no regular expression"),
    ("include", None, "include ", "is a null, not a list of paths"),
    ("include", {}, "include ", "is a mapping, not a list of paths"),
    ("include", [], "include ", "name at least one directory"),
    ("include", ["/srv", 7], "include:1 ", "is a int, not a string"),
    ("include", [["/srv"]], "include:0 ", "is a list, not a string"),
    ("include", {"file": "/srv/a"}, "include ", "is a mapping, not a list of paths, or {file: PATH}"),
    ("include", ["/srv/a", {"file": "srv/b"}], "include:1 ", "'srv/b' is not an absolute path"),
    ("include", [{"file": 7}], "include:0 ", "is a int, not a string"),
    ("include", [{"file": "/srv/a", "mode": "0600"}], "include:0 ", "is a mapping, not a string"),
    ("include", [{"directory": "/srv/a"}], "include:0 ", "is a mapping, not a string"),
    ("include", [{"file": "/etc/csync2.cfg"}], "include:0 ", "csync2's own configuration"),
    ("include", ["/srv", "srv/data"], "include:1 ", "'srv/data' is not an absolute path"),
    ("include", "srv/data", "include ", "'srv/data' is not an absolute path"),
    ("include", "%home%/x", "include ", "is not an absolute path"),
    ("include", "", "include ", "is empty"),
    ("include", " ", "include ", "is empty"),
    ("include", "/", "include ", "is the whole file system"),
    ("include", "//", "include ", "is the whole file system"),
    ("include", "/srv/../etc", "include ", "is not a normal path"),
    ("include", "/srv/./x", "include ", "is not a normal path"),
    ("include", "/srv//x", "include ", "is not a normal path"),
    ("include", '/srv/"; auto "left', "include ", "csync2 knows no escape"),
    ("include", "/srv/a\nb", "include ", "holds a newline"),
    ("include", "/srv/a\x00b", "include ", "control character"),
    ("include", "/srv/a\x7fb", "include ", "control character"),
    ("include", "/srv/\ud800", "include ", "is no valid Unicode"),
    ("include", LONG, "include ", "is longer than 4000 bytes"),
    ("include", "/srv/*", "include ", "takes for a pattern"),
    ("include", "/srv/a?", "include ", "takes for a pattern"),
    ("include", "/srv/[ab]", "include ", "takes for a pattern"),
    ("include", "/srv/a\\b", "include ", "takes for a pattern"),
    ("include", "/proc", "include ", "must not be synchronized"),
    ("include", "/sys/x", "include ", "must not be synchronized"),
    ("include", "/dev/shm/x/", "include ", "must not be synchronized"),
    ("include", "/run/lock", "include ", "must not be synchronized"),
    ("include", "/etc/csync2/x", "include ", "must not be synchronized"),
    ("include", "/var/lib/csync2", "include ", "must not be synchronized"),
    ("include", "/var/lib/csyncsync/x", "include ", "must not be synchronized"),
    ("include", "/etc/csync2.cfg", "include ", "csync2's own configuration"),
    ("include", "/etc/csync2_data.key", "include ", "csync2's own configuration"),
    ("include", "/etc", "include ", "would synchronize /etc/csync2 too"),
    ("include", "/var", "include ", "would synchronize /var/lib/csync2 too"),
    ("include", "/var/lib/", "include ", "would synchronize /var/lib/csync2 too"),
    ("exclude", None, "exclude ", "not a list of patterns"),
    ("exclude", ["a", ""], "exclude:1 ", "is empty"),
    ("exclude", ['a"b'], "exclude:0 ", "csync2 knows no escape"),
    ("exclude", ["a\rb"], "exclude:0 ", "control character"),
    ("exclude", "%home%/x", "exclude ", "takes for a prefix"),
    ("exclude", "cache/*.tmp", "exclude ", "would never match"),
    ("auto", None, "auto ", "is none of none, first"),
    ("auto", "newest", "auto ", "'newest' is none of none, first"),
    ("auto", ["left"], "auto ", "is none of none, first"),
    ("auto", "Left", "auto ", "is none of none, first"),
    ("action", None, "action ", "is a null, not a list of actions"),
    ("action", "true", "action ", "is a string, not a list of actions"),
    ("action", ["true"], "action:0 ", "is a string, not a mapping"),
    ("action", {}, "action:0:exec ", "is missing"),
    ("action", {"exec": []}, "action:0:exec ", "is empty"),
    ("action", {"exec": None}, "action:0:exec ", "is a null, not a list of commands"),
    ("action", {"exec": "a\nb"}, "action:0:exec ", "holds a newline"),
    ("action", [{"exec": "a"}, {"exec": ["a", 'echo "b"']}], "action:1:exec:1 ", "csync2 knows no escape"),
    ("action", {"exec": "touch %%"}, "action:0:exec ", "%% outside of single quotes"),
    ("action", {"exec": ["a 'b'%%"]}, "action:0:exec:0 ", "%% outside of single quotes"),
    ("action", {"exec": "a", "pattern": {"x": 1}}, "action:0:pattern ", "is a mapping, not a list of patterns"),
    ("action", {"exec": "a", "pattern": "x.conf"}, "action:0:pattern ", "would never match"),
    ("action", {"exec": "a", "pattern": ["*.conf"]}, "action:0:pattern:0 ", "would never match"),
    ("action", {"exec": "a", "command": "b"}, "action:0:command ", "is no option; there are: pattern"),
    ("action", {"exec": "a", 7: "b"}, "action:0:7 ", "is no option"),
    ("action", {"exec": "a", "do_local": "yes"}, "action:0:do_local ", "is neither true nor false"),
    ("action", {"exec": "a", "do-local-only": 1}, "action:0:do_local_only ", "is neither true nor false"),
    ("action", {"exec": "a", "do-local": True, "do_local": False}, "action:0:do_local ", "stands there twice"),
    ("action", {"exec": "a", "logfile": "log"}, "action:0:logfile ", "is not an absolute path"),
    ("action", {"exec": "a", "logfile": '/"'}, "action:0:logfile ", "is not an absolute path"),
    ("action", {"exec": "a", "logfile": 7}, "action:0:logfile ", "is not an absolute path"),
    ("backup_directory", None, "backup_directory ", "is not a string"),
    ("backup_directory", "backups", "backup_directory ", "is not an absolute path"),
    ("backup_directory", "/", "backup_directory ", "is the whole file system"),
    ("backup_directory", '/a"b', "backup_directory ", "csync2 knows no escape"),
    ("backup_generations", 1, "backup_generations ", "is no number from 2 to 10000"),
    ("backup_generations", 10001, "backup_generations ", "is no number from 2 to 10000"),
    ("backup_generations", True, "backup_generations ", "is no number"),
    ("backup_generations", 2.0, "backup_generations ", "is no number"),
    ("backup_generations", "3", "backup_generations ", "is no number"),
    ("backup_generations", 10**5000, "backup_generations ", "is no number"),
    ("receive_only", None, "receive_only ", "not a list of minion ids"),
    ("receive_only", ["web1", "web 2"], "receive_only:1 ", "is no minion id"),
    ("receive_only", [7], "receive_only:0 ", "is a int, not a string"),
    ("hold", None, "hold ", "is a null, not a mapping"),
    ("hold", 100, "hold ", "not a mapping of number and share"),
    ("hold", {"numbers": 1}, "hold:numbers ", "is no option; there are: number, share"),
    ("hold", {"number": -1}, "hold:number ", "is no number of files"),
    ("hold", {"number": True}, "hold:number ", "is no number of files"),
    ("hold", {"number": 10**5000}, "hold:number ", "is no number of files"),
    ("hold", {"share": 50}, "hold:share ", "is no share from 0 to 1"),
    ("hold", {"share": float("nan")}, "hold:share ", "is no share from 0 to 1"),
    ("hold", {"share": "half"}, "hold:share ", "is no share from 0 to 1"),
    ("address", None, "address ", "is no interface"),
    ("address", 7, "address ", "is no interface"),
    ("address", "", "address ", "is no interface"),
    ("address", "eth1; auto", "address ", "is no interface"),
    ("address", "10.1.0.300", "address ", "is no interface"),
    ("address", "10.1.0.0/33", "address ", "is no interface"),
    ("address", "an.interface.of.16", "address ", "is no interface"),
    ("address", ["eth1"], "address ", "is no interface"),
    ("address", {1: 10**5000}, "address ", "is no interface"),
    ("seed", None, "seed ", "is no minion id"),
    ("seed", "web 1", "seed ", "is no minion id"),
    ("seed", ["web1"], "seed ", "is no minion id"),
    ("tls", None, "tls ", "is neither true nor false"),
    ("tls", "false", "tls ", "is neither true nor false"),
    ("tls", 0, "tls ", "is neither true nor false"),
    ("key", None, "key ", "is no csync2 key"),
    ("key", "", "key ", "is no csync2 key"),
    ("key", "k" * 31, "key ", "32 to 1022 characters"),
    ("key", "k" * 1023, "key ", "32 to 1022 characters"),
    ("key", "k" * 32 + "\n", "key ", "is no csync2 key"),
    ("key", "k" * 32 + "-", "key ", "[A-Za-z0-9._]"),
    ("key", ["k" * 32], "key ", "is no csync2 key"),
    ("typo", 1, "typo ", "is no option; there are: members, include"),
    ("Include", ["/srv"], "Include ", "is no option"),
    ("a\nb", 1, r"a\nb ", "is no option"),
]


@pytest.mark.parametrize(
    ("option", "value", "where", "fragment"),
    [pytest.param(*bad, id=f"{bad[0]!a}-{number}") for number, bad in enumerate(BAD_OPTIONS)],
)
def test_a_bad_option_is_named_with_its_place_and_a_reason(option, value, where, fragment):
    found = messages(group(**{option: value}))
    assert len(found) == 1
    assert found[0].startswith(f"csyncsync:groups:data:{where}")
    assert fragment in found[0]
    assert found[0].isprintable()
    assert schema.validate(group(**{option: value}))["groups"] == {}


@pytest.mark.parametrize(
    ("groups", "start", "fragment"),
    [
        ({"data": None}, "csyncsync:groups:data ", "is a null, not a mapping of options"),
        ({"data": ["a"]}, "csyncsync:groups:data ", "is a list, not a mapping of options"),
        ({"data": {"members": "*"}}, "csyncsync:groups:data:include ", "is missing"),
        ({"data": {"include": "/srv"}}, "csyncsync:groups:data:members ", "is missing"),
        ({"data": {**GOOD, 7: 1}}, "csyncsync:groups:data:7 ", "is no option"),
        (group(**{"receive-only": [], "receive_only": []}), "csyncsync:groups:data:receive_only ", "twice"),
    ],
)
def test_a_malformed_group_is_named(groups, start, fragment):
    (message,) = messages(groups)
    assert message.startswith(start)
    assert fragment in message


@pytest.mark.parametrize(
    ("one", "two"), [("/srv", "/srv"), ("/srv", "/srv/"), ("/srv", "/srv/a/b"), ("/srv/a", "/srv")]
)
def test_a_path_is_in_one_group_only(one, two):
    result = schema.validate(
        {"a": {**GOOD, "include": ["/opt/a", one]}, "b": {**GOOD, "include": two}, "c": {**GOOD, "include": "/srvx"}}
    )
    assert list(result["groups"]) == ["c"]
    assert result["errors"]["a"][0].startswith("csyncsync:groups:a:include:1 ")
    assert "overlaps csyncsync:groups:b:include:0" in result["errors"]["a"][0]
    assert result["errors"]["b"][0].startswith("csyncsync:groups:b:include:0 ")


def test_backups_that_another_group_would_synchronize_are_refused():
    groups = {
        "a": {**GOOD, "include": "/srv/a", "backup_directory": "/srv/b/old"},
        "b": {**GOOD, "include": "/srv/b"},
    }
    result = schema.validate(groups)
    assert list(result["groups"]) == ["b"]
    assert "lies in csyncsync:groups:b:include" in result["errors"]["a"][0]


def test_a_group_may_name_a_path_and_what_is_below_it():
    assert accepted(group(include=["/srv", "/srv/a"]))["data"]["include"] == ["/srv", "/srv/a"]


def test_a_name_of_digits_and_a_number_do_not_hide_each_other():
    result = schema.validate({1: GOOD, "1": {**GOOD, "include": "/opt"}})
    assert result["groups"] == {}
    assert "quote a name of digits" in result["errors"]["1"][0]


@pytest.mark.parametrize(
    ("members", "receive_only", "could"),
    [
        ("*", ["web2"], "a member that csyncsync:groups:data:receive_only does not cover"),
        (["web1", "web2", "db1"], ["web2", "d*"], "web1"),
        ({"tgt": "web3,web2,web1", "tgt_type": "list"}, "web2", "web3, web1"),
        (["web2"], "w*", "a member that csyncsync:groups:data:receive_only does not cover"),
    ],
)
def test_a_seed_that_only_receives_is_refused_with_who_could_be_it(members, receive_only, could):
    assert messages(group(members=members, receive_only=receive_only, seed="web2")) == [
        f"csyncsync:groups:data:seed 'web2' only receives (csyncsync:groups:data:receive_only): name {could}"
    ]
    accepted(group(members=members, receive_only=receive_only, seed="web7" if members == "*" else "a"))


# --- Anything at all --------------------------------------------------------------------------------------


def deep():
    """A tree that is too deep for repr()."""
    tree = []
    for _ in range(100_000):
        tree = [tree]
    return tree


def knot(kind):
    """What YAML makes of an anchor that holds its own alias."""
    tree = kind()
    if kind is list:
        tree.append(tree)
    else:
        tree["tgt"] = tree["exec"] = tree["number"] = tree
    return tree


def laughs(pack):
    """Ten aliases of ten aliases of …: small in memory, and too long to be printed."""
    tree = "ha"
    for _ in range(60):
        tree = pack(tree)
    return tree


#: What may stand anywhere in a pillar, and has brought other programs down.
SHAPES = {
    "a deep tree": deep(),
    "a list in itself": knot(list),
    "a mapping in itself": knot(dict),
    "a billion laughs": laughs(lambda tree: [tree] * 10),
    "a billion laughs in mappings": laughs(lambda tree: dict.fromkeys(("tgt", "exec", "pattern", "number"), tree)),
    "a number of 5000 digits": 10**5000,
    "a negative one": -(10**5000),
    "2^64": 2**64,
    "not a number": math.nan,
    "infinity": -math.inf,
    "bytes": b"\xff\x00web*",
    "a very long string": "x" * 1_000_000,
    "a very long path": "/x" * 500_000,
    "very many brackets": "(" * 100_000,
    "a surrogate": "/srv/\udfff",
    "control characters": "/srv/\x00\x1b[2J\x7f\x85\u2028",
    "a date": datetime.date(1, 1, 1),
    "a set": {"web1", None},
    "a tuple": ("web1", (None,)),
    "names of other types": {None: 1, 7: 2, b"\xff": 3, math.nan: 4, ("a", ("b",)): 5, 10**5000: 6, "\udfff": 7},
}
#: Where it may stand below an option.
PLACES = {
    "itself": lambda shape: shape,
    "in a list": lambda shape: ["/srv/x", shape],
    "in a mapping": lambda shape: {"tgt": shape, "tgt_type": "list", "number": shape, "share": shape, "exec": shape},
    "in a list of mappings": lambda shape: [dict.fromkeys(ACTION_OPTIONS, shape), {"exec": [shape]}],
    "as a kind of target": lambda shape: {"tgt": "web*", "tgt_type": shape},
    "as a regular expression": lambda shape: {"tgt": shape, "tgt_type": "pcre"},
}


def assert_named_or_complete(groups):
    """Assert that it raises nothing, and that each message is one short line; the messages."""
    result = schema.validate(groups)
    for options in result["groups"].values():
        assert_complete(options)
    found = [line for lines in result["errors"].values() for line in lines]
    for line in found:
        assert line.startswith("csyncsync:groups")
        assert line.isprintable()
        assert len(line) < 600
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("place", PLACES)
def test_no_shape_in_any_option_is_more_than_a_short_message(place, shape):
    began = time.monotonic()
    for option in schema.OPTIONS:
        assert_named_or_complete(group(**{option: PLACES[place](SHAPES[shape])}))
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("shape", SHAPES)
def test_no_shape_in_the_place_of_a_name_or_of_a_whole_group_is_more_than_a_short_message(shape):
    assert_named_or_complete(SHAPES[shape])
    assert assert_named_or_complete({"data": SHAPES[shape]})
    assert assert_named_or_complete({"data": {**GOOD, "action": SHAPES[shape], "typo": SHAPES[shape]}})
    try:
        names = {SHAPES[shape]: GOOD}
    except TypeError:
        return  # nothing can have this name
    assert assert_named_or_complete(names)
    assert assert_named_or_complete({"data": {**GOOD, SHAPES[shape]: 1}})
    assert assert_named_or_complete({"data": {**GOOD, "hold": {SHAPES[shape]: 1}}})
    assert assert_named_or_complete({"data": {**GOOD, "action": {"exec": "a", SHAPES[shape]: 1}}})


@pytest.mark.parametrize("shape", SHAPES)
def test_no_shape_keeps_the_master_from_telling_whom_a_group_may_mean(shape):
    for options in (SHAPES[shape], *({"members": place(SHAPES[shape])} for place in PLACES.values())):
        assert membership.may_match(options, "web1") in (True, False)


any_text = st.one_of(
    st.text(st.characters(), max_size=30),  # surrogates and control characters, too
    st.sampled_from(
        ["/srv", "/", '"', "\x00", "\ud800", "web*", "glob", "list", "pcre", "eth0", "10.0.0.0/8", "((", "[!]"]
    ),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([math.nan, math.inf, 2**63]),
    st.sampled_from([1, -1]).map(lambda sign: sign * 10**5000),
    st.floats(),
    any_text,
    st.binary(max_size=20),
    st.dates(),
    st.datetimes(),
    st.just(datetime.timedelta.max),
    st.text(st.characters(), min_size=1, max_size=3).map(lambda text: text * 10_000),
)
names = st.one_of(st.sampled_from(["data", "0", "1", "nan", "inf", ""]), scalars)
option_names = st.one_of(
    st.sampled_from(schema.OPTIONS), st.sampled_from(schema.OPTIONS).map(lambda o: o.replace("_", "-")), scalars
)
inner_names = st.one_of(st.sampled_from([*ACTION_OPTIONS, "tgt", "tgt_type", "do-local"]), scalars)
anything = st.recursive(
    st.one_of(scalars, st.sampled_from(sorted(SHAPES)).map(lambda name: SHAPES[name])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(inner_names, inner, max_size=4),
    max_leaves=8,
)
some_groups = st.one_of(
    anything, st.dictionaries(names, st.one_of(anything, st.dictionaries(option_names, anything)), max_size=4)
)


def assert_complete(options):
    """Assert that every option is there, in its one shape."""
    assert tuple(options) == (*schema.OPTIONS, "files")
    for option in ("include", "exclude", "receive_only"):
        assert isinstance(options[option], list)
        assert all(isinstance(item, str) for item in options[option])
    assert options["include"]
    assert set(options["members"]) == {"tgt", "tgt_type"}
    assert options["members"]["tgt_type"] in schema.TARGET_TYPES
    assert isinstance(options["members"]["tgt"], list if options["members"]["tgt_type"] == "list" else str)
    assert options["auto"] in schema.AUTO_METHODS
    assert isinstance(options["tls"], bool)
    for option in ("backup_directory", "address", "seed", "key"):
        assert options[option] is None or isinstance(options[option], str)
    assert options["backup_generations"] is None or type(options["backup_generations"]) is int
    for action in options["action"]:
        assert tuple(action) == ACTION_OPTIONS
        assert action["exec"]
        assert all(isinstance(item, str) for item in action["exec"] + action["pattern"])
        assert isinstance(action["do_local"], bool)
        assert isinstance(action["do_local_only"], bool)


@given(some_groups)
def test_whatever_stands_in_the_pillar_is_accepted_complete_or_named(groups):
    result = schema.validate(groups)
    assert set(result) == {"groups", "errors"}
    assert not set(result["groups"]) & set(result["errors"])
    for options in result["groups"].values():
        assert_complete(options)
    for lines in result["errors"].values():
        assert lines
        for line in lines:
            assert line.startswith("csyncsync:groups")
            assert line.isprintable()


mostly_good = st.fixed_dictionaries(
    {
        "members": st.one_of(st.just("web*"), st.lists(st.sampled_from(["web1", "web2"]), min_size=1), anything),
        "include": st.one_of(st.lists(st.sampled_from(["/srv", "/opt/x"]), min_size=1), anything),
    },
    optional=dict.fromkeys(schema.OPTIONS[2:], anything),
)


@given(mostly_good)
def test_one_odd_option_of_a_good_group_is_accepted_complete_or_named(options):
    result = schema.validate({"data": options})
    if not result["errors"]:
        assert_complete(result["groups"]["data"])
    else:
        assert list(result["errors"]) == ["data"]
        assert all(line.startswith("csyncsync:groups:data:") for line in result["errors"]["data"])


# --- The key ----------------------------------------------------------------------------------------------

around = st.text(st.characters(), max_size=20)
keys = st.one_of(
    st.just(KEY),
    st.builds(lambda before, after: before + KEY + after, around, around),
    st.just([KEY]),
    st.just({"value": KEY}),
    st.just({KEY: 1}),
    st.just(KEY.encode()),
    st.just(KEY * 20),
)


@given(keys, mostly_good)
def test_a_key_stands_in_no_message(key, options):
    assert KEY not in repr(schema.validate({"data": {**options, "key": key}})["errors"])


@pytest.mark.parametrize("options", [f"key: {KEY}", [{"key": KEY}], {"keys": KEY}, {"key": {KEY: KEY}}, {"Key": KEY}])
def test_a_key_in_the_wrong_place_stands_in_no_message(options):
    assert KEY not in repr(schema.validate({"data": options})["errors"])
    assert KEY not in repr(schema.validate([options])["errors"])
