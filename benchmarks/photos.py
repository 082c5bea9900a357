"""Which photo trains, which validates and which tests: Graft's own splits, so that all contestants see the same."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from graft.config import from_hydra
from graft.data import splits
from graft.paths import CHECKOUT

SHARED = CHECKOUT.parent / "shared" / "data" / "flower_photos_1000"


class Labelled(NamedTuple):
    """Files of one split and the number of each one's class, in no order that could help or hinder."""

    files: list[str]
    labels: list[int]


def overrides(photos: Path, max_images: int | None) -> list[str]:
    """What selects these photos on Graft's command line."""
    quoted = str(photos).replace("\\", "\\\\").replace("'", "\\'")
    drawn = "null" if max_images is None else str(max_images)
    return ["dataset=image_folder", f"dataset.path='{quoted}'", f"dataset.max_images={drawn}"]


def composed(photos: Path, max_images: int | None) -> DictConfig:
    """Graft's configuration for these photos."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CHECKOUT / "conf"), version_base="1.3"):
        return compose("config", overrides=overrides(photos, max_images))


def split(photos: Path, max_images: int | None = None) -> tuple[Labelled, Labelled, Labelled]:
    """Training, validation and test photos.

    Args:
        photos: One sub-folder a class.
        max_images: About so many of them, the classes in proportion; None for all.

    Raises:
        ConfigError: if they make no data set.
    """
    images, parts = splits.choose(from_hydra(composed(photos, max_images)).dataset)
    train, val, test = (
        Labelled([str(photos / images.names[row]) for row in rows], [int(images.labels[row]) for row in rows])
        for rows in (parts.train, parts.val, parts.test)
    )
    return train, val, test
