from __future__ import annotations

from pathlib import Path

import pytest
from tests.backbones.choice import LITE0, Choice

from graft import backbones
from graft.backbones import SavedBackbone


@pytest.fixture(scope="session")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> SavedBackbone:
    """EfficientNet-Lite0 with its real weights, converted once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_HOME", str(tmp_path_factory.mktemp("home")))
        return backbones.resolve(Choice(LITE0))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small SavedModel that takes images of any size."""
    from tests.tiny_backbone import save_tiny_backbone

    return save_tiny_backbone(tmp_path_factory.mktemp("tiny") / "any_size")
