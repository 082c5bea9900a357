"""Where a backbone comes from: its handle, what can be wrong with it, and the SavedModel it stands for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

from graft import paths
from graft.backbones import package, saved_model
from graft.errors import ConfigError

PACKAGE_PREFIX = "package:"


class Backbone(Protocol):
    """What has to be known of a backbone; the configuration's own object fits."""

    @property
    def url(self) -> str:
        """`package:NAME` (weights in an installed Python package) or the folder of a TF2 SavedModel."""
        ...

    @property
    def input_size(self) -> int:
        """Height and width of the images, in pixels."""
        ...

    @property
    def value_range(self) -> tuple[float, float]:
        """The values that black and white have in the images."""
        ...

    @property
    def feature_width(self) -> int | None:
        """Length of the feature vector; None accepts any."""
        ...

    @property
    def sha256(self) -> str | None:
        """The digest that the backbone has to have, in hexadecimal; None accepts any."""
        ...

    @property
    def batch_norm_momentum(self) -> float | None:
        """The share of the moving averages that a training step keeps; None leaves it to the module."""
        ...


@dataclass(frozen=True)
class SavedBackbone:
    """A backbone as a TF2 SavedModel on disk.

    Attributes:
        path: The folder.
        sha256: Says what the backbone computes, wherever and whenever it was written: of a folder the
            digest of its content (`saved_model.content_digest`), of a converted package the digest of
            the weights and the conversion, since TensorFlow never writes the same bytes twice.
    """

    path: Path
    sha256: str


def check(backbone: Backbone) -> None:
    """Finds what is wrong with `backbone` as far as that needs no TensorFlow.

    Raises:
        ConfigError: For a handle of an unknown kind, an unknown or missing package, a folder that is no
            TF2 SavedModel, and content of another digest than `backbone.sha256`.
    """
    name = _package_name(backbone)
    if name is None:
        folder = _checked_folder(backbone)
        # The digest of a large folder takes a while, so it is not made for nothing.
        if backbone.sha256 is not None:
            _check_digest(backbone, _content_digest(backbone, folder))
    else:
        package.find(name)
        _check_digest(backbone, package.digest(name))


def resolve(backbone: Backbone) -> SavedBackbone:
    """The SavedModel of `backbone`; a package is converted into the cache, once.

    Any number of processes may call this at once: one converts, the others wait for it. A process that
    is killed leaves nothing behind that is read later.

    Raises:
        ConfigError: As `check`; and for a package whose weights are damaged.
        FatalError: If the cache cannot be written.
    """
    name = _package_name(backbone)
    if name is None:
        folder = _checked_folder(backbone)
        saved = SavedBackbone(folder, _content_digest(backbone, folder))
        _check_digest(backbone, saved.sha256)
        return saved
    check(backbone)
    return SavedBackbone(package.converted(name), package.digest(name))


def _package_name(backbone: Backbone) -> str | None:
    """The NAME in `package:NAME`; None for a folder."""
    if not backbone.url.startswith(PACKAGE_PREFIX):
        return None
    name = backbone.url.removeprefix(PACKAGE_PREFIX)
    if name in package.PACKAGES:
        return name
    known = ", ".join(PACKAGE_PREFIX + known for known in package.PACKAGES)
    nearest = get_close_matches(name, package.PACKAGES, n=1)
    hint = f" Did you mean {PACKAGE_PREFIX}{nearest[0]}?" if nearest else ""
    raise ConfigError(f"backbone.url={backbone.url}: no such package; known: {known}.{hint}")


def _checked_folder(backbone: Backbone) -> Path:
    """The folder that `backbone.url` names, if a TF2 SavedModel can be in it."""
    url = backbone.url
    allowed = f"give {PACKAGE_PREFIX}NAME or the folder of a TF2 SavedModel"
    if re.match(r"[a-zA-Z][\w+.-]*://", url):
        raise ConfigError(f"backbone.url={url}: Graft downloads no backbones; {allowed}.")
    try:
        folder = paths.anchored(url)
        if not url or not folder.exists():
            raise ConfigError(f"backbone.url={url}: there is no folder {folder}; {allowed}.")
        if not folder.is_dir():
            raise ConfigError(f"backbone.url={url}: this is a file, and Graft unpacks no archives; {allowed}.")
        if (folder / "tfhub_module.pb").exists():
            raise ConfigError(
                f"backbone.url={url}: this is a module in the TF1 Hub format, which cannot be fine-tuned "
                f"and has no place in TensorFlow 2; {allowed}."
            )
        if not any((folder / file).is_file() for file in saved_model.GRAPH_FILES):
            raise ConfigError(f"backbone.url={url}: there is no saved_model.pb in {folder}; {allowed}.")
    # RuntimeError: pathlib knows no home of the user in `~user`.
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"backbone.url={url}: the folder cannot be read: {error}; {allowed}.") from error
    return folder


def _content_digest(backbone: Backbone, folder: Path) -> str:
    try:
        return saved_model.content_digest(folder)
    except OSError as error:
        raise ConfigError(f"backbone.url={backbone.url}: the SavedModel cannot be read: {error}.") from error


def _check_digest(backbone: Backbone, found: str) -> None:
    if backbone.sha256 is not None and backbone.sha256.lower() != found:
        raise ConfigError(
            f"backbone.sha256={backbone.sha256}: {backbone.url} has the digest {found}. It is not the "
            "backbone that was pinned; look where it came from before you change the pin."
        )
