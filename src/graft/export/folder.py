"""A trained model as a folder that other programs load, with nothing of Graft."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from graft.errors import ConfigError, FatalError
from graft.recording import CLASSES

if TYPE_CHECKING:
    from graft.export.trained import TrainedModel

TFLITE = "model.tflite"
SAVED_MODEL = "saved_model.pb"  # without which nothing loads the folder


def check(folder: Path) -> None:
    """Refuses a folder that something would be lost in.

    Raises:
        ConfigError: if there is anything at `folder` but an empty folder.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        what = "a folder with files in it" if folder.is_dir() else "a file"
        raise ConfigError(f"{folder}: this is {what}; allowed is an empty folder, or one that is not there yet")


def export(trained: TrainedModel, folder: Path, *, tflite: bool) -> None:
    """Writes `trained` into `folder`, which appears when it is whole; in an empty one the file that makes it a model.

    A TF2 SavedModel with two signatures, which give ``probabilities``, float32 [batch, classes], and ``label``, the
    name of the most probable class: ``serving_default`` takes ``images``, decoded, uint8 [batch, height, width, 3] of
    any size; ``encoded`` takes ``contents``, strings [batch], each a JPEG, PNG, GIF, BMP or WebP. ``classes.json`` has
    the names of the classes in order. With `tflite`, ``model.tflite`` beside it takes uint8 [1, size, size, 3],
    resized already, and gives the probabilities.

    Raises:
        ConfigError: as `check`.
        FatalError: if `folder` cannot be written, or TFLite has no counterpart to what the model does.
    """
    import tensorflow as tf

    from graft.export.exported_model import ExportedModel, tflite_of

    check(folder)
    try:
        whole = folder.resolve()  # what "." and a link name
        is_there = whole.exists()
        # A folder that is there may be a mount, or the one that the user's shell is in: it is filled, not replaced.
        beside = whole if is_there else whole.parent
        beside.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{whole.name}-", dir=beside))
        try:
            module = ExportedModel(trained)
            signatures = {"serving_default": module.decoded, "encoded": module.encoded}
            tf.saved_model.save(module, str(partial), signatures=signatures)
            (partial / CLASSES).write_text(json.dumps(trained.class_names, indent=1) + "\n", encoding="utf-8")
            if tflite:
                (partial / TFLITE).write_bytes(tflite_of(trained))
            if is_there:
                for entry in sorted(partial.iterdir(), key=lambda entry: entry.name == SAVED_MODEL):
                    os.replace(entry, whole / entry.name)
            else:
                partial.chmod(0o777 & ~_umask())
                os.replace(partial, whole)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise FatalError(f"{folder}: the model cannot be written there: {error.strerror or error}") from error


def _umask() -> int:
    """The process's, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
