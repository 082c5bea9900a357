"""Garbage and imports."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from graft.importing import importing


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.enable()


def test_no_garbage_is_looked_for_in_the_block_and_afterwards_it_is_as_before() -> None:
    before = gc.get_freeze_count()
    with importing():
        assert not gc.isenabled()
        imported = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(imported), "what was imported is not looked through again"
    with pytest.raises(ModuleNotFoundError), importing():
        import graft.none_such  # noqa: F401
    assert gc.isenabled()
    gc.disable()
    with importing():
        pass
    assert not gc.isenabled()
