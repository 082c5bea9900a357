"""`graft compare --by KEY`: what every value of a varied key came to, with intervals over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

from rich.console import Console
from rich.table import Table

from graft.comparison.interval import Interval, interval
from graft.comparison.record import Comparison, TrialRow
from graft.comparison.varied import numbers, varied_keys
from graft.errors import ConfigError
from graft.suggestions import did_you_mean

SEVERAL_SEEDS = "± is half of the 95 % interval (Student t over the seeds); a difference is paired, seed by seed."
ONE_SEED = "One seed gives no interval; seed=0,1,2,3,4 does."


@dataclass(frozen=True)
class Level:
    """The complete trials of one kind that have one value of the key. Each seed counts once, as the mean of its trials.

    Attributes:
        kind: ``frozen`` or ``fine-tuned``.
        value: Of the key.
        trials: How many.
        test_accuracy: From 0 to 1, over the seeds.
        overfit_gap: Training minus validation accuracy at the best epoch, likewise.
        above_first: Test accuracy minus that of the first value of the kind, seed by seed; None for the first itself,
            and where the two have no seed in common.
        epoch_seconds_live: Median over the trials, as with the backbone run on every image.
    """

    kind: str
    value: str
    trials: int
    test_accuracy: Interval
    overfit_gap: Interval
    above_first: Interval | None
    epoch_seconds_live: float


def levels(comparison: Comparison, key: str) -> tuple[Level, ...]:
    """One a kind of training and value of `key`: numbers ascending, everything else in the order of the sweep.

    Raises:
        ConfigError: if the sweep did not vary `key`, or no trial is complete.
    """
    complete = [trial for trial in comparison.trials if trial.complete and trial.kind]
    if not complete:
        raise ConfigError(f"--by {key}: no trial of {comparison.sweep} is complete")
    # A group is told by its name: `--by backbone` means `backbone.name`.
    name = key if any(key in trial.params for trial in complete) else f"{key}.name"
    varied = tuple(each for each in varied_keys(complete) if each != "seed")
    if len({trial.params.get(name) for trial in complete}) < 2:
        allowed = (
            f"allowed are the keys that it varied: {', '.join(varied)}" if varied else "it varied no key but the seed"
        )
        raise ConfigError(f"--by {key}: {comparison.sweep} has not varied it; {allowed}{did_you_mean(key, varied)}")
    in_order = list(dict.fromkeys(trial.params.get(name, "") for trial in complete))
    if numbers(complete, name) is not None:
        in_order.sort(key=float)
    place = {value: number for number, value in enumerate(in_order)}
    complete.sort(key=lambda trial: (trial.kind != "frozen", place[trial.params.get(name, "")]))
    found: list[Level] = []
    for kind, of_kind in groupby(complete, key=lambda trial: trial.kind):
        first: dict[str, float] | None = None
        for value, group in groupby(of_kind, key=lambda trial: trial.params.get(name, "")):
            trials = list(group)
            accuracies = _by_seed(trials, lambda trial: trial.test_accuracy)
            found.append(
                Level(
                    kind=str(kind),
                    value=value,
                    trials=len(trials),
                    test_accuracy=interval(list(accuracies.values())),
                    overfit_gap=interval(list(_by_seed(trials, lambda trial: trial.overfit_gap).values())),
                    above_first=_above(accuracies, first),
                    epoch_seconds_live=statistics.median(trial.epoch_seconds_live or 0.0 for trial in trials),
                )
            )
            first = first or accuracies
    return tuple(found)


def as_json(found: Sequence[Level]) -> list[dict[str, object]]:
    """The levels for ``--json``."""
    return [asdict(level) for level in found]


def show(found: Sequence[Level], key: str, console: Console) -> None:
    """Prints a table: means, with half the width of their 95 % interval where there are several seeds."""
    several = len({level.kind for level in found}) > 1
    seeds = max(level.test_accuracy.seeds for level in found)
    table = Table(title=f"By {key}, means over {seeds} seed{'s' * (seeds > 1)}", title_justify="left")
    if several:
        table.add_column("")
    table.add_column(key, justify="right")
    for heading in ("trials", "test accuracy", "minus the first", "train - val", "seconds an epoch\non images"):
        table.add_column(heading, justify="right")
    for level in found:
        table.add_row(
            *([level.kind] if several else []),
            level.value,
            str(level.trials),
            _told(level.test_accuracy, ".4f"),
            "" if level.above_first is None else _told(level.above_first, "+.4f"),
            _told(level.overfit_gap, "+.4f"),
            f"{level.epoch_seconds_live:.2f}",
        )
    console.print(table)
    console.print(SEVERAL_SEEDS if seeds > 1 else ONE_SEED, highlight=False, markup=False, soft_wrap=True)


def _by_seed(trials: Sequence[TrialRow], value: Callable[[TrialRow], float | None]) -> dict[str, float]:
    seeds: dict[str, list[float]] = {}
    for trial in trials:
        if (measured := value(trial)) is not None:
            seeds.setdefault(trial.params.get("seed", ""), []).append(measured)
    return {seed: statistics.fmean(values) for seed, values in seeds.items()}


def _above(accuracies: dict[str, float], first: dict[str, float] | None) -> Interval | None:
    shared = [] if first is None else [accuracies[seed] - first[seed] for seed in accuracies if seed in first]
    return interval(shared) if shared else None


def _told(value: Interval, style: str) -> str:
    half = "" if value.low is None else f" ± {value.mean - value.low:.4f}"
    return f"{value.mean:{style}}{half}"
