"""Lite0's conversion with real processes: started at once, and killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.backbones.choice import LITE0, Choice

from graft import backbones, preparation
from graft.backbones import Backbone, SavedBackbone, folder_cache
from graft.config import Config
from graft.data import pipeline
from graft.errors import ConfigError
from graft.warm import Kept

RESOLVE = f"""
import logging
logging.basicConfig(level=logging.INFO)
from graft import backbones
from tests.backbones.choice import Choice
print(backbones.resolve(Choice({LITE0!r})).path)
"""

# TensorFlow writes the variables first and the graph last: this one dies in between, holding the lock.
DIE_BEFORE_THE_GRAPH = f"""
import os, signal
from graft.backbones import package
convert = package._convert
def die(name, folder):
    convert(name, folder)
    (folder / "saved_model.pb").unlink()
    os.kill(os.getpid(), signal.SIGKILL)
package._convert = die
{RESOLVE}
"""


def start(home: Path, program: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "GRAFT_HOME": str(home), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_two_processes_convert_once(tmp_path: Path) -> None:
    processes = [start(tmp_path, RESOLVE), start(tmp_path, RESOLVE)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert sum(log.count("Converting the weights") for _, log in outputs) == 1


def test_a_killed_conversion_leaves_nothing_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = start(tmp_path, DIE_BEFORE_THE_GRAPH)
    _, log = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, log
    cache = tmp_path / "mlruns" / "cache" / "backbones"
    assert sorted(path.suffix for path in cache.iterdir()) == [".lock", ".tmp"]
    assert list(cache.glob("*.tmp/variables/*"))

    monkeypatch.setenv("GRAFT_HOME", str(tmp_path))
    saved = backbones.resolve(Choice(LITE0))
    assert (saved.path / folder_cache.MANIFEST).is_file()
    assert sorted(path.name for path in cache.iterdir()) == [saved.path.name, f"{saved.path.name}.lock"]


def test_images_are_decoded_beside_it_and_what_is_wrong_with_them_waits_for_no_conversion(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, decode, never, both = make_config(), pipeline.prepare, threading.Event(), threading.Barrier(2, timeout=60)

    def decoded(*arguments: Any) -> pipeline.Data:
        both.wait()
        return decode(*arguments)

    def converted(backbone: Backbone) -> SavedBackbone:
        both.wait()
        return SavedBackbone(Path("converted"), "0" * 64)

    monkeypatch.setattr(backbones, "is_to_be_converted", lambda backbone: True)
    monkeypatch.setattr(backbones, "resolve", converted)
    monkeypatch.setattr(pipeline, "prepare", decoded)
    data, saved = preparation.find(config)
    assert (len(data.images), saved.path) == (1797, Path("converted"))

    def refused(*_: Any) -> NoReturn:
        raise ConfigError("no image")

    monkeypatch.setattr(preparation, "_data", Kept(1))
    monkeypatch.setattr(pipeline, "prepare", refused)
    monkeypatch.setattr(backbones, "resolve", lambda backbone: never.wait())
    try:
        with pytest.raises(ConfigError, match="no image"):
            preparation.find(config)
    finally:
        never.set()
