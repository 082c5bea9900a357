"""What the user may set under `hydra.sweeper`, checked in one place; Optuna's parts by name."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from graft import suggestions
from graft.errors import ConfigError

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

DIRECTIONS = ("minimize", "maximize")

UNFIT_SAMPLERS = {
    "GridSampler": "list the values instead, as in key=a,b,c: the sweeper enumerates grids itself, exactly once a cell",
    "BruteForceSampler": "list the values instead, as in key=a,b,c: the sweeper enumerates grids itself",
    "PartialFixedSampler": "set the key to one value instead, as in key=value",
}

SEQUENCE_SAMPLERS = ("QMCSampler",)
"""Samplers whose seed chooses one sequence for the whole study; a seed a trial would break it."""

DEFAULT_SAMPLER = "TPESampler"

NEEDED_MODULES = {"CmaEsSampler": ("cmaes",), "GPSampler": ("scipy", "torch"), "QMCSampler": ("scipy",)}
"""What Optuna imports only once such a sampler draws, when the sweep is long under way."""


@dataclass(frozen=True)
class Part:
    """A sampler or a pruner: Optuna's class name and its arguments, as plain data."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        return {"name": self.name, "options": dict(self.options)}


@dataclass(frozen=True)
class SweepOptions:
    """The checked settings of one sweep.

    Attributes:
        n_trials: Trials in each cell with sampled keys; None for a pure grid.
        timeout: Seconds after the command's start after which no further trial is started, or None.
        trial_timeout: Seconds after which a trial that still runs is killed and fails, or None.
        sampler, pruner: Optuna's, by name; no pruner means nothing is pruned.
        directions: One a returned value.
        objectives: Names of the returned values, as many as `directions`.
        storage: None, a path of a journal file, or a database URL.
        study_name: Name to resume by, or None.
        max_retries: How often a trial whose worker died is started again.
        max_failures: Failed trials that the sweep endures, of those that end under this command; it stops at one
            more. None for any number.
        seed: Of the sampler; None for a new one each time.
        n_jobs: Trials in a batch, for launchers other than Graft's own.
        observer: Configuration of the observer, with `_target_`, or None.
        params: The space in YAML; overrides on the command line go before it.
    """

    n_trials: int | None
    timeout: float | None
    trial_timeout: float | None
    sampler: Part
    pruner: Part | None
    directions: tuple[str, ...]
    objectives: tuple[str, ...]
    storage: str | None
    study_name: str | None
    max_retries: int
    max_failures: int | None
    seed: int | None
    n_jobs: int
    observer: DictConfig | None
    params: Mapping[str, Any]

    @classmethod
    def check(cls, given: Mapping[str, Any]) -> SweepOptions:
        """Turns what Hydra hands the plugin into options.

        Raises:
            ConfigError: with every problem there is.
        """
        problems = _Problems()
        directions = _names(given["direction"])
        for direction in directions:
            problems.unless(
                direction in DIRECTIONS,
                f"hydra.sweeper.direction={direction} is not allowed. Allowed: minimize, maximize"
                f"{list_end(direction, DIRECTIONS)}",
            )
        problems.unless(bool(directions), "hydra.sweeper.direction is empty. Allowed: minimize, maximize.")
        objectives = _names(given["objective"]) or (
            ("value",) if len(directions) == 1 else tuple(f"value_{i}" for i in range(len(directions)))
        )
        problems.unless(
            len(objectives) == len(directions),
            f"hydra.sweeper.objective names {len(objectives)} values ({', '.join(objectives)}) and "
            f"hydra.sweeper.direction gives {len(directions)} ({', '.join(directions)}). Allowed: one "
            "direction for each objective.",
        )
        sampler = problems.part("sampler", given["sampler"] or DEFAULT_SAMPLER)
        pruner = problems.part("pruner", given["pruner"]) if given["pruner"] is not None else None
        if pruner is not None and pruner.name == "NopPruner":
            pruner = None
        problems.unless(
            pruner is None or len(directions) < 2,
            f"hydra.sweeper.pruner={pruner.name if pruner else None} cannot be used with "
            f"{len(directions)} objectives ({', '.join(objectives)}): Optuna's pruners judge one value. Allowed: "
            "one objective, or hydra.sweeper.pruner=null.",
        )
        for key in ("timeout", "trial_timeout"):
            problems.at_least(key, given[key], 0, "seconds, more than 0, or null", strictly=True)
        problems.at_least("n_trials", given["n_trials"], 1, "a whole number from 1, or null for a pure grid")
        problems.at_least("max_retries", given["max_retries"], 0, "a whole number from 0")
        problems.at_least("max_failures", given["max_failures"], 0, "a whole number from 0, or null for no limit")
        problems.at_least("n_jobs", given["n_jobs"], 1, "a whole number from 1")
        seed, params = given["seed"], given["params"]
        problems.unless(
            seed is None or 0 <= seed < 2**32,
            f"hydra.sweeper.seed={seed} is not allowed. Allowed: a whole number from 0 and below 2^32, or null.",
        )
        problems.unless(
            params is None or isinstance(params, Mapping | DictConfig),
            f"hydra.sweeper.params={params} is not allowed. Allowed: keys and what they are, as in "
            "{head_width: '64,256'}, or null.",
        )
        problems.raise_if_any()
        return cls(
            n_trials=given["n_trials"],
            timeout=given["timeout"],
            trial_timeout=given["trial_timeout"],
            sampler=sampler or Part(DEFAULT_SAMPLER),
            pruner=pruner,
            directions=directions,
            objectives=objectives,
            storage=given["storage"],
            study_name=given["study_name"],
            max_retries=given["max_retries"],
            max_failures=given["max_failures"],
            seed=seed,
            n_jobs=given["n_jobs"],
            observer=given["observer"],
            params=_plain(params) if params is not None else {},
        )


