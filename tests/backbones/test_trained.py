"""The network that Graft trains on the digits itself: once, to the same weights, and a backbone like any other."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from tests.backbones.choice import Choice
from tests.conftest import run_command
from tests.loop.laboratory import MakeConfig

from graft import backbones
from graft.backbones import trained
from graft.errors import ConfigError
from graft.run import run
from graft.tracking.recorder import MemoryRecorder

URL = "trained:digits"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(home))


def test_it_is_trained_once_and_knows_digits(caplog: pytest.LogCaptureFixture) -> None:
    assert trained.digest("digits") is None
    with caplog.at_level(logging.INFO, logger="graft"):
        saved = backbones.resolve(Choice(URL))
    assert float(caplog.text.split("It names ")[1].split(" %")[0]) > 95
    caplog.clear()
    assert backbones.resolve(Choice(URL)) == saved
    assert "Training" not in caplog.text
    assert saved.sha256 == trained.digest("digits")


def test_trained_again_it_has_the_same_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = backbones.resolve(Choice(URL))
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path))
    again = backbones.resolve(Choice(URL))
    assert again.path != first.path
    assert again.sha256 == first.sha256


def test_damage_is_found_and_mended_whatever_is_pinned(caplog: pytest.LogCaptureFixture) -> None:
    good = backbones.resolve(Choice(URL))
    file = next((good.path / "variables").glob("*.data*"))
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    assert trained.digest("digits") is None
    pinned = Choice(URL, sha256=good.sha256)
    backbones.check(pinned)
    assert backbones.resolve(pinned) == good
    assert "is damaged and is replaced" in caplog.text


def test_it_can_be_frozen_and_fine_tuned(make_config: MakeConfig, tmp_path: Path) -> None:
    small = ("backbone=digits_cnn", "dataset.max_images=400", "dataset.image_size=32", "learning_rate=0.003")
    for trainable, parameters in (("false", 128 * 512 + 512 + 5130), ("true", 128 * 512 + 512 + 5130 + 245_392)):
        config = make_config(*small, f"trainable={trainable}", "epochs=3")
        result = run(config, MemoryRecorder(), tmp_path / trainable)
        assert result.trainable_parameters == parameters
        # It has seen these very digits.
        assert result.history[-1]["val_accuracy"] > 0.8


def test_it_is_listed_with_its_digest_once_it_is_there(home: Path, tmp_path: Path) -> None:
    backbones.resolve(Choice(URL))
    for folder, cached in ((home, True), (tmp_path, False)):
        listed = json.loads(run_command(["graft", "backbones", "--json"], folder).stdout)
        (ours,) = [entry for entry in listed if entry["name"] == "digits_cnn"]
        assert (ours["url"], ours["cached"], ours["feature_width"]) == (URL, cached, 128)
        assert (ours["sha256"] is not None) is cached


def test_another_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"trained:digit: no such network.*Did you mean trained:digits\?"):
        backbones.check(Choice("trained:digit"))


def test_a_pinned_digest_is_compared() -> None:
    digest = backbones.resolve(Choice(URL)).sha256
    backbones.check(Choice(URL, sha256=digest))
    with pytest.raises(ConfigError, match=digest):
        backbones.check(Choice(URL, sha256="f" * 64))
    with pytest.raises(ConfigError, match=digest):
        backbones.resolve(Choice(URL, sha256="f" * 64))
