"""Whatever is done to the files of a host, however fast: all hosts end with the same."""

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest
from places import HOSTS, SHARED

OWNERS = ((0, 0), (33, 33), (1000, 1000), (33, 0))


@pytest.fixture
def place(hosts, request):
    """A directory for one test, on a host that chance picks, and one outside of what is synchronized."""
    origin = random.choice(HOSTS)
    name = request.node.name.removeprefix("test_")[:60].replace("[", "-").replace("]", "")
    print(f"made on {origin}")
    made = Place(hosts, origin, f"exact-{name}")
    yield made
    shutil.rmtree(made.outside, ignore_errors=True)
    hosts.remove(origin, made.shared)


class Place:
    def __init__(self, hosts, origin, name):
        self.hosts, self.origin, self.shared = hosts, origin, f"{SHARED}/{name}"
        self.top, self.outside = hosts.path(origin, self.shared), hosts.path(origin, f"/var/www/outside-{name}")
        self.top.mkdir()
        self.outside.mkdir()

    def arrived(self, seconds=60):
        """Wait until all hosts have what the origin has."""
        return self.hosts.equal(self.shared, hosts=[self.origin, *self.hosts.others(self.origin)], seconds=seconds)

    def shell(self, script):
        return self.hosts.shell(self.origin, f"cd {self.shared} && {script}")


def fill(top, files=5, text="x"):
    """A small tree with two levels."""
    for directory in (top, top / "sub", top / "sub/deep"):
        directory.mkdir(parents=True, exist_ok=True)
        for number in range(files):
            (directory / f"f{number}").write_text(f"{text}{number}\n")


# --- Trees


def test_trees_moved_in_and_out_and_over_each_other(place):
    for number in range(5):
        fill(place.outside / f"t{number}", text=f"{number}")
        (place.outside / f"t{number}").rename(place.top / f"t{number}")
        (place.top / f"t{number}/sub/late").write_text("written at once\n")
    place.arrived()
    (place.top / "t0").rename(place.outside / "t0")
    shutil.rmtree(place.top / "t1")
    (place.top / "t2").rename(place.top / "t1")
    (place.outside / "t0").rename(place.top / "t3/sub/t0")
    (place.top / "t3/sub/t0/f0").write_text("changed\n")
    place.arrived()


def test_a_directory_renamed_while_it_is_written_to(place):
    (place.top / "d0").mkdir()
    for number in range(30):
        with open(place.top / f"d{number}/open", "a") as file:
            file.write(f"{number}\n")
            (place.top / f"d{number}").rename(place.top / f"d{number + 1}")
            file.write("after the rename\n")
        (place.top / f"d{number + 1}/file{number}").write_text(f"{number}\n")
        time.sleep(0.03)
    tree = place.arrived()
    assert len(tree) == 33


def test_deep_directories_written_to_at_once(place):
    for number in range(20):
        deep = place.top / "/".join(f"{number}-{level}" for level in range(15))
        deep.mkdir(parents=True)
        (deep / "file").write_text(f"{number}\n")
        (deep.parent / "other").write_text(f"{number}\n")
    place.arrived()


def test_two_trees_change_places(place):
    """Their files have the same names, sizes and times, as files of releases that a build made have."""
    for name, text in (("current", "1.0.1"), ("next", "1.0.2")):
        fill(place.top / name, text=text)
        for directory, _, files in os.walk(place.top / name):
            for file in files:
                os.utime(os.path.join(directory, file), (1600000000, 1600000000))
    place.arrived()
    for _ in range(3):
        (place.top / "current").rename(place.top / "old")
        (place.top / "next").rename(place.top / "current")
        (place.top / "old").rename(place.top / "next")
        place.arrived()


