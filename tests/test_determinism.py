"""The same run again: late in a warm worker, beside another slot, in a fresh process, from a cold or a warm store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import backbone_at, run_command

from graft.config import Config
from graft.loop.result import History, TrainResult
from graft.preparation import prepare
from graft.run import run
from graft.tracking.recorder import MemoryRecorder

KINDS = [
    {"trainable": trainable, "dropout_rate": dropout, "augment": augment}
    for trainable in ("false", "true")
    for dropout in ("0", "0.3")
    for augment in ("none", "standard")
]
"""The trials of the sweep, in its order. The last two are fine-tuned, with dropout, one of them augmented."""


@pytest.fixture(scope="module")
def small(tiny_backbone: Path) -> list[str]:
    return ["+size=smoke", *backbone_at(tiny_backbone)]


@pytest.fixture(scope="module")
def in_one_worker(tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> list[History]:
    """The curves of all trials, one after the other in the same warm worker."""
    space = ["trainable=false,true", "dropout_rate=0,0.3", "augment=none,standard"]
    return sweep(tmp_path_factory.mktemp("one"), *space, *small)


def sweep(home: Path, *overrides: str) -> list[History]:
    train(home, "-m", *overrides, f"hydra.sweep.dir={home}/sweep")
    folders = sorted((home / "sweep").glob("*/checkpoints"), key=lambda folder: int(folder.parent.name))
    return [curve(folder.parent) for folder in folders]


def train(home: Path, *overrides: str) -> None:
    done = run_command(["python", "train.py", *overrides], home)
    assert done.returncode == 0, done.stdout + done.stderr


def curve(folder: Path) -> History:
    return untimed(json.loads((folder / "checkpoints/history.json").read_text()))


def untimed(history: History) -> History:
    times = {"epoch_seconds", "images_per_second"}
    return [{name: value for name, value in epoch.items() if name not in times} for epoch in history]


def test_a_late_trial_of_a_warm_worker_is_what_it_is_in_a_fresh_process(
    in_one_worker: list[History], small: list[str], tmp_path: Path
) -> None:
    assert len(in_one_worker) == len(KINDS)
    assert len({json.dumps(history) for history in in_one_worker}) == len(KINDS), "every trial has a curve of its own"
    settings = [f"{name}={value}" for name, value in KINDS[7].items()]
    train(tmp_path, *settings, *small, f"hydra.run.dir={tmp_path}/alone")
    assert curve(tmp_path / "alone") == in_one_worker[7]


def test_a_trial_beside_another_slot_is_what_it_is_alone(
    in_one_worker: list[History], small: list[str], tmp_path: Path
) -> None:
    space = ["trainable=true,false", "dropout_rate=0.3", "augment=standard", "hydra.launcher.slots=2"]
    beside = sweep(tmp_path, *space, *small)
    assert beside == [in_one_worker[number] for number in (7, 3)]


def test_a_cold_a_warm_and_a_partly_filled_store_give_the_same_curve(
    make_config: Callable[..., Config], small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(name: str) -> TrainResult:
        return run(make_config(*small, "dropout_rate=0.3"), MemoryRecorder(), tmp_path / name)

    cold = trained("cold")
    prepare(make_config(*small, "dataset.max_images=40"))  # the process forgets what it had read
    warm = trained("warm")
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "home"))
    prepare(make_config(*small, "dataset.max_images=40"))
    partly = trained("partly")
    assert cold.feature_extraction_seconds > 0
    assert warm.feature_extraction_seconds == 0
    assert partly.feature_extraction_seconds > 0
    assert untimed(cold.history) == untimed(warm.history) == untimed(partly.history)
    assert cold.test_loss == warm.test_loss == partly.test_loss
