"""Where image sets come from: one function a source, all of them without TensorFlow."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from graft.data import fashion_mnist, image_folder, tfds
from graft.data.image_set import ImageSet, content_sha256

if TYPE_CHECKING:
    from graft.config_dataset import AnyDatasetConfig


def load(config: AnyDatasetConfig) -> ImageSet:
    """Finds and hashes the images that the configuration names.

    Raises:
        ConfigError: if they are not there, or are no images of two classes or more.
        FatalError: if they cannot be downloaded.
    """
    match config.source:
        case "digits":
            found = _digits()
        case "image_folder":
            found = image_folder.read_folder(config)
        case "fashion_mnist":
            found = fashion_mnist.load(config)
        case "tfds":
            found = tfds.load(config.name, config.data_dir, download=config.download)
    return found.in_own_order()


@functools.cache  # scikit-learn parses a text file, for every trial of a sweep
def _digits() -> ImageSet:
    # A late import: scikit-learn takes a second, and not everyone trains on its digits.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]  # 16 grey levels in the original
    labels = bunch.target.astype(np.int32)
    for shared in (images, labels):
        shared.setflags(write=False)
    return ImageSet(
        class_names=tuple(str(digit) for digit in bunch.target_names),
        labels=labels,
        digests=tuple(content_sha256(image) for image in images),
        names=tuple(f"digits[{row}]" for row in range(len(images))),
        read=lambda row: images[row],
    )
