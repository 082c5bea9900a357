"""What overrides and params mean, without running anything."""

from __future__ import annotations

import itertools

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from graft.errors import ConfigError
from graft.sweep.overrides import read_space
from graft.sweep.space import Choices, Range


def overrides(arguments: list[str], params: dict[str, object] | None = None) -> list[list[str]]:
    """Each cell's overrides; sampled keys show the low end of their range."""
    space = read_space(arguments, params or {}, n_trials=3)
    return [cell.overrides(next(cell.corners())) for cell in space.cells]


def test_the_last_key_is_the_fastest_and_order_is_kept() -> None:
    assert overrides(["b=1,2", "fixed=x", "a=u,v"]) == [
        ["b=1", "fixed=x", "a=u"],
        ["b=1", "fixed=x", "a=v"],
        ["b=2", "fixed=x", "a=u"],
        ["b=2", "fixed=x", "a=v"],
    ]


@given(st.lists(st.lists(st.integers(-5, 5), min_size=1, max_size=4), min_size=1, max_size=4))
def test_a_grid_is_the_product_and_no_cell_comes_twice(values: list[list[int]]) -> None:
    arguments = [f"k{i}={','.join(map(str, numbers))}" for i, numbers in enumerate(values)]
    expected = itertools.product(*(dict.fromkeys(numbers) for numbers in values))
    assert overrides(arguments) == [[f"k{i}={v}" for i, v in enumerate(cell)] for cell in expected]


def test_a_mixed_space_samples_in_every_cell() -> None:
    space = read_space(["a=1,2,3", "b=w,x,y,z", "lr=tag(log,interval(1e-4,1e-1))"], {}, n_trials=5)
    assert len(space.cells) == 12
    assert sum(space.trials_in(cell, 5) for cell in space.cells) == 60
    assert space.cells[5].label == "a=2,b=x"
    assert space.cells[5].sampled == {"lr": Range("float", 1e-4, 1e-1, log=True)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval(0,1)", Range("float", 0.0, 1.0)),
        ("int(interval(1,8))", Range("int", 1, 8)),
        ("tag(log,int(interval(1,8)))", Range("int", 1, 8, log=True)),
        ("tag(sampled,range(1,8,3))", Range("int", 1, 7, step=3)),
        ("tag(sampled,range(0.1,0.5,0.1))", Range("float", 0.1, 0.4, step=0.1)),
    ],
)
def test_sampled_ranges(text: str, expected: Range) -> None:
    (cell,) = read_space([f"x={text}"], {}, n_trials=1).cells
    assert cell.sampled == {"x": expected}


def test_sampled_choices_keep_their_types_and_spelling() -> None:
    (cell,) = read_space(["x=tag(sampled,choice(true,1,'a b',[1,2]))"], {}, n_trials=1).cells
    assert isinstance(cell.sampled["x"], Choices)
    assert [cell.overrides(corner) for corner in cell.corners()] == [
        ["x=true"], ["x=1"], ["x=a\\ b"], ["x=[1,2]"],
    ]  # fmt: skip


def test_ranges_in_yaml_may_depend_on_grid_values() -> None:
    params = {
        "trainable": "true,false",
        "lr": {"otherwise": "tag(log, interval(1e-4, 1e-2))", "trainable=true": "tag(log, interval(1e-6, 1e-4))"},
        "warmup": {"trainable=true": "1,2"},
    }
    space = read_space([], params, n_trials=4)
    assert [(cell.label, cell.sampled["lr"].low) for cell in space.cells] == [  # type: ignore[union-attr]
        ("trainable=true,warmup=1", 1e-6),
        ("trainable=true,warmup=2", 1e-6),
        ("trainable=false", 1e-4),
    ]
    assert "warmup" not in space.cells[2].template


def test_a_condition_may_rest_on_a_value_that_the_command_line_fixed() -> None:
    params = {"trainable": "true,false", "lr": {"trainable=true": "1e-5", "otherwise": "1e-3"}}
    assert overrides(["trainable=true"], params) == [["lr=1e-05", "trainable=true"]]


def test_the_command_line_replaces_what_yaml_says_of_a_key() -> None:
    params = {"x": "1,2", "y": 3, "on": True, "off": None, "sizes": [1, 2], "opt": {"lr": 0.1}}
    assert overrides(["x=5", "+y=7,8"], params) == [
        ["on=true", "off=null", "sizes=[1,2]", "opt={lr:0.1}", "x=5", "+y=7"],
        ["on=true", "off=null", "sizes=[1,2]", "opt={lr:0.1}", "x=5", "+y=8"],
    ]


def test_shuffling_cannot_change_the_order_that_a_resumed_sweep_must_find() -> None:
    space = read_space(["x=shuffle(1,2,3,4,5,6,7,8)"], {}, n_trials=None)
    assert [cell.label for cell in space.cells] == [f"x={n}" for n in range(1, 9)]
    assert any("shuffle" in note for note in space.notes)


def test_all_problems_come_together() -> None:
    with pytest.raises(ConfigError) as refused:
        read_space(
            ["x=range(3,1)", "y=interval(1,0)", "z=tag(logg,choice(1,2))", "w=tag(log,choice(1,2))", "v=1,2", "v=3"],
            {"hydra.sweep.dir": "a,b", "u": {"xx=1": "2", "v=9": "1"}},
            n_trials=1,
        )
    told = "\n".join(refused.value.problems)
    for expected in (
        "x=range(3, 1, 1) is empty",
        "y=interval(1.0, 0.0) is empty",
        "the tag logg means nothing. Allowed: sampled, log; did you mean log?",
        "only an interval can be tagged log",
        "v is defined twice, by v=1,2 and by v=3",
        "cannot vary Hydra's own configuration",
    ):
        assert expected in told


