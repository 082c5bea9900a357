"""A model that was trained, with what is needed to use it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from graft import backbones
from graft.config import Config

if TYPE_CHECKING:
    import tf_keras

    from graft.backbones import SavedBackbone

Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TrainedModel:
    """What a run trained.

    Attributes:
        run_id: MLflow's.
        name: What the run is called.
        class_names: In the order of the logits.
        config: What the run was. Its data set may only stand for the recorded one, which need not be there any more.
        model: uint8 images [batch, size, size, 3] to logits [batch, classes].
    """

    run_id: str
    name: str
    class_names: tuple[str, ...]
    config: Config
    model: tf_keras.Model

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that `model` takes."""
        return self.config.image_size

    def probabilities(self, pixels: npt.NDArray[np.uint8]) -> Probabilities:
        """How probable each class is, float32 [images, classes] from 0 to 1, for uint8 [images, size, size, 3]."""
        import tensorflow as tf

        probabilities: Probabilities = tf.nn.softmax(self.model(pixels, training=False)).numpy()
        return probabilities


def build(config: Config, saved: SavedBackbone, classes: int, best: Path) -> tf_keras.Model:
    """The whole model of a run, backbone and head, with the weights of its best epoch.

    Args:
        config: What the run was.
        saved: The backbone that it was trained on.
        classes: Number of classes.
        best: The run's ``checkpoints/best``, or a copy of it.

    Raises:
        ConfigError: if the backbone cannot be used.
        FatalError: as `graft.loop.checkpoints.read_best`.
    """
    from graft.loop.checkpoints import read_best
    from graft.model import build_model, trained_part

    layer = backbones.hub_layer(saved, config.backbone, config.trainable, image_size=config.image_size)
    model = build_model(layer, config, classes=classes)
    read_best(best, trained_part(model, config))
    return model
