"""What a sweep tells whoever keeps other records of it: `hydra.sweeper.observer`.

The engine knows Optuna and nothing else. An observer, named by `_target_`, makes what it likes of
the same events: an MLflow parent run, a report, a message to a chat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig


@dataclass(frozen=True)
class SweepStarted:
    """A sweep starts, goes on after an interruption, or gets another controller.

    Attributes:
        sweep: Name of the study.
        total: Number of trials in the whole sweep, finished ones included.
        config: Composed configuration of the sweep, without the swept values; with the `hydra` node.
        space: What is varied, by key, as plain data that reads like overrides.
        resumed: The sweep was started before.
        directory: Folder of the sweep.
        directions, objectives: One each for every value that a trial returns.
        context: What `sweep_started` returned at the last start of the sweep; empty at the first.
    """

    sweep: str
    total: int
    config: DictConfig
    space: Mapping[str, Any]
    resumed: bool
    directory: Path
    directions: tuple[str, ...]
    objectives: tuple[str, ...]
    context: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialEnded:
    """A trial ended for good, or was interrupted and will be resumed.

    Attributes:
        number: In the whole sweep, from 0.
        attempt: Of this trial, from 0.
        state: ``complete``, ``pruned``, ``failed`` or ``interrupted``.
        values: By objective; empty for a failed trial, and perhaps for one that was stopped.
        cause, message: Of a failure.
        overrides: Of the task, in Hydra's order.
        cell: The grid values by key, as text.
        params: The sampled values by key.
        directory: Folder of the trial.
        seconds: Of this attempt, with the wait for its worker.
    """

    number: int
    attempt: int
    state: str
    values: Mapping[str, float]
    cause: str | None
    message: str
    overrides: tuple[str, ...]
    cell: Mapping[str, str]
    params: Mapping[str, Any]
    directory: Path
    seconds: float


@dataclass(frozen=True)
class BestTrial:
    """One of the best trials: the best of a sweep with one objective, or the Pareto front."""

    number: int
    values: Mapping[str, float]
    overrides: tuple[str, ...]
    directory: Path


@dataclass(frozen=True)
class SweepEnded:
    """A sweep is over, or was interrupted.

    Attributes:
        sweep: Name of the study.
        total: Number of trials in the whole sweep.
        counts: Trials by state, over all controllers and starts: ``complete``, ``pruned``, ``failed``,
            ``waiting`` and ``running``.
        best: Best trials, by number; empty without a complete one.
        seconds: Since this command started.
        failures: Failed trials by cause.
        interrupted: Trials are left, because of Ctrl-C, a failure limit, a timeout or a fatal error.
    """

    sweep: str
    total: int
    counts: Mapping[str, int]
    best: tuple[BestTrial, ...]
    seconds: float
    failures: Mapping[str, int]
    interrupted: bool


class SweepObserver(Protocol):
    """Called in the controller's process and thread, one call at a time, so it may keep state.

    With a second controller on one sweep there are two observers, each told of its own trials; after
    a crash, a trial whose end was told may end again as its next attempt. So every call has to be
    idempotent in what it records.
    """

    def validate(self, config: DictConfig) -> Mapping[str, str] | None:
        """Checks one configuration before anything starts: each cell's, with the ends of its ranges.

        Args:
            config: What the task would get.

        Returns:
            Digests of what a run depends on beyond its configuration, such as the data. They become
            part of what identifies the sweep when it is resumed.

        Raises:
            ConfigError: if the configuration is wrong. The sweep then does not start.
        """

    def sweep_started(self, event: SweepStarted) -> Mapping[str, str] | None:
        """Returns what `graft.trial.current().context` shall be in every trial that starts from now on.

        Called at every start of the sweep, while its workers start, which may not have what it puts into `os.environ`.
        May raise: nothing ran yet.
        """

    def trial_ended(self, event: TrialEnded) -> None:
        """Called before the study is told, so that no trial that the study calls final is missed here.

        What it raises is logged, the first time, and stops nothing.
        """

    def sweep_ended(self, event: SweepEnded) -> None:
        """Called once, at the end of every start of the sweep, unless that dies or can write to its study no more.

        What it raises ends the command, after the summary.
        """


class NoObserver:
    """Records nothing."""

    def validate(self, config: DictConfig) -> Mapping[str, str] | None:
        return None

    def sweep_started(self, event: SweepStarted) -> Mapping[str, str] | None:
        return None

    def trial_ended(self, event: TrialEnded) -> None: ...

    def sweep_ended(self, event: SweepEnded) -> None: ...
