"""From overrides and `hydra.sweeper.params` to the space of a sweep, or to all that is wrong with them.

A grid key is written as `a,b,c`, `choice()`, `glob()` or `range()`; a sampled key as `interval()`,
`tag(sampled, choice())` or `tag(sampled, range())`. In YAML a key may depend on grid values:

    hydra:
      sweeper:
        params:
          trainable: true,false
          learning_rate:
            trainable=true: tag(log, interval(1e-6, 1e-4))
            otherwise: tag(log, interval(1e-4, 1e-2))
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
)
from hydra.errors import HydraException

from graft.errors import ConfigError
from graft.sweep.options import list_end
from graft.sweep.space import (
    DELETION,
    OTHERWISE,
    Choices,
    Conditional,
    Definition,
    Fixed,
    Grid,
    Range,
    Space,
    Value,
    cells_of,
)

SAMPLED_TAG = "sampled"
LOG_TAG = "log"
KNOWN_TAGS = (SAMPLED_TAG, LOG_TAG)

WORD = re.compile(r"(?!(?:true|false|null|nan|inf)$)[a-z_][a-z_/-]*", re.IGNORECASE | re.ASCII)
"""Texts that the grammar reads as they are, whatever surrounds them."""

MAX_STEPS = 2**53
SAMPLABLE = "whole numbers below 2^63, or floats less than 1.7e308 apart, in at most 2^53 steps"

MAX_CELLS = 100_000
"""More than any sweep can run; a mistyped range makes billions, and would take all memory to list them."""


def read_space(
    arguments: Sequence[str], params: Mapping[str, Any], *, n_trials: int | None, config_loader: Any = None
) -> Space:
    """Reads the space from overrides, on top of `hydra.sweeper.params`.

    Args:
        arguments: Overrides as on the command line.
        params: Keys and values as in YAML. A key that `arguments` sets as well is replaced.
        n_trials: Trials a cell; needed where something is sampled.
        config_loader: Hydra's, for `glob()`.

    Raises:
        ConfigError: with every problem there is.
    """
    reader = _Reader(OverridesParser.create(config_loader=config_loader))
    definitions = reader.read(arguments, params)
    if reader.problems:
        raise ConfigError(reader.problems)
    sizes = {key: len(d.values) for key, d in definitions.items() if isinstance(d, Grid) and len(d.values) > 1}
    # Conditional keys may add to the product, which alone is known without listing.
    too_many = math.prod(sizes.values()) > MAX_CELLS
    cells = () if too_many else tuple(itertools.islice(cells_of(definitions), MAX_CELLS + 1))
    if too_many or len(cells) > MAX_CELLS:
        product = " x ".join(f"{size:,} of {key}" for key, size in sizes.items())
        raise ConfigError(
            f"The grid has too many cells ({product or 'conditional keys'}). Allowed: {MAX_CELLS:,}; list fewer "
            "values, or sample a key, as in key=tag(sampled,range(1,1000)) with hydra.sweeper.n_trials=20."
        )
    sampled = sorted({key for cell in cells for key in cell.sampled})
    if sampled and n_trials is None:
        raise ConfigError(
            f"hydra.sweeper.n_trials=null: {', '.join(sampled)} {'is' if len(sampled) == 1 else 'are'} sampled, so "
            "the sweep needs a number of trials. Allowed: a whole number from 1, as in hydra.sweeper.n_trials=20."
        )
    return Space(definitions, cells, tuple(reader.notes))


class _Reader:
    """Parses overrides into definitions and collects the problems on the way."""

    def __init__(self, parser: OverridesParser) -> None:
        self._parser = parser
        self.problems: list[str] = []
        self.notes: list[str] = []

    def read(self, arguments: Sequence[str], params: Mapping[str, Any]) -> dict[str, Definition | Conditional]:
        definitions: dict[str, Definition | Conditional] = {}
        from_yaml: dict[str, str] = {}
        for key, given in params.items():
            if _bare(key) in from_yaml:
                self.problems.append(
                    f"hydra.sweeper.params defines {_bare(key)} twice, as {from_yaml[_bare(key)]} and as {key}. "
                    "Allowed: one definition a key."
                )
            from_yaml[_bare(key)] = key
            self._refuse_hydra(key)
            if _is_conditional(given):
                definitions[key] = self._conditional(key, given)
            elif (parsed := self._parse_yaml(key, given)) is not None:
                definitions[key] = parsed[1]
        given_as: dict[str, str] = {}
        for argument in arguments:
            parsed = self._parse(argument)
            if parsed is None:
                continue
            key, definition = parsed
            bare = _bare(key)
            # Of two plain values the last one counts, as Hydra has it.
            both_fixed = isinstance(definition, Fixed) and isinstance(definitions.get(key), Fixed)
            if bare in given_as and not both_fixed:
                self.problems.append(
                    f"{bare} is defined twice, by {given_as[bare]} and by {argument}. Allowed: one definition a key."
                )
            if bare in from_yaml:
                definitions.pop(from_yaml.pop(bare), None)  # it may have been refused
            given_as[bare] = argument
            definitions[key] = definition
        self._check_conditions(definitions)
        return definitions

    def _refuse_hydra(self, key: str) -> None:
        if key.startswith(("hydra.", "hydra/")):
            self.problems.append(
                f"hydra.sweeper.params.{key} is not allowed: a sweep cannot vary Hydra's own configuration."
            )

    def _parse(self, override_text: str) -> tuple[str, Definition] | None:
        try:
            # Not parse_override(), which leaves glob() without the loader that knows the options.
            (override,) = self._parser.parse_overrides([override_text])
            return override.get_key_element(), self._definition(override)
        except (HydraException, ValueError) as error:
            self.problems.append(f"{override_text}: {' '.join(str(error).split())}")
            return None
        except RecursionError:
            self.problems.append(f"{override_text[:80]}…: this is nested too deeply to be read.")
            return None

    def _parse_yaml(self, key: str, given: Any) -> tuple[str, Definition] | None:
        try:
            text = _yaml_text(given)
        except ValueError as error:  # YAML reads hexadecimal numbers of any length, which Python does not write out
            self.problems.append(f"hydra.sweeper.params.{key}: {error}")
            return None
        parsed = self._parse(f"{key}={text}")
        if parsed is not None and parsed[0] != key:
            self.problems.append(
                f"hydra.sweeper.params: {key!r} is no key. Allowed: what stands before the = of an override."
            )
            return None
        return parsed

    def _definition(self, override: Override) -> Definition:
        key = override.get_key_element()
        value = override.value()
        if not override.is_sweep_override():
            if override.is_delete() and "=" not in (override.input_line or ""):
                return Fixed(Value(DELETION, None))
            return Fixed(_value(override._value))
        tags = set(getattr(value, "tags", ()))
        for tag in sorted(tags - set(KNOWN_TAGS)):
            self.problems.append(
                f"{key}: the tag {tag} means nothing. Allowed: {', '.join(KNOWN_TAGS)}{list_end(tag, KNOWN_TAGS)}"
            )
        if isinstance(value, IntervalSweep):
            return self._interval(key, value, log=LOG_TAG in tags)
        if LOG_TAG in tags:
            self.problems.append(f"{key}: only an interval can be tagged log. Allowed: tag(log, interval(low, high)).")
        if isinstance(value, RangeSweep):
            return self._range(key, value, sampled=SAMPLED_TAG in tags)
        if isinstance(value, ChoiceSweep) and value.shuffle:
            self.notes.append(f"{key}: shuffle() has no effect; trials run in the order of the grid.")
        # Not sweep_iterator() for choices: it would shuffle, and a resumed sweep must find the same order.
        elements = value.list if isinstance(value, ChoiceSweep) else list(override.sweep_iterator())
        values = self._distinct(key, [_value(element) for element in elements])
        if not values:
            self.problems.append(f"{key} has no values: {override.input_line} matches nothing.")
        return Choices(values) if SAMPLED_TAG in tags else Grid(values)

    def _interval(self, key: str, interval: IntervalSweep, *, log: bool) -> Definition:
        low, high = interval.start, interval.end
        assert low is not None
        assert high is not None
        kind: Literal["int", "float"] = "int" if isinstance(low, int) and isinstance(high, int) else "float"
        shown = f"{key}={'int(' if kind == 'int' else ''}interval({low}, {high}){')' if kind == 'int' else ''}"
        if not (math.isfinite(low) and math.isfinite(high)):
            self.problems.append(f"{shown} is not finite. Allowed: two finite numbers.")
        elif low >= high:
            self.problems.append(f"{shown} is empty. Allowed: interval(low, high) with low below high.")
        elif not _samplable(low, high):
            self.problems.append(f"{shown} is too wide to draw from. Allowed: {SAMPLABLE}.")
        if log and low <= 0:
            self.problems.append(
                f"{shown} cannot be sampled in the log domain from {low}. Allowed: a low end above 0, such as "
                f"tag(log, interval({1 if kind == 'int' else '1e-6'}, {high}))."
            )
        return Range(kind, low, high, log)

    def _range(self, key: str, value: RangeSweep, *, sampled: bool) -> Definition:
        shown = f"{key}=range({value.start}, {value.stop}, {value.step})"
        if not all(_is_finite(number) for number in (value.start, value.stop, value.step)):
            self.problems.append(f"{shown} is not finite. Allowed: finite numbers.")
            return Grid(())
        if value.step == 0:
            self.problems.append(f"{shown} has a step of 0.")
            return Grid(())
        count = _count(value)
        if count > MAX_CELLS and not sampled:
            self.problems.append(
                f"{shown} has {count:,} values. Allowed: {MAX_CELLS:,} in a grid, or tag(sampled, range(…))."
            )
            return Grid(())
        if not count:
            self.problems.append(
                f"{shown} is empty. Allowed: range(start, stop, step) "
                "as in Python, where stop does not belong to the range."
            )
            return Grid(())
        if sampled and count > 1:  # not listed: of a sampled range only the ends count, however long it is
            assert value.start is not None
            whole = isinstance(value.range(), range)
            # In decimals, as it is written and as Optuna reckons: three times 0.1 is 0.3.
            last = Decimal(repr(value.start)) + (count - 1) * Decimal(repr(value.step))
            low, high = sorted(map(int if whole else float, (value.start, last)))
            if not _samplable(low, high) or (count > MAX_STEPS and not whole):
                self.problems.append(f"{shown} has too many values to draw from. Allowed: {SAMPLABLE}.")
            return Range("int" if whole else "float", low, high, step=abs(value.step))
        values = tuple(Value(str(number), number) for number in value.range())
        return Choices(values) if sampled else Grid(values)

    def _distinct(self, key: str, values: list[Value]) -> tuple[Value, ...]:
        distinct = tuple(dict.fromkeys(values))
        if len(distinct) < len(values):
            repeated = sorted({value.text for value in values if values.count(value) > 1})
            self.notes.append(f"{key} was given {', '.join(repeated)} more than once; no cell is run twice.")
        return distinct

    def _conditional(self, key: str, given: Mapping[str, Any]) -> Conditional:
        branches: list[tuple[Mapping[str, Value], Definition]] = []
        for condition_text, branch in given.items():
            condition: dict[str, Value] = {}
            if condition_text != OTHERWISE:
                for term in str(condition_text).split(","):
                    if (parsed := self._parse(term.strip())) is None:
                        continue
                    if isinstance(parsed[1], Fixed):
                        condition[parsed[0]] = parsed[1].value
                    else:
                        self.problems.append(
                            f"hydra.sweeper.params.{key} depends on {term.strip()}, which is more than one value. "
                            f"Allowed: KEY=VALUE, several of them with commas between, or {OTHERWISE}."
                        )
            if (parsed := self._parse_yaml(key, branch)) is not None:
                branches.append((condition, parsed[1]))
        # `otherwise` is what is left, wherever it is written.
        branches.sort(key=lambda branch: not branch[0])
        return Conditional(tuple(branches))

    def _check_conditions(self, definitions: Mapping[str, Definition | Conditional]) -> None:
        decidable = {key: d for key, d in definitions.items() if isinstance(d, Grid | Fixed)}
        for key, definition in definitions.items():
            if not isinstance(definition, Conditional):
                continue
            for other, value in ((o, v) for condition, _ in definition.branches for o, v in condition.items()):
                if other not in decidable:
                    self.problems.append(
                        f"hydra.sweeper.params.{key} depends on {other}={value.text}, but {other} is no grid key of "
                        f"this sweep. Allowed: {', '.join(decidable) or 'none here'}{list_end(other, list(decidable))}"
                    )
                    continue
                on = decidable[other]
                values = on.values if isinstance(on, Grid) else (on.value,)
                # A single value is often set on the command line to look at one half of a space.
                if value not in values and isinstance(on, Grid):
                    texts = [v.text for v in values]
                    self.problems.append(
                        f"hydra.sweeper.params.{key} depends on {other}={value.text}, which {other} never is. "
                        f"Allowed: {', '.join(texts)}{list_end(value.text, texts)}"
                    )


def _samplable(low: float, high: float) -> bool:
    """Whether samplers can reckon with a range: they subtract its ends, and NumPy's whole numbers have 64 bits."""
    if isinstance(low, int) and isinstance(high, int):
        return low >= -(2**63) and high < 2**63
    return math.isfinite(high - low)


