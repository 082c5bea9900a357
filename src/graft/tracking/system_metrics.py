"""What the machine does while a run trains: `tracking.system_metrics=true`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from graft.sweep.devices import gpu_use
from graft.tracking.recorder import Recorder, Scalar, State

MEBIBYTE = 1 << 20
EVERY_SECONDS = 5.0
CPU = "system/cpu_utilization_percentage"


class SystemMetricsRecorder(Recorder):
    """Samples the machine whenever something is recorded, at most every five seconds.

    The names are MLflow's, whose pages show them on a tab of their own; megabytes are of 2^20 bytes, where MLflow's own
    sampler has 10^6. A step is a sample, counted from 0. There is no thread of its own for it: one that samples while
    the graph of a step is traced would only measure itself waiting.

    Args:
        recorder: Gets the samples.
        first: Number of the first sample; what an earlier attempt sampled stays.
        every_seconds: Between two samples at least.
    """

    def __init__(self, recorder: Recorder, first: int = 0, every_seconds: float = EVERY_SECONDS) -> None:
        self._recorder = recorder
        self._next = first
        self._every = every_seconds
        self._last = time.monotonic()
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first call measures since nothing, and says 0
        psutil.cpu_percent()

    def log_params(self, params: Mapping[str, Scalar]) -> None:
        return

    def set_tags(self, tags: Mapping[str, str]) -> None:
        return

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._sample()

    def log_step(self, metrics: Mapping[str, float], *, step: int, epoch: int, of: int) -> None:
        self._sample()

    def log_artifact(self, path: Path, folder: str = "") -> None:
        return

    def close(self, state: State, failure: str | None = None) -> None:
        self._sample(last=True)

    def _sample(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if now - self._last < self._every and not (last and self._next == 0):  # a short run has one at least
            return
        self._last = now
        self._recorder.log_metrics(self._measured(), step=self._next)
        self._next += 1

    def _measured(self) -> dict[str, float]:
        memory = psutil.virtual_memory()
        return {
            CPU: psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / MEBIBYTE,
            "system/system_memory_usage_percentage": memory.percent,
            "system/process_cpu_utilization_percentage": self._process.cpu_percent(),
            "system/process_memory_megabytes": self._process.memory_info().rss / MEBIBYTE,
            **_of_gpus(),
        }


def _of_gpus() -> dict[str, float]:
    return {f"system/gpu_{number}_{name}": value for number, use in enumerate(gpu_use()) for name, value in use.items()}
