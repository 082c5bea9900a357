"""From a record back to a configuration, as it was or with changes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from pydantic import ValidationError

from graft.config import Config, TrackingConfig, flatten, leaves
from graft.config_backbone import settled_backbone
from graft.config_messages import describe
from graft.errors import ConfigError
from graft.paths import CHECKOUT
from graft.suggestions import did_you_mean
from graft.tracking.recorded_run import RecordedRun

CONF = CHECKOUT / "conf"


def restore(run: RecordedRun, tracking: TrackingConfig, assignments: Sequence[str] = ()) -> Config:
    """The configuration that `run` had, with some keys set to other values.

    A key that is younger than the run gets its default.

    Args:
        run: Where to begin.
        tracking: Where to record now.
        assignments: Each as ``key=value``, as `train.py` takes them; the key is that of a value, not of a group.

    Raises:
        ConfigError: for what is no assignment, for unknown keys and for wrong values, all at once; if this version of
            Graft does not know the configuration any more; and if its data set is gone.
    """
    values = copy.deepcopy(dict(run.config))
    for key, value in younger_keys(run).items():
        _assign(values, key, value)
    values["tracking"] = tracking.model_dump()
    changes = _read(assignments, values)
    for key, value in changes.items():
        _assign(values, key, value)
    if "trainable" in changes and "learning_rate" not in changes:
        _follow_trainable(values, run.config)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = [describe(problem, Config) for problem in error.errors(include_url=False)]
        hint = "" if changes else "; --set key=value gives it another value"
        raise ConfigError([f"{problem}{hint}" for problem in problems]) from None


def with_engine_of(run: RecordedRun, config: Config) -> Config:
    """`config` with the engine that `run` had, where ``features.engine=auto`` leaves it to Graft.

    Engines agree within a ten-thousandth, and a rerun is compared to the last bit.
    """
    engine = run.tags.get("graft.features_engine")
    if engine is None or config.features.engine != "auto" or not config.cached_features:
        return config
    return config.model_copy(update={"features": config.features.model_copy(update={"engine": engine})})


def younger_keys(run: RecordedRun) -> dict[str, Any]:
    """The keys that `run` does not know because they are younger than it, with the defaults that they get."""
    known = flatten(run.config)
    groups = {key.split(".")[0] for key in known if "." in key} - {"tracking"}
    return {
        key: value
        for key, value in leaves(_defaults(run.config)).items()
        if key not in known and value != "???" and ("." not in key or key.split(".")[0] in groups)
    }


def _defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `conf/` says of a configuration with the data set, optimiser and loop of `config`."""
    options = {group: (config.get(group) or {}).get("name") for group in ("dataset", "optimizer", "loop")}
    overrides = [f"{group}={name}" for group, name in options.items() if (CONF / group / f"{name}.yaml").is_file()]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        values = OmegaConf.to_container(compose("config", overrides=overrides), resolve=True, throw_on_missing=False)
    assert isinstance(values, dict)
    values["backbone"] = settled_backbone(values["backbone"])
    return {str(key): value for key, value in values.items()}


def _read(assignments: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are assigned, by key."""
    known = list(leaves(values))
    problems: list[str] = []
    changes: dict[str, Any] = {}
    for text in assignments:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException:
            problems.append(f"--set {text}: this is no assignment; key=value is one")
            continue
        key = override.key_or_group
        if override.is_sweep_override() or override.is_add() or override.is_delete():
            problems.append(f"--set {text}: one value for one key is wanted; several values make a sweep of train.py")
        elif key.startswith("tracking"):
            problems.append(f"--set {text}: --tracking-uri and --experiment say where a rerun is recorded")
        elif key not in known:
            problems.append(f"--set {text}: {_no_such_key(key, known)}")
        else:
            changes[key] = override.value()
    if problems:
        raise ConfigError(problems)
    return changes


def _no_such_key(key: str, known: Sequence[str]) -> str:
    if inside := [leaf for leaf in known if leaf.startswith(f"{key}.")]:
        return f"{key} is a group of keys; allowed are {', '.join(inside)}"
    by_leaf = {leaf.rsplit(".", 1)[-1]: leaf for leaf in known}
    near = did_you_mean(key, known) or did_you_mean(key.rsplit(".", 1)[-1], by_leaf)
    return f"there is no such key{near or '; graft rerun sets those that the config.yaml of the run has'}"


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    *groups, leaf = key.split(".")
    node = values
    for group in groups:
        node = node[group]
    node[leaf] = value


def _follow_trainable(values: dict[str, Any], recorded: Mapping[str, Any]) -> None:
    """Lets the learning rate follow `trainable` again, if the run had the one that goes with it."""
    pair = recorded.get("default_learning_rates") or {}
    if recorded.get("learning_rate") == pair.get("finetuned" if recorded.get("trainable") else "frozen"):
        values["learning_rate"] = None
