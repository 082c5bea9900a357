"""Comparing the trials of a sweep: transfer against fine-tuning first, then every trial, best first."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from urllib.parse import quote

from rich.console import Console
from rich.table import Table

from graft.again import rerun_command
from graft.config import TrackingConfig
from graft.errors import ConfigError
from graft.loop.result import History, typical_epoch_seconds
from graft.tracking.mlflow_store import Run, Store, open_store

UI = "http://127.0.0.1:5000"  # where `make ui` serves
SHOWN = 20  # trials in the printed table; --json has all


@dataclass(frozen=True)
class TrialRow:
    """One trial as the record has it. Accuracies go from 0 to 1; what was not recorded is None."""

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
    """A sweep, ready to be printed."""

    sweep: str
    parent_run_id: str
    experiment_id: str
    trials: tuple[TrialRow, ...]
    sides: tuple[Side, ...]

    @property
    def slow_down(self) -> float | None:
        """How many times longer an epoch of fine-tuning takes than a frozen one, both with the backbone run live.

        None without both kinds of trial.
        """
        if len(self.sides) < 2:
            return None
        frozen, finetuned = self.sides
        return finetuned.epoch_seconds_live / frozen.epoch_seconds_live


def compare(tracking: TrackingConfig, sweep: str | None) -> Comparison:
    """Reads a sweep back from MLflow.

    Args:
        tracking: Which store and experiment.
        sweep: A study name or the id of a parent run; None takes the latest sweep.

    Raises:
        ConfigError: if there is no such sweep; the text names the latest ones.
    """
    store = open_store(tracking, create=False)
    parents = store.find(kind="sweep")
    parent = next((run for run in parents if sweep in (None, run.info.run_id, run.data.tags["graft.sweep"])), None)
    if parent is None:
        known = ", ".join(run.data.tags["graft.sweep"] for run in parents[:5])
        raise ConfigError(
            f"There is no sweep {sweep}; the latest are: {known}"
            if parents
            else "There is no sweep yet: make sweep, or python train.py -m with several values of a key"
        )
    name = parent.data.tags["graft.sweep"]
    runs = sorted(store.find(kind="trial", sweep=name), key=lambda run: int(run.data.tags["graft.trial"]))
    trials = tuple(_row(store, run) for run in runs)
    sides = tuple(side for trainable in (False, True) if (side := _side(trials, trainable)))
    return Comparison(name, parent.info.run_id, store.experiment_id, trials, sides)


def as_json(comparison: Comparison) -> dict[str, object]:
    """Everything that `show` prints and more, as plain data."""
    return {**asdict(comparison), "slow_down": comparison.slow_down}


def show(comparison: Comparison, console: Console) -> None:
    """Prints the tables, and where to look next."""
    # Names and overrides are the user's own words: no markup in them.
    say = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    if len(comparison.sides) == 2:
        console.print(_sides_table(comparison.sides))
        say(_verdict(comparison))
    if len(comparison.sides) < 2 or len(comparison.trials) > 2:
        console.print(_trials_table(comparison.trials))
    for failed in (trial for trial in comparison.trials if trial.state == "failed"):
        say(f"Trial {failed.number} failed ({failed.failure}): {failed.name}")
    if best := _best(comparison.trials):
        say(f"\nBest       trial {best.number}: {best.name}")
        say(f"Again      {rerun_command(best.run_id)}")
        say(f"Checkpoint {best.checkpoint}")
    say(f"Curves     make ui, then {_curves_page(comparison)}")


def _row(store: Store, run: Run) -> TrialRow:
    metrics, tags = run.data.metrics, run.data.tags
    epochs = store.client.get_metric_history(run.info.run_id, "epoch_seconds") if "epoch_seconds" in metrics else []
    history: History = [{"epoch_seconds": metric.value} for metric in sorted(epochs, key=lambda metric: metric.step)]
    has_checkpoint = "best_val_accuracy" in metrics
    return TrialRow(
        number=int(tags["graft.trial"]),
        run_id=run.info.run_id,
        name=run.info.run_name,
        state=tags.get("graft.state", "running"),
        failure=tags.get("graft.failure"),
        params=dict(run.data.params),
        best_val_accuracy=metrics.get("best_val_accuracy"),
        test_accuracy=metrics.get("test_accuracy"),
        overfit_gap=metrics.get("overfit_gap"),
        epoch_seconds=typical_epoch_seconds(history) if history else None,
        epoch_seconds_live=metrics.get("epoch_seconds_live"),
        cached_features=tags.get("graft.features") == "cached",
        trainable_parameters=int(metrics["trainable_parameters"]) if "trainable_parameters" in metrics else None,
        checkpoint=f"{run.info.artifact_uri}/checkpoints/best" if has_checkpoint else None,
    )


def _side(trials: Sequence[TrialRow], trainable: bool) -> Side | None:
    of_kind = [t for t in trials if t.params.get("trainable") == str(trainable) and t.state == "complete"]
    if not of_kind:
        return None

    def median(name: str) -> float:
        return statistics.median(getattr(trial, name) for trial in of_kind)

    tested = [trial.test_accuracy for trial in of_kind if trial.test_accuracy is not None]
    return Side(
        kind="fine-tuned" if trainable else "frozen",
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


def _best(trials: Sequence[TrialRow]) -> TrialRow | None:
    scored = [trial for trial in trials if trial.best_val_accuracy is not None and trial.state == "complete"]
    return max(scored, key=lambda trial: trial.best_val_accuracy or 0.0, default=None)


def _sides_table(sides: Sequence[Side]) -> Table:
    several = any(side.trials > 1 for side in sides)
    table = Table(title="Transfer against fine-tuning" + (", medians" if several else ""), title_justify="left")
    table.add_column()
    for side in sides:
        table.add_column(side.kind, justify="right")

    def add(label: str, *cells: str) -> None:
        table.add_row(label, *cells)

    if several:
        add("trials", *(str(side.trials) for side in sides))
    add("best validation accuracy", *(f"{side.best_val_accuracy:.4f}" for side in sides))
    add("test accuracy", *(f"{side.test_accuracy:.4f}" for side in sides))
    if several:
        add("  from, to", *("{:.4f}, {:.4f}".format(*side.test_accuracy_range) for side in sides))
    add("train minus validation accuracy", *(f"{side.overfit_gap:+.4f}" for side in sides))
    cached = any(side.cached_features for side in sides)
    if cached:
        add("an epoch ran on", *("stored features" if side.cached_features else "images" for side in sides))
    add("seconds an epoch", *(f"{side.epoch_seconds:.2f}" for side in sides))
    if cached:
        # An epoch on stored features beside one on images says nothing of the backbone: compare both on images.
        add("seconds an epoch on images", *(f"{side.epoch_seconds_live:.2f}" for side in sides))
    ratios = (f"{side.epoch_seconds_live / sides[0].epoch_seconds_live:.1f}" for side in sides)
    add("times as long" + (" on images" if cached else ""), *ratios)
    add("trainable parameters", *(f"{side.trainable_parameters:,}" for side in sides))
    return table


def _verdict(comparison: Comparison) -> str:
    frozen, finetuned = comparison.sides
    difference = finetuned.test_accuracy - frozen.test_accuracy
    better = "more" if difference >= 0 else "less"
    verdict = (
        f"Fine-tuning: {abs(difference):.4f} {better} test accuracy, {comparison.slow_down:.1f} times as long an epoch"
    )
    if frozen.cached_features:
        times = finetuned.epoch_seconds / frozen.epoch_seconds
        verdict += f"; {times:.0f} times as long as one on stored features"
    return verdict + "."


def _trials_table(trials: Sequence[TrialRow]) -> Table:
    # What differs between the trials, without what only follows from it.
    keys = sorted({key for trial in trials for key in trial.params})
    told = [trial for trial in trials if trial.params]  # one that failed at once has none
    varied = [key for key in keys if len({trial.params.get(key) for trial in told}) > 1]
    ranked = sorted(
        trials, key=lambda trial: -1.0 if trial.best_val_accuracy is None else trial.best_val_accuracy, reverse=True
    )
    more = len(ranked) - SHOWN
    table = Table(title=f"Trials, best first{f' ({more} more with --json)' if more > 0 else ''}", title_justify="left")
    table.add_column("trial", justify="right")
    for key in varied:
        table.add_column(key, justify="right", overflow="fold")
    for heading in ("best val\naccuracy", "test\naccuracy", "train\n- val", "seconds\n/ epoch"):
        # On a narrow terminal a heading may be broken, a number never.
        shortest = len("+0.0000" if heading.startswith("train") else "0.0000")
        table.add_column(heading, justify="right", overflow="fold", min_width=shortest)
    on_features = any(trial.cached_features for trial in trials)
    if on_features:
        table.add_column("ran on", overflow="fold", min_width=len("features"))
    all_complete = all(trial.state == "complete" for trial in trials)
    if not all_complete:
        table.add_column("state", overflow="fold")
    for trial in ranked[:SHOWN]:
        table.add_row(
            str(trial.number),
            *(trial.params.get(key, "") for key in varied),
            _number(trial.best_val_accuracy, ".4f"),
            _number(trial.test_accuracy, ".4f"),
            _number(trial.overfit_gap, "+.4f"),
            _number(trial.epoch_seconds, ".2f"),
            *(["features" if trial.cached_features else "images"] if on_features else []),
            *([] if all_complete else [trial.state]),
        )
    return table


def _number(value: float | None, style: str) -> str:
    return "" if value is None else format(value, style)


def _curves_page(comparison: Comparison) -> str:
    """The page of MLflow with the trials' curves of validation accuracy in one chart."""
    trials = [trial.run_id for trial in comparison.trials[:SHOWN]]
    query = {
        "runs": _listed(trials),
        "metric": quote('"val_accuracy"'),
        "experiments": _listed([comparison.experiment_id]),
        "plot_metric_keys": _listed(["val_accuracy"]),
        "x_axis": "step",
    }
    return f"{UI}/#/metric?{'&'.join(f'{key}={value}' for key, value in query.items())}"


def _listed(words: Sequence[str]) -> str:
    """A list as MLflow's pages take it in their address."""
    return quote("[" + ",".join(f'"{word}"' for word in words) + "]", safe="[],")
