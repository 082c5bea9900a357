"""Digests of files: what decides whether something on disk is still what it was."""

from __future__ import annotations

import functools
import hashlib
import time
from pathlib import Path

SETTLED_NS = 2 * 10**9


def file_sha256(file: Path) -> str:
    """SHA-256 of a file's content as hexadecimal text. It is read piece by piece, so it may be larger than memory.

    Raises:
        OSError: if it cannot be read.
    """
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def remembered_sha256(file: Path) -> str:
    """As `file_sha256`, but a process reads a file once, unless its size or times say that it was written to.

    A sweep asks for every trial whether its backbone is whole, and weights have hundreds of megabytes.
    """
    found = file.stat()
    # The clock of a file system may stand still for milliseconds, in which a second write would go unseen.
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < SETTLED_NS:
        return file_sha256(file)
    return _sha256_then(file, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@functools.lru_cache(maxsize=256)
def _sha256_then(file: Path, *_: int) -> str:
    return file_sha256(file)
