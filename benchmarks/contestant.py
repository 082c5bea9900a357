"""What the programs that are measured have in common: their command line and what they report."""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Sequence
from pathlib import Path


def parser(description: str) -> argparse.ArgumentParser:
    """The command line of a program that trains a head on a SavedModel."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("photos", type=Path, help="a folder with one sub-folder a class")
    made.add_argument("module", type=Path, help="a TF2 SavedModel of TF Hub's kind, for values from 0 to 1")
    made.add_argument("--trainable", action="store_true", help="fine-tune the backbone")
    made.add_argument("--image-size", type=int, default=224, help="pixels a side")
    made.add_argument("--epochs", type=int, default=10)
    made.add_argument("--batch-size", type=int, default=32)
    made.add_argument("--learning-rate", type=float, help="left out: 1e-3 frozen, 1e-5 fine-tuned")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--max-images", type=int, help="use only so many photos, the classes in proportion")
    made.add_argument("--json", type=Path, help="write seconds, curves and peak memory to this file")
    return made


def learning_rate(options: argparse.Namespace) -> float:
    """The given one, or one of the chapter's pair."""
    return options.learning_rate or (1e-5 if options.trainable else 1e-3)


def report(
    options: argparse.Namespace, epochs: Sequence[dict[str, float]], import_seconds: float, total_seconds: float
) -> dict[str, object]:
    """What a program tells of itself, also written to `--json`.

    Args:
        options: Of the command line.
        epochs: Each with `train_seconds`, `val_seconds`, and loss and accuracy of both splits.
        import_seconds: Of TensorFlow and what belongs to it.
        total_seconds: Without these.
    """
    told = {
        "epochs": list(epochs),
        "import_seconds": import_seconds,
        "total_seconds": total_seconds,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,  # Linux counts kilobytes
    }
    if options.json:
        options.json.write_text(json.dumps(told))
    return told
