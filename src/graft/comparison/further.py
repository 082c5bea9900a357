"""The sweep to type next: what this one was given, with both kinds of training and more seeds."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from graft.again import python
from graft.comparison.record import Comparison, TrialRow

BOTH_KINDS = "trainable=true,false"
MORE_SEEDS = "seed=0,1,2,3,4"
MANY = 6  # values of a key, from which it was rather sampled than listed
OF_ONE_KIND = ("learning_rate", "init_head")
"""What suits one kind of training only, and is not handed on to the other, which has seen no value of it."""


def further_sweep(comparison: Comparison) -> str:
    """The command of a new sweep with the settings of this one, trained frozen and fine-tuned, with five seeds.

    A key with a few values keeps them all; of one that was sampled the best trial's is taken.
    """
    words = [BOTH_KINDS, *_settings(comparison), MORE_SEEDS]
    return f"{python()} train.py -m {shlex.join(words)}"


def dropped(comparison: Comparison) -> tuple[str, ...]:
    """The keys that were set and are left to their default in `further_sweep`, as only one kind was trained."""
    return tuple(key for key in OF_ONE_KIND if _one_kind(comparison) and key in _values(comparison))


def _settings(comparison: Comparison) -> list[str]:
    without = {"trainable", "seed", *dropped(comparison)}
    best = comparison.best
    words: list[str] = []
    for key, texts in _values(comparison).items():
        if key.lstrip("+~") in without:
            continue
        values = list(dict.fromkeys(texts))
        if len(values) > MANY and best is not None:
            values = _read([best]).get(key, values[:1])
        words.append(f"{key}={','.join(values)}" if values != [""] or not key.startswith("~") else key)
    return words


def _values(comparison: Comparison) -> dict[str, list[str]]:
    complete = [trial for trial in comparison.trials if trial.complete]
    return _read(complete or comparison.trials)


def _read(trials: Sequence[TrialRow]) -> dict[str, list[str]]:
    """What was given for each key, in the order of the command, one a trial that was given it."""
    found: dict[str, list[str]] = {}
    for trial in trials:
        for word in trial.overrides:
            key, _, value = word.partition("=")
            found.setdefault(key, []).append(value)
    return found


def _one_kind(comparison: Comparison) -> bool:
    return len({trial.kind for trial in comparison.trials if trial.complete}) < 2
