"""Typed configuration: what users write in YAML and on the command line, checked in one place.

`from_hydra` turns the composed configuration into a frozen `Config`; everything downstream takes that and
never sees YAML. Every wrong value is reported at once, in words that name the key, the value and what is
allowed. Nothing here imports TensorFlow, so a mistake is told within a second.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from graft.config_messages import describe, describe_missing
from graft.errors import ConfigError
from graft.paths import CHECKOUT, anchored, home
from graft.suggestions import nearest

Scalar = bool | int | float | str | None

Fraction = Annotated[float, Field(gt=0, lt=1, description="a number between 0 and 1, both excluded")]
PositiveInt = Annotated[int, Field(ge=1, description="a whole number from 1")]
Pixels = Annotated[int, Field(ge=1, le=4096, description="a whole number of pixels from 1 to 4096")]
LearningRate = Annotated[float, Field(gt=0, allow_inf_nan=False, description="a number above 0")]
Pair = Annotated[tuple[float, float], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]


class _Group(BaseModel):
    """A configuration group: frozen, without unknown keys, and `1` is no boolean, `"3"` no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class BackboneConfig(_Group):
    """A backbone. What is None is open: `graft.preparation.check` asks the module, or demands it."""

    name: str = Field(min_length=1, description="a name for the record; null takes it from the URL")
    url: str = Field(
        min_length=1,
        description="package:<name>, a TF Hub or Kaggle handle, the http(s) address or the path of a .tar.gz, or the "
        "folder of a TF2 SavedModel",
    )
    input_size: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        description="a whole number of pixels from 1 to 4096, or auto"
    )
    value_range: Pair | None = Field(description="two numbers, the lower first, such as [0.0, 1.0], or auto")
    feature_width: PositiveInt | None = Field(
        description="a whole number from 1, auto, or null to read it from the module"
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        description="64 hexadecimal digits, auto, or null"
    )
    batch_norm_momentum: Fraction | None = Field(
        description="a number between 0 and 1, both excluded, auto, or null for the module's own"
    )

    @model_validator(mode="before")
    @classmethod
    def _settled(cls, values: Any) -> Any:
        return settled_backbone(values)

    @field_validator("value_range")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not -math.inf < value[0] < value[1] < math.inf:
            raise ValueError("two finite numbers are wanted, the lower first")
        return value


def settled_backbone(values: Any) -> Any:
    """The keys of `backbone` with `auto` settled: what `known` says if it is about the URL, else None.

    A group of `conf/backbone` says under `known` what holds for its own URL, so that with `backbone.url=` of another
    module nothing of it counts.
    """
    if not isinstance(values, Mapping):
        return values
    known = values.get("known") or {}
    if not isinstance(known, Mapping) or not known.keys() <= BackboneConfig.model_fields.keys():
        allowed = ", ".join(BackboneConfig.model_fields)
        raise ValueError(f"known={known}: allowed is what holds for known.url, under the keys {allowed}")
    settled = {key: value for key, value in values.items() if key != "known"}
    url = settled.get("url")
    about_it = known if known.get("url") == url else {}
    settled |= {key: about_it.get(key) for key, value in settled.items() if value == "auto"}
    if settled.get("name") is None and isinstance(url, str):
        settled["name"] = backbone_name(url)
    return settled


def backbone_name(url: str) -> str:
    """What a backbone is called that has no other name than its URL: the part of it that tells most.

    So `https://tfhub.dev/google/imagenet/inception_v3/feature_vector/5` is called inception_v3.
    """
    path = urlsplit(url).path if "://" in url else url.split(":", 1)[-1]
    steps = [step for step in path.split("/") if step] or [url]
    if len(steps) > 1 and steps[-1].isdecimal():
        steps.pop()  # the version
    if len(steps) > 1 and steps[-1].lower() in ("feature_vector", "feature-vector", "feature_extraction"):
        steps.pop()
    if len(steps) > 1 and steps[-1].lower() == "tensorflow2":
        steps.pop()
    name = re.sub(r"\.(tar\.gz|tgz|tar)$", "", steps[-1])
    return name or url


class DatasetConfig(_Group):
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
        min_length=1, description="a folder of data sets that TFDS prepared, or null for TFDS's own folder"
    )
    download: bool = Field(description="true or false")

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


class AdamConfig(_Group):
    name: Literal["adam"]


class AdamWConfig(_Group):
    name: Literal["adamw"]
    weight_decay: float = Field(ge=0, allow_inf_nan=False, description="a number from 0")


