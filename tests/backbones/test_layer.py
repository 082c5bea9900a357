from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from sklearn.datasets import load_digits
from tests.backbones.choice import Choice
from tests.tiny_backbone import save_tiny_backbone

from graft import backbones
from graft.backbones import SavedBackbone
from graft.errors import ConfigError
from graft.paths import CHECKOUT


def layer_of(folder: Path, trainable: bool = False, image_size: int | None = None, **choice: Any) -> Any:
    backbone = Choice(str(folder), **choice)
    # Past `resolve`, which refuses much of this before TensorFlow is there: a module need not say what it gives.
    return backbones.hub_layer(SavedBackbone(folder, ""), backbone, trainable, image_size)


def refusal(folder: Path, trainable: bool = False, image_size: int | None = None, **choice: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        layer_of(folder, trainable, image_size, **choice)
    return str(refused.value)


def save_module(
    folder: Path,
    call: Callable[..., Any],
    *,
    shape: tuple[int | None, ...] = (None, None, None, 3),
    dtype: tf.DType = tf.float32,
    trainings: tuple[bool, ...] = (),
    **attributes: Any,
) -> Path:
    """Someone else's module: `call` as it is, with the attributes given."""
    root = tf.train.Checkpoint()
    for name, value in attributes.items():
        setattr(root, name, value)
    root.__call__ = tf.function(call)
    for arguments in [{"training": training} for training in trainings] or [{}]:
        root.__call__.get_concrete_function(tf.TensorSpec(shape, dtype), **arguments)
    tf.saved_model.save(root, str(folder))
    return folder


def mean_color(images: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(images, axis=(1, 2))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes no `training`, lists no variables."""
    return save_module(tmp_path_factory.mktemp("plain"), mean_color)


def test_a_module_that_only_computes_works_frozen(plain: Path) -> None:
    features = layer_of(plain)(np.full((5, 64, 64, 3), 0.25, np.float32))
    np.testing.assert_allclose(features, np.full((5, 3), 0.25))


def test_a_module_that_only_computes_cannot_be_fine_tuned(plain: Path) -> None:
    text = refusal(plain, trainable=True)
    assert f"backbone.url={plain}" in text
    assert "trainable=true" in text
    assert "no trainable variables" in text


def test_a_momentum_for_a_module_that_takes_none_is_refused_when_it_is_trained(plain: Path) -> None:
    layer_of(plain, batch_norm_momentum=0.9)  # a frozen module's averages stand still
    assert "backbone.batch_norm_momentum=0.9" in refusal(plain, trainable=True, batch_norm_momentum=0.9)


def test_a_module_that_draws_random_numbers_is_known(tmp_path: Path, plain: Path) -> None:
    def noisy(images: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(images, (1, 2)) + tf.random.normal((3,), seed=1)

    def keyed(images: tf.Tensor) -> tf.Tensor:  # the same numbers each time
        return tf.reduce_mean(images, (1, 2)) + tf.random.stateless_normal((3,), (1, 2))

    assert backbones.draws(layer_of(save_module(tmp_path / "noisy", noisy)))
    assert not backbones.draws(layer_of(save_module(tmp_path / "keyed", keyed)))
    assert not backbones.draws(layer_of(plain))


def test_another_feature_width_is_refused(plain: Path) -> None:
    text = refusal(plain, feature_width=2048)
    assert "backbone.feature_width=2048" in text
    assert "3 features" in text
    layer_of(plain, feature_width=3)


def test_a_wrong_input_size_is_refused_with_the_right_one(tmp_path: Path) -> None:
    folder = save_tiny_backbone(tmp_path / "model", input_size=48)
    layer_of(folder, input_size=48)
    text = refusal(folder, input_size=64)
    assert "backbone.input_size=64" in text
    assert "it takes float32 (None, 48, 48, 3)" in text
    assert "dataset.image_size=32" in refusal(folder, input_size=48, image_size=32)
    layer_of(folder, input_size=64, image_size=48)


def test_a_module_for_other_pixels_is_refused(tmp_path: Path) -> None:
    folder = save_module(tmp_path, lambda images: mean_color(tf.cast(images, tf.float32)), dtype=tf.uint8)
    assert "it takes uint8 (None, None, None, 3)" in refusal(folder)


def test_a_module_that_fails_inside_is_refused_with_its_reason(tmp_path: Path) -> None:
    def large_only(images: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.debugging.assert_greater(tf.shape(images)[1], 100, "too small for me")]):
            return mean_color(images)

    text = refusal(save_module(tmp_path, large_only))
    assert "backbone.input_size=64" in text
    assert "too small for me" in text


@pytest.mark.parametrize(
    ("call", "given"),
    [
        (lambda images: images[:, ::8, ::8], "float32 [2, 8, 8, 3]"),
        (lambda images: tf.reduce_mean(images, axis=(0, 1, 2), keepdims=False), "float32 [3]"),
        (lambda images: mean_color(images)[:1], "float32 [1, 3]"),
        (lambda images: tf.cast(mean_color(images), tf.float16), "float16 [2, 3]"),
        (lambda images: {"features": mean_color(images)}, "a dict"),
    ],
    ids=["a map", "no batch", "one of the batch", "half precision", "a dict"],
)
def test_what_is_no_feature_vector_is_refused(call: Callable[..., Any], given: str, tmp_path: Path) -> None:
    folder = save_module(tmp_path, call)
    text = refusal(folder)
    assert f"backbone.url={folder}" in text
    assert f"gives {given} for two images" in text


def test_a_module_with_signatures_only_is_refused(tmp_path: Path) -> None:
    root = tf.train.Checkpoint()
    signature = tf.function(mean_color, input_signature=[tf.TensorSpec((None, None, None, 3))])
    tf.saved_model.save(root, str(tmp_path), signatures=signature)
    text = refusal(tmp_path)
    assert f"backbone.url={tmp_path}" in text
    assert "signatures" in text


@pytest.mark.parametrize("damaged", ["saved_model.pb", "variables/variables.index"])
def test_a_damaged_saved_model_is_refused(damaged: str, tmp_path: Path) -> None:
    folder = save_tiny_backbone(tmp_path / "model")
    (folder / damaged).write_bytes(b"no protocol buffer")
    text = refusal(folder)
    assert f"backbone.url={folder}" in text
    assert "cannot load" in text


def test_a_module_without_a_training_mode_cannot_be_fine_tuned(tmp_path: Path) -> None:
    factor = tf.Variable(1.0)
    folder = save_module(
        tmp_path,
        lambda images, training=False: mean_color(images) * factor,
        trainings=(False,),
        variables=[factor],
        trainable_variables=[factor],
        regularization_losses=[],
        factor=factor,
    )
    layer_of(folder)
    text = refusal(folder, trainable=True)
    assert f"backbone.url={folder}" in text
    assert "training=True" in text


def test_loading_and_trying_changes_no_variable(tiny: Path) -> None:
    saved = tf.saved_model.load(str(tiny)).variables
    for trainable in (False, True):
        for old, new in zip(saved, layer_of(tiny, trainable).resolved_object.variables, strict=True):
            np.testing.assert_array_equal(old, new)


def test_a_momentum_reaches_the_module(tiny: Path) -> None:
    """A plain Python number, through the layer, into a function that was saved for a tensor."""
    layer = layer_of(tiny, trainable=True, batch_norm_momentum=1.0)
    before = [weight.numpy() for weight in layer.non_trainable_weights]
    images = np.random.default_rng(0).random((4, 64, 64, 3), np.float32)
    layer(images, training=True)
    for old, weight in zip(before, layer.non_trainable_weights, strict=True):
        np.testing.assert_array_equal(old, weight)
    moving = layer_of(tiny, trainable=True, batch_norm_momentum=0.0)
    moving(images, training=True)
    assert not np.array_equal(before[0], moving.non_trainable_weights[0])


def test_the_layer_keeps_its_precision_under_mixed_precision(tiny: Path) -> None:
    images = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    expected = layer_of(tiny)(images)
    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        features = layer_of(tiny)(tf.cast(images, tf.float16))
        assert features.dtype == tf.float32
        np.testing.assert_allclose(features, expected, atol=0.01)
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")


def test_the_layer_can_be_saved_with_a_model(tiny: Path) -> None:
    layer = layer_of(tiny, True, batch_norm_momentum=0.9)
    config = json.loads(json.dumps(layer.get_config()))
    assert (config["arguments"], config["handle"]) == ({"batch_norm_momentum": 0.9}, str(tiny))
    assert {"_func", "_handle"} & layer._trackable_children().keys() == {"_func"}


def test_it_needs_no_keras_3(tiny: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from graft import backbones\n"
        "from tests.backbones.choice import Choice\n"
        f"folder = Path({str(tiny)!r})\n"
        "backbones.hub_layer(backbones.SavedBackbone(folder, ''), Choice(str(folder)), False)\n"
        "assert 'tensorflow_hub' in sys.modules\n"
        "assert not {'keras', 'sklearn', 'matplotlib'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("trainable", [False, True])
def test_a_head_on_the_tiny_backbone_learns_the_digits(trainable: bool, tiny: Path) -> None:
    pixels, labels = load_digits(return_X_y=True)
    images = np.repeat(pixels.reshape(-1, 8, 8, 1) / 16, 3, axis=-1).astype(np.float32)
    tf_keras.utils.set_random_seed(0)
    layer = layer_of(tiny, trainable, input_size=8, batch_norm_momentum=0.9)
    model = tf_keras.Sequential([tf_keras.layers.InputLayer((8, 8, 3)), layer, tf_keras.layers.Dense(10)])
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(images[:900], labels[:900], epochs=6, verbose=0)
    assert model.evaluate(images[900:], labels[900:], verbose=0)[1] >= 0.85


def test_frozen_and_fine_tuned_layers_share_nothing(tiny: Path) -> None:
    choice = replace(Choice(str(tiny)), batch_norm_momentum=0.0)
    saved = backbones.resolve(choice)
    frozen = backbones.hub_layer(saved, choice, trainable=False)
    images = np.random.default_rng(0).random((4, 64, 64, 3), np.float32)
    before = frozen(images).numpy()
    backbones.hub_layer(saved, choice, trainable=True)(images, training=True)
    np.testing.assert_array_equal(frozen(images), before)
