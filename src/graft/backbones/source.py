"""Where a backbone comes from: its handle, what can be wrong with it, and the SavedModel it stands for."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from graft import paths
from graft.backbones import archive, download, folder_cache, handle, interface, package, saved_model, trained
from graft.backbones.interface import Interface
from graft.cache import marks
from graft.config_backbone import PACKAGE_PREFIX, backbone_name
from graft.digests import remembered_sha256
from graft.errors import ConfigError, FatalError
from graft.secrets import Secrets
from graft.suggestions import nearest

TRAINED_PREFIX = "trained:"
ALLOWED = (
    f"give {PACKAGE_PREFIX}NAME, {TRAINED_PREFIX}digits, a TF Hub or Kaggle handle, the http(s) address or the path of "
    "a .tar.gz, or the folder of a TF2 SavedModel"
)
# What black and white are for TF Hub's image modules (tensorflow.org/hub/common_signatures/images) and our own.
HUB_RANGE = (0.0, 1.0)


class Backbone(Protocol):
    """What has to be known of a backbone; the configuration's own object fits."""

    @property
    def url(self) -> str:
        """`package:NAME` (weights in an installed Python package), `trained:NAME`, or where a TF2 SavedModel lies.

        That is a folder, a .tar.gz, its http(s) address, or a handle of TF Hub or Kaggle.
        """
        ...

    @property
    def input_size(self) -> int | None:
        """Height and width of the images, in pixels; None leaves it to the module."""
        ...

    @property
    def value_range(self) -> tuple[float, float] | None:
        """The values that black and white have in the images; None leaves it to the module."""
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
        sha256: Says what the backbone computes, wherever and whenever it was written: of a SavedModel the
            digest of its content (`saved_model.content_digest`), of a converted package the digest of
            the weights and the conversion, of a trained network that of what was trained, since TensorFlow never
            writes the same bytes twice.
    """

    path: Path
    sha256: str


def check(backbone: Backbone) -> None:
    """Finds what is wrong with `backbone` as far as that needs no TensorFlow; downloads and unpacks it for that.

    Raises:
        ConfigError: for a handle of an unknown kind, an unknown or missing package, what is no TF2 SavedModel or no
            feature vector, and content of another digest than `backbone.sha256`.
        FatalError: if it cannot be downloaded now, or the cache cannot be written.
    """
    name = _package_name(backbone)
    if (own := _trained_name(backbone)) is not None:
        if (made := trained.digest(own)) is not None:
            _check_digest(backbone, made)
    elif name is None:
        _, digest_of = _found(backbone)
        # The digest of a large folder takes a while, so it is not made for nothing.
        if backbone.sha256 is not None:
            _check_digest(backbone, digest_of())
    else:
        package.find(name)
        _check_digest(backbone, package.digest(name))


def resolve(backbone: Backbone) -> SavedBackbone:
    """The SavedModel of `backbone`; packages are converted into the cache, once, archives unpacked, networks trained.

    Any number of processes may call this at once: one converts or downloads, the others wait for it. A process that
    is killed leaves nothing behind that is read later.

    Raises:
        ConfigError: as `check`; and for a package whose weights are damaged.
        FatalError: as `check`.
    """
    name = _package_name(backbone)
    if (own := _trained_name(backbone)) is not None:
        folder, made = trained.made(own), trained.digest(own)
        assert made is not None
        _check_digest(backbone, made)
        return SavedBackbone(folder, made)
    if name is None:
        folder, digest = _found(backbone)
        saved = SavedBackbone(folder, digest())
        _check_digest(backbone, saved.sha256)
        return saved
    check(backbone)
    return SavedBackbone(package.converted(name), package.digest(name))


def is_to_be_converted(backbone: Backbone) -> bool:
    """Whether `resolve` would convert a package first, which keeps one CPU busy for seconds."""
    name = _package_name(backbone)
    return name is not None and not package.folder(name).exists()


def interface_of(backbone: Backbone) -> Interface:
    """What the module of `backbone` says of itself; one that Graft makes, and may not have made, says what all do.

    Raises:
        ConfigError: as `check`.
        FatalError: as `check`.
    """
    if _package_name(backbone) is not None or _trained_name(backbone) is not None:
        return Interface(callable=True, parameters=None)
    folder, _ = _found(backbone)
    return _read_interface(backbone.url, folder)


def range_of(backbone: Backbone) -> tuple[float, float] | None:
    """What black and white are by the convention of where `backbone` comes from; None where there is none.

    Raises:
        ConfigError: if its handle is none.
    """
    if _package_name(backbone) is not None or _trained_name(backbone) is not None:
        return HUB_RANGE
    remote = handle.remote(backbone.url)
    return HUB_RANGE if remote is not None and remote.on_hub else None


def kept(backbone: Backbone) -> Path | None:
    """The folder of the SavedModel of `backbone`, if it is there already: nothing is made or downloaded.

    Raises:
        ConfigError: if its handle is none.
        OSError: if it is an archive that cannot be read.
    """
    name = _package_name(backbone)
    if name is not None:
        folder = package.folder(name)
    elif (own := _trained_name(backbone)) is not None:
        folder = trained.folder(own)
    elif handle.remote(backbone.url) is not None:
        folder = _cache_folder(backbone.url, backbone.url)
    else:
        path = paths.anchored(backbone.url)
        if path.is_dir():
            return path
        if not path.is_file():
            return None
        folder = _cache_folder(backbone.url, remembered_sha256(path))
    return folder if (folder / folder_cache.MANIFEST).is_file() else None


def known_digest(backbone: Backbone) -> str | None:
    """The digest of `backbone`, if that can be known without making or downloading it.

    Raises:
        ConfigError: if its handle is none.
        OSError: if it is there and cannot be read.
    """
    name = _package_name(backbone)
    if name is not None:
        return package.digest(name)
    if (own := _trained_name(backbone)) is not None:
        return trained.digest(own)
    folder = kept(backbone)
    return None if folder is None else saved_model.content_digest(folder)


def digest(backbone: Backbone) -> str:
    """The digest of `backbone`, to pin it by: downloads and unpacks it, or trains it, if that has to be.

    What comes from elsewhere is looked at and not loaded.

    Raises:
        ConfigError: as `check`.
        FatalError: as `check`.
    """
    check(backbone)
    if (name := _package_name(backbone)) is not None:
        return package.digest(name)
    if _trained_name(backbone) is not None:
        return resolve(backbone).sha256
    _, digest_of = _found(backbone)
    return digest_of()


def _package_name(backbone: Backbone) -> str | None:
    """The NAME in `package:NAME`; None for everything else."""
    return _known(backbone, PACKAGE_PREFIX, package.PACKAGES, "package")


def _trained_name(backbone: Backbone) -> str | None:
    """The NAME in `trained:NAME`; None for everything else."""
    return _known(backbone, TRAINED_PREFIX, trained.NAMES, "network that Graft trains")


def _known(backbone: Backbone, prefix: str, names: Collection[str], what: str) -> str | None:
    if not backbone.url.startswith(prefix):
        return None
    name = backbone.url.removeprefix(prefix)
    if name in names:
        return name
    known = ", ".join(prefix + known for known in names)
    near = nearest(name, names)
    hint = f" Did you mean {prefix}{near}?" if near else ""
    raise ConfigError(f"backbone.url={backbone.url}: no such {what}; known: {known}.{hint}")


def _found(backbone: Backbone) -> tuple[Path, Callable[[], str]]:
    """The folder of a SavedModel that is no package, looked at as far as TensorFlow is not needed, and its digest."""
    remote = handle.remote(backbone.url)
    if remote is not None:
        folder = _cache_folder(backbone.url, backbone.url)
        _ensure(backbone, folder, lambda target: _download(backbone, remote.address, target))
        return folder, lambda: folder_cache.digest_of(folder)
    path = _checked_path(backbone)
    if path.is_file():
        folder = _cache_folder(backbone.url, remembered_sha256(path))
        _ensure(backbone, folder, lambda target: _unpack(backbone, path, target))
        return folder, lambda: folder_cache.digest_of(folder)
    _refuse_unusable(backbone.url, path)
    return path, lambda: _content_digest(backbone, path)


# What is unpacked into the cache -------------------------------------------------------------------


def _cache_folder(url: str, identity: str) -> Path:
    name = re.sub(r"[^\w.-]+", "_", backbone_name(url), flags=re.ASCII)[:60].lstrip(".") or "backbone"
    return paths.cache() / "backbones" / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def _ensure(backbone: Backbone, folder: Path, build: Callable[[Path], None]) -> None:
    try:
        folder_cache.ensure(folder, build)
    except OSError as error:
        raise FatalError(f"backbone.url={backbone.url}: it cannot be kept in {folder.parent}: {error}") from error


def _download(backbone: Backbone, address: str, target: Path) -> None:
    file = target / "archive.partial"
    try:
        download.fetch(address, file, backbone_name(backbone.url))
    except download.Refused as error:
        raise ConfigError(f"backbone.url={backbone.url}: it cannot be downloaded: {error}.") from error
    except download.Unreachable as error:
        raise FatalError(
            f"backbone.url={backbone.url}: it cannot be downloaded: {error}. Try again later; or download it "
            "elsewhere, and give the file: backbone.url=/folder/model.tar.gz"
        ) from error
    _unpack(backbone, file, target)
    file.unlink()


def _unpack(backbone: Backbone, file: Path, target: Path) -> None:
    try:
        archive.unpack(file, target)
    except archive.Refused as error:
        raise ConfigError(f"backbone.url={backbone.url}: this archive is not taken: {error}.") from error
    # Before it is in the cache, so that nothing is left of a module that is none.
    _refuse_unusable(backbone.url, target)
    archive_sha256 = remembered_sha256(file)
    if backbone.sha256 is not None and backbone.sha256.lower() == archive_sha256:
        raise ConfigError(
            f"backbone.sha256={backbone.sha256}: this is the SHA-256 of the archive; of what is in it, which says "
            f"what the backbone computes, it is {saved_model.content_digest(target)}: give that."
        )
    _check_digest(backbone, saved_model.content_digest(target))
    # A signed address is a password; the cache may be shown, and shared.
    marks.describe(target, url=Secrets().out_of(backbone.url), archive_sha256=archive_sha256)


# What is looked at ---------------------------------------------------------------------------------


def _checked_path(backbone: Backbone) -> Path:
    """The folder or the archive that `backbone.url` names, if a TF2 SavedModel can be in it."""
    url = backbone.url
    try:
        path = paths.anchored(url)
        if not url or not path.exists():
            raise ConfigError(f"backbone.url={url}: there is no {path}; {ALLOWED}.")
        if path.is_file():
            return path
        if not path.is_dir():
            raise ConfigError(f"backbone.url={url}: this is neither a folder nor a file; {ALLOWED}.")
        if (path / archive.TF1_MODULE).exists():
            raise ConfigError(
                f"backbone.url={url}: this is a module in the TF1 Hub format, which cannot be fine-tuned "
                f"and has no place in TensorFlow 2; {ALLOWED}."
            )
        if not any((path / file).is_file() for file in saved_model.GRAPH_FILES):
            raise ConfigError(f"backbone.url={url}: there is no saved_model.pb in {path}; {ALLOWED}.")
    except (OSError, paths.UnknownUser) as error:
        raise ConfigError(f"backbone.url={url}: it cannot be read: {error}; {ALLOWED}.") from error
    return path


def _refuse_unusable(url: str, folder: Path) -> None:
    told = _read_interface(url, folder)
    if objection := told.objection():
        raise ConfigError(f"backbone.url={url}: {objection}.")
    # A handle that promises features is believed, whatever its module calls them.
    promised = handle.remote(url) is not None and re.search("feature[_-](vector|extraction)", url)
    if (named := told.classifier_output()) and not promised:
        raise ConfigError(
            f"backbone.url={url}: the module is a classifier, it gives {named}; its backbone is needed, which TF Hub "
            "lists as 'feature vector'."
        )


def _read_interface(url: str, folder: Path) -> Interface:
    try:
        return interface.remembered(folder)
    except interface.Damaged as error:
        raise ConfigError(f"backbone.url={url}: its saved_model.pb is damaged: {error}.") from error
    except OSError as error:
        raise ConfigError(f"backbone.url={url}: the SavedModel cannot be read: {error}.") from error


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
