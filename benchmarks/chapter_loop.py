"""The chapter's program, as a reader of it would type it: what Graft is measured against.

    python benchmarks/chapter_loop.py PHOTOS SAVEDMODEL                      the backbone frozen
    python benchmarks/chapter_loop.py PHOTOS SAVEDMODEL --trainable          fine-tuned
    python benchmarks/chapter_loop.py PHOTOS SAVEDMODEL --trainable --training-true

It is written for reading, not for speed, and its slips are left in: the photos are decoded and resized and the
frozen backbone runs in every epoch, `map` has no parallel calls, evaluation stands outside `tf.function`, the test
split is never evaluated and no checkpoint is kept. It also calls `model(inputs)` without `training=True`, so the
batch norms of a fine-tuned backbone never learn; with `--training-true` they do, which is what a correct loop pays
for. It differs from the chapter in the backbone (a folder instead of a download) and in the photos' lists, which are
those of Graft, made before the clock starts: the chapter's own rest on the order of files.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

PROCESS_STARTED = time.perf_counter()
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import contestant  # noqa: E402
import photos  # noqa: E402
import tensorflow as tf  # noqa: E402
import tensorflow_hub as hub  # noqa: E402
import tf_keras  # noqa: E402

IMPORT_SECONDS = time.perf_counter() - PROCESS_STARTED


def main(arguments: Sequence[str] | None = None) -> dict[str, object]:
    parser = contestant.parser(__doc__.splitlines()[0])
    parser.add_argument("--training-true", action="store_true", help="train with model(inputs, training=True)")
    options = parser.parse_args(arguments)
    train, val, _ = photos.split(options.photos, options.max_images)
    started = time.perf_counter()
    tf_keras.utils.set_random_seed(options.seed)

    def load(file, label):
        image = tf.io.decode_image(tf.io.read_file(file), channels=3, expand_animations=False)
        image = tf.image.convert_image_dtype(image, tf.float32)
        return tf.image.resize(image, (options.image_size, options.image_size)), label

    def batches(split):
        return tf.data.Dataset.from_tensor_slices((split.files, split.labels))

    train_batches = batches(train).shuffle(len(train.files)).map(load).batch(options.batch_size).prefetch(1)
    val_batches = batches(val).map(load).batch(options.batch_size).prefetch(1)

    model = tf_keras.Sequential(
        [
            hub.KerasLayer(str(options.module), trainable=options.trainable),
            tf_keras.layers.Dense(512, activation="relu"),
            tf_keras.layers.Dense(len(set(train.labels))),
        ]
    )
    model.build((None, options.image_size, options.image_size, 3))
    loss_object = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = tf_keras.optimizers.Adam(contestant.learning_rate(options))
    train_loss = tf_keras.metrics.Mean()
    train_accuracy = tf_keras.metrics.SparseCategoricalAccuracy()
    val_loss = tf_keras.metrics.Mean()
    val_accuracy = tf_keras.metrics.SparseCategoricalAccuracy()

    @tf.function
    def train_step(inputs, labels):
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True) if options.training_true else model(inputs)
            loss = loss_object(labels, logits)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        train_loss(loss)
        train_accuracy(labels, logits)

    def evaluation_step(inputs, labels):
        logits = model(inputs)
        val_loss(loss_object(labels, logits))
        val_accuracy(labels, logits)

    epochs = []
    for epoch in range(options.epochs):
        for metric in (train_loss, train_accuracy, val_loss, val_accuracy):
            metric.reset_states()
        epoch_started = time.perf_counter()
        for inputs, labels in train_batches:
            train_step(inputs, labels)
        trained = time.perf_counter()
        for inputs, labels in val_batches:
            evaluation_step(inputs, labels)
        validated = time.perf_counter()
        epochs.append(
            {
                "train_seconds": trained - epoch_started,
                "val_seconds": validated - trained,
                "train_loss": float(train_loss.result()),
                "train_accuracy": float(train_accuracy.result()),
                "val_loss": float(val_loss.result()),
                "val_accuracy": float(val_accuracy.result()),
            }
        )
        print(
            f"epoch {epoch + 1}: {epochs[-1]['train_seconds']:.2f} s training, {epochs[-1]['val_seconds']:.2f} s "
            f"validation, validation accuracy {epochs[-1]['val_accuracy']:.4f}",
            flush=True,
        )
    return contestant.report(options, epochs, IMPORT_SECONDS, time.perf_counter() - started)


if __name__ == "__main__":
    main()
