"""A member's root may answer anything: the others are served as usual, and nothing of it reaches a terminal raw."""

import ast
import contextlib
import importlib.util
import json
import logging
import os
import re
import shutil
import time
import types
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from csync2lib import contents, signature, waits
from csync2lib.master import cluster as cluster_module
from csync2lib.master import joins, lease, outcome, questions, shapes
from csync2lib.master.record import Lease
from csync2lib.report import table as table_module
from csync2lib.report.words import one_line, printable, readable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

RUNNERS = sorted((Path(__file__).resolve().parents[2] / "_runners").glob("*.py"))
HONEST, LIAR = ("web1", "web2"), "web3"
HOSTS = (*HONEST, LIAR)
PATH = "/srv/d/x%0Ay"
NOW = time.time()

# --- What honest hosts answer ----------------------------------------------------------------------------


def other(host):
    return {"web1": "web2", "web2": "web1"}.get(host, "web1")


STATUS = {
    "state": "established",
    "journal": 0,
    "dirty": {},
    "refused": {},
    "unreachable": {},
    "held": "90 files have vanished",
    "paused": "",
    "last_push": {"time": NOW, "state": "pushed", "checked": 3, "seconds": 0.2, "comment": "", "pushes": 7},
    "watching": True,
    "watch": {"watches": 12, "limit": 1000, "error": None, "hot": [], "pid": 1},
    "waiting_since": None,
    "database_bytes": 5000,
    "files": 10,
    "bytes": 100,
    "disks": [{"path": "/srv", "free": 50, "total": 100}],
    "versions": {"csync2": "2.0"},
    "certificate_end": NOW + 10**9,
    "actions": [],
    "error": "",
    "unpublished": [],
    "hosts": {},
    "in_sync": True,
}


def version(host):
    return {
        "type": "file",
        "size": 5,
        "mtime": 1.5 + HOSTS.index(host),
        "time": "2026",
        "mode": "0644",
        "owner": "root:root",
        "sha256": f"{host.encode().hex():0<64}",
        "text": f"{host}\n",
    }


def content(host, group, part=None, parts=1, slots=None, rate=0):
    if part is not None:
        return {"7": f"{host.encode().hex():0<16}"}
    return {PATH: f"{host.encode().hex():0<16}"} if slots else {"files": 10, "bytes": 100}


CERTIFICATE = {"valid": True, "reason": "", "fingerprint": "ab" * 32, "not_after": "2046-01-01"}
ANSWERS = {
    "csyncsync.status": lambda host, *group, **size: {"g": STATUS},
    "csyncsync.marked": lambda host, group: {PATH: [other(host)]},
    "csyncsync.versions": lambda host, group, paths, text=False: {path: version(host) for path in paths},
    "csyncsync.contents": content,
    "csyncsync.backups": lambda host, group, paths, content, most: {
        "paths": {PATH: [{**version(host), "generation": 0, "doubt": "may be of /srv/d/x"}]},
        "more": 0,
    },
    "csyncsync.restore": lambda host, *paths: {
        "size": 5,
        "sha256": version("web1")["sha256"],
        "changed": True,
        "kept": 1,
    },
    "csyncsync.win": lambda host, group, paths, only=None: 1,
    "csyncsync.local_changes": lambda host, group: {PATH: "changed"},
    "csyncsync.records": lambda host, group, slots: {"calm": True, "left": [], "paths": {PATH: "0" * 16}},
    "csyncsync.kept": lambda host, group, paths: paths,
    "csyncsync.mark": lambda host, group, paths, **how: {path: ["0" * 16] for path in paths},
    "csyncsync.returned": lambda host, group, back: True,
    "csyncsync.reset": lambda host, group: True,
    "csyncsync.join": lambda host, *group, **keep: {"group": "g", "state": "established", "unsent": []},
    "csyncsync.digests": lambda host, group: {"group": "g", "digests": ["0" * 16] * contents.DIGESTS},
    "csyncsync.admit": lambda host, *group: {"group": "g", "marked": 3, "left": 1, "refused": [PATH]},
    "csyncsync.claims": lambda host, group, paths: dict.fromkeys(paths, "changed"),
    "csyncsync.paused": lambda host, group, paused: paused,
    "csyncsync.push": lambda host, group, **options: {
        "group": "g",
        "state": "test" if options.get("test") else "pushed",
        "left": {},
        "refused": {},
        "send": {other(host): {"entries": 1, "paths": [PATH]}},
        "comment": "",
    },
    "csyncsync.key_proof": lambda host, group, question: "0" * 16,
    "csyncsync.certificate": lambda host: CERTIFICATE,
    "csyncsync.renew_certificate": lambda host: CERTIFICATE,
    "csyncsync.pinned": lambda host, group: {"web1": "ab" * 32},
    "csyncsync.refresh": lambda host, **accepted: [],
    "saltutil.find_job": lambda host, jid: {},
}

