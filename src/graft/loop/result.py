"""What a loop returns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

EPOCH_METRICS = (
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "epoch_seconds",
    "images_per_second",
)
"""What a run has for every epoch."""

SUMMARY_METRICS = (
    "best_val_accuracy",
    "best_epoch",
    "test_loss",
    "test_accuracy",
    "overfit_gap",
    "feature_extraction_seconds",
    "epoch_seconds_live",
    "trainable_parameters",
    "total_seconds",
)
"""What a run can have once, and so what a sweep can optimise."""

ALWAYS_RECORDED = (
    "best_val_accuracy",
    "best_epoch",
    "test_loss",
    "test_accuracy",
    "overfit_gap",
    "trainable_parameters",
)
"""What every complete run has had from the first version on: without one of them a record is damaged.

A metric that came later, or that some runs lack, does not belong here.
"""

StopReason = Literal["pruned", "interrupted"]
StopSignal = Callable[[], StopReason | None]

History = list[dict[str, float]]
"""One entry an epoch, from epoch 0, with `EPOCH_METRICS`."""

Confusion = Sequence[Sequence[int]]
"""How many images of each true class (rows) were taken for each class (columns), in the order of the labels."""


@dataclass(frozen=True)
class TrainResult:
    """A finished, or early stopped, training.

    Attributes:
        history: The metrics of every epoch.
        test_loss: Cross-entropy on the test split with the best checkpoint; None if training was stopped.
        test_accuracy: Likewise, from 0 to 1.
        trainable_parameters: How many numbers training changed.
        stopped: Why training ended before its time, or None. Running out of `patience` is no such reason.
        feature_extraction_seconds: What this run paid to extract features; 0 if it found them, or needed none.
        saved_seconds: What stored features saved an epoch, measured when they were extracted; 0 without them.
        confusion: Of the test split with the best checkpoint; None if training was stopped, or beyond 1,000 classes.
        probe: What the head's training before fine-tuning reached and took; empty without one.
    """

    history: History
    test_loss: float | None
    test_accuracy: float | None
    trainable_parameters: int
    stopped: StopReason | None
    feature_extraction_seconds: float = 0.0
    saved_seconds: float = 0.0
    confusion: Confusion | None = None
    probe: Mapping[str, float] = field(default_factory=dict)

    @property
    def best_epoch(self) -> int:
        """The first epoch with the highest validation accuracy."""
        return best_epoch(self.history)

    def summary(self) -> dict[str, float]:
        """The metrics that a run has once, but `total_seconds`, which no loop knows; `best_epoch` counts from 0."""
        best = self.history[self.best_epoch]
        metrics = {
            "best_val_accuracy": best["val_accuracy"],
            "best_epoch": float(self.best_epoch),
            "overfit_gap": best["train_accuracy"] - best["val_accuracy"],
            "trainable_parameters": float(self.trainable_parameters),
            "feature_extraction_seconds": self.feature_extraction_seconds,
            "epoch_seconds_live": typical_epoch_seconds(self.history) + self.saved_seconds,
            **self.probe,
        }
        if self.test_loss is not None and self.test_accuracy is not None:
            metrics |= {"test_loss": self.test_loss, "test_accuracy": self.test_accuracy}
        return metrics


def best_epoch(history: History) -> int:
    """The first epoch with the highest validation accuracy; the checkpoint of a later equal one is not kept."""
    return max(range(len(history)), key=lambda epoch: (history[epoch]["val_accuracy"], -epoch))


def typical_epoch_seconds(history: History) -> float:
    """Median seconds an epoch, without the first where there are others: it also traces the functions."""
    return statistics.median(epoch["epoch_seconds"] for epoch in history[1:] or history)
