"""Who is in a group: what hosts publish is suspect, value by value, and nobody is lost for want of news."""

import base64
import datetime
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from csync2lib.config import membership, schema
from csync2lib.errors import CsyncsyncError
from hypothesis import given
from hypothesis import strategies as st

PRIVATE_KEY = ec.generate_private_key(ec.SECP256R1())


def new_certificate(name):
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder(subject, subject, PRIVATE_KEY.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.datetime(2026, 1, 1))
        .not_valid_after(datetime.datetime(2036, 1, 1))
        .sign(PRIVATE_KEY, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


PEM = new_certificate("csyncsync")
DER = base64.b64decode("".join(PEM.splitlines()[1:-1]))
PRIVATE_PEM = PRIVATE_KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
HUGE = "x" * 10_000_000


def options(**changes):
    result = schema.validate({"data": {"members": "web*", "include": "/srv/data", **changes}})
    assert result["errors"] == {}
    return result["groups"]["data"]


def facts(number, **changes):
    return {"name": f"host{number}", "addresses": {"": f"10.0.0.{number}"}, "certificate": PEM, **changes}


def host(number, **changes):
    return {"name": f"host{number}", "address": f"10.0.0.{number}", "certificate": DER.hex().upper(), **changes}


# --- Good answers -----------------------------------------------------------------------------------------


def test_every_host_that_publishes_and_is_meant_is_in_the_group_in_the_order_of_minion_ids():
    found = membership.hosts(
        "data", options(), {"web2": facts(2), "web1": facts(1), "db1": facts(3), "web10": facts(10)}
    )
    assert found == {"hosts": {"web1": host(1), "web10": host(10), "web2": host(2)}, "unpublished": []}
    assert list(found["hosts"]) == ["web1", "web10", "web2"]


def test_an_address_of_the_group_goes_before_the_hosts_own():
    published = {"web1": facts(1, addresses={"": "10.0.0.1", "data": "192.168.0.1", "other": "nonsense"})}
    assert membership.hosts("data", options(), published)["hosts"]["web1"]["address"] == "192.168.0.1"
    assert membership.hosts("elsewhere", options(), published)["hosts"]["web1"]["address"] == "10.0.0.1"


@pytest.mark.parametrize(
    ("published", "address"), [("10.0.0.1", "10.0.0.1"), ("FD00:0::01", "fd00::1"), ("::ffff:10.0.0.1", "10.0.0.1")]
)
def test_an_address_is_written_in_its_one_form(published, address):
    found = membership.hosts("data", options(), {"web1": facts(1, addresses={"": published})})
    assert found["hosts"]["web1"]["address"] == address


def test_more_facts_than_are_needed_do_no_harm():
    assert membership.hosts("data", options(), {"web1": facts(1, future={"x": 1})})["hosts"] == {"web1": host(1)}


def test_white_space_around_a_certificate_does_no_harm():
    published = {"web1": facts(1, certificate=f"\n {PEM}\n\n")}
    assert membership.hosts("data", options(), published)["hosts"] == {"web1": host(1)}


def test_a_certificate_is_kept_as_csync2_keeps_it():
    assert membership.certificate_data(PEM) == DER.hex().upper()


# --- Who stays and who leaves -----------------------------------------------------------------------------

KNOWN = {"web1": host(1), "web2": host(2)}


def test_a_host_without_facts_keeps_its_last_known_line_and_is_named():
    found = membership.hosts("data", options(), {"web1": facts(1)}, KNOWN)
    assert found == {"hosts": KNOWN, "unpublished": ["web2"]}


def test_an_empty_answer_does_not_empty_a_config():
    assert membership.hosts("data", options(), {}, KNOWN) == {"hosts": KNOWN, "unpublished": ["web1", "web2"]}


def test_what_a_host_publishes_now_replaces_its_last_known_line():
    found = membership.hosts("data", options(), {"web1": facts(7), "web2": facts(2)}, KNOWN)
    assert found == {"hosts": {"web1": host(7), "web2": host(2)}, "unpublished": []}


def test_two_hosts_may_change_places():
    found = membership.hosts("data", options(), {"web1": facts(2), "web2": facts(1)}, KNOWN)
    assert found["hosts"] == {"web1": host(2), "web2": host(1)}


def test_a_host_that_is_no_target_any_more_has_left():
    found = membership.hosts("data", options(members=["web1"]), {"web1": facts(1), "web2": facts(2)}, KNOWN)
    assert found == {"hosts": {"web1": host(1)}, "unpublished": []}


def test_a_host_that_the_master_does_not_accept_any_more_has_left():
    found = membership.hosts("data", options(), {"web1": facts(1), "web2": facts(2)}, KNOWN, accepted=["web1"])
    assert found == {"hosts": {"web1": host(1)}, "unpublished": []}
    assert membership.hosts("data", options(), {}, KNOWN, accepted=["web2"])["hosts"] == {"web2": host(2)}


def test_to_be_accepted_does_not_put_a_host_into_a_group_that_does_not_mean_it():
    found = membership.hosts("data", options(), {"db1": facts(1)}, {"db2": host(2)}, accepted=["db1", "db2", "web1"])
    assert found == {"hosts": {}, "unpublished": []}


def test_what_a_stranger_publishes_is_not_even_looked_at():
    assert membership.hosts("data", options(), {"db1": {"name": '"; evil'}, "web1": facts(1)})["hosts"] == {
        "web1": host(1)
    }


# --- Hostile answers --------------------------------------------------------------------------------------

BAD_NAMES = [
    None,
    7,
    b"web1",
    ["web1"],
    {"x": 1},
    "",
    "Web1",
    "web1;",
    'web1"',
    "web1'",
    "web1@10.0.0.9",
    "web1 web9",
    "web1\n",
    "web1\nkey /etc/shadow",
    "web1\x00",
    "web1\x1b[2J",
    "wéb",
    "\ud800",
    "-web1",
    ".web1",
    "web1.",
    "w" * 65,
    HUGE,
    "({[#%*",
    10**5000,
]
BAD_ADDRESSES = [
    None,
    7,
    167772161,
    b"\x0a\x00\x00\x01",
    ["10.0.0.1"],
    {"": "10.0.0.1"},
    "",
    "web1",
    "10.0.0.1;",
    '10.0.0.1"',
    "10.0.0.1\n",
    "10.0.0.1\x00",
    "10.0.0.0/24",
    "10.0.0.256",
    "010.0.0.1",
    " 10.0.0.1",
    "127.0.0.1",
    "::1",
    "::ffff:127.0.0.1",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "ff02::1",
    "fe80::1%eth0",
    'fe80::1%"; key "/etc/shadow',
    "1" * 10_000_000,
    "1:" * 5_000_000,
    "1." * 5_000_000,
    10**5000,
]
BAD_CERTIFICATES = [
    None,
    7,
    PEM.encode(),
    [PEM],
    {"pem": PEM},
    "",
    "no certificate",
    DER.hex(),
    PEM + PEM,
    PRIVATE_PEM,
    PRIVATE_PEM + PEM,
    PEM.replace("CERTIFICATE", "TRUSTED CERTIFICATE"),
    "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(b'nonsense').decode()}\n-----END CERTIFICATE-----\n",
    f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(DER[:-9]).decode()}\n-----END CERTIFICATE-----\n",
    f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(DER + DER).decode()}\n-----END CERTIFICATE-----\n",
    f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(DER + b'x').decode()}\n-----END CERTIFICATE-----\n",
    "-----BEGIN CERTIFICATE-----\n\ud800é\x00\n-----END CERTIFICATE-----\n",
    HUGE,
    f"-----BEGIN CERTIFICATE-----\n{'A' * 10_000_000}\n-----END CERTIFICATE-----\n",
]
BAD_FACTS = [None, False, 7, "facts", b"facts", [], [("name", "web1")], {}, {"name": "web1"}, HUGE]


