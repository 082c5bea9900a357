"""Runs that are recorded as running: who lives, who is dead, and what `--close-dead` makes of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.doctor.conftest import Doctor, tracking_in

from graft.sweep import liveness
from graft.tracking import inspection, sqlite_record
from graft.tracking.mlflow_recorder import MlflowRecorder
from graft.tracking.mlflow_store import Store


class Process:
    """A process of its own that a run can be said to run in, until it is killed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        started = liveness.birth_of(self._process.pid)
        self.shown = {"host": liveness.here(left=False)["host"], "pid": self._process.pid, "started": started}

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def process() -> Iterator[Process]:
    started = Process()
    yield started
    started.kill()


@pytest.fixture
def dead() -> Process:
    started = Process()
    started.kill()
    return started


@pytest.fixture
def record(store: Store, home: Path) -> Callable[..., str]:
    """Opens a run as training does, and leaves it open; returns its id."""

    def run(kind: str, shown: Any = None, **tags: str) -> str:
        all_tags = {"graft.kind": kind, **{f"graft.{key}": value for key, value in tags.items()}}
        if shown is not None:
            all_tags["graft.process"] = json.dumps(shown)
        return MlflowRecorder(tracking_in(home), home / "runs" / uuid4().hex, name=f"{kind} run", tags=all_tags).run_id

    return run


Record = Callable[..., str]


def status_of(store: Store, run_id: str) -> tuple[str, str | None]:
    run = store.client.get_run(run_id)
    return run.info.status, run.data.tags.get("graft.state")


