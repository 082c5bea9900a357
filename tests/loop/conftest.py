"""What the tests of the loop share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorflow as tf
from tests.conftest import composed
from tests.loop.laboratory import Laboratory

from graft.config import from_hydra


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One for the tests of a file: their images are decoded, and their features extracted, once."""
    with pytest.MonkeyPatch.context() as environment:
        folder = tmp_path_factory.mktemp("home")
        environment.setenv("GRAFT_HOME", str(folder))
        yield folder


@pytest.fixture
def lab(shared_home: Path, tiny_backbone: Path, tmp_path: Path) -> Laboratory:
    return Laboratory(lambda *overrides: from_hydra(composed(*overrides)), tiny_backbone, tmp_path)


@pytest.fixture
def tensor_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU in the listing; what is computed still runs on the CPU, where nothing is rewritten to float16."""
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [gpu])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda *_: None)
    details = {"compute_capability": (8, 0)}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: details)
