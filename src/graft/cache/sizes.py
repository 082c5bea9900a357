"""Sizes of files, as they are typed and as they are shown."""

from __future__ import annotations

import re

from graft.errors import ConfigError
from graft.suggestions import did_you_mean

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def parse_size(text: str, option: str) -> int:
    """Bytes in a size such as ``500MB``, ``1.5 GiB`` or ``0``.

    Raises:
        ConfigError: naming `option`, if it is none.
    """
    match = re.fullmatch(r"\s*(\d{1,20}(?:\.\d{1,20})?|\.\d{1,20})\s*([a-zA-Z]*)\s*", text)
    units = {unit.lower(): factor for unit, factor in UNITS.items()}
    allowed = "allowed is a number from 0 with a unit (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB), such as 500MB or 2GB"
    if match is None:
        raise ConfigError(f"{option}={text}: {allowed}")
    number, unit = match.groups()
    if not unit and float(number):  # 5 is more likely five gigabytes than five bytes
        raise ConfigError(f"{option}={text}: {allowed}")
    if unit and unit.lower() not in units:
        hint = did_you_mean(unit.lower(), units)
        for written in UNITS:
            hint = hint.replace(f" {written.lower()}?", f" {number}{written}?")
        raise ConfigError(f"{option}={text}: {allowed}{hint}")
    return round(float(number) * units[unit.lower() or "b"])


def size_in_words(size: int) -> str:
    """A number of bytes, such as ``14.6 MB``: in decimal units, which `parse_size` takes too."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.95:
            break
        value, unit = value / 1000, larger
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
