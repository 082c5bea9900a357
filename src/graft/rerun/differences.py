"""What is not as it was when a run was recorded: code, versions, device, data, backbone, configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graft import preparation, provenance, runtime
from graft.config import Config, flatten
from graft.rerun.restore import younger_keys
from graft.tracking.mlflow_run import CHANGED_MIDWAY
from graft.tracking.recorded_run import RecordedRun

SHOWN_DIGITS = 12  # of a digest
NOTHING = "none"

PLACES = ("dataset.path", "dataset.data_dir", "dataset.download", "backbone.url")
"""Keys that say where something lies. What it holds has a digest of its own, so a verified rerun may set them."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was.

    Attributes:
        what: Such as ``commit`` or a key of the configuration.
        then: As recorded.
        now: As it is.
    """

    what: str
    then: str
    now: str


def of_configuration(run: RecordedRun, config: Config) -> list[Difference]:
    """Keys that have another value than the run was recorded with.

    Args:
        run: The record.
        config: What is run now.
    """
    before = {key: value for key, value in flatten(run.config).items() if not key.startswith("tracking.")}
    after = {key: value for key, value in config.flat().items() if not key.startswith("tracking.")}
    younger = younger_keys(run)
    # The params were written apart from config.yaml: should one of them have been edited, they disagree.
    edited = [
        Difference(key, run.params[key], _word(value))
        for key, value in before.items()
        if key in run.params and run.params[key] != str(value)
    ]
    new = [Difference(key, "no such key", _word(after[key])) for key in younger if key in after]
    changed = [
        Difference(key, _word(before[key]), _word(value))
        for key, value in after.items()
        if key in before and before[key] != value
    ]
    return [*edited, *new, *changed]


def of_surroundings(run: RecordedRun, config: Config) -> list[Difference]:
    """Code, versions, device, data and backbone that are not those of the run. Finds the images and the backbone.

    Raises:
        ConfigError: if one of them cannot be used.
    """
    data, backbone = preparation.find(config)
    now = {
        **provenance.versions(),
        "device": runtime.device(),
        "dataset_sha256": data.sha256,
        "backbone_sha256": backbone.sha256,
    }
    then = {name: run.tags.get(f"graft.{name}", NOTHING) for name in (*now, "uncommitted_sha256")}
    midway = run.tags.get(CHANGED_MIDWAY)
    return [
        *([Difference("made by several versions", midway, "one throughout")] if midway else []),
        *_differing(then, now),
    ]


def _differing(then: Mapping[str, str], now: Mapping[str, str]) -> list[Difference]:
    return [
        Difference(name.replace("_", " "), _shortened(name, value), _shortened(name, now.get(name, NOTHING)))
        for name, value in then.items()
        if value != now.get(name, NOTHING)
    ]


def _word(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _shortened(name: str, value: str) -> str:
    """A digest by its first digits; a commit keeps what follows its own."""
    if not name.endswith(("sha256", "commit")):
        return value
    digest, dash, rest = value.partition("-")
    return f"{digest[:SHOWN_DIGITS]}{dash}{rest}"