def numbered(values):
    return [pytest.param(value, id=str(number)) for number, value in enumerate(values)]


def refusal(published, minion="web2"):
    """The error, which has to name the minion, be short, and be printable; and come soon."""
    started = time.monotonic()
    with pytest.raises(CsyncsyncError) as caught:
        membership.hosts("data", options(), {"web1": facts(1), minion: published})
    assert time.monotonic() - started < 5
    text = str(caught.value)
    assert text.startswith(f"minion {minion} publishes ")
    assert len(text) < 400
    assert text.isprintable()
    return text


@pytest.mark.parametrize("name", numbered(BAD_NAMES))
def test_a_name_that_is_no_host_name_is_refused(name):
    assert refusal(facts(2, name=name)).endswith(", which is no host name")


@pytest.mark.parametrize("address", numbered(BAD_ADDRESSES))
def test_an_address_that_the_others_cannot_use_is_refused(address):
    for addresses in ({"": address}, {"": "10.0.0.2", "data": address}):
        assert refusal(facts(2, addresses=addresses)).endswith(
            (", which is no address", ", which the other hosts cannot reach")
        )


@pytest.mark.parametrize("addresses", numbered([None, 7, "10.0.0.2", ["10.0.0.2"], {}, {"other": "10.0.0.2"}]))
def test_addresses_of_another_shape_are_refused(addresses):
    assert refusal(facts(2, addresses=addresses)) == "minion web2 publishes 'None', which is no address"


