"""Estimator: refused where there is none; where there is, the curve of the other loops, and all that goes with it.

Its environment, `.venv-estimator`, has no pytest: what runs in it are commands, as a user types them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import Command, backbone_at, composed
from typer.testing import CliRunner

from graft import preparation
from graft.cli import app
from graft.config import Config, TrackingConfig, from_hydra
from graft.errors import ConfigError
from graft.loop.result import EPOCH_METRICS
from graft.paths import CHECKOUT
from graft.prediction import trained_model
from graft.tracking import recorded_run
from graft.tracking.mlflow_store import open_store
from graft.tracking.recorded_run import RecordedRun

ESTIMATOR = "loop=estimator"
REFUSED = "loop=estimator: tf.estimator was removed after TensorFlow 2.15, and this environment has 2."
INSTEAD = "allowed here are loop=gradient_tape and loop=keras_fit"
PYTHON = CHECKOUT / ".venv-estimator" / "bin" / "python"


# Where there is none


@pytest.mark.parametrize("sweeps", [False, True], ids=["run", "sweep"])
def test_elsewhere_it_says_what_to_do_before_anything_starts(train: Command, home: Path, sweeps: bool) -> None:
    done = train(*(["-m", "loop=gradient_tape,estimator"] if sweeps else [ESTIMATOR]), PYTHONVERBOSE="1")
    # Every import is on stderr.
    answer = [line for line in done.stderr.splitlines() if not line.startswith(("import ", "#"))]
    assert done.returncode == 2
    assert [line for line in answer if line.startswith(REFUSED) and INSTEAD in line]
    assert any("make experiment NAME=estimator" in line and "Python 3.11" in line for line in answer)
    assert "import 'graft.preparation'" in done.stderr
    assert "import 'tensorflow'" not in done.stderr
    assert not (home / "mlruns" / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("optimizer=adamw", "optimizer=adam and optimizer=sgd"),
        ("mixed_precision=true", "mixed_precision=auto, which is float32 there, and false"),
        ("jit_compile=true", "jit_compile=false"),
    ],
)
def test_what_it_cannot_do_is_refused(make_config: Callable[..., Config], override: str, allowed: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make_config(ESTIMATOR, override)
    text = str(refused.value)
    assert text.startswith(f"{override}: ")
    assert "allowed with loop=estimator" in text
    assert text.endswith(allowed)
    make_config("loop=keras_fit", override)
    make_config(ESTIMATOR)


# Where there is one


@dataclass(frozen=True)
class Environment:
    """Commands run in `.venv-estimator`, with a home of their own.

    Attributes:
        small: Overrides that make a run small.
    """

    home: Path
    small: Sequence[str]
    sweep: dict[str, RecordedRun] = field(default_factory=dict)

    def train(self, *overrides: str, blow: str = "") -> subprocess.CompletedProcess[str]:
        """`python train.py`; `blow` is a program that prepares the process."""
        program = (
            f"import runpy, sys\n{blow}\nsys.argv[0] = 'train.py'\nrunpy.run_path('train.py', run_name='__main__')"
        )
        return subprocess.run(
            [PYTHON, "-c", program, *overrides, *self.small],
            cwd=CHECKOUT,
            env={**os.environ, "GRAFT_HOME": str(self.home), "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'src'}"},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )

    @property
    def tracking(self) -> TrackingConfig:
        return from_hydra(composed(f"tracking.uri='sqlite:///{self.home}/mlruns/mlflow.db'")).tracking

    def record(self, name: str) -> Sequence[RecordedRun]:
        return recorded_run.find(open_store(self.tracking, create=False), name).runs


LOOPS = ("estimator", "gradient_tape", "keras_fit")
KINDS = {"frozen": "trainable=false", "finetuned": "trainable=true"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Path) -> Environment:
    """With a sweep over all loops on record, whose trials one process ran one after the other."""
    if not PYTHON.exists():
        pytest.skip("there is no .venv-estimator; make experiment NAME=estimator makes it, with Python 3.11")
    home = tmp_path_factory.mktemp("estimator [old]")  # TensorFlow would take it for a pattern
    small = [*backbone_at(tiny_backbone), "dataset.image_size=16", "dataset.max_images=400", "epochs=3"]
    small += ["learning_rate=0.002", "dropout_rate=0.3", "learning_rate_schedule=cosine", "class_weights=balanced"]
    made = Environment(home, [*small, "tracking.log_model=false"])
    swept = [f"loop={','.join(LOOPS)}", f"trainable={','.join(kind.split('=')[1] for kind in KINDS.values())}"]
    done = made.train("-m", *swept, "hydra/launcher=basic", "hydra.sweeper.study_name=loops")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr, done.stderr
    for run in made.record("loops"):
        kind = "finetuned" if run.config["trainable"] else "frozen"
        made.sweep[f"{run.config['loop']['name']} {kind}"] = run
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_to_the_curve_of_the_other_loops(environment: Environment, kind: str) -> None:
    runs = {loop: environment.sweep[f"{loop} {kind}"] for loop in LOOPS}
    assert {run.state for run in runs.values()} == {"complete"}
    estimator, tape = runs["estimator"].metrics, runs["gradient_tape"].metrics
    assert set(estimator) == set(tape)
    for name in (*EPOCH_METRICS, "test_loss", "test_accuracy", "trainable_parameters"):
        if "second" not in name:
            assert estimator[name] == pytest.approx(tape[name], abs=2e-3), name
            assert runs["keras_fit"].metrics[name] == pytest.approx(tape[name], abs=1e-5), name
    assert sorted(estimator["val_accuracy"]) == [0, 1, 2]
    assert estimator["learning_rate"][2] < estimator["learning_rate"][0]
    assert estimator["test_accuracy"][0] > 0.5
    assert runs["estimator"].tags["graft.mixed_precision"] == "false"
    assert runs["estimator"].tags["graft.lock_sha256"] != ""


def test_a_run_that_is_struck_down_goes_on_to_the_same_numbers(environment: Environment) -> None:
    kind = "finetuned"
    # Estimator has saved its second epoch then, and Graft has not.
    blow = "from tests.processes import Blow; Blow('graft.loop.checkpoints:Checkpoints.save', 2).arm()"
    run = [ESTIMATOR, KINDS[kind], f"hydra.run.dir='{environment.home / kind}'"]
    assert environment.train(*run, blow=blow).returncode == -9
    folder = environment.home / kind / "checkpoints"
    assert list((folder / "estimator").glob("model.ckpt-14.*"))
    done = environment.train(*run)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Going on after 1 epochs" in done.stdout
    assert not (folder / "estimator").exists()
    (resumed,) = environment.record((folder / "mlflow_run_id").read_text())
    whole = environment.sweep[f"estimator {kind}"]
    for name in (*EPOCH_METRICS, "test_loss", "test_accuracy", "best_epoch"):
        if "second" not in name:
            assert resumed.metrics[name] == whole.metrics[name], name


ENDS = """
import json, sys
from pathlib import Path
from hydra import compose, initialize_config_dir
from graft.config import from_hydra
from graft.errors import FailedTrial
from graft.paths import CHECKOUT
from graft.run import run
from graft.tracking.recorder import MemoryRecorder

