"""A trained model with what comes before and after it, as it is exported. Needs TensorFlow, so it is imported late."""

from __future__ import annotations

import tensorflow as tf

from graft.data.store import resize
from graft.errors import FatalError
from graft.export.trained import TrainedModel
from graft.features.conversion import to_tflite
from graft.features.live import Unusable


class ExportedModel(tf.Module):
    """Images as they are to the probabilities of all classes, and the name of the most probable one.

    Its functions give ``probabilities``, float32 [batch, classes] from 0 to 1, and ``label``, strings [batch].
    """

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.model = trained.model
        self.labels = tf.constant(trained.class_names)
        self._size = trained.image_size

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")])
    def decoded(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Of uint8 RGB images [batch, height, width, 3]."""
        return self._of_pixels(resize(images, self._size))

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="contents")])
    def encoded(self, contents: tf.Tensor) -> dict[str, tf.Tensor]:
        """Of the contents of image files, strings [batch]."""
        spec = tf.TensorSpec((self._size, self._size, 3), tf.uint8)
        return self._of_pixels(tf.map_fn(self._pixels_of, contents, fn_output_signature=spec))

    def _pixels_of(self, content: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(content, channels=3, expand_animations=False)
        return tf.ensure_shape(resize(tf.ensure_shape(image, (None, None, 3)), self._size), (self._size, self._size, 3))

    def _of_pixels(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = tf.nn.softmax(self.model(pixels, training=False))
        return {"probabilities": probabilities, "label": tf.gather(self.labels, tf.argmax(probabilities, axis=-1))}


def tflite_of(trained: TrainedModel) -> bytes:
    """A TFLite file from one image, uint8 [1, size, size, 3], to the probabilities, float32 [1, classes].

    Raises:
        FatalError: if TFLite has no counterpart to an operation of the backbone.
    """

    @tf.function
    def probabilities(images: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(trained.model(images, training=False))

    images = tf.TensorSpec((1, trained.image_size, trained.image_size, 3), tf.uint8, name="images")
    try:
        return to_tflite(probabilities.get_concrete_function(images))
    except Unusable as error:
        raise FatalError(
            f"--tflite: the model of the run {trained.run_id} cannot be had for TFLite: {error}"
        ) from error
