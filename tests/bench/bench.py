"""
Measure csyncsync beside the recipe that it re-makes (csync2 with lsyncd) and Syncthing: make bench, make bench-large.

Boots a master and hosts, gives each system a tree of its own on the same hosts, and lets them take turns: while one
is measured, the daemons of the others stand still. Results go to docs/benchmarks.json after each workload, and from
there to docs/benchmarks.md and docs/benchmarks.svg. The hosts are taken down at the end.
"""

import argparse
import contextlib
import datetime
import os
import signal
import sys
import time
from itertools import groupby
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).resolve().parent), str(REPOSITORY / "tests/testbed")]
os.environ.setdefault("TESTBED_NAME", "bench")

import breakdown  # noqa: E402
import bus  # noqa: E402
import machine  # noqa: E402
import report  # noqa: E402
import workloads  # noqa: E402
from bed.cluster import Testbed  # noqa: E402
from bed.shell import TestbedError  # noqa: E402
from progress import alive, say  # noqa: E402
from systems.csyncsync import Csyncsync  # noqa: E402
from systems.plain import Plain  # noqa: E402
from systems.recipe import Recipe  # noqa: E402
from systems.syncthing import Syncthing  # noqa: E402
from trees import Tree  # noqa: E402
from workloads import Workload, all_at_once, burst, one_file  # noqa: E402

SYSTEMS = {kind.name: kind for kind in (Recipe, Syncthing, Csyncsync)}
FAILURES = (TestbedError, OSError, ImportError)


