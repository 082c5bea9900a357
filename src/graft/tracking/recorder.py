"""The interface between a run and its record."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

Scalar = bool | int | float | str | None
State = Literal["complete", "pruned", "failed", "interrupted"]

STATUS: Mapping[str, str] = {
    "complete": "FINISHED",
    "pruned": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
"""MLflow's name for each state."""


class Recorder(ABC):
    """Takes down one run. Used by one thread at a time.

    What a recorder keeps is durable when a call returns, all but `log_step`: a process killed right after loses
    nothing. Logging a param again with the same value, and a metric again for a step that is already there,
    changes nothing, so an attempt that goes on from a checkpoint may repeat what was said before.
    """

    @abstractmethod
    def log_params(self, params: Mapping[str, Scalar]) -> None:
        """What the run was told, under flat dotted names."""

    @abstractmethod
    def set_tags(self, tags: Mapping[str, str]) -> None:
        """What the run is; a later value replaces an earlier one."""

    @abstractmethod
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """What came out: of the epoch `step`, counted from 0, or once a run where there is no step."""

    def log_step(self, metrics: Mapping[str, float], *, step: int, epoch: int, of: int) -> None:
        """How training stands after `step` steps of the run, in `epoch`, which has `of` steps. May be ignored."""
        return

    @abstractmethod
    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Copies a file, or what is in a folder, into `folder` of the run's artifacts."""

    @abstractmethod
    def close(self, state: State, failure: str | None = None) -> None:
        """Ends the run. Nothing may be logged afterwards; a call that was broken off may be made again.

        Args:
            state: How it ended.
            failure: The cause, one word such as ``diverged``; None if it did not fail.
        """


class MemoryRecorder(Recorder):
    """Keeps everything in plain attributes: for tests, and for programs that call `graft.run.run` themselves.

    Attributes:
        params: By dotted name.
        tags: By name.
        metrics: By name and step; what a run has once is at step 0.
        artifacts: The content of each file, by its path.
        state: How the run ended; None as long as it goes on.
    """

    def __init__(self) -> None:
        self.params: dict[str, Scalar] = {}
        self.tags: dict[str, str] = {}
        self.metrics: dict[str, dict[int, float]] = {}
        self.artifacts: dict[str, bytes] = {}
        self.state: State | None = None

    def log_params(self, params: Mapping[str, Scalar]) -> None:
        for key, value in params.items():
            if self.params.setdefault(key, value) != value:
                raise ValueError(f"The param {key} is {self.params[key]!r} already and cannot become {value!r}")

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self.tags |= tags

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            self.metrics.setdefault(name, {}).setdefault(step or 0, value)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        root = path.parent if path.is_file() else path
        for file in files:
            self.artifacts[str(Path(folder) / file.relative_to(root))] = file.read_bytes()

    def close(self, state: State, failure: str | None = None) -> None:
        self.state = state
        self.tags |= closing_tags(state, failure)


class Recorders(Recorder):
    """Hands every call to several recorders, in their order. An error of one keeps it from those that follow."""

    def __init__(self, recorders: Sequence[Recorder]) -> None:
        self._recorders = tuple(recorders)

    def log_params(self, params: Mapping[str, Scalar]) -> None:
        for recorder in self._recorders:
            recorder.log_params(params)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        for recorder in self._recorders:
            recorder.set_tags(tags)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for recorder in self._recorders:
            recorder.log_metrics(metrics, step)

    def log_step(self, metrics: Mapping[str, float], *, step: int, epoch: int, of: int) -> None:
        for recorder in self._recorders:
            recorder.log_step(metrics, step=step, epoch=epoch, of=of)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        for recorder in self._recorders:
            recorder.log_artifact(path, folder)

    def close(self, state: State, failure: str | None = None) -> None:
        for recorder in self._recorders:
            recorder.close(state, failure)


def closing_tags(state: str, failure: str | None) -> dict[str, str]:
    """The tags that say how a run ended."""
    return {"graft.state": state, **({"graft.failure": failure} if failure else {})}
