"""A sweep, read back from MLflow."""

from __future__ import annotations

import json
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import quote

from graft.comparison.pairing import Pairing, pair
from graft.config import TrackingConfig
from graft.errors import ConfigError
from graft.loop.result import History, typical_epoch_seconds
from graft.suggestions import did_you_mean
from graft.tracking.mlflow_store import Run, Store, open_store
from graft.tracking.tagged_run import OBJECTIVES_TAG, REPORT_TAG, trial_number

UI = "http://127.0.0.1:5000"  # where `make ui` serves
BY_ACCURACY = {"best_val_accuracy": "maximize"}  # what a sweep optimises unless it is told otherwise
LEAST, MOST = 1e-9, 1e12  # seconds, images or parameters
COMPARED = 20  # runs on MLflow's page that compares them; more would make no address


@dataclass(frozen=True)
class TrialRow:
    """One trial as the record has it. Accuracies go from 0 to 1; what was not recorded is None.

    `epoch_seconds` is the median of its epochs as they ran, `epoch_seconds_live` what it would be with the backbone run
    on every image, `total_seconds` the whole trial as it ran, with the `extraction_seconds` that it paid
    for features. `test_images` and `training_images` are the sizes of splits, `overrides` what was asked for,
    `checkpoint` the path or URI of the best one, `objectives` what the sweep optimised, by the metric's name.
    """

    number: int
    run_id: str
    name: str
    state: str
    failure: str | None
    params: dict[str, str]
    best_val_accuracy: float | None
    test_accuracy: float | None
    overfit_gap: float | None
    epoch_seconds: float | None
    epoch_seconds_live: float | None
    cached_features: bool
    trainable_parameters: int | None
    checkpoint: str | None
    total_seconds: float | None = None
    test_images: int | None = None
    training_images: int | None = None
    extraction_seconds: float | None = None
    overrides: tuple[str, ...] = ()
    objectives: dict[str, float] = field(default_factory=dict)

    @property
    def kind(self) -> str | None:
        """`frozen` or `fine-tuned`; None for a trial that failed before it said so."""
        return {"False": "frozen", "True": "fine-tuned"}.get(self.params.get("trainable", ""))

    @property
    def complete(self) -> bool:
        """Whether it was trained to its end, and so tested."""
        return self.state == "complete" and self.test_accuracy is not None and self.best_val_accuracy is not None


@dataclass(frozen=True)
class Side:
    """The trials with a frozen backbone, or those that fine-tune it: medians over them.

    `epoch_seconds` is the median epoch of training and validation, without the first, which also traces.
    `epoch_seconds_live` is what it would be if the backbone ran on every batch: the same, unless features were stored.
    """

    kind: str
    trials: int
    best_val_accuracy: float
    test_accuracy: float
    test_accuracy_range: tuple[float, float]
    overfit_gap: float
    epoch_seconds: float
    epoch_seconds_live: float
    cached_features: bool
    trainable_parameters: int


