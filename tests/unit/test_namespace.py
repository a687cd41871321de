"""The namespace that csync2 runs in, and what it shows: real mounts, real processes of csync2's user."""

import ctypes
import errno
import json
import os
import subprocess
import time

import pytest
from csync2lib import confinement
from csync2lib.csync2 import custody, namespace
from csync2lib.csync2.namespace import READ_ONLY, USERS, WRITABLE, Shown
from csync2lib.errors import CommandError, CsyncsyncError
from csync2lib.host import ThisHost

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes namespaces")

SYSTEM = [
    Shown(os.fsencode(f"/{name}"), READ_ONLY)
    for name in ("usr", "bin", "sbin", "lib", "lib64")
    if os.path.exists(f"/{name}")
]


@pytest.fixture
def made(tmp_path):
    """Makes a namespace that shows these beside the system; returns what runs a shell's script in it."""
    handles = []
    (tmp_path / "place").mkdir()

    def make(*shown, links=()):
        handles.append(namespace.make([*SYSTEM, *shown], str(tmp_path / "place"), dict(links)))

        def run(script):
            entrance = custody.Entrance()
            entrance.handle = handles[-1]
            return subprocess.run(
                entrance.command("sh", "-c", script),
                pass_fds=entrance.handles,
                capture_output=True,
                text=True,
                check=False,
            )

        return run

    yield make
    for handle in handles:
        os.close(handle)


@pytest.fixture
def include(tmp_path):
    path = tmp_path / "include"
    path.mkdir()
    os.chmod(tmp_path, 0o755)
    return path


def shown(path, flags=USERS):
    return Shown(os.fsencode(path), flags)


def fuse(path, user):
    """A mount of a user's, by FUSE, that nobody serves."""
    child = os.fork()
    if not child:
        server = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={server},rootmode=40000,user_id={user},group_id=0".encode()
        libc = ctypes.CDLL(None, use_errno=True)
        os._exit(libc.mount(b"users", os.fsencode(path), b"fuse", 0, options))
    assert os.waitpid(child, 0)[1] == 0


# --- The namespace ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no FUSE")
def test_what_a_user_has_mounted_stops_nobody(made, include):
    """One is hidden by the other, and nobody but the user may look into either."""
    (include / "x/y").mkdir(parents=True)
    (include / "x/file").write_text("below")
    mounted = []
    try:
        for path in (include / "x/y", include / "x"):
            fuse(path, 33)
            mounted.append(path)
        assert made(shown(include))(f"cat {include}/x/file").stdout == "below"
    finally:
        for path in reversed(mounted):
            subprocess.run(["umount", "-l", path], check=True)


def test_one_mount_that_hides_another_stops_nobody(made, include):
    (include / "x/y").mkdir(parents=True)
    for path in (include / "x/y", include / "x"):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True)
    try:
        (include / "x/file").write_text("there")
        assert made(shown(include))(f"cat {include}/x/file").stdout == "there"
    finally:
        for path in (include / "x", include / "x/y"):
            subprocess.run(["umount", "-l", path], check=True)


def test_it_has_links_of_its_own(made, include):
    run = made(shown(include), links={"/dev/log": str(include / "log")})
    (include / "log").write_text("x")
    assert run("cat /dev/log; ls -A /dev").stdout == "xlog\n"


def test_it_shows_nothing_else(made, include, tmp_path):
    (tmp_path / "secret").write_text("secret")
    run = made(shown(include))
    assert run(f"ls -A {tmp_path}").stdout == "include\n"
    for path in ("/etc/passwd", "/root", "/proc/self", f"{include}/../secret", "/home", "/var"):
        assert "No such file" in run(f"ls {path}").stderr, path
    assert "Read-only" in run("mkdir /made").stderr
    assert "Read-only" in run("mkdir /usr/made").stderr


def test_what_is_made_belongs_to_csync2s_user(made, include):
    run = made(shown(include))
    assert run(f"id -u; echo x >{include}/file").stdout == f"{custody.UID}\n"
    assert (include / "file").stat().st_uid == custody.UID
    os.chown(include / "file", 0, 0)
    os.chmod(include / "file", 0o600)
    assert run(f"cat {include}/file && chown 33 {include}/file && chmod 640 {include}/file").stdout == "x\n"
    assert (include / "file").stat().st_uid == 33


@pytest.mark.parametrize("target", ["/etc/passwd", "other", "../include/other", "/usr/bin/id"])
def test_no_symlink_is_followed(made, include, target):
    (include / "other").write_text("x")
    (include / "link").symlink_to(target)
    (include / "directory").symlink_to(os.path.dirname(target) or ".")
    run = made(shown(include))
    for command in (
        f"cat {include}/link",
        f"chmod 777 {include}/link",
        f"ls {include}/directory/",
        f"echo >{include}/link",
    ):
        assert "Too many levels of symbolic links" in run(command).stderr, command


def test_programs_and_devices_are_nothing(made, include):
    (include / "program").write_text("#!/bin/sh\necho ran\n")
    os.chmod(include / "program", 0o4755)
    os.mknod(include / "null", 0o666 | 0o020000, os.makedev(1, 3))
    run = made(shown(include))
    assert "Permission denied" in run(f"{include}/program").stderr
    assert "Permission denied" in run(f"cat {include}/null").stderr


def test_what_is_mounted_below_an_include_is_there_and_confined(made, include):
    for name in ("before", "after"):
        (include / name).mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs"]
    subprocess.run([*mount, include / "before"], check=True)
    try:
        (include / "before/link").symlink_to("/usr/bin/id")
        (include / "before/file").write_text("x")
        run = made(shown(include))
        assert run(f"cat {include}/before/file").stdout == "x"
        assert "Too many levels" in run(f"cat {include}/before/link").stderr
        assert run(f"echo y >{include}/before/made").returncode == 0
    finally:
        subprocess.run(["umount", "-l", include / "before"], check=True)


