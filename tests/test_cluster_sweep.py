"""A whole sweep as on a cluster: on Ray's nodes, of which some die, with PostgreSQL and an MLflow server."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from tests.conftest import backbone_at, run_command
from tests.serving import free_port
from tests.sweep.apps import LONG, wait_for
from tests.sweep.postgres_server import folder_open_to_postgres
from tests.sweep.ray_nodes import ray_nodes

from graft.paths import CHECKOUT

pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("psycopg", reason="psycopg is not installed")

EPOCHS = 60


@pytest.fixture
def open_home() -> Iterator[Path]:
    with folder_open_to_postgres("graft-cluster-") as folder:
        yield folder


@pytest.mark.timeout(1500)
def test_nodes_that_are_lost_lose_no_trial_in_postgresql_and_mlflow(open_home: Path, tiny_backbone: Path) -> None:
    trials, losses = (60, 2) if LONG else (6, 1)
    with ExitStack() as stack:
        ports = ["--postgres-port", str(free_port()), "--mlflow-port", str(free_port())]
        started = run_command(["graft", "cluster", "up", *ports], open_home)
        assert started.returncode == 0, started.stderr
        stack.callback(run_command, ["graft", "cluster", "down"], open_home)
        export, command, _ = map(shlex.split, started.stdout.split("To use them:\n")[1].splitlines())
        password_file = export[1].removeprefix("PGPASSFILE=")
        on_servers = [word for word in command if "=" in word and not word.startswith("trainable")]
        uri = on_servers[-1].removeprefix("tracking.uri=")

        nodes = stack.enter_context(ray_nodes(PGPASSFILE=password_file))
        address = nodes.add(num_gpus=1)
        for _ in range(2):
            nodes.add(num_gpus=1)
        sweep = subprocess.Popen(
            [
                sys.executable, "train.py", "-m", f"seed=range({trials})", *backbone_at(tiny_backbone), *on_servers,
                "trainable=true", "dataset.image_size=32", f"epochs={EPOCHS}", "dataset.max_images=300",
                "hydra.sweeper.study_name=s", "hydra/launcher=graft_ray", f"hydra.launcher.address={address}",
                "hydra.launcher.lost_after=20", "tracking.log_model=false",
            ],
            cwd=CHECKOUT,
            env={**os.environ, **nodes.environment, "GRAFT_HOME": str(open_home), "PGPASSFILE": password_file},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        stack.callback(sweep.kill)
        record = Record(uri)
        lost_at = []
        for lost in range(losses):
            # In the middle: some have finished, and each node has a trial with checkpoints.
            record.wait_for(sweep, lambda lost=lost: record.count("FINISHED") >= (1 + lost) * trials // 6)
            # Whatever was lost before has been taken up: on the node that came back, where nobody else was.
            record.wait_for(sweep, lambda lost=lost: record.again() == lost and len(record.under_way()) == 3)
            lost_at.append(1000 * time.time())
            nodes.kill(2)
            nodes.add(num_gpus=1)
        out, _ = sweep.communicate(timeout=580)
        assert sweep.returncode == 0, out
        runs = record.trials()
        histories = {run.data.tags["graft.trial"]: record.history(run) for run in runs}
        compared = run_command(["graft", "compare", "--tracking-uri", uri], open_home)

    assert f"{trials} complete, 0 pruned, 0 failed of {trials} trials" in out
    assert out.count("its process died (node lost)") == losses, out
    assert sorted(int(run.data.tags["graft.trial"]) for run in runs) == list(range(trials))
    assert {run.info.status for run in runs} == {"FINISHED"}
    again = {run.data.tags["graft.trial"]: int(run.data.tags["graft.attempt"]) for run in runs}
    assert sum(again.values()) == losses
    for trial, history in histories.items():
        assert [epoch for epoch, _ in history] == list(range(EPOCHS))
        # From a checkpoint: what was trained before a node was lost was not trained again.
        met = sum(history[0][1] < moment < history[-1][1] for moment in lost_at)
        assert met >= again[trial]
    assert compared.returncode == 0, compared.stderr
    assert f"{trials}" in compared.stdout


class Record:
    """What the MLflow server has."""

    def __init__(self, uri: str) -> None:
        self._client = MlflowClient(uri)

    def trials(self) -> list[Run]:
        experiment = self._client.get_experiment_by_name("graft")
        if experiment is None:
            return []
        found = self._client.search_runs([experiment.experiment_id], "tags.`graft.kind` = 'trial'", max_results=1000)
        return list(found)

    def count(self, status: str) -> int:
        return sum(run.info.status == status for run in self.trials())

    def again(self) -> int:
        """How many trials were taken up again."""
        return sum(run.data.tags["graft.attempt"] != "0" for run in self.trials())

    def under_way(self) -> list[Run]:
        """Trials that run and have trained some epochs, and not nearly all."""
        running = [run for run in self.trials() if run.info.status == "RUNNING"]
        return [run for run in running if 2 <= len(self.history(run)) <= EPOCHS - 12]

    def history(self, run: Run) -> list[tuple[int, int]]:
        """Epochs of a run, each with the moment in ms at which it was recorded."""
        history = self._client.get_metric_history(run.info.run_id, "val_accuracy")
        return sorted((metric.step, metric.timestamp) for metric in history)

    def wait_for(self, sweep: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
        def met_or_ended() -> bool:
            assert sweep.poll() is None, sweep.communicate()[0]
            return condition()

        wait_for(met_or_ended, seconds=500)