def test_what_takes_the_place_of_a_file_that_came_with_its_directory(hosts, place):
    """
    In place of a directory with files of the same names. It has been sent by then, and the watcher still waits until
    its files are quiet: longer if they are named as csync2's temporary ones.
    """
    names = [".link.AbC123", ".directory.AbC123"]
    for directory, text in ((place.top / "d", "old"), (place.outside / "new", "a newer one")):
        directory.mkdir()
        for name in names:
            (directory / name).write_text(text)
    place.arrived()
    (place.top / "d").rename(place.outside / "old")
    (place.outside / "new").rename(place.top / "d")
    place.arrived()
    for name in names:
        (place.top / "d" / name).unlink()
    (place.top / "d" / names[0]).symlink_to("elsewhere")
    (place.top / "d" / names[1]).mkdir()
    place.arrived()


def test_two_branches_are_checked_out_in_turn(place):
    """As git does it: what is a file in one branch is a directory or a symlink in the other."""

    def one():
        fill(place.top / "lib")
        (place.top / "doc").write_text("a file\n")
        (place.top / "link").symlink_to("nowhere")

    def two():
        (place.top / "lib").write_text("a file\n")
        fill(place.top / "doc")
        fill(place.top / "link", files=1)

    for number in range(6):
        for path in list(place.top.iterdir()):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (one, two)[number % 2]()
        time.sleep(0.2 * number)
    place.arrived()
    assert (place.top / "lib").is_file()


# --- Tools


def test_tar_keeps_owners_modes_and_times(place):
    fill(place.outside / "tree", files=20)
    for number, path in enumerate(sorted((place.outside / "tree").rglob("*"))):
        os.chown(path, *OWNERS[number % 4])
        path.chmod((0o644, 0o600, 0o755, 0o4711)[number % 4] | (0o100 if path.is_dir() else 0))
        os.utime(path, (1500000000 + number, 1500000000 + number))
    place.shell(f"tar -C /var/www/{place.outside.name} -cf - tree | tar -xpf -")
    tree = place.arrived()
    assert len({value[1:4] for value in tree.values()}) >= 6
    # The same again, with other contents of the same sizes and times.
    for path in (place.outside / "tree").rglob("f*"):
        times = path.stat()
        path.write_text("y" + path.read_text()[1:])
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    place.shell(f"tar -C /var/www/{place.outside.name} -cf - tree | tar -xpf -")
    place.arrived()
    assert (place.top / "tree/f0").read_text() == "y0\n"


def test_editors(place):
    (place.top / "text").write_text("0\n")
    for number in range(20):
        if number % 2:  # vim: the old file becomes the backup, the new one is written, the backup goes
            (place.top / "4913").touch()
            (place.top / "4913").unlink()
            (place.top / "text").rename(place.top / "text~")
            (place.top / "text").write_text(f"{number}\n")
            (place.top / "text~").unlink()
        else:  # emacs, and many others: written beside it and renamed over it
            (place.top / ".#text").symlink_to("somebody@here:1")
            (place.top / ".text.AbC1d2").write_text(f"{number}\n")
            (place.top / ".text.AbC1d2").rename(place.top / "text")
            (place.top / ".#text").unlink()
        time.sleep(0.05)
    place.shell(
        "for i in 1 2 3 4 5 6 7 8 9; do sed -i s/19/2$i/ text; sed -i s/2$i/19/ text; done; sed -i s/19/77/ text"
    )
    assert place.arrived().keys() == {b".", b"text"}
    assert (place.top / "text").read_text() == "77\n"


def test_rewrites_of_the_same_size_within_one_second(place):
    """Twenty of twenty, when the first version has arrived; and many at once."""
    files = [place.top / f"file{number}" for number in range(20)]
    for turn in range(3):
        second = int(time.time())
        for number, file in enumerate(files):
            file.write_text(f"{turn}{number:02d}\n")
            os.utime(file, ns=(second * 10**9, second * 10**9 + turn + 1))
        place.arrived()
        for number, file in enumerate(files):
            file.write_text(f"{turn}{number:02d}!")
            os.utime(file, ns=(second * 10**9, second * 10**9 + turn + 1))
        place.arrived()
    for number in range(50):
        files[0].write_text(f"-{number:02d}\n")
        time.sleep(0.01)
    place.arrived()
    assert files[0].read_text() == "-49\n"


