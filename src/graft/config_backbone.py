"""The group `backbone`: its keys, and what `auto` means for them."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from graft.config_group import Fraction, Group, PositiveInt

PACKAGE_PREFIX = "package:"
"""Of a `backbone.url` that names an installed package, whose weights Graft itself has pinned."""

Pair = Annotated[tuple[float, float], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]


class BackboneConfig(Group):
    """A backbone. What is None is open: `graft.preparation.check` asks the module, or demands it."""

    name: str = Field(min_length=1, description="a name for the record; null takes it from the URL")
    url: str = Field(
        min_length=1,
        description="package:<name>, trained:digits, a TF Hub or Kaggle handle, the http(s) address or the path of a "
        ".tar.gz, or the folder of a TF2 SavedModel",
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
    require_sha256: bool = Field(default=False, description="true or false")
    batch_norm_momentum: Fraction | None = Field(
        description="a number between 0 and 1, both excluded, auto, or null for the module's own"
    )

    @model_validator(mode="before")
    @classmethod
    def _settled(cls, values: Any) -> Any:
        return settled_backbone(values)

    @field_validator("require_sha256")
    @classmethod
    def _pinned(cls, value: bool, others: ValidationInfo) -> bool:
        url = others.data.get("url")
        # Here, where nothing was looked for yet: a SavedModel that nobody vouches for is not even downloaded.
        unpinned = others.data.get("sha256", "wrong, and told by itself") is None
        if value and unpinned and url is not None and not url.startswith(PACKAGE_PREFIX):
            look = f"graft backbones {shlex.quote(url)}"
            raise ValueError(
                f"backbone.url={url} has no digest that it could be held against (backbone.sha256=null), and a "
                f"SavedModel is a program; allowed are backbone.sha256= the 64 digits that {look} prints, a "
                f"{PACKAGE_PREFIX}NAME, whose weights Graft has pinned, and backbone.require_sha256=false"
            )
        return value

    @field_validator("value_range")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not -math.inf < value[0] < value[1] < math.inf:
            raise ValueError("two finite numbers are wanted, the lower first")
        return value


def settled_backbone(values: Any) -> Any:
    """The keys of `backbone` with `auto` settled: what `known` says if it is about the URL, else None.

    A group of `conf/backbone` says under `known` what holds for its own URL, so that with `backbone.url=` of another
    module nothing of it counts. What is no mapping comes back as it is, for pydantic to refuse.

    Raises:
        ValueError: if `known` is no mapping, or has keys that a backbone does not have.
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
    try:
        path = urlsplit(url).path if "://" in url else url.split(":", 1)[-1]
    except ValueError:  # no address, such as http://[; who asks for the module is told so
        path = url
    steps = [step for step in path.split("/") if step] or [url]
    if len(steps) > 1 and steps[-1].isdecimal():
        steps.pop()  # the version
    if len(steps) > 1 and steps[-1].lower() in ("feature_vector", "feature-vector", "feature_extraction"):
        steps.pop()
    if len(steps) > 1 and steps[-1].lower() == "tensorflow2":
        steps.pop()
    name = re.sub(r"\.(tar\.gz|tgz|tar)$", "", steps[-1])
    return name or url
