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
