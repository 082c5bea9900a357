"""The record's way to the sweep: what pruners compare, and what the live table shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from graft import trial
from graft.tracking.recorder import Recorder, Scalar, State


class TrialReporter(Recorder):
    """Reports the validation accuracy of every epoch to the sweep; keeps nothing itself."""

    def log_params(self, params: Mapping[str, Scalar]) -> None:
        return

    def set_tags(self, tags: Mapping[str, str]) -> None:
        return

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step is not None:
            trial.report(step, metrics["val_accuracy"], images_per_second=metrics["images_per_second"])

    def log_artifact(self, path: Path, folder: str = "") -> None:
        return

    def close(self, state: State, failure: str | None = None) -> None:
        return
