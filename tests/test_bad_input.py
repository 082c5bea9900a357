"""What people get wrong, in data and configuration: every mistake is answered in words, and none is taken silently."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.images import write_classes

from graft import datasets
from graft.config import Config
from graft.data import pipeline, splits
from graft.errors import GraftError

MakeConfig = Callable[..., Config]
Break = Callable[[Path], object]


def nothing(photos: Path) -> None:
    pass


def empty(photos: Path) -> None:
    shutil.rmtree(photos)
    photos.mkdir()


def only_loose_files(photos: Path) -> None:
    empty(photos)
    Image.new("RGB", (4, 4)).save(photos / "a.png")


def one_class(photos: Path) -> None:
    shutil.rmtree(photos / "dog")


def an_empty_class(photos: Path) -> None:
    (photos / "eel").mkdir()


def a_class_of_thumbnails(photos: Path) -> None:
    (photos / "eel").mkdir()
    (photos / "eel" / "Thumbs.db").write_bytes(b"x")


def two_images_in_a_class(photos: Path) -> None:
    for file in sorted((photos / "dog").iterdir())[2:]:
        file.unlink()


def copies_of_one_image(photos: Path) -> None:
    for file in sorted((photos / "dog").iterdir()):
        shutil.copy(photos / "dog" / "0000.png", file) if file.name != "0000.png" else None


def write(name: str, content: bytes) -> Break:
    return lambda photos: (photos / "cat" / name).write_bytes(content)


def cut_off(photos: Path) -> None:
    content = (photos / "cat" / "0000.png").read_bytes()
    (photos / "cat" / "0000.png").write_bytes(content[: len(content) // 2])


def a_tiff(photos: Path) -> None:
    Image.new("RGB", (4, 4)).save(photos / "cat" / "scan.tif")


def a_damaged_jpeg(photos: Path) -> None:
    random = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(random).save(photos / "cat" / "photo.jpg")
    os.truncate(photos / "cat" / "photo.jpg", 900)


def a_link_to_nowhere(photos: Path) -> None:
    (photos / "cat" / "lost.png").symlink_to(photos / "nowhere.png")


def a_link_to_itself(photos: Path) -> None:
    (photos / "cat" / "loop.png").symlink_to(photos / "cat" / "loop.png")


def a_link_around(photos: Path) -> None:
    (photos / "cat" / "again").symlink_to(photos / "cat")


def a_link_up(photos: Path) -> None:
    (photos / "cat" / "deeper").mkdir()
    (photos / "cat" / "deeper" / "up").symlink_to(photos / "cat")


def a_pipe(photos: Path) -> None:
    os.mkfifo(photos / "cat" / "pipe")


def a_link_to_a_device(photos: Path) -> None:
    (photos / "cat" / "null.png").symlink_to("/dev/null")


def all_broken_in_a_class(photos: Path) -> None:
    for file in (photos / "dog").iterdir():
        file.write_bytes(b"x" + file.name.encode())


def as_splits(*names: str) -> Break:
    def move(photos: Path) -> None:
        whole = photos.rename(photos.with_name("whole"))
        for seed, name in enumerate(names):
            write_classes(photos / name, {"cat": 4, "dog": 4}, size=8, seed=seed)
        shutil.rmtree(whole)

    return move


def a_class_misspelt_in_one_split(photos: Path) -> None:
    as_splits("train", "val", "test")(photos)
    (photos / "val" / "dog").rename(photos / "val" / "dgo")


def a_class_missing_in_one_split(photos: Path) -> None:
    as_splits("train", "val", "test")(photos)
    shutil.rmtree(photos / "test" / "dog")


def a_split_without_classes(photos: Path) -> None:
    as_splits("train", "test")(photos)
    shutil.rmtree(photos / "test")
    (photos / "test").mkdir()
    Image.new("RGB", (4, 4)).save(photos / "test" / "a.png")


def splits_and_something_else(photos: Path) -> None:
    as_splits("train", "val", "test")(photos)
    (photos / "unlabelled").mkdir()


FOLDER = ["dataset=image_folder", "dataset.path={photos}", "dataset.image_size=8"]
TFDS = ["dataset=tfds", "dataset.data_dir={empty}"]
FASHION = ["dataset=fashion_mnist", "dataset.data_dir={empty}", "dataset.download=false"]

# What is wrong, what breaks the folder, the overrides, and what the answer has to say.
MISTAKES: list[tuple[str, Break, list[str], list[str]]] = [
    # The folder
    ("the folder is empty", empty, FOLDER, ["{photos}: there is no sub-folder"]),
    ("the photos lie in no sub-folder", only_loose_files, FOLDER, ["there is no sub-folder"]),
    ("there is one class", one_class, FOLDER, ["one class only (cat)"]),
    ("a class is empty", an_empty_class, FOLDER, ["no image in the class eel"]),
    ("a class holds a Thumbs.db alone", a_class_of_thumbnails, FOLDER, ["no image in the class eel"]),
    ("a class has two images", two_images_in_a_class, FOLDER, ["the class dog has 2 different"]),
    ("a class has one image, copied", copies_of_one_image, FOLDER, ["the class dog has 1 different"]),
    ("the path is misspelt", nothing, [*FOLDER, "dataset.path={photos}s"], ["did you mean {photos}?"]),
    ("the path is a file", nothing, [*FOLDER, "dataset.path={photos}/cat/0000.png"], ["is a file"]),
    ("the path is a class", nothing, [*FOLDER, "dataset.path={photos}/cat"], ["there is no sub-folder"]),
    ("the path is left out", nothing, ["dataset=image_folder"], ["dataset.path is not set"]),
    ("the path is a number", nothing, [*FOLDER, "dataset.path=5"], ["dataset.path=5: allowed is a folder"]),
    ("the path is too long", nothing, [*FOLDER, "dataset.path=" + "a" * 300], ["File name too long"]),
    # Files
    ("a file is empty", write("empty.png", b""), FOLDER, ["cat/empty.png: the file is empty"]),
    ("a file is a text", write("notes.txt", b"hello"), FOLDER, ["cat/notes.txt: no JPEG"]),
    ("a PNG is cut off", cut_off, FOLDER, ["cat/0000.png: a PNG that is damaged or cut off"]),
    ("a JPEG is cut off", a_damaged_jpeg, FOLDER, ["cat/photo.jpg: a JPEG that is damaged or cut off"]),
    ("a file is a TIFF", a_tiff, FOLDER, ["cat/scan.tif: no JPEG, PNG, GIF, BMP or WebP"]),
    ("a file is a web page", write("a.jpg", b"<html>404</html>"), FOLDER, ["cat/a.jpg: no JPEG"]),
    ("its name has two lines", write("a\nb.png", b""), FOLDER, ["cat/a\\nb.png: the file is empty"]),
    ("a link leads nowhere", a_link_to_nowhere, FOLDER, ["lost.png cannot be read: No such file"]),
    ("a link leads to itself", a_link_to_itself, FOLDER, ["loop.png cannot be read: Too many levels"]),
    ("a folder holds itself", a_link_around, FOLDER, ["cat/again leads back to a folder that it lies in"]),
    ("a deeper folder leads up", a_link_up, FOLDER, ["deeper/up leads back to a folder"]),
    ("a file is a pipe", a_pipe, FOLDER, ["cat/pipe is neither a file nor a folder"]),
    ("a link leads to a device", a_link_to_a_device, FOLDER, ["null.png cannot be read: it is no file"]),
    (
        "a class is left without images",
        all_broken_in_a_class,
        [*FOLDER, "dataset.on_corrupt=skip"],
        ["no readable image of the class dog is left in the train split"],
    ),
    # Splits
    ("there is train/ alone", as_splits("train"), FOLDER, ["with dataset.path={photos}/train Graft divides"]),
    ("there is no train/", as_splits("val", "test"), FOLDER, ["there is no train/ beside test/, val/"]),
    ("a split is there twice", as_splits("train", "val", "validation"), FOLDER, ["val/ and validation/ are the same"]),
    ("a class is misspelt in val/", a_class_misspelt_in_one_split, FOLDER, ["dgo is in val/", "did you mean dog?"]),
    ("a class is missing in test/", a_class_missing_in_one_split, FOLDER, ["dog is in train/ and not in test/"]),
    ("test/ has no classes", a_split_without_classes, FOLDER, ["{photos}/test: there is no sub-folder"]),
    ("splits lie beside others", splits_and_something_else, FOLDER, ["unlabelled/", "side by side"]),
    ("there are no official splits", nothing, [*FOLDER, "dataset.splits=official"], ["image_folder comes undivided"]),
    ("digits have none either", nothing, ["dataset.splits=official"], ["dataset.splits=official: the digits"]),
    ("splits is misspelt", nothing, [*FOLDER, "dataset.splits=offical"], ["did you mean official?"]),
    # Sets of TFDS
    ("the name is left out", nothing, TFDS, ["dataset.name is not set", "the name of a data set of TFDS"]),
    (
        "the name is misspelt",
        nothing,
        [*TFDS, "dataset.name=cifar_10"],
        ["TFDS has no such data set", "did you mean cifar10?"],
    ),
    ("the name is capital", nothing, [*TFDS, "dataset.name=MNIST"], ["did you mean mnist?"]),
    ("the name is a path", nothing, [*TFDS, "dataset.name=../mnist"], ["allowed is the name of a data set of TFDS"]),
    ("the name is a number", nothing, [*TFDS, "dataset.name=10"], ["dataset.name=10: allowed is the name"]),
    (
        "it is not there",
        nothing,
        [*TFDS, "dataset.name=mnist", "dataset.download=false"],
        ["nothing is", "dataset.download=true"],
    ),
    (
        "data_dir is misspelt",
        nothing,
        [*TFDS, "dataset.name=mnist", "dataset.data_dir={photos}s"],
        ["did you mean {photos}?"],
    ),
    (
        "data_dir is a file",
        nothing,
        [*TFDS, "dataset.name=mnist", "dataset.data_dir={photos}/cat/0000.png"],
        ["is a file"],
    ),
    (
        "download is a word",
        nothing,
        [*TFDS, "dataset.name=mnist", "dataset.download=no"],
        ["dataset.download=no: allowed is true or false"],
    ),
    (
        "path for a set of TFDS",
        nothing,
        [*TFDS, "dataset.name=mnist", "+dataset.path=."],
        ["dataset.path=.: there is no such key"],
    ),
    ("data_dir for a folder", nothing, [*FOLDER, "+dataset.data_dir=."], ["dataset.data_dir=.: there is no such key"]),
    ("Fashion-MNIST is not there", nothing, FASHION, ["fashion_mnist: it is not prepared in", "dataset.download=true"]),
    (
        "a name alone changes the set",
        nothing,
        ["dataset.name=mnist"],
        ["dataset.name=mnist: allowed are digits, image_folder"],
    ),
    # Training on them
    (
        "weights are misspelt",
        nothing,
        ["class_weights=balance"],
        ["class_weights=balance: allowed is none or balanced", "did you mean balanced?"],
    ),
    ("weights are true", nothing, ["class_weights=true"], ["class_weights=true: allowed is none or balanced"]),
    (
        "the schedule is misspelt",
        nothing,
        ["learning_rate_schedule=cosin"],
        ["allowed is constant, cosine or exponential", "did you mean cosine?"],
    ),
    (
        "the schedule is null",
        nothing,
        ["learning_rate_schedule=null"],
        ["learning_rate_schedule=null: allowed is constant"],
    ),
    (
        "fewer images than classes",
        nothing,
        [*FOLDER, "dataset.max_images=5"],
        ["dataset.max_images=5: allowed is a whole number from 6"],
    ),
    ("sizes do not add up", nothing, [*FOLDER, "dataset.test_fraction=0.5"], ["must add up to 1; they give 1.25"]),
]


def prepare(make_config: MakeConfig, overrides: Sequence[str]) -> pipeline.Data:
    config = make_config(*overrides)
    return pipeline.prepare(*splits.choose(config.dataset), config)


@pytest.fixture
def answer(make_config: MakeConfig) -> Callable[..., str]:
    """What somebody who made a mistake is told. Anything but an error of Graft's own fails the test by itself."""

    def told(*overrides: str) -> str:
        with pytest.raises(GraftError) as caught:
            prepare(make_config, overrides)
        assert caught.value.status == 2
        return str(caught.value)

    return told


def test_there_are_enough_of_them() -> None:
    assert len({what for what, *_ in MISTAKES}) == len(MISTAKES) >= 40


@pytest.mark.parametrize(("mistake", "overrides", "texts"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_answered_in_words(
    answer: Callable[..., str], tmp_path: Path, mistake: Break, overrides: list[str], texts: list[str]
) -> None:
    photos, bare = tmp_path / "photos", tmp_path / "bare"
    bare.mkdir()
    write_classes(photos, {"cat": 4, "dog": 4}, size=8)
    mistake(photos)
    text = answer(*(override.format(photos=photos, empty=bare) for override in overrides))
    for wanted in texts:
        assert wanted.format(photos=photos) in text


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("tf_flower", "did you mean tf_flowers?"),
        ("/nowhere/photos", "there is no folder /nowhere/photos"),
        ("tfds", "give the name of a data set of TFDS"),
        ("image_folder", "give the folder itself"),
        ("", "Which data set?"),
    ],
)
def test_graft_datasets_answers_too(target: str, wanted: str, home: Path) -> None:
    with pytest.raises(GraftError) as caught:
        datasets.find(target, None, download=False)
    assert wanted in str(caught.value)
