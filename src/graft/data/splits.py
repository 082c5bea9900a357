"""Splits: which image trains, which one validates, which one tests.

The content hash decides, salted with `dataset.split_seed`. So the splits are the same in every trial of a
sweep, on every machine, in whatever order the files lie; and images that are identical byte for byte, of
which tf_flowers has three pairs, never straddle two splits.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graft.config import AnyDatasetConfig, DatasetConfig
from graft.data import sources
from graft.data.sources import ImageSet
from graft.errors import ConfigError

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Splits:
    """Rows of an `ImageSet`, int64 [images of the split], in an order that depends on the hashes alone."""

    train: Rows
    val: Rows
    test: Rows


def choose(config: AnyDatasetConfig) -> ImageSet:
    """The images that would be trained on; everything that can be said of them before one is decoded.

    Raises:
        ConfigError: if they cannot make a data set with three splits.
    """
    images = _limited(sources.load(config), config)
    split(images, config)
    return images


def split(images: ImageSet, config: DatasetConfig) -> Splits:
    """Divides the images, every class in the configured proportions.

    Raises:
        ConfigError: if a class has too few different images to appear in all three splits.
    """
    by_class = _groups_by_class(images, config.split_seed)
    few = [
        f"the class {name} has {len(by_class.get(label, []))} different image(s); the three splits need at least 3"
        for label, name in enumerate(images.class_names)
        if len(by_class.get(label, [])) < 3
    ]
    if few:
        raise ConfigError([f"dataset: {problem}" for problem in few])
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for groups in by_class.values():
        total = sum(len(group) for group in groups)
        wanted = {
            "test": max(1, round(total * config.test_fraction)),
            "val": max(1, round(total * config.val_fraction)),
        }
        # The smaller splits are served first: whatever whole groups do to the counts, training gets the rest.
        remaining = list(groups)
        for name, count in wanted.items():
            taken = 0
            while taken < count and len(remaining) > (2 if name == "test" else 1):
                group = remaining.pop()
                parts[name].extend(group)
                taken += len(group)
        parts["train"].extend(_flat(remaining))
    ranked = {
        name: sorted(rows, key=lambda row: _rank(images.digests[row], config.split_seed))
        for name, rows in parts.items()
    }
    return Splits(**{name: np.array(rows, np.int64) for name, rows in ranked.items()})


def _limited(images: ImageSet, config: DatasetConfig) -> ImageSet:
    """At most `dataset.max_images` images, drawn by their salted hash, the classes in proportion."""
    if config.max_images is None or config.max_images >= len(images):
        return images
    share = config.max_images / len(images)
    by_class = _groups_by_class(images, config.split_seed)
    chosen = [row for groups in by_class.values() for row in _flat(groups)[: max(3, round(share * len(_flat(groups))))]]
    return images.take(np.sort(np.array(chosen, np.int64)))


def _groups_by_class(images: ImageSet, seed: int) -> dict[int, list[list[int]]]:
    """For each label its groups of identical images, in the order of their salted hashes.

    A group whose copies lie in several classes counts for the first of them.
    """
    copies: dict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(images.digests):
        copies[digest].append(row)
    by_class: dict[int, list[list[int]]] = defaultdict(list)
    for digest in sorted(copies, key=lambda digest: _rank(digest, seed)):
        by_class[min(int(images.labels[row]) for row in copies[digest])].append(copies[digest])
    return by_class


def _rank(digest: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest()


def _flat(groups: list[list[int]]) -> list[int]:
    return [row for group in groups for row in group]
