"""A space in Optuna's terms: how a sampled key is suggested, and which distribution holds the values of a grid key."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from graft.sweep.space import Choices, Plain, Sampled, Value

MANY_CHOICES = 100
"""A categorical distribution is stored with every trial; longer ones would make storages quadratic."""


def suggest(trial: optuna.Trial, key: str, part: Sampled) -> Plain:
    """Has a trial's sampler choose a value for a sampled key; one that it has already is kept."""
    if isinstance(part, Choices):
        return trial.suggest_categorical(key, part.handles)
    if part.kind == "int":
        step = 1 if part.step is None else int(part.step)
        return trial.suggest_int(key, int(part.low), int(part.high), log=part.log, step=step)
    return trial.suggest_float(key, part.low, part.high, log=part.log, step=part.step)


def grid_distribution(values: Sequence[Plain]) -> BaseDistribution | None:
    """A distribution that holds all values of a grid key, as short as it can be; None if none can."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(values):
        if all(isinstance(v, int) for v in numbers):
            return IntDistribution(int(min(numbers)), int(max(numbers)))
        return FloatDistribution(float(min(numbers)), float(max(numbers)))
    return CategoricalDistribution(list(values)) if len(values) <= MANY_CHOICES else None


def grid_param(value: Value, distribution: BaseDistribution) -> Plain:
    """A grid's value as the parameter of a trial with this distribution."""
    return float(value.plain) if isinstance(distribution, FloatDistribution) else value.plain  # type: ignore[arg-type]
