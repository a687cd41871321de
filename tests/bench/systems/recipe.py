"""The recipe: csync2 without TLS, and lsyncd that runs `csync2 -x` one second after a change."""

from bed.network import address
from bed.shell import TestbedError

from .base import System

KEY = "/etc/csync2_{group}.key"
CONFIG = """\
nossl * *;
group web {{
{hosts}
  key {key};
  include {place};
  exclude .*.swp;
}}
"""

# What the recipe's template tells lsyncd, for the lsyncd of today (checkgauge) and Debian's place of csync2's configs.
LSYNCD = """\
settings {{
    logfile = "/var/log/lsyncd/lsyncd.log",
    statusFile = "/var/log/lsyncd/status.log",
    statusInterval = 1,
}}

csync2 = {{
    checkgauge = {{ syncid = true }},
    delay = 1,
    maxProcesses = 1,

    prepare = function(config)
        local file, problem = io.open("/etc/csync2_" .. config.syncid .. ".cfg")
        if not file then
            error("syncid: " .. problem, 4)
        end
        file:close()
    end,

    init = function(event)
        spawn(event, "/usr/sbin/csync2", "-C", event.config.syncid, "-x")
    end,

    action = function(inlet)
        local config = inlet.getConfig()
        local list = inlet.getEvents(function(event) return event.etype ~= "Init" end)
        local root = string.sub(config.source, 1, -2)
        local paths = list.getPaths(function(kind, path) return config.syncid .. ":" .. root .. path end)
        log("Normal", "changed:\\n", table.concat(paths, "\\n"))
        spawn(list, "/usr/sbin/csync2", "-C", config.syncid, "-x")
    end,

    collect = function(agent, code)
        if agent.isList then
            log("Normal", "pushed, exit code ", code)
        elseif agent.etype == "Init" and code ~= 0 then
            log("Error", "the first push failed, exit code ", code)
            terminate(-1)
        end
    end,
}}

sync {{ csync2, source = "{place}", syncid = "{group}" }}
"""


class Recipe(System):
    """csync2 and lsyncd."""

    name, label = "recipe", "csync2 + lsyncd"
    daemons = ("lsyncd.service",)
    listener = "csync2.socket"

    def install(self):
        for host in self.hosts:
            self._shell(
                host,
                """
                export DEBIAN_FRONTEND=noninteractive
                dpkg -s csync2 lsyncd >/dev/null 2>&1 || apt-get install -y -q --no-install-recommends csync2 lsyncd
                mkdir -p /etc/lsyncd /var/log/lsyncd
                """,
            )

    def begin(self):
        self.listen(True)
        group = "recipe" + self.tree.name
        hosts = "\n".join(f"  host {host}@{address(host)};" for host in self.hosts)
        config = CONFIG.format(hosts=hosts, key=KEY.format(group=group), place=self.place)
        key = self._shell(self.hosts[0], "f=$(mktemp -u); csync2 -k $f >&2; cat $f; rm $f")
        for host in self.hosts:
            root = self.bed.root(host)
            (root / f"etc/csync2_{group}.cfg").write_text(config, encoding="utf-8")
            file = root / KEY.format(group=group)[1:]
            file.touch(0o600)
            file.write_text(key, encoding="utf-8")
            (root / "etc/lsyncd/lsyncd.conf.lua").write_text(
                LSYNCD.format(place=self.place, group=group), encoding="utf-8"
            )
        # All hosts know their files before anyone pushes.
        self._on_all(f"csync2 -C {group} -cIr /")
        for host in self.hosts:
            self._shell(host, "systemctl restart lsyncd")
        self.wait(self._not_running, 15)
        self.wait(lambda: self._dirty(group), 600)

    def end(self):
        for host in self.hosts:
            self._shell(
                host,
                """
                systemctl kill -s CONT lsyncd 2>/dev/null
                systemctl stop lsyncd
                pkill -x lsyncd; pkill -x csync2; sleep 0.3; pkill -9 -x csync2
                rm -f /etc/csync2_recipe* /var/lib/csync2/*_recipe*
                true
                """,
            )

    def version(self):
        text = self._shell(self.hosts[0], "dpkg-query -W -f '${Package} ${Version}, ' csync2 lsyncd")
        return text.strip(", ")

    def _dirty(self, group):
        """Which host still has something to send: `-M` lists it and ends with 2 if there is nothing."""
        for host in self.hosts:
            done = self.bed.exec(host, "csync2", "-C", group, "-M", check=False)
            if done.returncode != 2:
                return f"{host} has {len(done.stdout.splitlines())} entries to send"
        return ""

    def _not_running(self):
        missing = [host.name for host in self.meter.hosts if not host.pids(self.daemons)]
        return f"no lsyncd on {', '.join(missing)}; is fs.inotify.max_user_instances too small?" if missing else ""

    def _on_all(self, command):
        """Run a command on all hosts at once; it can take a while with large trees."""
        for host in self.hosts:
            self._shell(host, f"rm -f /run/bench-done; ({command}; echo $? >/run/bench-done) >/dev/null 2>&1 &")

        def running():
            missing = [host for host in self.hosts if not (self.bed.root(host) / "run/bench-done").exists()]
            return f"{command} on {', '.join(missing)}" if missing else ""

        self.wait(running, 1800, pause=0.1)
        for host in self.hosts:
            code = (self.bed.root(host) / "run/bench-done").read_text().strip()
            if code != "0":
                raise TestbedError(f"{command} on {host} ended with {code}")

    def _shell(self, host, script):
        return self.bed.exec(host, "sh", "-c", script).stdout