def test_only_the_time_the_mode_or_the_owner_changes(place):
    fill(place.top)
    place.arrived()
    os.utime(place.top / "f0", (1234567890, 1234567890))
    place.shell(
        "touch -d '2001-02-03 04:05:06' f1; touch -d '2031-02-03 04:05:06.5' sub/f1; chmod 4750 f2; chown 33:33 f3 sub"
    )
    place.arrived()

    def times():
        for host in HOSTS:
            found = [
                int((place.hosts.path(host, place.shared) / name).stat().st_mtime) for name in ("f0", "f1", "sub/f1")
            ]
            assert found == [1234567890, 981173106, 1927857906], host

    place.hosts.eventually(times, 30)


def test_owners_and_modes_that_are_changed_back_and_forth(place):
    """What is sent may be another state than the one that was recorded before, and that stands there again after."""
    fill(place.top)
    for number in range(10):
        (place.top / f"link{number}").symlink_to("nowhere")
        os.mkfifo(place.top / f"pipe{number}")
    place.arrived()
    paths = sorted(place.top.iterdir())
    for turn in range(60):
        for number, path in enumerate(paths):
            if (turn + number) % 3:
                os.lchown(path, *OWNERS[turn % 2])
            if not path.is_symlink():
                path.chmod((0o644, 0o755)[turn % 2] | (0o100 if path.is_dir() else 0))
        time.sleep(0.05)
    place.arrived()


def test_files_directories_and_symlinks_in_turn_at_one_place(place):
    def file(path):
        path.write_text("x\n")

    def directory(path):
        fill(path, files=1)

    def link(path):
        path.symlink_to("target")

    places = [place.top / f"p{number}" for number in range(6)]
    for turn in range(7):
        for number, path in enumerate(places):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            (file, directory, link)[(turn * (1 + number % 2) + number) % 3](path)
        time.sleep((0, 0.15, 0.5)[turn % 3])
    place.arrived()


def test_hard_links(place):
    """csync2 knows none; each name is a file of its own on the other hosts, with the right content."""
    (place.top / "one").write_text("1\n")
    (place.top / "sub").mkdir()
    os.link(place.top / "one", place.top / "sub/two")
    place.arrived()
    time.sleep(1)
    with open(place.top / "one", "a") as file:  # no event for the other name
        file.write("more\n")
    place.arrived(90)


def test_files_deleted_and_made_again(place):
    fill(place.top, files=20)
    place.arrived()
    for turn in range(10):
        for number in range(20):
            (place.top / f"f{number}").unlink()
            (place.top / f"f{number}").write_text(f"{turn}{number}\n")
        shutil.rmtree(place.top / "sub")
        fill(place.top / "sub", text=str(turn))
        time.sleep(0.07)
    place.arrived()


def test_swaps_on_a_host_that_received_the_files(hosts, place):
    """There all times are whole seconds, so these files look the same to csync2."""
    for name in ("a", "b", "c"):
        (place.top / name).write_text(f"{name}\n")
        os.utime(place.top / name, (1600000000, 1600000000))
    place.arrived()
    hosts.settled("wwwshared")  # what sets the times may be a second push
    other = hosts.path(hosts.others(place.origin)[0], place.shared)
    (other / "a").rename(other / "t")
    (other / "b").rename(other / "a")
    (other / "t").rename(other / "b")
    hosts.everywhere(f"{place.shared}/a", "b\n")
    hosts.everywhere(f"{place.shared}/b", "a\n")
    hosts.shell(hosts.others(place.origin)[1], f"cd {place.shared}; cp -p c a")
    hosts.everywhere(f"{place.shared}/a", "c\n")


# --- What csync2 cannot carry


