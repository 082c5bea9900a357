"""How sure a mean difference is: Student's t over the seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit  # scipy.stats has the same, and takes a second to import

METHOD = "paired Student t over seeds"
CONFIDENCE = 0.95
SAME = 1e-6  # accuracies are recorded as float32: what is closer together is equal


@dataclass(frozen=True)
class Interval:
    """A mean of paired differences, with its 95 % confidence interval.

    Attributes:
        mean: Over the seeds.
        seeds: How many there are.
        low, high: The ends of the interval; None where there is none.
        why_none: Why there is none: ``one seed``, or ``no spread`` where every seed gave the same difference, from
            which no spread can be estimated.
    """

    mean: float
    seeds: int
    low: float | None = None
    high: float | None = None
    why_none: str | None = None

    @property
    def sign(self) -> int:
        """1 if the whole interval lies above 0, -1 if below, 0 if it holds 0 or there is none."""
        if self.low is None or self.high is None:
            return 0
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def interval(differences: Sequence[float]) -> Interval:
    """The interval of the mean of independent differences, one a seed: mean ± t(0.975, n - 1) · s / √n."""
    mean, seeds = statistics.fmean(differences), len(differences)
    if seeds < 2:
        return Interval(mean, seeds, why_none="one seed")
    spread = statistics.stdev(differences)
    if spread < SAME:
        return Interval(mean, seeds, why_none="no spread")
    half = float(stdtrit(seeds - 1, (1 + CONFIDENCE) / 2)) * spread / math.sqrt(seeds)
    return Interval(mean, seeds, mean - half, mean + half)
