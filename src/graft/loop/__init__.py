"""Training loops behind one signature: `fit(trainer, data, config, directory, recorder, stop_reason) -> TrainResult`.

A loop is handed its recorder and its stop signal; it knows no MLflow, no Optuna and no Hydra. What all of them have in
common is in `course`; what only one does is in the module that ``loop=`` names.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    import tf_keras

    from graft.config import Config
    from graft.data.pipeline import Data
    from graft.loop.result import StopSignal, TrainResult
    from graft.loop.trained_model import TrainedModel
    from graft.tracking.recorder import Recorder


class Loop(Protocol):
    """What every module that ``loop=`` names has."""

    def Trainer(self, model: tf_keras.Model, config: Config) -> TrainedModel:
        """The model with its optimiser and whatever the loop compiles once for many runs."""

    def fit(
        self,
        trainer: TrainedModel,
        data: Data,
        config: Config,
        directory: Path,
        recorder: Recorder,
        stop_reason: StopSignal,
    ) -> TrainResult:
        """Trains, goes on from the latest checkpoint if there is one, and tests the best checkpoint.

        Args:
            trainer: Holds the untrained model; made by `Trainer`.
            data: The three splits.
            config: Epochs, batch size, learning rate and seed.
            directory: The run's folder; checkpoints go under it.
            recorder: Gets the metrics of every epoch, and loss and accuracy every `loop.log_every` steps.
            stop_reason: Asked between epochs, and before the first one of an attempt that goes on, whether to stop and
                why.

        Raises:
            FailedTrial: with the cause ``diverged`` once a loss is no longer a finite number; with
                ``damaged_checkpoint`` if the best checkpoint cannot be read in the end.
        """


def of(config: Config) -> Loop:
    """The loop that `config` names; it is imported with TensorFlow."""
    return cast(Loop, importlib.import_module(f"graft.loop.{config.loop.name}"))