def test_what_root_alone_writes_in_may_have_symlinks(made, include):
    (include / "file").write_text("x")
    (include / "link").symlink_to("file")
    assert made(shown(include, WRITABLE))(f"cat {include}/link").stdout == "x"


def test_what_is_not_there_or_behind_a_symlink_is_an_error(made, include, tmp_path):
    (tmp_path / "link").symlink_to(include)
    (include / "sub").mkdir()
    for path, number in (
        (tmp_path / "gone", errno.ENOENT),
        (tmp_path / "link", errno.ELOOP),
        (tmp_path / "link/sub", errno.ENOTDIR),
    ):
        with pytest.raises(OSError, match=r"gone|link") as raised:
            made(shown(path))
        assert raised.value.errno == number


def test_a_process_that_may_not_mount_is_told(tmp_path):
    script = (
        "import sys; sys.path[:0] = sys.argv[1:2]\n"
        "from csync2lib.csync2 import namespace\n"
        "try: namespace.make([], sys.argv[2], {})\n"
        "except OSError as err: print(err.errno)\n"
    )
    package = os.path.dirname(os.path.dirname(confinement.__file__))
    command = [
        "setpriv",
        "--bounding-set=-sys_admin",
        "--inh-caps=-sys_admin",
        "python3",
        "-c",
        script,
        package,
        tmp_path,
    ]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{errno.EPERM}\n"


def test_octal_numbers_of_mountinfo(include):
    point = include / "a b\tc\\d"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", point], check=True)
    try:
        assert os.fsencode(point) in {mount.point for mount in namespace.mounts()}
    finally:
        subprocess.run(["umount", point], check=True)


# --- What it is to show ----------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path, include):
    made = ThisHost("web1", "web1", *(str(tmp_path / name) for name in ("etc", "state", "databases")))
    for path in (made.system, made.state, made.databases):
        os.mkdir(path)
    configure(made, include=[str(include)])
    return made


def configure(host, group="data", **said):
    os.makedirs(os.path.join(host.state, group), exist_ok=True)
    with open(os.path.join(host.state, group, "config.json"), "w") as file:
        json.dump({"rules": {}, **said}, file)


def of_users(host):
    return sorted(os.fsdecode(one.path) for one in confinement.of_host(host)[0] if one.flags == USERS)


def test_includes_and_backups_are_shown(host, include, tmp_path):
    for name in ("backups", "include/sub", "files"):
        (tmp_path / name).mkdir()
    (tmp_path / "files/one").write_text("x")
    configure(
        host,
        "more",
        include=[f"{include}/sub", str(tmp_path / "files/one")],
        rules={"backup_directory": f"{tmp_path}/backups"},
    )
    assert of_users(host) == [f"{tmp_path}/backups", f"{tmp_path}/files", str(include)]


def test_what_is_reached_through_a_symlink_is_not_shown(host, include, tmp_path):
    (tmp_path / "link").symlink_to(include)
    configure(host, include=[f"{tmp_path}/link", f"{tmp_path}/gone"])
    assert of_users(host) == []


@pytest.mark.parametrize("what", ["group", "include replaced", "include gone", "key", "address", "mounted"])
def test_its_text_is_another_one_when_something_else_is_to_be_shown(host, include, tmp_path, what):
    with open(os.path.join(host.system, "csync2_data.key"), "w") as file:
        file.write("one")
    (include / "sub").mkdir()
    before = confinement.of_host(host)[1]
    (include / "file").write_text("x")
    assert confinement.of_host(host)[1] == before
    if what == "group":
        configure(host, "more", include=[str(tmp_path / "databases")])
    elif what.startswith("include"):
        include.rename(tmp_path / "away")
        if what.endswith("replaced"):
            include.mkdir()
    elif what == "address":
        path = os.path.join(host.state, "data", "config.json")
        with open(path) as file:
            said = json.load(file)
        with open(path, "w") as file:
            json.dump({**said, "address": "10.0.0.1", "address_wanted": "10.0.0.0/24"}, file)
    elif what == "key":
        new = os.path.join(host.system, "new")
        with open(new, "w") as file:
            file.write("two")
        os.replace(new, os.path.join(host.system, "csync2_data.key"))
    else:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", include / "sub"], check=True)
    try:
        assert confinement.of_host(host)[1] != before
    finally:
        if what == "mounted":
            subprocess.run(["umount", include / "sub"], check=True)


def test_without_a_server_csync2_does_not_run(host, tmp_path, monkeypatch):
    for name in ("UNCONFINED", "NAMESPACE", "NOTICE", "UNIT"):
        monkeypatch.setattr(custody, name, str(tmp_path / name.lower()))
    monkeypatch.setattr(confinement, "MADE_WITHIN", 0.1)
    with pytest.raises(CommandError, match=r"not run unconfined.*state.apply csyncsync"), custody.Entrance():
        pass
    with pytest.raises(CsyncsyncError, match="csync2's server"):
        confinement.await_current(host)
    (tmp_path / "unit").touch()
    assert custody.problem() == "csync2's server does not run: systemctl start csyncsync-server"
    (tmp_path / "notice").write_text(json.dumps({"pid": os.getpid(), "shows": "x", "problem": "it may not mount"}))
    with pytest.raises(CommandError, match="it may not mount"), custody.Entrance():
        pass
    (tmp_path / "unconfined").touch()
    confinement.await_current(host)
    with custody.Entrance() as entrance:
        began = time.monotonic()
        subprocess.run(entrance.command("true"), check=True)
        assert "nsenter" not in entrance.command("true")
        assert time.monotonic() - began < 5
