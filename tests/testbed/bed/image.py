"""The image that all hosts boot from: Debian, Salt, and a package repository of their own.

Packages come from the Debian archive that this machine's own apt uses, Salt comes from where its own
pip gets packages. None of those settings stays in the image: a host has no way outside.
"""

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from .shell import TestbedError, locked, remove_tree, run, say

CACHE = Path("/var/cache/csyncsync-testbed")
RELEASE = "bookworm"

# Debian packages that provide the commands the testbed runs on the machine.
TOOLS = {
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "mount": "mount",
    "mmdebstrap": "mmdebstrap",
}
PACKAGES = [
    "systemd", "systemd-sysv", "dbus", "python3", "python3-venv", "ca-certificates", "iproute2", "procps",
    "openssl",
]  # fmt: skip
# Some of Salt's dependencies have no wheel. Removed from the image again.
BUILD_PACKAGES = ["gcc", "libc6-dev", "python3-dev"]
# What hosts can install: these, and whatever of their dependencies the image lacks.
OFFERED = ["csync2", "lsyncd", "syncthing", "tcc", "libc6-dev"]
NOT_INSTALLED = ["man", "doc", "info", "locale", "lintian", "bug"]

# Units that are slow or of no use in a container.
MASKED = [
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "fstrim.timer", "console-getty.service", "getty.target",
    "systemd-networkd.service", "systemd-networkd.socket", "systemd-networkd-wait-online.service",
    "systemd-resolved.service", "systemd-timesyncd.service", "systemd-tmpfiles-clean.timer",
    "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service",
    "systemd-journal-catalog-update.service", "systemd-hwdb-update.service",
]  # fmt: skip

# Like the units in Salt's own packages.
UNITS = {
    "salt-master": """\
[Unit]
Description=The Salt Master Server
After=network.target

[Service]
LimitNOFILE=100000
Type=notify
NotifyAccess=all
ExecStart=/usr/local/bin/salt-master

[Install]
WantedBy=multi-user.target
""",
    "salt-minion": """\
[Unit]
Description=The Salt Minion
After=network.target salt-master.service

[Service]
KillMode=process
LimitNOFILE=100000
Type=notify
NotifyAccess=all
ExecStart=/usr/local/bin/salt-minion

[Install]
WantedBy=multi-user.target
""",
}

# The build's mounts are seen by the build alone, and it ends with the command that started it, however
# that ends. So an interrupted build leaves nothing but files, and the next one removes those.
ISOLATED = [
    "setpriv", "--pdeathsig", "KILL",
    "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
]  # fmt: skip

# Runs while the image still has its way to the Debian archive. First downloads what hosts can install,
# then installs the build packages (in this order: what they pull in is purged with them).
EXTRA_SCRIPT = f"""
set -e
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
get="apt-get install -y -q --no-install-recommends"
mkdir -p "$1/srv/packages/partial"
$get --download-only -o Dir::Cache::archives="$1/srv/packages" {" ".join(OFFERED)}
$get -o DPkg::Chroot-Directory="$1" {" ".join(BUILD_PACKAGES)}
"""

# Sees the image's Python with everything else from the machine, so that pip finds the machine's settings,
# certificates and package folders under the paths they name. What pip writes to /opt lands in the image.
PIP_SCRIPT = """
image=$1 work=$2 spec=$3
for part in /usr/local /usr/share/ca-certificates; do
    if [ -d "$part" ]; then mkdir -p "$image$part"; mount --bind "$part" "$image$part"; fi
done
mount -t overlay overlay -o "lowerdir=/opt,upperdir=$image/opt,workdir=$work" /opt
mount --rbind "$image/usr" /usr
/usr/bin/python3 -m venv /opt/salt
/opt/salt/bin/pip install --quiet "$spec"
"""


