"""The group `dataset`: what every data set has, and the keys of each source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from graft.config_group import Fraction, Group
from graft.paths import CHECKOUT, anchored, expanded
from graft.suggestions import nearest

Pixels = Annotated[int, Field(ge=1, le=4096, description="a whole number of pixels from 1 to 4096")]


class DatasetConfig(Group):
    """What every data set has. The fractions say how large the three splits are."""

    max_images: Annotated[int, Field(ge=6)] | None = Field(description="a whole number from 6, or null for all images")
    image_size: Pixels | None = Field(
        description="a whole number of pixels from 1 to 4096, or null for the backbone's input size"
    )
    splits: Literal["auto", "resplit", "official"] = Field(description="auto, resplit or official")
    split_seed: int = Field(description="a whole number")
    train_fraction: Fraction
    val_fraction: Fraction
    test_fraction: Fraction
    on_corrupt: Literal["error", "skip"] = Field(description="error or skip")

    @model_validator(mode="after")
    def _fractions_make_a_whole(self) -> DatasetConfig:
        total = self.train_fraction + self.val_fraction + self.test_fraction
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train_fraction, val_fraction and test_fraction must add up to 1; they give {total:g}")
        return self


class DigitsConfig(DatasetConfig):
    source: Literal["digits"] = "digits"
    name: Literal["digits"]

    @field_validator("splits")
    @classmethod
    def _comes_undivided(cls, value: str) -> str:
        if value == "official":
            raise ValueError("the digits come undivided; allowed is auto or resplit")
        return value


class ImageFolderConfig(DatasetConfig):
    source: Literal["image_folder"] = "image_folder"
    name: Literal["image_folder"]
    path: str = Field(min_length=1, description="a folder with one sub-folder a class")

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return _folder(value, "a folder with one sub-folder a class is wanted")


class _PreparedByTfds(DatasetConfig):
    data_dir: str | None = Field(
        default=None,
        min_length=1,
        description="a folder of data sets that TFDS prepared, or null for TFDS's own folder",
    )
    download: bool = Field(default=True, description="true or false")

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        return None if value is None else _folder(value, "the folder of TFDS's data sets is wanted")


class TfdsConfig(_PreparedByTfds):
    source: Literal["tfds"]
    name: str = Field(
        pattern=r"^[A-Za-z]\w*(/[\w.\-]+)?(:\d+\.\d+\.\d+)?$",
        description="the name of a data set of TFDS, such as cifar10, emnist/letters or mnist:3.0.1",
    )


class FashionMnistConfig(_PreparedByTfds):
    source: Literal["fashion_mnist"] = "fashion_mnist"
    name: Literal["fashion_mnist"]


AnyDatasetConfig = DigitsConfig | ImageFolderConfig | FashionMnistConfig | TfdsConfig
WHERE_DATA_LIE = frozenset({"path", "data_dir", "download", "source"})
"""Keys of a data set that do not decide what is in it."""


def _folder(value: str, wanted: str) -> str:
    """The folder that a user named, as an absolute path."""
    folder = anchored(value)
    try:
        found, is_folder = folder.exists(), folder.is_dir()
    except OSError as error:  # such as a name that is too long
        raise ValueError(f"this cannot be looked at: {error.strerror}") from None
    if is_folder:
        return str(folder.resolve())
    if found:
        raise ValueError(f"{folder} is a file; {wanted}")
    hint = f"there is no folder {folder.resolve()}"
    if not expanded(value).is_absolute():
        hint += f" (relative paths start at {CHECKOUT})"
    if near := nearest(folder.name, _folders_in(folder.parent)):
        hint += f"; did you mean {folder.resolve().parent / near}?"
    raise ValueError(hint)


def _folders_in(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
