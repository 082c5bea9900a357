"""`tracking=server`: what is said of a run outlives the server, for a minute or for good, and is recorded once."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from mlflow.entities import Metric, Run
from mlflow.tracking import MlflowClient
from omegaconf import DictConfig
from tests.conftest import backbone_at
from tests.processes import Training
from tests.tracking.mlflow_server import Line, MlflowServer
from typer.testing import CliRunner

from graft.cli import app
from graft.config import TrackingConfig
from graft.errors import FatalError
from graft.interruption import Interruption
from graft.paths import CHECKOUT
from graft.sweep.observer import SweepEnded, SweepStarted, TrialEnded
from graft.tracking import delivery, mlflow_recorder
from graft.tracking.local_record import LocalRecord, waiting_records
from graft.tracking.mlflow_recorder import MlflowRecorder
from graft.tracking.mlflow_store import open_store
from graft.tracking.mlflow_sweep import MlflowSweep
from graft.tracking.sweep_observer import MlflowSweepObserver

TAGS = {"graft.kind": "single"}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a run does not wait for the server."""
    monkeypatch.setattr(mlflow_recorder, "PATIENCE_SECONDS", 0.0)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a run waits for as long as it takes, however busy the machine is."""
    monkeypatch.setattr(mlflow_recorder, "PATIENCE_SECONDS", 240.0)


@pytest.fixture
def experiment(server: MlflowServer) -> str:
    name = f"experiment-{uuid4().hex}"
    server.client.create_experiment(name)
    return name


@pytest.fixture
def line(server: MlflowServer) -> Iterator[Line]:
    """What leads to the server: it is down in less time than a server needs to start."""
    line = Line(server.port)
    yield line
    line.down()


@pytest.fixture
def tracking(server: MlflowServer, experiment: str, line: Line) -> TrackingConfig:
    return TrackingConfig(uri=line.uri, artifacts=None, experiment=experiment)


@pytest.fixture
def in_sqlite(home: Path, migrated: Path) -> TrackingConfig:
    (home / "mlflow.db").write_bytes(migrated.read_bytes())
    return TrackingConfig(uri=f"sqlite:///{home}/mlflow.db", artifacts=str(home / "artifacts"), experiment="test")


@pytest.fixture
def folder(home: Path) -> Path:
    return home / "mlruns" / "runs" / "one"


def recorder_of(tracking: TrackingConfig, folder: Path) -> MlflowRecorder:
    return MlflowRecorder(tracking, folder, name="frozen", tags=TAGS)


def epoch(recorder: MlflowRecorder, number: int) -> None:
    recorder.log_metrics({"val_accuracy": number / 64, "val_loss": 1.0}, step=number)


def only_run(server: MlflowServer, experiment: str) -> Run:
    found = server.client.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = server.client.search_runs([found.experiment_id])
    return run


def points(server: MlflowServer, run: Run) -> list[tuple[int, float]]:
    """Every point, however often it is there."""
    history = server.client.get_metric_history(run.info.run_id, "val_accuracy")
    return sorted((point.step, point.value) for point in history)


def expected(epochs: int) -> list[tuple[int, float]]:
    return [(number, number / 64) for number in range(epochs)]


def sync(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["sync", *arguments])
    if isinstance(done.exception, Exception):
        raise done.exception
    return done.exit_code, done.output


def wait_for_no_sender() -> None:
    """Waits until nothing is sent in the background; a test that hangs here shows who does not end it."""
    while any(thread.name == "record" for thread in threading.enumerate()):
        time.sleep(0.05)


@pytest.mark.usefixtures("patient")
def test_a_server_that_is_gone_for_a_while_misses_nothing(
    server: MlflowServer,
    experiment: str,
    line: Line,
    tracking: TrackingConfig,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = recorder_of(tracking, folder)
    recorder.log_params({"seed": 7})
    for number in range(3):
        epoch(recorder, number)
    line.down()
    for number in range(3, 12):
        before = time.time()
        epoch(recorder, number)
    after = time.time()
    (folder / "config.yaml").write_text("seed: 7")
    recorder.log_artifact(folder / "config.yaml")
    while "cannot be written to" not in caplog.text:
        time.sleep(0.02)
    line.up()
    recorder.close("complete")
    run = only_run(server, experiment)
    assert points(server, run) == expected(12)
    assert (run.info.status, run.data.params, run.data.tags["graft.state"]) == ("FINISHED", {"seed": "7"}, "complete")
    assert Path(server.client.download_artifacts(run.info.run_id, "config.yaml")).read_text() == "seed: 7"
    reasons = re.findall(r"cannot be written to \((.*)\). What is said waits", caplog.text)
    assert reasons in (["connection refused"], ["the connection broke"])
    assert caplog.text.count("has the whole record again") == 1
    last = server.client.get_metric_history(run.info.run_id, "val_accuracy")[-1]
    assert int(1000 * before) <= last.timestamp <= 1000 * after, "a point has the time at which it was said"


def test_a_run_may_begin_and_end_while_the_server_is_gone_and_is_sent_later(
    server: MlflowServer,
    experiment: str,
    line: Line,
    tracking: TrackingConfig,
    folder: Path,
    impatient: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    line.down()
    recorder = recorder_of(tracking, folder)
    for number in range(5):
        epoch(recorder, number)
    recorder.close("failed", "diverged")
    assert recorder.run_id is None
    assert "7 statements of this run are not in MLflow yet" in caplog.text
    status, told = sync()
    assert status == 1
    assert f"7 still wait in {folder}" in told
    line.up()
    assert sync()[0] == 0
    run = only_run(server, experiment)
    assert points(server, run) == expected(5)
    assert (run.info.status, run.data.tags["graft.failure"]) == ("FAILED", "diverged")
    assert (folder / "checkpoints" / "mlflow_run_id").read_text() == run.info.run_id
    first, *_, last = (json.loads(line) for line in (folder / "record.jsonl").read_text().splitlines())
    assert (run.info.start_time, run.info.end_time) == (first["at"], last["at"])
    assert "all that runs on this machine recorded" in sync()[1]


def test_what_is_sent_can_go_elsewhere(
    server: MlflowServer,
    experiment: str,
    line: Line,
    tracking: TrackingConfig,
    folder: Path,
    impatient: None,
    home: Path,
    migrated: Path,
) -> None:
    recorder = recorder_of(tracking, folder)
    epoch(recorder, 0)
    while (history := points(server, only_run(server, experiment))) != expected(1):
        assert history == []
    while LocalRecord(folder).waiting:  # until it has heard so itself
        time.sleep(0.02)
    line.down()
    epoch(recorder, 1)
    recorder.close("complete")
    (home / "elsewhere.db").write_bytes(migrated.read_bytes())
    elsewhere = f"sqlite:///{home}/elsewhere.db"
    status, told = sync("--tracking-uri", elsewhere, str(folder))
    assert (status, "frozen: 2 statements sent" in told) == (0, True)
    assert sync()[1].startswith("MLflow has all")
    client = MlflowClient(elsewhere)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = client.search_runs([found.experiment_id])
    history = client.get_metric_history(run.info.run_id, "val_accuracy")
    assert [(point.step, point.value) for point in history] == expected(2), "what the other one has is not left out"


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(("lost", "times"), [("runs/create", 1), ("runs/log-batch", 4), ("runs/update", 1)])
def test_an_answer_that_gets_lost_records_nothing_twice(
    server: MlflowServer, experiment: str, line: Line, tracking: TrackingConfig, folder: Path, lost: str, times: int
) -> None:
    line.lose_answers_to(lost, times)
    recorder = recorder_of(tracking, folder)
    for number in range(6):
        epoch(recorder, number)
        time.sleep(0.05)
    recorder.close("complete")
    assert line.lost
    run = only_run(server, experiment)
    assert points(server, run) == expected(6)
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize("goes_on", [True, False], ids=["another attempt", "sync"])
def test_a_process_that_dies_while_the_server_is_gone_loses_nothing(
    server: MlflowServer,
    experiment: str,
    line: Line,
    tracking: TrackingConfig,
    folder: Path,
    goes_on: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.tracking.test_server import epoch, recorder_of\n"
        "from graft.config import TrackingConfig\n"
        "uri, experiment, folder = sys.argv[1:]\n"
        "recorder = recorder_of(TrackingConfig(uri=uri, artifacts=None, experiment=experiment), Path(folder))\n"
        "for number in range(4): epoch(recorder, number)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    line.down()
    arguments = [sys.executable, "-c", program, line.uri, experiment, str(folder)]
    assert subprocess.run(arguments, cwd=CHECKOUT, check=False).returncode == -signal.SIGKILL
    with (folder / "record.jsonl").open("a") as record:
        record.write('{"kind": "metrics", "at": 1, "met')  # what it was just saying
    line.up()
    if goes_on:
        recorder = recorder_of(tracking, folder)
        for number in range(3, 6):
            epoch(recorder, number)
        recorder.close("complete")
    else:
        assert sync()[0] == 0
    run = only_run(server, experiment)
    assert points(server, run) == expected(6 if goes_on else 4)
    assert "damaged" not in caplog.text


@pytest.mark.parametrize("place", ["server", "sqlite"])
def test_a_run_that_is_deleted_while_it_goes_on_is_recorded_anew_as_a_whole(
    tracking: TrackingConfig, folder: Path, place: str, in_sqlite: TrackingConfig
) -> None:
    where = tracking if place == "server" else in_sqlite
    recorder = recorder_of(where, folder)
    epoch(recorder, 0)
    client = MlflowClient(where.uri)
    while recorder.run_id is None or not client.get_metric_history(recorder.run_id, "val_accuracy"):
        time.sleep(0.05)
    client.delete_run(first := recorder.run_id)
    epoch(recorder, 1)
    recorder.close("complete")
    assert recorder.run_id not in (None, first)
    run = client.get_run(str(recorder.run_id))
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "val_accuracy")
    assert sorted((point.step, point.value) for point in history) == expected(2)


@pytest.mark.parametrize("left", ["nothing", "empty", "half", "some"])
def test_a_record_that_lost_some_of_itself_loses_nothing_that_is_said_later(
    in_sqlite: TrackingConfig, folder: Path, left: str
) -> None:
    first = recorder_of(in_sqlite, folder)
    for number in range(3):
        epoch(first, number)
    first.close("interrupted")
    record = folder / "record.jsonl"
    content = record.read_bytes()
    if left == "nothing":
        record.unlink()
    else:
        record.write_bytes({"empty": b"", "half": content[: len(content) // 2], "some": content[:-20]}[left])
    second = recorder_of(in_sqlite, folder)
    for number in range(3, 5):
        epoch(second, number)
    second.close("complete")
    client = MlflowClient(in_sqlite.uri)
    run = client.get_run(str(second.run_id))
    assert run.info.status == "FINISHED"
    points = [point.step for point in client.get_metric_history(run.info.run_id, "val_accuracy")]
    assert sorted(points)[-2:] == [3, 4]
    assert len(points) == len(set(points))


def test_a_beginning_that_is_damaged_is_made_up_for_by_a_later_one(in_sqlite: TrackingConfig, folder: Path) -> None:
    epoch(recorder_of(in_sqlite, folder), 0)
    record = folder / "record.jsonl"
    record.write_bytes(record.read_bytes().replace(b'"begin"', b'"bexin"', 1))
    (folder / "record.sent").unlink()
    second = recorder_of(in_sqlite, folder)
    epoch(second, 1)
    second.close("complete")
    history = MlflowClient(in_sqlite.uri).get_metric_history(str(second.run_id), "val_accuracy")
    assert [point.step for point in history] == [0, 1]


def test_what_mlflow_refuses_is_told_and_holds_nothing_up(
    in_sqlite: TrackingConfig, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = recorder_of(in_sqlite, folder)
    recorder.set_tags({"no/such:key!": "x" * 10})
    recorder.log_metrics({"not a name\n": 1.0}, step=0)
    epoch(recorder, 0)
    recorder.close("complete")
    assert "MLflow refuses what is said at byte" in caplog.text
    assert MlflowClient(in_sqlite.uri).get_run(str(recorder.run_id)).info.status == "FINISHED"


def test_metrics_in_quick_succession_are_sent_together_and_what_is_refused_among_them_alone_is_left_out(
    in_sqlite: TrackingConfig, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (delivery, mlflow_recorder):
        monkeypatch.setattr(module, "PACE_SECONDS", 600.0)
    batches = []
    log_batch = MlflowClient.log_batch

    def counted(client: MlflowClient, run_id: str, metrics: Sequence[Metric] = (), **others: Any) -> None:
        batches.append(len(metrics))
        log_batch(client, run_id, metrics=metrics, **others)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    recorder = recorder_of(in_sqlite, folder)
    for number in range(3):
        epoch(recorder, number)
    assert batches == [2]
    recorder.set_tags({"own": "tag"})
    assert batches == [2, 4, 0]
    epoch(recorder, 3)
    recorder.log_metrics({"no/such:key!": 1.0}, step=3)
    assert batches[3:] == [3, 2, 1]
    epoch(recorder, 4)
    recorder.close("complete")
    assert caplog.text.count("MLflow refuses what is said at byte") == 1
    history = MlflowClient(in_sqlite.uri).get_metric_history(str(recorder.run_id), "val_accuracy")
    assert [(point.step, point.value) for point in history] == expected(5)


def test_what_fails_for_another_reason_does_not_keep_what_was_said_before_it(
    in_sqlite: TrackingConfig, folder: Path
) -> None:
    recorder = recorder_of(in_sqlite, folder)
    recorder.close("interrupted")
    record = LocalRecord(folder)
    for number in range(3):
        record.say("metrics", {"metrics": {"val_accuracy": number / 64}, "step": number if number < 2 else 10**30})
    status, told = sync()
    assert (status, "1 still wait" in told) == (1, True), told
    history = MlflowClient(in_sqlite.uri).get_metric_history(str(recorder.run_id), "val_accuracy")
    assert [point.step for point in history] == [0, 1]


def test_what_waits_is_found_beside_runs_that_remove_folders(in_sqlite: TrackingConfig, folder: Path) -> None:
    LocalRecord(folder).say("tags", {"tags": {}})
    over = threading.Event()

    def train() -> None:
        for number in itertools.count():
            if over.is_set():
                return
            (folder.parent / f"two/{number % 7}/checkpoints/latest").mkdir(parents=True)
            shutil.rmtree(folder.parent / f"two/{number % 7}")

    training = threading.Thread(target=train)
    training.start()
    try:
        assert all(waiting_records() == [folder] for _ in range(300))
    finally:
        over.set()
        training.join()


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EACCES, errno.EIO])
def test_a_folder_that_cannot_be_looked_through_is_gone_or_told(
    in_sqlite: TrackingConfig,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    LocalRecord(folder).say("tags", {"tags": {}})
    closed = folder.parent / "closed"
    closed.mkdir()
    usual = os.scandir

    def scandir(path: str) -> Iterator[os.DirEntry[str]]:
        if path == str(closed):
            raise OSError(number, os.strerror(number), path)
        return usual(path)

    monkeypatch.setattr(os, "scandir", scandir)
    if number == errno.EIO:
        with pytest.raises(OSError, match="Input/output error"):
            waiting_records()
        return
    assert waiting_records() == [folder]
    assert (f"{closed} is not looked through: Permission denied" in caplog.text) == (number == errno.EACCES)


def test_what_was_sent_elsewhere_is_still_sent_home(
    in_sqlite: TrackingConfig, folder: Path, home: Path, migrated: Path
) -> None:
    recorder = recorder_of(in_sqlite, folder)
    epoch(recorder, 0)
    (home / "elsewhere.db").write_bytes(migrated.read_bytes())
    LocalRecord(folder).say("metrics", {"metrics": {"val_accuracy": 1 / 64}, "step": 1})
    assert sync("--tracking-uri", f"sqlite:///{home}/elsewhere.db", str(folder))[0] == 0
    epoch(recorder, 2)
    recorder.close("complete")
    history = MlflowClient(in_sqlite.uri).get_metric_history(str(recorder.run_id), "val_accuracy")
    assert [(point.step, point.value) for point in history] == expected(3)


def test_a_server_may_move(server: MlflowServer, tracking: TrackingConfig, folder: Path, experiment: str) -> None:
    first = recorder_of(tracking, folder)
    first.log_params({"seed": 0, "tracking.uri": tracking.uri})
    first.close("interrupted")
    second = recorder_of(server.tracking(experiment), folder)
    second.log_params({"seed": 0, "tracking.uri": server.uri})
    epoch(second, 0)
    second.close("complete")
    run = only_run(server, experiment)
    assert (run.info.status, points(server, run)) == ("FINISHED", expected(1))


def test_ctrl_c_ends_the_waiting_for_a_server_and_not_the_run(
    line: Line, tracking: TrackingConfig, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = recorder_of(tracking, folder)
    line.down()
    epoch(recorder, 0)
    with Interruption():
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        recorder.close("complete")
    assert "are not in MLflow yet" in caplog.text
    line.up()
    assert sync()[0] == 0


@pytest.fixture
def sweep_of(in_sqlite: TrackingConfig, home: Path, compose_config: Callable[..., DictConfig]) -> SweepStarted:
    config = compose_config("+size=smoke", f"tracking.uri={in_sqlite.uri}", "tracking.experiment=test")
    folder = home / "mlruns" / "sweeps" / "day" / "hour"
    return SweepStarted("s", 2, config, {"seed": "0,1"}, False, folder, ("maximize",), ("best_val_accuracy",))


def trial_of(tracking: TrackingConfig, sweep: SweepStarted, parent: str) -> MlflowRecorder:
    tags = {"graft.kind": "trial", "graft.sweep": "s", "graft.trial": "0"}
    return MlflowRecorder(tracking, sweep.directory / "0", name="frozen", tags=tags, parent_run_id=parent)


def end(observer: MlflowSweepObserver, sweep: SweepStarted) -> None:
    folder = sweep.directory / "0"
    observer.trial_ended(TrialEnded(0, 0, "complete", {}, None, "", ("seed=0",), {}, {}, folder, 1.0))
    observer.sweep_ended(SweepEnded("s", 2, {"complete": 1, "waiting": 1}, (), 1.0, {}, True))


def test_a_sweep_whose_server_goes_away_as_it_begins_is_told(
    tracking: TrackingConfig, sweep_of: SweepStarted, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = MlflowSweep.open

    def opened_and_gone(sweep: MlflowSweep) -> None:
        opened(sweep)
        line.down()

    monkeypatch.setattr(MlflowSweep, "open", opened_and_gone)
    config = sweep_of.config.copy()
    config.tracking.uri, config.tracking.artifacts = tracking.uri, None
    with pytest.raises(FatalError, match="stopped answering"):
        MlflowSweepObserver().sweep_started(replace(sweep_of, config=config))
    wait_for_no_sender()


def test_a_parent_that_was_deleted_is_made_anew_with_the_trials_that_it_had(
    in_sqlite: TrackingConfig, sweep_of: SweepStarted
) -> None:
    client, observer = MlflowClient(in_sqlite.uri), MlflowSweepObserver()
    parent = observer.sweep_started(sweep_of)["parent_run_id"]
    trial = trial_of(in_sqlite, sweep_of, parent)
    trial.close("complete")
    client.delete_run(parent)
    again = MlflowSweepObserver().sweep_started(sweep_of)["parent_run_id"]
    assert again != parent
    assert client.get_run(str(trial.run_id)).data.tags["mlflow.parentRunId"] == again


def test_a_trial_that_was_told_of_a_parent_that_is_gone_gets_the_new_one(
    in_sqlite: TrackingConfig, sweep_of: SweepStarted
) -> None:
    client, observer = MlflowClient(in_sqlite.uri), MlflowSweepObserver()
    gone = observer.sweep_started(sweep_of)["parent_run_id"]
    client.delete_run(gone)
    parent = MlflowSweepObserver().sweep_started(sweep_of)["parent_run_id"]
    trial = trial_of(in_sqlite, sweep_of, gone)  # it was queued before
    trial.close("complete")
    end(observer, sweep_of)
    assert client.get_run(str(trial.run_id)).data.tags["mlflow.parentRunId"] == parent
    assert client.get_run(parent).info.status == "KILLED"


def test_a_trial_whose_record_is_damaged_keeps_nothing_of_its_sweep_waiting(
    in_sqlite: TrackingConfig, sweep_of: SweepStarted, caplog: pytest.LogCaptureFixture
) -> None:
    observer = MlflowSweepObserver()
    parent = observer.sweep_started(sweep_of)["parent_run_id"]
    epoch(trial_of(in_sqlite, sweep_of, parent), 0)
    record = sweep_of.directory / "0" / "record.jsonl"
    record.write_bytes(record.read_bytes().replace(b'"begin"', b'"bexin"'))
    (record.parent / "record.sent").unlink()
    end(observer, sweep_of)
    assert "does not say how the run began" in caplog.text
    run = MlflowClient(in_sqlite.uri).get_run(parent)
    assert (run.info.status, run.data.metrics["trials_complete"]) == ("KILLED", 1)


def test_a_server_that_refuses_a_run_is_told_at_once(
    server: MlflowServer, experiment: str, tracking: TrackingConfig, folder: Path
) -> None:
    found = server.client.get_experiment_by_name(experiment)
    assert found is not None
    server.client.delete_experiment(found.experiment_id)
    with pytest.raises(FatalError, match="this experiment was deleted in MLflow"):
        recorder_of(tracking, folder)


@pytest.mark.parametrize("damage", [b"\xff\x00 nonsense\n", b"[" * 200_000 + b"\n"], ids=["nonsense", "nested"])
def test_a_damaged_line_is_told_and_the_rest_is_sent(
    damage: bytes,
    server: MlflowServer,
    experiment: str,
    line: Line,
    tracking: TrackingConfig,
    folder: Path,
    impatient: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    line.down()
    recorder = recorder_of(tracking, folder)
    for number in range(3):
        epoch(recorder, number)
    recorder.close("complete")
    wait_for_no_sender()  # one is just trying for the last time
    lines = (folder / "record.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "record.jsonl").write_bytes(b"".join([*lines[:2], damage, *lines[3:]]))
    line.up()
    assert sync()[0] == 0
    assert "is damaged and left out" in caplog.text
    assert points(server, only_run(server, experiment)) == [(0, 0.0), (2, 2 / 64)]


@pytest.fixture
def sweep(tmp_path: Path, home: Path, tiny_backbone: Path, line: Line) -> Iterator[Callable[..., Training]]:
    started: list[Training] = []

    def start(*overrides: str) -> Training:
        common = ["-m", "+size=smoke", "tracking=server", f"tracking.uri={line.uri}", *backbone_at(tiny_backbone)]
        started.append(Training([*common, *overrides], home, tmp_path / "output"))
        return started[-1]

    yield start
    for each in started:
        each.kill()


def test_a_sweep_goes_on_without_its_server(
    server: MlflowServer, experiment: str, line: Line, sweep: Callable[..., Training], home: Path
) -> None:
    client = server.client
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    training = sweep(f"tracking.experiment={experiment}", "seed=0,1,2,3", "epochs=4")

    def ended() -> int:
        trials = client.search_runs([found.experiment_id], "tags.`graft.kind` = 'trial'")
        return sum(run.info.status == "FINISHED" for run in trials)

    while not ended():
        assert training.running(), training.errors
        time.sleep(0.2)
    line.down()
    # Another trial begins and ends without it.
    while len(list((home / "mlruns").glob("sweeps/*/*/*/checkpoints/best/*.index"))) < 3:
        assert training.running(), training.errors
        time.sleep(0.2)
    line.up()
    assert training.wait() == 0, training.errors
    assert sync()[0] == 0
    runs = client.search_runs([found.experiment_id])
    by_kind: dict[str, list[Run]] = {}
    for run in runs:
        by_kind.setdefault(run.data.tags["graft.kind"], []).append(run)
    (parent,) = by_kind["sweep"]
    assert (parent.info.status, parent.data.metrics["trials_complete"]) == ("FINISHED", 4)
    assert len(by_kind["trial"]) == 4
    for run in by_kind["trial"]:
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        history = client.get_metric_history(run.info.run_id, "val_accuracy")
        assert sorted(point.step for point in history) == [0, 1, 2, 3]
    best = max(run.data.metrics["best_val_accuracy"] for run in by_kind["trial"])
    assert parent.data.metrics["best_val_accuracy"] == best
    told = CliRunner().invoke(app, ["compare"])
    found_at = re.search(r"recorded elsewhere: \S*graft (compare .*)", told.stderr)
    assert found_at is not None
    compared = CliRunner().invoke(app, [*shlex.split(found_at[1]), "--experiment", experiment, "--json"])
    assert len(json.loads(compared.stdout)["trials"]) == 4


@pytest.mark.skipif("GRAFT_LONG" not in os.environ, reason="takes two minutes; GRAFT_LONG=1 runs it")
def test_a_database_that_is_locked_stops_no_trial(in_sqlite: TrackingConfig, folder: Path) -> None:
    tags = {"graft.kind": "trial", "graft.sweep": "s", "graft.trial": "0"}
    open_store(in_sqlite)
    with closing(sqlite3.connect(in_sqlite.uri.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        recorder = MlflowRecorder(in_sqlite, folder, name="frozen", tags=tags)
        for number in range(3):
            epoch(recorder, number)
        other.execute("ROLLBACK")
    recorder.close("complete")
    assert sync()[0] == 0
    (run,) = open_store(in_sqlite).find(sweep="s")
    history = MlflowClient(in_sqlite.uri).get_metric_history(run.info.run_id, "val_accuracy")
    assert [(point.step, point.value) for point in history] == expected(3)


@pytest.mark.skipif("GRAFT_LONG" not in os.environ, reason="takes two minutes; GRAFT_LONG=1 runs it")
def test_a_server_that_is_gone_for_a_minute_misses_nothing(server: MlflowServer, experiment: str, folder: Path) -> None:
    recorder = recorder_of(server.tracking(experiment), folder)
    began, gone = time.monotonic(), False
    for second in range(100):
        recorder.log_metrics({"heartbeat": float(second)}, step=second)
        if second % 5 == 4:
            epoch(recorder, second // 5)
        if second == 15:
            server.kill()
            gone = True
        if gone and second == 75:
            server.start()
        time.sleep(max(0.0, began + second + 1 - time.monotonic()))
    recorder.close("complete")
    run = only_run(server, experiment)
    assert points(server, run) == expected(20)
    beats = server.client.get_metric_history(run.info.run_id, "heartbeat")
    assert sorted(point.value for point in beats) == [float(second) for second in range(100)]
