"""One `state.apply` brings the pillar onto the hosts; a second one changes nothing; what cannot be, changes nothing."""

import shutil
import time

import pytest
from places import HOSTS

SHARED = {"members": "web*", "include": ["/var/www/shared"], "exclude": [".*.swp"]}


def changed(answers):
    """{host: the ids of the states that changed something, or would}."""
    return {
        host: sorted(name for name, found in states.items() if found["changes"] or found["result"] is None)
        for host, states in answers.items()
    }


def test_a_second_state_apply_changes_nothing(hosts):
    hosts.apply()
    assert changed(hosts.apply()) == {host: [] for host in HOSTS}


def test_nothing_is_predicted_when_nothing_is_to_do(hosts):
    answers = hosts.apply(test=True)
    assert changed(answers) == {host: [] for host in HOSTS}
    assert {found["result"] for states in answers.values() for found in states.values()} == {True}


def test_what_test_mode_predicts_is_what_happens(hosts):
    hosts.path("web1", "/etc/csync2_wwwshared.cfg").unlink()
    hosts.path("web2", "/etc/csync2_wwwdata.key").chmod(0o644)
    hosts.path("web3", "/etc/systemd/system/csyncsync-full@.timer").unlink()
    predicted = changed(hosts.apply(test=True))
    assert predicted["web1"] == ["The group wwwshared is on this host"]
    assert predicted["web2"] == ["The group wwwdata is on this host"]
    assert "The unit csyncsync-full@.timer is there" in predicted["web3"]
    assert hosts.config("web1", "wwwshared") is None, "test mode writes nothing"
    assert changed(hosts.apply()) == predicted
    assert hosts.config("web1", "wwwshared") == hosts.config("web2", "wwwshared")
    assert hosts.path("web2", "/etc/csync2_wwwdata.key").stat().st_mode & 0o777 == 0o600
    assert changed(hosts.apply()) == {host: [] for host in HOSTS}


def test_a_group_added_to_the_pillar_works_and_goes_with_it(hosts):
    """All that the group needs is made, on all hosts, and taken down again; the files stay."""
    with hosts.pillar({"wwwnew": {"members": "web*", "include": ["/var/www/new"]}}):
        hosts.apply()
        hosts.settled("wwwnew")
        for host in HOSTS:
            hosts.write(host, f"/var/www/new/from-{host}", host)
        for host in HOSTS:
            hosts.everywhere(f"/var/www/new/from-{host}", host)
        tree = hosts.equal("/var/www/new")
        where = hosts.ask("web1", "csyncsync.paths", "wwwnew")
        for path in where.values():
            assert hosts.path("web1", path).exists()
        timers = {host: timer(hosts, host) for host in HOSTS}
        assert timers == dict.fromkeys(HOSTS, "active enabled")
        assert changed(hosts.apply()) == {host: [] for host in HOSTS}
    for host in HOSTS:
        for path in hosts.ask(host, "csyncsync.paths", "wwwnew").values():
            assert not hosts.path(host, path).exists(), f"{path} on {host}"
        assert not list(hosts.path(host, "/var/lib/csync2").glob("*wwwnew*"))
        assert timer(hosts, host) == "inactive disabled"
        assert hosts.tree(host, "/var/www/new") == tree
    assert changed(hosts.apply()) == {host: [] for host in HOSTS}


def timer(hosts, host, group="wwwnew"):
    words = [
        hosts.exec(host, "systemctl", question, f"csyncsync-full@{group}.timer", check=False).stdout.strip()
        for question in ("is-active", "is-enabled")
    ]
    return " ".join(words)


def test_options_that_are_changed_work_after_the_next_state_apply(hosts):
    """An include, an exclude, the conflict rule and an action, all in a group that is in use."""
    options = {
        **SHARED,
        "include": ["/var/www/shared", "/var/www/added"],
        "exclude": [".*.swp", "*.local"],
        "auto": "younger",
        "action": [
            {
                "pattern": ["/var/www/added/*.conf"],
                "exec": ["echo reloaded >>/run/reloaded"],
                "logfile": "/var/log/csync2-action.log",
            }
        ],
    }
    for host in HOSTS:  # files that are there before csync2 knows the directory
        hosts.write(host, f"/var/www/added/before-{host}", host)
    with hosts.pillar({"wwwshared": options}):
        hosts.apply()
        for host in HOSTS:
            hosts.everywhere(f"/var/www/added/before-{host}", host)
        hosts.write("web2", "/var/www/added/stays.local", "web2")
        hosts.write("web2", "/var/www/shared/stays.local", "web2")
        hosts.write("web2", "/var/www/added/later", "web2")
        hosts.everywhere("/var/www/added/later", "web2")
        for host in ("web1", "web3"):
            assert hosts.read(host, "/var/www/added/stays.local") is None
            assert hosts.read(host, "/var/www/shared/stays.local") is None

        hosts.write("web1", "/var/www/added/site.conf", "x\n")
        hosts.everywhere("/run/reloaded", "reloaded\n", hosts=["web2", "web3"])
        assert hosts.read("web1", "/run/reloaded") is None, "an action runs where the file arrives"

        hosts.settled("wwwshared")
        the_younger_wins(hosts)
        assert changed(hosts.apply()) == {host: [] for host in HOSTS}
    for host in HOSTS:
        assert "/var/www/added" not in hosts.config(host, "wwwshared")
        assert hosts.read(host, "/var/www/added/later") == "web2", "the files stay"
    hosts.path("web2", "/var/www/shared/stays.local").unlink()
    hosts.settled("wwwshared")


