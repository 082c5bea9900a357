"""Image sets: which images there are, their classes, and a hash of what each one holds.

An `ImageSet` is in an order of its own, by content hash, so that neither file names nor the order in which
a file system lists them decide anything downstream.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from graft.digests import file_sha256
from graft.errors import ConfigError

if TYPE_CHECKING:
    from graft.config import AnyDatasetConfig, ImageFolderConfig

PREPARED_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


@dataclass(frozen=True)
class ImageSet:
    """Labelled images, not yet read.

    Attributes:
        class_names: The classes; a label is an index into them.
        labels: int32 [images].
        digests: SHA-256 of each image's content as hexadecimal text.
        names: What to call each image in a message.
        read: Gives the content of one image: encoded bytes, or uint8 [height, width, channels].
            May be called from several threads.
    """

    class_names: tuple[str, ...]
    labels: npt.NDArray[np.int32]
    digests: tuple[str, ...]
    names: tuple[str, ...]
    read: Callable[[int], bytes | npt.NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.digests)

    def take(self, rows: npt.NDArray[np.int64]) -> ImageSet:
        """The images at `rows`, in that order. The classes stay, even those that are left without an image."""
        return ImageSet(
            class_names=self.class_names,
            labels=self.labels[rows],
            digests=tuple(self.digests[row] for row in rows),
            names=tuple(self.names[row] for row in rows),
            read=lambda index: self.read(int(rows[index])),
        )

    def sha256(self) -> str:
        """Fingerprint of the set: the images' contents and classes, not their names or places."""
        lines = sorted(
            f"{digest} {self.class_names[label]}" for digest, label in zip(self.digests, self.labels, strict=True)
        )
        return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def load(config: AnyDatasetConfig) -> ImageSet:
    """Finds and hashes the images that the configuration names.

    Raises:
        ConfigError: if there are no classes, one only, or one without an image.
    """
    match config.name:
        case "digits":
            found = _digits()
        case "image_folder":
            found = _image_folder(config)
    order = np.array(
        sorted(range(len(found)), key=lambda row: (found.digests[row], found.labels[row], found.names[row]))
    )
    return found.take(order)


def _digits() -> ImageSet:
    # A late import: scikit-learn takes a second, and not everyone trains on its digits.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]  # 16 grey levels in the original
    return ImageSet(
        class_names=tuple(str(digit) for digit in bunch.target_names),
        labels=bunch.target.astype(np.int32),
        digests=tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in images),
        names=tuple(f"digits[{row}]" for row in range(len(images))),
        read=lambda row: images[row],
    )


def _image_folder(config: ImageFolderConfig) -> ImageSet:
    root = Path(config.path)
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    where = f"dataset.path={root}"
    if folders and {folder.name.lower() for folder in folders} <= PREPARED_SPLITS:
        raise ConfigError(
            f"{where}: the sub-folders are splits ({', '.join(f.name for f in folders)}), and prepared splits cannot "
            "be read yet; give a folder with one sub-folder a class"
        )
    if not folders:
        raise ConfigError(f"{where}: there is no sub-folder; one sub-folder a class is wanted")
    if len(folders) == 1:
        raise ConfigError(f"{where}: there is one class only ({folders[0].name}); a classifier needs two or more")
    # Every visible file counts as an image: its content decides whether it is one, not its suffix.
    files = [[f for f in sorted(folder.rglob("*")) if f.is_file() and not f.name.startswith(".")] for folder in folders]
    if empty := [folder.name for folder, inside in zip(folders, files, strict=True) if not inside]:
        raise ConfigError(f"{where}: no image in the class {', '.join(empty)}; every class needs at least three")
    paths = [path for inside in files for path in inside]
    labels = [label for label, inside in enumerate(files) for _ in inside]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        digests = tuple(pool.map(_file_sha256, paths))
    return ImageSet(
        class_names=tuple(folder.name for folder in folders),
        labels=np.array(labels, np.int32),
        digests=digests,
        names=tuple(str(path.relative_to(root)) for path in paths),
        read=lambda row: paths[row].read_bytes(),
    )


def _file_sha256(path: Path) -> str:
    try:
        state = path.stat()
        return _sha256_of(path, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    except OSError as error:
        raise ConfigError(f"dataset.path: {path} cannot be read: {error.strerror}") from error


@functools.cache  # a warm worker asks before every trial, and a large set takes minutes to read
def _sha256_of(path: Path, *_state: int) -> str:
    """The digest of a file that is still what its `_state` says."""
    return file_sha256(path)
