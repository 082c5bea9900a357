"""The table of DESIGN 4, row by row: what happened -> what is recorded."""

from __future__ import annotations

import math

import pytest

from graft.sweep.jobs import Answer, Died, Ending, Killed, Raised, Refused, Returned, TimedOut
from graft.sweep.outcome import Outcome, State, decide
from graft.sweep.worker import describe_value


def outcome(ending: Ending, *, told: str | None = None, deaths: int = 0, stopping: bool = False) -> Outcome:
    return decide(Answer(ending, told=told), objectives=("accuracy",), deaths=deaths, max_retries=2, stopping=stopping)


@pytest.mark.parametrize(
    ("ending", "told", "deaths", "stopping", "state", "cause"),
    [
        (Returned([0.5]), None, 0, False, State.COMPLETE, None),
        (Returned([0.5]), None, 0, True, State.COMPLETE, None),
        (Returned([0.5]), "pruned", 0, False, State.PRUNED, None),
        (Returned(None), "pruned", 0, False, State.PRUNED, None),
        (Returned([0.5]), "interrupted", 0, True, State.INTERRUPTED, None),
        (Returned([math.nan]), None, 0, False, State.FAILED, "diverged"),
        (Returned([math.inf]), None, 0, False, State.FAILED, "diverged"),
        (Returned([1.0, 2.0]), None, 0, False, State.FAILED, "no_value"),
        (Returned(None, shown="str 'x'"), None, 0, False, State.FAILED, "no_value"),
        (Returned({"loss": 1.0}), None, 0, False, State.FAILED, "no_value"),
        (Returned({"loss": 1.0, "accuracy": 0.5}), None, 0, False, State.COMPLETE, None),
        (Raised("ValueError", "no"), None, 0, False, State.FAILED, "ValueError"),
        (Raised("Unwritable", "full", fatal=1, blameless=True), None, 0, False, State.INTERRUPTED, "Unwritable"),
        (Raised("diverged", "no"), "pruned", 0, False, State.FAILED, "diverged"),
        (Died("SIGKILL"), None, 0, False, State.RETRY, "SIGKILL"),
        (Died("SIGKILL"), None, 1, False, State.RETRY, "SIGKILL"),
        (Died("SIGKILL"), None, 2, False, State.FAILED, "SIGKILL"),
        (Died("SIGKILL"), None, 0, True, State.INTERRUPTED, "SIGKILL"),
        (TimedOut(3.0), None, 0, False, State.FAILED, "timeout"),
        (Killed(), None, 0, True, State.INTERRUPTED, None),
        (Refused("no"), None, 0, False, State.INTERRUPTED, None),
    ],
)
def test_outcomes(
    ending: Ending, told: str | None, deaths: int, stopping: bool, state: State, cause: str | None
) -> None:
    decided = outcome(ending, told=told, deaths=deaths, stopping=stopping)
    assert (decided.state, decided.cause) == (state, cause)


def test_only_a_fatal_error_ends_the_sweep() -> None:
    assert outcome(Raised("ValueError", "no")).fatal is None
    assert outcome(Raised("ConfigError", "no", fatal=2)).fatal == 2
    assert outcome(Refused("no")).fatal == 2


def test_the_objective_is_picked_from_a_mapping() -> None:
    assert outcome(Returned({"loss": 1.0, "accuracy": 0.5})).values == (0.5,)


class ZeroDimensional:
    """Stands for the scalars of NumPy and TensorFlow."""

    shape = ()

    def __float__(self) -> float:
        return 0.25


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        (1, [1.0]),
        (True, [1.0]),
        (ZeroDimensional(), [0.25]),
        ((1, 2.5), [1.0, 2.5]),
        ({"a": 1, "b": "text"}, {"a": 1.0}),
        ("0.5", None),
        (None, None),
        ([], None),
        ([1, "x"], None),
        (object(), None),
    ],
)
def test_the_numbers_in_what_a_task_returns(value: object, numbers: object) -> None:
    assert describe_value(value)["values"] == numbers
