"""Image sets: what is found, in which order, and what a folder that is none is answered."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.images import write_classes

from graft.config import Config
from graft.data import sources, splits
from graft.errors import ConfigError

MakeConfig = Callable[..., Config]


def folder_config(make_config: MakeConfig, folder: Path, *overrides: str) -> Config:
    return make_config("dataset=image_folder", f"dataset.path={folder}", *overrides)


def test_digits_are_1797_images_of_10_classes(make_config: MakeConfig) -> None:
    digits = sources.load(make_config().dataset)
    assert len(digits) == 1797
    assert digits.class_names == tuple("0123456789")
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    image = digits.read(0)
    assert isinstance(image, np.ndarray)
    assert image.shape == (8, 8, 1)
    assert image.max() == 255


def test_neither_names_nor_places_of_files_matter(make_config: MakeConfig, tmp_path: Path) -> None:
    write_classes(tmp_path / "a", {"cat": 4, "dog": 5})
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for number, file in enumerate(sorted((tmp_path / "b" / "dog").iterdir())):
        file.rename(file.with_name(f"{9 - number}.renamed"))
    one, two = (sources.load(folder_config(make_config, tmp_path / name).dataset) for name in "ab")
    assert one.digests == two.digests
    assert one.sha256() == two.sha256()
    assert [one.class_names[label] for label in one.labels].count("dog") == 5


def test_the_fingerprint_follows_content_and_class(make_config: MakeConfig, tmp_path: Path) -> None:
    write_classes(tmp_path / "a", {"cat": 4, "dog": 5})
    before = sources.load(folder_config(make_config, tmp_path / "a").dataset).sha256()
    moved = next((tmp_path / "a" / "dog").iterdir())
    moved.rename(tmp_path / "a" / "cat" / "moved.png")
    assert sources.load(folder_config(make_config, tmp_path / "a").dataset).sha256() != before


def test_hidden_files_and_folders_are_no_images(make_config: MakeConfig, tmp_path: Path) -> None:
    write_classes(tmp_path, {"cat": 4, "dog": 4})
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"x")
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / "LICENSE.txt").write_text("free")
    assert len(sources.load(folder_config(make_config, tmp_path).dataset)) == 8


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        ({}, "there is no sub-folder"),
        ({"cat": 5}, r"one class only \(cat\)"),
        ({"cat": 5, "dog": 0, "eel": 0}, "no image in the class dog, eel"),
        ({"cat": 5, "dog": 2}, r"the class dog has 2 different image\(s\); the three splits need at least 3"),
        ({"train": 4, "val": 4, "test": 4}, "test: there is no sub-folder; one sub-folder a class is wanted"),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_refused_with_the_reason(
    make_config: MakeConfig, tmp_path: Path, classes: dict[str, int], text: str
) -> None:
    write_classes(tmp_path, classes)
    with pytest.raises(ConfigError, match=text):
        splits.choose(folder_config(make_config, tmp_path).dataset)


def test_copies_do_not_count_as_different_images(make_config: MakeConfig, tmp_path: Path) -> None:
    write_classes(tmp_path, {"cat": 5, "dog": 2})
    original = next((tmp_path / "dog").iterdir())
    for number in range(5):
        shutil.copy(original, tmp_path / "dog" / f"copy{number}.png")
    with pytest.raises(ConfigError, match="the class dog has 2 different"):
        splits.choose(folder_config(make_config, tmp_path).dataset)
