"""The contest: every contestant in a process of its own, in turns, in one temporary folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import machine
import photos

from graft.paths import CHECKOUT

FOLDER = Path(__file__).resolve().parent

Run = dict[str, Any]
"""One process: `wall_seconds`, `peak_memory_mb`, and what the program said of itself."""


class Bench:
    """Runs the contestants in one temporary folder.

    Args:
        max_images: About so many photos; None for all.
        photos: One sub-folder a class.
        module: A SavedModel to use in the place of EfficientNet-Lite0, for values from 0 to 1.
        work: An empty folder.
    """

    def __init__(self, max_images: int | None, photos: Path, module: Path | None, work: Path) -> None:
        self.max_images = max_images
        self.photos = photos
        self.work = work
        self._given = module
        self._runs = 0
        self.home = work / "home"  # everything converted and extracted, once `warm_up` has run

    def warm_up(self) -> None:
        """One run that is not measured: converts the backbone, and brings programs and photos into memory."""
        self.graft(self.home, "epochs=1")
        found = self._given or next((self.home / "mlruns/cache/backbones").rglob("saved_model.pb")).parent
        self.module = found

    def chapter(self, *options: str) -> Run:
        return self._told("chapter_loop.py", *options)

    def bare_keras(self, *options: str) -> Run:
        return self._told("bare_keras.py", *options)

    def _told(self, program: str, *options: str) -> Run:
        report = self._new("report.json")
        limit = [] if self.max_images is None else ["--max-images", str(self.max_images)]
        command = [sys.executable, str(FOLDER / program), str(self.photos), str(self.module), *limit, *options]
        return {**self._start([*command, "--json", str(report)]), **json.loads(report.read_text())}

    def graft(self, home: Path, *overrides: str, max_images: int | None = None) -> Run:
        """A run of `train.py` with its records in `home`: its metrics, and seconds after the imports."""
        report, directory = self._new("report.json"), self._new("run")
        command = [sys.executable, str(FOLDER / "train_after_imports.py"), str(report)]
        command += [*self._selection(max_images), *overrides, f"hydra.run.dir={directory}"]
        started = self._start(command, GRAFT_HOME=str(home))
        history = json.loads((directory / "checkpoints/history.json").read_text())
        run_id = (directory / "checkpoints/mlflow_run_id").read_text()
        return {
            **started,
            **json.loads(report.read_text()),
            **metrics_of(home, run_id),
            "epochs": history,
        }

    def sweep(self, home: Path, *overrides: str) -> Run:
        """`train.py -m` as it is typed: the seconds of the whole command."""
        command = [sys.executable, str(CHECKOUT / "train.py"), "-m", *self._selection(None), *overrides]
        return self._start([*command, f"hydra.sweep.dir={self._new('sweep')}"], GRAFT_HOME=str(home))

    def photo_count(self) -> int:
        return sum(len(split.files) for split in photos.split(self.photos, self.max_images))

    def _selection(self, max_images: int | None) -> list[str]:
        given = [f"backbone.url='{self._given}'", "backbone.value_range=[0,1]", "backbone.batch_norm_momentum=0.9"]
        backbone = ["backbone=efficientnet_lite0"] if self._given is None else given
        size = ["dataset.image_size=224", "batch_size=32", "seed=0", "tracking.log_model=false"]
        return [*photos.overrides(self.photos, max_images or self.max_images), *backbone, *size]

    def _new(self, name: str) -> Path:
        self._runs += 1
        return self.work / f"{self._runs:03d}-{name}"

    def _start(self, command: Sequence[str], **environment: str) -> Run:
        load = machine.load()
        with tempfile.TemporaryFile() as output:
            started = time.perf_counter()
            process = subprocess.Popen(
                command, cwd=CHECKOUT, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
            )
            try:
                # wait4 tells the memory of this child alone, and of those that it waited for.
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.terminate()
                raise
            seconds = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != 0:
                output.seek(0)
                text = output.read().decode(errors="replace")
                sys.exit(f"{' '.join(command)}\nexited {process.returncode}:\n{text[-3000:]}")
        return {"wall_seconds": seconds, "peak_memory_mb": usage.ru_maxrss / 1024, "load_before": load}


def metrics_of(home: Path, run_id: str) -> dict[str, float]:
    """What a run's record in MLflow has once."""
    from mlflow import MlflowClient  # late, because --help should not wait for it

    client = MlflowClient(f"sqlite:///{home}/mlruns/mlflow.db")
    wanted = ("total_seconds", "feature_extraction_seconds", "epoch_seconds_live", "best_val_accuracy", "test_accuracy")
    recorded = client.get_run(run_id).data.metrics
    return {name: recorded[name] for name in wanted if name in recorded}


def take_turns(rounds: int, contestants: dict[str, Callable[[], Iterable[tuple[str, Run]]]]) -> dict[str, list[Run]]:
    """Lets every contestant run `rounds` times, each round in another order; runs by their names."""
    runs: dict[str, list[Run]] = {}
    names = list(contestants)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            for label, run in contestants[name]():
                runs.setdefault(label, []).append(run)
                progress(f"round {number + 1} of {rounds}: {label}: {run['wall_seconds']:.1f} s")
    return runs


def forget(home: Path, *stores: str) -> None:
    """Removes stores from the cache of `home`, such as ``features`` or ``images``."""
    for store in stores:
        shutil.rmtree(home / "mlruns" / "cache" / store, ignore_errors=True)


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
