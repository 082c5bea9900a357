"""What becomes of a model that cannot be logged."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from graft.config import TrackingConfig
from graft.tracking import best_model, logged_model
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


def test_ctrl_c_while_the_process_starts_that_logs_it_ends_that_process(
    tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mlflow.db").write_bytes(migrated.read_bytes())
    tracking = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=str(tmp_path), experiment="test")
    store = open_store(tracking)
    run = store.client.create_run(store.experiment_id)
    started = []

    class Starting(subprocess.Popen[str]):
        def __init__(self, command: list[str], **settings: Any) -> None:
            assert "log-model" in command
            super().__init__([sys.executable, "-c", "import time; time.sleep(600)"], **settings)
            started.append(self)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(best_model.subprocess, "Popen", Starting)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with caplog.at_level(logging.WARNING):
            best_model.log_best_model(store, tracking, run.info.run_id)
    finally:
        signal.signal(signal.SIGINT, before)
        ended = [process.returncode is not None for process in started]
        for process in started:
            process.kill()
    assert "could not be logged (interrupted). To log it: " in caplog.text
    assert ended == [True], "it goes on, and nobody knows of it"
