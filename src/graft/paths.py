"""Where things lie. Everything is anchored at one home folder, never at the working directory.

The home is the checkout that holds `train.py`, or the folder that the environment variable
`GRAFT_HOME` names. Under it `mlruns/` holds every record that a user makes.
"""

from __future__ import annotations

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def home() -> Path:
    """The folder that relative paths start from."""
    return Path(os.environ.get("GRAFT_HOME") or CHECKOUT).resolve()


def anchored(path: str | os.PathLike[str]) -> Path:
    """`path` as an absolute path; a relative one starts at the home, `~` is the user's folder."""
    return home() / Path(path).expanduser()


def records() -> Path:
    """`mlruns/`: the MLflow database, artifacts, the Optuna journal, Hydra's output folders."""
    return home() / "mlruns"


def cache() -> Path:
    """`mlruns/cache/`: what can be made again, such as converted backbones and resized images."""
    return records() / "cache"
