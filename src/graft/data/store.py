"""The store of resized images: every image is decoded and resized once, whatever trains on it later.

A store is one uint8 file, [images, size, size, 3], under `images` of the cache. It is read image by image
through the operating system's page cache: all trials on a machine share that, it keeps in memory what fits, and
a set larger than memory works like any other. Its key is made from the images' hashes, the size and the version
below.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from graft.cache import marks
from graft.cache.removal import again_if_removed
from graft.cpus import usable_cpus
from graft.data import image_files
from graft.data.decode import FORMATS_IN_WORDS, UnreadableImage, pixels_of
from graft.data.image_set import Content, ImageSet, content_sha256
from graft.digests import file_sha256
from graft.errors import ConfigError, FatalError
from graft.paths import cache

log = logging.getLogger(__name__)

VERSION = 3  # goes up when decoding or resizing gives other pixels
LISTED = 20  # unreadable images named in one message
AHEAD = 4  # images a CPU that are decoded before they can be written, or memory would grow with the data set

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ImageStore:
    """Resized images of one set.

    Attributes:
        images: The readable images.
        places: int64 [readable images], where each of them lies in the file.
        file: The pixels, RGB; unreadable images are black there.
        unreadable: Names of the images that were left out.
    """

    images: ImageSet
    places: npt.NDArray[np.int64]
    file: PixelFile
    unreadable: tuple[str, ...]

    @property
    def spec(self) -> tf.TensorSpec:
        """Shape and dtype of one image."""
        return tf.TensorSpec(self.file.shape[1:], tf.uint8)

    def take(self, rows: npt.NDArray[np.int64]) -> Image:
        """The images at `rows` of `images` as uint8 [rows, size, size, 3]."""
        return self.file.take(self.places[rows])


class PixelFile:
    """uint8 [images, size, size, 3] in a file, read image by image. May be read from several threads.

    Not by a memory map: the pages it touches count as the process's memory, and a disk that is waited for in a
    page fault is waited for with Python's lock held.

    Args:
        path: A `.npy` file. It may be removed or replaced later; what was opened is read on.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        with os.fdopen(self._descriptor, "rb", closefd=False) as file:
            np.lib.format.read_magic(file)
            self.shape, _, _ = np.lib.format.read_array_header_1_0(file)
            self._start = file.tell()

    def take(self, rows: npt.NDArray[np.int64]) -> Image:
        """The images at `rows` as uint8 [rows, size, size, 3].

        Raises:
            FatalError: if the file ends before them.
        """
        taken = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for image, row in zip(taken, rows.tolist(), strict=True):
            if os.preadv(self._descriptor, [image], self._start + row * image.nbytes) != image.nbytes:
                raise FatalError("The image store was cut off while it was being read; start again")
        return taken


def open_store(images: ImageSet, size: int, *, on_corrupt: str) -> ImageStore:
    """Opens the store of `images` at `size` pixels a side; fills it first where there is none yet.

    Of all processes that need it at once, one fills it and the others wait.

    Raises:
        ConfigError: if images cannot be decoded and `on_corrupt` is ``error``; the text lists them.
        FatalError: if an image changed on disk after it was hashed or is gone, or the store cannot be written.
    """
    key = hashlib.sha256(f"{VERSION} {size} {' '.join(images.digests)}".encode()).hexdigest()[:24]
    folder = cache() / "images" / key

    def filled() -> tuple[dict[str, Any], PixelFile]:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder.with_suffix(".lock")):
            index = _index_of(folder, (len(images), size, size, 3)) or _fill(folder, images, size)
            file = PixelFile(folder / image_files.PIXELS)  # under the lock, as `graft cache rm` needs it too
            marks.touch(folder)
        return index, file

    try:
        index, file = again_if_removed(folder, filled)
    except OSError as error:
        raise FatalError(f"The resized images cannot be stored in {folder}: {error.strerror or error}") from error
    unreadable: list[tuple[int, str]] = index["unreadable"]
    if unreadable and on_corrupt == "error":
        raise ConfigError(_unreadable_message(images, unreadable))
    if unreadable:
        first = f"{images.names[unreadable[0][0]]}: {unreadable[0][1]}"
        log.warning(
            "%d of %d images cannot be read and are left out; the first is %s", len(unreadable), len(images), first
        )
    readable = np.setdiff1d(np.arange(len(images)), [row for row, _ in unreadable])
    return ImageStore(images.take(readable), readable, file, tuple(images.names[row] for row, _ in unreadable))


