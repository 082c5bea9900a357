"""Where things lie. Nothing starts at the working directory: the same command means the same everywhere.

What users give, such as `dataset.path`, starts at the checkout that holds `train.py`. What Graft writes goes under
`mlruns/` of the home: the checkout, or the folder that the environment variable `GRAFT_HOME` names.
"""

from __future__ import annotations

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def home() -> Path:
    """The folder that holds `mlruns/`."""
    return Path(os.environ.get("GRAFT_HOME") or CHECKOUT).resolve()


def anchored(path: str | os.PathLike[str]) -> Path:
    """A path that a user gave, as an absolute one: a relative one starts at the checkout, `~` is the user's folder."""
    return CHECKOUT / Path(path).expanduser()


def records() -> Path:
    """`mlruns/`: the MLflow database, artifacts, the Optuna journal, Hydra's output folders."""
    return home() / "mlruns"


def cache() -> Path:
    """`mlruns/cache/`: what can be made again, such as converted backbones and resized images."""
    return records() / "cache"
