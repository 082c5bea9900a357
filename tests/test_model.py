"""The model: shapes, the value range that the backbone sees, and dropout that can be resumed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from graft.config import Config
from graft.model import SeededDropout, build_model, scale_pixels

MakeConfig = Callable[..., Config]


def pooling_layer() -> tf_keras.layers.Layer:
    return tf_keras.layers.Lambda(lambda images: tf.reduce_mean(images, axis=(1, 2)))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0)])
def test_the_backbone_sees_its_value_range(make_config: MakeConfig, low: float, high: float) -> None:
    seen = []
    config = make_config(f"backbone.value_range=[{low},{high}]", "dataset.image_size=4")
    layer = tf_keras.layers.Lambda(lambda images: seen.append(images) or tf.reduce_mean(images, axis=(1, 2)))
    model = build_model(layer, config, classes=3)
    images = np.zeros((2, 4, 4, 3), np.uint8)
    images[1] = 255
    model(images)
    np.testing.assert_allclose(seen[-1][0], low, atol=1e-6)
    np.testing.assert_allclose(seen[-1][1], high, atol=1e-6)


@pytest.mark.parametrize("value_range", ["[0,1]", "[-1,1]", "[0,255]", "[-0.9921875,1]"])
def test_a_live_backbone_sees_to_the_last_bit_what_extraction_shows_it(
    make_config: MakeConfig, value_range: str
) -> None:
    config = make_config(f"backbone.value_range={value_range}", "dataset.image_size=16")
    model = build_model(pooling_layer(), config, classes=3)
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    np.testing.assert_array_equal(model.get_layer("scale")(pixels), scale_pixels(tf.constant(pixels), config))


def test_the_head_is_what_the_knobs_say(make_config: MakeConfig) -> None:
    def layers(*overrides: str) -> list[str]:
        model = build_model(pooling_layer(), make_config("dataset.image_size=4", *overrides), classes=5)
        assert model.output_shape == (None, 5)
        return [type(layer).__name__ for layer in model.get_layer("head").layers]

    assert layers("head_width=0") == ["Dense"]
    assert layers("head_width=7") == ["Dense", "SeededDropout", "Dense"]


def test_initial_weights_hang_on_the_seed_and_not_on_what_ran_before(make_config: MakeConfig) -> None:
    def kernel(*overrides: str) -> np.ndarray:
        model = build_model(pooling_layer(), make_config("dataset.image_size=4", *overrides), classes=5)
        return np.concatenate([weights.ravel() for weights in model.get_weights()])

    first = kernel()
    tf.random.uniform(())  # moves the global generator on
    np.testing.assert_array_equal(kernel(), first)
    assert (kernel("seed=1") != first).any()


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    layer = SeededDropout(0.25, seed=3)
    dropped = layer(tf.ones((200, 200)), training=True).numpy()
    assert abs((dropped == 0).mean() - 0.25) < 0.01
    np.testing.assert_allclose(dropped[dropped != 0], 1 / 0.75, rtol=1e-6)
    np.testing.assert_array_equal(layer(tf.ones((2, 2)), training=False), np.ones((2, 2)))


def test_dropout_at_rate_0_changes_no_bit() -> None:
    values = tf.random.stateless_normal((64, 64), (1, 2))
    np.testing.assert_array_equal(SeededDropout(0.0, seed=3)(values, training=True), values)


def test_dropout_masks_differ_between_steps_and_seeds_and_go_on_after_a_restart() -> None:
    ones = tf.ones((8, 64))
    layer = SeededDropout(0.5, seed=3)
    masks = [layer(ones, training=True).numpy() for _ in range(4)]
    assert (masks[0] != masks[1]).any()
    assert (SeededDropout(0.5, seed=4)(ones, training=True).numpy() != masks[0]).any()
    resumed = SeededDropout(0.5, seed=3)
    resumed.build((None, 64))
    resumed.set_weights([np.int64(2), np.float32(0.5), np.int64(3)])  # as a checkpoint after two steps would
    np.testing.assert_array_equal(resumed(ones, training=True), masks[2])
