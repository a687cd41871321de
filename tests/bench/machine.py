"""What the benchmark ran on."""

import os
import platform
from pathlib import Path


def describe():
    """{"processor", "cores", "memory_gib", "kernel"} of this machine."""
    memory = int(_field("/proc/meminfo", "MemTotal").split()[0])
    return {
        "processor": _field("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**20),
        "kernel": platform.release().split("-")[0],
    }


def _field(path, name):
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "0"
