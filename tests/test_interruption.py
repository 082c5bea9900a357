"""Runs and sweeps that are cut off: what is recorded then, and what the same command makes of it."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import filelock
import numpy as np
import psutil
import pytest
import tensorflow as tf
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from tests.conftest import backbone_at, run_command
from tests.processes import Blow, Training
from tests.sweep.apps import LONG

from graft.errors import FailedTrial
from graft.interruption import Interruption, undisturbed
from graft.paths import CHECKOUT
from graft.run import _alone_in
from graft.trial import Trial

TIMED = {"epoch_seconds", "images_per_second", "total_seconds", "epoch_seconds_live", "probe_seconds"}
TIMED |= {"feature_extraction_seconds"}


@dataclass(frozen=True)
class Laboratory:
    """Runs `train.py` with all records in one home.

    Attributes:
        home: Holds `mlruns`.
        folder: Each run has a folder of its own in it.
        always: What every run is told.
    """

    home: Path
    folder: Path
    always: tuple[str, ...]

    def start(self, name: str, *overrides: str, blow: Blow | None = None) -> Training:
        arguments = [*self.always, *overrides, f"hydra.run.dir={self.folder / name}"]
        return Training(arguments, self.home, self.folder / "output" / name, blow)

    def finish(self, name: str, *overrides: str) -> Training:
        training = self.start(name, *overrides)
        assert training.wait() == 0, training.errors
        return training

    def record(self, name: str) -> Record:
        run_id = (self.folder / name / "checkpoints/mlflow_run_id").read_text()
        return record_of(client(self.home), client(self.home).get_run(run_id))

    def saved(self, name: str) -> int:
        """How many epochs are in the latest checkpoint."""
        found = (self.folder / name / "checkpoints/latest").glob("ckpt-*.index")
        return max((int(file.stem.removeprefix("ckpt-")) + 1 for file in found), default=0)

    def best(self, name: str) -> dict[str, bytes]:
        """Every tensor of the best checkpoint."""
        reader = tf.train.load_checkpoint(str(self.folder / name / "checkpoints/best"))
        names = reader.get_variable_to_shape_map()
        return {name: np.asarray(reader.get_tensor(name)).tobytes() for name in names if "OBJECT_GRAPH" not in name}


@dataclass(frozen=True)
class Record:
    """What MLflow has of a run.

    Attributes:
        run: Its status, tags and last values.
        points: Every value of every metric, by step.
    """

    run: Run
    points: dict[str, dict[int, float]]

    @property
    def untimed(self) -> dict[str, dict[int, float]]:
        return {name: values for name, values in self.points.items() if name not in TIMED}


def record_of(mlflow: MlflowClient, run: Run) -> Record:
    points = {}
    for name in run.data.metrics:
        history = mlflow.get_metric_history(run.info.run_id, name)
        points[name] = {metric.step: metric.value for metric in history}
        assert len(points[name]) == len(history), f"{name} was logged twice"
    return Record(run, points)


def client(home: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{home}/mlruns/mlflow.db")


def runs_of(home: Path, kind: str) -> list[Run]:
    experiment = client(home).get_experiment_by_name("graft")
    assert experiment is not None
    return client(home).search_runs([experiment.experiment_id], f"tags.`graft.kind` = '{kind}'")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Path) -> Laboratory:
    """One home for all of them: making MLflow's tables takes longer than a training."""
    always = ("+size=smoke", "trainable=true", "dropout_rate=0.3", "augment=standard", "learning_rate=0.003")
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("runs")
    return Laboratory(home, folder, (*always, "epochs=6", *backbone_at(tiny_backbone)))


@pytest.fixture(scope="module")
def whole(lab: Laboratory) -> Record:
    """The run that nothing interrupts."""
    lab.finish("whole")
    return lab.record("whole")


COMMIT = "sqlalchemy.engine.default:DefaultDialect.do_commit"
EXECUTE = "sqlalchemy.engine.default:DefaultDialect.do_execute"
CHECKPOINT = "tensorflow.train:Checkpoint.write"
RECORDED = "graft.tracking.mlflow_recorder:MlflowRecorder.log_metrics"
BLOWS = [
    Blow("mlflow.tracking:MlflowClient.create_run", after=True),  # made, and its id is nowhere
    Blow(CHECKPOINT, 1, after=True),  # the best of the first epoch, and no latest
    Blow(CHECKPOINT, 2, after=True),  # saved, not recorded
    Blow(RECORDED, 2),  # likewise; the first call tells the first epoch again
    Blow(RECORDED, 3, after=True, signal=signal.SIGTERM),
    Blow(RECORDED, 4, after=True, signal=signal.SIGINT),
    Blow("graft.loop.checkpoints:Checkpoints.save", 1),  # trained, not saved
    Blow("graft.loop.checkpoints:Checkpoints.keep_best_only", after=True),  # no test yet
    Blow("graft.run:leave_behind", after=True),  # artifacts, and no result
    Blow("mlflow.tracking:MlflowClient.set_terminated"),  # everything but the status
]