class SgdConfig(_Group):
    name: Literal["sgd"]
    momentum: float = Field(ge=0, lt=1, description="a number from 0 and below 1")


class DefaultLearningRates(_Group):
    frozen: LearningRate
    finetuned: LearningRate


class FeaturesConfig(_Group):
    mode: Literal["auto", "cached", "live"] = Field(description="auto, cached or live")
    engine: Literal["auto", "xnnpack", "constants", "tensorflow"] = Field(
        description="auto, xnnpack, constants or tensorflow"
    )
    memory_budget_mb: int = Field(ge=0, description="a whole number of megabytes from 0")


class LoopConfig(_Group):
    name: Literal["gradient_tape"] = Field(description="gradient_tape")
    log_every: PositiveInt = Field(description="a whole number of training steps from 1")


class TrackingConfig(_Group):
    uri: str = Field(min_length=1, description="an MLflow tracking URI such as sqlite:///mlruns/mlflow.db")
    artifacts: str | None = Field(min_length=1, description="a folder, or null where the server decides")
    experiment: str = Field(min_length=1, description="the name of an MLflow experiment")

    @field_validator("uri")
    @classmethod
    def _usable(cls, value: str) -> str:
        scheme, separator, rest = value.partition(":///")
        if scheme == "sqlite" and separator and rest:
            return f"sqlite:///{home() / Path(rest).expanduser()}"
        if value.startswith(("http://", "https://")):
            if "@" in urlsplit(value).netloc:
                raise ValueError(
                    "a name or password here would be recorded with every run; set MLFLOW_TRACKING_USERNAME and "
                    "MLFLOW_TRACKING_PASSWORD in the environment instead"
                )
            return value
        raise ValueError("sqlite:///<file>, http://… and https://… are possible; MLflow has closed its file store")

    @field_validator("artifacts")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        return None if value is None or "://" in value else str(home() / Path(value).expanduser())


AnyDatasetConfig = DigitsConfig | ImageFolderConfig | FashionMnistConfig | TfdsConfig
WHERE_DATA_LIE = frozenset({"path", "data_dir", "download", "source"})
"""Keys of a data set that do not decide what is in it."""

Augmentation = Literal["none", "flip", "standard"]
LearningRateSchedule = Literal["constant", "cosine", "exponential"]


