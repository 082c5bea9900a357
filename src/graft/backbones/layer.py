"""The SavedModel of a backbone as a Keras layer, after a trial that it does what Graft needs of it."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from graft.backbones.source import Backbone, SavedBackbone
from graft.errors import ConfigError
from graft.tensorflow_paths import literal

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_hub as hub


# Operations that draw random numbers, without those whose seed is an argument.
RANDOM = (
    "Random",
    "TruncatedNormal",
    "ParameterizedTruncatedNormal",
    "Multinomial",
    "StatefulUniform",
    "StatefulStandardNormal",
    "StatefulTruncatedNormal",
    "StatefulRandom",
    "NonDeterministicInts",
)


def hub_layer(
    saved: SavedBackbone, backbone: Backbone, trainable: bool, image_size: int | None = None
) -> hub.KerasLayer:
    """Loads `saved` and tries it on a batch of two black images.

    Args:
        saved: What `resolve` gave for `backbone`.
        backbone: Says how wide the features are, the momentum of the batch norms, and what black is.
        trainable: Whether the layer's variables are trained, and its batch norms with them.
        image_size: Height and width of the images in pixels, where it is not `backbone.input_size`.

    Returns:
        A tf_keras layer from float32 images [batch, image_size, image_size, 3] to float32 features
        [batch, width], also where Keras' global policy is mixed precision. It takes `training=`.

    Raises:
        ConfigError: if TensorFlow cannot load the SavedModel, or it cannot be called on such images,
            gives no feature vector, gives one of another width than `feature_width`, should be
            trained and cannot be, or should be with a `batch_norm_momentum` that it does not take.
        MemoryError, ResourceExhaustedError: if there is no memory for it, which is no fault of the module.
    """
    # Late, because TensorFlow takes seconds to import and a configuration is checked without it.
    import tensorflow as tf

    with warnings.catch_warnings():
        # It imports pkg_resources, which warns every user that it is deprecated.
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
        import tensorflow_hub as hub

    arguments: dict[str, float] = {}
    # A frozen module's averages stand still, so it needs no momentum and is not asked for one.
    if trainable and backbone.batch_norm_momentum is not None:
        arguments["batch_norm_momentum"] = backbone.batch_norm_momentum

    def not_loaded(error: Exception) -> str:
        return f"backbone.url={backbone.url}: TensorFlow cannot load the SavedModel: {_in_short(error)}"

    with _refusing(not_loaded):
        # Not by the layer: that looks for a module of an old Keras first, and imports the whole of Keras 3 for it.
        handle = str(literal(saved.path))
        module = hub.load(handle)
    if not callable(module):
        raise ConfigError(
            f"backbone.url={backbone.url}: the SavedModel cannot be called: it has at most signatures, like a TF1 "
            "module or what Keras' model.export() writes. A reusable SavedModel is needed "
            "(tensorflow.org/hub/reusable_saved_models)."
        )
    with _refusing(not_loaded):
        # A SavedModel computes in the precision that it was saved with, so the layer must not follow a
        # mixed-precision policy and hand it half-precision images.
        layer = hub.KerasLayer(module, trainable=trainable, arguments=arguments, dtype="float32", name="backbone")
        layer._delete_tracking("_handle")  # it is tracked as what it calls
        layer._handle = handle  # by which it is saved with a model
    if arguments and not _takes(module, "batch_norm_momentum"):
        raise ConfigError(
            f"backbone.batch_norm_momentum={backbone.batch_norm_momentum}: the module at {backbone.url} has its "
            "momentum built in and takes none; to fine-tune it, set backbone.batch_norm_momentum=null."
        )
    if trainable and not layer.trainable_weights:
        raise ConfigError(
            f"trainable=true: the module at backbone.url={backbone.url} lists no trainable variables, so it "
            "cannot be fine-tuned; set trainable=false."
        )

    size = image_size or backbone.input_size
    assert size is not None, "images_of comes first"
    size_key = "backbone.input_size" if size == backbone.input_size else "dataset.image_size"
    images = tf.TensorSpec((2, size, size, 3), tf.float32)
    black = 0.0 if backbone.value_range is None else float(backbone.value_range[0])
    with _refusing(
        lambda error: (
            f"{size_key}={size}: the module at backbone.url={backbone.url} cannot be called on float32 images of the "
            f"shape {images.shape}: {_why_not_called(module, images, error)}"
        )
    ):
        # Past Keras' own __call__, which would wrap the module's error in several lines of its own.
        features = layer.call(tf.fill(images.shape, black), training=False)
    _check_features(backbone, features)
    if trainable:
        with _refusing(
            lambda error: (
                f"trainable=true: the module at backbone.url={backbone.url} cannot be called with training=True, so "
                f"it cannot be fine-tuned; set trainable=false. ({_in_short(error)})"
            )
        ):
            # Traced, not run: running it would move the averages of the batch norms.
            tf.function(lambda images: layer.call(images, training=True)).get_concrete_function(images)
    return layer


def draws(layer: hub.KerasLayer) -> bool:
    """Whether the module draws random numbers, as one with dropout or augmentation inside does."""
    graphs = [function.graph.as_graph_def() for function in layer.resolved_object.__call__.concrete_functions]
    bodies = [body for graph in graphs for body in (graph.node, *(held.node_def for held in graph.library.function))]
    return any(node.op.startswith(RANDOM) for body in bodies for node in body)


@contextmanager
def _refusing(explain: Callable[[Exception], str]) -> Iterator[None]:
    """Makes a `ConfigError` of what a module raises, which may be anything: it is its author's program."""
    import tensorflow as tf

    try:
        yield
    # Want of memory is no fault of the module.
    except (MemoryError, tf.errors.ResourceExhaustedError):
        raise
    except Exception as error:
        raise ConfigError(explain(error)) from error


def _check_features(backbone: Backbone, features: Any) -> None:
    """Refuses what the module gave for two images unless it is float32 [2, width]."""
    shape = tuple(getattr(features, "shape", ()))
    if len(shape) != 2 or shape[0] != 2 or features.dtype.name != "float32":
        given = f"{features.dtype.name} {list(shape)}" if shape else f"a {type(features).__name__}"
        raise ConfigError(
            f"backbone.url={backbone.url}: the module gives {given} for two images; a feature vector, float32 "
            "[2, width], is needed. TF Hub lists such modules as 'feature vector'."
        )
    check_width(backbone, shape[1])


def check_width(backbone: Backbone, width: int) -> None:
    """Compares the width that the configuration names, if it does, with the module's.

    Raises:
        ConfigError: if they differ.
    """
    if backbone.feature_width not in (None, width):
        raise ConfigError(
            f"backbone.feature_width={backbone.feature_width}: the module at {backbone.url} gives {width} "
            f"features; set backbone.feature_width={width} or null."
        )


def _takes(module: Any, argument: str) -> bool:
    signature = inspect.getfullargspec(module.__call__)
    return argument in (*signature.args, *signature.kwonlyargs)


def _why_not_called(module: Any, images: tf.TensorSpec, error: Exception) -> str:
    """What the module takes instead, where it says so; else its own words."""
    functions = getattr(module.__call__, "concrete_functions", ())
    positional = [argument for function in functions for argument in function.structured_input_signature[0][:1]]
    taken = [spec for spec in positional if hasattr(spec, "shape")]
    if not taken or any(images.is_compatible_with(spec) for spec in taken):
        return _in_short(error)
    return "it takes " + " or ".join(sorted({f"{spec.dtype.name} {spec.shape}" for spec in taken})) + "."


def _in_short(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
