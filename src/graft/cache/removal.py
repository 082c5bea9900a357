"""What is being made in the cache when somebody deletes it. It is made again: deleting costs time, never a result."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

TRIES = 3
GONE = {errno.ENOENT, errno.ESTALE}  # the latter of network file systems


def again_if_removed(folder: Path, make: Callable[[], T]) -> T:
    """What `make` gives, which makes `folder` and what belongs there; called again if that is gone meanwhile.

    Raises:
        OSError: if something else is wrong, or it was gone `TRIES` times.
    """
    for _ in range(TRIES - 1):
        try:
            return make()
        except OSError as error:
            if error.errno not in GONE:
                raise
            log.warning("%s was removed while it was being made; that is begun again", folder)
    return make()
