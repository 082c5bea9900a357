"""Between slots and batches: Hydra's `launch` over our pool, and our sweeps over Hydra's `launch`."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, configure_log, filter_overrides, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from graft.errors import ConfigError, FailedTrial
from graft.sweep.compose import Composer, job_directory, task_config
from graft.sweep.jobs import (
    Answer,
    Died,
    Ending,
    Job,
    JobLauncher,
    Killed,
    Listener,
    Preempted,
    Printed,
    Raised,
    Refused,
    Returned,
    TimedOut,
)
from graft.sweep.worker import describe_error, describe_value
from graft.trial import TICKET_VARIABLE

log = logging.getLogger(__name__)

TICKETS = ".graft"
"""Folder in the sweep's folder that holds the tickets of jobs run by other launchers."""


def launch_batch(
    pool: JobLauncher,
    *,
    hydra_context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    initial_job_idx: int,
) -> list[JobReturn]:
    """What Hydra's `Launcher.launch` promises, in the slots of `pool`, for sweepers other than ours.

    A job's result is handed back if it is plain data. Its configuration is the one composed here,
    and its exception a `FailedTrial` that says what the original was: classes of the job's process
    are not always classes of this one.

    Raises:
        ConfigError: if the task cannot be run in the pool, or there is no place for a worker.
    """
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    Path(str(config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    composer = Composer(hydra_context.config_loader, config)
    jobs = [
        Job(number, tuple(overrides), composer(overrides, number))
        for number, overrides in enumerate(job_overrides, initial_job_idx)
    ]
    try:
        pool.open(hydra_context=hydra_context, task_function=task_function, config=config, listener=_echo)
        log.info("Launching %d jobs in %d slots%s", len(job_overrides), pool.slots, pool.place)
        futures = []
        for job in jobs:
            log.info("\t#%d : %s", job.number, " ".join(filter_overrides(job.overrides)))
            futures.append(pool.submit(job))
        return [_job_return(job, future.result()) for job, future in zip(jobs, futures, strict=True)]
    finally:
        pool.close()


def _echo(event: Any) -> None:
    if isinstance(event, Printed):
        print(f"#{event.number} | {event.line}", flush=True)


def _job_return(job: Job, answer: Answer) -> JobReturn:
    config = job.config
    config.hydra.runtime.output_dir = str(job_directory(config))
    returned = JobReturn(
        overrides=list(config.hydra.overrides.task),
        cfg=task_config(config),
        hydra_cfg=OmegaConf.masked_copy(config, "hydra"),
        working_dir=answer.working_dir or os.getcwd(),
        task_name=answer.task_name or JobRuntime.instance().get("name"),
    )
    match answer.ending:
        case Returned(_, plain, _):
            returned.status, returned.return_value = JobStatus.COMPLETED, plain
        case Raised(cause, message, traceback, _, _):
            returned.status = JobStatus.FAILED
            returned.return_value = FailedTrial(f"{cause}: {message}\n{traceback}".strip(), cause=cause)
        case Died(cause, last_output):
            returned.status = JobStatus.FAILED
            returned.return_value = FailedTrial(f"The job's process died ({cause})\n{last_output}".strip(), cause=cause)
        case Refused(message):
            returned.status = JobStatus.FAILED
            returned.return_value = ConfigError(message)
        case TimedOut() | Killed():
            returned.status = JobStatus.FAILED
            returned.return_value = FailedTrial("The job was killed", cause="killed")
        case Preempted():
            returned.status = JobStatus.FAILED
            returned.return_value = FailedTrial("The scheduler took the job's place away", cause="preempted")
    return returned


class BatchLauncher:
    """A `JobLauncher` over any launcher of Hydra's. It knows batches only, so there is a barrier after each.

    Args:
        launcher: Set up already.
        n_jobs: Trials in a batch.
    """

    place = ""

    def __init__(self, launcher: Launcher, n_jobs: int) -> None:
        self._launcher = launcher
        self._n_jobs = n_jobs
        self._submitted: list[tuple[Job, Future[Answer]]] = []

    @property
    def slots(self) -> int:
        return self._n_jobs

    def open(
        self,
        *,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
        listener: Listener,
    ) -> None:
        """The launcher was set up by Hydra; its jobs' reports reach the study, and not the listener."""

    def warm_up(self, jobs: int) -> None:
        """The launcher knows nothing but batches."""

    def submit(self, job: Job) -> Future[Answer]:
        future: Future[Answer] = Future()
        self._submitted.append((job, future))
        return future

    def flush(self) -> None:
        batch, self._submitted = self._submitted, []
        # A launcher counts job numbers up from the first, and resumed trials may leave gaps.
        for _, run in itertools.groupby(enumerate(batch), lambda item: item[1][0].number - item[0]):
            self._launch([pair for _, pair in run])

    def stop(self) -> None:
        """A batch cannot be told to stop; it ends by itself."""

    def kill(self) -> None:
        """The launcher's own workers are not ours to kill."""

    def cancel(self, number: int) -> None:
        """A batch has ended before anybody could ask for that."""

    def close(self) -> None:
        """Nothing is held open."""

    def _launch(self, batch: Sequence[tuple[Job, Future[Answer]]]) -> None:
        started = time.monotonic()
        overrides = [[*job.overrides, *_extra_overrides(job)] for job, _ in batch]
        endings: list[Ending]
        try:
            with _interruptible():
                returns = self._launcher.launch(overrides, initial_job_idx=batch[0][0].number)
            endings = [_ending(job_return) for job_return in returns]
        except KeyboardInterrupt:
            endings = [Killed() for _ in batch]
        except SystemExit as error:
            # Launchers that run jobs in this process let it through; the sweep must not end with it.
            endings = [Raised(**describe_error(error)) for _ in batch]
        except Exception as error:
            # The whole batch is lost with its launcher, and nobody can say which job was to blame.
            endings = [Died(type(error).__name__, str(error)) for _ in batch]
        seconds = time.monotonic() - started
        for (_, future), ending in zip(batch, endings, strict=True):
            future.set_result(Answer(ending, seconds=seconds))


def _extra_overrides(job: Job) -> Iterator[str]:
    """What the launcher, which composes by itself, must be told: the sweep's folder, and the trial.

    `hydra.job.env_set` is set in whatever process the launcher runs the job in.
    """
    assert job.ticket is not None
    sweep_directory = Path(str(job.config.hydra.sweep.dir))
    yield f"hydra.sweep.dir={_quoted(str(sweep_directory))}"
    path = sweep_directory / TICKETS / f"{job.number}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    # A storage's address may hold a password.
    with open(path, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(job.ticket.to_json())
    yield f"+hydra.job.env_set.{TICKET_VARIABLE}={_quoted(str(path.resolve()))}"


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()


def _ending(job_return: JobReturn) -> Ending:
    if job_return.status == JobStatus.COMPLETED:
        return Returned(**describe_value(job_return._return_value))
    error = job_return._return_value
    return Raised(**describe_error(error if isinstance(error, BaseException) else RuntimeError(str(error))))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lets Ctrl-C raise in a foreign launcher, which may know what to do with it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
