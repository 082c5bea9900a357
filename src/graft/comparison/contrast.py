"""Which value of a key did best, and how sure it is that it beats another one: pairs as for the kinds of training."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from graft.comparison.interval import METHOD, SAME, Interval
from graft.comparison.pairing import ABOUT_THE_RECORD, Trial, cells, difference

MANY = 12  # values, from which a key was rather sampled than listed


@dataclass(frozen=True)
class Contrast:
    """The value of a key with the best median test accuracy, beside the lowest value.

    Attributes:
        key: What was varied.
        best, other: Values as they were recorded; `other` is the second best where the lowest is the best.
        best_median, other_median: Of the test accuracy.
        values: How many there are.
        interval: Of the paired difference, best minus other; None without a pair.
    """

    key: str
    best: str
    other: str
    best_median: float
    other_median: float
    values: int
    interval: Interval | None

    def told(self) -> str:
        """In a sentence or two."""
        same = abs(self.best_median - self.other_median) < SAME
        ahead = (
            f"{self.best} and {self.other} gave the same median test accuracy, {self.best_median:.4f}"
            if same
            else f"{self.best} gave the best median test accuracy, {self.best_median:.4f} against "
            f"{self.other_median:.4f} at {self.other}"
        )
        return f"{ahead}; {self._how_sure()}."

    def _how_sure(self) -> str:
        found = self.interval
        if found is None:
            return "no pairs, and so no interval"
        difference = f"paired difference {found.mean:+.4f}"
        if found.low is None or found.high is None:
            why = "one seed" if found.seeds == 1 else f"{found.seeds} seeds that gave the same"
            return f"{difference}, from {why}, and so no interval"
        text = f"{difference}, 95 % interval {found.low:+.4f} to {found.high:+.4f} ({METHOD}, {found.seeds} seeds)"
        text += ", which holds 0: no clear difference" if not found.sign else ""
        if found.sign and self.values > 2:
            text += f"; picking the best of {self.values} flatters it"
        return text


def contrast(trials: Sequence[Trial], key: str) -> Contrast | None:
    """Compares the values of `key` over complete trials of one kind; None unless they are a few numbers."""
    by_value: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        if key in trial.params:
            by_value[trial.params[key]].append(trial)
    try:
        ordered = sorted(by_value, key=float)
    except ValueError:
        return None
    if not 2 <= len(ordered) <= MANY:
        return None
    medians = {value: statistics.median(trial.test_accuracy or 0.0 for trial in by_value[value]) for value in ordered}
    ranked = sorted(ordered, key=lambda value: -medians[value])
    best = next(value for value in ordered if medians[ranked[0]] - medians[value] < SAME)  # of equal ones the lowest
    other = ordered[0] if best != ordered[0] else next(value for value in ranked if value != best)
    found = _interval(by_value[best], by_value[other], key)
    return Contrast(key, best, other, medians[best], medians[other], len(ordered), found)


def _interval(best: Sequence[Trial], other: Sequence[Trial], key: str) -> Interval | None:
    everything = {each for trial in (*best, *other) for each in trial.params}
    rest = sorted(each for each in everything - {key, "seed"} if not each.startswith(ABOUT_THE_RECORD))
    return difference(cells(best, rest), cells(other, rest))
