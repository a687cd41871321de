"""Random changes to a part of the tree that one host has for itself, and what it must look like in the end."""

import contextlib
import os
import random
import shutil
import threading
import time

OWNERS = ((0, 0), (33, 33), (1000, 1000))
MODES = (0o644, 0o640, 0o600, 0o755)
NAMES = [
    *(b"n%d" % number for number in range(12)),
    b"a b",
    b"-rf",
    b"100%",
    b"nl\nx",
    b"q'\"\\",
    b"\xff\xfe",
    "ü".encode(),
    b".hidden",
    b"x" * 255,
]
#: So that no deletion is one that the guard holds.
MOST = 60


class Part:
    """
    A directory on a host and its model, a directory elsewhere. Each change is made in both.

    The seed decides what is done. When it is done is left to the machine.

    real
        Returns where the directory is now, None while the host is off: each boot makes another path of it.
    """

    def __init__(self, seed, real, model):
        self.random = random.Random(seed)
        self.model, self.real = os.fsencode(model), real
        #: (when, what was done, paths that came or went), of each change
        self.history, self._stop, self._thread = [], threading.Event(), None
        self._half_done, self._failure = False, None
        for top in (self.model, self.real()):
            os.makedirs(top)

    # ---- as long as wanted

    @contextlib.contextmanager
    def changing(self, rate):
        """Make so many changes a second, meanwhile."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(rate,))
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()
            self._mend()
            if self._failure:
                raise self._failure

    def _run(self, rate):
        try:
            while not self._stop.wait(self.random.expovariate(rate)):
                self.change()
        except Exception as error:
            self._failure = error
            print(f"{time.strftime('%H:%M:%S')} the changes to {self.model} ended: {error!r}", flush=True)

    def change(self):
        """One change. What could be done in part (a full disk, a host that goes down) is as it came out in both."""
        self._mend()
        act = self.random.choice([getattr(self, name) for name in sorted(dir(self)) if name.startswith("do_")])
        step, before = act(), {*self._all()}
        real = self.real()
        if step is None or real is None or not os.path.isdir(real):
            return
        when = time.strftime("%H:%M:%S")
        try:
            step(real)
        except OSError as error:
            self._half_done = True
            print(f"{when} {act.__name__} in {real[-10:]!r}: {error!r}", flush=True)
        else:
            step(self.model)
        self.history.append((when, act.__name__, sorted(before ^ {*self._all()})))

    def _mend(self):
        real = self.real()
        if self._half_done and real is not None and os.path.isdir(real):
            self._take_over(self.model, real)
            self.history.append((time.strftime("%H:%M:%S"), "as the host has it", self._all()))
            self._half_done = False

    @staticmethod
    def _take_over(model, real):
        shutil.rmtree(model)
        shutil.copytree(real, model, symlinks=True)
        for directory, names, files in os.walk(real):
            for path in [directory, *(os.path.join(directory, name) for name in names + files)]:
                status = os.lstat(path)
                os.lchown(os.path.join(model, os.path.relpath(path, real)), status.st_uid, status.st_gid)

    # ---- what is there, as the model has it, relative to its top

    def _all(self):
        top = self.model
        found = []
        for directory, names, files in os.walk(top):
            found += [os.path.relpath(os.path.join(directory, name), top) for name in names + files]
        return sorted(found)

    def _is_directory(self, path):
        path = os.path.join(self.model, path)
        return os.path.isdir(path) and not os.path.islink(path)

    def _files(self):
        return [path for path in self._all() if os.path.isfile(os.path.join(self.model, path))]

    def _free(self):
        """A place where nothing is, None if there is enough."""
        everything = self._all()
        if len(everything) >= MOST:
            return None
        directories = [b"", *(path for path in everything if self._is_directory(path) and len(path) < 600)]
        path = os.path.join(self.random.choice(directories), self.random.choice(NAMES))
        return None if path in everything else path

    def _any(self, found):
        return self.random.choice(found) if found else None

    def _content(self):
        return self.random.randbytes(self.random.choice([0, 5, 5, 300, 20_000]))

    # ---- changes: each picks what to do, and returns how to do it below a top

    def do_write(self):
        path, content = self._free(), self._content()
        return path and (lambda top: _write(os.path.join(top, path), content))

    def do_rewrite(self):
        path, content, mode = self._any(self._files()), self._content(), self.random.choice(["wb", "ab"])
        return path and (lambda top: _write(os.path.join(top, path), content, mode))

    def do_replace(self):
        path, content = self._any(self._files()), self._content()

        def step(top):
            _write(os.path.join(top, b".new"), content)
            os.rename(os.path.join(top, b".new"), os.path.join(top, path))

        return path and step

    def do_make_directory(self):
        path = self._free()
        return path and (lambda top: os.mkdir(os.path.join(top, path)))

    def do_make_tree(self):
        path, content = self._free(), self._content()

        def step(top):
            os.makedirs(os.path.join(top, path, b"x/y"))
            _write(os.path.join(top, path, b"x/y/f"), content)

        return path and step

    def do_link(self):
        path, target = self._free(), self.random.choice([b"n1", b"../n2", b"nowhere"])
        return path and (lambda top: os.symlink(target, os.path.join(top, path)))

    def do_rename(self):
        path, to = self._any(self._all()), self._free()
        if not path or not to or (to + b"/").startswith(path + b"/"):
            return None
        return lambda top: os.rename(os.path.join(top, path), os.path.join(top, to))

    def do_delete(self):
        path = self._any(self._all())
        return path and (lambda top: _remove(os.path.join(top, path)))

    def do_change_mode(self):
        path, mode = self._any(self._files()), self.random.choice(MODES)
        return path and (lambda top: os.chmod(os.path.join(top, path), mode))

    def do_change_owner(self):
        path, owner = self._any(self._all()), self.random.choice(OWNERS)
        return path and (lambda top: os.lchown(os.path.join(top, path), *owner))

    def do_switch(self):
        """A file becomes a directory, and the reverse."""
        path, content = self._any(self._all()), self._content()
        if not path:
            return None
        to_file = self._is_directory(path)

        def step(top):
            _remove(os.path.join(top, path))
            if to_file:
                _write(os.path.join(top, path), content)
            else:
                os.mkdir(os.path.join(top, path))
                _write(os.path.join(top, path, b"in"), content)

        return step


# --- The parts of all hosts, {host: Part}, in the directories TOP-HOST ------------------------------------


def begun(hosts, top, models, seed=""):
    """``{host: Part}``, each with something in it; ``models`` is a directory of this machine."""
    made = {host: Part(f"{seed}{host}", hosts.place(host, f"{top}-{host}"), models / host) for host in hosts.names}
    for part in made.values():
        for _ in range(30):
            part.change()
    hosts.equal(seconds=60)
    return made


@contextlib.contextmanager
def changing(parts, rate=5):
    """All of them change so often a second."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(part.changing(rate)) for part in parts.values()]


def as_written(hosts, top, parts, seconds):
    """Wait until every host has what the writers made."""
    wanted = {host: hosts.tree_at(part.model) for host, part in parts.items()}

    def all_there():
        wrong = []
        for owner in parts:
            for host in hosts.names:
                found = hosts.tree(host, f"{top}-{owner}")
                differ = sorted(path for path in {*found, *wanted[owner]} if found.get(path) != wanted[owner].get(path))
                for path in differ[:3]:
                    wrong += [f"{owner}: {path} on {host}: {found.get(path)} instead of {wanted[owner].get(path)}"]
                    wrong += [f"    {change}" for change in parts[owner].history if path in change[2]]
        assert not wrong, "\n".join(wrong)

    hosts.eventually(all_there, seconds)


def _write(path, content, mode="wb"):
    with open(path, mode) as file:
        file.write(content)


def _remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)
