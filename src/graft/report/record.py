"""What the report is made of: the comparison, every trial's curve, and the confusion of the best one."""

from __future__ import annotations

import itertools
import json
import logging
import tempfile
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from graft.comparison import Comparison, TrialRow
from graft.comparison.contrast import Contrast, contrast
from graft.comparison.interval import SAME
from graft.comparison.record import MOST
from graft.comparison.varied import varied_keys
from graft.errors import FatalError
from graft.loop.result import Confusion
from graft.recording import CONFUSION
from graft.tracking.mlflow_store import Store

log = logging.getLogger(__name__)

NOT_CONTRASTED = ("trainable", "seed", "dataset.split_seed")  # no value of a seed is better than another


@dataclass(frozen=True)
class Curve:
    """Accuracies of a trial by epoch, from 0 to 1; the first epoch is 0."""

    train: tuple[float, ...]
    val: tuple[float, ...]

    def epochs_to(self, accuracy: float) -> int | None:
        """How many epochs it took to a validation accuracy of at least `accuracy`; None if it was not reached.

        They are recorded as float32: 0.95999998 is 0.96.
        """
        epoch = bisect_left(self.best_so_far, accuracy - SAME)
        return epoch + 1 if epoch < len(self.best_so_far) else None

    @cached_property
    def best_so_far(self) -> tuple[float, ...]:
        """The highest validation accuracy up to each epoch."""
        return tuple(itertools.accumulate(self.val, max))

    @property
    def best_is_last(self) -> bool:
        """Whether no epoch before the last one was as good on the validation images."""
        return max(self.val[:-1], default=-1.0) < self.val[-1]


@dataclass(frozen=True)
class SweepRecord:
    """A sweep with everything that its report shows.

    Attributes:
        comparison: The trials and what came out.
        curves: By trial number; of trials that recorded an epoch.
        class_names, confusion: Of the best trial on the test split; empty and None if they were not recorded.
    """

    comparison: Comparison
    curves: Mapping[int, Curve]
    class_names: tuple[str, ...]
    confusion: Confusion | None

    @property
    def trials(self) -> tuple[TrialRow, ...]:
        return self.comparison.trials

    @cached_property
    def complete(self) -> tuple[TrialRow, ...]:
        """The trials that were trained to their end."""
        return tuple(trial for trial in self.trials if trial.complete)

    @property
    def kinds(self) -> tuple[str, ...]:
        """`frozen` and `fine-tuned`, as far as there are complete trials of them."""
        return tuple(kind for kind in ("frozen", "fine-tuned") if any(trial.kind == kind for trial in self.complete))

    @cached_property
    def varied(self) -> tuple[str, ...]:
        return varied_keys(self.trials)

    @cached_property
    def contrasts(self) -> Mapping[str, Mapping[str, Contrast]]:
        """The values of each key that was varied besides, set side by side for each kind of training on its own."""
        found = {
            key: {kind: each for kind in self.kinds if (each := contrast(self.of_kind(kind), key))}
            for key in self.varied
            if key not in NOT_CONTRASTED
        }
        return {key: of_kinds for key, of_kinds in found.items() if of_kinds}

    def of_kind(self, kind: str | None) -> list[TrialRow]:
        """The complete trials of a kind."""
        return [trial for trial in self.complete if trial.kind == kind]

    def best_so_far(self, number: int) -> tuple[float, ...]:
        """The highest validation accuracy of a trial up to each epoch; empty if it recorded none."""
        return self.curves[number].best_so_far if number in self.curves else ()

    def everywhere(self, key: str) -> str | None:
        """The value of a param, if all trials have the same."""
        found = {trial.params[key] for trial in self.trials if key in trial.params}
        return found.pop() if len(found) == 1 else None


def collect(store: Store, comparison: Comparison) -> SweepRecord:
    """Reads what the comparison leaves out."""
    curves = {
        trial.number: curve for trial in comparison.trials if (curve := _curve(store, trial)) and len(curve.val) > 0
    }
    class_names, confusion = _confusion(store, comparison.best)
    return SweepRecord(comparison, curves, class_names, confusion)


def _curve(store: Store, trial: TrialRow) -> Curve | None:
    if not trial.params:  # it failed before it began
        return None
    train, val = (_by_epoch(store, trial, f"{split}_accuracy") for split in ("train", "val"))
    epochs = min(len(train), len(val))  # a process may have died between the two
    if not all(0 <= accuracy <= 1 for accuracy in (*train[:epochs], *val[:epochs])):  # it was edited
        return None
    return Curve(tuple(train[:epochs]), tuple(val[:epochs]))


def _by_epoch(store: Store, trial: TrialRow, name: str) -> Sequence[float]:
    values = {metric.step: metric.value for metric in store.client.get_metric_history(trial.run_id, name)}
    return [values[step] for step in sorted(values)]


def _confusion(store: Store, best: TrialRow | None) -> tuple[tuple[str, ...], Confusion | None]:
    if best is None:
        return (), None
    with tempfile.TemporaryDirectory() as folder:
        try:
            recorded = json.loads(store.artifact(best.run_id, CONFUSION, Path(folder)).read_text(encoding="utf-8"))
            names = tuple(str(name) for name in recorded["class_names"])
            counts = tuple(tuple(int(count) for count in row) for row in recorded["counts"])
        except (FatalError, OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            log.debug("No confusion of trial %d: %s", best.number, error)
            return (), None
    if not all(0 <= count <= MOST for row in counts for count in row):  # it was edited
        return (), None
    square = len(counts) == len(names) and all(len(row) == len(names) for row in counts)
    return (names, counts) if square and names else ((), None)
