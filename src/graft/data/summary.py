"""What is in a data set: counts, sizes, what cannot be read, and what is there twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graft.cpus import usable_cpus
from graft.data.decode import UnreadableImage, header_of, is_turned, pixels_of
from graft.data.image_set import SPLITS, ImageSet
from graft.data.store import decode

Range = tuple[int, float, int]


@dataclass(frozen=True)
class Summary:
    """What is in an image set.

    Attributes:
        sha256: The set's fingerprint.
        images: How many there are, unreadable ones included.
        classes: Images of each class.
        official: Images of each split that the set comes in; empty if it comes undivided.
        formats: Images of each format; ``pixels`` are kept decoded.
        width: Least, median and greatest width in pixels, of the readable images.
        height: Likewise.
        unreadable: Name of each image that cannot be read, and the reason.
        turned: Names of photos that are to be turned for display, which Graft does not do.
        copies_within: Names of images that are identical and in one class, a group each.
        copies_across: Classes and names of images that are identical and in several classes, a group each.
    """

    sha256: str
    images: int
    classes: dict[str, int]
    official: dict[str, int]
    formats: dict[str, int]
    width: Range | None
    height: Range | None
    unreadable: dict[str, str]
    turned: tuple[str, ...]
    copies_within: tuple[tuple[str, ...], ...]
    copies_across: tuple[tuple[tuple[str, str], ...], ...]


@dataclass(frozen=True)
class _Image:
    format: str
    size: tuple[int, int] | None  # width and height in pixels
    reason: str | None
    turned: bool


def summarise(images: ImageSet) -> Summary:
    """Reads and decodes every image of a set once.

    Raises:
        OSError: if one is gone since it was found.
    """
    with ThreadPoolExecutor(max_workers=usable_cpus()) as pool:  # decoding leaves Python's lock
        seen = list(pool.map(lambda row: _look_at(images, row), range(len(images))))
    widths, heights = ([image.size[axis] for image in seen if image.size] for axis in (0, 1))
    within, across = _copies(images)
    return Summary(
        sha256=images.sha256(),
        images=len(images),
        classes=dict(
            zip(images.class_names, np.bincount(images.labels, minlength=len(images.class_names)).tolist(), strict=True)
        ),
        official={}
        if images.official is None
        else {name: int((images.official == place).sum()) for place, name in enumerate(SPLITS)},
        formats=dict(Counter(image.format for image in seen if image.size).most_common()),
        width=_range(widths),
        height=_range(heights),
        unreadable={name: image.reason for name, image in zip(images.names, seen, strict=True) if image.reason},
        turned=tuple(name for name, image in zip(images.names, seen, strict=True) if image.turned),
        copies_within=within,
        copies_across=across,
    )


def samples(images: ImageSet, classes: int, count: int, size: int) -> dict[str, list[npt.NDArray[np.uint8]]]:
    """Up to `count` readable images of each of the first `classes`, uint8 [size, size, 3].

    Their content alone decides which. They come by the name of their class.

    Raises:
        OSError: as `summarise`.
    """
    drawn: dict[str, list[npt.NDArray[np.uint8]]] = {name: [] for name in images.class_names[:classes]}
    for row, label in enumerate(images.labels.tolist()):
        of_class = drawn.get(images.class_names[label])
        if of_class is not None and len(of_class) < count:
            try:
                of_class.append(decode(images.read(row), size))
            except UnreadableImage:
                continue
    return drawn


def _look_at(images: ImageSet, row: int) -> _Image:
    content = images.read(row)
    if not isinstance(content, bytes):
        return _Image("pixels", (content.shape[1], content.shape[0]), None, turned=False)
    header = header_of(content)
    try:
        height, width = pixels_of(content).shape[:2]
    except UnreadableImage as error:
        return _Image(header.format if header else "", None, str(error), turned=False)
    return _Image(header.format if header else "other", (width, height), None, turned=is_turned(content))


def _range(values: list[int]) -> Range | None:
    return (min(values), float(np.median(values)), max(values)) if values else None


def _copies(images: ImageSet) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[tuple[str, str], ...], ...]]:
    """Groups of identical images: those of one class, and those of several."""
    by_digest: dict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(images.digests):
        by_digest[digest].append(row)
    groups = [rows for rows in by_digest.values() if len(rows) > 1]
    alike = [rows for rows in groups if len(set(images.labels[rows].tolist())) == 1]
    mixed = [rows for rows in groups if len(set(images.labels[rows].tolist())) > 1]
    return (
        tuple(tuple(images.names[row] for row in rows) for rows in alike),
        tuple(tuple((images.class_names[images.labels[row]], images.names[row]) for row in rows) for rows in mixed),
    )
