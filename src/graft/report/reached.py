"""How long it took to given accuracies, for the page, its figure and `--json`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from graft.report.record import SweepRecord

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99)
ENOUGH_FOR_MEDIAN = 0.5  # part of the trials that have to have reached an accuracy


@dataclass(frozen=True)
class Reached:
    """How long one kind of trial took to a validation accuracy.

    Attributes:
        accuracy: From 0 to 1.
        kind: ``frozen`` or ``fine-tuned``.
        reached: How many of `trials` got there.
        epochs: Median over those that did; None if less than half did.
        seconds: `epochs` times the median epoch with the backbone run on every image.
    """

    accuracy: float
    kind: str
    reached: int
    trials: int
    epochs: float | None
    seconds: float | None


def reached(record: SweepRecord, levels: Sequence[float] = LEVELS) -> list[Reached]:
    """Epochs to given accuracies, of the complete trials; levels that no trial reached are left out."""
    rows: list[Reached] = []
    for level in levels:
        of_level: list[Reached] = []
        for kind in record.kinds:
            trials = [trial for trial in record.of_kind(kind) if trial.number in record.curves]
            took = [count for trial in trials if (count := record.curves[trial.number].epochs_to(level))]
            enough = bool(took) and len(took) >= ENOUGH_FOR_MEDIAN * len(trials)
            epochs = statistics.median(took) if enough else None
            live = [trial.epoch_seconds_live for trial in trials if trial.epoch_seconds_live]
            seconds = epochs * statistics.median(live) if epochs and live else None
            of_level.append(Reached(level, kind, len(took), len(trials), epochs, seconds))
        if any(row.reached for row in of_level):
            rows += of_level
    return rows