def the_younger_wins(hosts):
    """Two hosts write one file while they cannot see each other."""
    hosts.write("web1", "/var/www/added/both", "first\n")
    hosts.everywhere("/var/www/added/both", "first\n")
    hosts.bed.cut("web3")
    try:
        file = hosts.write("web3", "/var/www/added/both", "from web3, the older\n")
        hosts.eventually(lambda: file.stat().st_mtime < time.time() - 1.1, 10)
        hosts.write("web1", "/var/www/added/both", "from web1, the younger\n")
        hosts.everywhere("/var/www/added/both", "from web1, the younger\n", hosts=["web1", "web2"])
    finally:
        hosts.bed.heal("web3")
    hosts.everywhere("/var/www/added/both", "from web1, the younger\n", seconds=60)


BAD = {
    "relative": ({"include": ["var/www/x"]}, "csyncsync:groups:{}:include:0"),
    "everything": ({"include": ["/"]}, "csyncsync:groups:{}:include:0"),
    "symlink": ({"include": ["/var/link/below"]}, "csyncsync:groups:{}:include"),
    "overlapping": ({"include": ["/var/www/shared/below"]}, "csyncsync:groups:{}:include:0"),
    "unknownoption": ({"inklude": ["/var/www/x"]}, "csyncsync:groups:{}:inklude"),
    "nomembers": ({"members": []}, "csyncsync:groups:{}:members"),
    "Bad-Name": ({}, "csyncsync:groups:{}"),
    "shortkey": ({"key": "geheim"}, "csyncsync:groups:{}:key"),
    "nottls": ({"tls": "perhaps"}, "csyncsync:groups:{}:tls"),
}


@pytest.fixture(scope="class")
def with_bad_groups(hosts):
    """Groups that cannot be, beside those that can: what `state.apply` says on web1."""
    hosts.path("web1", "/var/link").symlink_to("/var/www")
    groups = {name: {"members": "web*", "include": [f"/var/www/bad-{name}"], **bad} for name, (bad, _) in BAD.items()}
    with hosts.pillar(groups):
        yield hosts.apply("web1", may_fail=True)["web1"]
    hosts.path("web1", "/var/link").unlink()


class TestAGroupThatCannotBe:
    @pytest.mark.parametrize("name", BAD)
    def test_is_named_with_its_pillar_path(self, hosts, with_bad_groups, name):
        state = with_bad_groups[f"The group {name} is on this host"]
        assert state["result"] is False
        assert BAD[name][1].format(name) in state["comment"]
        assert "geheim" not in str(with_bad_groups), "a key is never shown"
        assert hosts.config("web1", name) is None

    def test_does_not_disturb_the_others(self, hosts, with_bad_groups):
        assert with_bad_groups["The group wwwdata is on this host"]["result"] is True
        assert not with_bad_groups["The group wwwdata is on this host"]["changes"]
        # What it overlaps is at fault as much as itself: it fails too, and stays as it is.
        assert with_bad_groups["The group wwwshared is on this host"]["result"] is False
        hosts.write("web1", "/var/www/data/ini/beside-bad-groups", "x\n")
        hosts.everywhere("/var/www/data/ini/beside-bad-groups", "x\n")
        hosts.write("web1", "/var/www/shared/beside-bad-groups", "x\n")
        hosts.everywhere("/var/www/shared/beside-bad-groups", "x\n")


def test_a_group_that_breaks_stays_as_it_was_and_goes_on(hosts):
    before = {host: hosts.config(host, "wwwshared") for host in HOSTS}
    with hosts.pillar({"wwwshared": {**SHARED, "include": ["/var/www/shared", "relative"]}}):
        answers = hosts.apply(may_fail=True)
        for host in HOSTS:
            state = answers[host]["The group wwwshared is on this host"]
            assert state["result"] is False
            assert "csyncsync:groups:wwwshared:include:1" in state["comment"]
            assert answers[host]["The group wwwdata is on this host"]["result"] is True
            assert hosts.config(host, "wwwshared") == before[host]
        hosts.write("web3", "/var/www/shared/while-broken", "x\n")
        hosts.everywhere("/var/www/shared/while-broken", "x\n")


