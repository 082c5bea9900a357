"""Runs and sweeps that are cut off: what is recorded then, and what the same command makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from tests.conftest import backbone_at, run_command

from graft.interruption import Interruption
from graft.paths import CHECKOUT

CURVE = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
EPOCHS = 60


@pytest.fixture
def arguments(tiny_backbone: Path) -> list[str]:
    # Live, so that an epoch takes long enough to be interrupted in.
    return ["+size=smoke", f"epochs={EPOCHS}", "features=live", "dropout_rate=0.3", *backbone_at(tiny_backbone)]


def start(arguments: list[str], home: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "GRAFT_HOME": str(home)}
    command = [sys.executable, str(CHECKOUT / "train.py"), *arguments]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what it puts into the background with Ctrl-C ignored, the tests' own run perhaps among it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not happened():
        if process.poll() is not None:
            raise AssertionError(process.communicate())
        time.sleep(0.02)


def runs_of(home: Path, kind: str) -> tuple[MlflowClient, list[Run]]:
    client = MlflowClient(f"sqlite:///{home}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("graft")
    assert experiment is not None
    return client, client.search_runs([experiment.experiment_id], f"tags.`graft.kind` = '{kind}'")


def curves(client: MlflowClient, run: Run) -> dict[str, list[tuple[int, float]]]:
    found = {name: client.get_metric_history(run.info.run_id, name) for name in CURVE}
    return {name: [(metric.step, metric.value) for metric in history] for name, history in found.items()}


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda blow: blow.name)
def test_a_run_goes_on_to_the_same_curve_in_the_same_record(
    blow: signal.Signals, home: Path, arguments: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = start([*arguments, f"hydra.run.dir={folder}"], home)
    wait_for(lambda: (folder / "checkpoints/latest/ckpt-3.index").exists(), process)
    process.send_signal(blow)
    _, errors = process.communicate()
    client, (cut,) = runs_of(home, "single")
    if blow == signal.SIGKILL:
        assert cut.info.status == "RUNNING"
    else:
        assert process.returncode == 130
        assert cut.info.status == "KILLED"
        assert cut.data.tags["graft.state"] == "interrupted"
        assert f"hydra.run.dir={folder}" in errors
        assert "Traceback" not in errors
    assert "best_val_accuracy" not in cut.data.metrics

    done = run_command(["python", "train.py", *arguments, f"hydra.run.dir={folder}"], home)
    assert done.returncode == 0, done.stderr
    whole = run_command(["python", "train.py", *arguments, f"hydra.run.dir={tmp_path}/whole"], home)
    assert whole.returncode == 0, whole.stderr
    _, found = runs_of(home, "single")
    assert len(found) == 2
    resumed = next(run for run in found if run.info.run_id == cut.info.run_id)
    uninterrupted = next(run for run in found if run.info.run_id != cut.info.run_id)
    assert resumed.info.status == "FINISHED"
    assert curves(client, resumed) == curves(client, uninterrupted)
    assert [step for step, _ in curves(client, resumed)["val_loss"]] == list(range(EPOCHS))
    for name in ("best_val_accuracy", "best_epoch", "overfit_gap", "test_loss", "test_accuracy"):
        assert resumed.data.metrics[name] == uninterrupted.data.metrics[name], name


def test_an_interruption_that_a_library_turned_into_an_error_of_its_own_is_one_still() -> None:
    before = signal.getsignal(signal.SIGTERM)
    interruption = Interruption()

    def training() -> None:
        with interruption:
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt:
                raise RuntimeError("UnknownError: KeyboardInterrupt") from None

    with pytest.raises(KeyboardInterrupt):
        training()
    assert interruption.requested
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_error_without_an_interruption_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="its own"), Interruption() as interruption:
        raise RuntimeError("its own")
    assert not interruption.requested


def test_a_folder_of_another_run_is_refused(home: Path, tiny_backbone: Path, tmp_path: Path) -> None:
    small = ["+size=smoke", *backbone_at(tiny_backbone), f"hydra.run.dir={tmp_path}/run"]
    assert run_command(["python", "train.py", *small], home).returncode == 0
    done = run_command(["python", "train.py", *small, "head_width=7", "seed=5"], home)
    assert done.returncode == 2
    assert "head_width: 512 there, 7 now" in done.stderr
    assert "seed: 0 there, 5 now" in done.stderr
    _, found = runs_of(home, "single")
    assert [run.info.status for run in found] == ["FINISHED"]


def test_an_interrupted_sweep_goes_on_and_records_what_came_out_in_the_end(home: Path, arguments: list[str]) -> None:
    command = ["-m", "seed=0,1", *arguments]
    process = start(command, home)
    wait_for(lambda: any((home / "mlruns").glob("sweeps/*/*/1/checkpoints/latest/ckpt-3.index")), process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "To go on:" in output
    client, found = runs_of(home, "trial")
    assert sorted(run.info.status for run in found) == ["FINISHED", "KILLED"]

    done = run_command(["python", str(CHECKOUT / "train.py"), *command], home)
    assert done.returncode == 0, done.stderr
    _, found = runs_of(home, "trial")
    assert [run.info.status for run in found] == ["FINISHED", "FINISHED"]
    for run in found:
        history = curves(client, run)["val_accuracy"]
        assert [step for step, _ in history] == list(range(EPOCHS))
        assert run.data.metrics["best_val_accuracy"] == max(value for _, value in history)
        assert "test_accuracy" in run.data.metrics
    _, parents = runs_of(home, "sweep")
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert parents[0].data.metrics["trials_complete"] == 2
