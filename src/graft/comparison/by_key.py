"""`graft compare --by KEY`: what every value of a varied key came to, with intervals over the seeds."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from rich.table import Table

from graft.comparison.interval import Interval, interval
from graft.comparison.pairing import cells, difference
from graft.comparison.record import Comparison, TrialRow
from graft.comparison.varied import numbers, varied_keys
from graft.console import PlainConsole
from graft.errors import ConfigError
from graft.suggestions import did_you_mean

APART = ("seed", "trainable")
"""Keys that are compared otherwise: seeds make the intervals, and plain `graft compare` pairs the kinds of training."""


@dataclass(frozen=True)
class Level:
    """The complete trials of one kind that have one value of the key. Each seed counts once, as the mean of its trials.

    Attributes:
        kind: ``frozen`` or ``fine-tuned``.
        value: Of the key.
        trials: How many.
        test_accuracy: From 0 to 1, over the seeds.
        overfit_gap: Training minus validation accuracy at the best epoch, likewise.
        above_first: Test accuracy minus that of the first value of the kind, from trials that are equal in everything
            but the key, seed by seed; None for the first itself, and where there are no such trials.
        epoch_seconds_live: Median over the trials, as with the backbone run on every image.
    """

    kind: str
    value: str
    trials: int
    test_accuracy: Interval
    overfit_gap: Interval
    above_first: Interval | None
    epoch_seconds_live: float


@dataclass(frozen=True)
class ByKey:
    """What every value of a key came to.

    Attributes:
        key: As it is recorded: ``backbone.name`` for the group `backbone`.
        levels: One a kind of training and value: numbers ascending, everything else in the order of the sweep.
        left_out: Numbers of the trials that are not complete, and so in none of them.
        uneven: Whether some value was tried with other settings or seeds than another one, so that the accuracies of
            both say nothing of the key. The differences do.
    """

    key: str
    levels: tuple[Level, ...]
    left_out: tuple[int, ...]
    uneven: bool


def by_key(comparison: Comparison, key: str) -> ByKey:
    """Compares the values of `key`.

    Raises:
        ConfigError: if the sweep did not vary `key`, or no trial is complete.
    """
    complete = [trial for trial in comparison.trials if trial.complete and trial.kind]
    if not complete:
        raise ConfigError(f"--by {key}: no trial of {comparison.sweep} is complete")
    varied = [each for each in varied_keys(complete) if each not in APART]
    name = _recorded(key, varied)
    if name is None:
        allowed = f"allowed are the keys that it varied: {', '.join(varied)}" if varied else "it varied no other key"
        raise ConfigError(
            f"--by {key}: seeds make the intervals, and graft compare alone compares the kinds of training; {allowed}"
            if key in APART
            else f"--by {key}: {comparison.sweep} has not varied it; {allowed}{did_you_mean(key, varied)}"
        )
    rest = [each for each in varied if each != name]
    of_kind: dict[str, dict[str, list[TrialRow]]] = {"frozen": {}, "fine-tuned": {}}
    for trial in complete:
        of_kind[str(trial.kind)].setdefault(trial.params.get(name, ""), []).append(trial)
    levels, uneven = [], False
    for kind, by_value in of_kind.items():
        order = sorted(by_value, key=float) if numbers(complete, name) is not None else list(by_value)
        tried = {value: cells(by_value[value], rest) for value in order}
        uneven |= len({frozenset(each) for each in tried.values()}) > 1
        for value in order:
            above_first = None if value == order[0] else difference(tried[value], tried[order[0]])
            levels.append(_level(kind, value, by_value[value], above_first))
    left_out = tuple(trial.number for trial in comparison.trials if trial not in complete)
    return ByKey(name, tuple(levels), left_out, uneven)


def _recorded(key: str, varied: Sequence[str]) -> str | None:
    """The varied key that `key` means; a group is told by its name, or by the one thing in it that was varied."""
    inside = [each for each in varied if each.startswith(f"{key}.")]
    if key in varied:
        return key
    return f"{key}.name" if f"{key}.name" in inside else inside[0] if len(inside) == 1 else None


def _level(kind: str, value: str, trials: Sequence[TrialRow], above_first: Interval | None) -> Level:
    return Level(
        kind=kind,
        value=value,
        trials=len(trials),
        test_accuracy=interval(_by_seed(trials, lambda trial: trial.test_accuracy)),
        overfit_gap=interval(_by_seed(trials, lambda trial: trial.overfit_gap)),
        above_first=above_first,
        epoch_seconds_live=statistics.median(trial.epoch_seconds_live or 0.0 for trial in trials),
    )


def _by_seed(trials: Sequence[TrialRow], value: Callable[[TrialRow], float | None]) -> list[float]:
    seeds: dict[str, list[float]] = defaultdict(list)
    for trial in trials:
        if (measured := value(trial)) is not None:
            seeds[trial.params.get("seed", "")].append(measured)
    return [statistics.fmean(values) for values in seeds.values()]


def as_json(found: ByKey) -> dict[str, object]:
    """The same as plain data, for ``--json``."""
    return asdict(found)


def show(found: ByKey, console: PlainConsole) -> None:
    """Prints a table: means, with half the width of their 95 % interval where there are several seeds."""
    levels = found.levels
    several = len({level.kind for level in levels}) > 1
    seeds = max(level.test_accuracy.seeds for level in levels)
    table = Table(title=f"By {found.key}, means over {seeds} seed{'s' * (seeds > 1)}", title_justify="left")
    if several:
        table.add_column("")
    table.add_column(found.key, justify="right", overflow="fold")
    for heading in ("trials", "test accuracy", "minus the first", "train - val", "seconds an epoch\non images"):
        table.add_column(heading, justify="right")
    for level in levels:
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
    notes = [SEVERAL_SEEDS if seeds > 1 else ONE_SEED]
    if found.uneven:
        notes.append(UNEVEN)
    if found.left_out:
        numbered = ", ".join(map(str, found.left_out[:NAMED])) + (", …" if len(found.left_out) > NAMED else "")
        notes.append(f"Not in it, as they are not complete: {len(found.left_out)} trials ({numbered}).")
    for note in notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)


SEVERAL_SEEDS = (
    "± is half of the 95 % interval (Student t over the seeds). A difference is from trials equal in all else, "
    "seed by seed."
)
ONE_SEED = "One seed gives no interval; seed=0,1,2,3,4 does. A difference is from trials equal in all else."
UNEVEN = (
    "The values were not tried with the same settings and seeds, so their accuracies tell more than the key: compare "
    "the differences, and where there is none, nothing."
)
NAMED = 10


def _told(value: Interval, style: str) -> str:
    half = "" if value.low is None else f" ± {value.mean - value.low:.4f}"
    return f"{value.mean:{style}}{half}"
