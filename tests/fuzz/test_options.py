"""Anything under `hydra.sweeper`: options with which a sampler and a pruner can be made, or a ConfigError."""

from __future__ import annotations

import math
import warnings
from typing import Any

import optuna
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tests.fuzz.examples import fuzzed

from graft.errors import ConfigError
from graft.sweep.options import SweepOptions, make_pruner, make_sampler

NAMES = st.one_of(
    st.sampled_from(
        [
            "TPESampler",
            "tpe",
            "random",
            "cmaes",
            "grid",
            "qmc",
            "GPSampler",
            "nsgaii",
            "BaseSampler",
            "PartialFixedSampler",
        ]
    ),
    st.sampled_from(
        [
            "median",
            "MedianPruner",
            "hyperband",
            "nop",
            "patient",
            "percentile",
            "threshold",
            "wilcoxon",
            "successivehalving",
        ]
    ),
    st.sampled_from(["", "_", "Sampler", "minimize", "maximize", "maximise", "value", "__class__", "\udcff", "null"]),
    st.text(max_size=6),
)
NUMBERS = st.one_of(
    st.integers(-3, 30), st.integers(), st.floats(), st.sampled_from([2**31, 2**32, 2**63, 10**400, math.nan, math.inf])
)
OPTIONS = st.sampled_from(
    [
        "name",
        "seed",
        "n_startup_trials",
        "multivariate",
        "group",
        "gamma",
        "percentile",
        "n_warmup_steps",
        "interval_steps",
        "patience",
        "wrapped_pruner",
        "lower",
        "upper",
        "min_resource",
        "max_resource",
        "reduction_factor",
        "population_size",
        "qmc_type",
        "x",
    ]
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, NAMES)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(OPTIONS, st.text(max_size=3)), inner, max_size=3)
    ),
    max_leaves=5,
)
PARTS = st.one_of(
    VALUES, NAMES, st.builds(lambda n, o: {**o, "name": n}, NAMES, st.dictionaries(OPTIONS, VALUES, max_size=2))
)
WHOLE = st.one_of(st.none(), st.integers(-2, 30), st.integers(), st.sampled_from([2**31, 2**32, 2**63, 10**400]))
# The types that Hydra lets through for each key; see hydra_plugins/graft/config.py.
GIVEN = {
    "n_trials": WHOLE,
    "timeout": st.one_of(st.none(), st.floats()),
    "trial_timeout": st.one_of(st.none(), st.floats()),
    "sampler": PARTS,
    "pruner": PARTS,
    "direction": st.one_of(NAMES, st.lists(NAMES, max_size=3), VALUES),
    "objective": st.one_of(NAMES, st.lists(NAMES, max_size=3), VALUES),
    "max_retries": WHOLE.filter(lambda n: n is not None),
    "max_failures": WHOLE,
    "seed": WHOLE,
    "n_jobs": WHOLE.filter(lambda n: n is not None),
    "params": VALUES,
}
RIGHT: dict[str, Any] = {
    "n_trials": 3,
    "timeout": None,
    "trial_timeout": None,
    "sampler": "TPESampler",
    "pruner": None,
    "direction": "minimize",
    "objective": None,
    "storage": None,
    "study_name": None,
    "max_retries": 2,
    "max_failures": None,
    "seed": None,
    "n_jobs": 1,
    "observer": None,
    "params": None,
}


@fuzzed("options", 100, 6_000)
@given(
    st.lists(st.sampled_from(sorted(GIVEN)), min_size=1, max_size=3, unique=True).flatmap(
        lambda keys: st.fixed_dictionaries({key: GIVEN[key] for key in keys})
    )
)
def test_any_options_are_taken_or_told(wrong: dict[str, Any]) -> None:
    node = OmegaConf.create({**RIGHT, **wrong})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's, of arguments that are going out of use
        try:
            # As Hydra hands them to the plugin: what is nested is still its own.
            options = SweepOptions.check({key: node[key] for key in RIGHT})
        except ConfigError as error:
            assert all(problem.startswith("hydra.sweeper.") for problem in error.problems)
            assert any(key in str(error) for key in wrong)
            return
        sampler = make_sampler(options.sampler, seed=options.seed)
        pruner = make_pruner(options.pruner.plain() if options.pruner else None)
    assert isinstance(sampler, optuna.samplers.BaseSampler)
    assert isinstance(pruner, optuna.pruners.BasePruner)
    assert len(options.objectives) == len(options.directions) > 0
