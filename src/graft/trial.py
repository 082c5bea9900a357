"""What a running job may say to, and ask of, the sweep it belongs to.

    from graft import trial

    for epoch in range(epochs):
        accuracy = train_one_epoch()
        trial.report(epoch, accuracy, images_per_second=820.0)
        if trial.should_stop():
            return accuracy

Every function here does nothing outside a sweep, so a task needs no second code path for single
runs. Importing this module loads no Optuna; the first `report` inside a sweep does. Call these
functions from the thread that runs the task.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from graft.sweep.reporting import Reporter

StopReason = Literal["pruned", "interrupted"]
"""As `graft.loop.result.StopReason`, which is written out again there: a loop knows no sweep, and a sweep no loop."""

INITIALIZER = "graft_initializer"
"""Attribute of a task that `initializer` sets."""

TICKET_VARIABLE = "GRAFT_TRIAL_TICKET"
"""Environment variable that names the ticket file of a job run by a third-party launcher."""


@dataclass(frozen=True)
class Trial:
    """The trial that this process is running.

    Attributes:
        sweep: Name of the Optuna study.
        number: Number in the whole sweep, from 0; equal to `hydra.job.num`.
        attempt: 0 for the first start, and one more after every death, interruption or resume.
        directory: Folder of the trial, the same for every attempt, so checkpoints belong here.
        context: What the sweep's observer returned from `sweep_started`.
    """

    sweep: str
    number: int
    attempt: int
    directory: Path
    context: Mapping[str, str]


@dataclass
class Session:
    """A trial under way in this process, with its ways out. Made by the engine, not by tasks.

    Attributes:
        trial: What `current()` returns.
        reporter: Writes reports to the study and asks the pruner.
        on_report: Also told of each report, for the live table; None where nobody looks.
        interrupted: Set by the engine, from another thread, when the sweep wants to stop.
        told: Why `should_stop` said True; None while it has not.
    """

    trial: Trial
    reporter: Reporter
    on_report: Callable[[int, float, Mapping[str, float]], None] | None = None
    interrupted: bool = False
    told: StopReason | None = field(default=None, init=False)


Task = TypeVar("Task", bound=Callable[..., Any])


def initializer(prepare: Callable[[], None]) -> Callable[[Task], Task]:
    """Has `prepare` called once in each worker process of Graft's launchers, before its first job.

        def import_libraries() -> None:
            import torch

        @hydra.main(version_base="1.3", config_path="conf", config_name="config")
        @trial.initializer(import_libraries)
        def main(config: DictConfig) -> float: ...

    On this machine workers start while the sweep's observer opens its server, so what every job needs, and takes
    seconds to import, is there when the first job comes. What it raises ends the sweep. `hydra.job.env_set` holds in
    it, as far as it is the same for all jobs; `hydra.sweeper.trial_timeout` does not.

    Args:
        prepare: Importable, or picklable by cloudpickle, as the task itself.

    Source: the argument of `concurrent.futures.ProcessPoolExecutor`.
    """

    def decorate(task: Task) -> Task:
        layer: Any = task
        while layer is not None:  # `hydra.main` may have wrapped it already, and hands on what it wrapped
            setattr(layer, INITIALIZER, prepare)
            layer = getattr(layer, "__wrapped__", None)
        return task

    return decorate


_session: Session | None = None
_ticket_read: str | None = None


def current() -> Trial | None:
    """The trial that this process is running, or None outside a sweep."""
    session = _current_session()
    return None if session is None else session.trial


def report(step: int, value: float, **shown: float) -> None:
    """Hands over an intermediate value of the objective, for pruners and for the live table.

    Args:
        step: Counts up within a trial, from 0. A step that was reported before is overwritten,
            so that an attempt which continues from a checkpoint may repeat one.
        value: The objective at this step, in the same sense as the value that the task returns.
        shown: Further numbers for the live table, such as ``images_per_second=820.0``.
    """
    session = _current_session()
    if session is None:
        return
    session.reporter.report(int(step), float(value))
    if session.on_report is not None:
        session.on_report(int(step), float(value), {name: float(number) for name, number in shown.items()})


def should_stop() -> bool:
    """Whether the task should return now, with whatever value it has.

    Once True it stays True. The engine records what it told the job here, so a task that was told
    to stop is pruned or interrupted whatever it returns.
    """
    session = _current_session()
    if session is None:
        return False
    if session.told is None:
        # Interruption first: an interrupted trial is resumed, a pruned one is over.
        if session.interrupted:
            session.told = "interrupted"
        elif session.reporter.superseded():
            # Nobody waits for the answer, and what the study says of the trial is another attempt's affair.
            session.told = "interrupted"
            return True
        elif session.reporter.should_prune():
            session.told = "pruned"
        if session.told is not None and session.on_report is None:
            session.reporter.record_told(session.told)
    return session.told is not None


def stop_reason() -> StopReason | None:
    """Why `should_stop` said True, or None while it has not."""
    session = _current_session()
    return None if session is None else session.told


def activate(session: Session | None) -> None:
    """Makes `session` the current one; None ends it. For the engine's workers."""
    global _session
    _session = session


def _current_session() -> Session | None:
    """The session that a worker activated, or the one that the ticket in the environment names.

    A third-party launcher runs the job in a process that the engine never sees; `hydra.job.env_set`
    is the one thing of ours that is certain to arrive there.
    """
    global _session, _ticket_read
    path = os.environ.get(TICKET_VARIABLE)
    if path != _ticket_read:
        _ticket_read = path
        _session = None  # also where the ticket cannot be read: the last job's is not this one's
        if path is not None:
            from graft.sweep.reporting import session_from_ticket_file

            _session = session_from_ticket_file(Path(path))
    return _session
