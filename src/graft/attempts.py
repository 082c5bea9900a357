"""What one attempt at a run leaves beside its checkpoints for the next one to know."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from graft import files

log = logging.getLogger(__name__)

PAID = "paid_seconds.json"


def paid(directory: Path, name: str, seconds: float) -> float:
    """Adds to the seconds that attempts at the run in `directory` paid for `name`; what all of them paid."""
    file = directory / "checkpoints" / PAID
    try:
        sums = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        total = sums.get(name, 0.0) + seconds
    except (ValueError, AttributeError, TypeError):
        log.warning("%s is damaged: seconds that earlier attempts paid are not counted", file)
        sums, total = {}, seconds
    if seconds:
        files.write(file, json.dumps({**sums, name: total}))
    return total