def _installed(command):
    return shutil.which(command, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")


def ensure_tools():
    """Install the Debian packages that the testbed needs on the machine, as far as they are missing."""
    if not _missing_packages():
        return
    with locked(CACHE / "tools.lock", "installing packages"):  # testbeds that start beside each other
        if missing := _missing_packages():
            say(f"installing {', '.join(missing)} on this machine …")
            _install(missing)


def _missing_packages():
    return [package for command, package in TOOLS.items() if not _installed(command)]


def _install(packages):
    install = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    if run(*install, check=False, env=env).returncode:
        # Perhaps only the package lists are old. Some other broken source must not stop us.
        run("apt-get", "update", check=False)
        if run(*install, check=False, env=env).returncode:
            raise TestbedError(f"missing packages, and apt could not install them. Run: {' '.join(install)}")


# ---- which Debian archive


def _codename():
    text = Path("/etc/os-release").read_text(encoding="utf-8")
    found = re.search(r"^VERSION_CODENAME=\"?([a-z]+)", text, re.MULTILINE)
    return found.group(1) if found else RELEASE


def _archives():
    """Lines for a sources.list: the Debian archives among this machine's apt sources, nothing else."""
    lines = []
    own = _codename()
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    option = f"[signed-by={keyring}] " if keyring.exists() else ""
    columns = "--format=$(CREATED_BY)\t$(ORIGIN)\t$(COMPONENT)\t$(CODENAME)\t$(REPO_URI)"
    for row in run("apt-get", "indextargets", columns).stdout.splitlines():
        created_by, origin, component, codename, uri = row.split("\t")
        base, _, pocket = codename.partition("-")
        if (created_by, origin, component, base) != ("Packages", "Debian", "main", own):
            continue
        if pocket in ("", "updates", "security") and not uri.startswith("cdrom:"):
            lines.append(f"deb {option}{uri} {RELEASE}{'-' + pocket if pocket else ''} main")
    return list(dict.fromkeys(lines))


def _find_archives():
    lines = _archives()
    if not lines:  # apt tells an archive's origin only after an update
        run("apt-get", "update", check=False)
        lines = _archives()
    if not lines:
        raise TestbedError("this machine's apt sources name no Debian archive (check `apt-get update`)")
    return lines


def _apt_options():
    """The machine's settings on how to fetch (proxy, certificates, …) as lines for apt.conf."""
    wanted = re.compile(r'Acquire::(http|https|Check-|Retries|ForceIPv)\S*\s+"[^"]+";$')
    return [line for line in run("apt-config", "dump").stdout.splitlines() if wanted.match(line)]


# ---- building


def _salt_spec():
    """What to ask pip for: the newest of a series (3008), or one version (3008.3)."""
    version = os.environ.get("TESTBED_SALT") or "3008"
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", version):
        raise TestbedError(f"bad TESTBED_SALT {version!r}: give a series like 3008 or a version like 3008.3")
    return f"salt=={version}" if "." in version else f"salt=={version}.*"


def _key(spec):
    """A name for the image: changes with the Salt version asked for and with this file, its recipe."""
    recipe = Path(__file__).read_bytes()
    return f"{spec.removeprefix('salt==').rstrip('.*')}-{hashlib.sha256(recipe).hexdigest()[:12]}"


def ensure_image():
    """The folder of the image; builds it if this is the first time."""
    spec = _salt_spec()
    image = CACHE / "images" / _key(spec)
    if not image.exists():
        with locked(CACHE / "build.lock", "building an image"):
            if not image.exists():
                say(f"building the base image for {spec} (about 2 minutes, once) …")
                _build(spec, image)
    return image


def _build(spec, image):
    """Build beside the final place and move there when complete."""
    image.parent.mkdir(parents=True, exist_ok=True)
    for leftover in image.parent.glob(".building-*"):
        remove_tree(leftover)
    work = Path(tempfile.mkdtemp(prefix=".building-", dir=image.parent))
    work.chmod(0o755)
    root = work / "root"
    try:
        say("  Debian …")
        _bootstrap(root, work)
        say("  Salt …")
        _install_salt(root, work, spec)
        say("  settings …")
        _chroot(root, "apt-get", "purge", "-y", "-q", "--auto-remove", *BUILD_PACKAGES)
        _configure(root)
        _index_packages(root)
        root.rename(image)
    finally:
        remove_tree(work)


def _bootstrap(root, work):
    """Unpack Debian, and download the packages that hosts can install later."""
    options = work / "apt.conf"
    options.write_text("\n".join(_apt_options()) + "\n", encoding="utf-8")
    sources = work / "sources.list"
    sources.write_text("\n".join(_find_archives()) + "\n", encoding="utf-8")
    run(
        *ISOLATED, "mmdebstrap", "--mode=root", "--variant=apt", "--quiet",
        f"--include={','.join(PACKAGES)}",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in NOT_INSTALLED),
        f"--aptopt={options}", f"--customize-hook={EXTRA_SCRIPT}",
        RELEASE, root, sources,
    )  # fmt: skip


def _install_salt(root, work, spec):
    """Make the environment /opt/salt in the image."""
    overlay = work / "overlay"
    overlay.mkdir()
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    env["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    run(*ISOLATED, "sh", "-ec", PIP_SCRIPT, "sh", root, overlay, spec, env=env)
    for script in sorted((root / "opt/salt/bin").glob("salt*")):
        (root / "usr/local/bin" / script.name).symlink_to(f"/opt/salt/bin/{script.name}")


def _chroot(root, *command):
    """Run a command in the image, where no service may start."""
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    return run(*ISOLATED, "chroot", root, *command, env=env)


def _configure(root):
    """Write the settings that all hosts share."""
    units = root / "etc/systemd/system"
    for name, text in UNITS.items():
        (units / f"{name}.service").write_text(text, encoding="utf-8")
        config = root / "etc/salt" / name.removeprefix("salt-")
        config.with_suffix(".d").mkdir(parents=True)
        config.write_text(f"# The settings are in {config.name}.d/*.conf\n", encoding="utf-8")
    for unit in MASKED:
        mask = units / unit
        mask.unlink(missing_ok=True)
        mask.symlink_to("/dev/null")
    for file in ("etc/apt/apt.conf.d/99mmdebstrap", "etc/hostname", "etc/resolv.conf", "usr/sbin/policy-rc.d"):
        (root / file).unlink(missing_ok=True)
    (root / "etc/resolv.conf").touch()
    (root / "etc/machine-id").write_text("", encoding="utf-8")
    for file in (root / "etc/apt/sources.list.d").iterdir():
        file.unlink()
    (root / "etc/apt/sources.list").write_text("deb [trusted=yes] file:/srv/packages ./\n", encoding="utf-8")


def _index_packages(root):
    """Make /srv/packages a repository, and let the image's apt know it."""
    folder = root / "srv/packages"
    shutil.rmtree(folder / "partial")
    (folder / "lock").unlink()
    entries = []
    for deb in sorted(folder.glob("*.deb")):
        control = run("dpkg-deb", "--field", deb).stdout.strip()
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        entries.append(f"{control}\nFilename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n")
    (folder / "Packages").write_text("\n".join(entries), encoding="utf-8")
    _chroot(root, "apt-get", "update", "-q")