@dataclass(frozen=True)
class Comparison:
    """A sweep, ready to be printed.

    `ui` is where MLflow's pages are, `served` whether they are there without `make ui`, `options` what the `graft`
    command needs to find this record, and `report` the page that `graft report` wrote last. `best_trial` is the one
    that the sweep calls the best, by its `objectives`: ``minimize`` or ``maximize`` by the metric's name, empty where a
    record is older than that it says so.
    """

    sweep: str
    parent_run_id: str
    experiment_id: str
    trials: tuple[TrialRow, ...]
    sides: tuple[Side, ...]
    ui: str = UI
    served: bool = False
    options: tuple[str, ...] = ()
    report: str | None = None
    best_trial: int | None = None
    objectives: dict[str, str] = field(default_factory=dict)

    @property
    def slow_down(self) -> float | None:
        """How many times longer an epoch of fine-tuning takes than a frozen one, both with the backbone run live.

        None without both kinds of trial.
        """
        if len(self.sides) < 2:
            return None
        frozen, finetuned = self.sides
        return finetuned.epoch_seconds_live / frozen.epoch_seconds_live

    @cached_property
    def pairing(self) -> Pairing:
        """The trials that differ in nothing but `trainable`, two by two."""
        return pair([trial for trial in self.trials if trial.complete])

    @property
    def best(self) -> TrialRow | None:
        """The complete trial that its sweep calls the best, or else with the highest validation accuracy."""
        if named := [trial for trial in self.trials if trial.number == self.best_trial and trial.complete]:
            return named[0]
        scored = [trial for trial in self.trials if trial.best_val_accuracy is not None and trial.state == "complete"]
        return max(scored, key=lambda trial: trial.best_val_accuracy or 0.0, default=None)

    @property
    def best_by_accuracy(self) -> bool:
        """Whether the best trial was chosen by validation accuracy, by which `ranked` goes."""
        if self.objectives:
            return self.objectives == BY_ACCURACY
        best = self.best
        return best is None or best.best_val_accuracy == max(
            _validated(trial) for trial in self.trials if trial.state == "complete"
        )

    @property
    def ranked(self) -> list[TrialRow]:
        """All trials, the one with the highest validation accuracy first, those without one last."""
        return sorted(self.trials, key=_validated, reverse=True)

    @property
    def test_images(self) -> int | None:
        """How many images the test split has; None if that was not recorded, or differs between the trials."""
        sizes = {trial.test_images for trial in self.trials if trial.complete}
        return sizes.pop() if len(sizes) == 1 else None

    def run_page(self, trial: TrialRow) -> str:
        """Address of MLflow's page of a trial."""
        return f"{self.ui}/#/experiments/{self.experiment_id}/runs/{trial.run_id}"

    @property
    def curves_page(self) -> str:
        """The page of MLflow with the trials' curves of validation accuracy in one chart."""
        query = {
            "runs": _listed([trial.run_id for trial in self.trials[:COMPARED]]),
            "metric": quote('"val_accuracy"'),
            "experiments": _listed([self.experiment_id]),
            "plot_metric_keys": _listed(["val_accuracy"]),
            "x_axis": "step",
        }
        return f"{self.ui}/#/metric?{'&'.join(f'{key}={value}' for key, value in query.items())}"


def compare(tracking: TrackingConfig, sweep: str | None) -> Comparison:
    """Reads a sweep back from MLflow.

    Args:
        tracking: Which store and experiment.
        sweep: A study name or the id of a parent run; None takes the latest sweep.

    Raises:
        ConfigError: if there is no such sweep; the text names the latest ones.
        FatalError: if the store cannot be used.
    """
    return read(open_store(tracking, create=False), sweep)


def read(store: Store, sweep: str | None) -> Comparison:
    """As `compare`, from a store that is open."""
    # One that lost its name, as a run that was edited may, has no trials that could be found.
    parents = [run for run in store.find(kind="sweep") if run.data.tags.get("graft.sweep")]
    parent = next((run for run in parents if sweep in (None, run.info.run_id, run.data.tags["graft.sweep"])), None)
    if parent is None:
        names = [run.data.tags["graft.sweep"] for run in parents]
        raise ConfigError(
            f"There is no sweep {sweep}; the latest are: {', '.join(names[:5])}{did_you_mean(str(sweep), names)}"
            if parents
            else "There is no sweep yet: make sweep, or python train.py -m with several values of a key"
        )
    name = parent.data.tags["graft.sweep"]
    numbered = {trial_number(run.data.tags.get("graft.trial")): run for run in store.find(kind="trial", sweep=name)}
    numbers = sorted(number for number in numbered if number is not None)
    objectives = _objectives(parent.data.tags.get(OBJECTIVES_TAG, ""))
    trials = tuple(_row(store, numbered[number], number, objectives) for number in numbers)
    tracking = TrackingConfig(uri=store.uri, artifacts=None, experiment=store.experiment_name)
    served = store.uri.startswith("http")
    return Comparison(
        name,
        parent.info.run_id,
        store.experiment_id,
        trials,
        sides=tuple(side for kind in ("frozen", "fine-tuned") if (side := _side(trials, kind))),
        ui=store.uri.rstrip("/") if served else UI,
        served=served,
        options=tuple(tracking.options()),
        report=parent.data.tags.get(REPORT_TAG),
        best_trial=trial_number(parent.data.tags.get("graft.best_trial")),
        objectives=objectives,
    )


def _validated(trial: TrialRow) -> float:
    return -1.0 if trial.best_val_accuracy is None else trial.best_val_accuracy


