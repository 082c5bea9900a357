"""What all tests share: an empty home of their own, and the commands as users type them."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, given, settings, strategies
from omegaconf import DictConfig

from graft.config import Config, from_hydra
from graft.paths import CHECKOUT

PHOTOS = Path(os.environ.get("GRAFT_TEST_PHOTOS", CHECKOUT.parent / "shared/data/flower_photos_1000"))
"""Real photos, one folder a class, for the tests that need some. They are not part of the repository."""


def pytest_collection_finish() -> None:
    """What the tests import stays. Graft looks for garbage with every model that it forgets: most of a second else."""
    _one_example()
    gc.freeze()


# An example may meet a busy machine, and what fails should fail again.
settings.register_profile(
    "graft",
    deadline=None,
    derandomize=os.environ.get("GRAFT_LONG") != "1",
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("graft")


@settings(max_examples=1, database=None)
@given(strategies.none())
def _one_example(nothing: None) -> None:
    """With its first one Hypothesis looks who holds generators of random numbers; of what is frozen nobody can tell."""


@pytest.fixture(autouse=True)
def _seed() -> None:
    """What trained in this process left TensorFlow deterministic: it refuses to draw unseeded in a later test."""
    if tensorflow := sys.modules.get("tensorflow"):
        tensorflow.random.set_seed(1)


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the checkout: its `mlruns/` is the test's own."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("GRAFT_HOME", str(folder))
    return folder


Command = Callable[..., "subprocess.CompletedProcess[str]"]


def run_command(
    arguments: Sequence[str], home: Path, cwd: Path = CHECKOUT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command of the environment that the tests run in, as a user would in a shell."""
    programs = Path(sys.executable).parent
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "GRAFT_HOME": str(home), **environment}
    env.pop("HYDRA_FULL_ERROR", None)
    return subprocess.run(list(arguments), cwd=cwd, env=env, capture_output=True, text=True, timeout=500, check=False)


def backbone_at(folder: Path) -> list[str]:
    """Overrides that choose the SavedModel in `folder`, which takes pixels from 0 to 1 as all of the tests' do."""
    return [f"backbone.url={folder}", "backbone.value_range=[0,1]"]


@pytest.fixture
def train(home: Path) -> Command:
    """`python train.py …` in the checkout, with its records in the test's home."""

    def run(*overrides: str, cwd: Path = CHECKOUT, **environment: str) -> subprocess.CompletedProcess[str]:
        return run_command(["python", str(CHECKOUT / "train.py"), *overrides], home, cwd, **environment)

    return run


def composed(*overrides: str) -> DictConfig:
    """Hydra's own composition of `conf/` with overrides."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CHECKOUT / "conf"), version_base="1.3"):
        return compose("config", overrides=list(overrides))


@pytest.fixture
def compose_config(home: Path) -> Iterator[Callable[..., DictConfig]]:
    yield composed
    GlobalHydra.instance().clear()


@pytest.fixture
def make_config(compose_config: Callable[..., DictConfig]) -> Callable[..., Config]:
    """The typed configuration for overrides."""
    return lambda *overrides: from_hydra(compose_config(*overrides))


@pytest.fixture(scope="session")
def photos() -> Path:
    """Real photos, or a skip that says what is missing."""
    if not PHOTOS.is_dir():
        pytest.skip(f"no photos at {PHOTOS}; GRAFT_TEST_PHOTOS names a folder with one sub-folder a class")
    return PHOTOS


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SavedModel that trains in seconds."""
    from tests.tiny_backbone import save_tiny_backbone

    folder = tmp_path_factory.mktemp("backbones") / "tiny"
    save_tiny_backbone(folder)
    return folder
