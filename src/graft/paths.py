"""Where things lie. Nothing starts at the working directory: the same command means the same everywhere.

What users give, such as `dataset.path`, starts at the checkout that holds `train.py`. What Graft writes goes under
`mlruns/` of the home: the checkout, or the folder that the environment variable `GRAFT_HOME` names. Of that only what
can be made again may lie elsewhere, such as on a node's own disk: in the folder that `GRAFT_CACHE` names.
"""

from __future__ import annotations

import os
from pathlib import Path

from graft.errors import ConfigError
from graft.sqlite_file import objection

CHECKOUT = Path(__file__).resolve().parents[2]


class UnknownUser(ConfigError, ValueError):
    """A path begins with `~` and a name that no user of this machine has; as a ValueError pydantic takes it, too."""


def home() -> Path:
    """The folder that holds `mlruns/`.

    Raises:
        ConfigError: if its path is none that the address of the MLflow database can name.
    """
    folder = Path(os.environ.get("GRAFT_HOME") or CHECKOUT).resolve()
    if said := objection(folder):
        raise ConfigError(f"GRAFT_HOME={folder}: {said}. In it lies the record, an SQLite database")
    return folder


def anchored(path: str | os.PathLike[str]) -> Path:
    """A path that a user gave, as an absolute one: a relative one starts at the checkout, `~` is the user's folder.

    Raises:
        UnknownUser: if it begins with `~` and the name of nobody.
    """
    return CHECKOUT / expanded(path)


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with the folder of the user in the place of `~` or `~user`.

    Raises:
        UnknownUser: if there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = Path(path).parts[0].removeprefix("~")
        raise UnknownUser(f"~{user} is no user of this machine; ./{path} is a path that begins so") from None


def records() -> Path:
    """`mlruns/`: the MLflow database, artifacts, the Optuna journal, Hydra's output folders."""
    return home() / "mlruns"


def cache() -> Path:
    """What can be made again, such as converted backbones and resized images: `GRAFT_CACHE`, or else `mlruns/cache/`.

    Raises:
        ConfigError: if `GRAFT_CACHE` is relative. What it started from would differ from worker to worker. Also if it
            begins with `~` and the name of nobody.
    """
    given = os.environ.get("GRAFT_CACHE")
    if not given:
        return records() / "cache"
    folder = expanded(given)
    if not folder.is_absolute():
        raise ConfigError(f"GRAFT_CACHE={given}: allowed is an absolute path, such as {folder.absolute()}")
    return folder.resolve()
