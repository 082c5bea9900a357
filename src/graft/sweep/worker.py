"""The process of a slot: `python -m graft.sweep.worker FD`, one job after the other.

It keeps what the task loaded, so TensorFlow, backbone and data are paid once a slot. It lives in a
session of its own, so that Ctrl-C in the terminal reaches only the controller. It is sent pickles,
and answers JSON alone: what a task returns or raises may be of a class that the controller does not
have, or, through Hydra's plugin scan, has twice.

A thread reads the pipe, for two things must not wait for the task: a request to stop, and the end
of the pipe. That end means that the controller is gone, and then this process and all that it
started are gone too, so that the next controller can take the trial up.
"""

from __future__ import annotations

# ruff: noqa: S301 - what is unpickled here comes from the controller, through a pipe of its own
import gc
import json
import logging
import numbers
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from graft.leaving import leaving_at_once
from graft.trial import INITIALIZER

JOB, STOP, QUIT = b"job:", b"stop:", b"quit:"
"""What a message to the worker starts with; a job's pickle follows at once."""

SHOWN_LENGTH = 80
"""Characters of what a task returned that a message shows."""


def main() -> None:
    connection = Connection(int(sys.argv[1]))
    # Whole lines go out as they are printed; the default for a pipe is blocks.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    setup = pickle.loads(connection.recv_bytes())
    # The controller's own search path comes first, so that by-reference pickles are found below.
    sys.path[:] = setup["path"]
    sys.argv[:] = setup["argv"]
    worker = Worker(connection)
    try:
        worker.prepare(setup["application"])
    except BaseException as error:
        worker.refuse(
            f"The task cannot be loaded in a worker process: {describe(error)}. It must be importable, or "
            "picklable by cloudpickle."
        )
        return
    worker.serve()


class Worker:
    """One worker: its pipe, the task, and the job that it runs."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._session: Any = None
        self._stop_asked = False
        self._busy = False  # from a job's arrival until its answer is sent, and while it initializes
        self._ends_with_job = False

    def prepare(self, application: bytes) -> None:
        """Unpickles the application and sets Hydra up as it is in the controller."""
        from hydra import version
        from hydra.core.utils import JobRuntime, setup_globals

        unpickled = pickle.loads(application)
        setup_globals()
        version.setbase(unpickled["version_base"])
        for name, resolver in unpickled["resolvers"].items():
            resolver_table()[name] = resolver
        JobRuntime.instance().set("name", unpickled["job_name"])
        self._task = unpickled["task"]
        self._hydra_context = unpickled["hydra_context"]
        self._environment = unpickled["environment"]

    def refuse(self, why: str) -> None:
        """Says that no job of this application can be run here."""
        self.send({"kind": "unfit", "message": why})

    def serve(self) -> None:
        """Runs jobs until it is told to quit."""
        # A scheduler or an init system ends all processes of a job with it, and gives them some seconds.
        signal.signal(signal.SIGTERM, self._on_sigterm)
        if "SUBMITIT_EXECUTOR" in os.environ:  # some clusters pass its warning on to all processes of a job
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        threading.Thread(target=self._read, name="graft-pipe", daemon=True).start()
        if (initialize := getattr(self._task, INITIALIZER, None)) and not self._has_initialized(initialize):
            return
        # All that was imported stays; collecting garbage need not look at it for each job again.
        gc.freeze()
        self.send({"kind": "ready"})
        while not (message := self._inbox.get()).startswith(QUIT):
            self._busy = True
            answer = self._run(message[len(JOB) :])
            last = self._ends_with_job
            self.send({"kind": "answer", **answer, "last": last})
            self._busy = False
            if last:
                return

    def _has_initialized(self, initialize: Callable[[], None]) -> bool:
        from hydra.core.utils import env_override

        self._busy = True  # for SIGTERM: what is asked to end meanwhile is the first job
        try:
            with env_override(self._environment):
                initialize()
        except BaseException as error:
            traceback.print_exc(file=sys.stdout)
            named = getattr(initialize, "__qualname__", repr(initialize))
            self.refuse(f"{named}, the initializer of this task, failed in a worker process: {describe(error)}")
            return False
        finally:
            self._busy = False
            sys.stdout.flush()
            sys.stderr.flush()
        return True

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        """Ends the running job at its next step; without one, the process.

        A job that just begins has no step yet, and one that is over has an answer that must not be lost: both are
        waited for.
        """
        if (session := self._session) is not None:
            session.interrupted = True
        elif self._busy:
            self._ends_with_job = True
        else:
            sys.exit(0)

    def send(self, message: Mapping[str, Any]) -> None:
        self._connection.send_bytes(json.dumps(message).encode())

    def _read(self) -> None:
        while True:
            try:
                message = self._connection.recv_bytes()
            except (EOFError, OSError):
                _end_with_all_children()
            if message.startswith(STOP):
                self._stop_asked = True
                if (session := self._session) is not None:
                    session.interrupted = True
            else:
                self._inbox.put(message)

    def _run(self, pickled: bytes) -> dict[str, Any]:
        from graft import trial
        from graft.sweep.reporting import Reporter, Ticket

        try:
            job = pickle.loads(pickled)
            if job["ticket"] is not None:
                ticket = Ticket.from_json(job["ticket"])
                self._session = trial.Session(ticket.trial(), Reporter(ticket), self._on_report)
                # The request may have come between the job and this line.
                self._session.interrupted = self._stop_asked or self._ends_with_job
                trial.activate(self._session)
            return self._run_task(job["config"])
        except BaseException as error:
            return {"raised": describe_error(error)}
        finally:
            self._session = None
            trial.activate(None)
            sys.stdout.flush()
            sys.stderr.flush()

    def _run_task(self, config: Any) -> dict[str, Any]:
        from hydra.core.utils import JobStatus, run_job

        from graft.disk import quiet_logs
        from graft.errors import GraftError

        answer: dict[str, Any] = {}
        try:
            with quiet_logs():
                job = run_job(
                    task_function=self._task,
                    config=config,
                    job_dir_key="hydra.sweep.dir",
                    job_subdir_key="hydra.sweep.subdir",
                    hydra_context=self._hydra_context,
                )
            answer = {"task_name": job.task_name, "working_dir": job.working_dir}
            if job.status == JobStatus.COMPLETED:
                answer["returned"] = describe_value(job._return_value)
            else:
                raise job._return_value
        except BaseException as error:
            # SystemExit and KeyboardInterrupt pass run_job; they end this job, not this worker.
            answer["raised"] = describe_error(error, None if self._session is None else self._session.trial.directory)
            # run_job has set the job's logging up, so this lands in the job's own log file.
            # An error of ours is raised on purpose, and its text says all that a user needs.
            own = isinstance(error, GraftError) or answer["raised"]["blameless"]
            told = answer["raised"]["message"] if own else answer["raised"]["traceback"].rstrip()
            with quiet_logs():
                logging.getLogger(__name__).error("The task failed\n%s", told)
        answer["told"] = None if self._session is None else self._session.told
        answer["unstored"] = [] if self._session is None else self._session.reporter.unstored()
        return answer

    def _on_report(self, step: int, value: float, shown: Mapping[str, float]) -> None:
        self.send({"kind": "report", "step": step, "value": value, "shown": dict(shown)})


def resolver_table() -> dict[str, Any]:
    """OmegaConf's own table of resolvers; its interface can add one, but not list or copy them."""
    from omegaconf.basecontainer import BaseContainer

    return BaseContainer._resolvers


