"""The nearest right name, for messages about a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """The most similar of `allowed`, whatever its capitals, or None where none is similar."""
    by_lower = {right.lower(): right for right in allowed}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """The end of a message, `; did you mean NAME?`, or nothing where none of `allowed` is similar."""
    near = nearest(name, allowed)
    return f"; did you mean {near}?" if near else ""


def did_you_mean_key(key: str, keys: Iterable[str]) -> str:
    """As `did_you_mean` for a dotted key: one that is similar as a whole, or whose last part is similar to its last.

    Below ``hydra.`` only Hydra's own are looked at, and elsewhere none of them.
    """
    of_hydra = key.startswith("hydra.")
    names = [name for name in keys if name.startswith("hydra.") == of_hydra]
    if whole := did_you_mean(key, names):
        return whole
    by_last = {name.rpartition(".")[2]: name for name in names}
    last = nearest(key.rpartition(".")[2], by_last)
    return f"; did you mean {by_last[last]}?" if last else ""


def allowed_options(option: str, options: Iterable[str]) -> str:
    """The end of a message about a group that has no such `option`; the files of groups below it are left out."""
    own = [each for each in options if "/" not in each]
    return f"allowed are {', '.join(own) or 'none'}{did_you_mean(option, own)}"
