"""Slots: each runs one job at a time in a warm worker process, wherever that process is.

A thread a slot waits for its worker, so a slot reads like a program of its own: start a worker if
there is none, hand it the job, pass on what it reports and prints, and take its answer, or notice
that it died or ran out of time. What a worker is, and where workers come from, is `Worker` and
`Workers`: see `graft.sweep.local` and `graft.sweep.ray_cluster`.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from graft.errors import ConfigError
from graft.sweep.application import pickled_application
from graft.sweep.jobs import (
    Answer,
    Died,
    Ending,
    Job,
    Killed,
    Listener,
    Printed,
    Raised,
    Refused,
    Reported,
    Returned,
    TimedOut,
)
from graft.sweep.process import POLL_SECONDS, Unfit
from graft.sweep.worker import describe_error

log = logging.getLogger(__name__)


class Withdrawn(Exception):
    """The worker was told to stop before there was a place for it."""


@dataclass(frozen=True)
class PoolOptions:
    """How jobs are run, from `hydra.launcher`, wherever that is.

    Attributes:
        slots: Jobs at a time; None for as many as there is room for.
        fresh_process: A new worker for every job.
        recycle_after_trials: A worker is replaced after so many jobs; None for never.
        recycle_above_gib: A worker that holds more memory than this after a job is replaced.
        show_output: Pass on what jobs print.
    """

    slots: int | None = None
    fresh_process: bool = False
    recycle_after_trials: int | None = None
    recycle_above_gib: float | None = None
    show_output: bool = True

    def __post_init__(self) -> None:
        if problems := self.problems():
            raise ConfigError(problems)

    def problems(self) -> list[str]:
        """One text for each value that is not allowed."""
        return [
            *not_allowed("slots", self.slots, self.slots is None or self.slots >= 1, "a whole number from 1, or null"),
            *not_allowed(
                "recycle_after_trials",
                self.recycle_after_trials,
                self.recycle_after_trials is None or self.recycle_after_trials >= 1,
                "a whole number from 1, or null for never",
            ),
            *not_allowed(
                "recycle_above_gib",
                self.recycle_above_gib,
                self.recycle_above_gib is None or self.recycle_above_gib > 0,
                "a number of GiB above 0, or null for no limit",
            ),
        ]


def not_allowed(key: str, value: object, is_allowed: bool, allowed: str) -> list[str]:
    """The text about a value under `hydra.launcher` that is not allowed, if it is not."""
    return [] if is_allowed else [f"hydra.launcher.{key}={value} is not allowed. Allowed: {allowed}."]


class Worker(Protocol):
    """A worker as its slot sees it. Every method but `stop` and `kill` is called in the slot's thread."""

    @property
    def jobs(self) -> int:
        """How many jobs it was sent."""

    @property
    def last_lines(self) -> Iterable[str]:
        """The last lines that the job printed."""

    def wait_until_ready(self, say: Callable[[str], None]) -> None:
        """Returns when the worker can be sent a job; `say` takes what the user should know meanwhile.

        Raises:
            EOFError: It died.
            Unfit: It can run no job of this application.
            Withdrawn: It was told to stop before there was a place for it.
        """

    def send_job(self, job: Job) -> None:
        """Hands a job over."""

    def messages(self, patience: float) -> list[dict[str, Any] | str]:
        """What arrived within `patience` seconds: lines that the job printed, then at most one message.

        Raises:
            EOFError: It is dead, and has nothing more to say.
        """

    def last_words(self) -> list[str]:
        """What a dead worker left, an unfinished line included."""

    def cause_of_death(self) -> str:
        """Name of the signal that ended it, or what else did."""

    def memory_gib(self) -> float:
        """What it holds now."""

    def stop(self) -> None:
        """Asks the running job to return at its next step. Called in the controller's thread; does not wait."""

    def kill(self) -> None:
        """Ends it with all that it started. Called in the controller's thread as well; does not wait."""

    def quit(self) -> None:
        """Lets it end by itself, ends it if it does not, and frees all that it held."""


class Workers(Protocol):
    """Where the workers of a pool come from: this machine, or whatever schedules several."""

    @property
    def slots(self) -> int:
        """How many workers there can be at a time. Known after `open`."""

    @property
    def place(self) -> str:
        """Where that is, for the first line of a sweep; empty for this machine. Known after `open`."""

    def open(self) -> None:
        """Gets ready; raises ConfigError where no worker can be had."""

    def start(self, slot: int, setup: bytes) -> Worker:
        """Starts the worker of a slot, or asks for a place for it. Called in the slot's thread; does not wait."""

    def close(self) -> None:
        """Frees what was held. All workers have quit. May be called twice."""


