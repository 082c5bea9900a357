"""A Slurm job that keeps a place on some node for a slot, or waits for one, seen from the controller."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from graft.sweep.mailbox import FROM_WORKER, TO_WORKER, Inbox, post
from graft.sweep.process import POLL_SECONDS
from graft.sweep.workers import NotYet

SAY_SECONDS = 10.0
"""How long a worker may wait for its place before the user is told."""

ANSWER_SECONDS = 15.0
"""How long a node that was told to end something may take to say that it has."""


class NoPlace(Exception):
    """A job could not be submitted, or ended before it began; the text says why."""


class Queue(Protocol):
    """Slurm's queue as a place sees it, called by several threads at once. See `graft.sweep.slurm_queue`."""

    def holds(self, job: str) -> bool:
        """Whether the job waits or runs, as far as is known."""

    def cancel(self, job: str) -> None:
        """Ends the job, if it is not over already. Does not wait."""

    def log(self, job: str) -> Path:
        """The file with what the job itself printed; it need not be there."""


class Place:
    """A Slurm job that keeps a place on some node, or waits for one, and its mailbox.

    Used from its slot's thread, but for `beat`; `post` may be called from any.

    Args:
        queue: Where it was submitted.
        job: Its id.
        mailbox: Made for it alone.
        lost_after: Seconds without a word from the job after which it is `silent`.

    Attributes:
        tenancy: Mark of the stay on a node that is going on; None while the job waits for its first.
        stays: How many there were, this one included.
        leaving: The present stay was warned that its place is taken away.
        over: Nothing more comes of the job, unless Slurm begins it once more.
        processes: How many worker processes were started in it.
        lives: Whether the controller shows the job that it lives.
    """

    def __init__(self, queue: Queue, job: str, mailbox: Path, *, lost_after: float) -> None:
        self._queue = queue
        self._mailbox = mailbox
        self._lost_after = lost_after
        self._inbox = Inbox(mailbox / FROM_WORKER)
        self.job = job
        self.tenancy: str | None = None
        self.stays = 0
        self.leaving = False
        self.over = False
        self.processes = 0
        self.lives = True
        self._heard = time.monotonic()
        self._unheard = False

    def messages(self, patience: float) -> list[dict[str, Any]]:
        """What the present stay said within `patience` seconds; the beginning of another is among it, as ``hello``."""
        arrived = []
        try:
            found = self._inbox.wait(patience)
        except FileNotFoundError:  # the job takes it along where it has heard nothing of the controller
            found = [{"kind": "over", "of": self.tenancy, "process": -1}]
        except OSError:  # of the file server; one that lasts is a silence
            time.sleep(min(patience, POLL_SECONDS))
            found = []
        for message in found:
            if message["kind"] == "hello":
                if not self.lives:
                    continue  # it was given up, and Slurm began it once more all the same
                self.tenancy, self.leaving, self.over = message["of"], False, False
                self._unheard = False
                self.stays += 1
            elif message.get("of") != self.tenancy:
                continue
            self._heard = time.monotonic()
            if message["kind"] == "leaving":
                self.leaving = True
                self.over = not message["requeued"]
            elif message["kind"] == "over":
                self.over = self.over or not self.leaving
            if message["kind"] != "beat":
                arrived.append(message)
        return arrived

    @property
    def waits(self) -> bool:
        """Whether the job is in Slurm's queue for a node, for the first time or again."""
        return self.tenancy is None or self.leaving

    @property
    def silent(self) -> bool:
        """Whether nothing was heard of it for longer than it may be silent, or it could not be told what to run."""
        return self._unheard or time.monotonic() - self._heard > self._lost_after

    def post(self, kind: str, **fields: Any) -> None:
        """Tells the present stay something. A place that cannot be told what to run counts as silent."""
        try:
            post(self._mailbox / TO_WORKER, {"to": self.tenancy, "kind": kind, **fields})
        except OSError:
            # It goes on saying that it lives, and would wait for ever for what it never got.
            self._unheard = self._unheard or kind in ("start", "job")

    def beat(self) -> None:
        """Shows whoever serves the mailbox that the controller lives."""
        if self.lives:
            with contextlib.suppress(OSError):
                post(self._mailbox / TO_WORKER, {"kind": "beat"})

    def wait_until_there(
        self, say: Callable[[str], None], better: Callable[[], bool], withdrawn: Callable[[], bool]
    ) -> None:
        """Returns once the job has a node.

        Raises:
            NotYet: if it has none, and `better` said True.
            EOFError: if `withdrawn` said True.
            NoPlace: if it ended before it began, this time.
        """
        began = time.monotonic()
        told = False
        while self.tenancy is None or self.leaving or self.over:
            self.messages(POLL_SECONDS)
            if withdrawn():
                raise EOFError
            if better():
                raise NotYet
            if self.over or not self._queue.holds(self.job):
                self.over = True
                raise NoPlace(self._why_it_never_began())
            if not told and time.monotonic() - began > SAY_SECONDS:
                told = True
                say(f"waits in Slurm's queue as job {self.job}")
        self._heard = time.monotonic()

    def _why_it_never_began(self) -> str:
        log = self._queue.log(self.job)
        if self.stays:
            return f"Slurm's job {self.job} was to be requeued, and was not."
        if not log.exists():
            return f"Slurm's job {self.job} left the queue before it began; somebody may have cancelled it."
        lines = [line for line in _read(log).splitlines() if line.strip()]
        last = f" It last printed: {lines[-1].strip()}" if lines else ""
        return (
            f"Slurm's job {self.job} ended before it began to work; {log} has what it printed.{last} The lines of "
            "hydra.launcher.setup have to end well, and each node needs this machine's Python, Graft and packages, and "
            "this folder, at the same paths."
        )

    def abandon(self) -> None:
        """Gives up a place that nothing is heard of; returns when nothing can be going on there any more."""
        self.lives = False
        self.over = True
        self.post("end")
        self._queue.cancel(self.job)
        # A node that is merely cut off ends the trial by itself, and until then nobody else may run it.
        deadline = time.monotonic() + 1.1 * self._lost_after + 1
        while time.monotonic() < deadline:
            if any(message["kind"] == "over" for message in self.messages(POLL_SECONDS)):
                return

    def give_up(self) -> None:
        """Ends the job without waiting for what becomes of it."""
        self.lives = False
        self.over = True
        self.leaving = False
        self._queue.cancel(self.job)

    def end(self) -> None:
        """Ends the job, and waits for that as long as it answers."""
        if self.tenancy is not None and not self.over and not self.leaving:
            self.post("end")
            deadline = time.monotonic() + ANSWER_SECONDS
            while time.monotonic() < deadline and not self.over and not self.leaving:
                self.messages(POLL_SECONDS)
        # Slurm may have requeued it by itself.
        if not self.over or self.leaving:
            self._queue.cancel(self.job)
        self.over = True
        self.lives = False
        shutil.rmtree(self._mailbox, ignore_errors=True)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
