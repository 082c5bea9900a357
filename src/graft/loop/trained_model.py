"""A model and its optimiser, which every run finds as new."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tf_keras

from graft import runtime
from graft.config import Config
from graft.data.pipeline import Data
from graft.loop.optimizers import make_optimizer, state_of


class TrainedModel:
    """A model and its optimiser, for any number of runs, one after the other.

    Args:
        model: The data's inputs, images or features, to logits [batch, classes].
        config: The optimiser, and whether matrices are multiplied in float16.

    Raises:
        ConfigError: for ``mixed_precision=true`` where no GPU gains from it.
    """

    def __init__(self, model: tf_keras.Model, config: Config) -> None:
        self.model = model
        self.half_precision = runtime.half_precision(config)
        self.optimizer = make_optimizer(config, scale_loss=self.half_precision)
        self.optimizer.build(model.trainable_variables)
        self._unused_optimizer = [variable.numpy() for variable in state_of(self.optimizer)]

    def reset_optimizer(self, learning_rate: float) -> None:
        """Makes the optimiser what it was before the first step of any run."""
        for variable, value in zip(state_of(self.optimizer), self._unused_optimizer, strict=True):
            variable.assign(value)
        self.optimizer.learning_rate = learning_rate


def balanced_weights(data: Data) -> npt.NDArray[np.float32]:
    """The weight n / (classes x n_c) of each class with n_c of the n training images, as float32 [classes].

    As scikit-learn's ``class_weight="balanced"``: every class has the same sum of weights, and their mean over the
    training images is 1.
    """
    counts = np.bincount(data.images.labels[data.splits.train], minlength=len(data.class_names))
    return (counts.sum() / (len(counts) * counts)).astype(np.float32)
