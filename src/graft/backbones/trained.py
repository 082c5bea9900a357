"""A backbone that Graft trains itself, on a small data set that is installed with it.

It stands for what a user might have at hand: a network that was good at a small task with little variety. What that is
worth under other images, `experiments/low_variance_backbone.yaml` measures.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from graft import paths
from graft.backbones import folder_cache
from graft.errors import FatalError

log = logging.getLogger(__name__)

NAMES = ("digits",)
# Raise it whenever a change makes trained backbones compute something else.
TRAINING = 1


def made(name: str) -> Path:
    """The folder in the cache that holds the backbone as a TF2 SavedModel; trained, once, if it is not there.

    Raises:
        FatalError: if the cache cannot be written.
    """
    kept = folder(name)
    try:
        folder_cache.ensure(kept, _train)
    except OSError as error:
        raise FatalError(f"The trained backbone {name} cannot be kept in {kept.parent}: {error}") from error
    return kept


def folder(name: str) -> Path:
    """Where the trained backbone is kept, once it is made."""
    return paths.cache() / "backbones" / f"trained-{name}-{TRAINING}"


def digest(name: str) -> str | None:
    """SHA-256 of what was trained; None where that is not there, or damaged: it is trained again then.

    Processors differ in the last bits of a training, so it cannot be known before. TensorFlow puts random identifiers
    into the rest of the SavedModels that it writes.
    """
    if not folder_cache.is_whole(folder(name)):
        return None
    identity = hashlib.sha256(f"graft backbone {name}\ntraining {TRAINING}\n".encode())
    for file in sorted((folder(name) / "variables").iterdir()):
        identity.update(file.read_bytes())
    return identity.hexdigest()


def _train(folder: Path) -> None:
    """Writes the backbone as a TF2 SavedModel into `folder`."""
    log.info("Training a small network on scikit-learn's digits, once; this takes some seconds")

    # Late, because TensorFlow takes seconds to import and only this step needs it.
    from graft.backbones import digits_network, reusable

    network, accuracy = digits_network.train()
    log.info("It names %.1f %% of the digits that it was not trained on", 100 * accuracy)
    reusable.save(network, folder)
