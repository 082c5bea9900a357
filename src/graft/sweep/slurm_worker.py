"""A worker process in a Slurm job, seen from the controller."""

from __future__ import annotations

import base64
import collections
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from graft.sweep.compose import job_directory
from graft.sweep.jobs import Job
from graft.sweep.process import (
    LAST_LINES,
    POLL_SECONDS,
    QUIT_PATIENCE_SECONDS,
    Unfit,
    pickled_job,
    wait_for_greeting,
)
from graft.sweep.slurm_place import ANSWER_SECONDS, NoPlace, Place
from graft.sweep.workers import NotYet, PlaceTaken, Withdrawn

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 2.0, 300.0
"""Before a job is submitted in the place of one that was refused, or ended too early; twice as long each time."""


class Places(Protocol):
    """The places of all slots. Each slot asks in its own thread."""

    def of(self, slot: int) -> Place:
        """The slot's place; asks for one where it has none, or where that is over.

        Raises:
            NoPlace: if none can be asked for.
        """

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
        self._asked = False  # for a place
        self._number = -1
        self._failures = 0
        # Guards what the controller's thread asks for while the slot's waits for the place.
        self._lock = threading.Lock()
        self._started = False
        self._withdrawn = False
        self._stopped = False
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

    def wait_until_ready(
        self, say: Callable[[str], None], better: Callable[[], bool], show: Callable[[str], None]
    ) -> None:
        try:
            self._wait_for_place(say, better)
            with self._lock:
                if self._withdrawn:
                    raise EOFError
                self._number = self._place.processes
                self._place.processes += 1
                self._started = True
                self._post("start")
            wait_for_greeting(self.messages, show)
        except EOFError:
            if not self._withdrawn:
                raise
            if self._stopped and self._asked and self._place.waits:
                # The sweep ends, and a trial that has stopped may leave its node to this job.
                self._place.give_up()
            raise Withdrawn from None

    def _wait_for_place(self, say: Callable[[str], None], better: Callable[[], bool]) -> None:
        """Until the slot has a place. What keeps it from one may pass: others have theirs, and go on."""
        while True:
            if self._withdrawn:
                raise EOFError
            try:
                self._place = self._places.of(self._slot)
                self._asked = True
                self._place.wait_until_there(say, better, lambda: self._withdrawn)
                self._places.count_place()
                return
            except NoPlace as error:
                self._failures += 1
                if self._places.hopeless(self._failures):
                    raise Unfit(f"{error} Once that is mended, the same command goes on.") from error
                # The exponent has an end, for a slot may be refused for days while others go on.
                pause = min(FIRST_PAUSE_SECONDS * 2 ** min(self._failures - 1, 10), LONGEST_PAUSE_SECONDS)
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
            elif message.get("process") != self._number:
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
        """There are none: what a process left came before the news of its death."""
        return []

    def cause_of_death(self) -> str:
        return self._death or "node lost"

    def memory_gib(self) -> float:
        return self._memory

    def stop(self) -> None:
        with self._lock:
            # A job may wait for hours, and a trial that has not begun has nothing to lose.
            self._withdrawn = not self._started
            self._stopped = True
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
            # A job that is requeued is for the slot's next trial, if there is to be one.
            if self._place.over or not self._place.leaving or self._stopped:
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
