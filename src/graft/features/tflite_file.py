"""A converted backbone as a file, and its digest. Needs no TensorFlow."""

from __future__ import annotations

from pathlib import Path

from graft.digests import file_sha256

NAME = "model.tflite"


def digest(folder: Path) -> str:
    """SHA-256 of the converted backbone in `folder`, as `folder_cache` wants it.

    Raises:
        OSError: if it cannot be read.
    """
    return file_sha256(folder / NAME)
