"""What the tests of the loop share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.loop.laboratory import Laboratory, MakeConfig


@pytest.fixture
def lab(make_config: MakeConfig, tiny_backbone: Path, tmp_path: Path) -> Laboratory:
    return Laboratory(make_config, tiny_backbone, tmp_path)