@pytest.mark.parametrize("how", ["moves", "deletes"])
def test_a_spool_that_another_host_empties(hosts, place, how):
    """What arrives there a worker takes away at once, mostly before csync2 has recorded it."""
    worker, number = random.choice(hosts.others(place.origin)), 90  # more deletions would be held
    for name in ("in", "done"):
        (place.top / name).mkdir()
    place.arrived()
    there, taken, stop = hosts.path(worker, place.shared), set(), threading.Event()

    def work():
        while not stop.wait(0.02):
            for path in there.glob("in/[0-9]*"):
                with contextlib.suppress(FileNotFoundError):
                    path.rename(there / "done" / path.name) if how == "moves" else path.unlink()
                    taken.add(path.name)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for file in range(number):
            (place.top / f"in/{file}").write_text(f"{file}\n")
            time.sleep(0.8 if file % 30 == 29 else 0)
        hosts.eventually(lambda: len(taken) == number and not os.listdir(there / "in"), 60, "all was taken away")
        tree = hosts.calm(tops=[place.shared], seconds=90)
    finally:
        stop.set()
        thread.join()
    done = {b"done/%d" % file for file in range(number)} if how == "moves" else set()
    assert {*tree} - {b"."} == {b"in", b"done"} | done


def test_what_csync2_cannot_carry_disturbs_nothing_else(hosts, place):
    here = os.getcwd()
    os.chdir(place.top)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket")
    finally:
        os.chdir(here)
    (place.top / "long-link").symlink_to("x" * 1500)
    os.mkfifo(place.top / "pipe")
    (place.top / "file").write_text("arrives\n")
    hosts.everywhere(f"{place.shared}/file", "arrives\n")
    other = hosts.path(hosts.others(place.origin)[0], place.shared)
    hosts.eventually((other / "pipe").is_fifo)
    hosts.eventually(lambda: len(os.readlink(other / "long-link")) == 1023)
    (place.top / "file").write_text("arrives again\n")
    hosts.everywhere(f"{place.shared}/file", "arrives again\n")
    assert not (other / "socket").exists()
    for name in ("socket", "long-link", "pipe"):
        (place.top / name).unlink()
    place.arrived()


def test_a_file_in_place_of_a_directory_that_a_peer_cannot_empty(hosts, place):
    """The peer has excluded files of its own in it, and csync2's two sides would wait for each other for good."""
    other, third = hosts.others(place.origin)
    fill(place.top / "d", files=1)
    place.arrived()
    hosts.settled("wwwshared")
    own = hosts.path(other, f"{place.shared}/d/.own.swp")
    own.write_text("excluded\n")
    shutil.rmtree(place.top / "d")
    (place.top / "d").write_text("a file\n")
    hosts.everywhere(f"{place.shared}/d", "a file\n", hosts=[place.origin, third])
    hosts.eventually(lambda: "d" in str(hosts.status(place.origin, "wwwshared")["refused"]), 30, "it is shown")
    for number in range(5):  # each of these would have to wait
        (place.top / f"{number}").write_text("arrives\n")
        hosts.everywhere(f"{place.shared}/{number}", "arrives\n", seconds=10)
    assert own.read_text() == "excluded\n"
    own.unlink()
    place.arrived(90)


def test_deletions_below_what_is_a_file_by_now(hosts, place):
    """A host that was away is to delete what was in a directory, where all others have a file; csync2 cannot look."""
    others = hosts.others(place.origin)
    fill(place.top / "d")
    fill(place.top / "e")
    place.arrived()
    hosts.settled("wwwshared")
    for host in others:
        hosts.exec(host, "systemctl", "stop", "csyncsync-server")
    try:
        for name in ("d", "e"):
            shutil.rmtree(place.top / name)
        hosts.eventually(lambda: "e/sub" in str(hosts.shell(place.origin, "csync2 -C wwwshared -M; true")), 30)
        (place.top / "d").write_text("a file\n")
        (place.top / "e").symlink_to("/etc")
        hosts.eventually(lambda: hosts.status(place.origin, "wwwshared")["unreachable"], 30)
        for host in others:  # as it may be after a conflict was resolved
            there = hosts.path(host, place.shared)
            for name in ("d", "e"):
                shutil.rmtree(there / name)
            (there / "d").write_text("a file\n")
            (there / "e").symlink_to("/etc")
    finally:
        for host in others:
            hosts.exec(host, "systemctl", "start", "csyncsync-server")
    place.arrived(90)
    hosts.settled("wwwshared", seconds=90)


