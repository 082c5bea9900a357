"""Image sets: labelled images that are not read yet, whatever they come from.

An `ImageSet` is in an order of its own, by content hash, so that neither file names nor the order in which
a file system lists them decide anything downstream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Content = bytes | npt.NDArray[np.uint8]
"""An image as it is kept: encoded, or as pixels [height, width, 1 or 3]."""


@dataclass(frozen=True)
class ImageSet:
    """Labelled images, not yet read.

    Attributes:
        class_names: The classes; a label is an index into them.
        labels: int32 [images].
        digests: SHA-256 of each image's content as hexadecimal text.
        names: What to call each image in a message.
        read: Gives the content of the image in a row. May be called from several threads. Raises OSError for a file
            that cannot be read any more.
        official: int8 [images], the place in `SPLITS` of the split that each image comes in; None if the set comes
            undivided.
    """

    class_names: tuple[str, ...]
    labels: npt.NDArray[np.int32]
    digests: tuple[str, ...]
    names: tuple[str, ...]
    read: Callable[[int], Content]
    official: npt.NDArray[np.int8] | None = None

    def __len__(self) -> int:
        return len(self.digests)

    def take(self, rows: npt.NDArray[np.int64]) -> ImageSet:
        """The images at `rows`, in that order. The classes stay, even those that are left without an image."""
        return ImageSet(
            class_names=self.class_names,
            labels=self.labels[rows],
            digests=tuple(self.digests[row] for row in rows),
            names=tuple(self.names[row] for row in rows),
            read=lambda index: self.read(int(rows[index])),
            official=None if self.official is None else self.official[rows],
        )

    def in_own_order(self) -> ImageSet:
        """The same images by content hash."""
        keys = list(zip(self.digests, self.labels.tolist(), self.names, strict=True))
        return self.take(np.array(sorted(range(len(self)), key=keys.__getitem__), np.int64))

    def undivided(self) -> ImageSet:
        """The same images without the splits that they came in."""
        return replace(self, official=None)

    def sha256(self) -> str:
        """Fingerprint of the set: the images' contents, classes and own splits, not their names or places."""
        splits = [""] * len(self) if self.official is None else [f" {SPLITS[place]}" for place in self.official]
        lines = sorted(
            f"{digest} {self.class_names[label]}{split}"
            for digest, label, split in zip(self.digests, self.labels, splits, strict=True)
        )
        return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def content_sha256(content: Content) -> str:
    """The digest of one image's content."""
    return hashlib.sha256(content if isinstance(content, bytes) else content.tobytes()).hexdigest()


def printable(name: str) -> str:
    """A name of a file or folder as one line of text: what cannot be printed or encoded is written as an escape."""
    if name.isprintable():
        return name
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name)
