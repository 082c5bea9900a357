"""What happened to a job -> what is recorded of its trial. The only place where that is decided."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from graft.errors import STATUS_CONFIG
from graft.sweep.jobs import Answer, Died, Killed, Preempted, Raised, Refused, Returned, TimedOut

PLACE_TAKEN = "its place was taken away"
"""About a trial that was interrupted while the sweep goes on: by a scheduler, or by an init system."""


class State(StrEnum):
    """What becomes of a trial.

    COMPLETE, PRUNED and FAILED are final. RETRY runs the same trial again at once, and it stays
    RUNNING in the storage. INTERRUPTED puts it back to WAITING, for whoever has a free slot, or for the sweep's
    next start.
    """

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    RETRY = "retry"
    INTERRUPTED = "interrupted"

    @property
    def final(self) -> bool:
        return self in (State.COMPLETE, State.PRUNED, State.FAILED)


@dataclass(frozen=True)
class Outcome:
    """What is recorded.

    Attributes:
        state: What becomes of the trial.
        values: One for each objective if it is complete, or what a stopped trial returned.
        cause: One word or name for a failure, such as ``diverged``, ``ValueError`` or ``SIGKILL``.
        message: For the user.
        fatal: The whole sweep must end with this exit status; None if it goes on.
    """

    state: State
    values: tuple[float, ...] = ()
    cause: str | None = None
    message: str = ""
    fatal: int | None = None


def decide(answer: Answer, *, objectives: Sequence[str], deaths: int, max_retries: int, stopping: bool) -> Outcome:
    """Decides the outcome of one attempt.

    Args:
        answer: How the job ended.
        objectives: Names of the values that the task has to return.
        deaths: How often the worker of this trial has died before this attempt.
        max_retries: How many deaths a trial survives.
        stopping: The sweep is being stopped, so nothing is started again now.
    """
    match answer.ending:
        case Killed():
            return Outcome(State.INTERRUPTED)
        case Preempted():
            return Outcome(State.INTERRUPTED, message=PLACE_TAKEN)
        case Refused(message):
            # The trial is not to blame, and waits for a start that can run it.
            return Outcome(State.INTERRUPTED, message=message, fatal=STATUS_CONFIG)
        case TimedOut(seconds):
            return Outcome(State.FAILED, cause="timeout", message=f"was killed after {seconds:g} s, its time limit")
        case Died(cause, last_output):
            message = f"its process died ({cause})" + (f"; it last printed:\n{last_output}" if last_output else "")
            if deaths >= max_retries:
                times = "" if deaths == 0 else f", {deaths + 1} times in all"
                return Outcome(State.FAILED, cause=cause, message=message + times if not last_output else message)
            # A trial that died while the sweep stops has its retry when the sweep goes on.
            return Outcome(State.INTERRUPTED if stopping else State.RETRY, cause=cause, message=message)
        case Raised(cause, message, _, fatal, blameless):
            if blameless:
                return Outcome(State.INTERRUPTED, cause=cause, message=message, fatal=fatal)
            return Outcome(State.FAILED, cause=cause, message=message, fatal=fatal)
        case Returned(_, _, _) as returned:
            return _returned(returned, answer.told, objectives, "" if stopping else PLACE_TAKEN)


def _returned(returned: Returned, told: str | None, objectives: Sequence[str], why_interrupted: str) -> Outcome:
    values, problem = _read(returned, objectives)
    # A job that was told to stop gave no final result, whatever it returned.
    if told == "interrupted":
        return Outcome(State.INTERRUPTED, values=values, message=why_interrupted)
    if told == "pruned":
        return Outcome(State.PRUNED, values=values)
    if problem is not None:
        return Outcome(State.FAILED, cause="no_value", message=problem)
    if not all(math.isfinite(value) for value in values):
        named = ", ".join(f"{name}={value}" for name, value in zip(objectives, values, strict=True))
        return Outcome(State.FAILED, cause="diverged", message=f"returned {named}, which is not finite")
    return Outcome(State.COMPLETE, values=values)


def _read(returned: Returned, objectives: Sequence[str]) -> tuple[tuple[float, ...], str | None]:
    """The objectives' values in what a task returned, and what is wrong with it, if anything is."""
    expected = "a number" if len(objectives) == 1 else f"{len(objectives)} numbers ({', '.join(objectives)})"
    values = returned.values
    if values is None:
        return (), f"returned {returned.shown}, but the sweep needs {expected}"
    if isinstance(values, Mapping):
        missing = [name for name in objectives if name not in values]
        if missing:
            return (
                (),
                f"returned a mapping without {', '.join(missing)}; it has {', '.join(values) or 'no numbers'}",
            )
        return tuple(values[name] for name in objectives), None
    if len(values) != len(objectives):
        return (), f"returned {len(values)} values, but the sweep needs {expected}"
    return tuple(values), None