def test_a_file_of_a_peer_in_place_of_a_directory(hosts, place):
    """However it got there: a peer that refuses what goes into a directory is sent the directory."""
    (place.top / "d/sub").mkdir(parents=True)
    place.arrived()
    hosts.settled("wwwshared")
    peer = hosts.others(place.origin)[0]
    hosts.stop_minion(peer)
    try:
        # A file that csync2 there takes for one that came from the others.
        hosts.shell(peer, f"cd {place.shared}; rm -r d; echo x >d; csync2 -C wwwshared -cIr {place.shared}")
        (place.top / "d/sub/file").write_text("x")
        hosts.eventually(lambda: hosts.tree(peer, place.shared) == hosts.tree(place.origin, place.shared), 30)
    finally:
        hosts.start_minion(peer)
    place.arrived()


def test_files_that_vanish_while_they_are_sent(hosts, place):
    """csync2 crashes when it is about to read one; nobody is left out because of that."""

    def work(seed):
        chance = random.Random(seed)
        for number in range(15):
            path = place.top / f"{seed}-{number}"
            path.write_text("x" * 1000)
            time.sleep(chance.uniform(0.15, 0.45))
            path.unlink()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(40)]
    for thread in threads:
        thread.start()
    unreachable = set()
    while any(thread.is_alive() for thread in threads):
        unreachable.update(hosts.status(place.origin, "wwwshared")["unreachable"].items())
        time.sleep(0.3)
    (place.top / "last").write_text("arrives\n")
    hosts.everywhere(f"{place.shared}/last", "arrives\n", seconds=10)
    assert not unreachable
    assert place.arrived().keys() == {b".", b"last"}


def test_directories_and_links_that_come_and_go_while_they_are_sent(place):
    """One that is made after csync2's check and sent is gone by the next check: csync2 itself would forget it."""

    def removed(path):
        """Tell whether there was anything to remove."""
        there = os.path.lexists(path)
        if there:
            path.unlink() if path.is_symlink() else path.rmdir()
        return there

    chance, until = random.Random(1), time.monotonic() + 12
    paths = [place.top / str(number) for number in range(15)]
    while time.monotonic() < until:
        path = chance.choice(paths)
        if removed(path):
            pass
        elif chance.random() < 0.3:
            path.symlink_to("nowhere")
        else:
            path.mkdir()
        time.sleep(0.01 * chance.random())
    for path in paths:
        removed(path)
    assert place.arrived().keys() == {b"."}


# --- Chance


