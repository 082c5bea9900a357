"""One conformance suite for every recorder: what is recorded can be read back, once, whatever is repeated."""

from __future__ import annotations

import atexit
import functools
import io
import json
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path

import pytest
from rich.console import Console

from graft.config import TrackingConfig
from graft.tracking.console import ConsoleRecorder
from graft.tracking.mlflow_recorder import MlflowRecorder
from graft.tracking.mlflow_store import Store, open_store
from graft.tracking.recorder import MemoryRecorder, Recorder, Recorders, State
from graft.tracking.tensorboard import TensorBoardRecorder

EPOCH = {
    "train_loss": 0.5,
    "train_accuracy": 0.75,
    "val_loss": 0.625,
    "val_accuracy": 0.875,
    "epoch_seconds": 2.0,
    "images_per_second": 100.0,
    "learning_rate": 0.25,
}


class Case(ABC):
    """A recorder and the way to read back what it took down."""

    keeps_params = keeps_tags = keeps_artifacts = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def open(self) -> Recorder: ...

    @abstractmethod
    def val_accuracy(self) -> dict[int, list[float]]:
        """Every point by epoch."""

    def params(self) -> dict[str, str]:
        raise NotImplementedError

    def tags(self) -> dict[str, str]:
        raise NotImplementedError

    def artifacts(self) -> dict[str, bytes]:
        raise NotImplementedError


class Memory(Case):
    def open(self) -> Recorder:
        self.recorder = MemoryRecorder()
        return self.recorder

    def val_accuracy(self) -> dict[int, list[float]]:
        return {step: [value] for step, value in self.recorder.metrics["val_accuracy"].items()}

    def params(self) -> dict[str, str]:
        return {key: str(value) for key, value in self.recorder.params.items()}

    def tags(self) -> dict[str, str]:
        return self.recorder.tags

    def artifacts(self) -> dict[str, bytes]:
        return self.recorder.artifacts


class Several(Memory):
    def open(self) -> Recorder:
        return Recorders([MemoryRecorder(), super().open()])


class OnConsole(Case):
    keeps_params = keeps_tags = keeps_artifacts = False

    def open(self) -> Recorder:
        self.output = io.StringIO()
        return ConsoleRecorder(epochs=10, console=Console(file=self.output, width=200))

    def val_accuracy(self) -> dict[int, list[float]]:
        lines = [line.split() for line in self.output.getvalue().splitlines() if line.startswith("epoch")]
        points: dict[int, list[float]] = {}
        for words in lines:
            epoch = int(words[1].split("/")[0]) - 1
            points.setdefault(epoch, []).append(float(words[words.index("val") + 4]))
        return points


class InTensorBoard(Case):
    keeps_params = keeps_tags = keeps_artifacts = False

    def open(self) -> Recorder:
        return TensorBoardRecorder(self.folder)

    def val_accuracy(self) -> dict[int, list[float]]:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.util.tensor_util import make_ndarray

        events = EventAccumulator(str(self.folder / "tensorboard" / "validation"))
        events.Reload()
        points: dict[int, list[float]] = {}
        for event in events.Tensors("epoch/accuracy"):
            points.setdefault(event.step, []).append(float(make_ndarray(event.tensor_proto)))
        return points