def _measured(name: str, value: float) -> bool:
    """Whether a metric can have this value. A run that was edited may have any, and then it was not measured."""
    if not math.isfinite(value):
        return False
    if name.endswith("_accuracy"):
        return 0 <= value <= 1
    if name == "overfit_gap":
        return -1 <= value <= 1
    return value == 0 or LEAST <= value <= MOST


def _objectives(tag: str) -> dict[str, str]:
    """Empty where the record is older than the tag, or was edited."""
    try:
        return {str(name): str(direction) for name, direction in json.loads(tag).items()}
    except (ValueError, AttributeError):
        return {}


def _row(store: Store, run: Run, number: int, objectives: Mapping[str, str]) -> TrialRow:
    metrics = {name: value for name, value in run.data.metrics.items() if _measured(name, value)}
    tags = run.data.tags
    epochs = store.client.get_metric_history(run.info.run_id, "epoch_seconds") if "epoch_seconds" in metrics else []
    history: History = [
        {"epoch_seconds": metric.value}
        for metric in sorted(epochs, key=lambda metric: metric.step)
        if _measured("epoch_seconds", metric.value)
    ]
    has_checkpoint = "best_val_accuracy" in metrics
    return TrialRow(
        number=number,
        run_id=run.info.run_id,
        name=run.info.run_name,
        state=tags.get("graft.state", "running"),
        failure=tags.get("graft.failure"),
        params=dict(run.data.params),
        best_val_accuracy=metrics.get("best_val_accuracy"),
        test_accuracy=metrics.get("test_accuracy"),
        overfit_gap=metrics.get("overfit_gap"),
        epoch_seconds=typical_epoch_seconds(history) if history else None,
        epoch_seconds_live=metrics.get("epoch_seconds_live") or None,
        cached_features=tags.get("graft.features") == "cached",
        trainable_parameters=int(metrics["trainable_parameters"]) if "trainable_parameters" in metrics else None,
        checkpoint=f"{run.info.artifact_uri}/checkpoints/best" if has_checkpoint else None,
        total_seconds=metrics.get("total_seconds"),
        test_images=_images(run, "test"),
        training_images=_images(run, "training"),
        extraction_seconds=metrics.get("feature_extraction_seconds"),
        overrides=_words(tags.get("graft.overrides", "")),
        objectives={name: metrics[name] for name in objectives if name in metrics},
    )


def _words(overrides: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(overrides))
    except ValueError:  # it was edited
        return ()


def _images(run: Run, split: str) -> int | None:
    """The size of a split, as `Recorder.log_dataset` noted it."""
    for entry in run.inputs.dataset_inputs if run.inputs else ():
        if any(tag.key == "mlflow.data.context" and tag.value == split for tag in entry.tags):
            try:
                images = int(json.loads(entry.dataset.profile or "")["images"])
            except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
                return None
            return images if 0 < images <= MOST else None
    return None


def _side(trials: Sequence[TrialRow], kind: str) -> Side | None:
    measured = ("overfit_gap", "epoch_seconds", "epoch_seconds_live", "trainable_parameters")
    of_kind = [
        trial
        for trial in trials
        if trial.kind == kind and trial.complete and all(getattr(trial, name) is not None for name in measured)
    ]
    if not of_kind:
        return None

    def median(name: str) -> float:
        return statistics.median(getattr(trial, name) for trial in of_kind)

    tested = [trial.test_accuracy for trial in of_kind if trial.test_accuracy is not None]
    return Side(
        kind=kind,
        trials=len(of_kind),
        best_val_accuracy=median("best_val_accuracy"),
        test_accuracy=statistics.median(tested),
        test_accuracy_range=(min(tested), max(tested)),
        overfit_gap=median("overfit_gap"),
        epoch_seconds=median("epoch_seconds"),
        epoch_seconds_live=median("epoch_seconds_live"),
        cached_features=any(trial.cached_features for trial in of_kind),
        trainable_parameters=int(median("trainable_parameters")),
    )


def _listed(words: Sequence[str]) -> str:
    """A list as MLflow's pages take it in their address."""
    return quote("[" + ",".join(f'"{word}"' for word in words) + "]", safe="[],")
