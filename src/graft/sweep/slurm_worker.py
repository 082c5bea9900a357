"""A slot's place on a Slurm cluster, and the worker in it, seen from the controller."""

from __future__ import annotations

import base64
import collections
import contextlib
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from graft.sweep.compose import job_directory
from graft.sweep.jobs import Job
from graft.sweep.mailbox import FROM_WORKER, TO_WORKER, Inbox, post
from graft.sweep.process import (
    LAST_LINES,
    POLL_SECONDS,
    QUIT_PATIENCE_SECONDS,
    Unfit,
    pickled_job,
    wait_for_greeting,
)
from graft.sweep.workers import NotYet, PlaceTaken, Withdrawn

SAY_SECONDS = 10.0
"""How long a worker may wait for its place before the user is told."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 2.0, 300.0
"""Before a job is submitted in the place of one that was refused, or ended too early; twice as long each time."""

ANSWER_SECONDS = 15.0
"""How long a node that was told to end something may take to say that it has."""


class NoPlace(Exception):
    """A job could not be submitted, or ended before it began; the text says why."""


class Queue(Protocol):
    """Slurm's queue as a place sees it. See `graft.sweep.slurm_cluster`."""

    def holds(self, job: str) -> bool:
        """Whether the job waits or runs, as far as is known."""

    def cancel(self, job: str) -> None:
        """Ends the job, if it is not over already. Does not wait."""

    def log(self, job: str) -> Path:
        """What the job itself printed."""


class Place:
    """A Slurm job that keeps a place on some node, or waits for one, and its mailbox.

    Args:
        queue: Where it was submitted.
        job: Its id.
        mailbox: Made for it alone.
        lost_after: See `SlotJob`.
    """

    def __init__(self, queue: Queue, job: str, mailbox: Path, *, lost_after: float) -> None:
        self._queue = queue
        self._mailbox = mailbox
        self._lost_after = lost_after
        self._inbox = Inbox(mailbox / FROM_WORKER)
        self.job = job
        self.tenancy: str | None = None
        """Mark of the stay on a node that is going on; None while the job waits."""
        self.stays = 0
        self.leaving = False
        self.over = False
        self.processes = 0
        self.lives = True
        """Whether the controller shows the job that it lives."""
        self._heard = time.monotonic()

    def messages(self, patience: float) -> list[dict[str, Any]]:
        """What the present stay said; the beginning of another one is among it, as ``hello``."""
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
                self.tenancy, self.leaving, self.over = message["of"], False, False
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
    def silent(self) -> bool:
        """Whether nothing was heard of it for longer than it may be silent."""
        return time.monotonic() - self._heard > self._lost_after

    def post(self, kind: str, **fields: Any) -> None:
        """Tells the present stay something. If that fails, it is noticed as a silence."""
        with contextlib.suppress(OSError):
            post(self._mailbox / TO_WORKER, {"to": self.tenancy, "kind": kind, **fields})

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
            NotYet: It has none, and `better` said True.
            EOFError: `withdrawn` said True.
            NoPlace: It ended before it began, this time.
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


class Places(Protocol):
    """The places of all slots."""

    def of(self, slot: int) -> Place:
        """The slot's place; asks for one where it has none. Raises NoPlace where none can be asked for."""

    def count_place(self) -> None:
        """Some slot has its place."""

    def hopeless(self, failures: int) -> bool:
        """Whether to give up after a slot has failed so often in a row to get a place."""


