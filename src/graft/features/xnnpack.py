"""XNNPACK: a frozen backbone converted to TFLite, kept, and run by kernels made for CPUs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tensorflow as tf

from graft import backbones
from graft.backbones import folder_cache
from graft.cache import marks
from graft.cache.removal import again_if_removed
from graft.cpus import usable_cpus
from graft.errors import FatalError
from graft.features import tflite_file
from graft.features.conversion import quiet, to_tflite
from graft.features.live import BATCH, Check, Engine, LiveBackbone, Unusable, check, unusable, versions
from graft.features.store import Matrix
from graft.paths import cache

log = logging.getLogger(__name__)

XNNPACK_BATCH = 8  # a TFLite file has one batch size built in
XNNPACK_VERSION = 2  # goes up when a conversion computes something else


class KeptXnnpack:
    """The converted backbone, under `engines` of the cache: made when it is first opened, and kept.

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
        """The engine, and the seconds that an image costs live.

        Converts and checks the backbone if that was not done yet, or its file is damaged.

        Raises:
            Unusable: if it cannot be converted, TFLite cannot run it, or it did not pass its check.
            ConfigError: if the backbone does not fit the configuration.
            FatalError: if it cannot be kept.
        """
        try:
            again_if_removed(self._folder, lambda: folder_cache.ensure(self._folder, self._convert, tflite_file.digest))
        except OSError as error:
            raise FatalError(
                f"The converted backbone cannot be kept in {self._folder.parent}: {error.strerror or error}"
            ) from error
        if (reason := self._folder / tflite_file.UNUSABLE).exists():
            raise Unusable(reason.read_text(encoding="utf-8"))
        with unusable("TFLite cannot run the converted file"):
            engine = Tflite(self._folder / tflite_file.NAME)
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


class Tflite:
    """An `Engine` from a TFLite file of one input, one output and `XNNPACK_BATCH` images.

    One interpreter on all CPUs: one a CPU, side by side, extracted no more images a second on two cores.
    """

    def __init__(self, file: Path) -> None:
        with quiet("a TFLite file was opened"):
            from ai_edge_litert.interpreter import Interpreter

            self._interpreter = Interpreter(model_path=str(file), num_threads=usable_cpus())
            self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def __call__(self, images: tf.Tensor) -> Matrix:
        features = []
        for pixels in np.split(images.numpy(), BATCH // XNNPACK_BATCH):
            self._interpreter.set_tensor(self._input, pixels)
            self._interpreter.invoke()
            features.append(self._interpreter.get_tensor(self._output))
        return np.concatenate(features)


def _machine() -> str:
    """What a check holds for: another CPU has other kernels and another speed."""
    return f"{platform.node()} {platform.machine()} {usable_cpus()} CPUs {versions()}"