def test_a_run_that_is_struck_down_time_and_again_ends_as_if_it_had_not_been(lab: Laboratory, whole: Record) -> None:
    for blow in BLOWS:
        cut = lab.start("cut", blow=blow)
        status = cut.wait()
        if blow.signal == signal.SIGKILL:
            assert status == -signal.SIGKILL, (blow, cut.errors)
            continue
        assert status == 130, (blow, cut.errors)
        assert f"hydra.run.dir={lab.folder / 'cut'}" in cut.errors
        assert "Traceback" not in cut.errors
        record = lab.record("cut")
        assert record.run.info.status == "KILLED"
        assert record.run.data.tags["graft.state"] == "interrupted"
        assert "best_val_accuracy" not in record.points
    assert lab.record("cut").run.info.status == "RUNNING"
    lab.finish("cut")
    record = lab.record("cut")
    assert (record.run.info.status, record.run.data.tags["graft.state"]) == ("FINISHED", "complete")
    assert record.untimed == whole.untimed
    assert sorted(record.points["val_loss"]) == list(range(6))
    assert lab.best("cut") == lab.best("whole")
    # One run in the record, with its data once, however often it was started.
    assert len(runs_of(lab.home, "single")) == 2
    assert len(record.run.inputs.dataset_inputs) == 3


def test_keras_fit_is_struck_down_and_goes_on_likewise(lab: Laboratory, whole: Record) -> None:
    for blow in (Blow(CHECKPOINT, 2, after=True), Blow(RECORDED, 4, after=True, signal=signal.SIGINT)):
        assert lab.start("keras", "loop=keras_fit", blow=blow).wait() in (-signal.SIGKILL, 130)
    assert lab.saved("keras") > 1
    lab.finish("keras", "loop=keras_fit")
    lab.finish("keras whole", "loop=keras_fit")
    assert lab.record("keras").untimed == lab.record("keras whole").untimed
    assert lab.best("keras") == lab.best("keras whole")
    for name, points in lab.record("keras").untimed.items():
        assert points == pytest.approx(whole.untimed[name], abs=1e-6)


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(lab: Laboratory, whole: Record) -> None:
    lab.start("damaged", blow=Blow(RECORDED, 4)).wait()
    newest = lab.folder / "damaged/checkpoints/latest/ckpt-3.data-00000-of-00001"
    newest.write_bytes(newest.read_bytes()[:-100])
    training = lab.finish("damaged")
    said = training.errors + training.printed
    assert f"The checkpoint {newest.with_suffix('')} is damaged" in said
    assert "Going on after 3 epochs" in said
    assert lab.record("damaged").untimed == whole.untimed
    assert lab.best("damaged") == lab.best("whole")


def test_a_run_that_is_over_says_the_same_when_it_is_started_again(lab: Laboratory, whole: Record) -> None:
    training = lab.finish("whole")
    assert "Every epoch is trained" in training.errors + training.printed
    again = lab.record("whole")
    assert again.points == whole.points
    assert again.run.info.status == "FINISHED"


def test_a_folder_of_another_run_is_refused(lab: Laboratory, whole: Record) -> None:
    refused = lab.start("whole", "head_width=7", "seed=5")
    assert refused.wait() == 2
    assert "head_width: 512 there, 7 now" in refused.errors
    assert "seed: 0 there, 5 now" in refused.errors
    assert lab.record("whole").points == whole.points
    shutil.copytree(lab.folder / "whole", lab.folder / "unknown")
    (lab.folder / "unknown/checkpoints/run.json").write_bytes(b'{"seed": 0')
    refused = lab.start("unknown")
    assert refused.wait() == 2
    assert "run.json is damaged" in refused.errors
    assert "Traceback" not in refused.errors
    (lab.folder / "unknown/checkpoints/run.json").unlink()
    refused = lab.start("unknown")
    assert refused.wait() == 2
    assert "run.json, which says of which run, is gone" in refused.errors
    assert lab.record("whole").points == whole.points


def test_two_processes_do_not_share_a_folder(lab: Laboratory) -> None:
    first = lab.start("shared", "epochs=300")
    while not lab.saved("shared"):
        assert first.running(), first.errors
        time.sleep(0.02)
    second = lab.start("shared", "epochs=300")
    assert second.wait() == 2
    assert "another process is at work in this folder" in second.errors
    assert first.running(), first.errors
    first.kill()
    first.wait()


