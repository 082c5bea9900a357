"""A backbone as the configuration would name it."""

from __future__ import annotations

from dataclasses import dataclass

LITE0 = "package:efficientnet_lite0"


@dataclass(frozen=True)
class Choice:
    url: str
    input_size: int | None = 64
    value_range: tuple[float, float] | None = (0.0, 1.0)
    feature_width: int | None = None
    sha256: str | None = None
    batch_norm_momentum: float | None = None
