"""Slots on this machine: each runs one job at a time in a warm worker process.

A thread a slot waits for its worker, so a slot reads like a program of its own: start a worker if
there is none, hand it the job, pass on what it reports and prints, and take its answer, or notice
that it died or ran out of time.
"""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import Any

import cloudpickle
import psutil
from hydra import version
from hydra.core.utils import JobRuntime
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from graft.errors import ConfigError
from graft.sweep.devices import slot_devices
from graft.sweep.jobs import (
    Answer,
    Died,
    Ending,
    Job,
    Killed,
    Listener,
    Printed,
    Raised,
    Reported,
    Returned,
    TimedOut,
)
from graft.sweep.worker import JOB, QUIT, STOP, resolver_table

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""How often a slot looks at clocks, and at its process where the system has no pidfd."""

QUIT_PATIENCE_SECONDS = 5.0
"""How long an idle worker may take to end by itself; threads of a task may hold it up."""

LAST_LINES = 5
"""Lines of output kept for the message about a worker that died."""

CONTROLLER_VARIABLE = "GRAFT_CONTROLLER"
"""Environment variable by which a worker of a dead controller can be found."""


@dataclass(frozen=True)
class PoolOptions:
    """How jobs are run, from `hydra.launcher`.

    Attributes:
        slots: Jobs at a time; None for one a GPU, or one on a machine without.
        slots_per_gpu: Slots that share a GPU.
        fresh_process: A new worker for every job.
        recycle_after_trials: A worker is replaced after so many jobs; None for never.
        recycle_above_gib: A worker that holds more memory than this after a job is replaced.
        show_output: Pass on what jobs print.
    """

    slots: int | None = None
    slots_per_gpu: int = 1
    fresh_process: bool = False
    recycle_after_trials: int | None = None
    recycle_above_gib: float | None = None
    show_output: bool = True

    def __post_init__(self) -> None:
        problems = [
            f"hydra.launcher.{key}={value} is not allowed. Allowed: {allowed}."
            for key, value, allowed in (
                ("slots", self.slots, "a whole number from 1, or null for one a GPU"),
                ("slots_per_gpu", self.slots_per_gpu, "a whole number from 1"),
                (
                    "recycle_after_trials",
                    self.recycle_after_trials,
                    "a whole number from 1, or null for never",
                ),
            )
            if value is not None and value < 1
        ]
        if self.recycle_above_gib is not None and self.recycle_above_gib <= 0:
            problems.append(
                f"hydra.launcher.recycle_above_gib={self.recycle_above_gib} is not allowed. Allowed: a number of "
                "GiB above 0, or null for no limit."
            )
        if problems:
            raise ConfigError(problems)


class WorkerPool:
    """The `JobLauncher` of this machine. See there for what each method promises."""

    def __init__(self, options: PoolOptions) -> None:
        self._options = options
        self._devices = slot_devices(options.slots, options.slots_per_gpu)
        self._slots: list[Slot] = []
        self._idle: queue.LifoQueue[Slot] = queue.LifoQueue()
        self._executor: ThreadPoolExecutor | None = None

    @property
    def slots(self) -> int:
        return len(self._devices)

    def open(
        self,
        *,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
        listener: Listener,
    ) -> None:
        setup = pickled_application(hydra_context, task_function)
        # The last one made is the first one taken, so slot 0 is the one that a single job gets.
        for index, device in reversed(list(enumerate(self._devices))):
            slot = Slot(f"{index}", device, setup, self._options, listener)
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

    def __init__(self, name: str, device: str | None, setup: bytes, options: PoolOptions, listener: Listener) -> None:
        self.name = name
        self._device = device
        self._setup = setup
        self._options = options
        self._listener = listener
        self._worker: Process | None = None
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
            worker = self._ready_worker()
            worker.send_job(job)
            with self._lock:
                if self._stop_asked:  # it may have come while the worker was starting
                    worker.send(STOP)
            answer = self._follow(worker, job, started)
        except (EOFError, OSError):
            answer = Answer(self._died(job))
        except Unfit as error:
            answer = Answer(Raised("Unfit", str(error), fatal=ConfigError.status))
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
                    self._worker.send(STOP)

    def kill(self) -> None:
        """Kills the worker with all that it started. Called in the controller's thread."""
        with self._lock:
            self._killed = True
            if self._worker is not None:
                self._worker.kill()

    def close(self) -> None:
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.quit()

    def _ready_worker(self) -> Process:
        if self._worker is None:
            worker = Process(self._device, self._setup)
            with self._lock:
                self._worker = worker
                if self._killed:
                    worker.kill()
            worker.wait_until_ready()
        return self._worker

    def _follow(self, worker: Process, job: Job, started: float) -> Answer:
        """Passes on reports and output until the job has ended."""
        deadline = None if job.timeout is None else started + job.timeout
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
            with self._lock:
                self._worker = None
            worker.quit()


