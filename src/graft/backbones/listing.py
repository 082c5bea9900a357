"""`graft backbones`: the options of `conf/backbone`, with what is known of each without making or downloading it.

Of one that is named, all that can be known without loading it, its digest first: that is how it is pinned.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError
from rich.table import Table

from graft import paths
from graft.backbones import handle, interface, package, source
from graft.backbones.interface import Interface
from graft.config_backbone import PACKAGE_PREFIX, BackboneConfig, backbone_name
from graft.console import PlainConsole
from graft.errors import ConfigError

SHOWN_DIGITS = 12  # of a digest
ANY = "custom"  # the option that leaves the URL open


@dataclass(frozen=True)
class Option:
    """One option of `conf/backbone`; what is not known is None.

    Attributes:
        name: As in `backbone=NAME`.
        url: Where it comes from.
        input_size: Height and width of its images in pixels.
        value_range: What black and white are in them.
        feature_width: How many features it gives.
        parameters: How many numbers its variables hold, moving averages included.
        cached: Whether it is on this machine as a SavedModel.
        sha256: Its digest.
    """

    name: str
    url: str
    input_size: int | None
    value_range: tuple[float, float] | None
    feature_width: int | None
    parameters: int | None
    cached: bool
    sha256: str | None


def options(folder: Path | None = None) -> list[Option]:
    """The options that name a backbone, by name.

    Args:
        folder: Where their files lie, if not in `conf/backbone` of the checkout.

    Raises:
        ConfigError: for a file that makes no configuration.
    """
    files = sorted((folder or paths.CHECKOUT / "conf" / "backbone").glob("*.yaml"))
    composed = [(file, _composed(file)) for file in files]
    return [
        _option(file.stem, _config(file, values))
        for file, values in composed
        if not OmegaConf.is_missing(values, "url")
    ]


def look_up(target: str) -> Option:
    """One backbone, looked at; it is downloaded or trained if it has to be, and nothing of it is loaded.

    Args:
        target: An option of `conf/backbone`, or what `backbone.url` may be.

    Raises:
        ConfigError: for what is no backbone.
        FatalError: if it cannot be downloaded now.
    """
    folder = paths.CHECKOUT / "conf" / "backbone"
    named = {file.stem: file for file in folder.glob("*.yaml") if file.stem != ANY}
    composed = _composed(named.get(target, folder / f"{ANY}.yaml"))
    if target not in named:
        composed.url = target
    name, config = target if target in named else backbone_name(target), _config(named.get(target), composed)
    digest = source.digest(config)  # first: what has to be downloaded can tell nothing before
    return replace(_option(name, config), sha256=digest)


def show_one(option: Option, console: PlainConsole) -> None:
    """Prints what is known of one backbone, and how it is pinned."""
    say = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    say(f"{option.name}: {option.url}")
    for what, number in (
        ("pixels", option.input_size),
        ("features", option.feature_width),
        ("parameters", option.parameters),
    ):
        if number is not None:
            say(f"{what:<11} {number:,}")
    say(f"backbone.sha256={option.sha256}")


def as_json(listed: Sequence[Option]) -> list[dict[str, Any]]:
    """The options for `--json`."""
    return [asdict(option) for option in listed]


def show(listed: Sequence[Option], console: PlainConsole) -> None:
    """Prints the options as a table, and what else a backbone can be."""
    say = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    table = Table(title="Backbones")
    table.add_column("backbone=", no_wrap=True)
    for column in ("pixels", "features", "parameters"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("cached", no_wrap=True)
    table.add_column("SHA-256", no_wrap=True)
    for option in listed:
        numbers = (option.input_size, option.feature_width, option.parameters)
        table.add_row(
            option.name,
            *("" if number is None else f"{number:,}" for number in numbers),
            "yes" if option.cached else "no",
            (option.sha256 or "")[:SHOWN_DIGITS],
        )
    console.print(table)
    # Not in the table, where a narrow terminal would leave nothing of them.
    for option in listed:
        say(f"{option.name}: {option.url}")
    say("Any other: backbone.url= a TF Hub or Kaggle handle, the address or path of a .tar.gz, or a folder.")
    say("What is not cached is downloaded, converted or trained when it is first used; only then all of it is known.")


def _composed(file: Path) -> DictConfig:
    """The file with those beside it that its defaults name, as Hydra composes them."""
    own = OmegaConf.load(file)
    assert isinstance(own, DictConfig)
    below = [name for name in own.pop("defaults", None) or [] if name != "_self_"]
    merged = OmegaConf.merge(*(_composed(file.with_name(f"{name}.yaml")) for name in below), own)
    assert isinstance(merged, DictConfig)
    return merged


def _config(file: Path | None, composed: DictConfig) -> BackboneConfig:
    # What is listed is not loaded, so that it need not be pinned: this is where the digest comes from.
    composed.require_sha256 = False
    try:
        return BackboneConfig.model_validate(OmegaConf.to_container(composed, resolve=True))
    except ValidationError as error:
        raise ConfigError(f"{file or 'backbone.url'}: {error.errors()[0]['msg']}") from None


def _option(name: str, config: BackboneConfig) -> Option:
    folder, digest = source.kept(config), source.known_digest(config)
    told = _told(config, folder)
    return Option(
        name=name,
        url=config.url,
        input_size=config.input_size or told.input_size,
        value_range=config.value_range,
        feature_width=config.feature_width or told.feature_width,
        parameters=told.parameters,
        cached=folder is not None,
        sha256=digest,
    )


def _told(config: BackboneConfig, folder: Path | None) -> Interface:
    name = config.url.removeprefix(PACKAGE_PREFIX)
    try:
        if folder is not None:
            return interface.read(folder)
        if name in package.PACKAGES and handle.remote(config.url) is None:
            return Interface(parameters=package.parameters(name))
    except (interface.Damaged, OSError, ConfigError):
        pass  # whoever uses it is told what is wrong with it
    return Interface()
