"""Decoding: every kind of image that people have gives the pixels that Keras and Pillow give, or a reason."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from graft.data import decode, store
from graft.data.decode import UnreadableImage, pixels_of

GRADIENT = np.stack(
    [np.tile(np.linspace(0, 240, 16), (12, 1)), np.tile(np.linspace(0, 220, 12), (16, 1)).T, np.full((12, 16), 90)], -1
).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgb() -> Image.Image:
    return Image.fromarray(GRADIENT)


def close(content: bytes, wanted: np.ndarray, tolerance: int = 0) -> None:
    pixels = pixels_of(content)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels.astype(int), wanted.astype(int), atol=tolerance)


LOSSLESS = {
    "PNG": lambda: encoded(rgb(), "PNG"),
    "interlaced PNG": lambda: encoded(rgb(), "PNG", interlace=1),
    "BMP": lambda: encoded(rgb(), "BMP"),
    "lossless WebP": lambda: encoded(rgb(), "WEBP", lossless=True),
    "PNG with a palette": lambda: encoded(rgb().quantize(256), "PNG"),
    "GIF": lambda: encoded(rgb().quantize(256), "GIF"),
    "BMP with a palette": lambda: encoded(rgb().quantize(256), "BMP"),
    "BMP of one bit": lambda: encoded(rgb().convert("1"), "BMP"),
    "PNG of one bit": lambda: encoded(rgb().convert("1"), "PNG"),
    "grey PNG": lambda: encoded(rgb().convert("L"), "PNG"),
    "grey BMP": lambda: encoded(rgb().convert("L"), "BMP"),
}


@pytest.mark.parametrize("kind", list(LOSSLESS))
def test_what_is_kept_without_loss_is_what_pillow_sees(kind: str) -> None:
    content = LOSSLESS[kind]()
    with Image.open(io.BytesIO(content)) as image:
        close(content, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_photos_have_the_very_pixels_that_tensorflow_gives(mode: str) -> None:
    content = encoded(rgb().convert(mode), "JPEG", quality=90)
    np.testing.assert_array_equal(pixels_of(content), tf.io.decode_jpeg(content, channels=3).numpy())


def test_a_photo_for_print_gets_its_colours() -> None:
    close(encoded(rgb().convert("CMYK"), "JPEG", quality=98), GRADIENT, tolerance=24)


def test_16_bits_become_8() -> None:
    grey = np.linspace(0, 65535, 12 * 16).reshape(12, 16).astype(np.uint16)
    wanted = np.repeat((grey // 256)[..., np.newaxis], 3, axis=-1)
    close(encoded(Image.fromarray(grey), "PNG"), wanted, tolerance=1)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_dropped_and_not_laid_over_a_background(kind: str) -> None:
    alpha = np.full((12, 16, 1), 255, np.uint8)
    alpha[:, :8] = 40
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    close(encoded(Image.fromarray(np.concatenate([GRADIENT, alpha], -1)), kind, **options), GRADIENT)


def test_grey_with_transparency_is_grey() -> None:
    image = Image.fromarray(GRADIENT[..., 0]).convert("LA")
    close(encoded(image, "PNG"), np.repeat(GRADIENT[..., :1], 3, axis=-1))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    first, second = Image.new("RGB", (9, 7), (250, 0, 0)), Image.new("RGB", (9, 7), (0, 0, 250))
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(first, kind, save_all=True, append_images=[second], duration=50, **options)
    close(content, np.asarray(first))


def test_the_orientation_of_a_photo_is_not_applied_and_can_be_told() -> None:
    exif = Image.Exif()
    exif[decode.ORIENTATION] = 6
    turned, plain = encoded(rgb(), "JPEG", exif=exif), encoded(rgb(), "JPEG")
    np.testing.assert_array_equal(pixels_of(turned), pixels_of(plain))
    assert (decode.is_turned(turned), decode.is_turned(plain)) == (True, False)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 2), (2, 20_000)])
def test_tiny_and_long_images_are_resized(size: tuple[int, int]) -> None:
    small = store.decode(encoded(Image.new("RGB", size, (10, 200, 30)), "PNG"), 8)
    assert small.shape == (8, 8, 3)
    assert (small == (10, 200, 30)).all()


def bomb() -> bytes:
    """A PNG of some bytes that claims to hold 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def cut(kind: str) -> bytes:
    random = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(Image.fromarray(random), kind, **options)
    return content[: len(content) // 2]


UNREADABLE = {
    "nothing": (lambda: b"", "the file is empty"),
    "text": (lambda: b"not an image", "no JPEG, PNG, GIF, BMP or WebP"),
    "zeros": (lambda: bytes(5000), "no JPEG, PNG, GIF, BMP or WebP"),
    "a TIFF": (lambda: encoded(rgb(), "TIFF"), "no JPEG, PNG, GIF, BMP or WebP"),
    "an SVG": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "no JPEG, PNG, GIF, BMP or WebP"),
    "a bomb": (bomb, "60000 x 60000 pixels"),
    **{
        f"a {kind} cut off": ((lambda kind=kind: cut(kind)), "damaged or cut off")
        for kind in ("JPEG", "PNG", "BMP", "WEBP", "GIF")
    },
    "a header alone": (lambda: encoded(rgb(), "JPEG")[:20], ""),
    "a damaged PNG": (lambda: LOSSLESS["PNG"]().replace(b"IDAT", b"IDAX"), "a PNG that is damaged or cut off"),
}


@pytest.mark.parametrize("kind", list(UNREADABLE))
def test_what_cannot_be_read_is_told_with_the_reason(kind: str) -> None:
    make, text = UNREADABLE[kind]
    with pytest.raises(UnreadableImage) as caught:
        pixels_of(make())
    assert text in str(caught.value)