def ended(name, *overrides, stop=lambda: None):
    with initialize_config_dir(str(CHECKOUT / "conf"), version_base="1.3"):
        config = from_hydra(compose("config", overrides=["loop=estimator", *sys.argv[1:], *overrides]))
    try:
        result = run(config, MemoryRecorder(), Path(name).resolve(), stop)
    except FailedTrial as failed:
        return [failed.cause]
    own = Path(name) / "checkpoints" / "estimator"
    return [result.stopped, len(result.history), result.test_accuracy is not None, own.exists()]

answers = iter([None, "pruned"])
pruned = ended("pruned", "epochs=9", stop=lambda: next(answers))
answers = iter(["interrupted"])
interrupted = ended("interrupted", "epochs=9", stop=lambda: next(answers))
settings = ["learning_rate=1e-12", "patience=2", "epochs=9"]
print(json.dumps({
    "pruned": pruned,
    "interrupted": interrupted,
    "impatient": ended("impatient", *settings),
    "again": ended("impatient", *settings),
    "diverged": ended("diverged", "learning_rate=1e30", "optimizer=sgd"),
    "after all": ended("after all", "trainable=true"),
}))
"""


def test_it_is_pruned_interrupted_impatient_and_diverges_as_the_other_loops(
    environment: Environment, tmp_path: Path
) -> None:
    done = subprocess.run(
        [PYTHON, "-c", ENDS, *environment.small],
        cwd=tmp_path,
        env={
            **os.environ,
            "GRAFT_HOME": str(environment.home),
            "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'src'}",
            "TF_USE_LEGACY_KERAS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "pruned": ["pruned", 2, False, False],
        "interrupted": ["interrupted", 1, False, True],  # Estimator's own is needed to go on
        "impatient": [None, 3, True, False],
        "again": [None, 3, True, False],
        "diverged": ["diverged"],
        "after all": [None, 3, True, False],
    }


def test_a_verified_rerun_in_its_environment_is_exact(environment: Environment) -> None:
    done = subprocess.run(
        [
            PYTHON,
            "-c",
            "from graft.cli import main; main()",
            "rerun",
            environment.sweep["estimator frozen"].id,
            "--verify",
        ],
        cwd=CHECKOUT,
        env={**os.environ, "GRAFT_HOME": str(environment.home), "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'src'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Exact: all " in done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_its_model_is_used_in_the_ordinary_environment(
    environment: Environment, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = environment.sweep[f"estimator {kind}"]
    monkeypatch.setenv("GRAFT_HOME", str(environment.home))
    trained = trained_model.load(environment.tracking, run.id)
    config = trained.config.model_copy(update={"loop": from_hydra(composed()).loop})
    data, _ = preparation.find(config.model_copy(update={"dataset": from_hydra(composed(*environment.small)).dataset}))
    rows = data.splits.test
    predicted = trained.probabilities(data.inputs.take(rows)).argmax(axis=1)
    accuracy = np.mean(predicted == data.images.labels[rows])
    assert accuracy == pytest.approx(run.metrics["test_accuracy"][0], abs=1e-6)


def test_it_is_not_run_again_in_the_ordinary_environment(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(environment.home))
    done = CliRunner().invoke(app, ["rerun", environment.sweep["estimator frozen"].id, "--verify"])
    assert isinstance(done.exception, ConfigError)
    assert REFUSED in str(done.exception)


def test_make_says_what_it_wants_where_there_is_no_python_of_it(tmp_path: Path) -> None:
    make = shutil.which("make")
    assert make is not None
    command = [make, "-B", "experiment", "NAME=estimator", "PYTHON=python3"]
    empty = {"PATH": str(tmp_path)}
    done = subprocess.run(command, cwd=CHECKOUT, env=empty, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "loop=estimator needs Python 3.11" in done.stdout
    assert "NAME=estimator" in done.stdout.splitlines()[0]
