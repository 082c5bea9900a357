"""The backbone as a live epoch runs it, and what every other way to run it is held against."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import Protocol

import numpy as np
import tensorflow as tf

from graft import backbones
from graft.backbones import SavedBackbone
from graft.config import Config
from graft.errors import GraftError
from graft.features.store import Matrix
from graft.model import scale_pixels

TOLERANCE = 1e-4
"""The largest difference to tf.function's features that is accepted, relative to the largest of their values."""

BATCH = 32  # images at a time; larger ones are no faster on two cores
TIMED_RUNS = 2


class Unusable(Exception):
    """An engine cannot be used for a backbone. The text says why, as the end of a sentence."""


class Engine(Protocol):
    """Runs a backbone; may be called any number of times, from one thread."""

    def __call__(self, images: tf.Tensor) -> Matrix:
        """The features, float32 [BATCH, width], of uint8 images [BATCH, size, size, 3]."""


class LiveBackbone:
    """The backbone as a live epoch runs it, an `Engine`. It is loaded when it is first needed.

    Raises:
        ConfigError: then, if the backbone does not fit the configuration.
    """

    def __init__(self, saved: SavedBackbone, config: Config) -> None:
        self.saved = saved
        self.config = config

    def __call__(self, images: tf.Tensor) -> Matrix:
        return self._function(images).numpy()

    def concrete(self, batch: int) -> tf.types.experimental.ConcreteFunction:
        """The function for one batch size, from uint8 [batch, size, size, 3] to float32 [batch, width]."""
        layer, size = self.layer, self.config.image_size  # loaded first: what is wrong with it should come out as it is

        def features(images: tf.Tensor) -> tf.Tensor:
            return layer(scale_pixels(images, self.config), training=False)

        return tf.function(features).get_concrete_function(tf.TensorSpec((batch, size, size, 3), tf.uint8))

    @cached_property
    def layer(self) -> tf.Module:
        """The hub layer."""
        config = self.config
        return backbones.hub_layer(self.saved, config.backbone, trainable=False, image_size=config.image_size)

    @cached_property
    def _function(self) -> tf.types.experimental.ConcreteFunction:
        return self.concrete(BATCH)


@dataclass(frozen=True)
class Check:
    """An engine was compared with the live backbone on this machine, and found to agree.

    Attributes:
        live_seconds_an_image: What an image cost the live backbone.
        difference: The largest difference between the features, relative to the largest of their values.
        width: How many features an image has.
    """

    live_seconds_an_image: float
    difference: float
    width: int


def check(engine: Engine, live: LiveBackbone) -> Check:
    """Compares an engine with the live backbone, and both with themselves.

    Always on the same made-up images: an engine that is used for one data set is used for all.

    Raises:
        Unusable: if it fails, its features are others, or they are others each time.
    """
    images = blots(live.config.image_size)
    runs, seconds = run_live(live, images)
    if not all(_difference(run, runs[0]) <= TOLERANCE for run in runs):
        raise Unusable("the module gives the same images other features each time, so something in it is random")
    with unusable("it failed on the first images"):
        features, again = engine(images), engine(images)
    if not _difference(again, features) <= TOLERANCE:
        raise Unusable("it gives the same images other features each time, so something in the module is random")
    difference = _difference(features, runs[0])
    if not difference <= TOLERANCE:  # NaN is no agreement either
        raise Unusable(
            f"its features differ from TensorFlow's by {difference:.1g} of the largest value; {TOLERANCE:g} is allowed"
        )
    return Check(seconds, difference, features.shape[1])


def run_live(live: LiveBackbone, images: tf.Tensor) -> tuple[list[Matrix], float]:
    """The features of `images`, uint8 [BATCH, size, size, 3], time and again, and the least seconds that an image took.

    The first time is also traced, and so it is not timed.
    """
    runs, seconds = [live(images)], []
    for _ in range(TIMED_RUNS):
        started = time.perf_counter()
        runs.append(live(images))
        seconds.append(time.perf_counter() - started)
    return runs, min(seconds) / BATCH


def versions() -> str:
    """The versions that decide an engine's last bits."""
    return f"tensorflow {tf.__version__} ai-edge-litert {metadata.version('ai-edge-litert')}"


def blots(size: int) -> tf.Tensor:
    """Blurred blots of colour, the same ones always, as uint8 [BATCH, size, size, 3]."""
    coarse = np.random.default_rng(0).integers(0, 256, (BATCH, 8, 8, 3))
    return tf.cast(tf.image.resize(coarse, (size, size)), tf.uint8)


def _difference(features: Matrix, expected: Matrix) -> float:
    """The largest difference, relative to the largest value; infinite if even the shapes differ."""
    if features.shape != expected.shape:
        return float("inf")
    return float(np.max(np.abs(features - expected)) / (np.max(np.abs(expected)) or 1))


@contextmanager
def unusable(what: str) -> Iterator[None]:
    """Makes `Unusable` of what converters and modules raise, which may be anything."""
    try:
        yield
    # What says already what the user should do; and what the machine lacks today and may have tomorrow.
    except (GraftError, MemoryError, OSError, tf.errors.ResourceExhaustedError):
        raise
    except Exception as error:
        raise Unusable(f"{what}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The converter's own text goes over pages; what matters are the operations that TFLite does not have."""
    text = str(error)
    if lacking := sorted(set(re.findall(r"'(tf\.\w+)' op is neither", text))):
        return f"TFLite has no {', '.join(lacking)}"
    return " ".join(text.split())[:200] or type(error).__name__
