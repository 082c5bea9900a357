"""Whatever is typed after `train.py`: a configuration, or status 2 and a few lines."""

from __future__ import annotations

import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.examples import fuzzed
from tests.fuzz.test_spaces import OVERRIDES, VALUES

from graft.command import exit_statuses
from graft.config import from_hydra
from graft.paths import CHECKOUT

KEYS = st.sampled_from(
    [
        "trainable",
        "epochs",
        "seed",
        "learning_rate",
        "head",
        "optimizer",
        "dataset",
        "dataset.path",
        "backbone.url",
        "backbone",
        "+size",
        "~optimizer",
        "+experiments",
        "experiments",
        "hydra.run.dir",
        "+dataset.x",
        "++epochs",
        "hydra/launcher",
        "epoch",
    ]
)
TYPED = st.lists(st.one_of(st.tuples(KEYS, VALUES).map("=".join), OVERRIDES), min_size=1, max_size=3)


@pytest.fixture(autouse=True)
def _no_hydra_is_left(home: object) -> object:
    yield
    GlobalHydra.instance().clear()


@fuzzed("command", 10, 300)
@given(TYPED)
def test_whatever_is_typed_there_is_no_traceback(typed: list[str]) -> None:
    # What begins with a dash is an option of Hydra's, and argparse answers.
    typed = [override for override in typed if not override.startswith("-") and "\0" not in override]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["train.py", *typed])
        try:
            with exit_statuses(CHECKOUT / "conf"):
                GlobalHydra.instance().clear()
                with initialize_config_dir(str(CHECKOUT / "conf"), version_base="1.3"):
                    from_hydra(compose("config", overrides=typed))
        except SystemExit as stopped:
            assert stopped.code == 2
