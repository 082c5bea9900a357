"""Decoding: an encoded image becomes RGB pixels, or it is said why it cannot.

TensorFlow decodes, as in Keras' own loaders, so that pixels are what everyone's are. BMP, and the few kinds that it
refuses, are left to Pillow. Of an animation the first frame counts. Transparency is dropped
and not laid over a background, and the orientation in a photo's EXIF data is ignored, both as in Keras' loaders.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from PIL import Image

from graft.data.image_set import Content

Pixels = npt.NDArray[np.uint8]

STARTS = {"JPEG": rb"\xff\xd8\xff", "PNG": rb"\x89PNG", "GIF": b"GIF8", "BMP": b"BM", "WEBP": b"RIFF....WEBP"}
"""How a file of each format that can be read begins."""

FORMATS = tuple(STARTS)
BY_PILLOW = ("BMP",)  # TensorFlow takes a palette's indices for grey, and refuses most of the rest
FORMATS_IN_WORDS = "JPEG, PNG, GIF, BMP or WebP"
MAX_PIXELS = 2**27  # of one image, 400 MB decoded: a file of some kilobytes may claim to hold many times as many
ORIENTATION = 0x0112  # EXIF's tag

Image.MAX_IMAGE_PIXELS = None  # our own limit is looked at first; Pillow's would warn below it

_NOT_DECODABLE = (OSError, ValueError, SyntaxError, EOFError)  # what Pillow raises for an image that is none


class UnreadableImage(Exception):
    """An image cannot be decoded; the text is the reason."""


@dataclass(frozen=True)
class Header:
    """What an encoded image says of itself: its format, and its size in pixels."""

    format: str
    width: int
    height: int


def pixels_of(content: Content) -> Pixels:
    """The pixels of one image, uint8 [height, width, 1 or 3]: three channels if it was encoded.

    Raises:
        UnreadableImage: if it is none of `FORMATS`, is damaged or cut off, or has more than `MAX_PIXELS`.
    """
    if not isinstance(content, bytes):
        return content
    if not content:
        raise UnreadableImage("the file is empty")
    header = header_of(content)
    if header is not None and header.width * header.height > MAX_PIXELS:
        raise UnreadableImage(f"{header.width} x {header.height} pixels, and {MAX_PIXELS:,} are the most")
    if header is not None and header.format in BY_PILLOW:
        return _by_pillow(content, header)
    try:
        decoded: Pixels = tf.io.decode_image(content, channels=3, expand_animations=False).numpy()
        return decoded
    except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
        if header is None:
            begun = next((name for name, start in STARTS.items() if re.match(start, content, re.DOTALL)), None)
            reason = f"no {FORMATS_IN_WORDS}" if begun is None else f"a {begun} that is damaged or cut off"
            raise UnreadableImage(reason) from error
    return _by_pillow(content, header)


def _by_pillow(content: bytes, header: Header) -> Pixels:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return np.asarray(image.convert("RGB"))
    except _NOT_DECODABLE as error:
        raise UnreadableImage(f"a {header.format} that is damaged or cut off") from error


def header_of(content: bytes) -> Header | None:
    """What an encoded image says of itself, read without decoding it; None if it is no image of `FORMATS`."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return Header(str(image.format), image.width, image.height)
    except _NOT_DECODABLE:
        return None


def is_turned(content: bytes) -> bool:
    """Whether a JPEG's EXIF data ask for it to be turned or mirrored when it is shown."""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            return image.getexif().get(ORIENTATION, 1) not in (0, 1)
    except (*_NOT_DECODABLE, LookupError, TypeError):
        return False