class Config(_Group):
    """One training run, completely described. `learning_rate` is never null here."""

    backbone: BackboneConfig
    dataset: AnyDatasetConfig = Field(discriminator="source")
    optimizer: AdamConfig | AdamWConfig | SgdConfig = Field(discriminator="name")
    default_learning_rates: DefaultLearningRates
    features: FeaturesConfig
    loop: LoopConfig
    tracking: TrackingConfig
    trainable: bool = Field(description="true (fine-tune) or false (transfer)")
    learning_rate: LearningRate = Field(description="a number above 0, or null for default_learning_rates")
    head_width: int = Field(ge=0, le=65536, description="a whole number from 0 to 65536; 0 means no hidden layer")
    dropout_rate: float = Field(ge=0, lt=1, description="a number from 0 and below 1")
    batch_size: PositiveInt
    epochs: PositiveInt
    patience: PositiveInt | None = Field(description="a whole number of epochs from 1, or null")
    learning_rate_schedule: LearningRateSchedule = Field(description="constant, cosine or exponential")
    class_weights: Literal["none", "balanced"] = Field(description="none or balanced")
    augment: Augmentation = Field(description="none, flip or standard")
    seed: int = Field(ge=0, lt=2**31, description="a whole number from 0 and below 2^31")
    init_head: Literal["random", "probe"] = Field(description="random or probe")
    deterministic: bool = Field(description="true or false")
    mixed_precision: bool | Literal["auto"] = Field(description="auto, true or false")
    jit_compile: bool = Field(description="true or false")

    @model_validator(mode="before")
    @classmethod
    def _source_follows_name(cls, values: Any) -> Any:
        dataset = values.get("dataset") if isinstance(values, dict) else None
        if not isinstance(dataset, dict) or "source" in dataset or not isinstance(dataset.get("name"), str):
            return values
        return {**values, "dataset": {**dataset, "source": dataset["name"]}}

    @model_validator(mode="before")
    @classmethod
    def _learning_rate_follows_trainable(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("learning_rate") is not None:
            return values
        pair = values.get("default_learning_rates")
        wanted = "finetuned" if values.get("trainable") is True else "frozen"
        return {**values, "learning_rate": pair.get(wanted)} if isinstance(pair, dict) else values

    @model_validator(mode="after")
    def _dropout_has_a_place(self) -> Config:
        if self.head_width == 0 and self.dropout_rate > 0:
            raise ValueError(
                f"dropout_rate={self.dropout_rate:g}: dropout follows the hidden layer, and head_width=0 has none; "
                "allowed are dropout_rate=0 or head_width from 1"
            )
        return self

    @model_validator(mode="after")
    def _stored_features_stay_true(self) -> Config:
        if self.features.mode == "cached" and self.trainable:
            raise ValueError(
                "features=cached: with trainable=true the backbone's features change at every step, so stored ones "
                "are wrong; allowed are features=auto and features=live, or trainable=false"
            )
        if self.features.mode == "cached" and self.augment != "none":
            raise ValueError(
                f"features=cached: with augment={self.augment} every epoch sees other images, so stored features are "
                "wrong; allowed are features=auto and features=live, or augment=none"
            )
        return self

    @model_validator(mode="after")
    def _engine_has_work(self) -> Config:
        # With trainable=true an engine is accepted and not needed: a sweep over both has one for its frozen trials.
        if self.features.mode == "live" and self.features.engine != "auto":
            raise ValueError(
                f"features.engine={self.features.engine}: with features=live nothing is extracted, and the backbone "
                "always runs in TensorFlow; allowed are features.engine=auto, or features=auto and features=cached"
            )
        return self

    @model_validator(mode="after")
    def _probe_has_a_purpose(self) -> Config:
        if self.init_head == "probe" and not self.trainable:
            raise ValueError(
                "init_head=probe: the head is trained on the frozen backbone before fine-tuning starts, and with "
                "trainable=false there is none; allowed is init_head=random, or trainable=true"
            )
        return self

    @property
    def cached_features(self) -> bool:
        """Whether the head is trained on stored features."""
        return self.features.mode != "live" and not self.trainable and self.augment == "none"

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that the backbone is given; known once the backbone was asked."""
        size = self.dataset.image_size or self.backbone.input_size
        assert size is not None, "graft.preparation.check comes first"
        return size

    @property
    def value_range(self) -> tuple[float, float]:
        """The values of black and white in the images that the backbone is given; as `image_size`."""
        assert self.backbone.value_range is not None, "graft.preparation.check comes first"
        return self.backbone.value_range

    def probe(self) -> Config:
        """The run that trains the head for `init_head=probe`: the same one with the backbone frozen."""
        return self.model_copy(
            update={
                "trainable": False,
                "init_head": "random",
                "learning_rate": self.default_learning_rates.frozen,
                "augment": "none",
                "features": self.features.model_copy(update={"mode": "cached"}),
            }
        )

    def flat(self) -> dict[str, Scalar]:
        """Every leaf under its dotted name, as the record's params want them; lists as text."""
        return flatten(self.model_dump())

    def sha256(self) -> str:
        """Digest of what decides the result. Where it is recorded and where the data lies do not."""
        # The learning rate in use counts, not the pair that it may have been chosen from.
        decisive = self.model_dump(exclude={"tracking", "default_learning_rates", "loop"})
        decisive["loop"] = self.loop.name
        if self.init_head == "probe":
            decisive["probe_learning_rate"] = self.default_learning_rates.frozen
        for place in WHERE_DATA_LIE:  # the data's own digest stands for their content
            decisive["dataset"].pop(place, None)
        decisive["backbone"].pop("name")
        decisive["features"].pop("memory_budget_mb")
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def from_hydra(composed: DictConfig) -> Config:
    """The typed configuration.

    Args:
        composed: What Hydra composed from `conf/` and the command line, without its `hydra` node.

    Raises:
        ConfigError: with one text for every wrong key or value.
    """
    try:
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:  # such as an interpolation that leads nowhere
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(values, dict)
    if missing := sorted(OmegaConf.missing_keys(composed)):
        raise ConfigError([describe_missing(key, Config) for key in missing])
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError([describe(problem, Config) for problem in error.errors(include_url=False)]) from None


def flatten(node: Any, prefix: str = "") -> dict[str, Scalar]:
    """The leaves of nested mappings under dotted names; lists as text."""
    if not isinstance(node, Mapping):
        return {prefix: str(list(node)) if isinstance(node, list | tuple) else node}
    leaves: dict[str, Scalar] = {}
    for key, value in node.items():
        leaves |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves


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
    if not Path(value).expanduser().is_absolute():
        hint += f" (relative paths start at {CHECKOUT})"
    if near := nearest(folder.name, _folders_in(folder.parent)):
        hint += f"; did you mean {folder.resolve().parent / near}?"
    raise ValueError(hint)


def _folders_in(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
