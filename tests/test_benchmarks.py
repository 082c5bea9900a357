"""The programs of `benchmarks/` that training is measured with: they start, and what they train learns."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
from tests.images import write_classes

from graft.paths import CHECKOUT

BENCHMARKS = CHECKOUT / "benchmarks"


@pytest.fixture
def program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script of `benchmarks/`, imported as it is when it is started by its path."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorflow_hub imports pkg_resources
        return importlib.import_module(request.param)


@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("chapter_loop", []),
        ("chapter_loop", ["--trainable", "--training-true"]),
        ("bare_keras", ["--trainable"]),
    ],
    indirect=["program"],
)
@pytest.mark.filterwarnings("ignore")  # programs as readers type them
def test_a_contestant_learns_and_reports(
    program: ModuleType, options: list[str], tiny_backbone: Path, home: Path, tmp_path: Path
) -> None:
    write_classes(tmp_path / "photos", {"dark": 24, "bright": 24})
    arguments = [str(tmp_path / "photos"), str(tiny_backbone), "--image-size", "16", "--epochs", "4"]
    report = tmp_path / "report.json"
    program.main([*arguments, "--batch-size", "8", "--learning-rate", "0.01", "--json", str(report), *options])
    told = json.loads(report.read_text())
    losses = [epoch["train_loss"] for epoch in told["epochs"]]
    assert len(losses) == 4
    assert losses[-1] < losses[0] / 2
    assert told["epochs"][-1]["train_accuracy"] > 0.9
    assert sum(epoch["train_seconds"] + epoch["val_seconds"] for epoch in told["epochs"]) < told["total_seconds"]
    assert told["peak_memory_mb"] > 100


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "training.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_missing_photos_are_named_with_the_option_that_helps(tmp_path: Path) -> None:
    done = run("--photos", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert f"no photos at {tmp_path / 'nowhere'}; --photos=" in done.stderr


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("training")


def epochs(*seconds: float) -> list[dict[str, float]]:
    return [{"train_seconds": 0.75 * each, "val_seconds": 0.25 * each, "val_accuracy": 0.5} for each in seconds]


def test_the_table_says_what_was_promised_and_what_came_out(training: ModuleType) -> None:
    def graft(total: float) -> dict[str, object]:
        history = [{"epoch_seconds": each, "val_accuracy": 0.5} for each in (2.0, 0.25)]
        return {"total_seconds": total, "seconds": total + 1, "epochs": history, "peak_memory_mb": 700}

    chapter = {"import_seconds": 5, "total_seconds": 70, "epochs": epochs(30, 20, 10), "peak_memory_mb": 900}
    frozen = {
        "chapter": [chapter],
        "graft, from nothing": [graft(20)],
        "graft, conversion kept": [graft(5)],
        "graft, warm store": [graft(1)],
    }
    sweep = {f"graft, {start}": [{"wall_seconds": 60, "peak_memory_mb": 1}] for start in ("from nothing", "warm store")}
    sections = {"frozen": {"runs": frozen}, "sweep": {"runs": sweep}}
    lines = training.table({"sections": sections})
    # Epochs from the second on: 20 and 10 s against 0.25 s.
    assert "| Frozen epoch from the second on | 15.0 s | 0.25 s | 60.0 | 100 | no |" in lines
    # Three epochs of ten were run in 70 s; the other seven count as 15 s each.
    extrapolated = "without process start, conversion kept (the chapter's extrapolated from 3 epochs)"
    assert f"| Frozen, 10 epochs, {extrapolated} | 175 s | 5 s | 35.0 | 20 | yes |" in lines
    # Twenty runs with the imports: 20 x 180 s against 60 s.
    (line,) = (
        line for line in lines if "sweep" in line and "warm" in line and "promised" not in line and "60 |" in line
    )
    assert line.endswith("| 3600 s | 60.0 s | 60.0 | 60 | yes |")


def test_storages_are_measured_with_no_report_lost() -> None:
    (row,) = rows("storage_load.py", "reports", "--storage", "journal", "--workers", "2", "--seconds", "1")
    storage, workers, asked, reached, *_, told, lost = row
    assert (storage, workers, asked, told, lost) == ("journal", "2", "20", "0", "0")
    assert float(reached) > 0


def test_a_sweep_is_set_beside_list_scheduling() -> None:
    (row,) = rows("sweep_efficiency.py", "--slots", "2", "--each", "2")
    launcher, slots, trials, ideal, took, *_ = row
    assert (launcher, slots, trials) == ("graft", "2", "4")
    assert float(took.removesuffix(" s")) >= float(ideal.removesuffix(" s"))


def rows(script: str, *options: str) -> list[list[str]]:
    """What a benchmark's table holds below its head."""
    command = [sys.executable, str(BENCHMARKS / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    return lines[2:]
