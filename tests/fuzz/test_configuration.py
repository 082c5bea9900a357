"""Configurations with anything in any place: a Config that can be recorded, or a ConfigError that names the key."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tests.conftest import composed
from tests.fuzz.examples import fuzzed

from graft.config import Config, from_hydra
from graft.errors import ConfigError
from graft.paths import CHECKOUT
from graft.secrets import HIDDEN, Secrets

WORDS = st.sampled_from(
    [
        "auto",
        "none",
        "flip",
        "null",
        "adam",
        "sgd",
        "digits",
        "image_folder",
        "tfds",
        "fashion_mnist",
        "cached",
        "true",
        "1",
        "1e-3",
        "",
        " ",
        "\x00",
        "a\x00b",
        "\n",
        "\x1b[31m",
        "�",
        "größe",
        "a" * 300,
        "a" * 5000,
        "..",
        ".",
        "/",
        "~",
        "~nobody/x",
        "~nobody",
        "http://[",
        "http://a:b@c",
        "https://[::1",
        "http://�",
        "sqlite:///",
        "sqlite:///~nobody/x",
        "sqlite:///a\x00b",
        "file://x",
        "://",
        "a://b",
        "package:",
        "trained:digits",
        "kaggle:a/b",
        "x.tar.gz",
        "mnist:1.0.0",
        "mnist/x",
        "a" * 64,
        "0" * 64,
        "${seed}",
        "${nowhere}",
        "${",
        "${oc.env:NOWHERE}",
        "${oc.env:PATH}",
        "${oc.decode:[}",
        "${a.b",
        "${..x}",
        "???",
        "${learning_rate}",
    ]
)
TEXTS = st.one_of(WORDS, st.text(max_size=8), st.text(st.characters(), max_size=4))
NUMBERS = st.one_of(
    st.integers(-3, 100), st.integers(), st.sampled_from([2**31, 2**31 - 1, 2**63, 2**64, 10**30, 10**400, -(10**400)]),
    st.floats(), st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 5e-324, 1e308, 0.5, 1.0, 0.25]),
)  # fmt: skip
KEYS = st.one_of(
    st.sampled_from(["name", "url", "path", "source", "x", "", ".", "a.b", "known", "epochs", "\udcff", "${x}"]),
    st.text(max_size=5),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(KEYS, st.integers(0, 3)), inner, max_size=3)
    ),
    max_leaves=5,
)

GROUPS = [
    ["dataset=digits"],
    ["dataset=image_folder", f"dataset.path={CHECKOUT / 'conf'}", "optimizer=sgd"],
    ["dataset=tfds", "dataset.name=cifar10", "optimizer=adamw"],
    ["dataset=fashion_mnist", "backbone=mobilenet_v2", "tracking=server", "tracking.uri=http://127.0.0.1:5000"],
    ["backbone=custom", "backbone.url=/models/mine", "head=dropout", "loop=estimator"],
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    """Right configurations with different groups, as plain data."""
    before = os.environ.get("GRAFT_HOME")
    os.environ["GRAFT_HOME"] = str(tmp_path_factory.mktemp("home"))
    yield [OmegaConf.to_container(composed(*overrides)) for overrides in GROUPS]  # type: ignore[misc]
    GlobalHydra.instance().clear()
    os.environ.pop("GRAFT_HOME")
    os.environ |= {"GRAFT_HOME": before} if before else {}


def places(node: dict[str, Any]) -> list[tuple[str, ...]]:
    """Where every group and every key is."""
    found: list[tuple[str, ...]] = []
    for key, value in node.items():
        found.append((key,))
        found += [(key, *rest) for rest in places(value)] if isinstance(value, dict) else []
    return found


@st.composite
def changes(draw: st.DrawFn) -> list[tuple[str, int, str, Any]]:
    """What becomes of a configuration: what is done, to which of its keys, and with what."""
    what = st.sampled_from(["set", "set", "set", "remove", "add", "swap"])
    return draw(st.lists(st.tuples(what, st.integers(0, 199), KEYS, VALUES), min_size=1, max_size=3))


def changed(base: dict[str, Any], steps: list[tuple[str, int, str, Any]]) -> tuple[Any, list[str]]:
    """The configuration after that, and the names of the keys and groups that it was done to."""
    config: dict[str, Any] = copy.deepcopy(base)
    touched: list[str] = []
    for what, number, key, value in steps:
        place = (every := places(config))[number % len(every)]
        node = config
        for part in place[:-1]:
            node = node[part]
        match what:
            case "set":
                node[place[-1]] = value
            case "remove":
                del node[place[-1]]
            case "add":
                node[key] = value
                place = (*place[:-1], key)
            case "swap":  # with the value of another key, which is right there
                node[place[-1]] = next(iter(config.values()), None)
        touched += place
        if not config:
            break
    return OmegaConf.create(config), touched


def taken_or_told(base: dict[str, Any], steps: list[tuple[str, int, str, Any]]) -> None:
    try:
        composition, touched = changed(base, steps)
    except (OmegaConfBaseException, ValueError, TypeError):
        return  # what YAML and overrides cannot say either
    try:
        config = from_hydra(composition)
    except ConfigError as error:
        assert error.problems
        for problem in error.problems:
            assert problem.strip()
            assert len(problem) < 20_000
        assert any(name.replace("\n", " ") in str(error).replace("\n", " ") for name in touched), error
        return
    assert from_hydra(composition).sha256() == config.sha256()
    if config.backbone.url != "auto":  # that word is not kept: it asks for what is known of a URL
        assert Config.model_validate(config.model_dump()).sha256() == config.sha256()
    assert not any(isinstance(value, dict | list | tuple) for value in config.flat().values())
    assert json.dumps(config.flat(), allow_nan=False)
    assert all(isinstance(option, str) for option in config.tracking.options())


@fuzzed("configuration", 200, 4_000)
@given(st.integers(0, len(GROUPS) - 1), st.integers(0, 199), st.one_of(WORDS, NUMBERS))
def test_any_odd_text_or_number_at_any_key_is_taken_or_told(
    bases: list[dict[str, Any]], base: int, number: int, value: Any
) -> None:
    taken_or_told(bases[base], [("set", number, "", value)])


@fuzzed("configuration", 100, 6_000)
@given(st.integers(0, len(GROUPS) - 1), changes())
def test_any_value_of_any_key_is_taken_or_told(
    bases: list[dict[str, Any]], base: int, steps: list[tuple[str, int, str, Any]]
) -> None:
    taken_or_told(bases[base], steps)


SECRET = "geheim-4711"
PLACES = st.sampled_from(
    [
        "${oc.env:GRAFT_FUZZ}",
        "${oc.env:'GRAFT_FUZZ'}",
        "http://me:${oc.env:GRAFT_FUZZ}@host/x",
        "a ${oc.env:GRAFT_FUZZ} b",
    ]
)
PLAIN = st.recursive(
    st.one_of(SCALARS, PLACES, PLACES),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(KEYS, st.integers(0, 3)), inner, max_size=3)
    ),
    max_leaves=8,
)


@fuzzed("secrets", 100, 5_000)
@given(st.dictionaries(KEYS, PLAIN, max_size=4), st.text(max_size=20))
def test_no_secret_is_left_wherever_it_stands(config: dict[str, Any], around: str) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GRAFT_FUZZ", SECRET)
        secrets = Secrets.of(config)
        try:
            node = OmegaConf.create(config)
        except (OmegaConfBaseException, ValueError, TypeError):
            return
        secrets |= Secrets.of(node)
    says = "GRAFT_FUZZ" in repr(config)
    for said in (f"{around}{SECRET}{around}", {"x": [SECRET, {SECRET: around}]}, config):
        left = secrets.out_of(said)
        assert not says or SECRET not in repr(left)
        assert secrets.out_of(left) == left or HIDDEN in repr(left) or "nan" in repr(left)


def test_the_folder_of_the_tests_is_as_before() -> None:
    """No path among the values was made."""
    assert not (CHECKOUT / "x.tar.gz").exists()
    assert not any("nobody" in entry.name for entry in CHECKOUT.iterdir())
