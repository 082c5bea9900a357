"""Folders that may hold images: an image set of what lies there, or a ConfigError; and the folder stays as it was."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.examples import NAMES, fuzzed, tree

from graft.config_dataset import ImageFolderConfig
from graft.data.image_folder import LEFT_BEHIND, SPLIT_OF, read_folder
from graft.data.image_set import ImageSet
from graft.errors import ConfigError

FOLDERS = st.one_of(
    st.sampled_from(
        ["cat", "dog", "cat.png", "train", "val", "test", "Train", "validation", ".hidden", "__MACOSX", "deeper"]
    ),
    NAMES,
)
FILES = st.one_of(st.sampled_from(["a.png", "b.jpg", "c", "Thumbs.db", ".DS_Store", "train", "x" * 255]), NAMES)
LINKS = st.sampled_from(
    [".", "..", "../..", "../outside", "nowhere", "self", "cat", "../cat", "/dev/null", "/dev/zero", "/", "a.png"]
)
Node = dict[str, Any] | bytes | str | None

NODES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.binary(max_size=6), st.binary(max_size=6), LINKS, st.none()),
    lambda inner: st.dictionaries(st.one_of(FOLDERS, FILES), inner, max_size=4),
    max_leaves=12,
)
# Mostly as it should be, so that more than the first check is reached.
CLASSES = st.dictionaries(
    FOLDERS,
    st.dictionaries(FILES, st.one_of(st.binary(max_size=6), st.binary(max_size=6), NODES), min_size=1, max_size=4),
    max_size=4,
)
SPLIT = st.dictionaries(st.sampled_from(["train", "val", "test", "training", "valid", "other"]), CLASSES, max_size=3)


def write(folder: Path, node: dict[str, Any]) -> None:
    """A tree of folders, files (bytes), links (texts) and pipes (None)."""
    folder.mkdir()
    for name, inner in node.items():
        path = folder / name
        match inner:
            case dict():
                write(path, inner)
            case bytes():
                path.write_bytes(inner)
            case None:
                os.mkfifo(path)
            case _:
                path.symlink_to(path if inner == "self" else inner)


def expected(node: dict[str, Any]) -> set[tuple[str, str]] | None:
    """Class and path of each image, where a tree is made of visible files in classes and nothing else; else None."""
    shown = {n: inner for n, inner in node.items() if not n.startswith(".") and n.lower() not in LEFT_BEHIND}
    if not all(isinstance(inner, dict) for inner in shown.values()) or {n.lower() for n in shown} & SPLIT_OF.keys():
        return None
    found: set[tuple[str, str]] = set()
    for name, inner in shown.items():
        files = {n: f for n, f in inner.items() if not n.startswith(".") and n.lower() not in LEFT_BEHIND}
        if not files or not all(isinstance(file, bytes) for file in files.values()):
            return None
        found |= {(name, f"{name}/{file}") for file in files}
    return found if len(shown) > 1 else None


def config_of(folder: Path) -> ImageFolderConfig:
    return ImageFolderConfig(
        name="image_folder", path=str(folder), max_images=None, image_size=None, splits="auto", split_seed=0,
        train_fraction=0.5, val_fraction=0.25, test_fraction=0.25, on_corrupt="error",
    )  # fmt: skip


def as_plain(images: ImageSet) -> object:
    official = None if images.official is None else images.official.tolist()
    return images.class_names, images.labels.tolist(), images.digests, images.names, official, images.sha256()


@pytest.fixture(scope="module")
def around(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("around")
    (folder / "outside").mkdir()
    (folder / "outside" / "z.png").write_bytes(b"z")
    return folder


@fuzzed("image folder", 150, 4_000)
@given(st.one_of(CLASSES, SPLIT, st.dictionaries(st.one_of(FOLDERS, FILES), NODES, max_size=5)))
def test_any_folder_is_an_image_set_or_told(around: Path, node: dict[str, Any]) -> None:
    photos = around / "photos"
    if photos.exists():
        shutil.rmtree(photos)
    try:
        write(photos, node)
    except OSError:
        return  # two names that are one to this file system, or one that is too long for it
    before = tree(around)
    try:
        images = read_folder(config_of(photos))
    except ConfigError as error:
        for problem in error.problems:
            assert problem.isprintable(), "no line breaks, and nothing that a terminal would obey"
            assert problem.startswith("dataset.path")
        assert expected(node) is None or "same name once it is printed" in str(error)
        assert tree(around) == before
        return
    assert tree(around) == before
    assert as_plain(read_folder(config_of(photos))) == as_plain(images)
    assert len(set(images.class_names)) == len(images.class_names) > 1
    assert all(name.isprintable() for name in (*images.names, *images.class_names))
    assert [len(images.read(row)) >= 0 for row in range(len(images))]
    if (wanted := expected(node)) is not None:
        assert len(images) == len(wanted)
        assert len(images.class_names) == len({name for name, _ in wanted})
