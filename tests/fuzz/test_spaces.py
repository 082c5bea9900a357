"""Any overrides and `hydra.sweeper.params`: a space that means what it says, or a ConfigError."""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Any

import optuna
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from tests.fuzz.examples import fuzzed

from graft.errors import ConfigError
from graft.paths import CHECKOUT
from graft.sweep.overrides import MAX_CELLS, read_space
from graft.sweep.space import Choices, Plain, Range, Sampled, Space

NUMBERS = st.one_of(
    st.integers(-3, 20).map(str),
    st.integers().map(str),
    st.floats().map(repr),
    st.sampled_from(
        [
            "0",
            "-0",
            "1e400",
            "-1e400",
            "1e-400",
            "inf",
            "-inf",
            "nan",
            "1_000",
            "0x10",
            ".5",
            "5.",
            "1e5",
            "2e308",
            "1.7e308",
            "9" * 30,
            "9" * 400,
            "9" * 5000,
            "1e-320",
            "0.1",
            "0.30000000000000004",
            "9223372036854775808",
        ]
    ),
)
WORDS = st.one_of(
    st.sampled_from(
        ["a", "true", "null", "TRUE", "nUll", "lite0", "a-b", "a/b", "a.b", "x y", "", " ", "${x}", "${a:b}", "???"]
    ),
    st.sampled_from(
        ["'a,b'", "'it\\'s'", '"', "'", '"x\\"y"', "'\\\\'", "\\,", "\\ ", "a\\=b", "größe", "'猫'", "'\n'", "\t", "\0"]
    ),
    st.sampled_from(["choice", "interval", "log", "sampled", "by", "=", ",", "..", ":", "{", "}", "[", "]", "(", ")"]),
    st.text(max_size=6),
    st.text(max_size=6).map(lambda text: "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"),
    NUMBERS,
)
FUNCTIONS = (
    "choice", "range", "interval", "tag", "glob", "int", "float", "str", "bool", "json_str", "sort", "shuffle",
    "extend_list", "choise", "eval",
)  # fmt: skip
NAMED = ("start", "stop", "step", "end", "tags", "sweep", "include", "exclude", "list", "reverse", "seed", "x", "1")


def compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    argument = st.one_of(inner, st.tuples(st.sampled_from(NAMED), inner).map("=".join))
    arguments = st.lists(argument, max_size=4).map(",".join)
    pairs = st.lists(st.tuples(WORDS, inner).map(":".join), max_size=3).map(",".join)
    return st.one_of(
        st.tuples(st.sampled_from(FUNCTIONS), arguments).map(lambda call: f"{call[0]}({call[1]})"),
        st.tuples(NUMBERS, NUMBERS, NUMBERS).map(lambda ends: f"range({','.join(ends)})"),
        st.tuples(NUMBERS, NUMBERS).map(lambda ends: f"interval({','.join(ends)})"),
        st.tuples(st.sampled_from(("log", "sampled", "logg", "log, sampled")), inner).map(
            lambda t: f"tag({t[0]},{t[1]})"
        ),
        arguments.map(lambda text: f"[{text}]"),
        pairs.map(lambda text: f"{{{text}}}"),
        st.lists(inner, min_size=1, max_size=4).map(",".join),
    )


VALUES = st.recursive(WORDS, compound, max_leaves=8)
KEYS = st.one_of(
    st.sampled_from(
        ["x", "y", "a.b", "backbone", "dataset", "+x", "++x", "~x", "a@b", "a@b:c", "hydra.x", "x[0]", "", "x.", "$"]
    ),
    st.text(max_size=4),
)
OVERRIDES = st.one_of(
    st.tuples(KEYS, VALUES).map("=".join),
    KEYS,
    VALUES,
    # Depths at which a parser that calls itself gives up.
    st.tuples(st.sampled_from("[({"), st.integers(1, 400)).map(lambda t: "x=" + t[0] * t[1]),
    st.sampled_from([1, 30, 300, 1_200]).map(lambda depth: "x=" + "[" * depth + "]" * depth),
    st.integers(1, 60).map(lambda depth: "x=" + "tag(log," * depth + "interval(1,2)" + ")" * depth),
)
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), VALUES),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)
CONDITIONS = st.one_of(st.just("otherwise"), st.tuples(KEYS, WORDS).map("=".join), st.text(max_size=6))
PARAMS = st.dictionaries(KEYS, st.one_of(PLAIN, st.dictionaries(CONDITIONS, PLAIN, min_size=1, max_size=3)), max_size=3)
PARSER = OverridesParser.create()


@cache
def loader() -> ConfigLoaderImpl:
    return ConfigLoaderImpl(create_config_search_path(str(CHECKOUT / "conf")))


