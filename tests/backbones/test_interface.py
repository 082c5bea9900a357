"""What is read from a SavedModel without TensorFlow is what TensorFlow says of it; and what is refused by it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
import tf_keras
from tests.backbones.choice import Choice
from tests.backbones.test_layer import mean_color, save_module
from tests.tiny_backbone import feature_width, save_tiny_backbone

from graft import backbones
from graft.backbones import interface
from graft.errors import ConfigError


@pytest.mark.parametrize("input_size", [None, 48])
def test_size_width_and_parameters_are_read(input_size: int | None, tmp_path: Path) -> None:
    told = interface.read(save_tiny_backbone(tmp_path / "tiny", input_size))
    loaded = tf.saved_model.load(str(tmp_path / "tiny"))
    assert told.objection() is None
    assert told.input_size == input_size
    assert told.feature_width == feature_width()
    assert told.parameters == sum(variable.shape.num_elements() for variable in loaded.variables)


def test_a_keras_model_is_read(tmp_path: Path) -> None:
    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [layers.InputLayer((32, 32, 3)), layers.Conv2D(5, 3), layers.BatchNormalization(), layers.GlobalAvgPool2D()]
    )
    model.compile(tf_keras.optimizers.Adam(), "mse")
    model.fit(
        tf.zeros((4, 32, 32, 3)), tf.zeros((4, 5)), verbose=0
    )  # the optimizer's variables are none of the backbone
    model.save(tmp_path / "model", save_format="tf")
    told = interface.read(tmp_path / "model")
    assert told.objection() is None
    assert (told.input_size, told.feature_width, told.parameters) == (32, 5, model.count_params())


def test_the_digests_numbers_are_those_of_lite0(lite0: Any) -> None:
    told = interface.read(lite0.path)
    assert (told.input_size, told.feature_width) == (None, 1280)
    assert told.parameters == sum(
        variable.shape.num_elements() for variable in tf.saved_model.load(str(lite0.path)).variables
    )


def signatures_only(folder: Path) -> Path:
    root = tf.train.Checkpoint()
    call = tf.function(
        lambda images: {"features": mean_color(images)}, input_signature=[tf.TensorSpec((None, 32, 32, 3))]
    )
    tf.saved_model.save(root, str(folder), signatures=call)
    return folder


def classifier(folder: Path) -> Path:
    root = tf.train.Checkpoint()
    root.__call__ = tf.function(mean_color, input_signature=[tf.TensorSpec((None, 32, 32, 3))])
    serving = tf.function(
        lambda images: {"logits": mean_color(images)}, input_signature=[tf.TensorSpec((None, 32, 32, 3))]
    )
    tf.saved_model.save(root, str(folder), signatures=serving)
    return folder


def module(call: Callable[..., Any], **options: Any) -> Callable[[Path], Path]:
    return lambda folder: save_module(folder, call, **options)


UNUSABLE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a map": (module(lambda images: images[:, ::8, ::8]), "gives float32 (None, None, None, 3); a feature vector"),
    "one number an image": (module(lambda images: tf.reduce_mean(images, (1, 2, 3))), "gives float32 (None,)"),
    "half precision": (module(lambda images: tf.cast(mean_color(images), tf.float16)), "gives float16 (None, 3)"),
    "a dict": (module(lambda images: {"features": mean_color(images)}), "gives a dict"),
    "a list": (module(lambda images: [mean_color(images)]), "gives a list"),
    "bytes": (module(lambda images: mean_color(tf.cast(images, tf.float32)), dtype=tf.uint8), "takes uint8"),
    "grey images": (module(mean_color, shape=(None, 32, 32, 1)), "takes float32 (None, 32, 32, 1)"),
    "text": (module(lambda text: tf.strings.length(text), shape=(None,), dtype=tf.string), "takes string (None,)"),
    "oblong images": (module(mean_color, shape=(None, 32, 48, 3)), "images of 32 x 48 pixels; Graft's are square"),
    "signatures only": (signatures_only, "cannot be called"),
    "a classifier": (classifier, "the module is a classifier, it gives logits"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_is_no_feature_vector_of_images_is_refused_without_tensorflow(case: str, tmp_path: Path) -> None:
    save, reason = UNUSABLE[case]
    folder = save(tmp_path / "module")
    for ask in (backbones.check, backbones.resolve, backbones.images_of):
        with pytest.raises(ConfigError) as refused:
            ask(Choice(str(folder)))
        assert f"backbone.url={folder}: " in str(refused.value)
        assert reason in str(refused.value)


def test_what_a_module_leaves_open_is_asked_for(tmp_path: Path) -> None:
    any_size = str(save_tiny_backbone(tmp_path / "any"))
    with pytest.raises(ConfigError) as refused:
        backbones.images_of(Choice(any_size, input_size=None, value_range=None))
    assert [text.split(" is not set")[0] for text in refused.value.problems] == [
        "backbone.input_size",
        "backbone.value_range",
    ]
    images = backbones.images_of(Choice(any_size, input_size=None), image_size=40)
    assert (images.input_size, images.value_range) == (None, (0.0, 1.0))


def test_what_a_module_says_is_taken_and_what_contradicts_it_is_refused(tmp_path: Path) -> None:
    fixed = str(save_tiny_backbone(tmp_path / "fixed", input_size=48))
    assert backbones.images_of(Choice(fixed, input_size=None)).input_size == 48
    assert backbones.images_of(Choice(fixed, input_size=64), image_size=48).input_size == 64
    for choice, image_size, problem in (
        (Choice(fixed, input_size=64), None, "backbone.input_size=64: the module at backbone.url="),
        (Choice(fixed, input_size=48), 32, "dataset.image_size=48 or null"),
        (Choice(fixed, input_size=48, feature_width=7), None, f"set backbone.feature_width={feature_width()} or null"),
    ):
        with pytest.raises(ConfigError) as refused:
            backbones.images_of(choice, image_size)
        assert problem in str(refused.value)


def test_damaged_graphs_are_refused_and_take_no_time(tmp_path: Path) -> None:
    graph = (save_tiny_backbone(tmp_path / "tiny") / "saved_model.pb").read_bytes()
    drawn = random.Random(0)
    damaged = [b"", graph[:-1], graph[: len(graph) // 2], b"\xff" * 1000, b"<html>" * 100, b"\x12\xff\xff\xff\xff\x0f"]
    damaged += [bytes(drawn.randbytes(500)) for _ in range(200)]
    for _ in range(200):
        flipped = bytearray(graph)
        flipped[drawn.randrange(len(flipped))] ^= 1 << drawn.randrange(8)
        damaged.append(bytes(flipped))
    for data in damaged[:6]:
        with pytest.raises(interface.Damaged):
            interface.parse(data)
    for data in damaged:
        with contextlib.suppress(interface.Damaged):
            interface.parse(data).objection()
    (tmp_path / "tiny" / "saved_model.pb").write_bytes(graph[:-1])
    with pytest.raises(ConfigError, match=r"its saved_model\.pb is damaged"):
        backbones.check(Choice(str(tmp_path / "tiny")))
