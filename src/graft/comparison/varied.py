"""What a sweep varied, as its params tell: without what only follows from something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graft.comparison.pairing import ABOUT_THE_RECORD, DEFAULTS, follows_default
from graft.comparison.record import TrialRow

LEAST, MOST = 1e-100, 1e100
FIRST = ("trainable", "learning_rate", "head_width", "dropout_rate", "backbone.name", "dataset.name", "optimizer.name")


def varied_keys(trials: Sequence[TrialRow]) -> tuple[str, ...]:
    """Keys with several values, the knobs first and `seed` last.

    What lies in a group, such as ``backbone.url``, is left out where the group's name decides it, and so is a learning
    rate that follows `trainable`.
    """
    told = [trial for trial in trials if trial.params]  # one that failed at once has none
    values = {
        key: [trial.params.get(key, "") for trial in told]
        for key in sorted({key for trial in told for key in trial.params})
        if not key.startswith((DEFAULTS, *ABOUT_THE_RECORD))
    }
    varied = {key for key, each in values.items() if len(set(each)) > 1}
    if follows_default([trial for trial in told if trial.kind]):
        varied.discard("learning_rate")
    kept = [key for key in varied if not _decided_by_name(key, values, varied)]
    order = {key: place for place, key in enumerate(FIRST)}
    return tuple(sorted(kept, key=lambda key: (key == "seed", order.get(key, len(FIRST)), key)))


def numbers(trials: Sequence[TrialRow], key: str) -> list[float] | None:
    """The values of a key as numbers, one a trial; None if one of them is none."""
    try:
        found = [float(trial.params[key]) for trial in trials]
    except (KeyError, ValueError):
        return None
    # Others, as of a run that was edited, have no place on an axis.
    return found if all(value == 0 or LEAST <= abs(value) <= MOST for value in found) else None


def _decided_by_name(key: str, values: Mapping[str, Sequence[str]], varied: set[str]) -> bool:
    group, _, leaf = key.rpartition(".")
    name = f"{group}.name"
    if not group or leaf == "name" or name not in varied:
        return False
    return len(set(zip(values[name], values[key], strict=True))) == len(set(values[name]))