def _is_finite(number: float | None) -> bool:
    try:
        return number is not None and math.isfinite(number)
    except OverflowError:  # a whole number that no float can hold
        return False


def _count(value: RangeSweep) -> int:
    """How many numbers a range has, without listing them."""
    assert value.start is not None
    assert value.stop is not None
    return max(0, math.ceil((Fraction(value.stop) - Fraction(value.start)) / Fraction(value.step)))


def _bare(key: str) -> str:
    return key.lstrip("+~")


def _is_conditional(given: Any) -> bool:
    return isinstance(given, Mapping) and bool(given) and all(str(key) == OTHERWISE or "=" in str(key) for key in given)


def _value(element: Any) -> Value:
    """An element of Hydra's override grammar, spelt so that the grammar reads it back unchanged."""
    text = _spelt(element)
    if isinstance(element, bool):
        text = text.lower()  # as YAML and most users spell it; Hydra would write True
    plain = Override._convert_value(element)
    return Value(text, plain if plain is None or isinstance(plain, str | int | float | bool) else text)


def _spelt(element: Any, *, within: bool = False) -> str:
    """As Hydra spells it, with the quotes that its functions took off: 0 would be a number after choice('0').

    They take them off within lists and mappings, too: str([1,2]) is two texts.
    """
    if isinstance(element, list):
        return f"[{','.join(_spelt(each, within=True) for each in element)}]"
    if isinstance(element, dict):
        spelt = (
            f"{Override._get_value_element_as_str(key)}:{_spelt(value, within=True)}" for key, value in element.items()
        )
        return f"{{{','.join(spelt)}}}"
    text: str = Override._get_value_element_as_str(element)
    empty = within and element == ""  # which is read back from nothing after key= alone
    if isinstance(element, str) and not WORD.fullmatch(element) and (empty or not _reads_back(text, element)):
        return str(QuotedString(element, Quote.single).with_quotes())
    return text


def _reads_back(text: str, element: str) -> bool:
    try:
        read: object = _PARSER.parse_override(f"key={text}").value()
    except (HydraException, ValueError):
        return False
    return read == element


_PARSER = OverridesParser.create()

_YAML_TEXT: dict[type, Callable[[Any], str]] = {
    bool: lambda value: "true" if value else "false",
    type(None): lambda value: "null",
    list: lambda value: "[" + ",".join(_yaml_text(item) for item in value) + "]",
    dict: lambda value: "{" + ",".join(f"{key}:{_yaml_text(item)}" for key, item in value.items()) + "}",
}


def _yaml_text(value: Any) -> str:
    """A YAML value in Hydra's override grammar; a string is taken to be in that grammar already."""
    return _YAML_TEXT.get(type(value), str)(value)
