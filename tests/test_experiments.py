"""Every file in experiments/: it says how it is run and what it showed, and its smoke form runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.conftest import backbone_at
from tests.processes import Training
from typer.testing import CliRunner

from graft.cli import app
from graft.paths import CHECKOUT

EXPERIMENTS = sorted(path.stem for path in (CHECKOUT / "experiments").glob("*.yaml"))
TRIALS = {"dropout": 5, "high_learning_rate": 5, "overfitting": 7, "transfer_vs_finetune": 10}


def test_every_experiment_is_known_here() -> None:
    assert sorted(TRIALS) == EXPERIMENTS


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_opens_with_its_command_and_its_result(name: str) -> None:
    text = (CHECKOUT / "experiments" / f"{name}.yaml").read_text()
    assert text.startswith(f"# @package _global_\n# python train.py experiments={name}\n")
    comment = text.split("\nhydra:")[0]
    assert "Measured" in comment
    assert "TODO" not in text


@pytest.fixture(scope="module")
def all_in_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for all: MLflow's tables are made, images resized and features extracted once."""
    return tmp_path_factory.mktemp("experiments")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_its_smoke_form_runs(
    name: str, tiny_backbone: Path, all_in_one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Hydra's own launcher trains in the process of the command, which has TensorFlow already.
    small = ["+size=smoke", "dataset.image_size=8", "epochs=1", "hydra/launcher=basic", *backbone_at(tiny_backbone)]
    done = Training([f"experiments={name}", *small], all_in_one, tmp_path)
    assert done.wait() == 0, done.printed + done.errors
    monkeypatch.setenv("GRAFT_HOME", str(all_in_one))
    seen = json.loads(CliRunner().invoke(app, ["compare", "--json"]).stdout)
    assert [trial["state"] for trial in seen["trials"]] == ["complete"] * TRIALS[name]


def test_one_run_can_be_made_of_an_experiment(tiny_backbone: Path, all_in_one: Path, tmp_path: Path) -> None:
    small = ["+size=smoke", *backbone_at(tiny_backbone)]
    done = Training(["experiments=dropout", "hydra.mode=RUN", *small], all_in_one, tmp_path)
    assert done.wait() == 0, done.errors
    assert "epoch 2/2" in done.printed
