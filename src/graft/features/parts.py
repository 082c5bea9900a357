"""The parts of a feature store as files: which there are, and whether they are whole. Needs no TensorFlow.

A part is float32 [images, width] in NAME.npy, and its index in NAME.json: the content hashes of its images, the
SHA-256 of the other file, and what an image costs live.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from graft.cache import marks
from graft.digests import file_sha256


@dataclass(frozen=True)
class Part:
    """A part that is what was once written, to the last byte.

    Attributes:
        features: float32 [images, width], memory-mapped and read-only.
        images: The content hash of each.
        seconds_an_image: What an image costs where the backbone runs live.
    """

    features: npt.NDArray[np.float32]
    images: tuple[str, ...]
    seconds_an_image: float


def index_files(folder: Path) -> list[Path]:
    """The indexes of a store's parts, by name."""
    return sorted(set(folder.glob("*.json")) - {folder / marks.ABOUT})


def read_part(index_file: Path) -> Part | None:
    """The part with this index, its file read and compared with its digest; None if it is damaged."""
    features_file = index_file.with_suffix(".npy")
    try:
        index = json.loads(index_file.read_text(encoding="utf-8"))
        part = Part(np.load(features_file, mmap_mode="r"), tuple(index["images"]), float(index["seconds_an_image"]))
        whole = len(part.features) == len(part.images) and file_sha256(features_file) == index["sha256"]
    except (OSError, EOFError, ValueError, KeyError, TypeError):  # numpy's for a file of no bytes is an EOFError
        return None
    return part if whole else None
