"""Optuna's `CmaEsSampler`, which keeps its state as a pickle in the study, without running what else lies there.

A study is read by whoever works on a sweep, and written by as many; nobody of them needs to run code as the others.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from optuna.samplers import CmaEsSampler
from optuna.trial import FrozenTrial

from graft.errors import FatalError

HARMLESS = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"),  # their names until NumPy 2
    ("numpy.core.multiarray", "scalar"),
    ("cmaes._cma", "CMA"),
    ("cmaes._cmawm", "CMAwM"),
    ("cmaes._sepcma", "SepCMA"),
}
"""All that the state of an optimiser of the package cmaes is made of."""


class OnlyNumbers(CmaEsSampler):
    """The same, but a state that is more than numbers is refused."""

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        for trial in reversed(completed_trials):
            if parts := self._parts_of(trial):
                return read_state(bytes.fromhex(self._concat_optimizer_attrs(parts)))
        return None

    def _parts_of(self, trial: FrozenTrial) -> dict[str, str]:
        prefix = self._attr_key_optimizer
        return {key: value for key, value in trial.system_attrs.items() if key.startswith(prefix)}


def read_state(pickled: bytes) -> Any:
    """An optimiser of the package cmaes.

    Raises:
        FatalError: if anything else is pickled there.
    """
    return _Reader(io.BytesIO(pickled)).load()


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in HARMLESS:
            raise FatalError(
                f"hydra.sweeper.sampler=CmaEsSampler: the state that it keeps in the study names {module}.{name}, "
                "which is none of its parts. Somebody else may have written it: do not go on with this study"
            )
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        raise FatalError(f"hydra.sweeper.sampler=CmaEsSampler: its state refers to {pid!r}")