def test_a_trial_that_was_taken_over_waits_for_the_process_that_has_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.trial.current", lambda: Trial("s", 0, 1, tmp_path, {}))
    held = filelock.FileLock(tmp_path / ".lock", thread_local=False)
    held.acquire()
    ended = threading.Timer(0.5, held.release)
    ended.start()
    with _alone_in(tmp_path):
        assert not held.is_locked
    ended.join()
    # The sweep goes on if it never ends: only this trial is lost.
    held.acquire()
    monkeypatch.setattr("graft.run.TAKEOVER_SECONDS", 0.1)
    with pytest.raises(FailedTrial, match="is still at work"), _alone_in(tmp_path):
        pass
    held.release()


@pytest.mark.parametrize(("inside", "call"), [(COMMIT, 8), (COMMIT, 20), (EXECUTE, 150)])
def test_ctrl_c_inside_a_write_to_the_record_ends_the_run_as_any_other(
    lab: Laboratory, whole: Record, inside: str, call: int
) -> None:
    name = f"{inside.rpartition('.')[2]}-{call}"
    cut = lab.start(name, "epochs=60", blow=Blow(inside, call, signal=signal.SIGINT))
    assert cut.wait() == 130, cut.errors
    assert f"hydra.run.dir={lab.folder / name}" in cut.errors
    assert "Traceback" not in cut.errors
    run = lab.record(name).run
    assert (run.info.status, run.data.tags["graft.state"]) == ("KILLED", "interrupted")


def test_ctrl_c_while_the_record_is_made_leaves_one_that_can_be_used(lab: Laboratory, tmp_path: Path) -> None:
    new = replace(lab, home=tmp_path / "home", folder=tmp_path)
    cut = new.start("first", blow=Blow(EXECUTE, 160, signal=signal.SIGINT))
    assert cut.wait() == 130, cut.errors
    assert "Traceback" not in cut.errors
    new.finish("first")
    assert new.record("first").run.info.status == "FINISHED"


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


def test_what_must_not_be_broken_off_is_finished_first() -> None:
    done = []

    def training() -> None:
        with Interruption():
            with undisturbed(), undisturbed():
                signal.raise_signal(signal.SIGINT)
                done.append("written")
            done.append("gone on")

    with pytest.raises(KeyboardInterrupt):
        training()
    assert done == ["written"]


def test_a_second_signal_breaks_it_off_all_the_same() -> None:
    done = []

    def training() -> None:
        with Interruption(), undisturbed():
            signal.raise_signal(signal.SIGINT)
            done.append("once")
            signal.raise_signal(signal.SIGINT)
            done.append("twice")

    with pytest.raises(KeyboardInterrupt):
        training()
    assert done == ["once"]
    with undisturbed():
        done.append("outside of a run nothing is held back")
    assert len(done) == 2


def test_another_threads_block_holds_nothing_up() -> None:
    inside, leave = threading.Event(), threading.Event()

    def write() -> None:
        with undisturbed():
            inside.set()
            leave.wait()

    def training() -> None:
        with Interruption():
            writer.start()
            inside.wait()
            signal.raise_signal(signal.SIGINT)

    writer = threading.Thread(target=write)
    try:
        with pytest.raises(KeyboardInterrupt):
            training()
    finally:
        leave.set()
        writer.join()


def test_an_error_without_an_interruption_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="its own"), Interruption() as interruption:
        raise RuntimeError("its own")
    assert not interruption.requested


def sweep(home: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(CHECKOUT / "train.py"), "-m", *arguments],
        env={**os.environ, "GRAFT_HOME": str(home)},
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


