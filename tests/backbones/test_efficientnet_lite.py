from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images
from tests.backbones.choice import LITE0, Choice

from graft import backbones
from graft.backbones import SavedBackbone, efficientnet_lite, package, torch_weights

Weights = Mapping[str, NDArray[Any]]


@pytest.fixture(scope="module")
def weights() -> Weights:
    return torch_weights.parse(package.find("efficientnet_lite0").read_bytes())


@pytest.fixture(scope="module")
def network(weights: Weights) -> efficientnet_lite.EfficientNetLite:
    return efficientnet_lite.build("efficientnet_lite0", weights)


@pytest.fixture(scope="module")
def frozen(lite0: SavedBackbone) -> Any:
    return backbones.hub_layer(lite0, Choice(LITE0, input_size=224), trainable=False)


def noise(size: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((4, size, size, 3), np.float32)


def photo(name: str, size: int = 224) -> tf.Tensor:
    """The photo's central square, resized to `size` pixels (bicubic, without antialiasing); float32 from 0 to 1."""
    photos = load_sample_images()
    pixels = next(image for file, image in zip(photos.filenames, photos.images, strict=True) if file.endswith(name))
    height, width, _ = pixels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side] / np.float32(255)
    return tf.clip_by_value(tf.image.resize(square, (size, size), "bicubic"), 0, 1)[tf.newaxis]


@pytest.mark.parametrize(
    ("name", "imagenet_class", "probability"),
    [("china.jpg", 698, 0.40), ("flower.jpg", 985, 0.19)],
    ids=["palace", "daisy"],
)
def test_knows_what_the_photos_show(
    name: str, imagenet_class: int, probability: float, frozen: Any, weights: Weights
) -> None:
    logits = frozen(photo(name)).numpy() @ weights["_fc.weight"].T + weights["_fc.bias"]
    probabilities = tf.nn.softmax(logits).numpy()[0]
    assert probabilities.argmax() == imagenet_class
    assert probabilities[imagenet_class] == pytest.approx(probability, abs=0.01)


@pytest.mark.parametrize(
    ("name", "size", "parameters", "known"),
    [
        ("efficientnet_lite1", 240, 4_189_344, [("china.jpg", 698, 0.589), ("flower.jpg", 985, 0.027)]),
        # The flower is a dahlia, which is no class of ImageNet: Lite2 takes it for a honeycomb.
        ("efficientnet_lite2", 260, 4_869_168, [("china.jpg", 698, 0.286), ("flower.jpg", 599, 0.334)]),
    ],
)
def test_the_larger_ones_know_it_too(
    name: str, size: int, parameters: int, known: list[tuple[str, int, float]]
) -> None:
    weights = torch_weights.parse(package.find(name).read_bytes())
    network = efficientnet_lite.build(name, weights)
    assert sum(variable.shape.num_elements() for variable in network.variables) == parameters
    assert package.parameters(name) == parameters
    for file, imagenet_class, probability in known:
        logits = network(photo(file, size)).numpy() @ weights["_fc.weight"].T + weights["_fc.bias"]
        probabilities = tf.nn.softmax(logits).numpy()[0]
        assert probabilities.argmax() == imagenet_class
        assert probabilities[imagenet_class] == pytest.approx(probability, abs=0.01)


@pytest.mark.parametrize("size", [32, 65, 224])
def test_the_loaded_model_computes_what_the_network_does(size: int, frozen: Any, network: Any) -> None:
    features = frozen(noise(size)).numpy()
    assert features.shape == (4, 1280)
    assert features.min() >= 0
    assert features.max() <= 6
    np.testing.assert_allclose(features, network(noise(size)).numpy(), rtol=1e-5, atol=1e-5)


def test_has_the_variables_of_the_original(lite0: SavedBackbone) -> None:
    counts = {}
    for trainable in (True, False):
        layer = backbones.hub_layer(lite0, Choice(LITE0), trainable)
        head = [tf_keras.layers.Dense(512, activation="relu"), tf_keras.layers.Dense(5)]
        model = tf_keras.Sequential([tf_keras.layers.InputLayer((64, 64, 3)), layer, *head])
        counts[trainable] = len(model.trainable_variables)
        assert len(model.variables) == 249
    assert counts == {True: 151, False: 4}


