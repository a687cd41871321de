"""Two real csync2s: this host's, and one that sees another tree at the same place, as another host would."""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import stat
import subprocess
import time

import pytest
from conftest import Csync2
from csync2lib.csync2 import command, custody
from csync2lib.csync2.database import Database
from csync2lib.group import Group
from csync2lib.host import ThisHost
from csync2lib.push import check, runs, transfer
from csync2lib.push.sending import Job

HERE, THERE = "127.0.0.2", "127.0.0.3"


class Pair:
    """A group "data" with one include, on this host and on one that another csync2 stands for."""

    def __init__(self, csync2_command, tmp_path):
        self.include, self.there = tmp_path / "include", tmp_path / "there"
        with socket.create_server((THERE, 0)) as free:
            self.port = free.getsockname()[1]
        self.hosts = {}
        for host in (HERE, THERE):
            directory = tmp_path / host
            directory.mkdir()
            self.hosts[host] = Csync2(*csync2_command, directory, host)
            self.hosts[host].configure(
                "data",
                f'nossl * *;\ngroup "data" {{\n  host "{HERE}" "{THERE}";\n  key "{self.hosts[host].key_file}";\n'
                f'  include "{self.include}";\n}}\n',
            )
        self.include.mkdir()
        self.there.mkdir()
        self.group = Group("data", ThisHost("web1", HERE, str(tmp_path / HERE), str(tmp_path / "state"), self._top()))
        os.makedirs(self.group.journal)
        minions = {"web1": HERE, "web2": THERE}
        hosts = {minion: {"name": host, "address": host, "certificate": "00"} for minion, host in minions.items()}
        config = {"group": "data", "include": [str(self.include)], "exclude": [], "hosts": hosts, "name": HERE}
        config.update(address=HERE, database=self.group.database)
        self.group.path("config.json")
        with open(self.group.path("config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file)
        #: runs csync2 as this host does
        self.program = tmp_path / "bin/csync2"
        self.program.parent.mkdir()
        self.program.write_text(f'#!/bin/sh\nexec {self._begin(HERE)} "$@"\n', encoding="utf-8")
        self.program.chmod(0o755)
        self.process = None

    def _top(self):
        return str(self.hosts[HERE].directory)

    def _begin(self, host):
        found = self.hosts[host]
        libraries = found.environment.get("LD_LIBRARY_PATH", "")
        environment = f"env CSYNC2_SYSTEM_DIR={found.directory} LD_LIBRARY_PATH={libraries}"
        return f"{environment} {found.command} -N {host} -p {self.port} -D {found.directory}"

    def _over_there(self, script):
        """The command that runs a script where the other tree is."""
        script = f"mount --bind {self.there} {self.include} && {script}"
        return ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--mount", "sh", "-c", script]

    def start(self):
        self.process = subprocess.Popen(
            self._over_there(f"exec {self._begin(THERE)} -ii"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection((THERE, self.port), 1):
                return
            time.sleep(0.02)
        pytest.fail("the other csync2 does not listen")

    def stop(self):
        self.process.kill()
        self.process.wait()

    def served(self):
        """Wait until the other csync2 is done: it may be at its last command when who sent it has ended."""
        until = time.monotonic() + 10
        while self.serving():
            assert time.monotonic() < until, "the other csync2 does not end"
            time.sleep(0.01)

    def serving(self):
        """The process ids of the other csync2 for which somebody is connected."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [child for child in children.read_text().split() if self._lives(child)]

    @staticmethod
    def _lives(process):
        with contextlib.suppress(OSError):
            return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False

    def check(self, full=True):
        """Have what has changed recorded: all of it, or what the journal names."""
        check.check(self.group, self.group.config, full)

    def check_there(self):
        subprocess.run(self._over_there(f"exec {self._begin(THERE)} -C data -cr /"), check=True, capture_output=True)

    def send(self):
        """Send all that is dirty. ``{peer: why it could not be reached}``."""
        return self.sent({})

    def sent(self, cannot_write):
        job = Job(
            "data", self.group.database, self.group.path("sent"), [HERE, THERE], time.time(), set(), {}, cannot_write
        )
        found = transfer.send_all(job, [THERE])
        self.served()
        return found

    def left(self):
        with self.group.open_database() as database:
            return {path for path, _, _ in database.dirty()}

    def forget(self):
        """Both trees and databases are empty, as at the beginning."""
        for top in (self.include, self.there):  # which stay: another csync2 has mounted one on the other
            for name in os.listdir(os.fsencode(top)):
                path = os.path.join(os.fsencode(top), name)
                (shutil.rmtree if stat.S_ISDIR(os.lstat(path).st_mode) else os.unlink)(path)
        for host, found in self.hosts.items():
            path = found.directory / f"{host}_data.db3"
            if path.exists():
                with Database(str(path), timeout=5, write=True) as database:
                    database.empty()

    def write(self, name, content=b"x", top=None):
        path = os.path.join(os.fsencode(top or self.include), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        return path

    @staticmethod
    def tree(top):
        """{path below it: content, None of a directory, b"" of what is no file}"""
        found, top = {}, os.fsencode(top)
        for directory, names, files in os.walk(top):
            found.update({os.path.relpath(os.path.join(directory, name), top): None for name in names})
            for name in files:
                path = os.path.join(directory, name)
                found[os.path.relpath(path, top)] = b""
                if os.path.isfile(path):
                    with open(path, "rb") as file:
                        found[os.path.relpath(path, top)] = file.read()
        return found


@pytest.fixture(scope="module")
def pair(csync2_command, tmp_path_factory):
    made = Pair(csync2_command, tmp_path_factory.mktemp("pair"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{made.program.parent}:{os.environ['PATH']}")
        patch.setattr(runs, "RUNS", str(made.include.parent / "run"))
        patch.setattr(custody, "UNCONFINED", str(made.program))
        command.run("data", "-M", fine=(0, 2))
        made.start()
        yield made
        made.stop()
