"""The report: from benchmarks.json to benchmarks.md and benchmarks.svg. Nothing here runs a system."""

import json

LABELS = {"recipe": "csync2 + lsyncd", "syncthing": "Syncthing", "csyncsync": "csyncsync"}
COLORS = {"recipe": "#b0b0b0", "syncthing": "#6fa8dc", "csyncsync": "#d9601a"}

STEPS = {
    "settle": "watcher: the path is quiet for `settle` (0.1 s), then the journal is written",
    "event": "watcher, minion: the event reaches the master's bus",
    "job": "reactor and runner: the lease is taken, a job made",
    "begin": "the job reaches the minion, which starts `csyncsync.push`",
    "check": "push: guards, reading the journal",
    "checked": "csync2 checks the paths",
    "send": "push: guards, counting deletions",
    "first": "csync2 connects to all peers and sends: the file is on the first",
    "second": "until it is on the second",
    "total": "**the file is everywhere**",
    "pushed": "afterwards: the push ends, and the master hears of it; then the next one of the group may begin",
}

SETUP = """\
- *csync2 + lsyncd*: the recipe: no TLS, lsyncd with `delay = 1` runs `csync2 -x` (`checkgauge` is added, which today's
  lsyncd asks for). All hosts record their files before the first push.
- *Syncthing*: Debian's package, `fsWatcherDelayS` 1, static addresses, no discovery, no relays, no NAT; all else as it
  comes, but for what lets it stand still in between (`restartOnWakeup` off, `reconnectionIntervalS` 5).
- *csyncsync*: as the README says, with TLS. Its hourly full check is held back, so that it does not fall into the
  others' turns; Syncthing's hourly scan does not come in the run either.
- csync2's own socket serves csync2 + lsyncd; csyncsync has its server, which confines csync2.
- The trees have directories of 100 files of about 200 bytes, equal on all hosts before a system begins. A system that
  has not converged begins anew with fresh trees, and is not asked again in that workload."""


# ---- results


def load(file):
    """The results of earlier runs, {} if there are none."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def save(file, results):
    """Write the results, with times to a tenth of a millisecond."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(_rounded(results), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


# ---- figures


def percentile(values, share):
    """Given numbers and a share from 0 to 1, return the value below which that share lies, interpolated."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def figures(runs, limit):
    """
    Given one system's runs of a workload, return {"median", "p95", "worst" in seconds, "more": some of it is only
    known to be more than that (it had not converged at the limit), "failed": runs, "missing": copies at most, "runs"}.
    """
    seconds = [limit if run["seconds"] is None else run["seconds"] for run in runs]
    median = percentile(seconds, 0.5)
    return {
        "median": median,
        "p95": percentile(seconds, 0.95),
        "worst": max(seconds),
        "more": median >= limit,
        "failed": sum(run["seconds"] is None for run in runs),
        "missing": max(run["missing"] for run in runs),
        "runs": len(runs),
    }


def ratio(ours, theirs):
    """csyncsync's median to another's; an upper bound if the other did not converge, which counts with the limit."""
    return ours["median"] / theirs["median"]


def verdict(target, ours, recipe):
    """Given a row's target, return (what it asks for, whether it was met; None if nothing is asked)."""
    if "ratio" in target:
        wanted = f"ratio ≤ {target['ratio']:g}"
        met = bool(ours and recipe) and not ours["failed"] and ratio(ours, recipe) <= target["ratio"]
        return wanted, met
    if "seconds" in target:
        wanted = f"every run ≤ {target['seconds']:g} s, nothing missing"
        return wanted, bool(ours) and not ours["failed"] and ours["worst"] <= target["seconds"]
    return "report", None


def outcome(run, limit):
    """One run in words."""
    if run["seconds"] is None:
        return f"not converged after {limit:g} s, {run['missing']} copies missing"
    return f"{run['seconds']:.3f} s"


def time_text(figure, key):
    """One figure of a system; "–" if it was not measured."""
    if figure is None:
        return "–"
    seconds = figure[key]
    text = f"{seconds:.3f}" if seconds < 1 else f"{seconds:.2f}" if seconds < 10 else f"{seconds:.1f}"
    more = figure["more"] or (key == "p95" and figure["failed"])
    return f"> {seconds:.0f} s" if more and seconds >= figure["worst"] else f"{text} s"


# ---- the page


def rows(results):
    """[(workload's name, its row, {system: figures})] in the report's order; those with more than one system."""
    found = results.get("workloads", {})
    result = []
    for name in sorted(found, key=lambda name: found[name]["order"]):
        row = found[name]
        systems = {system: figures(runs, row["limit"]) for system, runs in row["systems"].items() if runs}
        result.append((name, row, systems))
    return result


