"""Engines: the ways to run a frozen backbone over images, from uint8 pixels to float32 features.

    tensorflow   the SavedModel in a `tf.function`, as every batch of a live epoch runs it
    constants    the same graph with its variables frozen to constants, which TensorFlow simplifies further
    xnnpack      the same graph as a TFLite file, run by XNNPACK's kernels for CPUs; converted once and kept

The last two are made from the first and checked against it before they are trusted: they agree within `TOLERANCE`,
but not to the last bit, so that features of different engines are never mixed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from graft import backbones, runtime
from graft.backbones import SavedBackbone, folder_cache
from graft.cache import marks
from graft.config import Config
from graft.digests import file_sha256
from graft.errors import GraftError
from graft.features.store import Matrix
from graft.model import scale_pixels
from graft.paths import cache

log = logging.getLogger(__name__)

EngineName = Literal["tensorflow", "constants", "xnnpack"]

TOLERANCE = 1e-4
"""The largest difference to tf.function's features that is accepted, relative to the largest of their values."""

XNNPACK_BATCH = 8  # images at a time; a TFLite file has one batch size built in
XNNPACK_VERSION = 1  # goes up when the conversion gives another file
TIMED_RUNS = 2


class Unusable(Exception):
    """An engine cannot be used for a backbone. The text says why, as the end of a sentence."""


class Engine(Protocol):
    """Runs a backbone; may be called any number of times, from one thread."""

    def __call__(self, images: tf.Tensor) -> Matrix:
        """The features, float32 [batch, width], of uint8 images [batch, size, size, 3]; batches may differ in size."""


class LiveBackbone:
    """The backbone as a live epoch runs it: the engine ``tensorflow``. It is loaded when it is first needed.

    Raises:
        ConfigError: then, if the backbone does not fit the configuration.
    """

    def __init__(self, saved: SavedBackbone, config: Config) -> None:
        self.saved = saved
        self.config = config

    def __call__(self, images: tf.Tensor) -> Matrix:
        return self._function(images).numpy()

    def concrete(self, batch: int | None) -> tf.types.experimental.ConcreteFunction:
        """The function for one batch size, or for any."""
        size = self.config.image_size
        images = tf.TensorSpec((batch, size, size, 3), tf.uint8)
        return tf.function(self._features()).get_concrete_function(images)

    @cached_property
    def layer(self) -> tf.Module:
        """The hub layer."""
        config = self.config
        return backbones.hub_layer(self.saved, config.backbone, trainable=False, image_size=config.image_size)

    @cached_property
    def _function(self) -> Callable[[tf.Tensor], tf.Tensor]:
        return tf.function(self._features(), reduce_retracing=True)

    def _features(self) -> Callable[[tf.Tensor], tf.Tensor]:
        layer = self.layer  # loaded before anything is traced: what is wrong with it should come out as it is
        return lambda images: layer(scale_pixels(images, self.config), training=False)


@dataclass(frozen=True)
class Reference:
    """What the live backbone made of a few images.

    Attributes:
        images: uint8 [images, size, size, 3].
        features: float32 [images, width].
        seconds_an_image: How long it took, without tracing the function.
        repeats: Whether it gave the same features each time.
    """

    images: tf.Tensor
    features: Matrix
    seconds_an_image: float
    repeats: bool


def refer(live: LiveBackbone, images: tf.Tensor) -> Reference:
    """Runs the live backbone over `images`, again and again: the first time it is also traced."""
    features = live(images)
    runs = [_timed(live, images) for _ in range(TIMED_RUNS)]
    return Reference(
        images,
        features,
        seconds_an_image=min(seconds for _, seconds in runs) / len(images),
        repeats=all(_difference(again, features) <= TOLERANCE for again, _ in runs),
    )


@dataclass(frozen=True)
class Check:
    """An engine was compared with the live backbone on this machine, and found to agree.

    Attributes:
        seconds_an_image: What an image cost.
        live_seconds_an_image: What it cost the live backbone.
        difference: The largest difference between the features, relative to the largest of their values.
        width: How many features an image has.
    """

    seconds_an_image: float
    live_seconds_an_image: float
    difference: float
    width: int


def check(engine: Engine, reference: Reference) -> Check:
    """Compares an engine with the live backbone, and with itself.

    Raises:
        Unusable: if it fails, its features are others, or they are others each time.
    """
    if not reference.repeats:
        raise Unusable("the module gives the same images other features each time, so something in it is random")
    with _unusable("it failed on the first images"):
        features = engine(reference.images)
        again, seconds = _timed(engine, reference.images)
    if not _difference(again, features) <= TOLERANCE:
        raise Unusable("it gives the same images other features each time, so something in the module is random")
    difference = _difference(features, reference.features)
    if not difference <= TOLERANCE:  # NaN is no agreement either
        raise Unusable(
            f"its features differ from TensorFlow's by {difference:.1g} of the largest value; {TOLERANCE:g} is allowed"
        )
    return Check(seconds / len(reference.images), reference.seconds_an_image, difference, features.shape[1])


def open_constants(live: LiveBackbone) -> Engine:
    """Freezes the backbone's variables to constants.

    Raises:
        Unusable: if TensorFlow cannot.
    """
    with _unusable("its variables cannot be frozen"), _quiet("variables were frozen"):
        frozen = convert_variables_to_constants_v2(live.concrete(None))
    return lambda images: frozen(images)[0].numpy()


