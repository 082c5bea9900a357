"""Pairs of a frozen and a fine-tuned trial that are equal in everything else.

What follows from `trainable` breaks no pair: a learning rate that was left to its default, and a head that was trained
before fine-tuning, which a frozen backbone cannot have.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from graft.comparison.interval import Interval, interval

DEFAULTS = "default_learning_rates."
DEFAULT_OF = {"frozen": f"{DEFAULTS}frozen", "fine-tuned": f"{DEFAULTS}finetuned"}
APART = ("trainable", "seed")
ABOUT_THE_RECORD = ("tracking.", "loop.log_every", "features.memory_budget_mb")

Setting = tuple[tuple[str, str], ...]
Cell = tuple[str, Setting]
"""A seed, and a value of each of some keys."""


class Trial(Protocol):
    """What is paired: a complete trial."""

    @property
    def number(self) -> int: ...
    @property
    def params(self) -> Mapping[str, str]: ...
    @property
    def kind(self) -> str | None: ...
    @property
    def test_accuracy(self) -> float | None: ...


@dataclass(frozen=True)
class Pair:
    """Trials of the same seed and setting.

    Attributes:
        seed: As it was recorded.
        setting: What is varied besides `trainable`, `seed` and what follows from them.
        frozen, finetuned: Numbers of the trials; several where a configuration was run more than once.
        difference: Test accuracy fine-tuned minus frozen.
    """

    seed: str
    setting: Mapping[str, str]
    frozen: tuple[int, ...]
    finetuned: tuple[int, ...]
    difference: float


@dataclass(frozen=True)
class Pairing:
    """What a sweep has in pairs.

    Attributes:
        pairs: Every seed with the same settings, so that no seed weighs its own.
        left_out: Numbers of complete trials that are in none of them.
        aside: What else differs between the two kinds and is seen as part of them: key to (frozen, fine-tuned).
        differing: Keys that keep trials from being paired, where there is no pair.
    """

    pairs: tuple[Pair, ...]
    left_out: tuple[int, ...]
    aside: Mapping[str, tuple[str, str]]
    differing: tuple[str, ...]

    @property
    def by_seed(self) -> dict[str, float]:
        """The difference of each seed, the mean over the settings."""
        found: dict[str, list[float]] = defaultdict(list)
        for each in self.pairs:
            found[each.seed].append(each.difference)
        return {seed: statistics.fmean(found[seed]) for seed in sorted(found, key=_as_number)}

    @property
    def settings(self) -> int:
        """How many settings every seed was run with."""
        return len({tuple(each.setting.items()) for each in self.pairs})

    @property
    def interval(self) -> Interval | None:
        """The mean difference and how sure it is; None without a pair."""
        return interval(list(self.by_seed.values())) if self.pairs else None


def pair(trials: Sequence[Trial]) -> Pairing:
    """Pairs the complete trials of a sweep."""
    by_kind = {kind: [trial for trial in trials if trial.kind == kind] for kind in DEFAULT_OF}
    if not all(by_kind.values()):
        return Pairing((), (), {}, ())
    aside = _aside(by_kind)
    varied = _varied([trial for of_kind in by_kind.values() for trial in of_kind], aside)
    cells: dict[Cell, dict[str, list[Trial]]] = defaultdict(lambda: {kind: [] for kind in DEFAULT_OF})
    for kind, of_kind in by_kind.items():
        for trial in of_kind:
            setting = tuple((key, trial.params.get(key, "")) for key in varied)
            cells[trial.params.get("seed", ""), setting][kind].append(trial)
    whole = balanced({cell for cell, members in cells.items() if all(members.values())})
    pairs = [_pair(seed, setting, cells[seed, setting]) for seed, setting in whole]
    paired = {number for each in pairs for number in (*each.frozen, *each.finetuned)}
    left_out = [trial.number for of_kind in by_kind.values() for trial in of_kind if trial.number not in paired]
    differing = () if pairs else _differing(by_kind, varied)
    return Pairing(tuple(pairs), tuple(sorted(left_out)), aside, differing)


def _pair(seed: str, setting: Setting, members: Mapping[str, Sequence[Trial]]) -> Pair:
    means = {kind: statistics.fmean(trial.test_accuracy or 0.0 for trial in each) for kind, each in members.items()}
    numbers = {kind: tuple(trial.number for trial in each) for kind, each in members.items()}
    difference = means["fine-tuned"] - means["frozen"]
    return Pair(seed, dict(setting), numbers["frozen"], numbers["fine-tuned"], difference)


def balanced(cells: set[Cell]) -> list[Cell]:
    """The cells without the seeds and settings that lack most, until every seed has every setting.

    Differences of seeds with unlike settings could not be told from the differences between settings.
    """
    while True:
        seeds, settings = {seed for seed, _ in cells}, {setting for _, setting in cells}
        if len(cells) == len(seeds) * len(settings):
            return sorted(cells, key=lambda cell: (_as_number(cell[0]), cell[1]))
        lacking_seed = {seed: 1 - sum(cell[0] == seed for cell in cells) / len(settings) for seed in seeds}
        lacking_setting = {which: 1 - sum(cell[1] == which for cell in cells) / len(seeds) for which in settings}
        worst_seed = max(sorted(lacking_seed), key=lambda seed: lacking_seed[seed])
        worst_setting = max(sorted(lacking_setting), key=lambda which: lacking_setting[which])
        if lacking_seed[worst_seed] > lacking_setting[worst_setting]:
            cells = {cell for cell in cells if cell[0] != worst_seed}
        else:  # on a draw the seeds stay: the interval is over them
            cells = {cell for cell in cells if cell[1] != worst_setting}


def cells(trials: Sequence[Trial], keys: Sequence[str]) -> dict[Cell, float]:
    """Test accuracies by seed and by the values of `keys`; of trials that are equal in these the mean."""
    found: dict[Cell, list[float]] = defaultdict(list)
    for trial in trials:
        setting = tuple((key, trial.params.get(key, "")) for key in keys)
        found[trial.params.get("seed", ""), setting].append(trial.test_accuracy or 0.0)
    return {cell: statistics.fmean(values) for cell, values in found.items()}


def difference(ours: Mapping[Cell, float], theirs: Mapping[Cell, float]) -> Interval | None:
    """Our test accuracy minus theirs, over the seeds that share the same settings; None where there are none."""
    by_seed: dict[str, list[float]] = defaultdict(list)
    for cell in balanced(set(ours) & set(theirs)):
        by_seed[cell[0]].append(ours[cell] - theirs[cell])
    return interval([statistics.fmean(each) for each in by_seed.values()]) if by_seed else None


def follows_default(trials: Sequence[Trial]) -> bool:
    """Whether every trial has the learning rate that its kind has by default."""
    return all(
        trial.kind is not None and trial.params.get("learning_rate") == trial.params.get(DEFAULT_OF[trial.kind], "")
        for trial in trials
    )


def _aside(by_kind: Mapping[str, Sequence[Trial]]) -> dict[str, tuple[str, str]]:
    aside: dict[str, tuple[str, str]] = {}
    everything = [trial for of_kind in by_kind.values() for trial in of_kind]
    for key in ("learning_rate", "init_head"):
        values = ({trial.params.get(key, "") for trial in of_kind} for of_kind in by_kind.values())
        found = [sorted(each, key=_as_number) for each in values]
        by_default = key == "learning_rate" and follows_default(everything)
        # Also one that was chosen for each kind: no frozen trial has the other's, to be paired by it.
        one_each = all(len(each) == 1 for each in found)
        if by_default or (one_each and found[0] != found[1]):
            aside[key] = (", ".join(found[0]), ", ".join(found[1]))
    return aside


def _varied(trials: Sequence[Trial], aside: Mapping[str, object]) -> list[str]:
    keys = sorted({key for trial in trials for key in trial.params} - {*aside, *APART})
    keys = [key for key in keys if not key.startswith(ABOUT_THE_RECORD)]
    return [key for key in keys if len({trial.params.get(key, "") for trial in trials}) > 1]


def _differing(by_kind: Mapping[str, Sequence[Trial]], varied: Sequence[str]) -> tuple[str, ...]:
    """The keys of which no value is in both kinds; all varied ones where each for itself has such values."""
    values = {key: [{trial.params.get(key, "") for trial in of_kind} for of_kind in by_kind.values()] for key in varied}
    apart = [key for key, (frozen, finetuned) in values.items() if not frozen & finetuned]
    seeds = [{trial.params.get("seed", "") for trial in of_kind} for of_kind in by_kind.values()]
    return tuple(apart or ([] if seeds[0] & seeds[1] else ["seed"]) or varied)


def _as_number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text