class SlurmWorker:
    """A worker process in a place. See `graft.sweep.workers.Worker`.

    Args:
        places: Has the slot's place, or asks for another one.
        slot: Number of the slot.
        keeps_place: The slot's next worker starts in the same place.
    """

    def __init__(self, places: Places, slot: int, *, keeps_place: bool) -> None:
        self._places = places
        self._slot = slot
        self._keeps_place = keeps_place
        self._place: Place
        self._number = -1
        self._failures = 0
        # Guards what the controller's thread asks for while the slot's waits for the place.
        self._lock = threading.Lock()
        self._started = False
        self._withdrawn = False
        self._killed_at: float | None = None
        self._death: str | None = None
        self._taken = False
        self._memory = 0.0
        self.jobs = 0
        self.last_lines: collections.deque[str] = collections.deque(maxlen=LAST_LINES)

    @property
    def alive(self) -> bool:
        if self._started and self._death is None and not self._taken:
            with contextlib.suppress(EOFError, PlaceTaken):
                self.messages(0)
        return self._started and self._death is None and not self._taken and not self._place.leaving

    def wait_until_ready(self, say: Callable[[str], None], better: Callable[[], bool]) -> None:
        try:
            self._wait_for_place(say, better)
            with self._lock:
                if self._withdrawn:
                    raise EOFError
                self._number = self._place.processes
                self._place.processes += 1
                self._started = True
                self._post("start")
            wait_for_greeting(self.messages)
        except EOFError:
            if self._withdrawn:
                raise Withdrawn from None
            raise

    def _wait_for_place(self, say: Callable[[str], None], better: Callable[[], bool]) -> None:
        """Until the slot has a place. What keeps it from one may pass: others have theirs, and go on."""
        while True:
            try:
                self._place = self._places.of(self._slot)
                self._place.wait_until_there(say, better, lambda: self._withdrawn)
                self._places.count_place()
                return
            except NoPlace as error:
                self._failures += 1
                if self._places.hopeless(self._failures):
                    raise Unfit(f"{error} Once that is mended, the same command goes on.") from error
                pause = min(FIRST_PAUSE_SECONDS * 2 ** (self._failures - 1), LONGEST_PAUSE_SECONDS)
                say(f"{error} Another job is submitted in {pause:g} s.")
                self._sleep(pause, better)

    def _sleep(self, seconds: float, better: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._withdrawn:
                raise EOFError
            if better():
                raise NotYet
            time.sleep(POLL_SECONDS)

    def send_job(self, job: Job) -> None:
        self.jobs += 1
        self.last_lines.clear()
        self._post(
            "job",
            job=base64.b64encode(pickled_job(job)).decode(),
            directory=str(job_directory(job.config)),
            attempt=0 if job.ticket is None else job.ticket.attempt,
        )

    def messages(self, patience: float) -> list[dict[str, Any] | str]:
        if self._taken:
            raise PlaceTaken
        if self._death is not None:
            raise EOFError
        arrived: list[dict[str, Any] | str] = []
        for message in self._place.messages(patience):
            kind = message["kind"]
            if kind == "hello":
                # Slurm started the job anew, and nobody had been warned.
                self._death = "node lost"
            elif kind in ("left", "over"):
                if self._place.leaving:
                    self._taken = True
                else:
                    self._death = self._death or "Slurm job ended"
            elif message["process"] != self._number:
                continue
            elif kind == "line":
                if message["line"].strip():
                    self.last_lines.append(message["line"])
                arrived.append(message["line"])
            elif kind == "message":
                self._memory = message["memory"]
                arrived.append(message["message"])
            elif kind == "death":
                self._death = message["cause"]
        if self._death is None and not self._taken:
            if self._killed_at is not None and time.monotonic() - self._killed_at > ANSWER_SECONDS:
                self._place.give_up()
                self._death = "killed"
            elif self._place.silent:
                self._place.abandon()
                self._death = "node lost"
        if not arrived and (self._death is not None or self._taken):
            return self.messages(0)
        return arrived

    def last_words(self) -> list[str]:
        """None: what a process left came before the news of its death."""
        return []

    def cause_of_death(self) -> str:
        return self._death or "node lost"

    def memory_gib(self) -> float:
        return self._memory

    def stop(self) -> None:
        with self._lock:
            # A job may wait for hours, and a trial that has not begun has nothing to lose.
            self._withdrawn = not self._started
            self._post("stop")

    def kill(self) -> None:
        with self._lock:
            self._withdrawn = not self._started
            self._killed_at = time.monotonic()
            self._post("kill")

    def quit(self) -> None:
        if not self._started:
            return  # its place is the slot's
        if not self._keeps_place:
            # A job that is requeued is for the slot's next trial.
            if self._place.over or not self._place.leaving:
                self._place.end()
            return
        if not self.alive:
            return
        self._post("quit")
        deadline = time.monotonic() + QUIT_PATIENCE_SECONDS + ANSWER_SECONDS
        # Until then the process may still write to the trial's folder.
        while time.monotonic() < deadline:
            kinds = {message["kind"] for message in self._place.messages(POLL_SECONDS)}
            if kinds & {"gone", "death", "over", "left", "hello"}:
                return
            if self._place.silent:
                self._place.abandon()
                return

    def _post(self, kind: str, **fields: Any) -> None:
        if self._started:
            self._place.post(kind, process=self._number, **fields)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
