"""Engines: the ways to run a frozen backbone over images, from uint8 pixels to float32 features.

    tensorflow   the SavedModel in a `tf.function`, as every batch of a live epoch runs it
    constants    the same graph with its variables frozen to constants, which TensorFlow simplifies further
    xnnpack      the same graph as a TFLite file, run by XNNPACK's kernels for CPUs; converted once and kept

The last two are made from the first and checked against it before they are trusted: they agree within `TOLERANCE`,
but not to the last bit, so that features of different engines are never mixed. Whether an engine passes hangs on the
backbone, the versions and the machine alone; what is kept of a check only saves making it again.

On a CPU the features of an image are the same to the last bit whatever is extracted with it. XNNPACK's kernels see to
that; TensorFlow's give an image other last bits at another place in a batch or in a batch of another size, so they get
one image at a time, in a loop inside the graph, which takes about as long.
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from graft import backbones, runtime
from graft.backbones import SavedBackbone, folder_cache
from graft.cache import marks
from graft.config import Config
from graft.cpus import usable_cpus
from graft.errors import FatalError, GraftError
from graft.features import tflite_file
from graft.features.store import Matrix
from graft.model import scale_pixels
from graft.paths import cache

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

log = logging.getLogger(__name__)

EngineName = Literal["tensorflow", "constants", "xnnpack"]

TOLERANCE = 1e-4
"""The largest difference to tf.function's features that is accepted, relative to the largest of their values."""

BATCH = 32  # images at a time; larger ones are no faster on two cores
XNNPACK_BATCH = 8  # a TFLite file has one batch size built in
XNNPACK_VERSION = 2  # goes up when the conversion gives another file
TIMED_RUNS = 2


class Unusable(Exception):
    """An engine cannot be used for a backbone. The text says why, as the end of a sentence."""


class Engine(Protocol):
    """Runs a backbone; may be called any number of times, from one thread."""

    def __call__(self, images: tf.Tensor) -> Matrix:
        """The features, float32 [BATCH, width], of uint8 images [BATCH, size, size, 3]."""


class LiveBackbone:
    """The backbone as a live epoch runs it, a batch at a time. It is loaded when it is first needed.

    Raises:
        ConfigError: then, if the backbone does not fit the configuration.
    """

    def __init__(self, saved: SavedBackbone, config: Config) -> None:
        self.saved = saved
        self.config = config

    def __call__(self, images: tf.Tensor) -> Matrix:
        return self._function(images).numpy()

    def concrete(self, batch: int) -> tf.types.experimental.ConcreteFunction:
        """The function for one batch size."""
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
    images = _blots(live.config.image_size)
    runs, seconds = _run_live(live, images)
    if not all(_difference(run, runs[0]) <= TOLERANCE for run in runs):
        raise Unusable("the module gives the same images other features each time, so something in it is random")
    with _unusable("it failed on the first images"):
        features, again = engine(images), engine(images)
    if not _difference(again, features) <= TOLERANCE:
        raise Unusable("it gives the same images other features each time, so something in the module is random")
    difference = _difference(features, runs[0])
    if not difference <= TOLERANCE:  # NaN is no agreement either
        raise Unusable(
            f"its features differ from TensorFlow's by {difference:.1g} of the largest value; {TOLERANCE:g} is allowed"
        )
    return Check(seconds, difference, features.shape[1])


def open_engine(name: EngineName, live: LiveBackbone) -> tuple[Engine, float]:
    """An engine that passed its check, and the seconds that an image costs live.

    Raises:
        Unusable: if it cannot be used for this backbone.
        ConfigError: if the backbone does not fit the configuration.
        FatalError: if the converted backbone cannot be kept.
    """
    if name == "xnnpack":
        return _KeptXnnpack(live).open()
    if name == "tensorflow":
        _, seconds = _run_live(live, _blots(live.config.image_size))
        # A GPU has no use for one image at a time.
        return (live if runtime.has_gpu() else _one_by_one(live.concrete(1), live.config.image_size)), seconds
    with _unusable("its variables cannot be frozen"), _quiet("variables were frozen"):
        frozen = convert_variables_to_constants_v2(live.concrete(1))
    constants = _one_by_one(lambda image: frozen(image)[0], live.config.image_size)
    return constants, check(constants, live).live_seconds_an_image


def _run_live(live: LiveBackbone, images: tf.Tensor) -> tuple[list[Matrix], float]:
    """The features of `images`, time and again, and the seconds that an image took. The first time is also traced."""
    runs, seconds = [live(images)], []
    for _ in range(TIMED_RUNS):
        started = time.perf_counter()
        runs.append(live(images))
        seconds.append(time.perf_counter() - started)
    return runs, min(seconds) / BATCH


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


