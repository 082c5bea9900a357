"""What a launcher is handed and what it answers: the contract between controller and launchers.

A launcher of ours offers `open`, `submit` and the rest of `JobLauncher` beside Hydra's `launch`. The
controller looks for `submit` by attribute and never by type, because Hydra's plugin scan executes
plugin modules a second time, so that two classes of one name exist.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from graft.sweep.reporting import Ticket


@dataclass(frozen=True)
class Job:
    """One run of the task.

    Attributes:
        number: `hydra.job.num`.
        overrides: Of the task, as the user would write them.
        config: Composed, with the `hydra` node.
        ticket: The trial that the job is; None for a job of another sweeper.
        timeout: Seconds after which the job is killed, or None.
    """

    number: int
    overrides: Sequence[str]
    config: DictConfig
    ticket: Ticket | None = None
    timeout: float | None = None


@dataclass(frozen=True)
class Returned:
    """The task returned.

    Attributes:
        values: The numbers in what it returned, or None if there were none.
        plain: What it returned, if that is plain data; for sweepers other than ours.
        shown: What it returned, in short, for messages.
    """

    values: Mapping[str, float] | Sequence[float] | None
    plain: Any = None
    shown: str = ""


@dataclass(frozen=True)
class Raised:
    """The task raised, `SystemExit` and its like included.

    Attributes:
        cause: Name of the exception's class, or the word that a `FailedTrial` carries.
        message: The exception's text.
        traceback: As Python prints it.
        fatal: Status that a `FatalError` asks the command to exit with; None for all others.
        blameless: The trial is not to blame, and can go on from where it was: a disk is full.
    """

    cause: str
    message: str
    traceback: str = ""
    fatal: int | None = None
    blameless: bool = False


@dataclass(frozen=True)
class Died:
    """The process of the job ended without an answer.

    Attributes:
        cause: Name of the signal, such as ``SIGKILL``, ``exit status 3``, or what else happened, such as ``node lost``.
        last_output: The last lines that it printed.
    """

    cause: str
    last_output: str = ""


@dataclass(frozen=True)
class TimedOut:
    """The job ran past its timeout of so many seconds and was killed."""

    seconds: float


@dataclass(frozen=True)
class Killed:
    """The job was killed, or never began: the sweep was told to stop, or others have taken its trial over."""


@dataclass(frozen=True)
class Preempted:
    """The scheduler took the job's place away before the job ended; the trial is not to blame."""


@dataclass(frozen=True)
class Refused:
    """No job of this application can run here, whatever its trial; `message` says why."""

    message: str


Ending = Returned | Raised | Died | TimedOut | Killed | Preempted | Refused


@dataclass(frozen=True)
class Answer:
    """How a job ended.

    Attributes:
        ending: What happened.
        told: What `graft.trial.should_stop` told the job: ``pruned``, ``interrupted`` or None.
        unstored: Intermediate values by step that the job could not store in the study.
        seconds: From handing the job over to its end, with the wait for its worker.
        task_name, working_dir: As Hydra's `JobReturn` has them.
    """

    ending: Ending
    told: str | None = None
    unstored: Sequence[tuple[int, float]] = ()
    seconds: float = 0.0
    task_name: str | None = None
    working_dir: str | None = None


@dataclass(frozen=True)
class Reported:
    """A running trial reported: `value` at `step`, and further numbers to show."""

    number: int
    step: int
    value: float
    shown: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Printed:
    """A running job printed a line on stdout or stderr."""

    number: int
    line: str


Event = Reported | Printed
Listener = Callable[[Event], None]


class JobLauncher(Protocol):
    """Runs jobs in slots. All methods are called from the controller's thread."""

    @property
    def slots(self) -> int:
        """How many jobs run at a time. The controller submits no more than that. Known after `open`."""

    @property
    def place(self) -> str:
        """Where the slots are, for the first line of a sweep; empty for this machine. Known after `open`."""

    def open(
        self,
        *,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
        listener: Listener,
    ) -> None:
        """Gets ready. May be called again after `close`.

        Args:
            hydra_context: As Hydra hands it to a sweeper.
            task_function: What a job runs.
            config: Composed for the sweep itself.
            listener: May be called from any thread.

        Raises:
            ConfigError: if the task cannot be run here.
        """

    def warm_up(self, jobs: int) -> None:
        """Gets ready for so many jobs that will soon be submitted, where that keeps nobody else from a place."""

    def submit(self, job: Job) -> Future[Answer]:
        """Starts a job in a free slot. The future never raises: whatever happened is in the answer."""

    def flush(self) -> None:
        """Runs what was submitted, for launchers that run batches; called before each wait."""

    def stop(self) -> None:
        """Asks every running job to return at its next step. May be called twice."""

    def kill(self) -> None:
        """Ends every running job at once; their answers say `Killed`. May be called twice."""

    def cancel(self, number: int) -> None:
        """Ends the job `number` at once, if it runs; its answer says `Killed`. May be called twice."""

    def close(self) -> None:
        """Ends all workers; running jobs are killed. May be called twice."""
