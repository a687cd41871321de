"""
Fields of events are written by minions: whatever stands in them, the reactor calls what it should, with just that.

The events go through Salt's own reactor: its renderers, its compiler, and the wrapper that makes a runner's call of a
reaction. Only the call itself is noted instead of made; the last test lets the master's reactor make it.
"""

import time

import pytest
import salt.utils.reactor
from csync2lib.csync2.names import is_group_name
from csync2lib.master import rate_limit
from hypothesis import example, given, settings
from hypothesis import strategies as st

#: Tag -> the runner's function, and its arguments as the fields of the event that they come from.
REACTIONS = {
    "salt/beacon/web1/csyncsync/wwwdata": ("csyncsync.sync", {"group": ("group",), "host": ("id",)}),
    "csyncsync/wwwdata/pushed": (
        "csyncsync.pushed",
        {
            "group": ("data", "group"),
            "host": ("id",),
            "jid": ("data", "jid"),
            "state": ("data", "state"),
            "refused": ("data", "refused"),
            "full": ("data", "full"),
        },
    ),
    "csyncsync/wwwdata/facts": ("csyncsync.apply", {"group": ("data", "group"), "reporter": ("id",)}),
    "salt/minion/web1/start": ("csyncsync.apply", {"host": ("id",)}),
}
HONEST = {
    "group": "wwwdata",
    "host": "web1",
    "reporter": "web1",
    "jid": "20261122100000000000",
    "state": "pushed",
    "refused": {"web2": ["/var/www/a"]},
    "full": False,
}

HOSTILE = (
    "",
    "null",
    "~",
    "yes",
    "5",
    "web1\n      - tgt: '*'",
    "web1\n\nOwned:\n  local.cmd.run:\n    - tgt: '*'\n    - arg: [id]\n",
    "{{ 7 * 7 }}",
    "{% set data = {} %}{{ salt['cmd.run']('id') }}",
    "{# #}",
    "{% raw %}",
    "#!py\ndef run(): pass",
    "'; id; '",
    '"',
    '" }}',
    "\\",
    '\\"\n- x',
    "!!python/object/apply:os.system [id]",
    "&a *a",
    "a: b",
    "- a",
    "[a, b]",
    "{a: b}",
    "# x",
    "| x",
    "</script>",
    "\0\x07\x1b\x7f\x85\u2028\ufeff",
    "Grüße",
    "%s %(x)s",
    "../../etc/passwd",
)
texts = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.lists(st.sampled_from((*HOSTILE, "\n", "  ", "web1")), max_size=4).map("".join),
)
#: What msgpack can carry besides text.
others = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.binary(max_size=8), texts, st.text()
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)


class Calls(salt.utils.reactor.ReactWrap):
    """Salt's wrapper for reactions; it notes which client would be called, and how."""

    def __init__(self, opts):
        super().__init__(opts)
        self.made = []

    def runner(self, fun, **kwargs):
        self.made.append(("runner", fun, tuple(kwargs["arg"]), kwargs["kwarg"]))

    def local(self, fun, tgt, **kwargs):
        self.made.append(("local", fun, (tgt,), kwargs))

    def wheel(self, fun, **kwargs):
        self.made.append(("wheel", fun, (), kwargs))

    def caller(self, fun, **kwargs):
        self.made.append(("caller", fun, (), kwargs))


@pytest.fixture(scope="module")
def react(master_opts, minion, tree):
    """``react(tag, event)``: the calls that the master's reactor makes of an event."""
    opts = {**master_opts, "reactor_worker_threads": 1}
    reactor, wrap = salt.utils.reactor.Reactor(opts), Calls(opts)

    def _react(tag, event):
        rate_limit.buckets.clear()
        wrap.made = []
        for chunk in reactor.reactions(tag, event, reactor.list_reactors(tag)):
            wrap.run(chunk)
        return wrap.made

    yield _react
    reactor.minion.destroy()


def _event(fields, values):
    """An event with a value in each of these fields."""
    event = {"_stamp": "2026-11-22T10:00:00.000000"}
    for field, value in zip(fields, values):
        inner = event
        for name in field[:-1]:
            inner = inner.setdefault(name, {})
        inner[field[-1]] = value
    return event