@pytest.mark.parametrize("certificate", numbered(BAD_CERTIFICATES))
def test_what_is_not_exactly_one_certificate_is_refused(certificate):
    text = refusal(facts(2, certificate=certificate))
    assert text in ("minion web2 publishes no certificate", "minion web2 publishes a certificate that is none")


@pytest.mark.parametrize("published", numbered(BAD_FACTS))
def test_facts_that_are_none_are_refused(published):
    refusal(published)


@pytest.mark.parametrize("minion", ["web 2", "web2\n", "web/2", 'web"2', "web2\x00"])
def test_a_minion_with_an_impossible_id_is_refused(minion):
    with pytest.raises(CsyncsyncError, match=r"^minion web.* publishes no csyncsync\.member facts") as caught:
        membership.hosts("data", options(), {minion: facts(1)})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "host1"}, "the name host1"),
        ({"addresses": {"": "10.0.0.1"}}, "the address 10.0.0.1"),
        ({"addresses": {"": "::ffff:10.0.0.1"}}, "the address 10.0.0.1"),
        ({"addresses": {"": "10.0.0.9", "data": "10.0.0.1"}}, "the address 10.0.0.1"),
    ],
)
def test_two_hosts_with_one_name_or_address_are_both_named(changes, text):
    with pytest.raises(CsyncsyncError, match=f"^minions web1 and web2 both publish {text}"):
        membership.hosts("data", options(), {"web1": facts(1), "web2": facts(2, **changes)})


def test_a_new_host_cannot_take_the_name_of_one_that_is_silent():
    with pytest.raises(CsyncsyncError, match=r"^minions web3 and web2 both publish the name host2"):
        membership.hosts("data", options(), {"web3": facts(3, name="host2")}, KNOWN)


any_text = st.text(st.characters(), max_size=20)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), any_text, st.binary(max_size=20), st.dates())
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3), max_leaves=6
)
ids = st.one_of(st.sampled_from(["web1", "web2", "web3", "db1"]), any_text.map("web".__add__), any_text)
some_facts = st.one_of(
    anything,
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.one_of(st.sampled_from(["host1", "host2"]), anything),
            "addresses": st.one_of(
                anything,
                st.dictionaries(
                    st.sampled_from(["", "data"]),
                    st.one_of(st.ip_addresses().map(str), st.sampled_from(["10.0.0.1", "10.0.0.2"]), anything),
                ),
            ),
            "certificate": st.one_of(st.just(PEM), anything, any_text.map(lambda text: PEM.replace("M", text, 1))),
        },
    ),
)
some_members = st.sampled_from(["*", "web*", ["web1", "db1"], {"tgt": "web[12]|db", "tgt_type": "pcre"}])


@given(
    st.dictionaries(ids, some_facts, max_size=4),
    st.dictionaries(st.sampled_from(["web1", "web9", "db1"]), st.builds(host, st.integers(1, 9)), max_size=2),
    st.none() | st.lists(ids),
    some_members,
)
def test_whatever_is_published_gives_hosts_or_an_error_that_names_a_minion(published, known, accepted, members):
    try:
        found = membership.hosts("data", options(members=members), published, known, accepted)
    except CsyncsyncError as err:
        assert str(err).startswith("minion")
        assert str(err).isprintable()
        return
    assert list(found["hosts"]) == sorted(found["hosts"])
    assert set(found["unpublished"]) <= set(known) & set(found["hosts"]) - set(published)
    for minion, entry in found["hosts"].items():
        assert membership.matches(options(members=members)["members"], minion)
        assert accepted is None or minion in accepted
        assert set(entry) == {"name", "address", "certificate"}
        assert all(isinstance(value, str) and value for value in entry.values())
    for field in ("name", "address"):
        values = [entry[field] for entry in found["hosts"].values()]
        assert len(values) == len(set(values))


