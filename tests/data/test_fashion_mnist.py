"""Fashion-MNIST: its original files, where they are on the disk, and TFDS elsewhere give the same images."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import backbone_at
from tests.tfds_sets import prepare

from graft.config import Config
from graft.data import fashion_mnist, splits
from graft.data.fashion_mnist import _IdxFile
from graft.errors import ConfigError
from graft.run import run
from graft.tracking.recorder import MemoryRecorder

MakeConfig = Callable[..., Config]
SIZES = {"train": 120, "test": 40}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same format with fewer images: the real files hold 70,000."""
    files = {
        split: tuple(_IdxFile(file.name, (SIZES[split], *file.shape[1:])) for file in pair)
        for split, pair in fashion_mnist.FILES.items()
    }
    monkeypatch.setattr(fashion_mnist, "FILES", files)
    monkeypatch.setattr(fashion_mnist, "PACKAGED", Path("/nowhere"))


def arrays(split: str) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(len(split))
    images = random.integers(0, 256, (SIZES[split], 28, 28)).astype(np.uint8)
    return images, (np.arange(SIZES[split]) % 10).astype(np.uint8)


@pytest.fixture
def folder(small: None, tmp_path: Path) -> Path:
    for split, pair in fashion_mnist.FILES.items():
        for file, content in zip(pair, arrays(split), strict=True):
            (tmp_path / f"{file.name}.gz").write_bytes(gzip.compress(file.header + content.tobytes()))
    return tmp_path


def chosen(make_config: MakeConfig, folder: Path, *overrides: str) -> tuple[splits.ImageSet, splits.Splits]:
    named = ["dataset=fashion_mnist", f"dataset.data_dir={folder}", "dataset.download=false"]
    return splits.choose(make_config(*named, *overrides).dataset)


def test_the_official_test_split_tests(make_config: MakeConfig, folder: Path) -> None:
    images, parts = chosen(make_config, folder)
    assert (len(parts.train), len(parts.val), len(parts.test)) == (90, 30, 40)
    assert {images.read(row).tobytes() for row in parts.test} == {image.tobytes() for image in arrays("test")[0]}
    assert images.class_names[9] == "Ankle boot"
    for row in range(len(images)):
        split = "test" if images.official[row] == 2 else "train"
        place = int(images.names[row].split("[")[1][:-1])
        np.testing.assert_array_equal(images.read(row)[..., 0], arrays(split)[0][place])
        assert images.labels[row] == arrays(split)[1][place]


def test_files_that_were_unpacked_are_read_too(make_config: MakeConfig, folder: Path) -> None:
    before = chosen(make_config, folder)[0].sha256()
    for file in list(folder.iterdir()):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    assert chosen(make_config, folder)[0].sha256() == before


def test_tfds_gives_the_same_images_and_splits(make_config: MakeConfig, folder: Path, tmp_path: Path) -> None:
    examples = {
        split: [(image[..., np.newaxis], int(label)) for image, label in zip(*arrays(split), strict=True)]
        for split in SIZES
    }
    prepared = tmp_path / "tfds"
    prepare(prepared, examples, name="fashion_mnist", class_names=fashion_mnist.CLASSES, shape=(28, 28, 1))
    of_files, of_tfds = chosen(make_config, folder), chosen(make_config, prepared)
    assert of_tfds[0].sha256() == of_files[0].sha256()
    assert of_tfds[0].digests == of_files[0].digests
    for name in splits.SPLITS:
        np.testing.assert_array_equal(getattr(of_tfds[1], name), getattr(of_files[1], name))


def test_it_trains(make_config: MakeConfig, folder: Path, tiny_backbone: Path, tmp_path: Path) -> None:
    overrides = ["dataset=fashion_mnist", f"dataset.data_dir={folder}", "+size=smoke", *backbone_at(tiny_backbone)]
    assert run(make_config(*overrides), MemoryRecorder(), tmp_path / "run").test_accuracy is not None


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda content: content[:-500], "Compressed file ended"),
        (lambda content: content[:100] + b"xx" + content[102:], "is damaged"),
        (lambda content: b"<html>404</html>", "Not a gzipped file"),
        (lambda content: gzip.compress(gzip.decompress(content)[:-1]), "94,095 bytes, and 94,096 are wanted"),
        (lambda content: gzip.compress(gzip.decompress(content) + b"x"), "more bytes"),
        (lambda content: gzip.compress(b"\0\0\x08\x01" + gzip.decompress(content)[4:]), "it starts with 00000801"),
        (lambda content: b"", "it holds 0 bytes"),
    ],
)
def test_a_damaged_file_is_named(
    make_config: MakeConfig, folder: Path, damage: Callable[[bytes], bytes], text: str
) -> None:
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ConfigError, match=r"train-images-idx3-ubyte\.gz is damaged") as caught:
        chosen(make_config, folder)
    assert text in str(caught.value)


def test_a_missing_file_is_named(make_config: MakeConfig, folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ConfigError, match=r"t10k-labels-idx1-ubyte\.gz cannot be read: No such file"):
        chosen(make_config, folder)


def test_labels_that_are_none_are_noticed(make_config: MakeConfig, folder: Path) -> None:
    file = folder / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[-1] = 10
    file.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(ConfigError, match="has labels above 9"):
        chosen(make_config, folder)


def test_debians_package_is_read_without_the_network(make_config: MakeConfig) -> None:
    if not fashion_mnist.PACKAGED.is_dir():
        pytest.skip(f"Debian's dataset-fashion-mnist is not installed: there is no {fashion_mnist.PACKAGED}")
    config = make_config("dataset=fashion_mnist", "dataset.download=false").dataset
    images, parts = splits.choose(config)
    assert (len(parts.train), len(parts.val), len(parts.test)) == (45_000, 15_000, 10_000)
    assert np.bincount(images.labels).tolist() == [7_000] * 10
