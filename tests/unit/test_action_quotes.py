"""Where the names of files may stand in a command for root's shell: real shells are asked what they make of them."""

import shutil
import subprocess

import pytest
from csync2lib import actions
from csync2lib.config import schema
from csync2lib.config.action import is_quoted
from csync2lib.csync2.names import encode
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

SHELLS = [path for path in map(shutil.which, ("dash", "bash")) if path]
#: Names of files that make the file BAD where a shell reads them as more than text.
NAMES = (b"/s/a;>BAD;b", b"/s/`>BAD`", b"/s/a[`>BAD`]", b"/s/x>BAD", b"/s/a);>BAD;(b", b"/s/a\n>BAD\n$(>BAD)'>BAD'")
#: What commands are made of: quotes, and whatever may change what a quote is.
PIECES = [
    *(
        "'%%'",
        "'%%'",
        "'a %%'",
        "%%",
        "'",
        "'",
        '"',
        "\\",
        "\\'",
        "`",
        "$",
        "$'",
        '$"',
        "$(",
        ")",
        "(",
        "((",
        "))",
        "$((",
    ),
    *(
        "${",
        "}",
        "${x",
        "${x:-",
        "${x#",
        "$[",
        "[",
        "]",
        "[[ ",
        " ]]",
        "a[",
        "]=",
        "#",
        " # ",
        "<<",
        "<<-",
        "<<<",
        "<(",
        ">(",
    ),
    *(
        "echo ",
        ": ",
        "x=",
        "a",
        "1",
        "x",
        " ",
        "  ",
        "\t",
        ";",
        "&",
        "&&",
        "|",
        "!",
        "{ ",
        "; }",
        "if ",
        "then ",
        "fi",
        "case x in ",
    ),
    *(
        "x)",
        ";;",
        "esac",
        "$x",
        "$$",
        "$#",
        "$@",
        "$-",
        "$!",
        "${x}",
        "~",
        "*",
        "?",
        "%",
        "é",
        "/dev/null",
        ">/dev/null ",
        "2>&1",
        ">&",
        "<&",
        "&>",
        ">|",
    ),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("cwd")


def runs_a_name(directory, command):
    """Which shells run what stands in the names of files, if these stand in a command."""
    bad, found = directory / "BAD", []
    for name in NAMES:
        line = command.encode().replace(b"%%", encode(name), 1)
        for shell in SHELLS:
            subprocess.run(
                [shell, "-c", line],
                cwd=directory,
                timeout=20,
                check=False,
                capture_output=True,
                stdin=subprocess.DEVNULL,
            )
            if bad.exists():
                bad.unlink()
                found.append((shell, name))
    return found


@settings(max_examples=300)
@given(
    st.tuples(
        st.sampled_from(["echo ", "", ": "]),
        st.lists(st.sampled_from(PIECES), max_size=4).map("".join),
        st.sampled_from(["'%%'", "%%", "'%%", "a%%"]),
        st.sampled_from(["", "", "'", "\\'", "`", ")", "))", "}", "''", " '", ";;esac", "]]", "'`", "')"]),
    ).map("".join)
)
@example("echo it\\'s %%")
@example("echo it\\'s '%%'")
def test_a_name_of_a_file_runs_nothing_in_a_command_that_is_accepted(directory, command):
    assert len(SHELLS) == 2, "dash and bash are asked: apt-get install dash bash"
    accepted = not schema.validate({"g": {"members": "*", "include": "/s", "action": {"exec": command}}})["errors"]
    event(f"accepted: {accepted}")
    if accepted:
        assert runs_a_name(directory, command) == []


@pytest.mark.parametrize(
    "command",
    [
        "touch %%",
        "echo it\\'s %%",
        "echo it\\'s '%%",
        "echo '%%",
        "echo \\'%%\\'",
        "echo ''%%''",
        "echo $'it\\'s %%'",
        "echo `echo '%%`",
        "echo `echo '%%'`",
        "cat <<'' '%%'",
        "echo ${x-'%%'}",
        "echo $(('%%'))",
        "(('%%'))",
        "a[1'%%']=2",
        "[[ 1'%%' -eq 2 ]]",
        "echo >&'%%'",
        "echo <& 2'%%'",
        ": # it's '%%'",
        "f=/a.b; echo ${f%%.*} '%%'",
        "echo \\%%'%%'",
    ],
)
def test_where_names_may_be_read_as_more_than_text_is_refused_with_the_right_form(command):
    found = schema.validate({"g": {"members": "*", "include": "/s", "action": [{"exec": "true"}, {"exec": command}]}})
    (message,) = found["errors"]["g"]
    assert message.startswith("csyncsync:groups:g:action:1:exec has %% outside of single quotes")
    assert message.endswith("'%%'")


def test_the_names_run_something_where_they_are_more_than_text(directory):
    for command in (
        "echo it\\'s %%",
        "echo `echo %%`",
        "echo \\'%%\\'",
        "echo $'it\\'s '%%''",
        "echo $(('%%'))",
        "a[1'%%']=2",
        "echo >&'%%'",
    ):
        assert runs_a_name(directory, command), command


@pytest.mark.parametrize(
    "command",
    [
        "logger 'new: %%' %%",
        "logger 'changed: %%'",
        "echo '%%'",
        "printf '%s\\n' '%%'; pwd",
        "cd /var/x && echo '%%' >.$$ && mv .$$ key.$$",
        "logger -t web$1 it\\'s $(hostname) `date` ${HOSTNAME} $? '%%'",
        "if [ -e /x ]; then (cd /srv; /bin/x --on='%%') fi",
        "x='%%'; echo ${x%%.*} 2>&1 | tee -a /var/log/x#1",
        "date +%s >/dev/null 2>&1; echo '%%' >>/dev/null; ls /tmp/*.[ch]",
    ],
)
def test_what_is_usual_is_accepted(directory, command):
    assert schema.validate({"g": {"members": "*", "include": "/s", "action": {"exec": command}}})["errors"] == {}
    assert runs_a_name(directory, command) == []


def test_only_the_first_mark_becomes_names(tmp_path):
    (tmp_path / "note").write_bytes(b"/s/a /s/b\n")
    assert actions._command_line("echo '%%' '%%'", str(tmp_path / "note")) == (b"echo '/s/a /s/b' '%%'", "")


def test_a_command_that_an_older_version_let_in_is_not_run(tmp_path):
    (tmp_path / "note").write_bytes(b"/s/a;>BAD\n")
    line, why = actions._command_line("echo it\\'s %%", str(tmp_path / "note"))
    assert (line, "outside of single quotes" in why) == (b"", True)


def test_a_long_command_is_judged_at_once():
    for part in ("$a", "`a`", "[a]", "'a'", "\\a", "((", "${a}"):
        assert not is_quoted(part * 1301 + "\\'%%"), part
