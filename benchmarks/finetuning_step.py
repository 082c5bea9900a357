"""A fine-tuning step of Graft, of the chapter's corrected loop and of bare Keras, in turns in one process.

    python benchmarks/finetuning_step.py [PHOTOS]

Whole runs in processes of their own (`training.py`) are compared within a fifth at best on a machine that others use:
its speed changes from minute to minute. Here the contestants take turns every few seconds, on the same model, weights
and photos; medians and least of `ROUNDS`. Graft's batches come through its input pipeline, with deterministic
operations as by default; Keras' and the chapter's lie in memory, without.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import photos
from hydra import compose, initialize_config_dir

from graft import runtime
from graft.config import from_hydra
from graft.paths import CHECKOUT
from graft.preparation import prepare

ROUNDS, STEPS, BATCH = 9, 4, 32


def main(folder: Path) -> None:
    selected = [*photos.overrides(folder, 320), "dataset.image_size=224", "trainable=true", f"batch_size={BATCH}"]
    with initialize_config_dir(str(CHECKOUT / "conf"), version_base="1.3"):
        config = from_hydra(compose("config", overrides=selected))
    prepared = prepare(config)
    import tensorflow as tf
    import tf_keras

    model, trainer = prepared.model, prepared.trainer
    batches = prepared.data.train_batches(BATCH, seed=0, epoch=0).take(STEPS)
    held = list(batches)
    loss_function = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = tf_keras.optimizers.Adam(config.learning_rate)
    mean_loss, accuracy = tf_keras.metrics.Mean(), tf_keras.metrics.SparseCategoricalAccuracy()
    model.compile(tf_keras.optimizers.Adam(config.learning_rate), loss_function, metrics=["accuracy"])

    @tf.function
    def chapter_step(inputs: tf.Tensor, labels: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True)
            loss = loss_function(labels, logits)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        mean_loss(loss)
        accuracy(labels, logits)

    def graft() -> None:
        runtime.set_up(config)
        for inputs, labels in batches:
            loss, _ = trainer.train_on_batch(inputs, labels)
        float(loss)

    def chapter() -> None:
        runtime.set_up(loose)
        for inputs, labels in held:
            chapter_step(inputs, labels)
        float(mean_loss.result())

    pixels, classes = (tf.concat(parts, 0) for parts in zip(*held, strict=True))
    in_memory = tf.data.Dataset.from_tensor_slices((pixels, classes)).batch(BATCH)

    def keras() -> None:
        runtime.set_up(loose)
        model.fit(in_memory, verbose=0)

    loose = config.model_copy(update={"deterministic": False})
    contestants: dict[str, Callable[[], None]] = {"Graft": graft, "chapter, training=True": chapter, "Keras": keras}
    for contestant in contestants.values():
        contestant()  # traces
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(ROUNDS):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            started = time.perf_counter()
            contestants[name]()
            seconds[name].append((time.perf_counter() - started) / STEPS)
    print(f"| seconds a step of {BATCH} photos | median | least | Graft's median in its |\n|---|---|---|---|")
    graft_median = statistics.median(seconds["Graft"])
    for name, measured in seconds.items():
        median = statistics.median(measured)
        print(f"| {name} | {median:.3f} | {min(measured):.3f} | {graft_median / median:.2f} |")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        os.environ["GRAFT_HOME"] = home
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else photos.SHARED)
