"""What a worker is to its slot, and where workers come from: the contract between slots and kinds of workers.

`graft.sweep.local` has those of this machine, `graft.sweep.ray_cluster` those of a Ray cluster,
`graft.sweep.slurm_cluster` those in jobs of Slurm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self

from graft.errors import ConfigError
from graft.suggestions import did_you_mean
from graft.sweep.jobs import Job


class Withdrawn(Exception):
    """The worker was told to stop before there was a place for it."""


class NotYet(Exception):
    """There is no place for the worker yet, and its job can begin elsewhere."""


class PlaceTaken(Exception):
    """The scheduler took the worker's place away, such as for a job of more weight."""


@dataclass(frozen=True)
class PoolOptions:
    """How jobs are run, from `hydra.launcher`, wherever that is.

    Attributes:
        slots: Jobs at a time; None for as many as there is room for.
        fresh_process: A new worker for every job.
        recycle_after_trials: A worker is replaced after so many jobs; None for never.
        recycle_above_gib: A worker that holds more GiB of memory than this after a job is replaced; None for never.
        show_output: Pass on what jobs print.
    """

    slots: int | None = None
    fresh_process: bool = False
    recycle_after_trials: int | None = None
    recycle_above_gib: float | None = None
    show_output: bool = True

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """From the settings under `hydra.launcher`.

        Raises:
            ConfigError: if a key does not exist, or a value is not allowed.
        """
        known = [field.name for field in fields(cls)]
        if unknown := [key for key in given if key not in known]:
            raise ConfigError(
                [
                    f"hydra.launcher.{key} does not exist. Allowed: {', '.join(known)}{did_you_mean(key, known)}"
                    for key in unknown
                ]
            )
        return cls(**given)

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

    @property
    def alive(self) -> bool:
        """Whether it can be sent a job, as far as is known. Asked only between jobs, and of one that started early."""

    def wait_until_ready(
        self, say: Callable[[str], None], better: Callable[[], bool], show: Callable[[str], None]
    ) -> None:
        """Returns when the worker can be sent a job.

        `say` takes what the user should know meanwhile, `show` what is printed by `graft.trial.initializer`.

        Raises:
            NotYet: if it waits for a place, and `better` says that somebody else has one. May be called again.
            EOFError: if it died.
            Unfit: if it can run no job of this application.
            Withdrawn: if it was told to stop before there was a place for it.
            PlaceTaken: if the place that it was to have is gone.
        """

    def send_job(self, job: Job) -> None:
        """Hands a job over."""

    def messages(self, patience: float) -> list[dict[str, Any] | str]:
        """What arrived within `patience` seconds: lines that the job printed, then at most one message.

        Raises:
            EOFError: if it is dead, and has nothing more to say.
            PlaceTaken: if it is gone with its place.
        """

    def last_words(self) -> list[str]:
        """What a dead worker left, an unfinished line included."""

    def cause_of_death(self) -> str:
        """Name of the signal that ended it, or what else did."""

    def memory_gib(self) -> float:
        """How much memory it holds, as far as is known; 0 if nothing is."""

    def stop(self) -> None:
        """Asks the running job to return at its next step. Called in the controller's thread; does not wait."""

    def kill(self) -> None:
        """Ends it with all that it started. Called in the controller's thread as well; does not wait."""

    def quit(self) -> None:
        """Lets it end by itself, ends it if it does not, and frees all that it held. Called once, dead or alive."""


class Workers(Protocol):
    """Where the workers of a pool come from: this machine, or whatever schedules several."""

    @property
    def slots(self) -> int:
        """How many workers there can be at a time. Known after `open`."""

    @property
    def place(self) -> str:
        """Where that is, for the first line of a sweep; empty for this machine. Known after `open`."""

    @property
    def shared(self) -> bool:
        """Whether others may wait for the same places, so that none is asked for before there is a job."""

    def open(self) -> None:
        """Gets ready; raises ConfigError where no worker can be had."""

    def start(self, slot: int, setup: bytes) -> Worker:
        """Starts the worker of a slot, or asks for a place for it; does not wait. Called in the slot's thread.

        Unless places are `shared`, also in the controller's, while the slot has no job.
        """

    def close(self) -> None:
        """Frees what was held. All workers have quit. May be called twice."""
