"""Which controllers of a sweep live, and an end to what dead ones left behind.

A controller shows itself in an attribute of the sweep's study, again and again. On its own host it
lives as long as its process does; from another host that attribute is all there is to see.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
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
        "started": birth_of(os.getpid()),
        "beat": time.time(),
        "left": left,
    }


def mark_of_controller(shown: Mapping[str, Any] | None = None) -> str:
    """What marks the workers of the controller that showed itself as `shown`; of this process, if None."""
    # With the host, because a scheduler runs workers on other hosts, where other controllers may be; and with its
    # birth, because a number is given to another controller in time.
    shown = here(left=False) if shown is None else shown
    return f"{shown['pid']} {shown['host']} {shown['started']}"


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
        # A number is given to another process in time, and a dead process keeps its own until it is reaped.
        return birth_of(shown["pid"]) == shown["started"] and psutil.Process(shown["pid"]).status() != "zombie"
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
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


def birth_of(pid: int) -> str:
    """When a process started, so that it tells it from any other: which boot of the machine, and ticks since then.

    Not the time of day: that is moved when a clock is set, and living controllers would look dead.

    Raises:
        FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess: There is no such process.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:  # no Linux
        return f"{psutil.Process(pid).create_time():.0f}"
    # The name of the program, in brackets, may hold anything.
    said = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return f"{boot} {said.rpartition(')')[2].split()[19]}"


def _host() -> str:
    """Names this host, down to the container: process numbers mean something within it only."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{platform.node()} {namespace}".strip()
