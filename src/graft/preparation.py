"""From a configuration to what is trained: the images, the backbone, the model and its compiled steps.

A process keeps what it prepared last. A warm worker then reads no image, loads no backbone and traces no function
for a trial whose settings differ in learning rate, dropout rate or seed alone.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from graft import backbones, provenance, runtime
from graft.config import Config, TrackingConfig
from graft.config_dataset import WHERE_DATA_LIE
from graft.data import splits
from graft.errors import ConfigError
from graft.paths import cache
from graft.sweep.devices import visible_gpus
from graft.warm import Kept

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import tf_keras

    from graft.backbones import SavedBackbone
    from graft.data.pipeline import Data, Inputs
    from graft.features.store import Features
    from graft.loop.trained_model import TrainedModel

log = logging.getLogger(__name__)

Value = TypeVar("Value")


@dataclass(frozen=True)
class Prepared:
    """What a run consists of, checked against each other, before anything is recorded.

    Attributes:
        data: Its inputs are what the model takes.
        backbone: The SavedModel and its digest.
        trainer: The untrained model, images to logits or on stored features only the head, and its compiled steps.
            The process has one for all runs of a kind: prepare again before another of them is trained.
        features: The stored features, if the head is trained on them.
    """

    data: Data
    backbone: SavedBackbone
    trainer: TrainedModel
    features: Features | None = None

    @property
    def model(self) -> tf_keras.Model:
        return self.trainer.model


def check(config: Config) -> Config:
    """What can be said against backbone and machine before TensorFlow is imported.

    Returns:
        `config` with what it leaves open about the images, as the module itself says it.

    Raises:
        ConfigError: if the loop needs another environment, if the backbone is no usable one, or does not say what
            is left open, if mixed precision is insisted on without a GPU, if `GRAFT_CACHE` is no place, or if
            `tracking.artifacts` is none.
        FatalError: if the backbone has to be downloaded and cannot be.
        OSError: if the disk of `tracking.artifacts` is read-only; `graft.disk` has the words for it.
    """
    cache()
    _refuse_artifacts_without_a_place(config.tracking)
    if config.loop.name == "estimator":
        _refuse_estimator_where_there_is_none()
    images = backbones.images_of(config.backbone, config.dataset.image_size)
    if config.mixed_precision is True and not visible_gpus():
        raise ConfigError(runtime.NO_TENSOR_CORES)
    told = {"input_size": images.input_size, "value_range": images.value_range}
    return config.model_copy(update={"backbone": config.backbone.model_copy(update=told)})


def _refuse_artifacts_without_a_place(tracking: TrackingConfig) -> None:
    """MLflow would say so when the first artifact comes, and then it could as well be an outage.

    Raises:
        ConfigError: if nothing can be made there.
        OSError: if the disk is read-only.
    """
    if tracking.artifacts is None:
        return
    folder = Path(tracking.artifacts)
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if there.is_dir() and os.statvfs(there).f_flag & os.ST_RDONLY:  # no mistake of the configuration's
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(there))
    why = f"{there} is no folder" if not there.is_dir() else f"nothing can be written to {there}"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"tracking.artifacts={folder}: {why}; allowed is a folder, which is made where there is none")


def _refuse_estimator_where_there_is_none() -> None:
    if provenance.has_estimator():
        return
    version = provenance.version_of("tensorflow")
    raise ConfigError(
        f"loop=estimator: tf.estimator was removed after TensorFlow 2.15, and this environment has {version}; allowed "
        "here are loop=gradient_tape and loop=keras_fit. make experiment NAME=estimator makes an environment that has "
        "it, with Python 3.11, and .venv-estimator/bin/python train.py loop=estimator is a run in it"
    )


def prepare(config: Config) -> Prepared:
    """Finds the images and the backbone, extracts features where they are wanted, and builds the model.

    Raises:
        ConfigError: if the data set or the backbone cannot be used, or they do not fit each other.
        FatalError: as `check`; if the data set cannot be downloaded, or what is made of it cannot be stored.
    """
    config = check(config)
    data, backbone, same_data = _find(config)
    if not config.cached_features:
        return Prepared(data, backbone, _trainer(config, backbone, data))
    features, inputs = _stored_features(config, backbone, data, same_data)
    data = replace(data, inputs=inputs)
    return Prepared(data, backbone, _trainer(config, backbone, data, features), features)


def find(config: Config) -> tuple[Data, SavedBackbone]:
    """The images, decoded, and the backbone on disk: what `prepare` begins with, and keeps from here.

    Raises:
        ConfigError: if one of them cannot be used.
        FatalError: as `prepare`.
    """
    data, backbone, _ = _find(check(config))
    return data, backbone


def _find(config: Config) -> tuple[Data, SavedBackbone, Hashable]:
    """TensorFlow is imported only once the configuration and the data set are known to be usable."""
    images, parts = splits.choose(config.dataset)
    runtime.set_up(config)
    from graft.data import pipeline

    divided = config.dataset.model_dump_json(exclude=set(WHERE_DATA_LIE))
    same_data = (str(cache()), images.sha256(), divided, config.image_size)

    def decoded() -> Data:
        data, _ = _data.get(same_data, lambda: pipeline.prepare(images, parts, config))
        return replace(data, augmentation=config.augment)

    if not backbones.is_to_be_converted(config.backbone):
        return decoded(), backbones.resolve(config.backbone), same_data
    # Converting keeps one CPU busy, so that the others would wait for it.
    resolved = _begin(lambda: backbones.resolve(config.backbone))
    return decoded(), resolved.result(), same_data


def _begin(call: Callable[[], Value]) -> Future[Value]:
    """Calls in a thread of its own, which nobody waits for who does not want its result: Ctrl-C is not held up."""
    future: Future[Value] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="beside", daemon=True).start()
    return future


@dataclass(frozen=True)
class _Warm:
    trainer: TrainedModel
    pretrained: list[npt.NDArray[np.float32]]  # what training changed in the backbone
    draws: bool  # the backbone has random numbers of its own, which would go on from run to run


# Heads are small. Of models with a backbone there is room for one.
_data: Kept[Data] = Kept(1)
_features: Kept[tuple[Features, Inputs]] = Kept(1)
_heads: Kept[_Warm] = Kept(8)
_models: Kept[_Warm] = Kept(1)


def _stored_features(
    config: Config, backbone: SavedBackbone, data: Data, same_data: Hashable
) -> tuple[Features, Inputs]:
    """The features of all images, and how they are fed: from memory if the budget allows."""
    from graft.data.pipeline import in_memory
    from graft.features import store
    from graft.features.extract import extract

    def read() -> tuple[Features, Inputs]:
        features = extract(data, backbone, config)
        return features, in_memory(features, data.images.labels, config.features.memory_budget_mb)

    settings = (config.value_range, config.features.model_dump_json())
    same_features = (same_data, backbone.sha256, *settings, str(store.root()))
    (features, inputs), kept = _features.get(same_features, read)
    backbones.check_width(config.backbone, features.width)  # where none was missing, no backbone was loaded
    return replace(features, extraction_seconds=0.0) if kept else features, inputs


def _trainer(config: Config, backbone: SavedBackbone, data: Data, features: Features | None = None) -> TrainedModel:
    """The untrained model and its compiled steps."""
    from graft import loop
    from graft.model import BACKBONE, build_head, build_model, reset

    new_trainer = loop.of(config).Trainer
    classes = len(data.class_names)

    def build() -> _Warm:
        runtime.forget(config)
        if features is not None:
            return _Warm(new_trainer(build_head(features.width, config, classes=classes), config), [], draws=False)
        log.info("The first epoch also makes TensorFlow's graph of the model, and so takes longer than the others")
        layer = backbones.hub_layer(backbone, config.backbone, config.trainable, image_size=config.image_size)
        model = build_model(layer, config, classes=classes)
        pretrained = model.get_layer(BACKBONE).get_weights() if config.trainable else []
        return _Warm(new_trainer(model, config), pretrained, draws=backbones.draws(layer))

    traced = config.model_dump_json(
        include={
            "backbone",
            "loop",
            "optimizer",
            "trainable",
            "head_width",
            "class_weights",
            "jit_compile",
            "mixed_precision",
            "deterministic",
        }
    )
    same_steps = (traced, backbone.sha256, config.image_size, classes)
    store = _models if features is None else _heads
    warm, kept = store.get(same_steps, build)
    if kept and warm.draws:
        store.drop(same_steps)
        warm, kept = store.get(same_steps, build)
    if kept:
        reset(warm.trainer.model, config, warm.pretrained)
    return warm.trainer
