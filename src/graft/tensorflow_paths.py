"""Names of folders that TensorFlow would take for a pattern."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from functools import cache
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
    link = Path(_links().name) / hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    with suppress(FileExistsError):  # another thread was quicker
        link.symlink_to(folder, target_is_directory=True)
    return link


@cache
def _links() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="graft-")
