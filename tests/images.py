"""Images made for a test: every one different, each class with a colour of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_classes(folder: Path, classes: dict[str, int], size: int = 24, seed: int = 0) -> None:
    """Writes so many PNGs a class; the class's number shows as brightness, so that it can be learnt."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir()
        for index in range(count):
            noise = random.integers(0, 60, (size, size, 3))
            pixels = noise + 190 * number // max(1, len(classes) - 1)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index:04d}.png")
