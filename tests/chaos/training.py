"""A run of seconds, and what MLflow has of it afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.conftest import backbone_at

Curve = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Whole:
    """A run that was left alone.

    Attributes:
        curve: What it recorded.
        seconds: How long it took.
    """

    curve: Curve
    seconds: float


def curve_of(home: Path) -> Curve:
    """Every point of every metric of the only run in a home's record, however often it is there."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{home}/mlruns/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("graft").experiment_id])
    assert run.info.status == "FINISHED", run.info.status
    return {
        name: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
        for name in ("train_loss", "val_loss", "val_accuracy", "test_accuracy")
    }


def small(backbone: Path, folder: Path) -> list[str]:
    return [
        *backbone_at(backbone), "dataset.image_size=8", "dataset.max_images=200", "epochs=12",
        "tracking.log_model=false", f"hydra.run.dir={folder}",
    ]  # fmt: skip
