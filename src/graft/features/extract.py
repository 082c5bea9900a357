"""Extraction: a frozen backbone run once over every image that has no features yet."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import tensorflow as tf
from rich.console import Console
from rich.progress import Progress

from graft import backbones
from graft.backbones import SavedBackbone
from graft.config import Config
from graft.data import store as image_store
from graft.data.pipeline import Data
from graft.data.splits import Rows
from graft.features.store import Features, Matrix, features_of, store_key
from graft.model import scale_pixels

log = logging.getLogger(__name__)

BATCH = 32  # images at a time; larger ones are no faster on two cores


def extract(data: Data, backbone: SavedBackbone, config: Config) -> Features:
    """The features of all images of `data`, from the store where they are known.

    Raises:
        ConfigError: if the backbone does not fit the configuration. It is loaded only if features are missing.
    """
    key = store_key(
        f"backbone {backbone.sha256}",
        f"decoding {image_store.VERSION}",
        f"size {config.image_size}",
        f"range {config.backbone.value_range}",
        "tensorflow float32",
    )

    def run_backbone(rows: Rows) -> Iterator[Matrix]:
        log.info("Extracting the features of %d images with %s, once", len(rows), config.backbone.name)
        layer = backbones.hub_layer(backbone, config.backbone, trainable=False, image_size=config.image_size)

        @tf.function(reduce_retracing=True)
        def features(images: tf.Tensor) -> tf.Tensor:
            return layer(scale_pixels(images, config), training=False)

        console = Console()
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task("Extracting features", total=len(rows))
            for images, _ in data.batches(rows, BATCH):
                yield features(images).numpy()
                progress.advance(bar, len(images))

    return features_of(data.images.digests, key, run_backbone)
