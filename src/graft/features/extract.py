"""Extraction: a frozen backbone run once over every image that has no features yet, by the engine that suits best."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import get_args

import filelock
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from graft.backbones import SavedBackbone
from graft.cache import marks
from graft.config import Config
from graft.data import store as image_store
from graft.data.pipeline import Data
from graft.data.splits import Rows
from graft.errors import ConfigError
from graft.features import engines, store
from graft.features.engines import Engine, EngineName, LiveBackbone, Reference, Unusable
from graft.features.store import Features, Matrix

log = logging.getLogger(__name__)

BATCH = 32  # images at a time; larger ones are no faster on two cores
ENGINES: tuple[EngineName, ...] = get_args(EngineName)

# Seconds until an engine starts, and how many times as fast as tf.function it then is, until both were measured.
# EfficientNet-Lite0 takes 4 to 10 seconds to convert on two cores. The speed-up is a cautious guess: from 1.1 to 9
# times was seen, by backbone and by CPU.
SETUP_SECONDS: Mapping[EngineName, float] = {"tensorflow": 0.0, "constants": 4.0, "xnnpack": 10.0}
SPEED_UP: Mapping[EngineName, float] = {"tensorflow": 1.0, "constants": 1.2, "xnnpack": 2.0}


@dataclass(frozen=True)
class Offer:
    """An engine that could be used.

    Attributes:
        engine: Its name.
        seconds: What it is expected to cost: its setup, and the images that its store lacks.
        reason: Why it would be taken.
    """

    engine: EngineName
    seconds: float
    reason: str


def extract(data: Data, backbone: SavedBackbone, config: Config) -> Features:
    """The features of all images of `data`, from the store where they are known.

    Every engine has a store of its own. ``features.engine=auto`` takes the engine that is expected to be done first:
    one whose store has all images costs nothing; the others have to be set up, and to extract what is missing.

    Raises:
        ConfigError: if the backbone does not fit the configuration, or cannot be run by the engine that is asked for.
            It is loaded only if features are missing.
    """
    decisive = (
        f"backbone {backbone.sha256}",
        f"decoding {image_store.VERSION}",
        f"size {config.image_size}",
        f"range {config.value_range}",
    )
    keys = {engine: store.store_key(*decisive, f"{engine} float32") for engine in ENGINES}
    lock = store.folder_of(store.store_key(*decisive)).with_suffix(".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    # One process at a time chooses and extracts: another would choose without knowing what this one will have stored.
    with filelock.FileLock(lock):
        extraction = _Extraction(data, LiveBackbone(backbone, config))
        asked = config.features.engine
        missing = {engine: store.count_missing(data.images.digests, key) for engine, key in keys.items()}
        for offer in [Offer(asked, 0.0, "as asked for")] if asked != "auto" else extraction.offers(missing):
            try:
                return extraction.run(offer, keys[offer.engine])
            except Unusable as error:
                if asked != "auto":
                    raise ConfigError(
                        f"features.engine={asked}: it cannot be used for backbone.url={config.backbone.url}: {error}; "
                        "allowed are auto, which falls back by itself, and tensorflow"
                    ) from error
                log.warning("%s is not extracted by %s: %s", config.backbone.name, offer.engine, error)
    raise AssertionError("tensorflow is among the offers and is never unusable")


class _Extraction:
    """One extraction, with what is loaded and measured on the way, once and only if it is needed."""

    def __init__(self, data: Data, live: LiveBackbone) -> None:
        self._data = data
        self._live = live
        self._xnnpack = engines.KeptXnnpack(live)
        self._started = time.perf_counter()
        self._live_seconds: float | None = None
        self._referred: Reference | None = None

    def offers(self, missing: Mapping[EngineName, int]) -> list[Offer]:
        """The engines that ``auto`` may take, the best first, down to tensorflow.

        Args:
            missing: How many images lack features in each engine's store.
        """
        if complete := [engine for engine in ENGINES if not missing[engine]]:
            # That store may turn out to be damaged; the engine that filled it then mends it, if it still can.
            offers = [Offer(engine, 0.0, "it has the other images stored") for engine in complete]
        elif engines.has_gpu():
            offers = [Offer("tensorflow", 0.0, "this machine has a GPU")]
        else:
            offers = sorted(self._estimates(missing), key=lambda offer: offer.seconds)
        names = [offer.engine for offer in offers]
        if "tensorflow" not in names:
            return [*offers, Offer("tensorflow", 0.0, "it always works")]
        return offers[: names.index("tensorflow") + 1]

    def _estimates(self, missing: Mapping[EngineName, int]) -> list[Offer]:
        kept = self._xnnpack.is_there()
        passed = self._xnnpack.passed() if kept else None
        live_seconds = passed.live_seconds_an_image if passed else self._reference().seconds_an_image
        setup = {**SETUP_SECONDS, "xnnpack": 0.0} if kept else SETUP_SECONDS
        an_image = {engine: live_seconds / SPEED_UP[engine] for engine in ENGINES}
        if passed:
            an_image["xnnpack"] = passed.seconds_an_image
        seconds = {engine: setup[engine] + missing[engine] * an_image[engine] for engine in ENGINES}
        told = ", ".join(f"{engine} {seconds[engine]:.1f}" for engine in ENGINES)
        return [Offer(engine, seconds[engine], f"seconds expected: {told}") for engine in ENGINES]

    def run(self, offer: Offer, key: str) -> Features:
        """The features by one engine.

        Raises:
            Unusable: if the engine cannot be used. Nothing is stored then.
        """

        def batches(rows: Rows) -> Iterator[Matrix]:
            engine = self._open(offer.engine)
            log.info(
                "Extracting the features of %d images with %s, once, by %s (%s)",
                len(rows),
                self._live.config.backbone.name,
                offer.engine,
                offer.reason,
            )
            yield from self._batches(engine, rows)

        features = store.features_of(self._data.images.digests, key, batches, offer.engine, lambda: self._live_seconds)
        if not features.extraction_seconds:
            log.info("The features of all images are stored, extracted by %s", offer.engine)
            return features
        config = self._live.config
        marks.describe(store.folder_of(key), backbone=config.backbone.name, image_size=config.image_size)
        # Choosing and converting are part of the price.
        return replace(features, extraction_seconds=time.perf_counter() - self._started)

    def _reference(self) -> Reference:
        if self._referred is None:
            rows = np.arange(min(BATCH, len(self._data.images)))
            self._referred = engines.refer(self._live, tf.constant(self._data.inputs.take(rows)))
        return self._referred

    def _open(self, name: EngineName) -> Engine:
        """The engine, checked. Also finds out what an image costs live, where the engine's own speed does not say."""
        self._live_seconds = None
        if name == "tensorflow":
            if self._referred is not None and not self._referred.repeats:
                log.warning(
                    "%s gives the same images other features each time, so something in it is random; the stored ones "
                    "are one draw. features=live draws anew in every epoch",
                    self._live.config.backbone.name,
                )
            return self._live
        if name == "constants":
            engine = engines.open_constants(self._live)
            passed = engines.check(engine, self._reference())
        else:
            engine = self._xnnpack.open()
            if (kept := self._xnnpack.passed()) and self._live.config.backbone.feature_width in (None, kept.width):
                passed = kept
            else:  # loads the backbone, which refuses a wrong width
                passed = engines.check(engine, self._reference())
                self._xnnpack.keep(passed)
        self._live_seconds = passed.live_seconds_an_image
        return engine

    def _batches(self, engine: Engine, rows: Rows) -> Iterator[Matrix]:
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
                yield engine(images)
                progress.advance(bar, len(images))


class _ImagesPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.0f} images/s")
