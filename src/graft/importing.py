"""Imports of what is large."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Looks for no garbage in the block, which is for imports.

    They make a million objects that stay. To look through them again and again for cycles that nobody needs any more
    takes a quarter of the time: a second of the four that TensorFlow and MLflow take.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def keep_imported() -> None:
    """Looks for no garbage any more among what there is now: a second of a short training went into that.

    For moments at which little else than imports is there. A model would never be freed again.
    """
    gc.freeze()