def table(header, lines):
    """A Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *lines])


def times_table(results):
    """Medians, 95th percentiles, ratios and targets."""
    lines = []
    for name, row, systems in rows(results):
        if name == "events":
            continue
        ours, recipe, syncthing = (systems.get(key) for key in ("csyncsync", "recipe", "syncthing"))
        wanted, met = verdict(row["target"], ours, recipe)
        lines.append([
            row["title"],
            *(_cell(systems.get(system)) for system in LABELS),
            _ratio_text(ours, recipe), _ratio_text(ours, syncthing),
            wanted, {True: "met", False: "**missed**", None: "–"}[met],
        ])  # fmt: skip
    header = ["workload", *LABELS.values(), "csyncsync ÷ csync2 + lsyncd", "csyncsync ÷ Syncthing", "target", ""]
    return table(header, lines)


def _cell(figure):
    if figure is None:
        return "–"
    text = f"{time_text(figure, 'median')}, {time_text(figure, 'p95')} ({figure['runs']})"
    if figure["failed"]:
        text += f"; {figure['failed']} not converged, up to {figure['missing']:,} copies missing"
    return text


def _ratio_text(ours, theirs):
    if not ours or not theirs:
        return "–"
    return f"{'< ' if theirs['more'] else ''}{ratio(ours, theirs):.2g}"


def costs_table(results):
    """Processor time and memory of each workload."""
    lines = []
    for name, row, _ in rows(results):
        if name == "events":
            continue
        cells = [row["title"]]
        for system in LABELS:
            runs = row["systems"].get(system)
            cells.append(_cost(runs, system) if runs else "–")
        lines.append(cells)
    return table(["workload", *LABELS.values()], lines)


def _cost(runs, system):
    hosts = [[spent for host, spent in run["cpu"].items() if host != "master"] for run in runs]
    each = percentile([sum(spent) / len(spent) for spent in hosts], 0.5)
    memory = max(run["memory"] for run in runs) / 2**20
    text = f"{each:.2f} s, {memory:.0f} MiB"
    if system == "csyncsync":
        text += f" (master: {percentile([run['cpu']['master'] for run in runs], 0.5):.2f} s)"
    return text


def rest_table(results):
    """What each system uses while nothing happens."""
    lines = []
    for system, label in LABELS.items():
        for found in sorted(results.get("rest", {}).get(system, {}).values(), key=lambda found: found["files"]):
            hosts = [rate for host, rate in found["cpu"].items() if host != "master"]
            cells = [label, f"{found['files']:,}", f"{len(hosts)}", f"{100 * max(hosts):.1f} %"]
            lines.append([*cells, f"{found['memory'] / 2**20:.0f} MiB"])
    minion = results.get("rest", {}).get("minion")
    if minion:
        lines.append(["the Salt minion alone, before csyncsync", "–", "3", "–", f"{minion['memory'] / 2**20:.0f} MiB"])
    return table(["system", "files", "hosts", "of a core, busiest host", "resident"], lines)


def breakdown_table(results):
    """The steps of one small change."""
    runs = results["breakdown"]
    total = percentile([run["total"] for run in runs], 0.5)
    lines = []
    for step, text in STEPS.items():
        values = [run[step] for run in runs]
        middle = percentile(values, 0.5)
        share = f"{100 * middle / total:.0f} %" if step != "pushed" else ""
        lines.append([text, f"{1000 * middle:.0f} ms", f"{1000 * percentile(values, 0.95):.0f} ms", share])
    return table(["step", "median", "p95", "of the whole"], lines)


def events_table(results):
    """Events and jobs of one burst."""
    found = []
    row = results.get("workloads", {}).get("events")
    if row:
        found += [("csyncsync", run) for run in row["systems"].get("csyncsync", [])]
    if results.get("plain"):
        found.append(("Salt's inotify beacon, a reactor, `csync2 -x` on all hosts", results["plain"]))
    lines = []
    for label, run in found:
        if "failed" in run:
            lines.append([label, "could not be measured: " + run["failed"], "", "", ""])
            continue
        text = outcome(run, run.get("limit", 120))
        answered = run["silent"] or "all answered"
        lines.append([label, f"{run['beacon_events']:,}", f"{run['jobs']:,}", text, answered])
    header = ["system", "beacon events heard", "jobs made", "everywhere after", "`test.ping` afterwards, 5 s"]
    return table(header, lines)


def missed(results):
    """What does not reach its target, or is behind Syncthing, in sentences."""
    lines = []
    for _, row, systems in rows(results):
        ours, recipe, syncthing = (systems.get(key) for key in ("csyncsync", "recipe", "syncthing"))
        if not ours:
            lines.append(f"{row['title']}: csyncsync could not be measured.")
            continue
        wanted, met = verdict(row["target"], ours, recipe)
        if met is False and "ratio" in row["target"]:
            lines.append(f"{row['title']}: the target is {wanted}, measured was {_ratio_text(ours, recipe)}.")
        elif met is False:
            lines.append(
                f"{row['title']}: the target is {wanted}; the slowest run took {time_text(ours, 'worst')}"
                + (f", {ours['failed']} runs did not converge" if ours["failed"] else "") + "."
            )  # fmt: skip
        if syncthing and ratio(ours, syncthing) >= 1:
            lines.append(f"{row['title']}: slower than Syncthing ({_ratio_text(ours, syncthing)} times its median).")
    lines += [
        f"{LABELS.get(name, name)} failed on the way: {text}" for name, text in results.get("failures", {}).items()
    ]
    return lines


def page(results):
    """benchmarks.md."""
    found = results.get("machine", {})
    dates = sorted({row["date"] for row in results.get("workloads", {}).values()})
    commands = " and ".join(sorted({f"`{row['command']}`" for row in results.get("workloads", {}).values()}))
    versions = "; ".join(f"{LABELS[n]}: {text}" for n, text in sorted(results.get("versions", {}).items()))
    short = missed(results)
    notes = [f"`{command}`: {note}" for command, told in sorted(results.get("notes", {}).items()) for note in told]
    parts = [
        "# Benchmarks",
        f"Made by {commands} (`tests/bench`), not by hand.",
        f"Measured {' and '.join(dates)} on one machine with {found.get('cores')} cores ({found.get('processor')}),"
        f" {found.get('memory_gib')} GiB, Linux {found.get('kernel')}; the hosts are containers on it. {versions}.",
        "![Times of each workload and system](benchmarks.svg)",
        "## Time until a change is everywhere",
        "Each cell: median, 95th percentile (runs). From the end of the write until the content is on all hosts, looked"
        " at every 5 ms (20 ms with many files). All systems run on the same hosts in one run and take turns, another"
        " one first each time; while one is measured, the daemons of the others stand still. `>`: it had not converged"
        " at the limit.",
        times_table(results),
        "## What is missed",
        "\n".join(f"- {line}" for line in short) if short else "Nothing: all targets are met.",
        *(["What else is to be known:", "\n".join(f"- {note}" for note in notes)] if notes else []),
        "## Processor time and memory",
        "Each cell: seconds of processor time per host and run (mean of the hosts, median of the runs), from the write"
        " until the hosts are at rest again, without what they use at rest; resident memory of the daemons on the"
        " host where it is most (for csyncsync the whole minion).",
        costs_table(results),
        "At rest:",
        rest_table(results),
    ]
    if results.get("breakdown"):
        parts += [
            "## Where the time of one small change goes",
            f"{len(results['breakdown'])} changes of one file in the small tree, 3 hosts. For this table alone a script"
            " stands before csync2 that notes when it was called; it costs some milliseconds a call.",
            breakdown_table(results),
        ]
    if results.get("plain") or "events" in results.get("workloads", {}):
        parts += [
            "## Events and jobs for a burst of 2,000 files",
            "Below csyncsync stands the port that everyone writes first: Salt's own `inotify` beacon, a reactor, and"
            " `csync2 -x` on all hosts. Events are those that a listener on the master's bus heard (not all, if the bus"
            " died), jobs those in the master's job cache.",
            events_table(results),
        ]
    parts += [
        "## How the systems are set up",
        SETUP,
    ]
    return "\n\n".join(parts) + "\n"


def summary(results):
    """The page's main table for the terminal."""
    lines = []
    for _, row, systems in rows(results):
        wanted, met = verdict(row["target"], systems.get("csyncsync"), systems.get("recipe"))
        cells = [f"{LABELS[s]} {time_text(systems[s], 'median')}" for s in LABELS if s in systems]
        judged = "" if met is None else f" ({wanted}: {'met' if met else 'MISSED'})"
        lines.append(f"{row['title']}: {', '.join(cells)}{judged}")
    return "\n".join(["", *lines, "", *(f"missed: {line}" for line in missed(results))])


