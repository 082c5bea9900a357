"""What one attempt at a run leaves beside its checkpoints for the next one to know."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import get_args

from graft import files
from graft.config import FeaturesConfig
from graft.errors import FatalError

log = logging.getLogger(__name__)

ENGINE = "features_engine"
PAID = "paid_seconds.json"


def remember_engine(directory: Path, engine: str) -> None:
    """Says that the run in `directory` is trained on features of `engine`."""
    files.write(directory / "checkpoints" / ENGINE, engine)


def remembered_engine(directory: Path) -> str | None:
    """What `remember_engine` said; None if it said nothing.

    Raises:
        FatalError: if the file is damaged. Another engine's features would lead to another end.
    """
    file = directory / "checkpoints" / ENGINE
    if not file.is_file():
        return None
    engines = [name for name in get_args(FeaturesConfig.model_fields["engine"].annotation) if name != "auto"]
    engine = file.read_bytes().decode(errors="replace")
    if engine not in engines:
        raise FatalError(
            f"{file} is damaged: it holds {engine[:20]!r} and should name the engine that the run's features are from; "
            f"allowed are {', '.join(engines)}. Write the right one into it, or start in an empty folder"
        )
    return engine


def paid(directory: Path, name: str, seconds: float) -> float:
    """Adds to the seconds that attempts at the run in `directory` paid for `name`; what all of them paid."""
    file = directory / "checkpoints" / PAID
    try:
        sums = json.loads(file.read_text()) if file.is_file() else {}
        total = sums.get(name, 0.0) + seconds
    except (ValueError, AttributeError, TypeError):
        log.warning("%s is damaged: seconds that earlier attempts paid are not counted", file)
        sums, total = {}, seconds
    if seconds:
        files.write(file, json.dumps({**sums, name: total}))
    return total
