"""From a function of TensorFlow to a TFLite file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from graft import runtime
from graft.features.live import unusable


def to_tflite(function: tf.types.experimental.ConcreteFunction) -> bytes:
    """`function` as a TFLite file.

    Raises:
        Unusable: if TFLite has no counterpart to an operation in it, or its variables cannot be frozen.
    """
    with unusable("it cannot be converted"), quiet("a function was converted to TFLite"):
        # Without its module, which the converter would save and load to freeze the variables; it takes seconds.
        content: bytes = tf.lite.TFLiteConverter.from_concrete_functions([function]).convert()
        return content


@contextmanager
def quiet(during: str) -> Iterator[None]:
    """Keeps converters quiet: they advise on what is set on purpose, and print a module they cannot convert in full."""
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)
    try:
        with runtime.stderr_set_aside(during, failure_level=logging.DEBUG):
            yield
    finally:
        absl.setLevel(level)