@functools.cache
def migrated() -> Path:
    """A database with MLflow's tables and nothing in them: to make them takes seconds."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    open_store(TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db", artifacts=str(folder), experiment="other"))
    return folder / "mlflow.db"


class InMlflow(Case):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        if not (folder / "mlflow.db").exists():
            shutil.copy(migrated(), folder / "mlflow.db")

    def open(self, folder: str = "run", **more: str) -> Recorder:
        tracking = TrackingConfig(
            uri=f"sqlite:///{self.folder}/mlflow.db", artifacts=str(self.folder / "artifacts"), experiment="test"
        )
        self.tracking = tracking
        self.store: Store = open_store(tracking)
        tags = {"graft.kind": "trial", "graft.sweep": "s", "graft.trial": "3"}
        tags |= {f"graft.{name}": value for name, value in more.items()}
        recorder = MlflowRecorder(tracking, self.folder / folder, name="frozen", tags=tags)
        self.run_id = recorder.run_id
        return recorder

    def val_accuracy(self) -> dict[int, list[float]]:
        points: dict[int, list[float]] = {}
        for metric in self.store.client.get_metric_history(self.run_id, "val_accuracy"):
            points.setdefault(metric.step, []).append(metric.value)
        return points

    def params(self) -> dict[str, str]:
        return dict(self.store.client.get_run(self.run_id).data.params)

    def tags(self) -> dict[str, str]:
        return dict(self.store.client.get_run(self.run_id).data.tags)

    def artifacts(self) -> dict[str, bytes]:
        (self.folder / "downloaded").mkdir()
        local = Path(self.store.client.download_artifacts(self.run_id, "", str(self.folder / "downloaded")))
        return {str(file.relative_to(local)): file.read_bytes() for file in local.rglob("*") if file.is_file()}


@pytest.fixture(params=[Memory, Several, OnConsole, InTensorBoard, InMlflow], ids=lambda case: case.__name__)
def case(request: pytest.FixtureRequest, home: Path) -> Case:
    made: Case = request.param(home)
    return made


def test_every_epoch_is_there_once(case: Case) -> None:
    recorder = case.open()
    for epoch in range(3):
        recorder.log_step({"loss": 0.5, "accuracy": 0.25}, step=epoch * 4 + 4, epoch=epoch, of=4)
        recorder.log_metrics({**EPOCH, "val_accuracy": epoch / 4}, step=epoch)
    recorder.log_metrics({"best_val_accuracy": 0.5})
    recorder.close("complete")
    assert case.val_accuracy() == {0: [0.0], 1: [0.25], 2: [0.5]}


@pytest.mark.parametrize(("state", "failure"), [("complete", None), ("pruned", None), ("failed", "diverged")])
def test_the_end_is_recorded(case: Case, state: State, failure: str | None) -> None:
    recorder = case.open()
    recorder.close(state, failure)
    if case.keeps_tags:
        assert case.tags()["graft.state"] == state
        assert case.tags().get("graft.failure") == failure


def test_params_may_be_repeated_but_not_changed(case: Case) -> None:
    recorder = case.open()
    params = {"trainable": True, "learning_rate": 1e-5, "patience": None, **{f"key{n}": n for n in range(150)}}
    recorder.log_params(params)
    recorder.log_params({"trainable": True})
    if case.keeps_params:
        assert case.params() == {key: str(value) for key, value in params.items()}
        with pytest.raises(Exception, match="trainable"):
            recorder.log_params({"trainable": False})
    recorder.close("complete")


def test_a_later_tag_replaces_an_earlier_one(case: Case) -> None:
    recorder = case.open()
    recorder.set_tags({"graft.attempt": "0"})
    recorder.set_tags({"graft.attempt": "1"})
    recorder.close("complete")
    if case.keeps_tags:
        assert case.tags()["graft.attempt"] == "1"


def test_files_and_folders_become_artifacts(case: Case, tmp_path: Path) -> None:
    (tmp_path / "best" / "deep").mkdir(parents=True)
    (tmp_path / "best" / "deep" / "a.bin").write_bytes(b"a")
    (tmp_path / "best" / "b.bin").write_bytes(b"b")
    (tmp_path / "config.yaml").write_bytes(b"c")
    recorder = case.open()
    recorder.log_artifact(tmp_path / "best", "checkpoints/best")
    recorder.log_artifact(tmp_path / "config.yaml")
    recorder.close("complete")
    if case.keeps_artifacts:
        expected = {"checkpoints/best/deep/a.bin": b"a", "checkpoints/best/b.bin": b"b", "config.yaml": b"c"}
        assert case.artifacts() == expected


@pytest.mark.parametrize("kept", [InMlflow, InTensorBoard])
def test_another_attempt_logs_no_step_twice(kept: type[Case], home: Path) -> None:
    case = kept(home)
    first = case.open()
    for epoch in range(3):
        first.log_metrics(EPOCH, step=epoch)
    # And the process dies: the run is never closed.
    second = case.open()
    for epoch in range(2, 5):
        second.log_metrics(EPOCH, step=epoch)
    second.close("complete")
    assert case.val_accuracy() == {epoch: [0.875] for epoch in range(5)}
    if kept is InMlflow:  # nor does it say it again
        said = [json.loads(line) for line in (home / "run" / "record.jsonl").read_text().splitlines()]
        assert [each["step"] for each in said if each["kind"] == "metrics"] == list(range(5))


def test_another_attempt_on_another_machine_logs_no_step_twice(home: Path) -> None:
    case = InMlflow(home)
    first = case.open("here")
    first.log_params({"seed": 0})
    for epoch in range(3):
        first.log_metrics(EPOCH, step=epoch)
    second = case.open("there")  # where nothing is known of what was said
    second.log_params({"seed": 0})
    for epoch in range(5):
        second.log_metrics(EPOCH, step=epoch)
    second.close("complete")
    assert case.val_accuracy() == {epoch: [0.875] for epoch in range(5)}


def test_events_that_end_in_the_middle_of_one_are_read_as_far_as_they_go(home: Path) -> None:
    case = InTensorBoard(home)
    case.open().log_metrics(EPOCH, step=0)
    (events,) = (home / "tensorboard" / "validation").glob("events.*")
    events.write_bytes(events.read_bytes() + b"half")
    second = case.open()
    for epoch in range(2):
        second.log_metrics(EPOCH, step=epoch)
    second.close("complete")
    assert case.val_accuracy() == {0: [0.875], 1: [0.875]}


def test_another_attempt_takes_up_the_run_and_an_end_that_was_none_is_forgotten(home: Path) -> None:
    case = InMlflow(home)
    case.open().close("failed", "OSError")
    run_id = case.run_id
    second = case.open()
    assert case.run_id == run_id
    assert not {"graft.state", "graft.failure"} & case.tags().keys()
    assert case.store.client.get_run(run_id).info.status == "RUNNING"
    second.close("complete")
    assert case.tags()["graft.state"] == "complete"
    assert "graft.failure" not in case.tags()
    assert case.store.client.get_run(run_id).info.status == "FINISHED"


def test_a_run_that_goes_on_with_other_code_says_so_and_is_verified_no_more(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    case = InMlflow(home)
    first = case.open(commit="a-dirty", uncommitted_sha256="1234", device="CPU")
    first.log_metrics(EPOCH, step=0)
    first.set_tags({"graft.verified": "exact", "graft.verified_by": "another"})
    case.open(commit="b", device="CPU")
    tags = case.tags()
    assert not {"graft.verified", "graft.verified_by", "graft.uncommitted_sha256"} & tags.keys()
    assert tags["graft.commit"] == "b"
    assert tags["graft.changed_midway"] == "commit a-dirty, then b; uncommitted_sha256 1234, then none"
    assert "commit a-dirty, then b" in caplog.text
    case.open(commit="b", device="CPU", tensorflow="2")
    assert case.tags()["graft.changed_midway"].endswith("then none; tensorflow none, then 2")


def test_a_run_is_found_again_by_its_folder_and_made_anew_with_all_of_it_once_it_was_deleted(home: Path) -> None:
    case = InMlflow(home)
    case.open()

    def single() -> MlflowRecorder:
        return MlflowRecorder(case.tracking, home / "single", name="frozen", tags={"graft.kind": "single"})

    first = single()
    first.log_params({"seed": 7})
    first.log_metrics(EPOCH, step=0)
    assert single().run_id == first.run_id
    (home / "single" / "record.sent").write_bytes(b"\xff no mark")
    assert single().run_id == first.run_id
    assert first.run_id is not None
    case.store.client.delete_run(first.run_id)
    second = single()
    assert second.run_id not in (None, first.run_id)
    second.log_metrics(EPOCH, step=0)
    case.run_id = second.run_id
    assert (case.params(), case.val_accuracy()) == ({"seed": "7"}, {0: [0.875]})


@pytest.mark.parametrize(
    ("state", "status"),
    [("complete", "FINISHED"), ("pruned", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED")],
)
def test_mlflow_status_follows_the_outcome_table(home: Path, state: State, status: str) -> None:
    case = InMlflow(home)
    case.open().close(state)
    assert case.store.client.get_run(case.run_id).info.status == status


def test_every_metric_is_durable_when_the_call_returns(home: Path) -> None:
    program = (
        "import os, signal\n"
        "from tests.tracking.test_recorders import EPOCH, InMlflow\n"
        "from pathlib import Path\n"
        f"recorder = InMlflow(Path({str(home)!r})).open()\n"
        "for epoch in range(4): recorder.log_metrics(EPOCH, step=epoch)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=False, cwd=Path(__file__).parents[2])
    case = InMlflow(home)
    case.open()
    assert sorted(case.val_accuracy()) == [0, 1, 2, 3]


def test_processes_may_open_a_new_store_at_once(home: Path) -> None:
    program = (
        "from tests.tracking.test_recorders import InMlflow\n"
        "from graft.config import TrackingConfig\n"
        "from graft.tracking.mlflow_store import open_store\n"
        f"tracking = TrackingConfig(uri='sqlite:///{home}/new.db', artifacts='{home}/artifacts', experiment='race')\n"
        "store = open_store(tracking)\n"
        "store.client.create_run(store.experiment_id)\n"
    )
    command = [sys.executable, "-c", program]
    racers = [
        subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    errors = [racer.communicate()[1] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0], errors
    tracking = TrackingConfig(uri=f"sqlite:///{home}/new.db", artifacts=None, experiment="race")
    store = open_store(tracking, create=False)
    assert len(store.client.search_runs([store.experiment_id])) == 2
