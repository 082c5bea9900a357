"""Two recorded curves, number by number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from graft.loop.result import EPOCH_METRICS

Metrics = Mapping[str, Mapping[int, float]]

SPEED = "images_per_second"
LIVE = "epoch_seconds_live"


@dataclass(frozen=True)
class Number:
    """A recorded number and the one that the rerun gave.

    Attributes:
        metric: Its name.
        epoch: From 0; None for what a run has once.
        recorded: Then.
        rerun: Now; None if the rerun has none.
    """

    metric: str
    epoch: int | None
    recorded: float
    rerun: float | None

    @property
    def equal(self) -> bool:
        """Whether they are the same to the last bit."""
        return self.rerun is not None and self.recorded.hex() == self.rerun.hex()  # tells -0 from 0, and knows NaN

    def __str__(self) -> str:
        where = "" if self.epoch is None else f" of epoch {self.epoch}"
        now = "is missing" if self.rerun is None else f"{self.rerun!r} now"
        return f"{self.metric}{where}: {self.recorded!r} recorded, {now}"


@dataclass(frozen=True)
class Numbers:
    """All recorded numbers, times aside, in the order in which they came.

    Attributes:
        all: Epoch by epoch, then what a run has once.
    """

    all: tuple[Number, ...]

    @property
    def epochs(self) -> int:
        """How many epochs were compared."""
        return len({number.epoch for number in self.all} - {None})

    @property
    def differing(self) -> tuple[Number, ...]:
        """Those that are not the same, the first one first."""
        return tuple(number for number in self.all if not number.equal)

    @property
    def exact(self) -> bool:
        """Whether all are the same. Where nothing was recorded, nothing is proved."""
        return bool(self.all) and not self.differing


def compare(recorded: Metrics, rerun: Metrics, *, whole: bool) -> Numbers:
    """Sets every recorded number beside the rerun's.

    Args:
        recorded: By name and epoch; what a run has once is at step 0.
        rerun: Likewise. What it has beyond `recorded` is not looked at.
        whole: Whether the recorded run came to its end; otherwise its epochs are all that can be compared.
    """
    return Numbers(tuple(_numbers(recorded, rerun, whole)))


def is_time(metric: str) -> bool:
    """Whether a metric says how long something took, or what the machine was like, which no rerun can promise."""
    return metric.endswith("_seconds") or metric in (SPEED, LIVE) or metric.startswith("system/")


def _numbers(recorded: Metrics, rerun: Metrics, whole: bool) -> Iterator[Number]:
    of_epochs = [name for name in EPOCH_METRICS if name in recorded and not is_time(name)]
    for epoch in sorted({epoch for name in of_epochs for epoch in recorded[name]}):
        for name in of_epochs:
            if epoch in recorded[name]:
                yield Number(name, epoch, recorded[name][epoch], rerun.get(name, {}).get(epoch))
    if whole:
        for name in sorted(name for name in recorded if name not in EPOCH_METRICS and not is_time(name)):
            for step, value in recorded[name].items():
                yield Number(name, None, value, rerun.get(name, {}).get(step))
