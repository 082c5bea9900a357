"""Digests of files: what decides whether something on disk is still what it was."""

from __future__ import annotations

import hashlib
from pathlib import Path


def file_sha256(file: Path) -> str:
    """SHA-256 of a file's content as hexadecimal text. It is read piece by piece, so it may be larger than memory.

    Raises:
        OSError: if it cannot be read.
    """
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