class Chance:
    """Does to a tree of its own whatever comes to mind, as told by a seed."""

    def __init__(self, seed, top, outside):
        self.random, self.top, self.outside = random.Random(seed), os.fsencode(top), os.fsencode(outside)
        os.makedirs(self.top)
        os.makedirs(self.outside)
        self.count = 0

    def run(self, seconds, rate):
        """How many things it has done."""
        acts = [getattr(self, name) for name in sorted(dir(self)) if name.startswith("do_")]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                self.random.choice(acts)()
            self.count += 1
            if self.count % 300 == 0:
                self.prune()
            time.sleep(self.random.expovariate(rate))
        return self.count

    def prune(self):
        if sum(len(files) for _, _, files in os.walk(self.top)) > 1500:
            for name in sorted(os.listdir(self.top))[::2]:
                self.remove(os.path.join(self.top, name))

    def directory(self):
        found = [directory for directory, _, _ in os.walk(self.top) if len(directory) < 600]
        return self.random.choice(sorted(found))

    def place(self):
        names = [b"n%d" % self.random.randrange(20)] * 8
        names += [b"a b", b"\xff\xfe", b"nl\nx", b"100%", b".f.AbC123", b"q'\"", "ü".encode(), b"x" * 255]
        return os.path.join(self.directory(), self.random.choice(names))

    def something(self):
        directory = self.directory()
        return os.path.join(directory, self.random.choice(sorted(os.listdir(directory)) or [b"nothing"]))

    def write(self, path, mode="wb", size=None):
        if not os.path.islink(path):
            with open(path, mode) as file:
                file.write(
                    self.random.randbytes(self.random.choice([0, 5, 5, 5, 300, 50000]) if size is None else size)
                )

    def remove(self, path):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)

    def do_write(self):
        self.write(self.place())

    def do_append(self):
        self.write(self.something(), "ab")

    def do_rewrite(self):
        path = self.something()
        self.write(path, "r+b", os.path.getsize(path))

    def do_replace(self):
        path = self.something()
        self.write(path + b".new")
        os.rename(path + b".new", path)

    def do_make_directory(self):
        os.mkdir(self.place())

    def do_make_deep_directory(self):
        path = self.place()
        os.makedirs(path + b"/x/y")
        self.write(path + b"/x/y/f")
        self.write(path + b"/g")

    def do_rename(self):
        os.rename(self.something(), self.place())

    def do_swap(self):
        one, two, third = self.something(), self.something(), os.path.join(self.top, b"third")
        if not one.startswith(two) and not two.startswith(one):
            os.rename(one, third)
            os.rename(two, one)
            os.rename(third, two)

    def do_move_out(self):
        target = os.path.join(self.outside, b"%d" % self.random.randrange(5))
        self.remove(target)
        os.rename(self.something(), target)

    def do_move_in(self):
        target = self.place()
        if not os.path.lexists(target):
            os.rename(
                os.path.join(self.outside, self.random.choice(sorted(os.listdir(self.outside)) or [b"-"])), target
            )

    def do_delete(self):
        os.unlink(self.something())

    def do_delete_any(self):
        if self.random.random() < 0.2:
            self.remove(self.something())

    def do_delete_and_write(self):
        path = self.something()
        self.remove(path)
        self.write(path)

    def do_chmod(self):
        path = self.something()
        if not os.path.islink(path):
            # Not 0600: .f.AbC123 would be held back for ten minutes, as what csync2 may have left.
            os.chmod(path, self.random.choice([0o644, 0o755, 0o640, 0o2775]))

    def do_chown(self):
        os.lchown(self.something(), *self.random.choice(OWNERS))

    def do_link(self):
        os.symlink(self.random.choice([b"n1", b"../x", b"/etc/passwd"]), self.place())

    def do_switch(self):
        path = self.something()
        self.remove(path)
        if self.random.random() < 0.5:
            os.symlink(b"elsewhere", path)
        else:
            os.mkdir(path)
            self.write(path + b"/in")


def by_chance(seed, top, outside, seconds, rate):
    return Chance(seed, top, outside).run(seconds, rate)


@pytest.fixture(scope="module")
def ballast(hosts):
    """Files that nobody touches, so that no deletion is most of the group, which the guard would hold."""
    for number in range(1500):
        hosts.write("web1", f"{SHARED}/ballast/{number}", "x")
    hosts.equal(seconds=120)
    yield
    hosts.remove("web1", f"{SHARED}/ballast")