class WorkerPool:
    """A `JobLauncher` over workers of one kind. See there for what each method promises."""

    def __init__(self, options: PoolOptions, workers: Workers) -> None:
        self._options = options
        self._workers = workers
        self._slots: list[Slot] = []
        self._idle: queue.LifoQueue[Slot]
        self._executor: ThreadPoolExecutor | None = None

    @property
    def slots(self) -> int:
        return self._workers.slots

    @property
    def place(self) -> str:
        return self._workers.place

    def open(
        self,
        *,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
        listener: Listener,
    ) -> None:
        setup = pickled_application(hydra_context, task_function)
        self._workers.open()
        self._idle = queue.LifoQueue()
        # The last one made is the first one taken, so slot 0 is the one that a single job gets.
        for index in reversed(range(self.slots)):
            slot = Slot(f"{index}", partial(self._workers.start, index, setup), self._options, listener)
            self._slots.append(slot)
            self._idle.put(slot)
        self._executor = ThreadPoolExecutor(self.slots, thread_name_prefix="graft-slot")

    def submit(self, job: Job) -> Future[Answer]:
        assert self._executor is not None, "open() comes first"
        return self._executor.submit(self._run, job)

    def flush(self) -> None:
        """Every job runs as soon as it is submitted."""

    def stop(self) -> None:
        for slot in self._slots:
            slot.stop()

    def kill(self) -> None:
        for slot in self._slots:
            slot.kill()

    def close(self) -> None:
        self.kill_running()
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None
        quitting = [threading.Thread(target=slot.close) for slot in self._slots]
        for thread in quitting:
            thread.start()
        for thread in quitting:
            thread.join()
        self._slots.clear()
        self._workers.close()

    def kill_running(self) -> None:
        """Kills running jobs, and leaves idle workers their orderly end."""
        for slot in self._slots:
            if slot.busy:
                slot.kill()

    def _run(self, job: Job) -> Answer:
        slot = self._idle.get()
        try:
            return slot.run(job)
        finally:
            self._idle.put(slot)


class Slot:
    """A place for one job at a time, and its worker while it has one."""

    def __init__(self, name: str, start: Callable[[], Worker], options: PoolOptions, listener: Listener) -> None:
        self.name = name
        self._start = start
        self._options = options
        self._listener = listener
        self._worker: Worker | None = None
        # Guards what the controller's thread reaches into: the worker and the three flags.
        self._lock = threading.RLock()
        self.busy = False
        self._stop_asked = False
        self._killed = False

    def run(self, job: Job) -> Answer:
        """Runs `job` to its end, whatever that is. Called in the slot's thread."""
        started = time.monotonic()
        with self._lock:
            self.busy = True
        try:
            worker = self._ready_worker(job)
            worker.send_job(job)
            with self._lock:
                if self._stop_asked:  # it may have come while the worker was starting
                    worker.stop()
            answer = self._follow(worker, job)
        except (EOFError, OSError):
            answer = Answer(self._died(job))
        except Withdrawn:
            answer = Answer(Killed())
        except Unfit as error:
            answer = Answer(Refused(str(error)))
        except Exception as error:
            # Such as a configuration that cannot be pickled. The worker may be in the middle of a message.
            answer = Answer(Raised(**describe_error(error)))
            self._discard()
        finally:
            with self._lock:
                self.busy = False
        self._recycle(answer)
        return Answer(
            answer.ending,
            told=answer.told,
            seconds=time.monotonic() - started,
            slot=self.name,
            task_name=answer.task_name,
            working_dir=answer.working_dir,
        )

    def stop(self) -> None:
        """Tells the running job to return. Called in the controller's thread."""
        with self._lock:
            self._stop_asked = True
            if self.busy and self._worker is not None:
                with contextlib.suppress(OSError):
                    self._worker.stop()

    def kill(self) -> None:
        """Kills the worker with all that it started. Called in the controller's thread."""
        with self._lock:
            self._killed = True
            if self._worker is not None:
                self._worker.kill()

    def close(self) -> None:
        """Lets an idle worker end."""
        self._discard()

    def _ready_worker(self, job: Job) -> Worker:
        if self._worker is None:
            worker = self._start()
            with self._lock:
                self._worker = worker
                if self._killed:
                    worker.kill()
                elif self._stop_asked:
                    worker.stop()
            worker.wait_until_ready(lambda text: self._listener(Printed(job.number, text)))
        return self._worker

    def _follow(self, worker: Worker, job: Job) -> Answer:
        """Passes on reports and output until the job has ended."""
        # From here, for starting a worker is not the job's time.
        deadline = None if job.timeout is None else time.monotonic() + job.timeout
        while True:
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                assert job.timeout is not None
                worker.kill()
                return Answer(TimedOut(job.timeout))
            patience = POLL_SECONDS if deadline is None else min(POLL_SECONDS, deadline - now)
            for message in worker.messages(patience):
                if isinstance(message, str):
                    if self._options.show_output:
                        self._listener(Printed(job.number, message))
                elif message["kind"] == "report":
                    self._listener(Reported(job.number, message["step"], message["value"], message["shown"]))
                else:
                    return _answer(message)

    def _died(self, job: Job) -> Ending:
        """Why the worker is gone: it was killed by us, or it died."""
        with self._lock:
            if self._killed:
                return Killed()
            worker = self._worker
        if worker is None:
            return Died("could not start")
        for line in worker.last_words():
            if self._options.show_output:
                self._listener(Printed(job.number, line))
        return Died(worker.cause_of_death(), "\n".join(worker.last_lines))

    def _recycle(self, answer: Answer) -> None:
        """Ends a worker that must not run another job."""
        worker, options = self._worker, self._options
        if worker is None:
            return
        worn_out = (
            options.fresh_process
            or (options.recycle_after_trials is not None and worker.jobs >= options.recycle_after_trials)
            or (options.recycle_above_gib is not None and worker.memory_gib() > options.recycle_above_gib)
        )
        if worn_out or not isinstance(answer.ending, Returned | Raised):
            self._discard()

    def _discard(self) -> None:
        """Ends the worker; the next job gets a new one."""
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.quit()


def _answer(message: Mapping[str, Any]) -> Answer:
    """A worker's answer, which is plain data, as an `Answer`."""
    ending: Ending = Raised(**message["raised"]) if "raised" in message else Returned(**message["returned"])
    return Answer(
        ending,
        told=message.get("told"),
        task_name=message.get("task_name"),
        working_dir=message.get("working_dir"),
    )
