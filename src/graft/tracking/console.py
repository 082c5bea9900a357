"""The record on the console: a progress bar on a terminal, one line an epoch everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from graft.console import PlainConsole
from graft.tracking.recorder import Recorder, Scalar, State


class ConsoleRecorder(Recorder):
    """Prints what is recorded.

    Args:
        epochs: How many epochs are planned.
        console: Where to print; plain lines where it is no terminal.
    """

    def __init__(self, epochs: int, console: Console | None = None) -> None:
        self._console = console or PlainConsole()
        self._epochs = epochs
        self._progress: Progress | None = None
        self._bar: TaskID | None = None

    def log_params(self, params: Mapping[str, Scalar]) -> None:
        told = ("backbone.name", "dataset.name", "trainable", "learning_rate", "head_width", "dropout_rate", "seed")
        text = " ".join(f"{key}={params[key]}" for key in told if key in params)
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        return  # they are for finding a run again, and nobody searches a console

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._stop_bar()
        if step is None:
            text = _standing(metrics)
        else:
            text = (
                f"epoch {step + 1:>{len(str(self._epochs))}}/{self._epochs}"
                f"  train loss {metrics['train_loss']:.4f} accuracy {metrics['train_accuracy']:.4f}"
                f"  val loss {metrics['val_loss']:.4f} accuracy {metrics['val_accuracy']:.4f}"
                f"  {metrics['epoch_seconds']:.1f} s  {metrics['images_per_second']:.0f} images/s"
            )
        self._console.print(text.strip(), highlight=False, markup=False, soft_wrap=True)

    def log_step(self, metrics: Mapping[str, float], *, step: int, epoch: int, of: int) -> None:
        if not self._console.is_terminal:
            return
        if self._progress is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[standing]}"),
            )
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._progress.start()
            self._bar = self._progress.add_task(f"epoch {epoch + 1}/{self._epochs}", total=of, standing="")
        assert self._bar is not None
        standing = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self._progress.update(self._bar, completed=step - epoch * of, standing=standing)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        return  # the recorder that keeps it says where

    def close(self, state: State, failure: str | None = None) -> None:
        self._stop_bar()
        if failure:
            self._console.print(f"{state}: {failure}", highlight=False, markup=False)

    def _stop_bar(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _standing(metrics: Mapping[str, float]) -> str:
    """What came out of the run, in a line; everything else that it has once is in its record."""
    named = {
        "best_val_accuracy": "validation accuracy",
        "test_accuracy": "test accuracy",
        "total_seconds": "seconds in all",
    }
    shown = [f"{name} {metrics[key]:.4g}" for key, name in named.items() if key in metrics]
    if "best_epoch" in metrics:
        shown.insert(0, f"best: epoch {int(metrics['best_epoch']) + 1}")
    return "  ".join(shown)