# --- What others make of it ------------------------------------------------------------------------------

NASTY = (
    "\x1b[2J\x1b]0;x\x07",
    "a\nroot on web1: in sync",
    "\x9b31m",
    "\u202egpj",
    "\u200b",
    "\ud800",
    "\udcff",
    "\\x0a",
    "x" * 20_000,
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**63, 2**70)
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(NASTY)
    | st.sampled_from(("established", "pushed", "test", "file", "nothing", "/srv/d", "web1", "web3", "g"))
)
RUBBISH = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("g", "state", "web1", "size", PATH, "paths", *NASTY)), inner, max_size=4)
    ),
    max_leaves=8,
)


@st.composite
def bent(draw, value):
    """An honest answer of which one part is something else, or is not there, or of which there is more."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value)))
        kind = draw(st.sampled_from(("below", "below", "below", "gone", "more")))
        if kind == "gone":
            return {name: item for name, item in value.items() if name != key}
        if kind == "more":
            return {**value, draw(st.sampled_from(NASTY)): draw(RUBBISH)}
        return {**value, key: draw(bent(value[key]))}
    if isinstance(value, list) and value and draw(st.booleans()):
        return [draw(bent(value[0])), *value[1:]]
    return draw(RUBBISH)


class Bus:
    """The master's bus, as a job's answers come over it."""

    def __init__(self):
        self.cpub, self.events = True, []

    def get_event(self, tag, **_):
        found = next((event for event in self.events if event["tag"].startswith(tag)), None)
        if found:
            self.events.remove(found)
        return found

    def unsubscribe(self, tag):
        self.events = [event for event in self.events if not event["tag"].startswith(f"{tag}/")]


class Client:
    """
    Salt's, to which each host answers at once: what it says, signed with its own key.

    say
        Given a host, a function, and what an honest host answers, returns the JSON of what this one says.
    forged
        Given a host and a signed answer, returns what else comes over the bus before it.
    """

    def __init__(self, keys):
        self.keys, self.event, self.jobs = keys, Bus(), []
        self.say = truly
        self.forged = lambda host, said: []

    def run_job(self, minions, function, arguments, **options):
        self.jobs.append((minions, function, arguments))
        jid = f"2026{len(self.jobs):016}"
        if function == "csyncsync.answer":
            question, function, given, named = arguments
            for host in minions:
                text = self.say(host, function, ANSWERS[function](host, *given, **named))
                if text is None:
                    continue
                said = signature.signed(self.keys[host], host, question, function, text)
                for event in [*self.forged(host, said), {"id": host, "return": said}]:
                    self.event.events.append({"tag": f"salt/job/{jid}/ret/{host}", "data": event})
        return {"jid": jid, "minions": minions}

    def get_cache_returns(self, jid):
        return {}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A directory as a master's pki_dir, and ``{host: path of its private key}``."""
    directory, found = tmp_path_factory.mktemp("pki"), {}
    (directory / "minions").mkdir()
    for host in HOSTS:
        key = rsa.generate_private_key(65537, 1024)
        pem = (serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
        found[host] = str(directory / f"{host}.pem")
        Path(found[host]).write_bytes(key.private_bytes(*pem))
        public = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        (directory / "minions" / host).write_bytes(key.public_key().public_bytes(*public))
    (directory / "csyncsync").mkdir()
    return directory, found


@pytest.fixture(scope="module")
def master(keys, tmp_path_factory):
    """The runner's two files as one, with a client that the tests give answers to."""
    directory, files = keys
    with pytest.MonkeyPatch.context() as patch:
        client = Client(files)
        patch.setattr(cluster_module.Cluster, "client", lambda self: client)
        patch.setattr(
            cluster_module.Cluster, "accepted", lambda self, tgt, kind="list": [h for h in HOSTS if tgt in ("*", [h])]
        )
        for name in ("STATUS_ANSWER", "LEASE_ANSWER", "VERIFY_AGAIN", "RETURN_PATIENCE"):
            patch.setattr(waits, name, 0.0)
        patch.setattr(waits, "QUICK", 0.0)
        for name in ("ANSWER", "RESOLVE_WAIT", "ROTATE_WAIT", "LEASE_WAIT", "JOIN_WAIT"):
            patch.setattr(waits, name, 0.01)
        patch.setattr(time, "sleep", lambda seconds: None)
        for module in (lease, outcome):  # what runs in threads
            patch.setattr(module, "aside", lambda function, *arguments: function(*arguments))
        patch.setattr(joins, "start", lambda *arguments: os.getpid())
        patch.setattr(lease, "is_runner", lambda pid: pid == 7)
        (directory / "csyncsync/g.key").write_text("k" * 64)
        options = {"members": "*", "include": ["/srv"], "backup_directory": "/back", "key": "k" * 64}
        salt = {
            "mine.get": lambda tgt, function: {host: {} for host in HOSTS},
            "pillar.show_pillar": lambda minion: {"csyncsync": {"groups": {"g": options}}},
            "pillar.clear_pillar_cache": lambda minion: None,
        }
        opts = {"pki_dir": str(directory), "cachedir": str(tmp_path_factory.mktemp("cache")), "conf_file": "/nowhere"}
        opts["sock_dir"] = "/nowhere"
        functions = {}
        for path in RUNNERS:
            spec = importlib.util.spec_from_file_location(f"runner_{path.stem}", path)
            module = importlib.util.module_from_spec(spec)
            module.__opts__, module.__salt__ = opts, salt
            spec.loader.exec_module(module)
            functions.update({name: getattr(module, name) for name in defined(path)})
        fired = []
        bus = types.SimpleNamespace(fire_event=lambda data, tag: fired.append((data, tag)))
        patch.setattr(outcome.salt.utils.event, "get_master_event", lambda *_, **__: contextlib.nullcontext(bus))
        yield types.SimpleNamespace(client=client, cluster=module._cluster, opts=opts, fired=fired, **functions)


@pytest.fixture(autouse=True)
def honest(master):
    """Each test begins with hosts that tell the truth."""
    master.client.say, master.client.forged = truly, lambda host, said: []


def defined(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]


#: Name of a case -> (function of the runner, arguments, options).
CALLS = {
    "status": ("status", (), {}),
    "status of a group": ("status", ("g",), {}),
    "sync": ("sync", (), {}),
    "sync test": ("sync", ("g",), {"test": True}),
    "release": ("release", ("g",), {}),
    "pause": ("pause", ("g",), {}),
    "resume": ("resume", ("g",), {}),
    "verify": ("verify", ("g",), {}),
    "reset": ("reset", ("g", "web1"), {}),
    "reset test": ("reset", ("g", "web1"), {"test": True}),
    "reset from the liar": ("reset", ("g", "web3"), {}),
    "conflicts": ("conflicts", (), {"diff": True}),
    "resolve": ("resolve", ("g",), {"winner": "younger"}),
    "resolve with the liar's": ("resolve", ("g",), {"winner": "web3"}),
    "backups": ("backups", ("g",), {}),
    "backups of a path": ("backups", ("g", "/srv/d"), {}),
    "restore": ("restore", ("g", "/srv/d/x"), {"host": "web1"}),
    "restore the liar's": ("restore", ("g", "/srv/d/x"), {"host": "web3"}),
    "rotate_key": ("rotate_key", ("g",), {}),
    "rotate_certificate": ("rotate_certificate", ("web1",), {}),
    "rotate the liar's certificate": ("rotate_certificate", ("web3",), {}),
    "join": ("join", ("g", "web1"), {}),
    "join of the liar": ("join", ("g", "web3"), {}),
    "apply": ("apply", ("g",), {}),
    "pushed": ("pushed", ("g", "web3"), {"state": "pushed", "refused": {"web1": ["/x"]}}),
}


def test_every_function_of_the_runner_is_tried():
    functions = {name for path in RUNNERS for name in defined(path)} - {"__virtual__"}
    assert functions == {function for function, _, _ in CALLS.values()}


def texts(value, skip=("diff",)):
    """All texts of a result, at any depth."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from texts(item.splitlines() if key in skip and isinstance(item, str) else item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value


def called(master, case):
    function, arguments, options = CALLS[case]
    return getattr(master, function)(*arguments, **options)


def of_the_honest(case, result):
    """What of a result is said of honest hosts, whatever another one answers."""
    name = CALLS[case][0]
    if name == "status":
        rows = {host: dict(row) for host, row in result["data"]["groups"]["g"].items() if host in HONEST}
        for row in rows.values():  # by the liar's own words its disk may be larger
            row.pop("smallest_disk", None)
        return rows
    if name == "verify":
        return {host: size for host, size in result["hosts"].items() if host in HONEST}
    if name == "conflicts":
        return {host: result["g"][readable(PATH)][host] for host in HONEST}
    if name == "backups":
        return {host: result[readable(PATH)][host] for host in HONEST}
    if name in ("sync", "pause", "resume"):
        return {host: result["g"][host] for host in HONEST}
    return {host: result[host] for host in HONEST} if name == "release" else None


def truly(host, function, answer):
    return json.dumps({"value": answer})


def anew(master, case, say):
    """What the runner returns of a group that was never heard of, when hosts answer so."""
    shutil.rmtree(Path(master.opts["cachedir"], "csyncsync"), ignore_errors=True)
    master.client.say = say
    return called(master, case)


@pytest.mark.parametrize("case", CALLS)
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_answer_of_one_host_harms_what_is_said_of_the_others(master, capfd, caplog, case, data):
    caplog.set_level(logging.DEBUG)
    asked = {}

    def noted(host, function, answer):
        if host == LIAR:
            asked[function, kind(answer)] = answer
        return truly(host, function, answer)

    before = of_the_honest(case, anew(master, case, noted))
    lies = {key: data.draw(lie(answer)) for key, answer in sorted(asked.items(), key=str)}
    another = data.draw(lie(None))
    capfd.readouterr()

    def say(host, function, answer):
        if host != LIAR or function == "saltutil.find_job":  # whoever is still at work is waited for
            return truly(host, function, answer)
        return lies.get((function, kind(answer)), another)

    result = anew(master, case, say)
    assert of_the_honest(case, result) == before
    shown = [*texts(result), *capfd.readouterr().err.splitlines(), *(record.getMessage() for record in caplog.records)]
    if case.startswith("status"):
        shown += table_module.table(result["data"]["groups"])
    assert [text for text in shown if text != one_line(text)] == []
    json.dumps(result, allow_nan=False).encode()
    caplog.clear()


def kind(answer):
    """What tells the answers of one function apart."""
    return tuple(sorted(answer)) if isinstance(answer, dict) else ()


@st.composite
def lie(draw, answer):
    """The JSON that a liar signs."""
    which = draw(st.integers(0, 19))
    if which == 0:
        return draw(st.sampled_from(("", "{", "[" * 100_000, "7" * 6000, '{"value": 1e999}', *NASTY[:3])))
    if which == 1:
        return json.dumps({"error": draw(st.sampled_from(NASTY))})
    return json.dumps({"value": draw(bent(answer))})


# --- Who has answered ------------------------------------------------------------------------------------


def ask(master, *hosts):
    return master.cluster().call(list(hosts or HOSTS), "csyncsync.win", ["g", [PATH]])


def test_what_a_host_has_not_signed_is_no_answer_of_it(master):
    """Others know the question, and can send anything in its name: before it, and instead of it."""
    lie = json.dumps({"value": 666})

    def forged(host, said):
        [(_, _, (question, function, _, _))] = master.client.jobs[-1:]
        others = signature.signed(master.client.keys[LIAR], host, question, function, lie)
        own = signature.signed(master.client.keys[LIAR], LIAR, question, function, lie)
        old = signature.signed(master.client.keys[host], host, "question-of-before", function, lie)
        elsewhere = signature.signed(master.client.keys[host], host, question, "csyncsync.reset", lie)
        bad = [
            {**said, "answer": lie},
            {"answer": lie, "signature": "zz"},
            {"answer": 7, "signature": [1]},
            lie,
            666,
            None,
        ]
        returns = [others, own, old, elsewhere, *bad, {}, [], "'csyncsync.answer' is not available."]
        events = [{"id": host, "return": value} for value in returns]
        return [*events, {"id": ["x"]}, {"id": {}}, "text", 7, None, {"return": said}, {"id": "web9", "return": said}]

    master.client.forged = forged
    answers = ask(master, *HONEST)
    assert (answers, answers.why) == ({"web1": 1, "web2": 1}, {})


def test_what_salt_says_of_a_host_without_the_function_is_why_it_has_no_answer(master):
    master.client.say = lambda host, function, answer: None
    answers = questions.Question(master.opts, "csyncsync.win", [], {}, None)
    answers.silent = {"web1"}
    answers.take({"id": "web1", "return": "'csyncsync.answer' is not available.\nmore"})
    assert answers.unsigned["web1"] == "'csyncsync.answer' is not available."
    answers._refused("web1", "a\x1b\\")
    assert answers.answers.why == {"web1": r"a\x1b\\"}


@pytest.mark.parametrize("host", ["../web1", "web9", "", "a/b"])
def test_whose_key_is_not_accepted_has_answered_nothing(master, host):
    asked = questions.Question(master.opts, "csyncsync.win", [], {}, None)
    asked.silent = {host}
    text = json.dumps({"value": 1})
    said = signature.signed(master.client.keys[LIAR], host, asked.name, "csyncsync.win", text)
    asked.take({"id": host, "return": said})
    assert asked.answers == {}


# --- Events ----------------------------------------------------------------------------------------------

#: What an event may say of a push, in any order and as often as it likes: the current job's id, too.
PUSHED = st.tuples(
    st.sampled_from(HOSTS),
    st.sampled_from(("20260101000000000000", "process 7", "other", None)),
    st.sampled_from(("pushed", "joining", "held", "established", None)),
    st.none()
    | st.just({})
    | st.dictionaries(st.sampled_from(HOSTS), st.lists(st.sampled_from(("/a", "/b")), max_size=2)),
)
LEASES = (Lease("web2", "20260101000000000000", 1, 1), Lease("web2", "process 7", 1, 1, 7), None)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.lists(PUSHED, min_size=1, max_size=8), st.sampled_from(LEASES))
def test_no_event_says_who_has_joined_or_what_is_a_conflict(master, events, held):
    """The hosts say, when they are asked, that they have recorded their files, and nothing else."""
    status = {"g": {**STATUS, "state": "recorded"}}
    master.client.say = lambda host, function, answer: json.dumps({"value": status})
    noted = {"founders": ["web2", "web3"], "admitted": ["web1"], "anew": ["web1"], "returning": {"web3": 1.0}}
    with master.cluster().record("g") as record:
        record.lease, record.known, record.refused, record.waiting = held, list(HOSTS), {}, []
        for name, value in noted.items():
            setattr(record, name, value)
    for host, jid, state, refused in events:
        assert master.pushed("g", host, jid, state, refused)
    with master.cluster().record("g") as record:
        assert {name: getattr(record, name) for name in noted} == noted
        assert record.refused == {}
        if held and held.pid:
            assert record.lease == held


def test_what_a_host_answers_is_written_down_once_an_event_tells_of_it(master):
    said = {"web1": {"web2": ["/x%0A"]}, "web2": {"web1": ["/x%0A"]}}
    master.client.say = lambda host, function, answer: json.dumps(
        {"value": {"g": {**STATUS, "refused": said.get(host, {})}}}
    )
    with master.cluster().record("g") as record:
        record.known, record.refused, record.lease = list(HOSTS), {}, None
        record.founders, record.admitted, record.anew = ["web1", "web2"], [], ["web1"]
    fired = master.fired[:]
    for host in HONEST:
        master.pushed("g", host, "7", "pushed", {"web9": ["/of no host"]})
    with master.cluster().record("g") as record:
        assert (record.founders, record.admitted) == ([], ["web1", "web2"])
        assert record.anew == ["web1"], "it is still to join anew"
        assert record.refused == said
    [(data, tag)] = master.fired[len(fired) :]
    assert (tag, data["path"]) == ("csyncsync/g/conflict", r"/x\x0a")


# --- Shapes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", sorted(ANSWERS))
def test_what_honest_hosts_answer_has_its_shape(function):
    arguments = {
        "csyncsync.versions": ("g", [PATH]),
        "csyncsync.contents": ("g",),
        "csyncsync.backups": ("g", [], False, 50),
        "csyncsync.win": ("g", []),
        "csyncsync.local_changes": ("g",),
        "csyncsync.records": ("g", [0]),
        "csyncsync.kept": ("g", [PATH]),
        "csyncsync.mark": ("g", [PATH]),
        "csyncsync.returned": ("g", "web1"),
        "csyncsync.claims": ("g", [PATH]),
        "csyncsync.paused": ("g", {"*": {"until": None, "comment": "x"}, "web1": {"until": NOW, "comment": ""}}),
        "csyncsync.key_proof": ("g", "q"),
        "saltutil.find_job": ("7",),
    }
    bare = ("csyncsync.certificate", "csyncsync.renew_certificate", "csyncsync.refresh")
    given_ = arguments.get(function, () if function in bare else ("g",))
    assert shapes.check(function, ANSWERS[function]("web1", *given_)) is not None


def test_every_function_that_hosts_are_asked_for_has_a_shape():
    there = Path(cluster_module.__file__).parent
    asked = {
        name for path in there.glob("*.py") for name in re.findall(r'"(csyncsync\.[a-z_]+)"', path.read_text("utf-8"))
    }
    runners = {f"csyncsync.{name}" for path in RUNNERS for name in defined(path)}
    beside = {"csyncsync.answer", "csyncsync.wait", "csyncsync.member"}
    assert asked - set(shapes.SHAPES) - beside <= runners
    assert set(ANSWERS) == set(shapes.SHAPES)


@pytest.mark.parametrize(
    ("function", "answer", "field"),
    [
        ("csyncsync.status", {"g": {"state": "established"}}, "g:journal is missing"),
        ("csyncsync.status", {"g": {**STATUS, "journal": "7"}}, "g:journal is no whole number"),
        ("csyncsync.status", {"g": {**STATUS, "dirty": {"web1": -1}}}, "g:dirty:web1 is no whole number"),
        ("csyncsync.status", {"g": {**STATUS, "waiting_since": float("nan")}}, "g:waiting_since is no number"),
        ("csyncsync.status", {"g": {**STATUS, "waiting_since": 1e18}}, "g:waiting_since is no number"),
        ("csyncsync.status", {"g": {**STATUS, "disks": [{"path": "/"}]}}, r"g:disks\[0\]:free is missing"),
        ("csyncsync.status", {"g": {**STATUS, "refused": {"a b": []}}}, "g:refused, a name is no minion id"),
        ("csyncsync.status", [], "it is no mapping"),
        ("csyncsync.status", {"../x": STATUS}, ", a name is no group name"),
        ("csyncsync.contents", {"files": True, "bytes": 1}, "files is no whole number"),
        ("csyncsync.digests", {"digests": ["0" * 16]}, "digests is no list of 4096 to 4096"),
        ("csyncsync.backups", {"paths": {"/x": []}, "more": 0}, "paths:/x is no list"),
        ("csyncsync.win", True, "it is no whole number"),
        ("csyncsync.key_proof", "../x", "it is no digest"),
    ],
)
def test_what_has_another_shape_is_named(function, answer, field):
    with pytest.raises(shapes.Unusable, match=field):
        shapes.check(function, answer)


def test_what_nobody_knows_is_dropped_and_texts_are_printable():
    answer = shapes.check("csyncsync.status", {"g": {**STATUS, "held": "a\n\x1b\\", "evil": object()}})["g"]
    assert (answer["held"], "evil" in answer) == (r"a\x0a\x1b\\", False)
    assert shapes.check("csyncsync.marked", {"/a b\n%0A\x1b": []}) == {"/a%20b%0A%0A%1B": []}


# --- Words -----------------------------------------------------------------------------------------------

HIDDEN = (
    "\0\t\n\r\x1b\x7f\x80\x85\x9b\x9f\u061c\u200b\u200d\u200e\u2028\u2029\u202a\u202e\u2066\u2069\ufeff\u3164\ufe0f"
)


@pytest.mark.parametrize("char", [*HIDDEN, *map(chr, (0xD800, 0xDC7F, 0xDC80, 0xDCFF, 0xDFFF, 0xFFFF))])
def test_what_nobody_sees_is_shown(char):
    assert re.fullmatch(r"a(\\x[0-9a-f]{2}|\\u[0-9a-f]{4})+b", printable(f"a{char}b"))


@given(st.text(st.characters() | st.sampled_from("\\x0a\n"), max_size=20), st.text("\\x0a\n\udcff", max_size=9))
def test_no_two_texts_look_the_same(one, two):
    assert one == two or printable(one) != printable(two)
    assert one_line(printable(one)) == printable(one)


@given(st.binary(max_size=20) | st.text("\\x0a9 \n", max_size=9).map(os.fsencode))
def test_a_path_that_is_shown_is_found_again(name):
    from urllib.parse import quote_from_bytes

    from csync2lib.report.words import encoded

    path = quote_from_bytes(b"/" + name.rstrip(b"/"))
    assert encoded(readable(path)) == path.rstrip("/")


def test_a_newline_and_what_looks_like_one_are_two_things():
    assert (readable("/a%0A"), readable("/a%5Cx0a")) == (r"/a\x0a", r"/a\\x0a")


@pytest.mark.parametrize("how", ["now", "before, and the master was stopped since"])
def test_a_check_of_the_whole_group_has_hosts_compared(master, monkeypatch, how):
    """Until that was done, whichever push ends next."""
    compared = []
    monkeypatch.setattr(outcome.agreement, "compare", lambda cluster, group: compared.append(group))
    master.pushed("g", "web1", state="pushed", full=False)
    assert compared == []
    master.pushed("g", "web1", state="pushed", full=True)
    assert compared == ["g"]
    if how != "now":
        master.pushed("g", "web2", state="held")
        assert compared == ["g", "g"]
    with master.cluster().record("g") as record:
        record.compare = False
