"""Training in this process, by overrides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.conftest import backbone_at

from graft.config import Config
from graft.loop.result import StopReason, TrainResult
from graft.run import run
from graft.tracking.recorder import MemoryRecorder

MakeConfig = Callable[..., Config]

_composed: dict[tuple[str, ...], Config] = {}  # composing takes longer than an epoch


class Laboratory:
    """Runs training in this process, by overrides."""

    def __init__(self, make_config: MakeConfig, backbone: Path, folder: Path) -> None:
        self._make_config = make_config
        self.folder = folder
        self._always = (*backbone_at(backbone), "dataset.image_size=16", "dataset.max_images=400", "epochs=3")

    def run(
        self, *overrides: str, folder: str = "run", stop: Callable[[], StopReason | None] = lambda: None
    ) -> tuple[TrainResult, MemoryRecorder]:
        recorder = MemoryRecorder()
        return run(self.config(*overrides), recorder, self.folder / folder, stop), recorder

    def config(self, *overrides: str) -> Config:
        key = (*self._always, *overrides)
        if key not in _composed:
            _composed[key] = self._make_config(*key)
        return _composed[key]


def curve(result: TrainResult) -> list[dict[str, float]]:
    timed = {"epoch_seconds", "images_per_second"}
    return [{name: value for name, value in epoch.items() if name not in timed} for epoch in result.history]