class KeptXnnpack:
    """The converted backbone, under `mlruns/cache/engines`: made when it is first opened, and kept.

    The folder's name is made from all that decides its content. It holds `model.tflite`, its digest in
    `graft.json`, and in `checked.json` the `Check` that it has passed on this machine.
    """

    def __init__(self, live: LiveBackbone) -> None:
        config = live.config
        identity = (
            f"xnnpack {XNNPACK_VERSION} backbone {live.saved.sha256} size {config.image_size} "
            f"range {config.value_range} batch {XNNPACK_BATCH} tensorflow {tf.__version__}"
        )
        self._live = live
        self._folder = cache() / "engines" / f"xnnpack-{hashlib.sha256(identity.encode()).hexdigest()[:24]}"

    def is_there(self) -> bool:
        """Whether nothing has to be converted."""
        return folder_cache.is_whole(self._folder, _tflite_digest)

    def open(self) -> Engine:
        """The engine; converts the backbone if that was not done yet, or its file is damaged.

        Raises:
            Unusable: if it cannot be converted or kept, or TFLite cannot run it.
        """
        try:
            folder_cache.ensure(self._folder, self._convert, _tflite_digest)
        except OSError as error:
            raise Unusable(f"the converted file cannot be kept in {self._folder.parent}: {error.strerror}") from error
        with _unusable("TFLite cannot run the converted file"):
            return _Tflite(self._folder / "model.tflite")

    def passed(self) -> Check | None:
        """The check that the file has passed on this machine with these versions, or None."""
        try:
            kept = json.loads((self._folder / "checked.json").read_text(encoding="utf-8"))
            return Check(**kept["check"]) if kept["machine"] == _machine() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, passed: Check) -> None:
        """Remembers a check. One that cannot be written is made again next time."""
        partial = self._folder / "checked.json.partial"
        try:
            partial.write_text(json.dumps({"machine": _machine(), "check": asdict(passed)}), encoding="utf-8")
            os.replace(partial, self._folder / "checked.json")
        except OSError as error:
            log.debug("The check of %s is not kept: %s", self._folder, error)

    def _convert(self, folder: Path) -> None:
        live = self._live
        log.info("Converting %s for XNNPACK, once; this takes some seconds", live.config.backbone.name)
        with _unusable("it cannot be converted"), _quiet("a backbone was converted to TFLite"):
            converter = tf.lite.TFLiteConverter.from_concrete_functions([live.concrete(XNNPACK_BATCH)], live.layer)
            content = converter.convert()
        (folder / "model.tflite").write_bytes(content)
        marks.describe(folder, backbone=live.config.backbone.name, image_size=live.config.image_size)


class _Tflite:
    """A TFLite file with one input and one output and a batch size of its own."""

    def __init__(self, file: Path) -> None:
        with _quiet("a TFLite file was opened"):
            from ai_edge_litert.interpreter import Interpreter

            self._interpreter = Interpreter(model_path=str(file), num_threads=usable_cpus())
            self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def __call__(self, images: tf.Tensor) -> Matrix:
        pixels = images.numpy()
        missing = -len(pixels) % XNNPACK_BATCH
        filled = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.uint8)]) if missing else pixels
        features = []
        for start in range(0, len(filled), XNNPACK_BATCH):
            self._interpreter.set_tensor(self._input, filled[start : start + XNNPACK_BATCH])
            self._interpreter.invoke()
            features.append(self._interpreter.get_tensor(self._output))
        return np.concatenate(features)[: len(pixels)]


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_gpu() -> bool:
    """Whether TensorFlow runs on a GPU here."""
    return bool(tf.config.list_physical_devices("GPU"))


def _timed(engine: Engine, images: tf.Tensor) -> tuple[Matrix, float]:
    started = time.perf_counter()
    features = engine(images)
    return features, time.perf_counter() - started


def _difference(features: Matrix, expected: Matrix) -> float:
    """The largest difference, relative to the largest value; infinite if even the shapes differ."""
    if features.shape != expected.shape:
        return float("inf")
    return float(np.max(np.abs(features - expected)) / (np.max(np.abs(expected)) or 1))


@contextmanager
def _unusable(what: str) -> Iterator[None]:
    """Makes `Unusable` of what converters and modules raise, which may be anything."""
    try:
        yield
    except GraftError:  # it says already what the user should do
        raise
    except Exception as error:
        raise Unusable(f"{what}: {_reason(error)}") from error


@contextmanager
def _quiet(during: str) -> Iterator[None]:
    """Keeps converters quiet: they advise on what is set on purpose, and print a module they cannot convert in full."""
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)
    try:
        with runtime.stderr_set_aside(during, failure_level=logging.DEBUG):
            yield
    finally:
        absl.setLevel(level)


def _reason(error: Exception) -> str:
    """The converter's own text goes over pages; what matters are the operations that TFLite does not have."""
    text = str(error)
    if lacking := sorted(set(re.findall(r"'(tf\.\w+)' op is neither", text))):
        return f"TFLite has no {', '.join(lacking)}"
    return " ".join(text.split())[:200] or type(error).__name__


def _tflite_digest(folder: Path) -> str:
    return file_sha256(folder / "model.tflite")


def _machine() -> str:
    """What a check holds for: another CPU has other kernels and another speed."""
    versions = f"tensorflow {tf.__version__} ai-edge-litert {metadata.version('ai-edge-litert')}"
    return f"{platform.node()} {platform.machine()} {usable_cpus()} CPUs {versions}"
