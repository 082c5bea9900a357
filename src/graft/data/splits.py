"""Splits: which image trains, which one validates, which one tests.

The content hash decides, salted with `dataset.split_seed`. So the splits are the same in every trial of a
sweep, on every machine, in whatever order the files lie; and images that are identical byte for byte, of
which tf_flowers has three pairs, never straddle two splits. `dataset.max_images` draws from each split: an
image that tests among all images never trains among some of them.

A set that comes divided keeps its own splits, unless `dataset.splits=resplit`. One that it lacks, mostly the
validation split, is cut from its training split in the same way.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from graft.config_dataset import AnyDatasetConfig, DatasetConfig
from graft.data import sources
from graft.data.image_set import SPLITS, ImageSet, Split
from graft.errors import ConfigError

log = logging.getLogger(__name__)

Rows = npt.NDArray[np.int64]
LISTED = 20  # classes named in one message


@dataclass(frozen=True)
class Splits:
    """Rows of an `ImageSet`, int64 [images of the split], in an order that depends on the hashes alone."""

    train: Rows
    val: Rows
    test: Rows

    def within(self, kept: Rows) -> Splits:
        """The splits of `images.take(kept)`."""
        place = {int(row): number for number, row in enumerate(kept)}
        return Splits(
            **{
                name: np.array([place[row] for row in getattr(self, name).tolist() if row in place], np.int64)
                for name in SPLITS
            }
        )


def choose(config: AnyDatasetConfig) -> tuple[ImageSet, Splits]:
    """The images that would be used, divided; everything that can be said of them before one is decoded.

    Raises:
        ConfigError: if they cannot make a data set with three splits.
        FatalError: if they cannot be downloaded.
    """
    images = sources.load(config)
    if config.splits == "official" and images.official is None:
        raise ConfigError(
            f"dataset.splits=official: {config.name} comes undivided; allowed is dataset.splits=resplit or auto"
        )
    if config.splits == "resplit":
        images = images.undivided()
    parts = split(images, config)
    if config.max_images is None or config.max_images >= len(images):
        return images, parts
    if config.max_images < (least := 3 * len(images.class_names)):
        raise ConfigError(
            f"dataset.max_images={config.max_images}: allowed is a whole number from {least} for these "
            f"{len(images.class_names)} classes, one image of each in every split, or null for all images"
        )
    drawn = _draw(images, parts, config.max_images, config.split_seed)
    return images.take(drawn), parts.within(drawn)


def split(images: ImageSet, config: DatasetConfig) -> Splits:
    """Divides the images, every class in the configured proportions; splits that they come in stay.

    Raises:
        ConfigError: if a class has too few different images to appear in all three splits.
    """
    # The smaller splits are served first: whatever whole groups do to the counts, training gets the rest.
    fractions: dict[Split, float] = {"test": config.test_fraction, "val": config.val_fraction}
    if images.official is None:
        parts = _divide(images, range(len(images)), fractions, config.split_seed)
    else:
        own: dict[Split, list[int]] = {
            name: np.flatnonzero(images.official == place).tolist() for place, name in enumerate(SPLITS)
        }
        parts = {name: rows for name, rows in own.items() if rows}
        if lacking := {name: fraction for name, fraction in fractions.items() if name not in parts}:
            parts |= _divide(images, own["train"], lacking, config.split_seed)
        _refuse_absent_classes(images, parts)
        _tell_of_straddling(images, parts)
    # Class after class so far; in the order of the hashes every stretch of a split is a mixture.
    return Splits(
        **{
            name: np.array(
                sorted(rows, key=lambda row: _rank("split", images.digests[row], config.split_seed)), np.int64
            )
            for name, rows in parts.items()
        }
    )


def _divide(
    images: ImageSet, rows: Iterable[int], fractions: Mapping[Split, float], seed: int
) -> dict[Split, list[int]]:
    """Cuts the splits that `fractions` names out of `rows`; the training split is what is left."""
    by_class = _groups_by_class(images, rows, seed)
    least = 1 + len(fractions)
    into = (
        "the three splits need"
        if images.official is None
        else f"train, and {' and '.join(fractions)} cut from it, need"
    )
    few = [
        f"dataset: the class {name} has {len(by_class.get(label, []))} different image(s); {into} at least {least}"
        for label, name in enumerate(images.class_names)
        if len(by_class.get(label, [])) < least
    ]
    if few:
        raise ConfigError(few)
    parts: dict[Split, list[int]] = {name: [] for name in ("train", *fractions)}
    for groups in by_class.values():
        total = sum(len(group) for group in groups)
        remaining = list(groups)
        for number, (name, fraction) in enumerate(fractions.items()):
            wanted, taken = max(1, round(total * fraction)), 0
            while taken < wanted and len(remaining) > len(fractions) - number:
                group = remaining.pop()
                parts[name].extend(group)
                taken += len(group)
        parts["train"].extend(row for group in remaining for row in group)
    return parts


def refuse_missing_classes(images: ImageSet, parts: Splits) -> None:
    """Checks that every class is in every split, after images were left out.

    Raises:
        ConfigError: naming the classes that are not.
    """
    problems = []
    for name in SPLITS:
        present = set(images.labels[getattr(parts, name)].tolist())
        missing = [label for number, label in enumerate(images.class_names) if number not in present]
        if missing:
            problems.append(f"dataset: no readable image of the class {', '.join(missing)} is left in the {name} split")
    if problems:
        raise ConfigError(problems)


def _draw(images: ImageSet, parts: Splits, count: int, seed: int) -> Rows:
    """About `count` rows, the splits and the classes in them in proportion, by a rank of its own."""
    share = count / len(images)
    drawn: list[int] = []
    for name in SPLITS:
        by_class: dict[int, list[int]] = defaultdict(list)
        for row in getattr(parts, name).tolist():
            by_class[int(images.labels[row])].append(row)
        for of_class in by_class.values():
            ranked = sorted(of_class, key=lambda row: _rank("draw", images.digests[row], seed))
            drawn += ranked[: max(1, round(share * len(ranked)))]
    return np.array(sorted(drawn), np.int64)


def _refuse_absent_classes(images: ImageSet, parts: Mapping[Split, list[int]]) -> None:
    problems = []
    for name in SPLITS:
        present = set(images.labels[parts[name]].tolist())
        absent = [label for number, label in enumerate(images.class_names) if number not in present]
        if absent:
            shown = ", ".join(absent[:LISTED]) + (f" and {len(absent) - LISTED} more" if len(absent) > LISTED else "")
            problems.append(
                f"dataset.splits=official: no image of the class {shown} is in the {name} split; "
                "dataset.splits=resplit divides all images anew"
            )
    if problems:
        raise ConfigError(problems)


def _tell_of_straddling(images: ImageSet, parts: Mapping[Split, list[int]]) -> None:
    """Official splits stay what they are, so that results can be compared; but that they leak should be known."""
    trained = {images.digests[row] for row in parts["train"]}
    for name in ("val", "test"):
        if count := sum(images.digests[row] in trained for row in parts[name]):
            log.warning("%d images of the official %s split are in the training split, too", count, name)


def _groups_by_class(images: ImageSet, rows: Iterable[int], seed: int) -> dict[int, list[list[int]]]:
    """For each label its groups of identical images, in the order of their salted hashes.

    A group whose copies lie in several classes counts for the first of them.
    """
    copies: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        copies[images.digests[row]].append(row)
    by_class: dict[int, list[list[int]]] = defaultdict(list)
    for digest in sorted(copies, key=lambda digest: _rank("split", digest, seed)):
        by_class[min(int(images.labels[row]) for row in copies[digest])].append(copies[digest])
    return by_class


def _rank(purpose: Literal["split", "draw"], digest: str, seed: int) -> str:
    """Where an image stands in a random order. Orders for different purposes are independent of each other."""
    return hashlib.sha256(f"{purpose} {seed} {digest}".encode()).hexdigest()