def test_a_pillar_that_is_no_yaml_takes_nothing_away(hosts):
    before = {host: hosts.config(host, "wwwshared") for host in HOSTS}
    groups = hosts.groups()
    hosts.path("master", "/srv/pillar/csyncsync.sls").write_text("csyncsync: [groups: {", encoding="utf-8")
    try:
        hosts.apply(may_fail=True)
        assert {host: hosts.config(host, "wwwshared") for host in HOSTS} == before
        hosts.write("web2", "/var/www/shared/without-pillar", "x\n")
        hosts.everywhere("/var/www/shared/without-pillar", "x\n", seconds=90)
    finally:
        hosts.set_groups(groups)
        hosts.apply()


def test_a_master_that_lost_its_cache_takes_nothing_away_and_the_state_says_how_to_heal_it(hosts):
    """Without its copy of the ext_pillar it gives out no groups."""
    before = {host: hosts.config(host, "wwwshared") for host in HOSTS}
    hosts.close()
    hosts.shell("master", "rm -rf /var/cache/salt/master; systemctl restart salt-master")
    answering(hosts)
    applied = hosts.apply(may_fail=True)
    for host in HOSTS:
        told = applied[host]["The pillar has the groups of this host"]
        assert told["result"] is False
        assert "this host has wwwdata, wwwshared" in told["name"]
    assert {host: hosts.config(host, "wwwshared") for host in HOSTS} == before
    _, _, advice = told["name"].partition("On the master: ")
    hosts.close()
    hosts.shell("master", advice.partition(". ")[0])
    answering(hosts)
    hosts.apply()
    hosts.calm()


def test_a_formula_that_only_another_environment_has_stays_on_the_minions(hosts):
    """Also when a host reads pillar and mine again by itself; what base has for minions stays as well."""
    roots = hosts.path("master", "/etc/salt/master.d/roots.conf")
    text = roots.read_text(encoding="utf-8")
    hosts.write("master", "/srv/other/_modules/of_base.py", "def there():\n    return True\n")
    hosts.write("master", "/etc/salt/master.d/roots.conf", text.replace("base:", "base: [/srv/other]\n  prod:"))
    try:
        restart_master(hosts)
        for _ in range(2):
            answers = hosts.call(HOSTS, "state.apply", "csyncsync", "saltenv=prod", "queue=True", seconds=180)
            for host in HOSTS:
                failed = [state["comment"] for state in answers[host].values() if not state["result"]]
                assert not failed, failed
        for host in HOSTS:
            changed = [state["__id__"] for state in answers[host].values() if state["changes"]]
            assert not changed, "the second run changes nothing"
            assert hosts.ask(host, "csyncsync.refresh") == []
            assert hosts.ask(host, "of_base.there") is True
        hosts.write("web1", "/var/www/shared/of-prod", "x\n")
        hosts.everywhere("/var/www/shared/of-prod", "x\n")
    finally:
        hosts.write("master", "/etc/salt/master.d/roots.conf", text)
        restart_master(hosts)
        hosts.apply()


def restart_master(hosts):
    hosts.close()
    hosts.exec("master", "systemctl", "restart", "salt-master")
    hosts.bed.salt_run("fileserver.clear_file_list_cache")  # else it has for 20 s what other roots had
    answering(hosts)


def answering(hosts):
    hosts.eventually(lambda: set(hosts.call(HOSTS, "test.ping", seconds=5)) == set(HOSTS), 60, "the minions answer")


def test_absent_takes_everything_off_a_host_but_the_files(hosts):
    """And a state.apply brings the host back."""
    tree = hosts.equal()
    answer = hosts.ask("web3", "state.apply", "csyncsync.absent", "queue=True")
    assert all(state["result"] for state in answer.values()), answer
    for group in ("wwwdata", "wwwshared"):
        assert hosts.config("web3", group) is None
        assert timer(hosts, "web3", group) in ("inactive disabled", "inactive not-found", "inactive "), group
    assert not hosts.path("web3", "/var/lib/csyncsync/wwwshared").exists()
    assert hosts.tree("web3") == tree
    hosts.write("web1", "/var/www/shared/without-web3", "x\n")
    hosts.everywhere("/var/www/shared/without-web3", "x\n", hosts=["web1", "web2"])
    hosts.apply("web3")
    hosts.everywhere("/var/www/shared/without-web3", "x\n", seconds=60)
    hosts.settled()


@pytest.fixture(scope="module", autouse=True)
def _clean_afterwards(hosts):
    yield
    for host in HOSTS:
        for name in ("new", "added"):
            shutil.rmtree(hosts.path(host, f"/var/www/{name}"), ignore_errors=True)
