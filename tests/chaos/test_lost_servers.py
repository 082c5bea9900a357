"""Kills of the tracking server and of the studies' database, at random moments."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from uuid import uuid4

import pytest
from tests.chaos.ledger import Doubled, chance, injected
from tests.chaos.test_kills import TRIALS, command
from tests.sweep.apps import LONG, App, assert_nothing_lost_or_doubled, notes, wait_for
from tests.sweep.postgres_server import PostgresServer
from tests.tracking.mlflow_server import MlflowServer

from graft.tracking import mlflow_recorder
from graft.tracking.mlflow_recorder import MlflowRecorder


def test_the_tracking_server_killed_while_runs_are_recorded(
    home: Path, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_recorder, "PATIENCE_SECONDS", 240.0)  # a server takes long to start on a busy machine
    moments, experiment = chance("tracking server"), f"chaos-{uuid4().hex}"
    runs, epochs, kills = (4, 60, 8) if LONG else (2, 15, 1)
    server.client.create_experiment(experiment)
    recorders = [
        MlflowRecorder(server.tracking(experiment), home / f"mlruns/runs/{run}", name="", tags={"graft.kind": "single"})
        for run in range(runs)
    ]
    killed = threading.Event()

    def record(recorder: MlflowRecorder) -> None:
        for epoch in range(epochs):
            recorder.log_metrics({"val_accuracy": epoch / 64}, step=epoch)
            time.sleep(0.1)
        killed.wait(240)

    at_work = [threading.Thread(target=record, args=(recorder,)) for recorder in recorders]
    with injected("kill -9 of the tracking server while runs are recorded", times=kills) as fault:
        for thread in at_work:
            thread.start()
        for _ in range(kills):
            time.sleep(moments.uniform(0.2, 1.5))
            server.kill()
            time.sleep(moments.uniform(0, 1))
            server.start()
        killed.set()
        for thread in at_work:
            thread.join()
        for recorder in recorders:
            recorder.close("complete")
        found = server.client.get_experiment_by_name(experiment)
        assert found is not None
        kept = server.client.search_runs([found.experiment_id])
        points = [server.client.get_metric_history(run.info.run_id, "val_accuracy") for run in kept]
        if len(kept) > runs or any(len(each) > epochs for each in points):
            raise Doubled(f"{len(kept)} runs, with {[len(each) for each in points]} points")
        assert [sorted(p.step for p in each) for each in points] == [list(range(epochs))] * runs
        assert {run.info.status for run in kept} == {"FINISHED"}
        fault.repaired()


def test_the_database_and_the_controller_killed_in_turn(steps: App, postgres: PostgresServer) -> None:
    moments = chance("database")
    steps.storage = postgres.url
    kills = 12 if LONG else 2
    with injected("kill -9 of PostgreSQL, and of the controller on it", times=kills) as fault:
        running = steps.start(*command(0.2))
        wait_for(lambda: bool(notes(steps, "step")))
        for _ in range(kills):
            time.sleep(moments.uniform(0, 1.5))
            struck = moments.choice(["database", "database", "both", "controller"])
            if struck != "controller":
                postgres.crash()
            time.sleep(moments.uniform(0, 1))
            if struck != "database":
                running.kill()
                running.communicate()
            if struck != "controller":
                postgres.start()
            if struck != "database":
                running = steps.start(*command(0.2))
        out, err = running.communicate(timeout=240)
        assert running.returncode == 0, out + err
        assert_nothing_lost_or_doubled(steps, TRIALS)
        assert [trial.values for trial in postgres.trials("mine")] == [[x] for x in range(TRIALS)]
        fault.repaired()
