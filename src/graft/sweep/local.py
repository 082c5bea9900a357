"""`hydra/launcher=graft`: slots on this machine, one a GPU."""

from __future__ import annotations

from dataclasses import dataclass

from graft.sweep.devices import slot_devices
from graft.sweep.process import Process
from graft.sweep.workers import PoolOptions, not_allowed


@dataclass(frozen=True)
class LocalOptions(PoolOptions):
    """From `hydra.launcher`.

    Attributes:
        slots_per_gpu: Slots that share a GPU.
    """

    slots_per_gpu: int = 1

    def problems(self) -> list[str]:
        return [
            *super().problems(),
            *not_allowed("slots_per_gpu", self.slots_per_gpu, self.slots_per_gpu >= 1, "a whole number from 1"),
        ]


class LocalWorkers:
    """Worker processes of this machine, each on its GPU. See `graft.sweep.workers.Workers`."""

    place = ""
    shared = False

    def __init__(self, options: LocalOptions) -> None:
        self._devices = slot_devices(options.slots, options.slots_per_gpu)

    @property
    def slots(self) -> int:
        return len(self._devices)

    def open(self) -> None:
        """The GPUs were found already."""

    def start(self, slot: int, setup: bytes) -> Process:
        return Process(self._devices[slot], setup)

    def close(self) -> None:
        """Processes hold nothing together."""
