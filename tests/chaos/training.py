"""A run of seconds, and what MLflow has of it afterwards."""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.conftest import backbone_at
from tests.processes import Training

Curve = dict[str, list[tuple[int, float]]]


# What there is from the moment on that a run is composed, its images are read, its features are extracted, it is
# recorded, and it trains.
STAGES = (
    "run/.hydra", "mlruns/cache/images/*", "mlruns/cache/features/*", "run/record.jsonl",
    "run/checkpoints/latest/ckpt-1.index", "run/checkpoints/latest/ckpt-8.index",
)  # fmt: skip


def some_moment(home: Path, running: Training, moments: random.Random) -> None:
    """Returns at a moment within a run, or when it has ended."""
    stage = moments.choice(STAGES)
    while running.running() and not any(home.glob(stage)):
        time.sleep(0.002)
    time.sleep(moments.uniform(0, 0.4))


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