def test_every_event_of_the_masters_config_has_a_reaction(master):
    tags = {tag for tag, _, _ in rate_limit.KINDS.values()}
    assert {tag for entry in master.config["reactor"] for tag in entry} == tags


@pytest.mark.parametrize("tag", REACTIONS)
def test_the_runner_gets_what_an_honest_event_says(react, tag):
    function, arguments = REACTIONS[tag]
    expected = {name: HONEST[name] for name in arguments}
    assert react(tag, _event(arguments.values(), expected.values())) == [("runner", function, (), expected)]


@pytest.mark.parametrize("tag", REACTIONS)
@settings(max_examples=30)
@given(data=st.data())
def test_whatever_an_event_holds_nothing_else_is_called(react, tag, data):
    """Nothing, or the one function, with the very values of the event: for an accepted minion, and a group's name."""
    function, arguments = REACTIONS[tag]
    values = {name: data.draw(st.one_of(st.just(HONEST[name]), others), label=name) for name in arguments}
    made = react(tag, _event(arguments.values(), values.values()))
    if made:
        ((kind, called, positional, named),) = made
        assert (kind, called, positional, set(named)) == ("runner", function, (), set(arguments))
        assert "web1" in (named.get("host"), named.get("reporter"))
        assert is_group_name(named.get("group", "any"))
        assert {**named, "refused": 0} == {**values, "refused": 0}
        assert named.get("refused") in (None, values.get("refused"))


@pytest.mark.parametrize("tag", REACTIONS)
def test_no_known_trick_in_any_field_is_more_than_text(react, tag):
    function, arguments = REACTIONS[tag]
    for hostile in HOSTILE:
        for odd in arguments:
            values = {name: hostile if name == odd else HONEST[name] for name in arguments}
            for kind, called, positional, named in react(tag, _event(arguments.values(), values.values())):
                assert (kind, called, positional) == ("runner", function, ())
                assert named == {**values, "refused": None} if odd == "refused" else values


@settings(max_examples=30)
@given(tag=st.sampled_from(sorted(REACTIONS)), event=st.dictionaries(texts, others, max_size=3), inner=others)
def test_an_event_of_any_shape_is_no_error(minion, master_opts, tag, event, inner):
    rate_limit.react(tag, {"id": "web1", **event, "data": inner}, master_opts)


@settings(max_examples=30)
@given(act=others)
@example(act="delete")
def test_a_deleted_key_has_all_groups_applied_and_other_acts_do_nothing(react, act):
    made = react("salt/key", _event([("act",), ("id",), ("result",)], [act, "web9", True]))
    given = [(kind, function, *arguments, *filter(None, named.values())) for kind, function, arguments, named in made]
    assert given == ([("runner", "csyncsync.apply")] if act == "delete" else [])


def test_the_master_itself_calls_only_that(minion, outsider, call, event_listener, master, published):
    """A minion sends beacon events in the name of another; the master's own reactor runs."""
    began = time.time()
    owned = "wwwdata\n\nOwned:\n  local.test.ping:\n    - tgt: '*'\n    - x:"  # as YAML, this would be a reaction
    groups = (owned, "{{ salt['test.ping']() }}", {"a": ["b"]}, None, "nosuch")
    events = [
        {"tag": f"salt/beacon/web1/csyncsync/{n}", "data": {"id": "web1", "group": group, "count": 1}}
        for n, group in enumerate(groups)
    ]
    assert call("db1", "event.fire", {"beacons": events}, "__beacons_return")
    until = time.monotonic() + 20
    while not (runs := _runs(event_listener, master, began)) and time.monotonic() < until:
        time.sleep(0.3)
    time.sleep(1)
    runs = _runs(event_listener, master, began)
    asked = [(run["fun"], run["fun_args"][0]["group"], run["fun_args"][0]["host"]) for run in runs]
    assert asked == [("runner.csyncsync.sync", "nosuch", "web1")]
    assert "'web1' is no member of 'nosuch'" in runs[0]["return"]["data"]["problem"]
    assert published() == ["event.fire"]


def _runs(event_listener, master, began):
    """The calls of sync that have ended; a minion that has only just started makes others."""
    events = event_listener.get_events([(master.id, "salt/run/*/ret")], after_time=began)
    return [event.data for event in events if event.data["fun"] == "runner.csyncsync.sync"]
