"""
Fields of events are written by minions: whatever stands in them, the reactor calls what it should, with just that.

The events go through Salt's own reactor: its renderers, its compiler, and the wrapper that makes a runner's call of a
reaction. Only the call itself is noted instead of made; the last test lets the master's reactor make it.
"""

import time

import pytest
import salt.utils.reactor
from hypothesis import example, given, settings
from hypothesis import strategies as st

#: Reactor SLS -> the runner's function, and its arguments as the fields of the event that they come from.
REACTIONS = {
    "changed": ("csyncsync.sync", {"group": ("group",), "host": ("id",)}),
    "pushed": (
        "csyncsync.pushed",
        {
            "group": ("data", "group"),
            "host": ("id",),
            "jid": ("data", "jid"),
            "state": ("data", "state"),
            "refused": ("data", "refused"),
        },
    ),
    "facts": ("csyncsync.apply", {"group": ("data", "group"), "reporter": ("id",)}),
    "started": ("csyncsync.apply", {"host": ("id",)}),
}
TAG = "salt/beacon/web1/csyncsync/wwwdata"

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
#: Without characters beyond U+FFFF: in reactor SLS they are an error of Salt's YAML, so that nothing is called.
texts = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=40),
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
def react(master_opts, tree):
    """``react(sls, event)``: the calls that the master's reactor makes of an event."""
    opts = {**master_opts, "reactor_worker_threads": 1}
    reactor, wrap = salt.utils.reactor.Reactor(opts), Calls(opts)

    def _react(sls, event):
        wrap.made = []
        for chunk in reactor.reactions(TAG, event, [str(tree / f"states/csyncsync/reactor/{sls}.sls")]):
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


def test_every_reactor_sls_is_known_here(tree):
    assert {path.stem for path in (tree / "states/csyncsync/reactor").iterdir()} == {*REACTIONS, "key"}


def test_every_event_of_the_masters_config_has_its_reactor_sls(master, tree):
    named = {sls for entry in master.config["reactor"] for files in entry.values() for sls in files}
    assert named == {f"salt://csyncsync/reactor/{path.name}" for path in (tree / "states/csyncsync/reactor").iterdir()}


@pytest.mark.parametrize("sls", REACTIONS)
@settings(max_examples=30)
@given(data=st.data())
def test_the_runner_gets_exactly_the_text_that_the_event_holds(react, sls, data):
    function, arguments = REACTIONS[sls]
    values = [data.draw(texts, label=name) for name in arguments]
    assert react(sls, _event(arguments.values(), values)) == [("runner", function, (), dict(zip(arguments, values)))]


@pytest.mark.parametrize("sls", REACTIONS)
def test_no_known_trick_is_more_than_text(react, sls):
    function, arguments = REACTIONS[sls]
    for hostile in HOSTILE:
        expected = [("runner", function, (), dict.fromkeys(arguments, hostile))]
        assert react(sls, _event(arguments.values(), [hostile] * len(arguments))) == expected


@pytest.mark.parametrize("sls", REACTIONS)
@settings(max_examples=30)
@given(data=st.data())
def test_whatever_an_event_holds_nothing_else_is_called(react, sls, data):
    function, arguments = REACTIONS[sls]
    fields = [field for field in arguments.values() if data.draw(st.booleans())]
    event = _event(fields, [data.draw(others) for _ in fields])
    if data.draw(st.booleans()):
        event["data"] = data.draw(others)
    for kind, called, positional, named in react(sls, event):
        assert (kind, called, positional, set(named)) == ("runner", function, (), set(arguments))


@settings(max_examples=30)
@given(act=others)
@example(act="delete")
def test_a_deleted_key_has_all_groups_applied_and_other_acts_do_nothing(react, act):
    made = react("key", _event([("act",), ("id",), ("result",)], [act, "web9", True]))
    given = [(kind, function, *arguments, *filter(None, named.values())) for kind, function, arguments, named in made]
    assert given == ([("runner", "csyncsync.apply")] if act == "delete" else [])


def test_the_master_itself_calls_only_that(minion, outsider, call, event_listener, master, published):
    """A minion sends beacon events in the name of another; the master's own reactor runs."""
    began = time.time()
    owned = "wwwdata\n\nOwned:\n  local.test.ping:\n    - tgt: '*'\n    - x:"  # as YAML, this fits into the file
    groups = (owned, "{{ salt['test.ping']() }}", {"a": ["b"]}, None)
    events = [
        {"tag": f"salt/beacon/web1/csyncsync/{n}", "data": {"id": "web1", "group": group, "count": 1}}
        for n, group in enumerate(groups)
    ]
    assert call("db1", "event.fire", {"beacons": events}, "__beacons_return")
    until = time.monotonic() + 20
    while len(runs := _runs(event_listener, master, began)) < len(groups) and time.monotonic() < until:
        time.sleep(0.3)
    assert [run["return"] for run in runs] == [False] * len(groups)
    asked = [(run["fun"], run["fun_args"][0]["group"], run["fun_args"][0]["host"]) for run in runs]
    assert sorted(asked, key=str) == sorted((("runner.csyncsync.sync", group, "web1") for group in groups), key=str)
    assert published() == ["event.fire"]


def _runs(event_listener, master, began):
    return [event.data for event in event_listener.get_events([(master.id, "salt/run/*/ret")], after_time=began)]
