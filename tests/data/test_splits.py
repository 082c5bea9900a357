"""Splits: sizes, strata, independence of order and seed, and identical images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.config import Config
from graft.config_dataset import DigitsConfig
from graft.data import splits
from graft.data.image_set import ImageSet
from graft.errors import ConfigError

MakeConfig = Callable[..., Config]


def settings(**changes: object) -> DigitsConfig:
    values = {
        "name": "digits",
        "max_images": None,
        "image_size": None,
        "splits": "auto",
        "split_seed": 0,
        "train_fraction": 0.5,
        "val_fraction": 0.25,
        "test_fraction": 0.25,
        "on_corrupt": "error",
    }
    return DigitsConfig.model_validate({**values, **changes})


def image_set(labels: list[int], digests: list[str]) -> ImageSet:
    names = tuple(str(number) for number in range(len(labels)))
    classes = tuple(f"class{label}" for label in range(max(labels) + 1))
    return ImageSet(classes, np.array(labels, np.int32), tuple(digests), names, lambda row: b"")


def test_digits_are_split_in_half_and_quarters_in_every_class(make_config: MakeConfig) -> None:
    config = make_config().dataset
    images, parts = splits.choose(config)
    assert (len(parts.train), len(parts.val), len(parts.test)) == (897, 450, 450)
    for label in range(10):
        total = int((images.labels == label).sum())
        for rows, fraction in ((parts.train, 0.5), (parts.val, 0.25), (parts.test, 0.25)):
            assert abs(int((images.labels[rows] == label).sum()) - total * fraction) <= 1


def test_the_split_seed_decides_and_the_seed_does_not(make_config: MakeConfig) -> None:
    def test_digests(*overrides: str) -> set[str]:
        config = make_config(*overrides).dataset
        images, parts = splits.choose(config)
        return {images.digests[row] for row in parts.test}

    assert test_digests("seed=0") == test_digests("seed=1")
    assert test_digests("dataset.split_seed=1") != test_digests()


@given(
    groups=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=60),
    seed=st.integers(0, 1000),
    fractions=st.sampled_from([(0.5, 0.25, 0.25), (0.8, 0.1, 0.1), (0.1, 0.1, 0.8), (0.2, 0.6, 0.2)]),
)
def test_every_image_is_in_one_split_and_copies_are_together(
    groups: list[tuple[int, int]], seed: int, fractions: tuple[float, float, float]
) -> None:
    # 3 different images of every class, so that the set can be divided at all; some groups hold copies
    groups = [(label, 1) for label in range(4) for _ in range(3)] + groups
    labels = [label for label, copies in groups for _ in range(copies)]
    digests = [f"{number:03d}" for number, (_, copies) in enumerate(groups) for _ in range(copies)]
    images = image_set(labels, digests)
    train, val, test = fractions
    config = settings(split_seed=seed, train_fraction=train, val_fraction=val, test_fraction=test)
    parts = splits.split(images, config)
    rows = np.concatenate([parts.train, parts.val, parts.test])
    assert sorted(rows.tolist()) == list(range(len(images)))
    where = {}
    for name in ("train", "val", "test"):
        part = getattr(parts, name)
        assert set(images.labels[part].tolist()) == {0, 1, 2, 3}
        for row in part:
            assert where.setdefault(images.digests[row], name) == name


def test_identical_images_with_two_labels_stay_together() -> None:
    labels = [0] * 10 + [1] * 10
    digests = ["same" if number in (0, 10) else f"{number:02d}" for number in range(20)]
    parts = splits.split(image_set(labels, digests), settings())
    assert any({0, 10} <= set(part.tolist()) for part in (parts.train, parts.val, parts.test))


def test_max_images_keeps_the_proportions_and_every_images_split(make_config: MakeConfig) -> None:
    everything, all_parts = splits.choose(make_config().dataset)
    some, some_parts = splits.choose(make_config("dataset.max_images=200").dataset)
    assert abs(len(some) - 200) <= 10
    counts = np.bincount(some.labels)
    assert counts.min() >= 18
    assert counts.max() <= 22
    for name, share in (("train", 0.5), ("val", 0.25), ("test", 0.25)):
        drawn = {some.digests[row] for row in getattr(some_parts, name)}
        assert drawn <= {everything.digests[row] for row in getattr(all_parts, name)}
        assert abs(len(drawn) - 200 * share) <= 10


def test_max_images_leaves_every_class_an_image_in_every_split(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="allowed is a whole number from 30 for these 10 classes"):
        splits.choose(make_config("dataset.max_images=29").dataset)
    images, _ = splits.choose(make_config("dataset.max_images=30").dataset)
    assert np.bincount(images.labels).min() >= 3
    assert len(images) <= 40


def test_a_class_without_images_is_named() -> None:
    with pytest.raises(ConfigError, match=r"the class class1 has 0 different image\(s\)"):
        splits.split(image_set([0] * 5 + [2] * 5, [f"{n}" for n in range(10)]), settings())
