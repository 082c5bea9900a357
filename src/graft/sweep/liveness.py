"""Which controllers of a sweep live, and an end to what dead ones left behind.

A controller shows itself in an attribute of the sweep's study, again and again. On its own host it
lives as long as its process does; from another host that attribute is all there is to see.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from typing import Any

import psutil

BEAT_SECONDS = 20.0
"""How often a controller shows that it lives."""

DEAD_AFTER_SECONDS = 120.0
"""A controller on another host that was silent for so long is taken to be dead."""

CONTROLLER_VARIABLE = "GRAFT_CONTROLLER"
"""Environment variable of each worker that holds the mark of its controller."""


def here(*, left: bool) -> dict[str, Any]:
    """How this process shows itself as a controller; `left` once it has taken leave."""
    return {
        "host": _host(),
        "pid": os.getpid(),
        "started": _started(psutil.Process()),
        "beat": time.time(),
        "left": left,
    }


def mark_of_controller(shown: Mapping[str, Any] | None = None) -> str:
    """What marks the workers of the controller that showed itself as `shown`; of this process, if None."""
    # With the host, because a scheduler runs workers on other hosts, where other controllers may be.
    return f"{os.getpid()} {_host()}" if shown is None else f"{shown['pid']} {shown['host']}"


class Watch:
    """Which controllers live, seen from this one.

    Those on other hosts are judged by whether what they show changes while this one looks, and their
    clocks are never compared with its own: they may differ by more than a controller may be silent.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}

    def alive(self, name: str, shown: Mapping[str, Any]) -> bool:
        """Whether the controller `name`, which showed itself as `shown`, can still be running trials."""
        if shown["left"]:
            return False
        lives = process_lives(shown)
        if lives is not None:
            return lives
        now = time.monotonic()
        beat, since = self._seen.get(name, (None, now))
        if beat != shown["beat"]:
            since = now
        self._seen[name] = (shown["beat"], since)
        return now - since < DEAD_AFTER_SECONDS

    def start_over(self) -> None:
        """Takes all for alive again: this controller could not look, so nobody's silence means anything."""
        self._seen.clear()


def process_lives(shown: Mapping[str, Any]) -> bool | None:
    """Whether the process that showed itself with `host`, `pid` and `started` lives; None if it ran on another host."""
    if shown["host"] != _host():
        return None
    try:
        process = psutil.Process(shown["pid"])
        # A number is given to another process in time, and a dead process keeps its own until it is reaped.
        return _started(process) == shown["started"] and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_leftover_workers(controller: Mapping[str, Any] | None) -> None:
    """Ends workers that outlived their controller, if it ran on this host.

    They end by themselves when their pipe closes, unless a task holds the interpreter in a long call;
    two attempts of a trial must never write to one folder.
    """
    if controller is None or controller["host"] != _host():
        return
    for process in psutil.process_iter(["cmdline"]):
        try:
            if "graft.sweep.worker" in (process.info["cmdline"] or ()) and process.environ().get(
                CONTROLLER_VARIABLE
            ) == mark_of_controller(controller):
                process.kill()
                process.wait(10)
        except psutil.Error:
            continue


def _started(process: psutil.Process) -> float:
    """When a process started: in seconds since the machine did, where the system says that.

    The time of day would be another one for whoever asks after the clock was set, and a process that lives be taken
    for another one.
    """
    try:
        with open(f"/proc/{process.pid}/stat", "rb") as file:
            # Behind the name, which may hold anything, the 22nd field in all.
            return int(file.read().rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    except (FileNotFoundError, ProcessLookupError):
        return round(float(process.create_time()))  # raises for a process that is gone


def _host() -> str:
    """Names this host, down to the container: process numbers mean something within it only."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{platform.node()} {namespace}".strip()
