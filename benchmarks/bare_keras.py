"""The practical limit: a compiled Keras model fitted on pixels in memory, and nothing else.

    python benchmarks/bare_keras.py PHOTOS SAVEDMODEL --trainable

The same backbone, head, photos, batch size and seed as Graft's. The photos are decoded before the clock starts;
nothing is recorded, no checkpoint is written.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

PROCESS_STARTED = time.perf_counter()
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import contestant  # noqa: E402
import numpy as np  # noqa: E402
import photos  # noqa: E402
import tensorflow as tf  # noqa: E402
import tensorflow_hub as hub  # noqa: E402
import tf_keras  # noqa: E402

IMPORT_SECONDS = time.perf_counter() - PROCESS_STARTED


class EpochClock(tf_keras.callbacks.Callback):
    """Seconds of training and of validation, in every epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[dict[str, float]] = []

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_test_begin(self, logs=None):
        self.trained = time.perf_counter()

    def on_epoch_end(self, epoch, logs):
        ended = time.perf_counter()
        self.epochs.append(
            {
                "train_seconds": self.trained - self.started,
                "val_seconds": ended - self.trained,
                "train_loss": logs["loss"],
                "train_accuracy": logs["accuracy"],
                "val_loss": logs["val_loss"],
                "val_accuracy": logs["val_accuracy"],
            }
        )


def main(arguments: Sequence[str] | None = None) -> dict[str, object]:
    options = contestant.parser(__doc__.splitlines()[0]).parse_args(arguments)
    train, val, _ = photos.split(options.photos, options.max_images)
    tf_keras.utils.set_random_seed(options.seed)
    train_pixels = pixels(train.files, options.image_size)
    val_pixels = pixels(val.files, options.image_size)
    started = time.perf_counter()

    dense = tf_keras.layers.Dense
    initial = tf_keras.initializers.GlorotUniform
    model = tf_keras.Sequential(
        [
            tf_keras.Input((options.image_size, options.image_size, 3), dtype=tf.uint8),
            tf_keras.layers.Rescaling(1 / 255),
            hub.KerasLayer(str(options.module), trainable=options.trainable),
            dense(512, activation="relu", kernel_initializer=initial(options.seed)),
            dense(len(set(train.labels)), kernel_initializer=initial(options.seed + 1)),
        ]
    )
    model.compile(
        tf_keras.optimizers.Adam(contestant.learning_rate(options)),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    clock = EpochClock()
    model.fit(
        train_pixels,
        np.array(train.labels),
        validation_data=(val_pixels, np.array(val.labels)),
        batch_size=options.batch_size,
        epochs=options.epochs,
        callbacks=[clock],
        verbose=0,
    )
    for number, epoch in enumerate(clock.epochs, start=1):
        print(
            f"epoch {number}: {epoch['train_seconds']:.2f} s training, {epoch['val_seconds']:.2f} s validation, "
            f"validation accuracy {epoch['val_accuracy']:.4f}"
        )
    return contestant.report(options, clock.epochs, IMPORT_SECONDS, time.perf_counter() - started)


def pixels(files: Sequence[str], size: int) -> np.ndarray:
    """The photos as uint8 [files, size, size, 3]."""

    def load(file: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(tf.io.read_file(file), channels=3, expand_animations=False)
        return tf.cast(tf.round(tf.image.resize(image, (size, size))), tf.uint8)

    loaded = tf.data.Dataset.from_tensor_slices(list(files)).map(load, num_parallel_calls=tf.data.AUTOTUNE)
    return np.stack(list(loaded.as_numpy_iterator()))


if __name__ == "__main__":
    main()
