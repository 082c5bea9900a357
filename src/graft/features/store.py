"""The feature store: float32 vectors by image, under `features/<key>` of the cache.

The key is made from everything that decides a feature: the backbone's digest, how images are decoded and
resized, their size and value range, and the engine that runs the backbone, with its version. Within it features are
found by the image's content hash, so another split, another seed or one more photo extracts nothing that is there.
Files are only ever added: a part is one `.npy` file, memory-mapped, and a `.json` index beside it with the digests
of its images and of the file. The index is written last and moved into place, so a writer that is killed leaves
nothing that is read; and one process writes at a time.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import filelock
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from graft.cache import marks
from graft.cache.removal import again_if_removed
from graft.data.splits import Rows
from graft.digests import file_sha256
from graft.errors import FatalError
from graft.features import parts
from graft.paths import cache

log = logging.getLogger(__name__)

Matrix = npt.NDArray[np.float32]


class Extractor(Protocol):
    """Runs the backbone over images that have no features yet."""

    def __call__(self, rows: Rows) -> Iterator[Matrix]:
        """Yields float32 [images, width] for consecutive parts of `rows`, all of them in the end."""


@dataclass(frozen=True)
class Features:
    """The features of one image set, in its order.

    Attributes:
        parts: float32 [images, width] each, memory-mapped and read-only.
        part_of: int32 [images], which part an image's features lie in.
        row_of: int64 [images], and in which row of it.
        extraction_seconds: What this process paid to extract; 0 if all features were there.
        seconds_an_image: What an image costs where the backbone runs live, in a `tf.function`, whatever engine
            extracted these. Measured when they were extracted; the slowest part's.
        engine: Which engine extracted them; see `engines`.
    """

    parts: tuple[Matrix, ...]
    part_of: npt.NDArray[np.int32]
    row_of: npt.NDArray[np.int64]
    extraction_seconds: float
    seconds_an_image: float
    engine: str

    @property
    def width(self) -> int:
        return int(self.parts[0].shape[1])

    @property
    def spec(self) -> tf.TensorSpec:
        """Shape and dtype of one feature vector."""
        return tf.TensorSpec((self.width,), tf.float32)

    def take(self, rows: Rows) -> Matrix:
        """The features of the images at `rows`, float32 [rows, width]. May be called from several threads."""
        if len(self.parts) == 1:
            return self.parts[0][self.row_of[rows]]
        taken = np.empty((len(rows), self.width), np.float32)
        for number in np.unique(self.part_of[rows]):
            here = self.part_of[rows] == number
            taken[here] = self.parts[number][self.row_of[rows][here]]
        return taken


def store_key(*decisive: str) -> str:
    """The name of a store: everything that decides a feature, in one digest."""
    return hashlib.sha256(" ".join(decisive).encode()).hexdigest()[:24]


def folder_of(key: str) -> Path:
    """Where the store with this key lies."""
    return root() / key


def root() -> Path:
    """Where all stores lie."""
    return _elsewhere[-1] if _elsewhere else cache() / "features"


@contextmanager
def lying_in(folder: Path) -> Iterator[None]:
    """While entered, this process looks for features in `folder`, and stores them there."""
    _elsewhere.append(folder)
    try:
        yield
    finally:
        _elsewhere.pop()


_elsewhere: list[Path] = []


def features_of(
    digests: Sequence[str],
    key: str,
    extract: Extractor,
    engine: str = "tensorflow",
    live_seconds: Callable[[], float] = lambda: 0.0,
) -> Features:
    """The features of the images with these digests; extracts and stores those that are missing.

    Args:
        digests: Content hashes of the images.
        key: By `store_key`.
        extract: Called once if features are missing, with the rows of `digests` that lack them.
        engine: What `extract` runs the backbone with.
        live_seconds: Asked after an extraction what an image costs live; 0 where that was not measured.

    Raises:
        FatalError: if they cannot be stored.
        Exception: whatever `extract` raises; nothing is stored then.
    """
    folder = folder_of(key)

    def stored() -> tuple[_Found, float]:
        folder.mkdir(parents=True, exist_ok=True)
        marks.touch(folder)
        seconds = 0.0
        # Readers take the lock too: what is missing now may be what another process is just extracting.
        with filelock.FileLock(folder / "lock"):
            found = _read(folder)
            distinct = {digest: row for row, digest in reversed(list(enumerate(digests))) if digest not in found.places}
            missing = np.array(sorted(distinct.values()), np.int64)
            if len(missing):
                started = time.perf_counter()
                _add_part(folder, [digests[row] for row in missing], extract(missing), engine, live_seconds)
                seconds = time.perf_counter() - started
                found = _read(folder)
                if not found.places.keys() >= set(digests):
                    raise FileNotFoundError(errno.ENOENT, "The features are gone again")
        return found, seconds

    try:
        found, seconds = again_if_removed(folder, stored)
    except OSError as error:
        raise FatalError(f"The features cannot be stored in {folder}: {error.strerror or error}") from error
    places = [found.places[digest] for digest in digests]
    used = sorted({part for part, _ in places})
    renumbered = {part: number for number, part in enumerate(used)}
    return Features(
        parts=tuple(found.parts[part] for part in used),
        part_of=np.array([renumbered[part] for part, _ in places], np.int32),
        row_of=np.array([row for _, row in places], np.int64),
        extraction_seconds=seconds,
        seconds_an_image=max(found.seconds_an_image[part] for part in used),
        engine=engine,
    )


@dataclass
class _Found:
    parts: list[Matrix]
    places: dict[str, tuple[int, int]]
    seconds_an_image: list[float]


def _read(folder: Path) -> _Found:
    """All whole parts of a store. One that does not match its index is deleted, and its images extracted again."""
    found = _Found([], {}, [])
    for index_file in parts.index_files(folder):
        part = parts.read_part(index_file)
        if part is None:
            features_file = index_file.with_suffix(".npy")
            log.warning("The stored features %s are damaged; they are extracted again", features_file)
            index_file.unlink(missing_ok=True)
            features_file.unlink(missing_ok=True)
            continue
        found.places |= {digest: (len(found.parts), row) for row, digest in enumerate(part.images)}
        found.parts.append(part.features)
        found.seconds_an_image.append(part.seconds_an_image)
    return found


def _add_part(
    folder: Path,
    digests: Sequence[str],
    batches: Iterator[Matrix],
    engine: str,
    live_seconds: Callable[[], float],
) -> None:
    for leftover in folder.iterdir():  # of a writer that was killed; the lock is ours now
        if leftover.suffix == ".partial" or (leftover.suffix == ".npy" and not leftover.with_suffix(".json").exists()):
            leftover.unlink()
    name = hashlib.sha256(" ".join(digests).encode()).hexdigest()[:24]
    partial = folder / f"{name}.npy.partial"
    written = 0
    # Not through a memory map: on a full disk that is no error that can be caught, but the end of the process.
    with partial.open("wb") as file:
        for batch in batches:
            if not written:
                layout = {"descr": "<f4", "fortran_order": False, "shape": (len(digests), batch.shape[1])}
                np.lib.format.write_array_header_1_0(file, layout)
            file.write(batch.astype("<f4", order="C", copy=False).tobytes())
            written += len(batch)
    assert written == len(digests), f"{written} features for {len(digests)} images"
    index = {
        "images": list(digests),
        "sha256": file_sha256(partial),
        "seconds_an_image": live_seconds(),
        "engine": engine,
    }
    os.replace(partial, folder / f"{name}.npy")
    index_partial = folder / f"{name}.json.partial"
    index_partial.write_text(json.dumps(index), encoding="utf-8")
    os.replace(index_partial, folder / f"{name}.json")