def test_a_run_at_work_is_well_and_a_dead_one_is_gone_on_with(
    doctor: Doctor, store: Store, record: Record, process: Process, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    run_id = record("single", process.shown, overrides="seed=3 'dataset.path=/a b'", directory=str(folder))
    for options in ((), ("--close-dead",)):
        found = doctor(*options)
        assert (found.exit_status, found.only("runs").status) == (0, "ok")
        assert "1 recorded, 1 of them running, 1 seen at work: single run" in found.only("runs").text
    assert status_of(store, run_id)[0] == "RUNNING"

    process.kill()
    found = doctor()
    assert (found.exit_status, found.problems) == (1, ["runs"])
    (problem,) = [finding for finding in found.all("runs") if finding.status == "problem"]
    assert f"single run {run_id[:8]} is recorded as running, and its process is dead" in problem.text
    go_on = f"train.py seed=3 'dataset.path=/a b' hydra.run.dir={folder}"
    assert str(problem.remedy).endswith(go_on)
    assert status_of(store, run_id) == ("RUNNING", None)

    found = doctor("--close-dead")
    assert (found.exit_status, found.problems) == (0, [])
    assert any(str(finding.remedy).endswith(go_on) for finding in found.all("runs"))
    assert status_of(store, run_id) == ("KILLED", "interrupted")
    assert doctor("--close-dead").only("runs").status == "ok"


def test_a_run_that_was_taken_up_meanwhile_is_left_alone(
    store: Store, record: Record, dead: Process, process: Process, home: Path
) -> None:
    run_id = record("single", dead.shown)
    (seen,) = sqlite_record.recorded_runs(home / "mlruns" / "mlflow.db", "graft")
    store.client.set_tag(run_id, "graft.process", json.dumps(process.shown))
    assert inspection.mark_interrupted(tracking_in(home), [seen]) == []
    assert status_of(store, run_id) == ("RUNNING", None)


def test_an_experiment_goes_on_as_one_run_and_one_without_a_folder_is_closed(
    doctor: Doctor, record: Record, dead: Process, tmp_path: Path
) -> None:
    record("single", dead.shown, overrides="experiments=dropout", directory=str(tmp_path))
    record("single", dead.shown, overrides="seed=1", directory=str(tmp_path / "gone"))
    record("rerun", dead.shown, overrides="seed=1", rerun_of="abc", directory=str(tmp_path))
    remedies = [str(finding.remedy) for finding in doctor().all("runs") if finding.status == "problem"]
    assert sum(r.endswith(f"experiments=dropout hydra.run.dir={tmp_path} hydra.mode=RUN") for r in remedies) == 1
    assert "graft doctor --close-dead" in remedies
    assert "graft rerun abc" in remedies


def test_a_number_that_another_process_has_now_is_no_sign_of_life(
    doctor: Doctor, record: Record, process: Process
) -> None:
    record("single", {**process.shown, "started": process.shown["started"] + "0"})
    assert doctor().problems == ["runs"]


@pytest.mark.parametrize("unknown", [None, "another host", "nonsense"])
def test_what_cannot_be_told_from_here_is_no_problem_and_stays_open(
    unknown: str | None, doctor: Doctor, store: Store, record: Record, dead: Process
) -> None:
    shown = {"another host": {**dead.shown, "host": "far-away pid:[1]"}, "nonsense": ["dead"]}
    run_id = record("single", shown.get(unknown or ""))
    found = doctor("--close-dead")
    (note,) = [finding for finding in found.all("runs") if finding.status == "note"]
    assert found.exit_status == 0
    assert "cannot be told from here" in note.text
    assert ("on host far-away" in note.text) is (unknown == "another host")
    assert status_of(store, run_id) == ("RUNNING", None)


def test_a_dead_sweep_is_one_problem_and_is_closed_with_its_trials(
    doctor: Doctor, store: Store, database: Path, record: Record, dead: Process, tmp_path: Path
) -> None:
    runs = [record("sweep", dead.shown, sweep="study"), record("trial", dead.shown, sweep="study", trial="0")]
    runs.append(record("trial", dead.shown, sweep="study", trial="1"))
    found = doctor()
    (problem,) = [finding for finding in found.all("runs") if finding.status == "problem"]
    assert "sweep study (sweep run) and 2 trials of it are recorded as running" in problem.text
    assert problem.remedy == "give the command of sweep study again; or graft doctor --close-dead"
    elsewhere = f"sqlite:///{shutil.copy(database, tmp_path)}"
    (problem,) = [f for f in doctor("--tracking-uri", elsewhere).all("runs") if f.status == "problem"]
    assert str(problem.remedy).endswith(f"graft doctor --close-dead --tracking-uri {elsewhere}")
    assert doctor("--close-dead").exit_status == 0
    assert {status_of(store, run_id) for run_id in runs} == {("KILLED", "interrupted")}


@pytest.mark.parametrize("living", ["sweep", "trial"])
def test_a_sweep_lives_with_any_of_its_processes(
    living: str, doctor: Doctor, store: Store, record: Record, dead: Process, process: Process
) -> None:
    shown = {"sweep": dead.shown, "trial": dead.shown, living: process.shown}
    runs = [record("sweep", shown["sweep"], sweep="study"), record("trial", shown["trial"], sweep="study", trial="0")]
    runs.append(record("trial", dead.shown, sweep="study", trial="1"))
    found = doctor("--close-dead")
    assert (found.exit_status, found.only("runs").status) == (0, "ok")
    assert {status_of(store, run_id)[0] for run_id in runs} == {"RUNNING"}


def test_artifacts_that_are_gone_are_told_with_the_command_that_makes_them_again(
    doctor: Doctor, store: Store, record: Record, tmp_path: Path, home: Path
) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0")
    runs = []
    for seed in (0, 1):
        tags = {"graft.kind": "single", "graft.overrides": f"seed={seed}"}
        recorder = MlflowRecorder(tracking_in(home), tmp_path / str(seed), name=f"seed {seed}", tags=tags)
        recorder.log_artifact(tmp_path / "config.yaml")
        recorder.close("complete")
        runs.append(recorder.run_id)
    record("sweep", sweep="study")  # has none
    failed = MlflowRecorder(tracking_in(home), tmp_path / "f", name="failed at once", tags={"graft.kind": "single"})
    failed.close("failed")
    assert doctor().only("artifacts").text == "those of 2 finished runs are there"
    shutil.rmtree(store.client.get_run(runs[1]).info.artifact_uri)
    found = doctor()
    assert (found.exit_status, found.problems) == (1, ["artifacts"])
    assert f"those of 1 of 2 finished runs are gone: seed 1 {runs[1][:8]}" in found.only("artifacts").text
    assert str(found.only("artifacts").remedy).endswith("train.py seed=1")


def test_an_experiment_that_is_not_there(doctor: Doctor, database: Path) -> None:
    found = doctor("--experiment", "grfat")
    assert found.problems == ["runs"]
    assert "there are: Default, graft; did you mean graft?" in found.only("runs").text
