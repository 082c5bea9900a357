"""The CPUs of this machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """What the CPU calls itself, or else its architecture."""
    return _facts().get("model name") or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """The instructions that the CPU has, as Linux calls them; nothing where it does not say."""
    return _facts().get("flags", "").split()


def _facts() -> dict[str, str]:
    """What Linux says of the first CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    facts: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    return facts
