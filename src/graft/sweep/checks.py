"""What can be known to be wrong before anything starts."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from graft.errors import ConfigError
from graft.suggestions import allowed_options, did_you_mean_key
from graft.sweep.compose import Composer, hydra_config_set, task_config
from graft.sweep.observer import NoObserver, SweepObserver
from graft.sweep.space import Cell, Space

SHOWN_PROBLEMS = 20


def check_cells(space: Space, compose: Composer, observer: SweepObserver) -> dict[str, list[str]]:
    """Composes and validates before anything starts.

    An observer sees every cell, with the ends of its ranges. Without one, what can go wrong is
    composing, which depends on single values and on combinations of groups: then each value is
    composed at least once, and not each of what may be thousands of cells.

    Returns:
        What the observer said that the runs depend on: for each name the different digests.

    Raises:
        ConfigError: with the problems of all cells.
    """
    seen: set[str] = set()
    problems: dict[str, list[str]] = {}
    digests: dict[str, set[str]] = {}
    checked = 0
    for cell in space.cells:
        for sampled in cell.corners():
            overrides = cell.overrides(sampled)
            if isinstance(observer, NoObserver) and seen.issuperset(overrides) and seen:
                continue
            seen.update(overrides)
            checked += 1
            for problem in _check(overrides, cell, compose, observer, digests):
                problems.setdefault(problem, []).append(cell.label)
    if problems:
        lines = [
            problem if len(labels) == checked else f"{problem} (in {_cells(labels)})"
            for problem, labels in problems.items()
        ]
        if len(lines) > SHOWN_PROBLEMS:
            lines[SHOWN_PROBLEMS:] = [f"… and {len(lines) - SHOWN_PROBLEMS} more."]
        raise ConfigError(lines)
    return {name: sorted(values) for name, values in sorted(digests.items())}


def _cells(labels: Sequence[str]) -> str:
    """Names a cell, and says how many more there are; one with ranges is looked at more than once."""
    first, *more = dict.fromkeys(labels)
    return f"{first} and {len(more)} more" if more else first


def _check(
    overrides: Sequence[str],
    cell: Cell,
    compose: Composer,
    observer: SweepObserver,
    digests: dict[str, set[str]],
) -> list[str]:
    """The problems of one configuration; what it depends on is added to `digests`."""
    try:
        config = compose(overrides, cell.index)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        return [_composition_problem(error, compose)]
    if isinstance(observer, NoObserver):
        return []
    try:
        with hydra_config_set(config):
            depends_on = observer.validate(task_config(config)) or {}
    except ConfigError as error:
        return list(error.problems)
    for name, digest in depends_on.items():
        digests.setdefault(name, set()).add(digest)
    return []


def _composition_problem(error: Exception, compose: Composer) -> str:
    """A key or an option that does not exist with the nearest that does; else Hydra's message in one line."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return f"{group}={option}: {allowed_options(option, error.options or [])}"
    text = " ".join(f"{error} {error.__cause__ or ''}".split())
    head, _, rest = text.partition("Could not override '")
    if head or not rest:
        return text
    key = rest.partition("'")[0]
    return f"{key}: there is no such key{did_you_mean_key(key, compose.keys())}"