def test_a_condition_on_an_unknown_key_or_value_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"trainabel.*did you mean trainable\?"):
        read_space([], {"trainable": "true,false", "lr": {"trainabel=true": "1"}}, n_trials=1)
    with pytest.raises(ConfigError, match=r"backbone=lite_0, which backbone never is.*did you mean lite0\?"):
        read_space([], {"backbone": "lite0,lite1", "lr": {"backbone=lite_0": "1"}}, n_trials=1)


@pytest.mark.parametrize("condition", ["x=choice(1)", "x=range(2)"])
def test_a_condition_is_one_value_of_a_key(condition: str) -> None:
    with pytest.raises(ConfigError, match=r"lr depends on x=.*, which is more than one value"):
        read_space([], {"x": "1,2", "lr": {condition: "1", "otherwise": "2"}}, n_trials=1)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("x=range(0,1000000000)", "has 1,000,000,000 values. Allowed: 100,000 in a grid, or tag(sampled"),
        ("x=range(0,1,1e-300)", "Allowed: 100,000 in a grid"),  # a step too small to leave 0 by
        ("x=range(0,inf)", "x=range(0, inf, 1) is not finite"),
        ("x=range(nan,1)", "is not finite"),
        (f"x=range(0,{10**400})", "is not finite"),
        ("x=interval(-1.7e308,1.7e308)", "is too wide to draw from. Allowed: whole numbers below 2^63, or floats"),
        ("x=int(interval(1,1e30))", "is too wide to draw from"),
        (f"x=tag(sampled,range(0,{2**64}))", "has too many values to draw from"),
        ("x=tag(sampled,range(0,1e30,1e-3))", "has too many values to draw from"),
        ("x=" + "[" * 500 + "]" * 500, "this is nested too deeply to be read"),
        ("x=" + "9" * 5_000, "4300 digits"),
    ],
)
def test_what_no_sweep_can_run_is_refused_before_it_takes_all_memory(override: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_space([override], {}, n_trials=1)
    assert told in str(refused.value)


def test_a_grid_has_an_end() -> None:
    arguments = [f"k{key}={','.join(map(str, range(10)))}" for key in range(9)]
    with pytest.raises(ConfigError, match=r"too many cells \(10 of k0 x 10 of k1 .* Allowed: 100,000"):
        read_space(arguments, {}, n_trials=1)
    conditional = {"k0": {"k1=0": "range(0,100000)", "otherwise": "range(0,3)"}}
    with pytest.raises(ConfigError, match=r"too many cells \(10 of k1\)"):
        read_space(arguments[1:2], conditional, n_trials=1)


def test_a_long_range_is_sampled_without_being_listed_and_in_decimals() -> None:
    (cell,) = read_space(
        ["x=tag(sampled,range(0,1000000000000,3))", "y=tag(sampled,range(0,0.4,0.1))"], {}, n_trials=1
    ).cells
    assert cell.sampled == {"x": Range("int", 0, 999999999999, step=3), "y": Range("float", 0.0, 0.3, step=0.1)}


@pytest.mark.parametrize("text", ["0", "-1.5", "true", "NULL", ";", "1e3", "[a]", "{a:b}", "it's", "a,b", "x=y"])
def test_texts_stay_texts(text: str) -> None:
    """Hydra's functions take quotes off, and a trial would get the number 0 for choice('0')."""
    quoted = text.replace("'", "\\'")
    for override in (f"x=choice('{quoted}',other)", f"x='{quoted}',other"):
        first, _ = read_space([override], {}, n_trials=1).cells
        (spelt,) = first.overrides({})
        read = OverridesParser.create().parse_override(spelt).value()
        assert (read, type(read)) == (text, str)
    nested_in_another(text, quoted)


def test_an_empty_text_stays_one_within_another() -> None:
    nested_in_another("", "")


def nested_in_another(text: str, quoted: str) -> None:
    for override, expected in (
        (f"x=str(['{quoted}',b])", [text, "b"]),
        (f"x=str({{a:['{quoted}']}})", {"a": [text]}),
        (f"x=str({{a:'{quoted}'}})", {"a": text}),
    ):
        (cell,) = read_space([override], {}, n_trials=1).cells
        (spelt,) = cell.overrides({})
        assert OverridesParser.create().parse_override(spelt).value() == expected


def test_a_number_in_yaml_that_python_does_not_write_out_is_told() -> None:
    with pytest.raises(ConfigError, match=r"hydra.sweeper.params.x: .*4300 digits"):
        read_space([], {"x": 16**5_000}, n_trials=1)


def test_the_command_line_replaces_what_yaml_says_wrongly() -> None:
    with pytest.raises(ConfigError, match=r"^x=a\[: ") as refused:
        read_space(["x=1"], {"x": "a["}, n_trials=1)
    assert len(refused.value.problems) == 1


def test_a_key_in_yaml_is_one_that_an_override_can_have() -> None:
    with pytest.raises(ConfigError, match=r"hydra.sweeper.params: 'x=y:1,z' is no key|x=y:1,z=1: "):
        read_space([], {"x=y:1,z": 1}, n_trials=1)
