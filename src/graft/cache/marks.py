"""Marks on an entry of the cache: what it is in words, when it was last used, and that it is in use.

None of them is needed to use the entry. So a mark that cannot be made, in a cache that is read-only or on a file
system without locks, is left out.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path

ABOUT = "about.json"

Fact = str | int | list[str]

# The open descriptors keep the locks; the system frees them when the process ends, however it ends.
_held: dict[Path, int] = {}


def describe(folder: Path, **facts: Fact) -> None:
    """Says what the entry in `folder` is, for `graft cache ls`: `backbone=`, `image_size=` in pixels, and so on."""
    partial = folder / f"{ABOUT}.partial"
    with contextlib.suppress(OSError):
        partial.write_text(json.dumps(facts), encoding="utf-8")
        os.replace(partial, folder / ABOUT)


def facts_of(folder: Path) -> dict[str, Fact]:
    """What `describe` said; nothing if the entry is older than that."""
    try:
        facts = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def touch(folder: Path) -> None:
    """Says that the entry in `folder` is used now."""
    with contextlib.suppress(OSError):
        os.utime(folder)


def hold(folder: Path) -> bool:
    """Keeps `graft cache` from removing `folder` until this process ends, for what is read again by its path.

    Returns:
        False if there is no such folder. Otherwise it is there, and stays as it is but for a builder that finds
        it damaged.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    if not _is_at(descriptor, folder):  # removed or replaced while we waited
        os.close(descriptor)
        return False
    if (before := _held.pop(folder, None)) is not None:
        os.close(before)
    _held[folder] = descriptor
    return True


def claim(folder: Path) -> int | None:
    """Takes `folder` for its removal.

    Returns:
        A descriptor to close once it is removed; None if a process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:  # no locks here, so nobody holds one
        pass
    return descriptor


def _is_at(descriptor: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(folder))
    except OSError:
        return False
