"""Random augmentation: what becomes of a training image in one epoch, decided by seed, epoch and position alone.

The numbers that decide are drawn for a whole epoch at once, one row an image. So neither the size of the
batches nor the order in which parallel calls finish can matter, and an epoch that is run again after a crash
sees the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

FLIP, AREA, TOP, LEFT, BRIGHTNESS, CONTRAST, SATURATION = range(7)  # columns of the draws
COLUMNS = 7
STREAM = 0xA06  # dropout draws with the key (seed, step): the same key would give the same numbers
LEAST_AREA = 0.8  # of a crop, as a fraction of the image's
JITTER = 0.2  # factors go from 1 - JITTER to 1 + JITTER
LUMA = (0.299, 0.587, 0.114)  # what red, green and blue count in grey: ITU-R BT.601, as in torchvision


def draws(images: int, *, seed: int, epoch: int | tf.Tensor) -> tf.Tensor:
    """The numbers from 0 to 1, without 1, that decide what becomes of each image: float32 [images, COLUMNS]."""
    # Philox by name: the default algorithm differs between devices.
    key = tf.random.experimental.stateless_fold_in((seed, epoch), STREAM, alg="philox")
    return tf.random.stateless_uniform((images, COLUMNS), key, alg="philox")


def flip(images: tf.Tensor, drawn: tf.Tensor) -> tf.Tensor:
    """Mirrors every second image, on average, left to right.

    Args:
        images: uint8 [batch, height, width, 3].
        drawn: float32 [batch, COLUMNS], the images' own rows of `draws`.

    Returns:
        uint8 [batch, height, width, 3].
    """
    height, width, channels = images.shape[1:]
    # Mirrored in three dimensions and gathered: a reverse in four dimensions and a select take ten times as long.
    mirrored = tf.reverse(tf.reshape(images, (-1, width, channels)), axis=[1])
    both = tf.concat([images, tf.reshape(mirrored, (-1, height, width, channels))], axis=0)
    count = tf.shape(images)[0]
    return tf.gather(both, tf.range(count) + tf.where(_flipped(drawn), count, 0))


def standard(images: tf.Tensor, drawn: tf.Tensor) -> tf.Tensor:
    """Mirrors as `flip` does, crops, and changes brightness, contrast and saturation a little.

    As torchvision's ``RandomHorizontalFlip``, ``RandomResizedCrop(scale=(0.8, 1), ratio=(1, 1))`` and
    ``ColorJitter(0.2, 0.2, 0.2)``, but that colours follow one another in this order, and are rounded and cut
    off once, in the end. Arguments and result are those of `flip`.
    """
    height, width, channels = images.shape[1:]
    # Not tf.image.crop_and_resize, twice as fast: TensorFlow prints a long warning for it in every epoch.
    cropped = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=_crops(drawn, height, width),
        output_shape=(height, width),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
    changed = _jittered(tf.reshape(cropped, (-1, height * width, channels)), drawn)
    pixels = tf.cast(tf.clip_by_value(tf.round(changed), 0, 255), tf.uint8)
    return tf.reshape(pixels, (-1, height, width, channels))


BY_NAME: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {"flip": flip, "standard": standard}


def _flipped(drawn: tf.Tensor) -> tf.Tensor:
    return drawn[:, FLIP] < 0.5


def _crops(drawn: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Where a pixel of each crop lies in the image, as projective transforms: [batch, 8]."""
    side = tf.sqrt(LEAST_AREA + (1 - LEAST_AREA) * drawn[:, AREA])
    top, left = drawn[:, TOP] * (1 - side), drawn[:, LEFT] * (1 - side)
    flipped = _flipped(drawn)
    start, step = tf.where(flipped, left + side, left), tf.where(flipped, -side, side)  # from right to left if flipped
    zero = tf.zeros_like(side)
    return tf.stack([step, zero, start * (width - 1), zero, side, top * (height - 1), zero, zero], axis=1)


def _jittered(pixels: tf.Tensor, drawn: tf.Tensor) -> tf.Tensor:
    """Brightness, contrast and saturation times a factor each, for pixels [batch, pixels, 3].

    Brightness scales a pixel, contrast its distance to the image's mean grey, saturation its distance to its
    own grey. Together they are one matrix and one shift an image, which takes a third of the time.
    """
    brightness, contrast, saturation = (
        1 - JITTER + 2 * JITTER * drawn[:, column, tf.newaxis, tf.newaxis]
        for column in (BRIGHTNESS, CONTRAST, SATURATION)
    )
    grey = tf.tile(tf.constant(LUMA)[:, tf.newaxis], (1, 3))  # pixels @ grey is each pixel's grey in all three channels
    matrix = contrast * brightness * (saturation * tf.eye(3) + (1 - saturation) * grey)
    mean_grey = tf.matmul(brightness * tf.reduce_mean(pixels, axis=1, keepdims=True), grey[tf.newaxis])
    return tf.matmul(pixels, matrix) + (1 - contrast) * mean_grey
