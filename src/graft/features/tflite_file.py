"""A converted backbone as a file, and its digest. Needs no TensorFlow."""

from __future__ import annotations

from pathlib import Path

from graft.digests import file_sha256

NAME = "model.tflite"
UNUSABLE = "unusable.txt"
"""In its place, for a backbone that cannot be converted: the reason, so that it is not tried again."""


def digest(folder: Path) -> str:
    """SHA-256 of the converted backbone in `folder`, or of the reason why there is none, as `folder_cache` wants it.

    Raises:
        OSError: if it cannot be read.
    """
    unusable = folder / UNUSABLE
    return file_sha256(unusable if unusable.exists() else folder / NAME)