class Unfit(Exception):
    """The worker could not load the application."""


class Process:
    """A worker process, its pipe and its output."""

    def __init__(self, device: str | None, setup: bytes) -> None:
        self._sending = threading.Lock()
        self._connection, theirs = Pipe()
        # -P keeps the working directory off the search path until the controller's own is in place.
        command = [sys.executable, "-P", "-m", "graft.sweep.worker", str(theirs.fileno())]
        self._popen = subprocess.Popen(
            command,
            env=worker_environment(device),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        assert self._popen.stdout is not None
        self._output = self._popen.stdout
        os.set_blocking(self._output.fileno(), False)
        self._partial = b""
        self.last_lines: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
        self.jobs = 0
        # A grandchild may hold the pipe open past its parent's death; a pidfd does not lie.
        self._pidfd = os.pidfd_open(self._popen.pid) if hasattr(os, "pidfd_open") else None
        with contextlib.suppress(OSError):
            self._connection.send_bytes(setup)

    def wait_until_ready(self) -> None:
        while True:
            for message in self.messages(POLL_SECONDS):
                if isinstance(message, str):
                    continue
                if message["kind"] == "unfit":
                    raise Unfit(
                        f"The task cannot be loaded in a worker process: {message['message']}. It must be importable, "
                        "or picklable by cloudpickle."
                    )
                return

    def send_job(self, job: Job) -> None:
        ticket = None if job.ticket is None else job.ticket.to_json()
        self.jobs += 1
        self.last_lines.clear()
        self.send(JOB + cloudpickle.dumps({"config": job.config, "ticket": ticket}))

    def send(self, message: bytes) -> None:
        """Sends a message; the controller's thread may ask to stop while the slot's hands over a job."""
        with self._sending:
            self._connection.send_bytes(message)

    def messages(self, patience: float) -> list[dict[str, Any] | str]:
        """What arrived: lines that the job printed, then at most one message.

        Raises:
            EOFError: The process is dead, and has nothing more to say.
        """
        watched: list[Any] = [self._connection, self._output]
        if self._pidfd is not None:
            watched.append(self._pidfd)
        ready = wait(watched, patience)
        # The message is looked for before the output is read, so that whatever a job printed before
        # its answer is passed on before its answer.
        answered = self._connection in ready
        arrived: list[dict[str, Any] | str] = list(self._lines())
        if answered:
            arrived.append(json.loads(self._connection.recv_bytes()))
        elif (self._pidfd in ready or self._popen.poll() is not None) and not self._connection.poll():
            raise EOFError
        return arrived

    def _lines(self) -> list[str]:
        chunks = []
        while True:
            try:
                chunk = os.read(self._output.fileno(), 1 << 16)
            except (BlockingIOError, ValueError):
                break
            if not chunk:
                break
            chunks.append(chunk)
        *whole, self._partial = (self._partial + b"".join(chunks)).split(b"\n")
        lines = [line.decode(errors="replace").rstrip("\r") for line in whole]
        self.last_lines.extend(line for line in lines if line.strip())
        return lines

    def last_words(self) -> list[str]:
        """What a dead process left in its pipe, an unfinished line included."""
        lines = self._lines()
        if self._partial:
            lines.append(self._partial.decode(errors="replace"))
            self.last_lines.append(lines[-1])
            self._partial = b""
        return lines

    def cause_of_death(self) -> str:
        status = self._popen.wait()
        if status >= 0:
            return f"exit status {status}"
        try:
            return signal.Signals(-status).name
        except ValueError:
            return f"signal {-status}"

    def memory_gib(self) -> float:
        try:
            return float(psutil.Process(self._popen.pid).memory_info().rss / 2**30)
        except psutil.NoSuchProcess:
            return 0.0

    def kill(self) -> None:
        """Kills the process and its session. Its end is noticed by whoever follows it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)

    def quit(self) -> None:
        """Lets the process end by itself, kills it if it does not, and frees all that it held."""
        if self._popen.poll() is None:
            with contextlib.suppress(OSError):
                self.send(QUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(QUIT_PATIENCE_SECONDS)
        self.kill()
        self._popen.wait()
        self._connection.close()
        self._output.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def worker_environment(device: str | None) -> dict[str, str]:
    """The environment of a slot's worker. It is set before anything can import TensorFlow.

    Args:
        device: What `CUDA_VISIBLE_DEVICES` is set to; None leaves it as it is.
    """
    environment = dict(os.environ)
    environment[CONTROLLER_VARIABLE] = str(os.getpid())
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
        # Slots that share a GPU would otherwise each take all of its memory.
        environment.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    return environment


def pickled_application(hydra_context: HydraContext, task_function: TaskFunction) -> bytes:
    """What a worker needs once: where modules are found, the task, and Hydra's surroundings.

    Raises:
        ConfigError: Something of it cannot be pickled; the text names it.
    """
    application = {
        "task": task_function,
        "hydra_context": HydraContext(config_loader=None, callbacks=hydra_context.callbacks),  # type: ignore[arg-type]
        "job_name": JobRuntime.instance().get("name"),
        "version_base": str(version.getbase()),
        "resolvers": _own_resolvers(),
    }
    try:
        pickled = cloudpickle.dumps(application)
    except Exception as error:
        raise ConfigError(_what_cannot_be_pickled(application, error)) from error
    return pickle.dumps({"path": sys.path, "argv": sys.argv, "application": pickled})


def _own_resolvers() -> dict[str, Any]:
    """Resolvers that the application registered, as far as they can be sent to another process."""
    sendable = {}
    for name, resolver in resolver_table().items():
        if name.startswith("oc.") or name in ("hydra", "now", "python_version"):
            continue
        try:
            cloudpickle.dumps(resolver)
        except Exception as error:
            log.warning("The resolver %s cannot be sent to worker processes: %s", name, error)
        else:
            sendable[name] = resolver
    return sendable


def _what_cannot_be_pickled(application: Mapping[str, Any], error: Exception) -> str:
    task = application["task"]
    name = f"{getattr(task, '__module__', '?')}.{getattr(task, '__qualname__', repr(task))}"
    culprits = _unpicklable_parts(task)
    if not culprits and not _picklable(application["hydra_context"].callbacks):
        culprits = ["hydra.callbacks"]
    because = f", because of {', '.join(culprits)}" if culprits else ""
    return (
        f"The task {name} cannot be sent to a worker process{because}: {error}. Make such objects inside the task, or "
        "use hydra/launcher=basic."
    )


def _unpicklable_parts(task: Any) -> list[str]:
    """The global names and captured variables of `task` that cannot be pickled by themselves."""
    code, parts = getattr(task, "__code__", None), dict[str, Any]()
    if code is not None:
        parts |= {name: task.__globals__[name] for name in code.co_names if name in task.__globals__}
        for name, cell in zip(code.co_freevars, task.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # a variable that is not set yet
                parts[name] = cell.cell_contents
    return [f"{name} ({type(part).__name__})" for name, part in parts.items() if not _picklable(part)]


def _picklable(part: Any) -> bool:
    try:
        cloudpickle.dumps(part)
    except Exception:
        return False
    return True


def _answer(message: Mapping[str, Any]) -> Answer:
    """A worker's answer, which is plain data, as an `Answer`."""
    ending: Ending = Raised(**message["raised"]) if "raised" in message else Returned(**message["returned"])
    return Answer(
        ending,
        told=message.get("told"),
        task_name=message.get("task_name"),
        working_dir=message.get("working_dir"),
    )
