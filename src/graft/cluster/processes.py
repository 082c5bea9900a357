"""What both servers have in common: a log, a beginning that is waited for, and an end."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import psutil

from graft.errors import FatalError

START_PATIENCE_SECONDS = 300  # PostgreSQL may have a crash to recover from
POLL_SECONDS = 0.1
LAST_LINES = 8


@dataclass(frozen=True)
class Log:
    """The file that a server writes to.

    Attributes:
        path: Of the file; nobody but the user reads it.
    """

    path: Path

    def open(self) -> BinaryIO:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(descriptor, "ab")

    def end(self) -> str:
        """For an error: what the server said last."""
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        return "\n".join([f"The end of {self.path}:", *lines])


class Server(Protocol):
    """One of the two.

    Attributes:
        name: For the user.
        variable: Of make, which has its port.
        port: Where it listens, or will.
        where: Its address.
        log: What it writes to.
    """

    name: str
    variable: str

    @property
    def port(self) -> int: ...

    @property
    def where(self) -> str: ...

    @property
    def log(self) -> Log: ...

    def process(self) -> psutil.Process | None:
        """Its first process, if it runs."""

    def clear_away(self) -> None:
        """Ends what is left of one that was killed.

        Raises:
            FatalError: if it does not end.
        """

    def start(self) -> None:
        """Starts it, and waits until it answers.

        Raises:
            FatalError: if it ended instead, or takes too long.
        """

    def answers(self) -> bool:
        """Whether it does its work now."""

    def stop(self) -> None:
        """Ends it, if it runs, and waits until it has.

        Raises:
            FatalError: if it does not end.
        """


def wait_until(answers: Callable[[], bool], started: subprocess.Popen[bytes], server: Server) -> None:
    """Returns when a server that was `started` answers.

    Raises:
        FatalError: if it ended instead, or takes too long.
    """
    deadline = time.monotonic() + START_PATIENCE_SECONDS
    while not answers():
        if started.poll() is not None:
            raise FatalError(f"{server.name} ended with status {started.returncode} at its start. {server.log.end()}")
        if time.monotonic() > deadline:
            raise FatalError(f"{server.name} does not answer on {server.where}. {server.log.end()}")
        time.sleep(POLL_SECONDS)


def has_ended(
    processes: Callable[[], Sequence[psutil.Process]], patience: float, told: Sequence[psutil.Process] = ()
) -> bool:
    """Waits until there are no such processes any more; whether that is so in the end.

    Args:
        processes: Finds those that are there.
        patience: Seconds to wait at most.
        told: Those that were told to end. One that is ending may not be found any more, and still have its port.
    """
    deadline = time.monotonic() + patience
    seen = set(told)
    while True:
        seen = {process for process in seen.union(processes()) if _lives(process)}
        if not seen or time.monotonic() > deadline:
            return not seen
        time.sleep(POLL_SECONDS)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
