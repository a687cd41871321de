"""What these tests share: the util modules, a csync2 that is asked, not installed, and a host that is watched."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "_utils"))

from csync2lib.config import schema  # noqa: E402
from csync2lib.csync2 import custody  # noqa: E402
from csync2lib.csync2.database import Database  # noqa: E402
from csync2lib.csync2.names import database_path  # noqa: E402

# The same examples on every run; no example is judged by how long it took.
settings.register_profile("csyncsync", deadline=None, derandomize=True, database=None)
settings.load_profile("csyncsync")

HOW_TO_GET_CSYNC2 = "these tests ask a real csync2, so run: apt-get update && apt-get install csync2"


class Csync2:
    """A csync2 that reads its configs from, and keeps its databases in, one directory."""

    def __init__(self, command, libraries, directory, host="web1"):
        self.command, self.directory, self.host = command, Path(directory), host
        self.environment = {**os.environ, "CSYNC2_SYSTEM_DIR": str(directory)}
        if libraries:
            self.environment["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)

    @property
    def key_file(self):
        path = self.directory / "csync2_test.key"
        if not path.exists():
            path.write_text("k" * 64 + "\n", encoding="ascii")
        return str(path)

    def configure(self, group, text):
        (self.directory / f"csync2_{group}.cfg").write_bytes(text.encode())

    def __call__(self, group, *arguments):
        """Run csync2 on a group; returns the CompletedProcess with its output as text."""
        return subprocess.run(
            [self.command, "-N", self.host, "-D", str(self.directory), "-C", group, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="backslashreplace",
            timeout=30,
            check=False,
        )


class Tree:
    """A directory that a group on this host includes, with two peers that never answer."""

    def __init__(self, csync2_in, path):
        self.peers = {"web2": "10.0.0.2", "web3": "fd00::3"}
        self.csync2, self.path = csync2_in, os.fsencode(path)
        self.file = database_path(str(csync2_in.directory), "web1", "data")
        os.mkdir(self.path)
        options = schema.validate({"data": {"members": "*", "include": os.fsdecode(self.path)}})["groups"]["data"]
        assert options
        peers = "".join(f'  host "{name}"@"{address}";\n' for name, address in self.peers.items())
        self.csync2.configure(
            "data",
            f'group "data" {{\n  host "web1"@"10.0.0.1";\n{peers}  key "{csync2_in.key_file}";\n'
            f'  include "{os.fsdecode(self.path)}";\n}}\n',
        )

    def __truediv__(self, name):
        return os.path.join(self.path, name)

    def write(self, name, content=b""):
        path = self / name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        return path

    def check(self, *options):
        done = self.csync2("data", *(options or ("-cr", "/")))
        assert done.returncode == 0, done.stdout

    @contextlib.contextmanager
    def database(self, write=False):
        with Database(self.file, timeout=5, write=write) as database:
            yield database


@pytest.fixture(scope="session", autouse=True)
def quiet_end():
    """Salt, which a plugin of pytest imports, would print what is logged once more at the very end."""
    if logging := sys.modules.get("salt._logging"):
        logging.shutdown_temp_handler()


@pytest.fixture(scope="session", autouse=True)
def unconfined(tmp_path_factory):
    """Here csync2 runs as its user, but in no namespace: hosts have one each."""
    custody.UNCONFINED = str(tmp_path_factory.mktemp("custody") / "unconfined")
    Path(custody.UNCONFINED).touch()


@pytest.fixture(scope="session")
def csync2_command():
    """``(path of csync2, directories with its libraries)``: the system's, or one unpacked into a cache."""
    command = shutil.which("csync2", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if command:
        return command, []
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "csyncsync-tests"
    try:
        if not (cache / "csync2").is_dir():
            _unpack_csync2(cache)
    except (OSError, subprocess.CalledProcessError) as err:
        pytest.fail(f"{HOW_TO_GET_CSYNC2} ({(getattr(err, 'stderr', None) or str(err)).strip()[-500:]})")
    return str(cache / "csync2/usr/sbin/csync2"), _libraries(cache / "csync2")


@pytest.fixture
def csync2_in(csync2_command, tmp_path):
    """A Csync2 in a directory of its own."""
    directory = tmp_path / "csync2"
    directory.mkdir()
    return Csync2(*csync2_command, directory)


@pytest.fixture
def tree(csync2_in, tmp_path):
    return Tree(csync2_in, tmp_path / "tree")


@pytest.fixture
def host(tmp_path):
    """A host with the watcher and the beacon."""
    pytest.importorskip("salt.transport.tcp")
    from watching import Host

    return Host(tmp_path)


def _run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def _libraries(root):
    return sorted({str(path.parent) for path in root.rglob("*.so*")})


def _unpack_csync2(cache):
    """Download csync2 and the libraries that this system lacks, and unpack them into a cache; nothing is installed."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as work:
        root = Path(work, "csync2")
        seen = {"csync2", "libsqlite3-0"}  # csync2 dlopens libsqlite3.so.0, so ldd does not name it
        wanted = sorted(seen)
        while wanted:
            _run("apt-get", "-qq", "download", *wanted, cwd=work)
            needed = set()
            for package in Path(work).glob("*.deb"):
                _run("dpkg-deb", "-x", str(package), str(root))
                depends = _run("dpkg-deb", "-f", str(package), "Depends")
                needed |= {re.split(r"[ :(|]", entry.strip())[0] for entry in depends.split(",") if entry.strip()}
                package.unlink()
            missing = "not found" in _run(
                "ldd", str(root / "usr/sbin/csync2"), env={**os.environ, "LD_LIBRARY_PATH": ":".join(_libraries(root))}
            )
            wanted = sorted(n for n in needed - seen if n.startswith("lib") and not _installed(n)) if missing else []
            if missing and not wanted:
                raise OSError("csync2's shared libraries are missing")
            seen |= set(wanted)
        if not (cache / "csync2").exists():  # another run may have been quicker
            os.rename(root, cache / "csync2")


def _installed(package):
    status = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Status}", package], capture_output=True, text=True, check=False
    ).stdout
    return status == "install ok installed"
