"""What all groups of the configuration share: their base, and the kinds of numbers that several of them have."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(gt=0, lt=1, description="a number between 0 and 1, both excluded")]
PositiveInt = Annotated[int, Field(ge=1, lt=2**31, description="a whole number from 1 and below 2^31")]


class Group(BaseModel):
    """A configuration group: frozen, without unknown keys, and `1` is no boolean, `"3"` no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