def stem_averages(layer: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    named = {weight.name: weight.numpy() for weight in layer.weights}
    return named["conv_stem/moving_mean:0"], named["conv_stem/moving_variance:0"]


def test_frozen_batch_norms_stay_as_they_are(lite0: SavedBackbone) -> None:
    layer = backbones.hub_layer(lite0, Choice(LITE0, batch_norm_momentum=0.5), trainable=False)
    before = [weight.numpy() for weight in layer.weights]
    images = noise(64)
    np.testing.assert_array_equal(layer(images, training=True), layer(images, training=False))
    for old, weight in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(old, weight.numpy())


@pytest.mark.parametrize("momentum", [0.0, 0.8, 1.0, None])
def test_training_moves_the_averages_by_the_momentum(
    momentum: float | None, lite0: SavedBackbone, network: Any
) -> None:
    layer = backbones.hub_layer(lite0, Choice(LITE0, batch_norm_momentum=momentum), trainable=True)
    images = noise(64)
    old_mean, old_variance = stem_averages(layer)
    # Building and evaluating the layer must not have moved them.
    np.testing.assert_array_equal(old_mean, network.stem.moving_mean)
    layer(images, training=True)
    new_mean, new_variance = stem_averages(layer)

    convolved = tf.nn.conv2d((images * 255 - 127) / 128, network.stem.kernel, 2, "SAME").numpy().reshape(-1, 32)
    kept = efficientnet_lite.BATCH_NORM_MOMENTUM if momentum is None else momentum
    tolerance = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(new_mean, kept * old_mean + (1 - kept) * convolved.mean(axis=0), **tolerance)
    np.testing.assert_allclose(
        new_variance, kept * old_variance + (1 - kept) * convolved.var(axis=0, ddof=1), **tolerance
    )


TRAIN = """
import sys
from pathlib import Path
import numpy as np, tensorflow as tf
from graft import backbones
from tests.backbones.choice import LITE0, Choice
tf.config.experimental.enable_op_determinism()
tf.random.set_seed(0)
choice = Choice(LITE0, input_size=32, batch_norm_momentum=0.9)
layer = backbones.hub_layer(backbones.SavedBackbone(Path(sys.argv[1]), ""), choice, trainable=True)
images = np.random.default_rng(0).random((16, 32, 32, 3), np.float32)

@tf.function
def step():
    with tf.GradientTape() as tape:
        logits = layer(images, training=True)[:, :5]
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(np.arange(16) % 5, logits))
    for variable, gradient in zip(layer.trainable_weights, tape.gradient(loss, layer.trainable_weights)):
        variable.assign_sub(0.1 * gradient)
    return loss

start = [weight.numpy() for weight in layer.weights]
for _ in range(2):
    for weight, value in zip(layer.weights, start):
        weight.assign(value)
    losses = [float(step()) for _ in range(5)]
    print([loss.hex() for loss in losses], float(tf.reduce_sum(layer(images))).hex(), losses[-1] < losses[0])
"""


def test_training_is_deterministic_and_learns(lite0: SavedBackbone) -> None:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    run = subprocess.run(
        [sys.executable, "-c", TRAIN, str(lite0.path)], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()
    assert first == second
    assert first.endswith("True")


def test_a_missing_weight_is_named(weights: Weights) -> None:
    left = {name: weight for name, weight in weights.items() if name != "_blocks.3._bn1.bias"}
    with pytest.raises(ValueError, match=r"no _blocks\.3\._bn1\.bias"):
        efficientnet_lite.build("efficientnet_lite0", left)


def test_a_weight_of_another_shape_is_named(weights: Weights) -> None:
    with pytest.raises(ValueError, match=r"_bn1\.weight should be float32 \(1280,\), it is float32 \(7,\)"):
        efficientnet_lite.build("efficientnet_lite0", {**weights, "_bn1.weight": np.zeros(7, np.float32)})


def test_a_weight_without_a_place_is_named(weights: Weights) -> None:
    with pytest.raises(ValueError, match=r"no place for the weights _blocks\.16\._bn0\.bias"):
        efficientnet_lite.build("efficientnet_lite0", {**weights, "_blocks.16._bn0.bias": np.zeros(7, np.float32)})


def test_a_pinned_lite0_resolves(lite0: SavedBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(lite0.path.parents[3]))
    assert backbones.resolve(replace(Choice(LITE0), sha256=lite0.sha256)) == lite0