@pytest.mark.parametrize("origins", [1, 3])
def test_whatever_comes_to_mind(hosts, ballast, origins):
    """On one host, then on all of them at once. The seed is printed; EXACT_SEED and EXACT_SECONDS set both."""
    seed = os.environ.get("EXACT_SEED") or str(random.randrange(10**6))
    seconds = float(os.environ.get("EXACT_SECONDS", "10"))
    print(f"seed {seed}")
    names = random.Random(seed).sample(HOSTS, origins)
    work = [
        (
            f"{seed}{name}",
            hosts.path(name, f"{SHARED}/chance-{name}"),
            hosts.path(name, "/var/www/chance"),
            seconds,
            100,
        )
        for name in names
    ]
    try:
        with multiprocessing.Pool(origins) as pool:
            print(dict(zip(names, pool.starmap(by_chance, work))))
        hosts.equal(seconds=120)
    finally:
        for name in names:
            shutil.rmtree(hosts.path(name, "/var/www/chance"), ignore_errors=True)
    for name in names:
        hosts.remove(name, f"{SHARED}/chance-{name}")


# --- The watcher under hard conditions


def watch(hosts, host):
    """watch.json of a host."""
    return json.loads(hosts.read(host, "/var/lib/csyncsync/wwwshared/watch.json") or "{}")


@contextlib.contextmanager
def limit(name, value):
    """A limit of inotify, of the whole machine: as short as possible."""
    path = Path(f"/proc/sys/fs/inotify/{name}")
    before = path.read_text()
    path.write_text(str(value))
    try:
        yield
    finally:
        path.write_text(before)


def kill_watcher(hosts, host):
    """Returns when another one watches."""
    before = watch(hosts, host).get("pid")
    hosts.exec(host, "systemctl", "kill", "--signal=KILL", "csyncsync-watch")
    hosts.eventually(lambda: watch(hosts, host).get("pid") != before and watch(hosts, host).get("ready"), 60)


@pytest.mark.machine
def test_an_overflow_checks_the_whole_group(hosts, place):
    """The size of the queue is taken when the descriptor is made, by the watcher that starts."""
    host = place.origin
    fill(place.top, files=50)
    place.arrived()
    lost = hosts.watcher_log(host).count("events were lost")
    with limit("max_queued_events", 16):
        kill_watcher(hosts, host)
    try:
        deadline = time.monotonic() + 30
        while hosts.watcher_log(host).count("events were lost") == lost and time.monotonic() < deadline:
            for number in range(50):
                (place.top / f"f{number}").write_text(f"overflow {number} {time.time()}\n")
                (place.top / f"sub/deep/d{number}").mkdir(exist_ok=True)
                (place.top / f"sub/deep/d{number}/new").write_text("x\n")
        assert hosts.watcher_log(host).count("events were lost") > lost, "there was no overflow"
        place.arrived(90)
        # The directories whose creation was not heard of are watched.
        (place.top / "sub/deep/d49/later").write_text("x\n")
        place.arrived()
    finally:
        kill_watcher(hosts, host)


@pytest.mark.machine
def test_too_few_watches_are_an_error_that_everybody_sees(hosts, place):
    host = place.origin
    fill(place.top)
    place.arrived()
    hosts.settled("wwwshared")
    text = "are not watched: fs.inotify.max_user_watches is 10"
    with hosts.bus() as bus:
        with limit("max_user_watches", 10):
            (place.top / "new").mkdir()
            hosts.eventually(lambda: text in hosts.watcher_log(host), 20)
        (place.top / "new/unwatched").write_text("arrives nevertheless\n")
        hosts.eventually(lambda: text in (watch(hosts, host)["error"] or ""), 20)
        assert not hosts.status(host, "wwwshared")["watching"]
        told = bus.tagged(f"salt/beacon/{host}/csyncsync/wwwshared")
        assert any(text in data.get("error", "") for _, data, _ in told)
    place.arrived()
    hosts.eventually(lambda: watch(hosts, host)["error"] is None, 60, "it watches again, without a restart")
    (place.top / "new/watched").write_text("x\n")
    place.arrived()


