"""Fashion-MNIST: from its four original files where they are on the disk, from TFDS elsewhere.

Debian and Ubuntu have the files as the package `dataset-fashion-mnist`. Both sources give the same digests, and so the
same splits and the same results.
"""

from __future__ import annotations

import functools
import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from graft.config_dataset import FashionMnistConfig
from graft.data import tfds
from graft.data.image_set import SPLITS, ImageSet, content_sha256
from graft.errors import ConfigError

PACKAGED = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SIDE = 28  # pixels


@dataclass(frozen=True)
class _IdxFile:
    """One of the original files, in the format idx: a magic number, the length of each dimension, then bytes."""

    name: str
    shape: tuple[int, ...]

    @property
    def header(self) -> bytes:
        return bytes((0, 0, 8, len(self.shape))) + b"".join(length.to_bytes(4, "big") for length in self.shape)


# Images and labels, in the order of SPLITS; there is no validation split.
FILES = {
    "train": (
        _IdxFile("train-images-idx3-ubyte", (60_000, SIDE, SIDE)),
        _IdxFile("train-labels-idx1-ubyte", (60_000,)),
    ),
    "test": (
        _IdxFile("t10k-images-idx3-ubyte", (10_000, SIDE, SIDE)),
        _IdxFile("t10k-labels-idx1-ubyte", (10_000,)),
    ),
}


def load(config: FashionMnistConfig) -> ImageSet:
    """The 70,000 images, divided into 60,000 and 10,000.

    Raises:
        ConfigError: if a file is damaged or missing, and as `tfds.load` does.
        FatalError: if they cannot be downloaded.
    """
    folder = PACKAGED if config.data_dir is None else Path(config.data_dir)
    paths = [_path(folder, file) for pair in FILES.values() for file in pair]
    if not any(path.is_file() for path in paths):
        return tfds.load(config.name, config.data_dir, download=config.download)
    try:
        states = [(path, state.st_ino, state.st_size, state.st_mtime_ns) for path in paths for state in (path.stat(),)]
    except OSError as error:
        raise ConfigError(f"dataset=fashion_mnist: {error.filename} cannot be read: {error.strerror}") from error
    return _read(tuple(states))


@functools.lru_cache(maxsize=1)  # a warm worker asks before every trial
def _read(states: tuple[tuple[Path, int, int, int], ...]) -> ImageSet:
    contents = [
        _array(path, file) for (path, *_), file in zip(states, (f for p in FILES.values() for f in p), strict=True)
    ]
    images = np.concatenate(contents[0::2])[..., np.newaxis]
    labels = np.concatenate(contents[1::2]).astype(np.int32)
    if labels.max() >= len(CLASSES):
        raise ConfigError(
            f"dataset=fashion_mnist: {states[1][0].parent} has labels above {len(CLASSES) - 1}; it is damaged"
        )
    counts = [pair[1].shape[0] for pair in FILES.values()]
    return ImageSet(
        class_names=CLASSES,
        labels=labels,
        digests=tuple(content_sha256(image) for image in images),
        names=tuple(
            f"fashion_mnist {split}[{row}]" for split, count in zip(FILES, counts, strict=True) for row in range(count)
        ),
        read=lambda row: images[row],
        official=np.repeat(np.array([SPLITS.index(split) for split in ("train", "test")], np.int8), counts),
    )


def _path(folder: Path, file: _IdxFile) -> Path:
    """Where a file lies, as it was published or unpacked."""
    return next(
        (path for path in (folder / f"{file.name}.gz", folder / file.name) if path.is_file()),
        folder / f"{file.name}.gz",
    )


def _array(path: Path, file: _IdxFile) -> npt.NDArray[np.uint8]:
    size = len(file.header) + int(np.prod(file.shape))
    wrong = f"dataset=fashion_mnist: {path} is damaged: "
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as opened:
            content = opened.read(size + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"{wrong}{error}") from error
    except OSError as error:
        raise ConfigError(f"dataset=fashion_mnist: {path} cannot be read: {error.strerror or error}") from error
    if len(content) != size:
        held = "more" if len(content) > size else f"{len(content):,}"
        raise ConfigError(f"{wrong}it holds {held} bytes, and {size:,} are wanted")
    if not content.startswith(file.header):
        raise ConfigError(f"{wrong}it starts with {content[: len(file.header)].hex()} and not {file.header.hex()}")
    return np.frombuffer(content, np.uint8, offset=len(file.header)).reshape(file.shape)
