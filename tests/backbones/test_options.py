"""Every option of conf/backbone trains: the packages as they are, the handles against a server on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.backbones import archives
from tests.backbones.choice import Choice
from tests.backbones.http_server import Server, whole
from tests.conftest import run_command

from graft import backbones
from graft.backbones import SavedBackbone, listing, package
from graft.config import Config
from graft.errors import ConfigError
from graft.paths import CHECKOUT
from graft.run import run
from graft.tracking.recorder import MemoryRecorder

MakeConfig = Callable[..., Config]
OPTIONS = sorted(file.stem for file in (CHECKOUT / "conf" / "backbone").glob("*.yaml") if file.stem != "custom")
PACKAGES = sorted(package.PACKAGES)
HANDLES = sorted(set(OPTIONS) - set(PACKAGES) - {"digits_cnn"})
SMALL = ["+size=smoke", "epochs=1", "dataset.max_images=60", "features.engine=tensorflow"]


@pytest.fixture
def home(lite0: SavedBackbone, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One for all of these tests, so that what one has made is there for the next."""
    folder = lite0.path.parents[3]
    monkeypatch.setenv("GRAFT_HOME", str(folder))
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], str]]:
    """The address of a small module that gives so many features."""
    from tests.tiny_backbone import feature_width, save_tiny_backbone

    folder = tmp_path_factory.mktemp("served")
    with Server() as server:

        def serve(width: int) -> str:
            filters = width // feature_width(1)
            made = (
                save_tiny_backbone(folder / str(width), width=filters) if not (folder / str(width)).exists() else None
            )
            path = f"/google/tiny_{width}/feature_vector/1"
            if made:
                server.serve(path, whole(archives.of_folder(made)))
            return server.address + path

        yield serve


def trained(config: Config, folder: Path) -> float:
    result = run(config, MemoryRecorder(), folder)
    return result.history[0]["val_accuracy"]


@pytest.mark.parametrize("option", PACKAGES)
def test_a_backbone_of_a_package_trains(option: str, make_config: MakeConfig, tmp_path: Path) -> None:
    assert 0 <= trained(make_config(f"backbone={option}", *SMALL), tmp_path) <= 1


@pytest.mark.parametrize("option", HANDLES)
def test_a_backbone_by_its_handle_trains(
    option: str, served: Callable[[int], str], make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    ours = make_config(f"backbone={option}").backbone
    assert ours.url.startswith("https://tfhub.dev/google/")
    assert ours.feature_width is not None
    # The group as it is, its numbers with it, but for the server.
    there = f"backbone.known.url={served(ours.feature_width)}"
    assert 0 <= trained(make_config(f"backbone={option}", there, *SMALL), tmp_path) <= 1


def test_a_url_is_enough_where_the_module_tells_the_rest(make_config: MakeConfig, home: Path, tmp_path: Path) -> None:
    from tests.tiny_backbone import save_tiny_backbone

    folder = save_tiny_backbone(tmp_path / "fixed", input_size=24)
    given = [f"backbone.url={folder}", *SMALL, "dataset.image_size=null"]
    with pytest.raises(ConfigError) as refused:
        trained(make_config(*given), tmp_path / "run")
    assert [text.split(" ")[0] for text in refused.value.problems] == ["backbone.value_range"]
    assert 0 <= trained(make_config(*given, "backbone.value_range=[0,1]"), tmp_path / "run") <= 1


def test_the_backbones_are_listed(tmp_path: Path) -> None:
    done = run_command(["graft", "backbones", "--json"], tmp_path)
    assert done.returncode == 0, done.stderr
    listed = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert sorted(listed) == OPTIONS
    lite0 = listed["efficientnet_lite0"]
    assert (lite0["input_size"], lite0["feature_width"], lite0["cached"]) == (256, 1280, False)
    assert lite0["sha256"] == package.digest("efficientnet_lite0")
    assert lite0["parameters"] == 3_413_024
    assert (listed["inception_v3"]["input_size"], listed["inception_v3"]["sha256"]) == (299, None)
    table = run_command(["graft", "backbones"], tmp_path, COLUMNS="160").stdout
    for option in OPTIONS:
        assert option in table
    assert "3,413,024" in table


def test_what_is_cached_is_listed_with_what_it_says(
    served: Callable[[int], str], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path))
    (tmp_path / "custom.yaml").write_text((CHECKOUT / "conf" / "backbone" / "custom.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(f"defaults: [custom, _self_]\nurl: {served(1280)}\nvalue_range: [0, 1]\n")
    (before,) = listing.options(tmp_path)
    assert (before.name, before.cached, before.parameters, before.feature_width) == ("mine", False, None, None)
    backbones.resolve(Choice(before.url))
    (after,) = listing.options(tmp_path)
    assert (after.cached, after.feature_width, after.input_size) == (True, 1280, None)
    assert after.parameters == 9 * 3 * 80 + 9 * 80 * 80 + 8 * 80
    assert after.sha256 is not None
    (tmp_path / "mine.yaml").write_text("defaults: [custom, _self_]\nurl: /models/mine\ninput_size: large\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        listing.options(tmp_path)