def test_the_state_raises_the_limit(hosts):
    """Shown, not applied: /proc/sys belongs to the machine on which the hosts run."""
    for value in (None, 500000):
        pillar = f"pillar={json.dumps({'csyncsync': {'max_user_watches': value}})}"
        shown = hosts.ask("web1", "state.show_sls", "csyncsync.watch", pillar)
        found = {
            key: value
            for state in shown.values()
            for item in state.get("sysctl", ())
            if isinstance(item, dict)
            for key, value in item.items()
        }
        wanted = {"name": "fs.inotify.max_user_watches", "value": value} if value else {}
        assert {key: found.get(key) for key in wanted} == wanted
        assert bool(found) == bool(value)


@contextlib.contextmanager
def steady_writing(place):
    """Files are written all the time, many of them into new directories; yields a function: how many."""
    stop, count = threading.Event(), 0

    def write():
        nonlocal count
        while not stop.is_set():
            (place.top / f"d{count % 7}").mkdir(exist_ok=True)
            (place.top / f"d{count % 7}/f{count}").write_text(f"{count}\n")
            count += 1
            time.sleep(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield lambda: count
    finally:
        stop.set()
        writer.join()


def test_refreshes_lose_nothing_and_walk_nothing(hosts, place):
    host = place.origin
    hosts.settled("wwwshared")
    before = watch(hosts, host)
    with steady_writing(place) as written:
        for _ in range(2):
            for function in (
                "saltutil.sync_all",
                "saltutil.refresh_pillar",
                "saltutil.refresh_modules",
                "saltutil.refresh_beacons",
                "saltutil.refresh_grains",
                "beacons.list",
            ):
                hosts.ask(host, function)
        hosts.exec(host, "systemctl", "restart", "salt-minion")
    place.arrived()
    hosts.settled("wwwshared")
    after = watch(hosts, host)
    assert (after["pid"], after["walks"]) == (before["pid"], before["walks"]), "the same watcher, and no walk"
    assert written() > 100


def test_a_watcher_that_is_replaced_misses_nothing_and_walks_nothing(hosts, place):
    """As an upgrade does it, while files and directories are made all the time."""
    host = place.origin
    hosts.settled("wwwshared")
    before = watch(hosts, host)
    with hosts.bus() as bus, steady_writing(place) as written:
        for number in range(4):
            time.sleep(number / 3)
            hosts.exec(host, "systemctl", "restart", "csyncsync-watch")
        checks = [data for _, data, _ in bus.tagged(f"salt/beacon/{host}/csyncsync/wwwshared") if data["whole"]]
    place.arrived()
    hosts.settled("wwwshared")
    after = watch(hosts, host)
    assert after["pid"] != before["pid"]
    assert (after["walks"], checks) == (before["walks"], []), "nothing is walked, or checked as a whole"
    assert written() > 50
    handles = hosts.shell(
        host, f"ls -l /proc/{after['pid']}/fd | grep -c inotify; systemctl show -P NFileDescriptorStore csyncsync-watch"
    )
    assert handles.split() == ["1", "1"]


@pytest.mark.parametrize("how", ["stop", "mask --now --runtime"])
def test_a_watcher_that_does_not_run_is_told(hosts, how):
    hosts.settled("wwwshared")
    with hosts.bus() as bus:
        hosts.shell("web1", f"systemctl {how} csyncsync-watch")
        try:
            status = hosts.status("web1", "wwwshared")
            assert not status["watching"]
            assert "csyncsync-watch" in status["watch"]["error"]
            shown = hosts.salt_run("csyncsync.status", "wwwshared").stdout
            assert "web1: not watching: csyncsync-watch.service does not run" in " ".join(shown.split())
            hosts.eventually(lambda: bus.tagged("salt/beacon/web1/csyncsync/"), 40, "the beacon tells of it")
        finally:
            hosts.shell("web1", "systemctl unmask --runtime csyncsync-watch; systemctl start csyncsync-watch")
    hosts.settled("wwwshared")
