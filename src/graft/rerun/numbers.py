"""Two recorded curves, number by number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from graft.loop.result import ALWAYS_RECORDED, EPOCH_METRICS
from graft.tracking.recorded_run import RecordedRun

Metrics = Mapping[str, Mapping[int, float]]

SPEED = "images_per_second"
LIVE = "epoch_seconds_live"


@dataclass(frozen=True)
class Number:
    """A recorded number and the one that the rerun gave.

    Attributes:
        metric: Its name.
        epoch: From 0; None for what a run has once.
        recorded: Then; None where the rerun went on for an epoch that the recorded run does not have.
        rerun: Now; None if the rerun has none.
    """

    metric: str
    epoch: int | None
    recorded: float | None
    rerun: float | None

    @property
    def equal(self) -> bool:
        """Whether they are the same to the last bit."""
        if self.recorded is None or self.rerun is None:
            return False
        return self.recorded.hex() == self.rerun.hex()  # tells -0 from 0, and knows NaN

    def __str__(self) -> str:
        where = "" if self.epoch is None else f" of epoch {self.epoch}"
        then = "none" if self.recorded is None else repr(self.recorded)
        now = "none now" if self.rerun is None else f"{self.rerun!r} now"
        return f"{self.metric}{where}: {then} recorded, {now}"


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


def compare(recorded: Metrics, rerun: Metrics, *, ended: bool, whole: bool) -> Numbers:
    """Sets every recorded number beside the rerun's.

    Args:
        recorded: By name and epoch; what a run has once is at step 0.
        rerun: Likewise. Metrics that the recorded run does not know are not looked at.
        ended: Whether the recorded run ended by itself, so that the rerun must not have further epochs.
        whole: Whether what a run has once is compared, too.
    """
    return Numbers(tuple(_numbers(recorded, rerun, ended, whole)))


def flaws(run: RecordedRun) -> list[str]:
    """What is missing in the record of a run or contradicts itself, in words: then no rerun can prove anything."""
    found = list(run.contradictions)
    of_epochs = [name for name in EPOCH_METRICS if not is_time(name)]
    epochs = range(max((step + 1 for name in of_epochs for step in run.metrics.get(name, {})), default=0))
    found += [
        f"{name} of epoch {e} is missing" for e in epochs for name in of_epochs if e not in run.metrics.get(name, {})
    ]
    if run.state == "complete":
        found += [f"{name} is missing" for name in ALWAYS_RECORDED if name not in run.metrics]
        found += [] if epochs else ["every epoch is missing"]
    if run.state == "failed" and "graft.failure" not in run.tags:
        found.append("the tag graft.failure is missing")
    if run.state == "running" and run.status != "RUNNING":
        found.append(f"it ended as {run.status}, and the tag graft.state is missing")
    return found


def is_time(metric: str) -> bool:
    """Whether a metric says how long something took, or what the machine was like, which no rerun can promise."""
    return metric.endswith("_seconds") or metric in (SPEED, LIVE) or metric.startswith("system/")


def _numbers(recorded: Metrics, rerun: Metrics, ended: bool, whole: bool) -> Iterator[Number]:
    of_epochs = [name for name in EPOCH_METRICS if name in recorded and not is_time(name)]
    both = (recorded, rerun) if ended else (recorded,)
    for epoch in sorted({epoch for metrics in both for name in of_epochs for epoch in metrics.get(name, {})}):
        for name in of_epochs:
            if any(epoch in metrics.get(name, {}) for metrics in both):
                yield Number(name, epoch, recorded[name].get(epoch), rerun.get(name, {}).get(epoch))
    if whole:
        for name in sorted(name for name in recorded if name not in EPOCH_METRICS and not is_time(name)):
            for step, value in recorded[name].items():
                yield Number(name, None, value, rerun.get(name, {}).get(step))
