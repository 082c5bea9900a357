"""Typed configuration: what users write in YAML and on the command line, checked in one place.

`from_hydra` turns the composed configuration into a frozen `Config`; everything downstream takes that and
never sees YAML. Every wrong value is reported at once, in words that name the key, the value and what is
allowed. Nothing here imports TensorFlow, so a mistake is told within a second.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from graft.config_backbone import BackboneConfig
from graft.config_dataset import WHERE_DATA_LIE, AnyDatasetConfig
from graft.config_group import Group, PositiveInt
from graft.config_messages import describe, describe_missing
from graft.errors import ConfigError
from graft.paths import expanded, home
from graft.secrets import TOKEN_IN_ADDRESS
from graft.sqlite_file import ESCAPE, objection

STORE, EXPERIMENT = "sqlite:///mlruns/mlflow.db", "graft"
"""Where the `graft` command looks by itself: where `conf/tracking/sqlite.yaml` lets runs be recorded."""

Scalar = bool | int | float | str | None

LEAST_FLOAT32 = 1.2e-38  # what is smaller has not all its digits there, and processors take it for 0
ONE_IN_FLOAT32 = 1 - 2**-25  # from here on a number is rounded to 1


def _no_zero_in_float32(value: float) -> float:
    if value < LEAST_FLOAT32:
        raise ValueError("training computes in float32, where this is 0; allowed is a number from 1.2e-38")
    return value


def _below_one_in_float32(value: float) -> float:
    if value >= ONE_IN_FLOAT32:
        raise ValueError("training computes in float32, where this is 1; allowed is a number from 0 and below 1")
    return value


LearningRate = Annotated[
    float, Field(gt=0, allow_inf_nan=False, description="a number above 0"), AfterValidator(_no_zero_in_float32)
]
DropoutRate = Annotated[
    float, Field(ge=0, lt=1, description="a number from 0 and below 1"), AfterValidator(_below_one_in_float32)
]


class AdamConfig(Group):
    name: Literal["adam"]


class AdamWConfig(Group):
    name: Literal["adamw"]
    weight_decay: float = Field(ge=0, allow_inf_nan=False, description="a number from 0")


class SgdConfig(Group):
    name: Literal["sgd"]
    momentum: float = Field(ge=0, lt=1, description="a number from 0 and below 1")


class DefaultLearningRates(Group):
    frozen: LearningRate
    finetuned: LearningRate


class FeaturesConfig(Group):
    """Whether the features of a frozen backbone are stored, what makes them, and from where they are fed.

    Attributes:
        memory_budget_mb: Those of up to so many megabytes, of 10^6 bytes, are fed from memory, larger ones from files.
    """

    mode: Literal["auto", "cached", "live"] = Field(description="auto, cached or live")
    engine: Literal["auto", "xnnpack", "constants", "tensorflow"] = Field(
        description="auto, xnnpack, constants or tensorflow"
    )
    memory_budget_mb: int = Field(ge=0, description="a whole number of megabytes from 0")


class LoopConfig(Group):
    name: Literal["gradient_tape", "keras_fit", "estimator"] = Field(
        description="gradient_tape, keras_fit or estimator"
    )
    log_every: PositiveInt = Field(description="a whole number of training steps from 1")


class TrackingConfig(Group):
    """Where a run is recorded. Paths are absolute here; a relative one started at `graft.paths.home()`."""

    uri: str = Field(min_length=1, description="an MLflow tracking URI such as sqlite:///mlruns/mlflow.db")
    artifacts: str | None = Field(min_length=1, description="a folder, or null where the server decides")
    experiment: str = Field(min_length=1, description="the name of an MLflow experiment")
    system_metrics: bool = Field(default=False, description="true or false")
    log_model: bool = Field(default=True, description="true or false")

    @field_validator("uri")
    @classmethod
    def _usable(cls, value: str) -> str:
        scheme, separator, rest = value.partition(":///")
        if scheme == "sqlite" and separator and rest:
            if said := objection(rest):
                raise ValueError(said)
            return f"sqlite:///{home() / expanded(rest)}"
        if value.startswith(("http://", "https://")):
            if "@" in urlsplit(value).netloc:
                raise ValueError(
                    "a name or password here would be recorded with every run; set MLFLOW_TRACKING_USERNAME and "
                    "MLFLOW_TRACKING_PASSWORD in the environment instead"
                )
            if TOKEN_IN_ADDRESS.search(value):
                raise ValueError(
                    "a password or token here would be recorded with every run; set MLFLOW_TRACKING_TOKEN in the "
                    "environment instead"
                )
            return value
        raise ValueError("sqlite:///<file>, http://… and https://… are possible; MLflow has closed its file store")

    def options(self) -> list[str]:
        """What the `graft` command is given to look here, where it would look elsewhere by itself."""
        options = [] if self.uri == self._usable(STORE) else ["--tracking-uri", self.uri]
        return options + ([] if self.experiment == EXPERIMENT else ["--experiment", self.experiment])

    @field_validator("artifacts")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        if value is not None and "://" in value:
            raise ValueError(
                "an address is for the server to choose (mlflow server --artifacts-destination); allowed is a folder, "
                "or null where the server decides"
            )
        if value is not None and (escape := ESCAPE.search(value)):
            raise ValueError(f"MLflow takes {escape[0]} for another character; allowed is a folder without it")
        return None if value is None else str(home() / expanded(value))


Augmentation = Literal["none", "flip", "standard"]
LearningRateSchedule = Literal["constant", "cosine", "exponential"]


class Config(Group):
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
    dropout_rate: DropoutRate
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
    def _estimator_can_do_it(self) -> Config:
        if self.loop.name != "estimator":
            return self
        if isinstance(self.optimizer, AdamWConfig):
            raise ValueError(
                "optimizer=adamw: Estimator takes Keras' legacy optimisers alone, and AdamW is none of them; allowed "
                "with loop=estimator are optimizer=adam and optimizer=sgd"
            )
        if self.mixed_precision is True:
            raise ValueError(
                "mixed_precision=true: Estimator computes in float32; allowed with loop=estimator are "
                "mixed_precision=auto, which is float32 there, and false"
            )
        if self.jit_compile:
            raise ValueError(
                "jit_compile=true: Estimator runs its graphs without XLA; allowed with loop=estimator is "
                "jit_compile=false"
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
        for settled in ("name", "require_sha256"):  # what computes has a digest of its own, wanted or not
            decisive["backbone"].pop(settled)
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
        said = str(error).splitlines()[0]
        if "RecursionError" in said or "Recursive" in said:
            said = "this leads back to itself"
        # Without its causes, of which a circle has a thousand.
        raise ConfigError(f"{error.full_key or 'the configuration'}: {said}") from None
    assert isinstance(values, dict)
    if missing := sorted(OmegaConf.missing_keys(composed)):
        raise ConfigError([describe_missing(key, Config) for key in missing])
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError([describe(problem, Config) for problem in error.errors(include_url=False)]) from None


def flatten(node: Mapping[Any, Any]) -> dict[str, Scalar]:
    """The leaves of nested mappings under dotted names; lists as text."""
    return {key: str(list(leaf)) if isinstance(leaf, list | tuple) else leaf for key, leaf in leaves(node).items()}


def leaves(node: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings under dotted names, as they are."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
