"""Files that were images once: pixels, or a reason why there are none."""

from __future__ import annotations

import io
import warnings

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.fuzz.examples import damaged, fuzzed, variants

from graft.data.decode import MAX_PIXELS, STARTS, UnreadableImage, header_of, is_turned, pixels_of


def encoded(kind: str, mode: str, size: tuple[int, int], **options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    return encoded("JPEG", "RGB", (9, 7), exif=exif)


RIGHT = [
    encoded(kind, mode, size)
    for kind, modes in {
        "PNG": "RGB L 1 P RGBA LA I;16",
        "JPEG": "RGB L CMYK",
        "GIF": "P L",
        "BMP": "RGB L 1 P",
        "WEBP": "RGB RGBA",
    }.items()
    for mode in modes.replace("I;16", "").split()
    for size in ((1, 1), (9, 7), (40, 3))
] + [with_exif(), encoded("JPEG", "RGB", (33, 17), progressive=True), encoded("WEBP", "RGB", (9, 7), lossless=True)]
WHOLE = st.sampled_from(RIGHT)
STARTED = st.tuples(
    st.sampled_from([b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\x20\0\0\0WEBPVP8X"]),
    st.binary(max_size=80),
).map(b"".join)


def pixels_or_reason(content: bytes) -> np.ndarray | str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of what is odd in a file
        header = header_of(content)
        assert is_turned(content) in (True, False)
        try:
            pixels = pixels_of(content)
        except UnreadableImage as reason:
            assert str(reason).strip()
            assert str(reason).isprintable()
            return str(reason)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert 0 < pixels.size <= 3 * MAX_PIXELS
    assert header is None or header.format in STARTS
    return pixels


# TensorFlow reserves more of the address space than it takes, so that is no measure here.
@fuzzed("images", 100, 2_000, memory=None)
@given(st.one_of(damaged(WHOLE), damaged(WHOLE), STARTED, st.binary(max_size=40)))
def test_any_bytes_are_pixels_or_unreadable(content: bytes) -> None:
    once, again = pixels_or_reason(content), pixels_or_reason(content)
    assert np.array_equal(once, again)


@fuzzed("images", 10, 700, memory=None)
@given(WHOLE, st.integers(0, 2**32))
def test_any_damage_leaves_pixels_or_is_unreadable(whole: bytes, seed: int) -> None:
    for content in variants("images", whole, seed, 15):
        pixels_or_reason(content)


@fuzzed("images", 50, 1_000, memory=None)
@given(WHOLE, st.integers(0, 10_000))
def test_an_image_that_was_cut_off_is_never_taken_for_another(whole: bytes, cut: int) -> None:
    right, found = pixels_or_reason(whole), pixels_or_reason(whole[: cut % len(whole)])
    assert isinstance(right, np.ndarray)
    # The last bytes of some formats say nothing but that this is the end.
    assert isinstance(found, str) or found.shape == right.shape
