"""What is kept in the cache, with a byte flipped: found, named, and well again after the remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.doctor.conftest import Doctor
from tests.images import write_classes

from graft import paths
from graft.backbones import folder_cache
from graft.config_dataset import ImageFolderConfig
from graft.data import sources, tfds
from graft.data.splits import Rows
from graft.data.store import open_store
from graft.features import tflite_file
from graft.features.store import Matrix, features_of

KEY = "0123456789abcdef01234567"
OTHER, THIRD, FOURTH = KEY[4:], KEY[8:], KEY[12:]  # whose ids differ


def store_images(folder: Path) -> None:
    write_classes(folder / "photos", {"cat": 4, "dog": 4})
    fractions = {"train_fraction": 0.5, "val_fraction": 0.25, "test_fraction": 0.25}
    settings = {
        "max_images": None,
        "image_size": 8,
        "splits": "auto",
        "split_seed": 0,
        "on_corrupt": "error",
        **fractions,
    }
    config = ImageFolderConfig.model_validate({"name": "image_folder", "path": str(folder / "photos"), **settings})
    open_store(sources.load(config), 8, on_corrupt="error")


def store_features(folder: Path) -> None:
    def backbone(rows: Rows) -> Iterator[Matrix]:
        yield np.ones((len(rows), 5), np.float32)

    features_of(["0", "1"], KEY, backbone)
    features_of(["0", "1", "2"], KEY, backbone)  # a second part


def store_backbone(folder: Path) -> None:
    def build(empty: Path) -> None:
        (empty / "saved_model.pb").write_bytes(b"graph")

    folder_cache.ensure(paths.cache() / "backbones" / f"tiny-{OTHER}", build)


def store_engine(folder: Path) -> None:
    def build(empty: Path) -> None:
        (empty / tflite_file.NAME).write_bytes(b"converted")

    folder_cache.ensure(paths.cache() / "engines" / f"xnnpack-{THIRD}", build, tflite_file.digest)


def store_index(folder: Path) -> None:
    index = paths.cache() / "indexes" / f"cats_and_dogs-{FOURTH}"
    index.mkdir(parents=True)
    rows = {name: np.zeros((100, 32) if name == "digests" else 100, np.uint8) for name in tfds.COLUMNS}
    np.savez(index / tfds.ROWS, **rows)
    (index / tfds.FACTS).write_text("{}")


KINDS = {
    "images": (store_images, "pixels.npy"),
    "features": (store_features, "*.npy"),
    "backbones": (store_backbone, "saved_model.pb"),
    "engines": (store_engine, tflite_file.NAME),
    "indexes": (store_index, tfds.ROWS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_found_and_the_remedy_works(
    kind: str, doctor: Doctor, home: Path, tmp_path: Path, follow: Callable[[str | None], None]
) -> None:
    for store, _ in KINDS.values():
        store(tmp_path)
    assert doctor().problems == []
    assert doctor().only(kind).text.startswith("1 stored, ")
    file = min((paths.cache() / kind).glob(f"*/{KINDS[kind][1]}"))
    content = bytearray(file.read_bytes())
    content[len(content) // 4] ^= 1
    file.write_bytes(content)
    found = doctor()
    assert (found.exit_status, found.problems) == (1, [kind])
    damaged = found.only(kind)
    assert str(file.parent) in damaged.text
    if kind == "features":
        assert f"1 of 2 parts are not what was written: {file.stem}" in damaged.text
    assert file.read_bytes() == content  # looking removes nothing
    if kind in ("backbones", "engines"):  # this process, which made them, holds them
        return
    follow(damaged.remedy)
    assert doctor().only(kind).text == "none stored"
    assert doctor().exit_status == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_lost_its_index_is_not_whole(kind: str, doctor: Doctor, home: Path, tmp_path: Path) -> None:
    store, _ = KINDS[kind]
    store(tmp_path)
    for index in (paths.cache() / kind).glob("*/*.json"):
        if index.name != "about.json":
            index.write_text('{"sha256"')
    assert doctor().problems == [kind]