class _KeptXnnpack:
    """The converted backbone, under `mlruns/cache/engines`: made when it is first opened, and kept.

    The folder's name is made from all that decides its content. It holds `model.tflite`, or `unusable.txt` with the
    reason why there is none; its digest in `graft.json`; and in `checked.json` what came of its check on this machine.
    """

    def __init__(self, live: LiveBackbone) -> None:
        config = live.config
        identity = (
            f"xnnpack {XNNPACK_VERSION} backbone {live.saved.sha256} size {config.image_size} "
            f"range {config.value_range} batch {XNNPACK_BATCH} tensorflow {tf.__version__}"
        )
        self._live = live
        self._folder = cache() / "engines" / f"xnnpack-{hashlib.sha256(identity.encode()).hexdigest()[:24]}"

    def open(self) -> tuple[Engine, float]:
        """As `open_engine`; converts and checks the backbone if that was not done yet, or its file is damaged.

        Raises:
            Unusable: if it cannot be converted, TFLite cannot run it, or it did not pass its check.
            FatalError: if it cannot be kept.
        """
        try:
            folder_cache.ensure(self._folder, self._convert, tflite_file.digest)
        except OSError as error:
            raise FatalError(
                f"The converted backbone cannot be kept in {self._folder.parent}: {error.strerror or error}"
            ) from error
        if (reason := self._folder / tflite_file.UNUSABLE).exists():
            raise Unusable(reason.read_text(encoding="utf-8"))
        with _unusable("TFLite cannot run the converted file"):
            engine = _Tflite(self._folder / tflite_file.NAME)
        passed = self._kept_check() or self._checked(engine)
        backbones.check_width(self._live.config.backbone, passed.width)
        return engine, passed.live_seconds_an_image

    def _kept_check(self) -> Check | None:
        """The check that the file has passed on this machine with these versions, or None."""
        try:
            kept = json.loads((self._folder / "checked.json").read_text(encoding="utf-8"))
            if kept["machine"] != _machine():
                return None
            unusable, passed = kept.get("unusable"), None if "unusable" in kept else Check(**kept["check"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if unusable:
            raise Unusable(unusable)
        return passed

    def _checked(self, engine: Engine) -> Check:
        try:
            passed = check(engine, self._live)
        except Unusable as error:
            self._keep({"unusable": str(error)})
            raise
        self._keep({"check": asdict(passed)})
        return passed

    def _keep(self, outcome: dict[str, object]) -> None:
        """Remembers what came of a check. What cannot be written is found out again next time."""
        partial = self._folder / "checked.json.partial"
        try:
            partial.write_text(json.dumps({"machine": _machine(), **outcome}), encoding="utf-8")
            os.replace(partial, self._folder / "checked.json")
        except OSError as error:
            log.debug("The check of %s is not kept: %s", self._folder, error)

    def _convert(self, folder: Path) -> None:
        live = self._live
        function = live.concrete(XNNPACK_BATCH)
        log.info("Converting %s for XNNPACK, once; this takes some seconds", live.config.backbone.name)
        try:
            (folder / tflite_file.NAME).write_bytes(to_tflite(function))
        except Unusable as error:
            (folder / tflite_file.UNUSABLE).write_text(str(error), encoding="utf-8")
        marks.describe(folder, backbone=live.config.backbone.name, image_size=live.config.image_size)


def to_tflite(function: tf.types.experimental.ConcreteFunction) -> bytes:
    """`function` as a TFLite file.

    Raises:
        Unusable: if TFLite has no counterpart to an operation in it, or its variables cannot be frozen.
    """
    with _unusable("it cannot be converted"), _quiet("a function was converted to TFLite"):
        # Frozen first: else the converter saves and loads the whole module to do the same, for several seconds.
        frozen = convert_variables_to_constants_v2(function)
        content: bytes = tf.lite.TFLiteConverter.from_concrete_functions([frozen]).convert()
        return content


class _Tflite:
    """A TFLite file with one input and one output and a batch size of its own, run for several batches at once.

    Threads of one interpreter wait for each other after every operation, with the CPUs spinning; interpreters side by
    side wait for nothing. Neither changes a bit of the features.
    """

    def __init__(self, file: Path) -> None:
        side_by_side = min(usable_cpus(), BATCH // XNNPACK_BATCH)
        self._idle: SimpleQueue[Interpreter] = SimpleQueue()
        with _quiet("a TFLite file was opened"):
            from ai_edge_litert.interpreter import Interpreter

            for _ in range(side_by_side):
                interpreter = Interpreter(model_path=str(file), num_threads=usable_cpus() // side_by_side)
                interpreter.allocate_tensors()
                self._idle.put(interpreter)
        self._input = interpreter.get_input_details()[0]["index"]
        self._output = interpreter.get_output_details()[0]["index"]
        self._threads = ThreadPoolExecutor(side_by_side, thread_name_prefix="xnnpack")

    def __call__(self, images: tf.Tensor) -> Matrix:
        return np.concatenate(list(self._threads.map(self._run, np.split(images.numpy(), BATCH // XNNPACK_BATCH))))

    def _run(self, pixels: npt.NDArray[np.uint8]) -> Matrix:
        interpreter = self._idle.get()
        try:
            interpreter.set_tensor(self._input, pixels)
            interpreter.invoke()  # without Python's lock
            return interpreter.get_tensor(self._output)
        finally:
            self._idle.put(interpreter)


def versions() -> str:
    """The versions that decide an engine's last bits."""
    return f"tensorflow {tf.__version__} ai-edge-litert {metadata.version('ai-edge-litert')}"


def _blots(size: int) -> tf.Tensor:
    """Blurred blots of colour, the same ones always, as uint8 [BATCH, size, size, 3]."""
    coarse = np.random.default_rng(0).integers(0, 256, (BATCH, 8, 8, 3))
    return tf.cast(tf.image.resize(coarse, (size, size)), tf.uint8)


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
    # What says already what the user should do; and what the machine lacks today and may have tomorrow.
    except (GraftError, MemoryError, OSError, tf.errors.ResourceExhaustedError):
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


def _machine() -> str:
    """What a check holds for: another CPU has other kernels and another speed."""
    return f"{platform.node()} {platform.machine()} {usable_cpus()} CPUs {versions()}"
