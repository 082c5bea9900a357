"""What is kept to be used again, cut off at any byte: features, resized images, checkpoints, SavedModels."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tests.chaos.ledger import chance, injected
from tests.conftest import backbone_at
from tests.images import write_classes
from tests.sweep.apps import LONG

from graft import preparation
from graft.backbones import folder_cache
from graft.config import Config
from graft.data import pipeline, splits
from graft.data.splits import Rows
from graft.errors import GraftError
from graft.features.store import Matrix, features_of
from graft.loop.checkpoints import Checkpoints, read_best
from graft.loop.result import History, best_epoch

MakeConfig = Callable[..., Config]


def files_in(folder: Path) -> list[Path]:
    return sorted(
        file for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock" and file.name != "lock"
    )


def cut_somewhere(folder: Path, choose: Callable[[list[Path]], Path], at: float) -> Path:
    """Cuts a file of a folder at a part of its length from 0 to 1."""
    file = choose(files_in(folder))
    os.truncate(file, int(at * file.stat().st_size))
    return file


# Features ------------------------------------------------------------------------------------------

DIGESTS = [str(number) for number in range(40)]


def vectors(digests: list[str]) -> Matrix:
    return np.array([[int(digest)] * 16 for digest in digests], np.float32)


def features(key: str, count: int = len(DIGESTS)) -> tuple[Matrix, int]:
    """What the store gives for the first images, and how many of them were extracted for that."""
    extracted = 0

    def backbone(rows: Rows) -> Iterator[Matrix]:
        nonlocal extracted
        extracted += len(rows)
        yield vectors([DIGESTS[row] for row in rows])

    found = features_of(DIGESTS[:count], key, backbone)
    return found.take(np.arange(count)), extracted


def test_features_that_are_cut_anywhere_are_extracted_again(home: Path) -> None:
    places = chance("features")
    for number in range(60 if LONG else 8):
        with injected("a file of the feature store cut at any byte") as fault:
            key = f"store{number}"
            features(key, 25)
            features(key)  # a second part
            folder = home / "mlruns/cache/features" / key
            cut_somewhere(folder, places.choice, places.random())
            found, extracted = features(key)
            np.testing.assert_array_equal(found, vectors(DIGESTS))
            assert extracted in (25, 15), "the other part stays"
            assert features(key)[1] == 0
            fault.repaired()


# Images --------------------------------------------------------------------------------------------


def test_resized_images_that_are_cut_anywhere_are_made_again(
    make_config: MakeConfig, home: Path, tmp_path: Path
) -> None:
    write_classes(tmp_path / "photos", {"cat": 6, "dog": 6})
    config = make_config("dataset=image_folder", f"dataset.path={tmp_path}/photos", "dataset.image_size=8")

    def pixels() -> np.ndarray:
        return pipeline.prepare(*splits.choose(config.dataset), config).inputs.take(np.arange(12))

    whole, places = pixels(), chance("images")
    (folder,) = (entry for entry in (home / "mlruns/cache/images").iterdir() if entry.is_dir())
    for _ in range(40 if LONG else 4):
        with injected("a file of the image store cut at any byte") as fault:
            before = {file.name: file.read_bytes() for file in files_in(folder)}
            cut = cut_somewhere(folder, places.choice, places.random())
            np.testing.assert_array_equal(pixels(), whole)
            if cut.name == "about.json":  # for lists alone
                fault.harmless()
            else:
                after = {file.name: file.read_bytes() for file in files_in(folder)}
                assert all(after[name] == before[name] for name in ("pixels.npy", "index.json"))
                fault.repaired()


# Checkpoints ---------------------------------------------------------------------------------------

SAVED = 5


def head() -> tuple[tf_keras.Model, tf_keras.optimizers.Optimizer]:
    model = tf_keras.Sequential([tf_keras.layers.Dense(40, input_shape=(30,)), tf_keras.layers.Dense(2)])
    return model, tf_keras.optimizers.SGD(momentum=0.9)


def as_after(model: tf_keras.Model, epoch: int) -> None:
    for variable in model.trainable_variables:
        variable.assign(tf.fill(variable.shape, float(epoch)))


def told_after(epoch: int) -> History:
    # The second epoch is the best for a while, so that later checkpoints rest on an earlier best.
    accuracies = [0.1, 0.5, 0.3, 0.6, 0.4]
    return [{"epoch": e, "val_accuracy": accuracies[e], "val_loss": 1.0 - accuracies[e]} for e in range(epoch + 1)]


def test_a_checkpoint_that_is_cut_anywhere_is_passed_over(tmp_path: Path) -> None:
    places = chance("checkpoints")
    model, optimizer = head()
    saved = Checkpoints(tmp_path / "whole", model, optimizer)
    for epoch in range(SAVED):
        as_after(model, epoch)
        saved.save(told_after(epoch))
    for number in range(80 if LONG else 8):
        with injected("a checkpoint, or what lies beside it, cut at any byte") as fault:
            folder = tmp_path / str(number)
            shutil.copytree(tmp_path / "whole", folder)
            cut = cut_somewhere(folder, places.choice, places.random())
            model, optimizer = head()
            found = Checkpoints(folder, model, optimizer)
            history = found.restore_latest()
            for variable in model.trainable_variables:
                if history:
                    np.testing.assert_array_equal(variable, float(len(history) - 1))
            assert history == (told_after(len(history) - 1) if history else [])
            if cut.name in ("checkpoint", "history.json"):  # copies, for other readers
                assert len(history) == SAVED
                fault.harmless()
                continue
            assert len(history) in (SAVED - 1, SAVED, 0)
            if history:
                found.restore_best(history)
                np.testing.assert_array_equal(model.trainable_variables[0], float(best_epoch(history)))
            for epoch in range(len(history), SAVED):
                as_after(model, epoch)
                found.save(told_after(epoch))
            assert Checkpoints(folder, *head()).restore_latest() == told_after(SAVED - 1)
            fault.repaired()


def test_the_best_checkpoint_of_a_run_that_is_over_is_named_if_it_is_cut(tmp_path: Path) -> None:
    places = chance("best")
    model, optimizer = head()
    saved = Checkpoints(tmp_path / "whole", model, optimizer)
    as_after(model, 0)
    saved.save(told_after(0))
    saved.keep_best_only(told_after(0))
    for number in range(20 if LONG else 3):
        with injected("the best checkpoint of a run that is over cut at any byte") as fault:
            folder = tmp_path / str(number)
            shutil.copytree(tmp_path / "whole/checkpoints/best", folder)
            cut = cut_somewhere(folder, places.choice, places.random())
            model, _ = head()
            if cut.name == "checkpoint":
                read_best(folder, model)
                np.testing.assert_array_equal(model.trainable_variables[0], 0.0)
                fault.harmless()
            else:
                with pytest.raises(GraftError, match="best checkpoint cannot be read"):
                    read_best(folder, model)
                fault.named()


# SavedModels ---------------------------------------------------------------------------------------


def test_a_saved_model_in_the_cache_that_is_cut_anywhere_is_made_again(home: Path, tiny_backbone: Path) -> None:
    places = chance("cached model")
    folder = home / "mlruns/cache/backbones/tiny"

    def build(empty: Path) -> None:
        shutil.copytree(tiny_backbone, empty, dirs_exist_ok=True)

    folder_cache.ensure(folder, build)
    for _ in range(60 if LONG else 6):
        with injected("a SavedModel in the cache cut at any byte") as fault:
            before = {file.name: file.read_bytes() for file in files_in(folder)}
            cut = cut_somewhere(folder, places.choice, places.random())
            folder_cache.ensure(folder, build)
            if cut.name == "fingerprint.pb":  # which TensorFlow reads for its own statistics alone
                fault.harmless()
                cut.write_bytes(before[cut.name])
            else:
                assert {file.name: file.read_bytes() for file in files_in(folder)} == before
                fault.repaired()


def test_a_saved_model_of_the_users_that_is_cut_anywhere_is_named(
    make_config: MakeConfig, home: Path, tmp_path: Path, tiny_backbone: Path
) -> None:
    places = chance("own model")
    whole = preparation.prepare(
        make_config(*backbone_at(tiny_backbone), "dataset.image_size=8", "dataset.max_images=40")
    )
    for number in range(24 if LONG else 3):
        with injected("a SavedModel of the user's cut at any byte") as fault:
            folder = tmp_path / str(number)
            shutil.copytree(tiny_backbone, folder)
            cut = cut_somewhere(folder, places.choice, places.random())
            config = make_config(*backbone_at(folder), "dataset.image_size=8", "dataset.max_images=40")
            try:
                prepared = preparation.prepare(preparation.check(config))
            except GraftError as error:
                fault.outcome = "named" if str(folder) in str(error) else ""
            else:
                assert cut.name == "fingerprint.pb", cut
                assert whole.features is not None
                assert prepared.features is not None
                rows = np.arange(len(whole.data.images))
                np.testing.assert_array_equal(prepared.features.take(rows), whole.features.take(rows))
                fault.harmless()
