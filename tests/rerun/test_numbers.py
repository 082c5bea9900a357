"""What counts as the same numbers."""

from __future__ import annotations

import io
import math

import pytest

from graft.console import PlainConsole
from graft.loop.result import ALWAYS_RECORDED, EPOCH_METRICS, SUMMARY_METRICS
from graft.rerun import Rerun, telling
from graft.rerun.numbers import Metrics, compare, flaws
from graft.tracking.recorded_run import RecordedRun

RECORDED = {
    "val_accuracy": {0: 0.5, 1: 0.75},
    "train_loss": {0: 1.5, 1: -0.0},
    "epoch_seconds": {0: 3.0, 1: 2.0},
    "best_val_accuracy": {0: 0.75},
    "total_seconds": {0: 5.0},
}


def changed(**metrics: dict[int, float]) -> Metrics:
    return {**RECORDED, **metrics}


@pytest.mark.parametrize(
    "rerun",
    [
        RECORDED,
        changed(epoch_seconds={0: 9.0, 1: 9.0}, total_seconds={0: 18.0}),
        changed(younger_metric={0: 1.0}),
    ],
)
def test_times_and_what_the_record_does_not_know_are_left_aside(rerun: Metrics) -> None:
    compared = compare(RECORDED, rerun, ended=True, whole=True)
    assert compared.exact
    assert (len(compared.all), compared.epochs) == (5, 2)


@pytest.mark.parametrize(
    ("rerun", "first"),
    [
        (changed(val_accuracy={0: 0.5, 1: math.nextafter(0.75, 1)}), "val_accuracy of epoch 1: 0.75 recorded"),
        (changed(train_loss={0: 1.5, 1: 0.0}), "train_loss of epoch 1: -0.0 recorded, 0.0 now"),
        (changed(val_accuracy={0: 0.5}), "val_accuracy of epoch 1: 0.75 recorded, none now"),
        (changed(best_val_accuracy={}), "best_val_accuracy: 0.75 recorded, none now"),
        (changed(val_accuracy={0: 0.5, 1: 0.75, 2: 0.9}), "val_accuracy of epoch 2: none recorded, 0.9 now"),
    ],
)
def test_the_first_number_that_differs_is_named(rerun: Metrics, first: str) -> None:
    compared = compare(RECORDED, rerun, ended=True, whole=True)
    assert not compared.exact
    assert str(compared.differing[0]).startswith(first)


def test_a_run_that_did_not_end_is_compared_as_far_as_it_came() -> None:
    rerun = changed(val_accuracy={0: 0.5, 1: 0.75, 2: 0.9}, best_val_accuracy={0: 0.9})
    compared = compare(RECORDED, rerun, ended=False, whole=False)
    assert compared.exact
    assert len(compared.all) == 4


def test_nan_is_nan_and_no_number_proves_nothing() -> None:
    assert compare({"train_loss": {0: math.nan}}, {"train_loss": {0: math.nan}}, ended=True, whole=True).exact
    assert not compare({}, {}, ended=True, whole=True).exact


def test_what_failed_later_than_the_record_is_another_failure() -> None:
    recorded = {"train_loss": {0: 1.5}, "best_val_accuracy": {0: 0.5}}
    rerun = {"train_loss": {0: 1.5, 1: 1.25}}
    assert not compare(recorded, rerun, ended=True, whole=False).exact
    assert compare(recorded, {"train_loss": {0: 1.5}}, ended=True, whole=False).exact


def record(
    metrics: Metrics, status: str = "FINISHED", contradictions: tuple[str, ...] = (), **tags: str
) -> RecordedRun:
    named = {f"graft.{name}": value for name, value in tags.items()}
    return RecordedRun("id", "name", named, {}, {}, metrics, status, contradictions)


WHOLE = {**{name: {0: 1.0, 1: 2.0} for name in EPOCH_METRICS}, **{name: {0: 1.0} for name in SUMMARY_METRICS}}

LATER = set(SUMMARY_METRICS) - set(ALWAYS_RECORDED)


def without(name: str, epoch: int | None = None) -> Metrics:
    if epoch is None:
        return {key: value for key, value in WHOLE.items() if key != name}
    return {**WHOLE, name: {step: value for step, value in WHOLE[name].items() if step != epoch}}


def test_a_whole_record_has_no_flaw() -> None:
    assert flaws(record(WHOLE, state="complete")) == []
    before_a_metric_came_in = {name: steps for name, steps in WHOLE.items() if name not in LATER}
    assert flaws(record(before_a_metric_came_in, state="complete")) == []
    assert flaws(record({}, status="FAILED", state="failed", failure="diverged")) == []
    assert flaws(record(without("test_loss"), status="RUNNING")) == []


@pytest.mark.parametrize(
    ("run", "flaw"),
    [
        (record(without("val_loss", 1), state="complete"), "val_loss of epoch 1 is missing"),
        (record(without("train_accuracy"), state="complete"), "train_accuracy of epoch 0 is missing"),
        (record(without("test_loss"), state="complete"), "test_loss is missing"),
        (record({}, state="complete"), "every epoch is missing"),
        (
            record(WHOLE, contradictions=("val_loss at step 1 has several values",), state="complete"),
            "val_loss at step 1",
        ),
        (record(WHOLE), "it ended as FINISHED, and the tag graft.state is missing"),
        (record({}, status="FAILED", state="failed"), "the tag graft.failure is missing"),
    ],
)
def test_a_record_that_is_not_whole_is_told(run: RecordedRun, flaw: str) -> None:
    assert any(each.startswith(flaw) for each in flaws(run))


def test_the_same_numbers_of_a_record_that_is_not_whole_are_summed_up() -> None:
    same = compare(RECORDED, RECORDED, ended=True, whole=True)
    flawed = ("test_loss is missing",)
    done = Rerun("id", "a run", 3, "new", (), same, "", flawed, "", (), False, None, None, None)
    console = PlainConsole(file=io.StringIO(), width=120)
    console.print(telling.summary([done]))
    printed = console.file.getvalue()
    assert "0 of 1 trials are exact" in printed
    assert "the same; the record is not whole" in printed
