"""Imports of what is large."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Looks for no garbage in the block, which is for imports, and later for none among what there is at its end.

    They make a million objects that stay. To look through them again and again for cycles that nobody needs any more
    takes a quarter of the time that TensorFlow and MLflow take to import, and a second of a short training.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.freeze()
            gc.enable()
