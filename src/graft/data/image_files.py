"""The store of resized images as files, and whether it is whole. Needs no TensorFlow.

A store is a folder with uint8 [images, size, size, 3] in `pixels.npy`, and `index.json`: which images could not be
read, and the SHA-256 of the other file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from graft.digests import file_sha256

PIXELS = "pixels.npy"
INDEX = "index.json"


def read_index(folder: Path, shape: tuple[int, ...] | None = None) -> dict[str, Any] | None:
    """The index of a whole store; all pixels are read and compared with their digest.

    Args:
        folder: The store.
        shape: [images, size, size, 3] that it has to have; None accepts any.

    Returns:
        None if the store is damaged, or of another shape.
    """
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        pixels = np.load(folder / PIXELS, mmap_mode="r")
        # Reading it all costs a fraction of one epoch, and brings it into memory.
        whole = pixels.dtype == np.uint8 and file_sha256(folder / PIXELS) == index["sha256"]
    except (OSError, EOFError, ValueError, KeyError, TypeError):  # numpy's for a file of no bytes is an EOFError
        return None
    return index if whole and shape in (None, pixels.shape) else None
