"""The classes of image files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from graft.console import PlainConsole
from graft.errors import ConfigError

if TYPE_CHECKING:
    from graft.export.trained import TrainedModel

BATCH = 32


@dataclass(frozen=True)
class Prediction:
    """What a model sees in an image.

    Attributes:
        image: The file, as it was named.
        probabilities: Of every class, from 0 to 1, the most probable first.
    """

    image: str
    probabilities: dict[str, float]

    @property
    def class_name(self) -> str:
        """The most probable class."""
        return next(iter(self.probabilities))


def check(images: Sequence[str]) -> None:
    """Refuses names of what is no file, before anything takes time.

    Raises:
        ConfigError: that names all of them.
    """
    if problems := [f"{image}: {_why_no_file(Path(image))}" for image in images if not os.path.isfile(image)]:
        raise ConfigError(problems)


def predict(trained: TrainedModel, images: Sequence[str]) -> list[Prediction]:
    """The classes of `images`, in their order.

    Raises:
        ConfigError: if some cannot be read as images; the text lists them.
    """
    from graft.data.decode import UnreadableImage
    from graft.data.store import decode

    problems: list[str] = []

    def pixels_of(image: str) -> npt.NDArray[np.uint8]:
        try:
            return decode(Path(image).read_bytes(), trained.image_size)
        except UnreadableImage as error:
            problems.append(f"{image}: {error}")
        except OSError as error:
            problems.append(f"{image}: it cannot be read: {error.strerror or error}")
        return np.zeros((trained.image_size, trained.image_size, 3), np.uint8)

    predictions: list[Prediction] = []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        probabilities = trained.probabilities(np.stack([pixels_of(image) for image in batch]))
        for image, of_image in zip(batch, probabilities, strict=True):
            order = np.argsort(-of_image)
            predictions.append(
                Prediction(image, {trained.class_names[place]: float(of_image[place]) for place in order})
            )
    if problems:
        raise ConfigError(problems)
    return predictions


def as_json(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Everything, as plain data."""
    return [
        {
            "image": each.image,
            "class": each.class_name,
            "probability": each.probabilities[each.class_name],
            "probabilities": each.probabilities,
        }
        for each in predictions
    ]


def show(predictions: Sequence[Prediction], console: PlainConsole) -> None:
    """Prints a table, an image a line."""
    table = Table()
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right")
    table.add_column("or else", overflow="fold")
    for each in predictions:
        (first, probability), (second, less) = list(each.probabilities.items())[
            :2
        ]  # a data set has two classes at least
        table.add_row(each.image, first, f"{probability:.4f}", f"{second} {less:.4f}")
    console.print(table)


def _why_no_file(path: Path) -> str:
    if os.path.isdir(path):  # not Path's, which raises for a name that is too long
        return f"this is a folder; name its images, such as {path}/*"
    return "there is no such file"
