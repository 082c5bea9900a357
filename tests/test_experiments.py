"""Every file in experiments/: it says how it is run and what it showed, and its smoke form runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import backbone_at
from tests.processes import Training
from tests.tfds_sets import prepare
from typer.testing import CliRunner

from graft.cli import app
from graft.data.fashion_mnist import CLASSES
from graft.paths import CHECKOUT

EXPERIMENTS = sorted(path.stem for path in (CHECKOUT / "experiments").glob("*.yaml"))
TRIALS = {
    "accuracy_vs_time": 6,
    "backbones": 9,
    "chapter": 2,
    "dropout": 5,
    "estimator": 9,
    "fashion_mnist_finetune": 3,
    "fashion_mnist_transfer": 3,
    "high_learning_rate": 5,
    "keras_fit": 4,
    "low_variance_backbone": 6,
    "overfitting": 7,
    "probe_then_finetune": 6,
    "search": 4,
    "transfer_vs_finetune": 10,
}
OF_CLOTHES = ("fashion_mnist_finetune", "fashion_mnist_transfer", "low_variance_backbone")


def test_every_experiment_is_known_here() -> None:
    assert sorted(TRIALS) == EXPERIMENTS


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_opens_with_its_command_and_its_result(name: str) -> None:
    text = (CHECKOUT / "experiments" / f"{name}.yaml").read_text()
    command = "make experiment NAME=estimator" if name == "estimator" else f"python train.py experiments={name}"
    assert text.startswith(f"# @package _global_\n# {command}\n")
    comment = text.split("\nhydra:")[0]
    assert "Measured" in comment
    assert "TODO" not in text


@pytest.fixture(scope="module")
def all_in_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for all: MLflow's tables are made, images resized and features extracted once."""
    return tmp_path_factory.mktemp("experiments")


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fashion-MNIST as TFDS prepares it, but with 260 made-up images, so that no network is needed."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (260, 28, 28, 1), np.uint8)
    examples = [(image, number % 10) for number, image in enumerate(images)]
    folder = tmp_path_factory.mktemp("clothes")
    halves = {"train": examples[:200], "test": examples[200:]}
    prepare(folder, halves, name="fashion_mnist", class_names=CLASSES, shape=(28, 28, 1))
    return folder


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_its_smoke_form_runs(
    name: str, tiny_backbone: Path, clothes: Path, all_in_one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Hydra's own launcher trains in the process of the command, which has TensorFlow already.
    small = ["+size=smoke", "dataset.image_size=8", "epochs=1", "hydra/launcher=basic", *backbone_at(tiny_backbone)]
    if name in OF_CLOTHES:
        small.append(f"dataset.data_dir={clothes}")
    if name == "chapter":
        small.append("dataset=digits")
    if name == "search":
        small.append("hydra.sweeper.n_trials=2")
    if name == "accuracy_vs_time":
        small[small.index("dataset.image_size=8")] = "dataset.image_size=8,12,16"
    done = Training([f"experiments={name}", *small], all_in_one, tmp_path)
    if name == "estimator":  # it runs in an environment of its own: tests/loop/test_estimator.py
        assert done.wait() == 2
        assert "loop=estimator: tf.estimator was removed after TensorFlow 2.15" in done.errors
        return
    assert done.wait() == 0, done.printed + done.errors
    monkeypatch.setenv("GRAFT_HOME", str(all_in_one))
    seen = json.loads(CliRunner().invoke(app, ["compare", "--json"]).stdout)
    assert [trial["state"] for trial in seen["trials"]] == ["complete"] * TRIALS[name]
    folder = max((all_in_one / "mlruns" / "sweeps").glob("*/*"))
    for trial in seen["trials"]:
        run = folder / str(trial["number"])
        history = json.loads((run / "checkpoints" / "history.json").read_text())
        assert trial["best_val_accuracy"] == pytest.approx(max(epoch["val_accuracy"] for epoch in history))
        counts = np.array(json.loads((run / "confusion.json").read_text())["counts"])
        assert trial["test_accuracy"] == pytest.approx(np.trace(counts) / counts.sum(), abs=1e-6)
        assert counts.sum() >= 40  # of 160 images a quarter
    if name == "dropout":
        by_key = json.loads(CliRunner().invoke(app, ["compare", "--by", "dropout_rate", "--json"]).stdout)
        assert [level["value"] for level in by_key["levels"]] == ["0.0", "0.2", "0.4", "0.6", "0.8"]


def test_one_run_can_be_made_of_an_experiment(tiny_backbone: Path, all_in_one: Path, tmp_path: Path) -> None:
    small = ["+size=smoke", *backbone_at(tiny_backbone)]
    done = Training(["experiments=dropout", "hydra.mode=RUN", *small], all_in_one, tmp_path)
    assert done.wait() == 0, done.errors
    assert "epoch 2/2" in done.printed
