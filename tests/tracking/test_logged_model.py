"""What becomes of a model that cannot be logged."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from graft.config import TrackingConfig
from graft.tracking import logged_model
from graft.tracking.mlflow_store import open_store


def test_ctrl_c_stays_one_though_the_store_is_gone(
    tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow.db").write_bytes(migrated.read_bytes())
    tracking = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=str(tmp_path), experiment="test")
    store = open_store(tracking)
    run = store.client.create_run(store.experiment_id)
    store.client.log_metric(run.info.run_id, "best_epoch", 0.0)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def gone(*_: object) -> None:
        raise MlflowException("the server is gone")

    monkeypatch.setattr(logged_model, "save_model", interrupted)
    monkeypatch.setattr(MlflowClient, "finalize_logged_model", gone)
    with pytest.raises(KeyboardInterrupt):
        logged_model.log(store, run.info.run_id, tmp_path / "model")
