"""Data sets that TFDS prepares for a test, through its own builder API, from images made here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import numpy as np
import tensorflow_datasets as tfds

Examples = Mapping[str, list[tuple[Any, int]]]


def prepare(
    data_dir: Path,
    examples: Examples,
    *,
    name: str = "cats_and_dogs",
    class_names: tuple[str, ...] = ("cat", "dog"),
    features: Mapping[str, Any] | None = None,
    shape: tuple[int | None, int | None, int] = (None, None, 3),
    version: str = "1.0.0",
) -> Path:
    """Writes `examples` (images, encoded or as arrays, with labels, for each split) as TFDS keeps them.

    Returns:
        The folder of the prepared set.
    """
    described = dict(
        features or {"image": tfds.features.Image(shape=shape), "label": tfds.features.ClassLabel(names=class_names)}
    )

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)

        def _info(self) -> tfds.core.DatasetInfo:
            keys = ("image", "label") if {"image", "label"} <= described.keys() else None
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(described), supervised_keys=keys
            )

        def _split_generators(self, dl_manager: object) -> dict[str, Iterator[Any]]:
            return {split: self._generate_examples(of_split) for split, of_split in examples.items()}

        def _generate_examples(self, of_split: list[tuple[Any, int]]) -> Iterator[Any]:
            for number, values in enumerate(of_split):
                yield number, dict(zip(described, values, strict=True))

    with tfds.core.registered.skip_registration():
        made = type("Builder", (Builder,), {"name": name, "VERSION": Builder.VERSION})
    builder = made(data_dir=str(data_dir))
    builder.download_and_prepare()
    return Path(builder.data_dir)


def pictures(count: int, *, channels: int = 3, seed: int = 0) -> list[tuple[Any, int]]:
    """So many arrays uint8 [12, 12, channels] with labels 0 and 1 in turn; the label shows as brightness."""
    random = np.random.default_rng(seed)
    return [
        ((random.integers(0, 60, (12, 12, channels)) + 190 * (number % 2)).astype(np.uint8), number % 2)
        for number in range(count)
    ]
