"""Names of folders that TensorFlow would take for a pattern."""

from __future__ import annotations

import tempfile
from functools import cache, lru_cache
from pathlib import Path

SPECIAL = frozenset("[\\")
"""What makes a name no match for itself. One with ``*`` or ``?`` is."""


def literal(folder: Path) -> Path:
    """`folder`, by a name with which TensorFlow finds the checkpoints or the SavedModel in it.

    It looks for their files as a shell does, and then opens what it was told: no escaping helps. So a folder with ``[``
    in its path gets another name, a link that is there until this process ends.
    """
    return folder if SPECIAL.isdisjoint(str(folder)) else _link(folder.absolute())


@cache
def _link(folder: Path) -> Path:
    links = Path(_links().name)
    link = links / str(sum(1 for _ in links.iterdir()))
    link.symlink_to(folder, target_is_directory=True)
    return link


@lru_cache(maxsize=1)
def _links() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="graft-")
