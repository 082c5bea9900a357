"""Engines: the ways to run a frozen backbone over images, from uint8 pixels to float32 features.

    tensorflow   the SavedModel in a `tf.function`, as every batch of a live epoch runs it
    constants    the same graph with its variables frozen to constants, which TensorFlow simplifies further
    xnnpack      the same graph as a TFLite file, run by XNNPACK's kernels for CPUs; converted once and kept

The last two are made from the first and checked against it before they are trusted: they agree within `TOLERANCE`,
but not to the last bit, so that features of different engines are never mixed. Whether an engine passes hangs on the
backbone, the versions and the machine alone; what is kept of a check only saves making it again.

On a CPU the features of an image are the same to the last bit whatever is extracted with it. XNNPACK's kernels see to
that; TensorFlow's give an image other last bits at another place in a batch or in a batch of another size, so they get
one image at a time, in a loop inside the graph. That takes about as long for images of 224 pixels, and several times as
long for small ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from graft import runtime
from graft.cpus import usable_cpus
from graft.features.conversion import quiet
from graft.features.live import BATCH, Engine, LiveBackbone, blots, check, run_live, unusable
from graft.features.xnnpack import KeptXnnpack

EngineName = Literal["tensorflow", "constants", "xnnpack"]


def open_engine(name: EngineName, live: LiveBackbone) -> tuple[Engine, float]:
    """An engine that passed its check, and the seconds that an image costs live.

    Raises:
        Unusable: if it cannot be used for this backbone.
        ConfigError: if the backbone does not fit the configuration.
        FatalError: if the converted backbone cannot be kept.
        MemoryError, ResourceExhaustedError: if there is no memory for it.
    """
    if name == "xnnpack":
        return KeptXnnpack(live).open()
    if name == "tensorflow":
        _, seconds = run_live(live, blots(live.config.image_size))
        # A GPU has no use for one image at a time.
        return (live if runtime.has_gpu() else _one_by_one(live.concrete(1), live.config.image_size)), seconds
    with unusable("its variables cannot be frozen"), quiet("variables were frozen"):
        frozen = convert_variables_to_constants_v2(live.concrete(1))
    constants = _one_by_one(lambda image: frozen(image)[0], live.config.image_size)
    return constants, check(constants, live).live_seconds_an_image


def _one_by_one(function: Callable[[tf.Tensor], tf.Tensor], size: int) -> Engine:
    """An engine from a function for images [1, size, size, 3]."""

    @tf.function(input_signature=[tf.TensorSpec((BATCH, size, size, 3), tf.uint8)])
    def every(images: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(
            lambda image: function(image[tf.newaxis])[0],
            images,
            fn_output_signature=tf.float32,
            parallel_iterations=usable_cpus(),
        )

    return lambda images: every(images).numpy()