@given(st.lists(st.tuples(st.integers(1, 250), st.integers(1, 250)), max_size=5))
def test_good_facts_of_different_hosts_are_all_taken(numbers):
    published = {f"web{n}": facts(n) for n, _ in numbers}
    found = membership.hosts("data", options(), published)
    assert found["hosts"] == {f"web{n}": host(n) for n, _ in numbers}


# --- Targets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "inside", "outside"),
    [
        ("web*", ["web", "web1", "web.example.org"], ["db1", "Web1", "xweb1", ""]),
        ("web?", ["web1"], ["web", "web12"]),
        ("web[12]", ["web1", "web2"], ["web3", "web[12]"]),
        ("web1", ["web1"], ["web12", "web1.example.org"]),
        (["web1", "web*"], ["web1", "web*"], ["web2", "web"]),
        ({"tgt": "web1,db1", "tgt_type": "list"}, ["web1", "db1"], ["web1,db1", "web"]),
        ({"tgt": r"web\d", "tgt_type": "pcre"}, ["web1", "web1x"], ["xweb1", "web"]),
        ({"tgt": r"web\d$", "tgt_type": "pcre"}, ["web1"], ["web12"]),
        ({"tgt": "a|b", "tgt_type": "pcre"}, ["a1", "b1"], ["ca"]),
    ],
)
def test_a_target_covers_what_the_masters_rules_cover(members, inside, outside):
    target = options(members=members)["members"]
    assert [m for m in inside if not membership.matches(target, m)] == []
    assert [m for m in outside if membership.matches(target, m)] == []


@given(st.text(st.characters(exclude_categories=["Cc"]), min_size=1, max_size=20), st.sampled_from(schema.TARGET_TYPES))
def test_every_accepted_target_can_be_asked(tgt, tgt_type):
    result = schema.validate({"data": {"members": {"tgt": tgt, "tgt_type": tgt_type}, "include": "/srv"}})
    for group in result["groups"].values():
        assert membership.matches(group["members"], "web1") in (True, False)


@pytest.mark.parametrize(
    ("broken", "web1", "db1"),
    [
        ({"members": "web*", "include": "nonsense"}, True, False),
        ({"members": ["db1"], "typo": 1}, False, True),
        ({"members": {"tgt": "web", "tgt_type": "pcre"}}, True, False),
        ({"members": {"tgt": "os:Debian", "tgt_type": "grain"}}, True, True),
        ({"members": None}, True, True),
        ({"members": ["web1", 7]}, True, True),
        ({"include": "/srv"}, True, True),
        ({}, True, True),
        (None, True, True),
        (["web1"], True, True),
        ("web1", True, True),
    ],
)
def test_a_broken_group_may_mean_whom_its_members_cover_or_everybody_if_that_is_broken_too(broken, web1, db1):
    assert (membership.may_match(broken, "web1"), membership.may_match(broken, "db1")) == (web1, db1)


@given(anything, ids)
def test_whom_a_broken_group_may_mean_can_always_be_asked(members, minion):
    assert membership.may_match({"members": members}, minion) in (True, False)


def test_a_host_receives_only_if_a_pattern_covers_its_minion_id():
    some = options(receive_only=["web9", "db*"])
    assert [m for m in ("web9", "web99", "db1", "db") if membership.receives_only(some, m)] == ["web9", "db1", "db"]
    assert not membership.receives_only(options(), "web9")


def test_only_a_member_that_sends_may_be_chosen_and_an_error_says_who_may():
    some, members = options(receive_only=["web2", "db*"]), ["db1", "web1", "web2", "web3"]
    membership.require_sender("data", some, members, "web3", "source=")
    for wrong, told in (
        (
            "web2",
            "web2 only receives (csyncsync:groups:data:receive_only); source= is to be a member that sends: web1, web3",
        ),
        ("web9", "source= is to be a member that sends: web1, web3"),
        (None, "source= is to be a member that sends: web1, web3"),
    ):
        with pytest.raises(CsyncsyncError) as caught:
            membership.require_sender("data", some, members, wrong, "source=")
        assert str(caught.value) == told
    with pytest.raises(CsyncsyncError, match="none, csyncsync:groups:data:receive_only covers all members"):
        membership.require_sender("data", some, ["web2"], "web2", "source=")
