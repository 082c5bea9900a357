"""Commands that train again what was recorded, as they are typed in the checkout."""

from __future__ import annotations

import os

from graft.paths import CHECKOUT


def train_command(overrides: str, *more: str) -> str:
    """One run with the overrides of a recorded one.

    Args:
        overrides: Its tag ``graft.overrides``, quoted for a shell.
        more: Overrides that come after them, quoted too.
    """
    words = [python(), "train.py", overrides, *more]
    if "experiments=" in overrides:
        words.append("hydra.mode=RUN")  # an experiment may be a sweep of its own
    return " ".join(word for word in words if word)


def python() -> str:
    """How to type the Python that runs this: `make` uses the one in .venv without activating it."""
    inside = CHECKOUT / ".venv" / "bin" / "python"
    return str(inside.relative_to(CHECKOUT)) if inside.exists() and "VIRTUAL_ENV" not in os.environ else "python"
