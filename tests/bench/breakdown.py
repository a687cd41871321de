"""Where the time of one small change goes: the marks that it leaves on its way. report.STEPS names them."""

import json
import time
from datetime import datetime, timezone

import workloads
from bed.bus import listen
from bed.shell import TestbedError
from progress import say

LOG = "run/bench-csync2"
#: Stands before csync2 in the minion's PATH, for this table alone: when csync2 was called, and how.
WRAPPER = """\
#!/bin/bash
began=$EPOCHREALTIME
/usr/sbin/csync2 "$@"
code=$?
echo "$began $EPOCHREALTIME $*" >>/run/bench-csync2
exit $code
"""


def measure(system, runs):
    """Follow so many changes; [{step: seconds, …, "total": seconds}, …]."""
    say(f"  where the time of one change goes: {runs} changes …")
    wrappers = [system.bed.root(host) / "usr/local/sbin/csync2" for host in system.hosts]
    system.resume()
    try:
        for wrapper in wrappers:
            wrapper.write_text(WRAPPER, encoding="ascii")
            wrapper.chmod(0o755)
        with listen(system.bed) as ear:
            results = []
            for number in range(runs):
                marks = _follow(system, ear, 1000 + number)
                results.append(steps(marks))
                system.quiet()
            return results
    finally:
        for wrapper in wrappers:
            wrapper.unlink(missing_ok=True)
        system.pause()


def steps(marks):
    """Given [(step, time), …] in order, beginning with the write, return how long each took, and the total."""
    result = {step: now - before for (_, before), (step, now) in zip(marks, marks[1:])}
    last = dict(marks)["second"]
    return {**result, "total": last - marks[0][1]}


def _follow(system, ear, number):
    """One change; its marks [(step, time), …]."""
    ((origin, files),) = workloads.one_file(system, number).items()
    ((path, content),) = files.items()
    root = system.bed.root(origin)
    state = root / "var/lib/csyncsync" / system.group()
    (root / LOG).unlink(missing_ok=True)
    before = len(ear.all())
    with open(f"{system.top(origin)}/{path}", "w", encoding="utf-8") as file:
        file.write(content)
    wrote = time.time()
    journal, arrived = None, {}
    peers = {host: f"{system.top(host)}/{path}" for host in system.hosts if host != origin}
    while len(arrived) < len(peers):
        if journal is None:
            names = [name for name in _names(state / "journal") if name.endswith(".paths")]
            journal = min((int(name[:20]) / 1e9 for name in names), default=None)
        for host, copy in peers.items():
            if host not in arrived and workloads._is(copy, content.encode()):
                arrived[host] = time.time()
        if time.time() - wrote > 30:
            raise TestbedError(f"the change on {origin} is not everywhere after 30 s")
        time.sleep(0.002)
    events = _until_pushed(ear, before, system.group())
    push = json.loads((state / "push.json").read_text(encoding="utf-8"))
    calls = _calls(root / LOG, wrote)
    checks = [call for call in calls if call[2] != "-u"]
    sends = [call for call in calls if call[2] == "-u"]
    first, *_, last = sorted(arrived.values())
    began = push["time"] - push["seconds"]
    return [
        ("write", wrote),
        ("settle", journal or events["event"]),
        ("event", events["event"]),
        ("job", events["job"]),
        ("begin", began),
        ("check", checks[0][0] if checks else began),
        ("checked", checks[-1][1] if checks else began),
        ("send", sends[0][0]),
        ("first", first),
        ("second", last),
        ("pushed", events["pushed"]),
    ]


def _names(directory):
    try:
        return [entry.name for entry in directory.iterdir()]
    except OSError:
        return []


def _until_pushed(ear, before, group):
    """When the master's bus had the beacon's event, the job was made, and the push was told to be over."""
    limit, found = time.monotonic() + 10, {}
    while "pushed" not in found:
        for tag, data, heard in ear.all()[before:]:
            if tag.startswith("salt/beacon/") and tag.endswith(f"/csyncsync/{group}"):
                found.setdefault("event", heard)
            elif tag.startswith("salt/job/") and tag.endswith("/new") and data.get("fun") == "csyncsync.push":
                found.setdefault("job", _made(data["jid"], heard))
            elif tag == f"csyncsync/{group}/pushed":
                found["pushed"] = heard
        if time.monotonic() > limit:
            raise TestbedError("the master heard nothing of the end of a push")
        time.sleep(0.01)
    return found


def _made(jid, heard):
    """When a job id was made. It is the master's local time: the whole quarters of an hour are its time zone."""
    made = datetime.strptime(jid[:20], "%Y%m%d%H%M%S%f").replace(tzinfo=timezone.utc).timestamp()
    return made + round((heard - made) / 900) * 900


def _calls(log, since):
    """[(began, ended, "-u" for a send or the first option), …] of csync2's runs since a moment."""
    calls = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        began, ended, *words = line.split()
        if "-C" in words and float(began) >= since:
            calls.append((float(began), float(ended), "-u" if "-u" in words else words[2]))
    return calls
