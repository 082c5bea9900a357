"""JSON as its standard has it, for programs that read what a command prints."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def plain_json(data: object) -> str:
    """`data` as text, indented. JSON has no NaN and no Infinity: they become null."""
    return json.dumps(_plain(data), indent=2, allow_nan=False)


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
