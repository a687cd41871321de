"""
A minion of no group speaks in others' names, and nothing is decided by it.

web4 hears of every job, as all minions do, and tells the master at once, in the name of the host that is asked, how it
ended.
"""

import contextlib
import shutil
import subprocess

from places import HOSTS

GROUP, TOP = "wwwtaken", "/srv/taken"

#: Runs on a minion: hears of all jobs of the master, and says in the names of the hosts how those about a group ended.
FORGE = """
import asyncio, json, sys
import salt.channel.client, salt.config, salt.minion
options = salt.config.minion_config("/etc/salt/minion")
options.update(salt.minion.resolve_dns(options))
group, seen = sys.argv[1], 0

def lies(job, host):
    jid, signature = job["jid"], "00" * 256
    for state in ("joining", "pushed"):
        data = {"group": group, "jid": jid, "state": state, "refused": {}}
        yield f"csyncsync/{group}/pushed", {"id": host, "data": data}
    status = {group: {"state": "established", "dirty": {}, "journal": 0, "refused": {}}}
    for value in (status, {"answer": json.dumps({"value": status}), "signature": signature}):
        event = {"id": host, "jid": jid, "fun": job["fun"], "return": value, "retcode": 0, "success": True}
        yield f"salt/job/{jid}/ret/{host}", event

async def main():
    sender = salt.channel.client.AsyncReqChannel.factory(options)
    await sender.connect()
    heard = salt.channel.client.AsyncPubChannel.factory(options)
    await heard.connect()

    async def forge(payload):
        job = payload["load"] if isinstance(payload, dict) and "load" in payload else payload
        print(job["fun"], job["tgt"], flush=True)
        if not job["fun"].startswith("csyncsync."):
            return
        hosts = job["tgt"] if isinstance(job["tgt"], list) else [job["tgt"]]
        told = [lie for host in hosts for lie in lies(job, host)]
        if job["fun"] != "csyncsync.push":  # the end of a join's step is that of the whole join
            told = [(tag, data) for tag, data in told if tag.startswith("salt/")]
        events = [{"tag": tag, "data": data} for tag, data in told]
        load = {"id": options["id"], "cmd": "_minion_event", "pretag": None, "events": events}
        await sender.send(load, tries=1, timeout=20)

    heard.on_recv(forge)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@contextlib.contextmanager
def forging(hosts, group):
    """web4 says how each job about a group has ended; yields what it has heard of so far, a list of lines."""
    command = ("/opt/salt/bin/python", "-W", "ignore", "-c", FORGE, group)
    hosts.bed.up(4)
    log = hosts.path("web4", "/tmp/forged")
    with log.open("wb") as file:
        process = subprocess.Popen(hosts.bed.find("web4").enter(*command), stdout=file, stderr=file)
        try:
            hosts.eventually(lambda: hosts.ask("web1", "test.ping") and "test.ping" in log.read_text(), 60, "it hears")
            yield log.read_text
        finally:
            process.kill()
            process.wait()
            hosts.bed.salt_key("-d", "web4", "-y")
            hosts.bed.kill("web4")


def test_nobody_else_says_who_was_there_when_a_group_was_made(hosts):
    """Files that differ are conflicts: a founder stays one, though another minion says that it has joined."""
    content = {host: f"what {host} had\n" * (1 + HOSTS.index(host)) for host in HOSTS}
    for host in HOSTS:
        hosts.write(host, f"{TOP}/differs", content[host])
        hosts.write(host, f"{TOP}/only-{host}", "x\n")
    with forging(hosts, GROUP) as heard, hosts.pillar({GROUP: {"members": list(HOSTS), "include": [TOP]}}):
        hosts.apply(sls="csyncsync.groups,csyncsync.service")
        # Not what a client of Salt's is told: web4 answers in the hosts' names before they do.
        marks = [hosts.path(host, f"/var/lib/csyncsync/{GROUP}/established") for host in HOSTS]
        hosts.eventually(lambda: all(mark.exists() for mark in marks), 180, "all have joined")
        assert "csyncsync.push" in heard(), heard()
        for host in HOSTS:
            for other in HOSTS:
                hosts.everywhere(f"{TOP}/only-{other}", "x\n", hosts=[host], seconds=60)
        assert {host: hosts.read(host, f"{TOP}/differs") for host in HOSTS} == content
        hosts.eventually(lambda: any("CONFLICT" in state for state in hosts.states(GROUP).values()), 60)
    for host in HOSTS:
        shutil.rmtree(hosts.path(host, TOP), ignore_errors=True)


def test_nobody_else_answers_a_question_of_the_masters(hosts):
    with forging(hosts, "wwwshared") as heard:
        rows = hosts.run("csyncsync.status", "wwwshared")["groups"]["wwwshared"]
        assert {host: rows[host]["state"] for host in HOSTS} == dict.fromkeys(HOSTS, "in sync")
        assert all(rows[host]["watches"] for host in HOSTS), "a lie has less"
        hosts.eventually(lambda: "csyncsync.answer" in heard(), 30)
