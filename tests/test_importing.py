"""Garbage and imports."""

from __future__ import annotations

import gc
import multiprocessing
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.processes import PROCESSES

from graft.config import TrackingConfig
from graft.importing import importing
from graft.tracking.mlflow_store import open_store
from graft.warm import Kept


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.enable()


def test_no_garbage_is_looked_for_in_the_block_and_afterwards_it_is_as_before() -> None:
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ModuleNotFoundError), importing():
        import graft.none_such  # noqa: F401
    assert gc.isenabled()
    gc.disable()
    with importing():
        pass
    assert not gc.isenabled()


class Cycle:
    """As a model and the functions that train it hold each other."""

    def __init__(self) -> None:
        self.itself = self


def test_a_model_is_freed_that_was_there_when_a_store_was_opened(tmp_path: Path) -> None:
    kept: Kept[Any] = Kept(1)
    model = weakref.ref(kept.get("one", Cycle)[0])
    open_store(TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=str(tmp_path), experiment="test"))
    kept.get("other", Cycle)
    assert model() is None


def frozen(answer: multiprocessing.SimpleQueue[int]) -> None:
    answer.put(gc.get_freeze_count())


def test_forked_processes_look_for_no_garbage_among_what_is_imported() -> None:
    answer: multiprocessing.SimpleQueue[int] = PROCESSES.SimpleQueue()
    process = PROCESSES.Process(target=frozen, args=(answer,))
    process.start()
    assert answer.get() > 100_000
    process.join()
