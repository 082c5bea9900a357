"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import TypedDict

from graft import provenance

BUSY = 0.25  # load average a core from which figures are not to be trusted


class Machine(TypedDict):
    """The machine, without its name on the network."""

    cpu: str
    cores: int
    memory_gib: float
    system: str
    python: str
    tensorflow: str
    commit: str


def describe() -> Machine:
    """The machine at hand, and the versions in use."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "tensorflow": metadata.version("tensorflow"),
        "commit": provenance.commit(),
    }


def show() -> None:
    """Prints what it is, and how busy, in a line above a table."""
    found = describe()
    print(f"{found['cpu']}, {found['cores']} cores, {found['memory_gib']} GiB, load {load():.1f}", flush=True)


def slug(machine: Machine) -> str:
    """A name for files, such as `amd-epyc-2-cores`."""
    return re.sub(r"[^a-z0-9]+", "-", f"{machine['cpu']} {machine['cores']} cores".lower()).strip("-")


def load() -> float:
    """Processes that wanted to run, averaged over the last minute."""
    return os.getloadavg()[0]


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.is_file() else None
    return found[1].strip() if found else platform.processor() or platform.machine()