# ---- the plot


def plot(path, results):
    """Horizontal bars, one for each workload and system, on a logarithmic scale."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "csyncsync", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    shown = [(row, systems) for name, row, systems in rows(results) if name != "events" and systems]
    if not shown:
        return
    figure, axes = pyplot.subplots(figsize=(9, 0.9 + 0.75 * max(1, len(shown))))
    for index, (_, systems) in enumerate(shown):
        for offset, system in enumerate(LABELS):
            found = systems.get(system)
            if found is None:
                continue
            height = index + (offset - 1) * 0.26
            axes.barh(height, found["median"], 0.24, color=COLORS[system], hatch="//" if found["more"] else None,
                      edgecolor="white", label=LABELS[system] if not index else None)  # fmt: skip
            axes.plot([found["median"], found["p95"]], [height, height], color="#404040", linewidth=1)
            axes.text(
                max(found["median"], found["p95"]) * 1.06, height, time_text(found, "median"), va="center", fontsize=8
            )
    axes.set_xscale("log")
    axes.set_yticks(range(len(shown)), [row["title"] for row, _ in shown])
    axes.invert_yaxis()
    axes.set_xlabel("seconds until the change is on all hosts: median, line to the 95th percentile (logarithmic)")
    axes.set_xlim(0.1, 2 * max([1, *(found["p95"] for _, systems in shown for found in systems.values())]))
    axes.xaxis.set_major_formatter("{x:g}")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=3, frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    pyplot.close(figure)


def write(folder, results):
    """Write page and plot."""
    (folder / "benchmarks.md").write_text(page(results), encoding="utf-8")
    plot(folder / "benchmarks.svg", results)