def test_an_interrupted_sweep_goes_on_and_records_what_came_out_in_the_end(lab: Laboratory) -> None:
    epochs = 100  # so that there is time to interrupt the second trial
    arguments = ["seed=0,1", *lab.always, "trainable=false", "augment=none", "features=live", f"epochs={epochs}"]
    process = sweep(lab.home, *arguments)
    # Of which only the latest two are there.
    latest = "sweeps/*/*/1/checkpoints/latest"
    later = (f"{latest}/ckpt-[3-9].index", f"{latest}/ckpt-[1-9][0-9].index")
    wait_for(lambda: any(path for pattern in later for path in (lab.home / "mlruns").glob(pattern)), process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "To go on:" in output
    assert sorted(run.info.status for run in runs_of(lab.home, "trial")) == ["FINISHED", "KILLED"]

    done = run_command(["python", str(CHECKOUT / "train.py"), "-m", *arguments], lab.home)
    assert done.returncode == 0, done.stderr
    found = runs_of(lab.home, "trial")
    assert [run.info.status for run in found] == ["FINISHED", "FINISHED"]
    for run in found:
        history = record_of(client(lab.home), run).points["val_accuracy"]
        assert sorted(history) == list(range(epochs))
        assert run.data.metrics["best_val_accuracy"] == max(history.values())
        assert "test_accuracy" in run.data.metrics
    (parent,) = runs_of(lab.home, "sweep")
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["trials_complete"] == 2


KINDS = {
    "frozen": ("trainable=false", "augment=none", "epochs=60"),
    "finetuned": ("epochs=30",),
    "probe": ("init_head=probe", "augment=none", "epochs=30"),
    "keras_fit": ("loop=keras_fit", "epochs=30"),
}
KILLS_A_KIND = 8
KILLS_IN_A_SWEEP = 6


@pytest.mark.skipif(not LONG, reason="trains for minutes; GRAFT_LONG=1 runs it")
@pytest.mark.timeout(3600)
def test_thirty_kills_at_random_moments_change_no_number(lab: Laboratory, capsys: pytest.CaptureFixture[str]) -> None:
    moments = random.Random(0)
    told = {kind: killed_runs(lab, kind, settings, moments) for kind, settings in KINDS.items()}
    told["trial"] = killed_trials(lab, moments)
    with capsys.disabled():
        print(f"\nKilled {sum(map(len, told.values()))} times; every number of every resumed run was exact.")
        for kind, epochs in told.items():
            print(f"  {kind}: {len(epochs)} kills, after so many saved epochs: {', '.join(map(str, epochs))}")


def killed_runs(lab: Laboratory, kind: str, settings: Sequence[str], moments: random.Random) -> list[int]:
    """How many epochs were saved at each kill."""
    lab.finish(f"{kind} whole", *settings)
    whole, best = lab.record(f"{kind} whole"), lab.best(f"{kind} whole")
    epochs = len(whole.points["val_loss"])
    killed: list[int] = []
    for run in itertools.count():
        name = f"{kind} {run}"
        for _ in range(3):
            saved = lab.saved(name)
            training = lab.start(name, *settings)
            # Waiting for an epoch makes it any moment of training on a slow machine, too.
            wanted = moments.randint(saved, epochs)
            while lab.saved(name) < wanted and training.running():
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 3) if wanted in (saved, epochs) else moments.uniform(0, 0.3))
            training.kill()
            if training.wait() == 0:
                break
            assert training.wait() == -signal.SIGKILL, training.errors
            killed.append(lab.saved(name))
        lab.finish(name, *settings)
        assert lab.record(name).untimed == whole.untimed, killed
        assert lab.best(name) == best, killed
        if len(killed) >= KILLS_A_KIND:
            break
    return killed


def killed_trials(lab: Laboratory, moments: random.Random) -> list[int]:
    """The same with the worker of a sweep, which the sweep replaces."""
    arguments = ["seed=0,1", *lab.always, "epochs=60", "hydra.sweeper.max_retries=50"]
    whole = sweep(lab.home, *arguments, "hydra.sweeper.study_name=whole")
    said = whole.communicate()
    assert whole.returncode == 0, said
    controller = sweep(lab.home, *arguments, "hydra.sweeper.study_name=killed")
    folder = lab.home / "mlruns" / "sweeps"
    killed: list[int] = []
    while len(killed) < KILLS_IN_A_SWEEP:
        worker = next(workers_of(controller), None)
        if worker is None:
            assert controller.poll() is None, controller.communicate()
            time.sleep(0.02)
            continue
        born = worker.create_time()
        saved = list[Path]()
        while not saved and worker.is_running() and controller.poll() is None:
            saved = [file for file in folder.glob("*/*/*/checkpoints/history.json") if file.stat().st_mtime > born]
            time.sleep(0.02)
        if saved:  # it may just go on from there: some epochs further, too
            further = len(json.loads(saved[0].read_text())) + moments.randint(0, 12)
            while len(json.loads(saved[0].read_text())) < further and worker.is_running():
                time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.3))
        if not worker.is_running():
            continue
        worker.kill()
        worker.wait()
        last = max(folder.glob("*/*/*/checkpoints/history.json"), key=lambda file: file.stat().st_mtime)
        killed.append(len(json.loads(last.read_text())))
    output, errors = controller.communicate()
    assert controller.returncode == 0, (output, errors)
    trials = {
        name: {
            run.data.tags["graft.trial"]: record_of(client(lab.home), run)
            for run in runs_of(lab.home, "trial")
            if run.data.tags["graft.sweep"] == name
        }
        for name in ("whole", "killed")
    }
    assert trials["killed"].keys() == trials["whole"].keys()
    for number, trial in trials["killed"].items():
        assert trial.run.info.status == "FINISHED"
        assert trial.untimed == trials["whole"][number].untimed
    return killed


def workers_of(controller: subprocess.Popen[str]) -> Iterator[psutil.Process]:
    for child in psutil.Process(controller.pid).children(recursive=True):
        if "graft.sweep.worker" in child.cmdline():
            yield child