def decode(content: Content, size: int) -> Image:
    """One image as uint8 [size, size, 3] RGB.

    Args:
        content: Encoded, or pixels [height, width, 1 or 3].
        size: Side in pixels.

    Raises:
        UnreadableImage: if the content is no image, or is cut off.
    """
    resized = resize(pixels_of(content), size).numpy()
    return np.broadcast_to(resized, (size, size, 3))  # one grey channel becomes three equal ones


def resize(pixels: tf.Tensor, size: int | tf.Tensor) -> tf.Tensor:
    """uint8 images [height, width, channels], or a batch of them, stretched to a square of `size` pixels a side."""
    # Without antialiasing, as the backbones saw their images in pretraining: on real photos a frozen Lite0 is
    # right one time in a hundred more often (0.882 against 0.872, mean over six splits).
    resized = tf.image.resize(pixels, (size, size), method="bilinear", antialias=False)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def _index_of(folder: Path, shape: tuple[int, ...]) -> dict[str, Any] | None:
    """The index of a complete store, or None. The index is written last, and the folder moved into place whole."""
    if not folder.exists():
        return None
    index = image_files.read_index(folder, shape)
    if index is None:
        log.warning("The image store %s is damaged and is made again", folder)
    return index


def _fill(folder: Path, images: ImageSet, size: int) -> dict[str, Any]:
    log.info("Reading %d images and resizing them to %d x %d pixels, once", len(images), size, size)
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    partial.mkdir()

    def read(row: int) -> Image | str:
        try:
            content = images.read(row)
        except OSError as error:
            raise FatalError(f"{images.names[row]} cannot be read: {error.strerror}") from error
        if content_sha256(content) != images.digests[row]:
            raise FatalError(
                f"{images.names[row]} changed while it was being read; start again once the data set rests"
            )
        try:
            return decode(content, size)
        except UnreadableImage as error:
            return str(error)

    unreadable: list[tuple[int, str]] = []
    layout = {"descr": "|u1", "fortran_order": False, "shape": (len(images), size, size, 3)}
    with (partial / image_files.PIXELS).open("wb") as file:
        np.lib.format.write_array_header_1_0(file, layout)
        for row, image in enumerate(_side_by_side(read, len(images))):
            if isinstance(image, str):
                unreadable.append((row, image))
            file.write(bytes(size * size * 3) if isinstance(image, str) else image.tobytes())
    index = {"unreadable": unreadable, "sha256": file_sha256(partial / image_files.PIXELS)}
    marks.describe(partial, classes=list(images.class_names))
    (partial / image_files.INDEX).write_text(json.dumps(index), encoding="utf-8")
    os.replace(partial, folder)
    return index


def _side_by_side(read: Callable[[int], Image | str], count: int) -> Iterator[Image | str]:
    """What `read` gives for each row up to `count`, in order; a few rows ahead of the one that is asked for."""
    workers = usable_cpus()
    ahead: deque[Future[Image | str]] = deque()
    with ThreadPoolExecutor(max_workers=workers) as pool:  # decoding and resizing leave Python's lock
        for row in range(count):
            ahead.append(pool.submit(read, row))
            if len(ahead) > AHEAD * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _unreadable_message(images: ImageSet, unreadable: list[tuple[int, str]]) -> str:
    named = "".join(f"\n  {images.names[row]}: {reason}" for row, reason in unreadable[:LISTED])
    more = f"\n  and {len(unreadable) - LISTED} more" if len(unreadable) > LISTED else ""
    return (
        f"dataset: {len(unreadable)} of {len(images)} images cannot be read as {FORMATS_IN_WORDS}:{named}{more}\n"
        "Remove or mend them, or leave them out with dataset.on_corrupt=skip"
    )
