"""What the tests of the loop share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
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