def list_end(name: str, allowed: Iterable[str] | Mapping[str, str]) -> str:
    """How to end a list of allowed names: `; did you mean X?` if one is near to `name`, or a full stop.

    Args:
        name: What the user wrote.
        allowed: Right names; or other ways to write them, each with the right name.
    """
    names = allowed if isinstance(allowed, Mapping) else {right: right for right in allowed}
    near = suggestions.nearest(name, names)
    return f"; did you mean {names[near]}?" if near else "."


def make_sampler(part: Part, *, seed: int | None) -> BaseSampler:
    """An Optuna sampler. `seed` is left out where the class takes none or the user gave one."""
    import optuna

    sampler_class = getattr(optuna.samplers, part.name)
    if part.name == "CmaEsSampler":
        from graft.sweep.cmaes_state import OnlyNumbers

        sampler_class = OnlyNumbers
    options = dict(part.options)
    if seed is not None and "seed" in inspect.signature(sampler_class.__init__).parameters:
        options.setdefault("seed", seed)
    sampler: BaseSampler = _quietly(sampler_class, options)
    return sampler


def make_pruner(plain: Mapping[str, Any] | None) -> BasePruner:
    """An Optuna pruner from `Part.plain()`; Optuna's default would prune, so None is spelt out."""
    import optuna

    if plain is None:
        return optuna.pruners.NopPruner()
    pruner: BasePruner = _build_pruner(plain["name"], plain["options"])
    return pruner


def _build_pruner(name: str, options: Mapping[str, Any]) -> Any:
    import optuna

    arguments = dict(options)
    # PatientPruner is built around another pruner, written in the same way.
    if "wrapped_pruner" in arguments and arguments["wrapped_pruner"] is not None:
        wrapped = read_part(arguments["wrapped_pruner"], "pruner")
        arguments["wrapped_pruner"] = _build_pruner(wrapped.name, wrapped.options)
    elif name == "PatientPruner":
        arguments.setdefault("wrapped_pruner", None)
    return _quietly(getattr(optuna.pruners, name), arguments)


def _quietly(part: Any, options: Mapping[str, Any]) -> Any:
    """`part(**options)`; that a class is experimental was the user's choice and needs no warning a trial."""
    import warnings

    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
        return part(**options)


def read_part(given: Any, kind: str) -> Part:
    """Reads ``TPESampler``, ``tpe`` or ``{name: tpe, multivariate: false}``, and tries it out.

    Args:
        given: A name, or a mapping with `name` and the class's arguments.
        kind: ``sampler`` or ``pruner``.

    Raises:
        ConfigError: if there is no such class, or it refuses the arguments.
    """
    import optuna

    module = optuna.samplers if kind == "sampler" else optuna.pruners
    suffix = kind.capitalize()
    key = f"hydra.sweeper.{kind}"
    options = dict(_plain(given)) if isinstance(given, Mapping | DictConfig) else {"name": str(given)}
    if "name" not in options:
        raise ConfigError(
            f"{key}={options} has no name. Allowed: {{name: {'TPE' if kind == 'sampler' else 'Median'}"
            f"{suffix}, option: value}}."
        )
    name = str(options.pop("name"))
    classes = {n: n for n in module.__all__ if n.endswith(suffix) and not n.startswith("Base")}
    short = {_short(n, suffix): n for n in classes}
    found = classes.get(name) or short.get(_short(name, suffix))
    if found is None:
        hint = list_end(name, short | classes)
        raise ConfigError(f"{key}={name} does not exist. Allowed: {', '.join(sorted(classes))}{hint}")
    if found in UNFIT_SAMPLERS:
        raise ConfigError(f"{key}={name} does not fit here: {UNFIT_SAMPLERS[found]}.")
    missing = [module for module in NEEDED_MODULES.get(found, ()) if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"{key}={name} needs {', '.join(missing)}, which is not installed. Allowed without: TPESampler."
        )
    try:
        if kind == "sampler":
            make_sampler(Part(found, options), seed=None)
        else:
            _build_pruner(found, options)
    except (TypeError, ValueError, ImportError) as error:
        target = getattr(module, found)
        allowed = [p for p in inspect.signature(target.__init__).parameters if p != "self"]
        unknown = [option for option in options if option not in allowed]
        hint = list_end(unknown[0], allowed) if unknown else "."
        raise ConfigError(
            f"{key}={name} refuses its options {options}: {error}. Allowed options: {', '.join(allowed)}{hint}"
        ) from error
    return Part(found, options)


def _short(name: str, suffix: str) -> str:
    return name.lower().replace("_", "").removesuffix(suffix.lower())


class _Problems:
    """Collects problems, so that all of them are shown at once."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def unless(self, fine: bool, problem: str) -> None:
        if not fine:
            self._found.append(problem)

    def at_least(self, key: str, value: float | None, low: float, allowed: str, *, strictly: bool = False) -> None:
        fine = value is None or (value > low if strictly else value >= low)
        self.unless(fine, f"hydra.sweeper.{key}={value} is not allowed. Allowed: {allowed}.")

    def part(self, kind: str, given: Any) -> Part | None:
        try:
            return read_part(given, kind)
        except ConfigError as error:
            self._found.extend(error.problems)
            return None

    def raise_if_any(self) -> None:
        if self._found:
            raise ConfigError(self._found)


def _names(given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    if isinstance(given, list | tuple | ListConfig):
        return tuple(str(name) for name in given)
    return (str(given),)


def _plain(given: Any) -> dict[str, Any]:
    if isinstance(given, DictConfig):
        plain = OmegaConf.to_container(given, resolve=True)
        assert isinstance(plain, dict)
        return {str(key): value for key, value in plain.items()}
    return dict(given)
