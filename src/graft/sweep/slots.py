"""Slots: each runs one job at a time in a warm worker, wherever that worker is.

A thread a slot waits for its worker, so a slot reads like a program of its own: start a worker if
there is none, hand it the job, pass on what it reports and prints, and take its answer, or notice
that it died or ran out of time.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from graft.sweep.application import pickled_application
from graft.sweep.jobs import (
    Answer,
    Died,
    Ending,
    Job,
    Killed,
    Listener,
    Preempted,
    Printed,
    Raised,
    Refused,
    Reported,
    Returned,
    TimedOut,
)
from graft.sweep.process import POLL_SECONDS, Unfit
from graft.sweep.worker import describe_error
from graft.sweep.workers import NotYet, PlaceTaken, PoolOptions, Withdrawn, Worker, Workers


class WorkerPool:
    """A `JobLauncher` over workers of one kind. See there for what each method promises."""

    def __init__(self, options: PoolOptions, workers: Workers) -> None:
        self._options = options
        self._workers = workers
        self._slots: list[Slot] = []
        self._idle: set[Slot] = set()
        self._changing_idle = threading.Lock()
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
        setup = pickled_application(hydra_context, task_function, config)
        self._workers.open()
        for index in range(self.slots):
            self._slots.append(Slot(index, partial(self._workers.start, index, setup), self._options, listener))
        self._idle = set(self._slots)
        self._executor = ThreadPoolExecutor(self.slots, thread_name_prefix="graft-slot")

    def warm_up(self, jobs: int) -> None:
        if not self._workers.shared:
            for slot in self._slots[:jobs]:
                slot.warm_up()

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

    def cancel(self, number: int) -> None:
        for slot in self._slots:
            slot.cancel(number)

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
        """Runs a job to its end, in whichever slot can begin first."""
        answer = None
        while answer is None:
            with self._changing_idle:
                # There is one, for there are as many threads. A warm one first, and slot 0 for a single job.
                slot = min(self._idle, key=lambda slot: (not slot.warm, slot.index))
                self._idle.remove(slot)
            try:
                answer = slot.run(job, better=self._has_warm_idle)
            finally:
                with self._changing_idle:
                    self._idle.add(slot)
        return answer

    def _has_warm_idle(self) -> bool:
        with self._changing_idle:
            return any(slot.warm for slot in self._idle)


class Slot:
    """A place for one job at a time, and its worker while it has one."""

    def __init__(self, index: int, start: Callable[[], Worker], options: PoolOptions, listener: Listener) -> None:
        self.index = index
        self._start = start
        self._options = options
        self._listener = listener
        self._worker: Worker | None = None
        self.warm = False
        """Whether it has a worker that waits for a job."""
        self._early = False  # there was no job yet when the worker started
        self._ends = False  # the worker's answer was its last
        # Guards what the controller's thread reaches into: the worker, the job's number and the flags.
        self._lock = threading.RLock()
        self._number: int | None = None
        self._cancelled = False
        self.busy = False
        self._stop_asked = False
        self._killed = False

    def warm_up(self) -> None:
        """Starts the worker of the first job. Called in the controller's thread, before there is one."""
        with contextlib.suppress(OSError):  # the job tries again, and says what the matter is
            self._worker, self._early = self._start(), True

    def run(self, job: Job, *, better: Callable[[], bool] = lambda: False) -> Answer | None:
        """Runs `job` to its end, whatever that is. Called in the slot's thread.

        Returns None, and has begun nothing, where `better` says that another slot could begin at once while this one
        waits for a place: those that have one keep it, so nobody else may ever get any.
        """
        started = time.monotonic()
        with self._lock:
            self.busy, self._number, self._cancelled = True, job.number, False
        try:
            worker = self._ready_worker(job, better)
            worker.send_job(job)
            with self._lock:
                if self._stop_asked:  # it may have come while the worker was starting
                    worker.stop()
            answer = self._follow(worker, job)
        except (EOFError, OSError):
            answer = Answer(self._died(job))
        except NotYet:
            return None
        except Withdrawn:
            answer = Answer(Killed())
        except PlaceTaken:
            answer = Answer(Killed() if self._killed else Preempted())
        except Unfit as error:
            answer = Answer(Refused(str(error)))
        except Exception as error:
            # Such as a configuration that cannot be pickled. The worker may be in the middle of a message.
            answer = Answer(Raised(**describe_error(error)))
            self._discard()
        finally:
            with self._lock:
                self.busy, self._number = False, None
        self._recycle(answer)
        return replace(answer, seconds=time.monotonic() - started)

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

    def cancel(self, number: int) -> None:
        """Kills the worker if it runs the job `number`. Called in the controller's thread."""
        with self._lock:
            if self._number == number:
                self._cancelled = True
                if self._worker is not None:
                    self._worker.kill()

    def close(self) -> None:
        """Lets an idle worker end."""
        self._discard()

    def _ready_worker(self, job: Job, better: Callable[[], bool]) -> Worker:
        if (self.warm or self._early) and self._worker is not None and not self._worker.alive:
            # It died before its first job, or between two, and no trial is to blame.
            self._discard()
        early, self._early = self._early, False
        worker = self._worker or self._start()
        with self._lock:
            self._worker = worker
            if self._killed or self._cancelled:
                worker.kill()
            elif self._stop_asked:
                worker.stop()
        if not self.warm:
            try:
                worker.wait_until_ready(
                    lambda text: self._listener(Printed(job.number, text)),
                    better,
                    lambda line: self._print(job, line),
                )
            except (EOFError, OSError):
                if not early or self._killed or self._cancelled:
                    raise
                self._discard()
                return self._ready_worker(job, better)
            self.warm = True
        return worker

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
                    self._print(job, message)
                elif message["kind"] == "report":
                    self._listener(Reported(job.number, message["step"], message["value"], message["shown"]))
                else:
                    self._ends = message["last"]
                    return _answer(message)

    def _died(self, job: Job) -> Ending:
        """Why the worker is gone: it was killed by us, or it died."""
        with self._lock:
            if self._killed or self._cancelled:
                return Killed()
            worker = self._worker
        if worker is None:
            return Died("could not start")
        for line in worker.last_words():
            self._print(job, line)
        return Died(worker.cause_of_death(), "\n".join(worker.last_lines))

    def _print(self, job: Job, line: str) -> None:
        if self._options.show_output:
            self._listener(Printed(job.number, line))

    def _recycle(self, answer: Answer) -> None:
        """Ends a worker that must not run another job."""
        worker, options = self._worker, self._options
        if worker is None:
            return
        worn_out = (
            options.fresh_process
            or self._ends
            or self._cancelled  # it was killed, even if its answer was faster
            or (options.recycle_after_trials is not None and worker.jobs >= options.recycle_after_trials)
            or (options.recycle_above_gib is not None and worker.memory_gib() > options.recycle_above_gib)
        )
        if worn_out or not isinstance(answer.ending, Returned | Raised):
            self._discard()

    def _discard(self) -> None:
        """Ends the worker; the next job gets a new one."""
        with self._lock:
            worker, self._worker = self._worker, None
        warm, self.warm, self._early, self._ends = self.warm, False, False, False
        if worker is not None:
            if not warm:  # it has no job, and may be busy for long before it listens
                worker.kill()
            worker.quit()


def _answer(message: Mapping[str, Any]) -> Answer:
    """A worker's answer, which is plain data, as an `Answer`."""
    ending: Ending = Raised(**message["raised"]) if "raised" in message else Returned(**message["returned"])
    return Answer(
        ending,
        told=message.get("told"),
        unstored=[(int(step), float(value)) for step, value in message.get("unstored", ())],
        task_name=message.get("task_name"),
        working_dir=message.get("working_dir"),
    )