def space_or_problems(arguments: list[str], params: dict[str, Any]) -> Space | None:
    try:
        return read_space(arguments, params, n_trials=3, config_loader=loader())
    except ConfigError as error:
        given_size = len(str(arguments)) + len(str(params))
        for problem in error.problems:
            assert problem.strip()
            assert len(problem) < 3_000 + 5 * given_size
        return None


def distribution_of(part: Sampled) -> optuna.distributions.BaseDistribution:
    if isinstance(part, Choices):
        return CategoricalDistribution(part.handles)
    if part.kind == "int":
        return IntDistribution(int(part.low), int(part.high), log=part.log, step=int(part.step or 1))
    return FloatDistribution(part.low, part.high, log=part.log, step=part.step)


def draw_all(sampled: dict[str, Sampled]) -> dict[str, Plain]:
    """What Optuna draws, which the space has to be able to spell."""
    sampler = optuna.samplers.RandomSampler(seed=0)
    frozen, study = optuna.trial.create_trial(value=0.0), optuna.create_study()
    return {key: sampler.sample_independent(study, frozen, key, distribution_of(part)) for key, part in sampled.items()}


def assert_means_what_it_says(space: Space) -> None:
    assert len(space.cells) <= MAX_CELLS
    assert [cell.index for cell in space.cells] == list(range(len(space.cells)))
    assert len({tuple(cell.template.items()) for cell in space.cells}) == len(space.cells)
    assert space.varied() is not None
    assert space.fixed() is not None
    for cell in itertools.islice(space.cells, 5):
        assert cell.label
        for sampled in [*cell.corners(), draw_all(cell.sampled)]:
            for override in PARSER.parse_overrides(cell.overrides(sampled)):
                assert not override.is_sweep_override(), override.input_line
        for part in cell.sampled.values():
            if isinstance(part, Range):
                assert -math.inf < part.low <= part.high < math.inf


@fuzzed("spaces", 120, 4_000)
@given(st.lists(OVERRIDES, max_size=4))
def test_any_overrides_make_a_space_or_are_told(arguments: list[str]) -> None:
    space = space_or_problems(arguments, {})
    if space is not None:
        assert_means_what_it_says(space)
        assert space.cells == read_space(arguments, {}, n_trials=3, config_loader=loader()).cells or "nan" in str(space)


@fuzzed("spaces", 60, 2_000)
@given(PARAMS, st.lists(OVERRIDES, max_size=2))
def test_any_params_make_a_space_or_are_told(params: dict[str, Any], arguments: list[str]) -> None:
    space = space_or_problems(arguments, params)
    if space is not None:
        assert_means_what_it_says(space)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(allow_nan=False), st.text(max_size=6)
)


def spelt(value: Plain) -> str:
    if isinstance(value, str):
        # Hydra knows no escape for a backslash but before a quote.
        return '"' + value.replace('"', '\\"') + '"'
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


@fuzzed("spaces", 60, 2_000)
@given(
    st.lists(st.lists(SCALARS, min_size=1, max_size=4), min_size=1, max_size=4), st.sampled_from(["{}", "choice({})"])
)
def test_a_grid_is_the_product_of_its_values_and_spells_each_so_that_it_is_read_back(
    values: list[list[Plain]], written: str
) -> None:
    assume(not any(isinstance(v, str) and ("\\" in v or "$" in v) for v in itertools.chain(*values)))
    # One value alone makes no list, and Hydra's choice() takes no null.
    values = [choices for choices in values if (len(choices) > 1 if written == "{}" else None not in choices)]
    arguments = [f"k{i}={written.format(','.join(map(spelt, choices)))}" for i, choices in enumerate(values)]
    space = read_space(arguments, {}, n_trials=None)
    distinct = [list({repr(v): v for v in choices}.values()) for choices in values]
    assert [
        [
            repr(override.value() if not hasattr(override.value(), "text") else override.value().text)
            for override in PARSER.parse_overrides(cell.overrides({}))
        ]
        for cell in space.cells
    ] == [[repr(v) for v in cell] for cell in itertools.product(*distinct)]


@fuzzed("spaces", 30, 1_000)
@given(st.integers(-100, 100), st.integers(-100, 100), st.integers(-9, 9))
def test_a_range_is_that_of_python(start: int, stop: int, step: int) -> None:
    space = space_or_problems([f"x=range({start},{stop},{step})"], {})
    numbers = list(range(start, stop, step)) if step else []
    assert (space is None) == (not numbers)
    if space is not None:
        assert [cell.grid["x"].plain for cell in space.cells] == numbers