def describe_value(value: Any) -> dict[str, Any]:
    """What a task returned, as plain data: the fields of `graft.sweep.jobs.Returned`."""
    shown = repr(value)
    shown = f"{type(value).__name__} {shown[:SHOWN_LENGTH]}{'…' if len(shown) > SHOWN_LENGTH else ''}"
    try:
        plain = json.loads(json.dumps(value))
    except (TypeError, ValueError):
        plain = None
    return {"values": numbers_in(value), "plain": plain, "shown": "None" if value is None else shown}


def numbers_in(value: Any) -> list[float] | dict[str, float] | None:
    """The numbers in a task's result: one, several in a row, or several by name; None if there are none.

    Args:
        value: A number; an array or tensor of shape () or (1,); a sequence, or an array with `tolist`, of shape (n,);
            or a mapping to numbers. Of any type that converts to float.
    """
    if (single := _number(value)) is not None:
        return [single]
    if isinstance(value, Mapping):
        named = {str(name): _number(item) for name, item in value.items()}
        return {name: number for name, number in named.items() if number is not None}
    if (isinstance(value, Sequence) and not isinstance(value, str | bytes)) or hasattr(value, "tolist"):
        items = [_number(item) for item in (value.tolist() if hasattr(value, "tolist") else value)]
        return None if None in items or not items else items  # type: ignore[return-value]
    return None


def _number(value: Any) -> float | None:
    """A number, or what converts to one: NumPy's and TensorFlow's scalars. Text does not."""
    if isinstance(value, numbers.Real):
        return float(value)
    if hasattr(value, "__float__") and getattr(value, "shape", None) in ((), (1,)):
        return float(value)
    return None


def describe(error: BaseException) -> str:
    """An exception in a line."""
    return f"{type(error).__name__}: {error}"


def describe_error(error: BaseException, place: Path | None = None) -> dict[str, Any]:
    """An exception as plain data: the fields of `graft.sweep.jobs.Raised`.

    Args:
        error: What was raised.
        place: Where the job writes, as far as is known.
    """
    from graft.disk import unwritable_of
    from graft.errors import FailedTrial, FatalError

    # All other trials would fail by it, too.
    unwritable = unwritable_of(error, place)
    error = unwritable or error
    return {
        "cause": error.cause if isinstance(error, FailedTrial) else type(error).__name__,
        "message": str(error) or repr(error),
        "traceback": "".join(traceback.format_exception(error)),
        "fatal": error.status if isinstance(error, FatalError) else None,
        "blameless": unwritable is not None,
    }


def _end_with_all_children() -> NoReturn:
    """Kills this process's session: nothing that a task started may outlive the controller."""
    os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    with leaving_at_once():
        main()