def plan(files, large):
    """The workloads in their order; those that share a tree and hosts stand together."""
    small = Tree("small", 10, 100)
    if large:
        million = Tree("million", 10_000, 100)
        title = f"one small file in a tree of {million}"
        return [
            Workload("million", title, one_file, million, 6, turn=3, limit=180,
                     systems=("recipe", "csyncsync"), target={"ratio": 0.02})
        ]  # fmt: skip
    big = Tree("big", files // 100, 100)
    ten = Tree("ten", 10, 100)
    return [
        Workload("small", "one small file, small tree", one_file, small, 30, turn=10, target={"ratio": 0.3}),
        Workload("all20", "all 3 hosts write 20 files at once", all_at_once(20, "all20"), small, 5,
                 most={"recipe": 3}, limit=120, target={"ratio": 0.07}),
        Workload("all200", "all 3 hosts write 200 files at once", all_at_once(200, "all200"), small, 5,
                 most={"recipe": 2}, limit=120, target={"seconds": 4}),
        Workload("burst", "burst: 2,000 files on one host", burst(2_000, "burst"), small, 5,
                 most={"recipe": 1, "syncthing": 3}, limit=120, target={"seconds": 7}),
        Workload("events", "events and jobs for a burst of 2,000", burst(2_000, "events"), small, 1,
                 limit=120, systems=("csyncsync",), listen=True),
        Workload("big", f"one small file in a tree of {big}", one_file, big, 10, turn=5, target={"ratio": 0.12}),
        Workload("ten", "one small file, 1 of 10 hosts", one_file, ten, 10, hosts=10, turn=5),
    ]  # fmt: skip


class Bench:
    """One run of the command: what was asked for, the hosts, and the results so far."""

    def __init__(self, args):
        self.args = args
        self.bed = Testbed()
        self.file = Path(args.out) / "benchmarks.json"
        self.results = report.load(self.file)
        self.command = "make bench-large" if args.large else "make bench"

    def begin_anew(self):
        """Forget what this command measured before; the rows of the other one stay."""
        rows = self.results.get("workloads", {})
        self.results["workloads"] = {name: row for name, row in rows.items() if row["command"] != self.command}
        self.results.get("notes", {}).pop(self.command, None)

    def wants(self, name):
        """Whether a part was asked for."""
        return not self.args.only or name in self.args.only

    def save(self):
        """Write the results, and the report that is made from them."""
        report.save(self.file, self.results)
        report.write(self.file.parent, self.results)

    def measure(self):
        """Everything that was asked for."""
        chosen = [w for w in plan(self.args.files, self.args.large) if self.wants(w.name) or self._follows(w)]
        if not self.args.only:
            self.begin_anew()
        say(f"{len(chosen)} workloads; results go to {self.file}")
        for (hosts, _), group in groupby(chosen, key=lambda w: (w.hosts, w.tree.name)):
            self.phase(hosts, list(group))
        if not self.args.large and self.wants("plain"):
            self.plain()

    def _follows(self, workload):
        return workload.name == "small" and "breakdown" in self.args.only

    # ---- one tree on some hosts

    def phase(self, count, chosen):
        """Boot as many hosts, start each system on the tree, run the workloads, and take the trees away."""
        tree = chosen[0].tree
        self.results["machine"] = machine.describe()
        say(f"{tree}, {count} hosts: {', '.join(w.name for w in chosen)}")
        self.boot(count)
        hosts = [f"web{number}" for number in range(1, count + 1)]
        names = [name for name in SYSTEMS if any(name in workload.systems for workload in chosen)]
        systems = {name: SYSTEMS[name](self.bed, hosts) for name in names}
        if count == 3 and not self.args.large:
            self.results.setdefault("rest", {})["minion"] = {"memory": systems["csyncsync"].memory()}
        # Salt stands still too while the others begin.
        systems["csyncsync"].pause()
        for name in list(systems):
            with self.may_fail(name, systems):
                systems[name].install()
                systems[name].lay(tree)
                systems[name].start()
                systems[name].pause()
        for name in list(systems):
            with self.may_fail(name, systems):
                self.at_rest(systems[name], chosen)
        for workload in chosen:
            if self.wants(workload.name):
                self.workload(workload, systems)
            if workload.name == "small" and self.wants("breakdown") and "csyncsync" in systems:
                with self.may_fail("csyncsync", systems):
                    self.breakdown(systems["csyncsync"])
        say(f"{tree}: taking the trees away …")
        for name in list(systems):
            with self.may_fail(name, systems):
                systems[name].finish()

    def boot(self, count):
        """Have so many hosts up, with Salt at work on them."""
        running = self.bed.hosts()
        if running:
            Csyncsync(self.bed, running).resume_all()
        self.bed.up(count)

    @contextlib.contextmanager
    def may_fail(self, name, systems):
        """A system that fails is left out of what follows, and the report says so."""
        try:
            yield
        except FAILURES as error:
            text = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            say(f"  {name} FAILED: {text}")
            self.note(f"{systems[name].label} failed and was left out of what followed: {text}")
            with contextlib.suppress(*FAILURES):
                systems[name].pause()
            del systems[name]

    def note(self, text):
        """What a reader of the report has to know."""
        self.results.setdefault("notes", {}).setdefault(self.command, []).append(text)

    def at_rest(self, system, chosen):
        """What a system uses while nothing happens."""
        say(f"  {system.label}: what it uses at rest …")
        system.resume()
        system.idle = system.meter.rates(5)
        system.pause()
        self.results.setdefault("versions", {})[system.name] = system.version()
        rest = self.results.setdefault("rest", {}).setdefault(system.name, {})
        rest[chosen[0].tree.name] = {"cpu": system.idle, "memory": system.memory(), "files": system.tree.count()}

    def breakdown(self, system):
        """The steps of one small change."""
        self.results["breakdown"] = breakdown.measure(system, self.args.runs or 15)
        self.save()

    # ---- one workload

    def workload(self, workload, systems):
        """Let the systems take turns, another one first each time, until each has done its runs."""
        count = min(self.args.runs or workload.runs, workload.runs)
        row = {
            "title": workload.title, "target": workload.target, "limit": workload.limit,
            "order": self._order(workload.name), "command": self.command, "date": today(), "systems": {},
        }  # fmt: skip
        say(f"{workload.title}: {count} runs")
        for begin in range(0, count, workload.turn):
            numbers = range(begin, min(begin + workload.turn, count))
            names = [name for name in systems if name in workload.systems]
            shift = begin // workload.turn % max(1, len(names))
            for name in names[shift:] + names[:shift]:
                runs = row["systems"].setdefault(name, [])
                with self.may_fail(name, systems):
                    self.turn(systems[name], workload, numbers, runs)
        self.results.setdefault("workloads", {})[workload.name] = row
        self.save()

    def turn(self, system, workload, numbers, runs):
        """Some runs of one system. One that did not converge begins anew, and is not asked again."""
        if len(runs) >= workload.most.get(system.name, workload.runs) or any(run["seconds"] is None for run in runs):
            return
        try:
            system.resume()
        except TestbedError as error:
            self.note(f"{system.label} did not carry changes before a turn of {workload.name}, and began anew: {error}")
            system.again()
        for number in numbers:
            run = {}
            with bus.counted(self.bed, run) if workload.listen else contextlib.nullcontext():
                run.update(workloads.run(system, workload, number))
            if workload.listen:
                run["silent"] = bus.silent(self.bed, system.hosts)
            runs.append(run)
            say(f"    {workload.name} {number + 1}: {system.label}: {report.outcome(runs[-1], workload.limit)}")
            if runs[-1]["seconds"] is None:
                system.again()
        system.pause()

    def _order(self, name):
        return [w.name for w in plan(100, False) + plan(100, True)].index(name)

    # ---- the port that everyone writes first

    def plain(self):
        """A burst with Salt's own inotify beacon; last, because it may leave the event bus dead."""
        workload = next(w for w in plan(self.args.files, False) if w.name == "events")
        workload.limit = 60
        say("a plain inotify beacon, a reactor and csync2 -x on all hosts …")
        self.boot(3)
        system = Plain(self.bed, ["web1", "web2", "web3"])
        try:
            system.install()
            system.lay(workload.tree)
            system.begin()
            system.canary("web1", 60)  # a single file arrives: it is set up rightly
            time.sleep(10)
            run = {"limit": workload.limit}
            with bus.counted(self.bed, run):
                run.update(workloads.run(system, workload, 0))
            run["silent"] = bus.silent(self.bed, system.hosts)
            say(f"    {report.outcome(run, workload.limit)}, {run['beacon_events']} events, {run['jobs']} jobs")
        except FAILURES as error:
            run = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
            say(f"  {run['failed']}")
        self.results["plain"] = run
        self.save()


def today():
    """The date, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def parse(argv):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--large", action="store_true", help="the tree of 1,000,000 files (an hour, 30 GB of disk)")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], metavar="NAME,…",
                        help="only these workloads (small, all20, …), breakdown, plain")  # fmt: skip
    parser.add_argument("--runs", type=int, metavar="N", help="at most so many runs of each workload")
    parser.add_argument("--files", type=int, default=100_000, metavar="N", help="of the big tree (100000)")
    parser.add_argument("--out", default=REPOSITORY / "docs", metavar="FOLDER", help="where the results go (docs)")
    parser.add_argument("--render", action="store_true", help="only write the report again, from the results")
    parser.add_argument("--keep", action="store_true", help="use a bed that is up, and leave it up")
    return parser.parse_args(argv)


def main(argv):
    """Measure, and take the hosts down however that ends."""
    args = parse(argv)
    bench = Bench(args)
    if args.render:
        bench.save()
        return
    began = time.monotonic()
    with alive():
        try:
            if not args.keep:
                bench.bed.down()
            bench.measure()
        finally:
            if not args.keep:
                say("taking the hosts down …")
                bench.bed.down()
    bench.results["took"] = {**bench.results.get("took", {}), bench.command: round(time.monotonic() - began)}
    bench.save()
    print(report.summary(bench.results))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the hosts are taken down
    try:
        main(sys.argv[1:])
    except TestbedError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
