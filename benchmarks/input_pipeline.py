"""What the input pipeline alone delivers: the chapter's, Graft's first epoch, and Graft's later ones.

    python benchmarks/input_pipeline.py [--photos FOLDER] [--epochs 5] [--image-size 224] [--json FILE]

Promised: later epochs give at least 5 times the chapter's images a second. The first epoch decodes, resizes and
stores all photos; the later ones read them from the store, in an order of their own each. The chapter's pipeline is
typed as a reader of it would, and delivers float32 pixels; Graft's delivers uint8, which the model scales, so
a row with that work added is printed too. Contestants alternate, epoch by epoch; medians count.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import photos

from graft import runtime
from graft.config import from_hydra
from graft.data import splits

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=photos.SHARED, help="one sub-folder a class")
    parser.add_argument("--epochs", type=int, default=5, help="of each contestant")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as home:
        os.environ["GRAFT_HOME"] = home  # the first epoch finds no store
        figures = measure(options.photos, options.image_size, options.epochs)
    for name, value in figures.items():
        print(f"  {name.replace('_', ' '):52s} {value:8.1f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(folder: Path, image_size: int, epochs: int) -> dict[str, float]:
    composed = photos.composed(folder, None)
    composed.dataset.image_size = image_size
    config = from_hydra(composed)
    images, parts = splits.choose(config.dataset)
    runtime.set_up(config)
    logging.getLogger("graft").setLevel(logging.WARNING)
    import tensorflow as tf

    from graft.data import pipeline
    from graft.model import scale_pixels

    def load(file, label):
        image = tf.io.decode_image(tf.io.read_file(file), channels=3, expand_animations=False)
        image = tf.image.convert_image_dtype(image, tf.float32)
        return tf.image.resize(image, (image_size, image_size)), label

    files = [str(folder / images.names[row]) for row in parts.train]
    labels = images.labels[parts.train]

    def chapter() -> tf.data.Dataset:
        photos_and_labels = tf.data.Dataset.from_tensor_slices((files, labels))
        return photos_and_labels.shuffle(len(files), seed=0).map(load).batch(BATCH).prefetch(1)

    started = time.perf_counter()
    data = pipeline.prepare(images, parts, config)
    stored = len(images) / (time.perf_counter() - started)
    epoch_numbers = iter(range(10 * epochs))

    def later(augmentation: str = "none") -> Callable[[], tf.data.Dataset]:
        return lambda: replace(data, augmentation=augmentation).train_batches(BATCH, seed=0, epoch=next(epoch_numbers))

    contestants: dict[str, Callable[[], tf.data.Dataset]] = {
        "chapter": chapter,
        "later": later(),
        "later_scaled": later(),
        "flip": later("flip"),
        "standard": later("standard"),
    }
    scaled = tf.function(lambda pixels: scale_pixels(pixels, config))
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(epochs):
        for name, make in contestants.items():
            started = time.perf_counter()
            seen = 0
            for pixels, _ in make():  # making the data set is part of an epoch
                seen += len(scaled(pixels) if name == "later_scaled" else pixels)
            speeds[name].append(seen / (time.perf_counter() - started))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    return {
        "images_an_epoch": float(len(files)),
        "chapter_images_per_second": medians["chapter"],
        "graft_first_images_per_second": stored,
        "graft_later_images_per_second": medians["later"],
        "graft_later_scaled_images_per_second": medians["later_scaled"],
        "graft_later_augment_flip_images_per_second": medians["flip"],
        "graft_later_augment_standard_images_per_second": medians["standard"],
        "later_over_chapter": medians["later"] / medians["chapter"],
        "later_scaled_over_chapter": medians["later_scaled"] / medians["chapter"],
        "lowest_later_over_highest_chapter": min(speeds["later"]) / max(speeds["chapter"]),
    }


if __name__ == "__main__":
    main()
