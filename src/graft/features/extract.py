"""Extraction: a frozen backbone run once over every image that has no features yet."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace

import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from graft import backbones, runtime
from graft.backbones import SavedBackbone
from graft.cache import marks
from graft.config import Config
from graft.data import store as image_store
from graft.data.pipeline import Data
from graft.data.splits import Rows
from graft.errors import ConfigError
from graft.features import store
from graft.features.engines import EngineName, open_engine
from graft.features.live import BATCH, LiveBackbone, Unusable, versions
from graft.features.store import Features, Matrix

log = logging.getLogger(__name__)

# From so many images on, a backbone is converted for the CPU, which takes seconds. Small images make up for it soon:
# what TensorFlow takes goes into starting its operations for every single one. At 224 pixels it is a compromise between
# CPUs: XNNPACK was seen to do 0.8 to 9 times as many images a second. Larger ones would make up for it earlier, but so
# few of them are extracted in some seconds either way.
WORTH_CONVERTING = 500


def extract(data: Data, backbone: SavedBackbone, config: Config) -> Features:
    """The features of all images of `data`, from the store where they are known.

    Every engine has a store of its own.

    Raises:
        ConfigError: if the backbone does not fit the configuration, or cannot be run by the engine that is asked for.
            It is loaded only if features are missing.
        FatalError: if the features, or a converted backbone, cannot be stored.
    """
    live = LiveBackbone(backbone, config)
    asked = config.features.engine
    engine, reason = choose_engine(len(data.images)) if asked == "auto" else (asked, "as asked for")
    started = time.perf_counter()
    try:
        features = _by_engine(engine, reason, data, live)
    except Unusable as error:
        if asked != "auto":
            raise ConfigError(
                f"features.engine={asked}: it cannot be used for backbone.url={config.backbone.url}: {error}; "
                "allowed are auto, which falls back by itself, and tensorflow"
            ) from error
        log.warning("%s is not extracted by %s: %s", config.backbone.name, engine, error)
        features = _by_engine("tensorflow", "it always works", data, live)
    if not features.extraction_seconds:
        log.info("The features of all images are stored, extracted by %s", features.engine)
        return features
    return replace(features, extraction_seconds=time.perf_counter() - started)  # a conversion is part of the price


def choose_engine(images: int) -> tuple[EngineName, str]:
    """The engine that ``features.engine=auto`` means for so many images, and why.

    Engines differ in the last bits. So neither measured speed nor what is stored decides, but the data set and the kind
    of device: the same command takes the same engine.
    """
    if runtime.has_gpu():
        return "tensorflow", "this machine has a GPU"
    pays = images >= WORTH_CONVERTING
    count = f"{images} images are {'' if pays else 'not '}worth a conversion for the CPU"
    return ("xnnpack" if pays else "tensorflow"), count


def _by_engine(engine: EngineName, reason: str, data: Data, live: LiveBackbone) -> Features:
    """The features by one engine.

    Raises:
        Unusable: if the engine cannot be used. Nothing is stored then.
    """
    config = live.config
    key = store.store_key(
        f"backbone {live.saved.sha256}",
        f"decoding {image_store.VERSION}",
        f"size {config.image_size}",
        f"range {config.value_range}",
        f"{engine} float32 on a {'GPU' if runtime.has_gpu() else 'CPU'} by {versions()}",
    )
    extraction = _Extraction(engine, reason, data, live)
    features = store.features_of(data.images.digests, key, extraction, engine, lambda: extraction.live_seconds)
    if features.extraction_seconds:
        marks.describe(store.folder_of(key), backbone=config.backbone.name, image_size=config.image_size)
    return features


class _Extraction:
    """Runs the backbone over images that have no features yet.

    Attributes:
        live_seconds: What an image costs live, once it was called.
    """

    def __init__(self, engine: EngineName, reason: str, data: Data, live: LiveBackbone) -> None:
        self._engine = engine
        self._reason = reason
        self._data = data
        self._live = live
        self.live_seconds = 0.0

    def __call__(self, rows: Rows) -> Iterator[Matrix]:
        """Yields float32 [images, width] for consecutive parts of `rows`."""
        engine, self.live_seconds = open_engine(self._engine, self._live)
        backbone = self._live.config.backbone.name
        log.info(
            "Extracting the features of %d images with %s, once, by %s (%s)",
            len(rows),
            backbone,
            self._engine,
            self._reason,
        )
        if self._engine == "tensorflow" and backbones.draws(self._live.layer):  # no other engine passes then
            log.warning(
                "%s gives the same images other features each time, so something in it is random; the stored ones "
                "are one draw. features=live draws anew in every epoch",
                backbone,
            )
        console = Console()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            _ImagesPerSecond(),
        )
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task("Extracting features", total=len(rows))
            for images, _ in self._data.batches(rows, BATCH):
                filled = tf.pad(images, [[0, BATCH - len(images)], [0, 0], [0, 0], [0, 0]])
                yield engine(filled)[: len(images)]
                progress.advance(bar, len(images))


class _ImagesPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.0f} images/s")
