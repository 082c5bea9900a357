"""Real photos through the real backbone; skipped, with the reason, where the photos are absent."""

from __future__ import annotations

import json
from pathlib import Path

from mlflow.tracking import MlflowClient
from tests.conftest import run_command


def test_a_frozen_backbone_tells_flowers_apart(photos: Path, tmp_path: Path) -> None:
    # 96 pixels and 4 epochs in place of 256 and 10: a twentieth of the time, and still far above what chance gives.
    overrides = ["dataset=image_folder", f"dataset.path={photos}", "dataset.image_size=96", "epochs=4"]
    done = run_command(["python", "train.py", *overrides], tmp_path)
    assert done.returncode == 0, done.stderr
    client = MlflowClient(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    run = client.search_runs([client.get_experiment_by_name("graft").experiment_id])[0]
    assert run.data.metrics["test_accuracy"] > 0.7
    names = [entry.dataset.profile for entry in run.inputs.dataset_inputs]
    assert sum(json.loads(profile)["images"] for profile in names) == 1000
