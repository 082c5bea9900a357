from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.sweep.apps import PLAIN_APP, App


@pytest.fixture
def make_app(tmp_path: Path) -> Callable[[str], App]:
    """Makes an application from its source."""
    return lambda source: App(tmp_path, source)


@pytest.fixture
def app(make_app: Callable[[str], App]) -> App:
    """An application that knows nothing of Graft, with structured configs in `__main__`."""
    return make_app(PLAIN_APP)
