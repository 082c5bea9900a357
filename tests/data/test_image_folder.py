"""Image folders: prepared splits, links, names and what file managers leave behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.images import write_classes

from graft.config import Config
from graft.data import pipeline, sources, splits
from graft.data.image_set import ImageSet
from graft.errors import ConfigError

MakeConfig = Callable[..., Config]
Choose = Callable[..., tuple[ImageSet, splits.Splits]]


@pytest.fixture
def choose(make_config: MakeConfig, tmp_path: Path) -> Choose:
    def chosen(*overrides: str) -> tuple[ImageSet, splits.Splits]:
        config = make_config("dataset=image_folder", f"dataset.path={tmp_path}/photos", *overrides)
        return splits.choose(config.dataset)

    return chosen


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Prepared splits, one folder each, with other images in each."""
    for seed, (split, count) in enumerate({"train": 8, "val": 3, "test": 5}.items()):
        write_classes(tmp_path / "photos" / split, {"cat": count, "dog": count}, size=8, seed=seed)
    return tmp_path / "photos"


def names(images: ImageSet, rows: np.ndarray) -> set[str]:
    return {images.names[row].split(os.sep)[0] for row in rows}


def test_splits_that_are_folders_are_used(photos: Path, choose: Choose) -> None:
    images, parts = choose()
    assert (len(parts.train), len(parts.val), len(parts.test)) == (16, 6, 10)
    for name in splits.SPLITS:
        assert names(images, getattr(parts, name)) == {name}
    assert images.class_names == ("cat", "dog")


@pytest.mark.parametrize("called", [("training", "valid", "testing"), ("Train", "Validation", "TEST")])
def test_other_names_of_splits_are_understood(photos: Path, choose: Choose, called: tuple[str, ...]) -> None:
    before = choose()[0].sha256()
    for name, other in zip(splits.SPLITS, called, strict=True):
        (photos / name).rename(photos / other)
    assert choose()[0].sha256() == before


def test_a_missing_split_is_cut_from_train(photos: Path, choose: Choose) -> None:
    shutil.rmtree(photos / "val")
    images, parts = choose("dataset.splits=official")
    assert (len(parts.train), len(parts.val), len(parts.test)) == (12, 4, 10)
    assert names(images, parts.val) == {"train"}
    assert np.bincount(images.labels[parts.val]).tolist() == [2, 2]


def test_copies_stay_together_when_a_split_is_cut(photos: Path, choose: Choose) -> None:
    shutil.rmtree(photos / "val")
    original = photos / "train" / "cat" / "0000.png"
    for number in range(4):
        shutil.copy(original, photos / "train" / "cat" / f"copy{number}.png")
    for seed in range(6):
        images, parts = choose(f"dataset.split_seed={seed}")
        digest = next(images.digests[row] for row in range(len(images)) if images.names[row].endswith("copy0.png"))
        holding = [name for name in splits.SPLITS if any(images.digests[row] == digest for row in getattr(parts, name))]
        assert len(holding) == 1


def test_prepared_splits_can_be_divided_anew(photos: Path, choose: Choose) -> None:
    images, parts = choose("dataset.splits=resplit")
    assert (len(parts.train), len(parts.val), len(parts.test)) == (16, 8, 8)
    assert names(images, parts.test) > {"train"}


def test_moving_an_image_between_splits_is_another_data_set(photos: Path, choose: Choose) -> None:
    before = choose()[0].sha256()
    (photos / "test" / "cat" / "0000.png").rename(photos / "train" / "cat" / "moved.png")
    assert choose()[0].sha256() != before


def test_images_that_test_and_train_are_told(photos: Path, choose: Choose, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(photos / "train" / "cat" / "0000.png", photos / "test" / "cat" / "leaked.png")
    choose()
    assert "1 images of the official test split are in the training split, too" in caplog.text


def test_max_images_draws_from_prepared_splits(photos: Path, choose: Choose) -> None:
    images, parts = choose("dataset.max_images=16")
    for name in splits.SPLITS:
        assert names(images, getattr(parts, name)) == {name}
    assert (len(parts.train), len(parts.val), len(parts.test)) == (8, 4, 4)


def test_linked_files_and_folders_are_images_like_others(photos: Path, choose: Choose, tmp_path: Path) -> None:
    before = choose()[0].sha256()
    shutil.move(photos / "train" / "cat", tmp_path / "elsewhere")
    (photos / "train" / "cat").symlink_to(tmp_path / "elsewhere")
    (photos / "val" / "dog" / "deeper").mkdir()
    for file in list((photos / "val" / "dog").glob("*.png")):
        (photos / "val" / "dog" / "deeper" / file.name).symlink_to(shutil.move(file, tmp_path / file.name))
    assert choose()[0].sha256() == before


def test_what_file_managers_leave_behind_is_no_image(photos: Path, choose: Choose) -> None:
    before = choose()[0].sha256()
    (photos / "__MACOSX").mkdir()
    (photos / "train" / "__MACOSX").mkdir()
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._0000.png"):
        (photos / "train" / "cat" / name).write_bytes(b"x")
    assert choose()[0].sha256() == before


@pytest.mark.parametrize("name", ["a b.png", "größe 猫.png", "two\nlines.png", "-rf", b"latin\xe9.png", "wrong.jpg"])
def test_whatever_a_file_is_called_it_is_read(make_config: MakeConfig, tmp_path: Path, name: str | bytes) -> None:
    write_classes(tmp_path / "photos", {"cat": 4, "dog": 4}, size=8)
    folder = os.fsencode(tmp_path / "photos" / "cat")
    os.rename(os.path.join(folder, b"0000.png"), os.path.join(folder, os.fsencode(name)))
    config = make_config("dataset=image_folder", f"dataset.path={tmp_path}/photos", "dataset.image_size=8")
    data = pipeline.prepare(*splits.choose(config.dataset), config)
    assert len(data.images) == 8
    assert all(told.isprintable() and told.encode() for told in data.images.names)


def test_names_of_classes_are_one_line_of_text(make_config: MakeConfig, tmp_path: Path) -> None:
    write_classes(tmp_path / "photos", {"wild\ncat": 4, "dog": 4}, size=8)
    config = make_config("dataset=image_folder", f"dataset.path={tmp_path}/photos")
    assert sources.load(config.dataset).class_names == ("dog", "wild\\ncat")


def test_a_folder_that_cannot_be_opened_is_named(photos: Path, choose: Choose, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(folder: Path) -> object:  # tests may run as root, whom no permission stops
        if folder.name == "dog":
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr("graft.data.image_folder.os.scandir", scandir)
    with pytest.raises(ConfigError, match="dog cannot be read: Permission denied"):
        choose()
