"""The space of a sweep: what each key may be, and the cells that this makes.

A grid key is enumerated, a sampled key is left to the sampler. A cell is one combination of grid values with the
ranges that its sampled keys have there; a pure grid has nothing sampled in any cell.

Nothing here knows Optuna, runs anything or reads a file. What users write becomes a space in `graft.sweep.overrides`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

OTHERWISE = "otherwise"

DELETION = "\0deleted"
"""Stands for the value of `~key`, which has none."""

Plain = str | int | float | bool | None


@dataclass(frozen=True)
class Value:
    """One value of a key: as an override spells it, and as plain data."""

    text: str
    plain: Plain


@dataclass(frozen=True)
class Fixed:
    """A key with one value."""

    value: Value


@dataclass(frozen=True)
class Grid:
    """A key whose values are enumerated, in the order given and without repetitions."""

    values: tuple[Value, ...]


@dataclass(frozen=True)
class Range:
    """A key whose numbers are sampled. `high` belongs to the range; without a `step` it is every number between."""

    kind: Literal["int", "float"]
    low: float
    high: float
    log: bool = False
    step: float | None = None


@dataclass(frozen=True)
class Choices:
    """A key whose values are sampled from a list."""

    values: tuple[Value, ...]

    @property
    def handles(self) -> list[Plain]:
        """What the sampler chooses from: the values, or their texts where Python holds two to be equal.

        `true` and `1` are such a pair, and a study would store one for the other.
        """
        plain = [value.plain for value in self.values]
        return plain if len(set(plain)) == len(plain) else [value.text for value in self.values]


Sampled = Range | Choices
Definition = Fixed | Grid | Range | Choices


@dataclass(frozen=True)
class Conditional:
    """A key whose definition depends on grid values.

    Attributes:
        branches: Pairs of the values that other keys must have, and what the key then is. The first
            that fits counts. Where none fits, the key is not set at all.
    """

    branches: tuple[tuple[Mapping[str, Value], Definition], ...]


@dataclass(frozen=True)
class Cell:
    """One combination of grid values.

    Attributes:
        index: Position in the sweep, from 0.
        grid: The grid values of this cell, by key.
        template: Every key in the order of its override; a text, or the range it is sampled from.
    """

    index: int
    grid: Mapping[str, Value]
    template: Mapping[str, str | Range | Choices]

    @property
    def sampled(self) -> dict[str, Sampled]:
        return {key: part for key, part in self.template.items() if not isinstance(part, str)}

    @property
    def label(self) -> str:
        """What the cell is called, as in ``trainable=true,head_width=64``."""
        return ",".join(f"{key}={value.text}" for key, value in self.grid.items()) or "all"

    def overrides(self, sampled: Mapping[str, Plain]) -> list[str]:
        """The overrides of a trial in this cell, given a value for each sampled key."""
        texts = (
            (key, part if isinstance(part, str) else _sampled_text(part, sampled[key]))
            for key, part in self.template.items()
        )
        return [f"{key}={text}" if text is not DELETION else key for key, text in texts]

    def corners(self) -> Iterator[dict[str, Plain]]:
        """Sampled values that together show each end of each range, and each choice, at least once."""
        ends = {
            key: part.handles if isinstance(part, Choices) else [part.low, part.high]
            for key, part in self.sampled.items()
        }
        for position in range(max((len(values) for values in ends.values()), default=1)):
            yield {key: _as_kind(self.sampled[key], values[position % len(values)]) for key, values in ends.items()}


@dataclass(frozen=True)
class Space:
    """Everything that a sweep varies, and what it holds fixed on the way.

    Attributes:
        definitions: By override key, in the order in which the overrides are applied.
        cells: Every cell, in the order of the grid, the last key fastest.
        notes: Remarks for the user, such as a value that was given twice.
    """

    definitions: Mapping[str, Definition | Conditional]
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def pure_grid(self) -> bool:
        return not any(cell.sampled for cell in self.cells)

    def trials_in(self, cell: Cell, n_trials: int | None) -> int:
        """How many trials `cell` gets: one where nothing is sampled."""
        return (n_trials or 0) if cell.sampled else 1

    def varied(self) -> dict[str, Any]:
        """What is varied, by key, as plain data that reads like overrides."""
        return {key: describe(d) for key, d in self.definitions.items() if not isinstance(d, Fixed)}

    def fixed(self) -> dict[str, str]:
        """What is held fixed, by key."""
        return {key: str(describe(d)) for key, d in self.definitions.items() if isinstance(d, Fixed)}


def describe(definition: Definition | Conditional) -> Any:
    """`definition` as plain data that reads like an override."""
    match definition:
        case Fixed(value):
            return "deleted" if value.text is DELETION else value.text
        case Grid(values):
            return ",".join(value.text for value in values)
        case Choices(values):
            return f"tag(sampled, choice({','.join(value.text for value in values)}))"
        case Range(kind, low, high, log, step):
            body = f"interval({low!r}, {high!r})" if step is None else f"range({low!r}..{high!r} by {step!r})"
            body = f"int({body})" if kind == "int" else body
            return f"tag(log, {body})" if log else body
        case Conditional(branches):
            return {
                ",".join(f"{key}={value.text}" for key, value in condition.items()) or OTHERWISE: describe(branch)
                for condition, branch in branches
            }


def _sampled_text(part: Sampled, value: Plain) -> str:
    if isinstance(part, Choices):
        return part.values[part.handles.index(value)].text
    return repr(_as_kind(part, value))


def _as_kind(part: Sampled, value: Any) -> Plain:
    if isinstance(part, Choices):
        return value
    return int(value) if part.kind == "int" else float(value)


def cells_of(definitions: Mapping[str, Definition | Conditional]) -> Iterator[Cell]:
    """Every cell once. Conditional keys are settled after the grid keys that they depend on."""
    grid_keys = {key: d.values for key, d in definitions.items() if isinstance(d, Grid)}
    seen: set[tuple[tuple[str, Any], ...]] = set()
    index = 0
    for combination in itertools.product(*grid_keys.values()):
        chosen = dict(zip(grid_keys, combination, strict=True))
        settled = _settle(definitions, chosen)
        # A condition may open further grids, which then belong to this part of the grid only.
        inner = {key: d.values for key, d in settled.items() if isinstance(d, Grid)}
        for inner_combination in itertools.product(*inner.values()):
            cell_grid = chosen | dict(zip(inner, inner_combination, strict=True))
            template: dict[str, str | Range | Choices] = {}
            for key, definition in settled.items():
                if key in cell_grid:
                    template[key] = cell_grid[key].text
                elif isinstance(definition, Fixed):
                    template[key] = definition.value.text
                else:
                    assert isinstance(definition, Range | Choices)
                    template[key] = definition
            identity = tuple(template.items())
            if identity not in seen:
                seen.add(identity)
                yield Cell(index, cell_grid, template)
                index += 1


def _settle(definitions: Mapping[str, Definition | Conditional], chosen: Mapping[str, Value]) -> dict[str, Definition]:
    """What each key is, once the grid keys are `chosen`. A key that no condition fits is left out."""
    settled: dict[str, Definition] = {}
    for key, definition in definitions.items():
        if key in chosen:
            settled[key] = Fixed(chosen[key])
        elif isinstance(definition, Conditional):
            known = dict(chosen) | {k: d.value for k, d in definitions.items() if isinstance(d, Fixed)}
            for condition, branch in definition.branches:
                if all(known.get(other) == value for other, value in condition.items()):
                    settled[key] = branch
                    break
        else:
            settled[key] = definition
    return settled
