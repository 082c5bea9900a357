"""A SavedModel is a program: `backbone.sha256` says which one is meant, and `backbone.require_sha256` insists on it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.backbones import archives
from tests.backbones.choice import Choice
from tests.backbones.http_server import Server, whole
from tests.conftest import composed, run_command
from typer.testing import CliRunner

from graft import backbones
from graft.backbones import folder_cache, listing, package, saved_model
from graft.cli import app
from graft.config import Config, from_hydra
from graft.errors import ConfigError
from graft.paths import CHECKOUT

MakeConfig = Callable[..., Config]
STRICT = "backbone.require_sha256=true"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        yield server


@pytest.fixture
def address(server: Server, tiny: Path) -> str:
    """Of an archive with a small module in it."""
    return server.serve("/models/tiny.tar.gz", whole(archives.of_folder(tiny)))


def test_what_is_not_pinned_is_refused_before_anybody_is_asked_for_it(
    server: Server, address: str, make_config: MakeConfig, home: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        make_config(f"backbone.url={address}", "backbone.value_range=[0,1]", STRICT)
    (problem,) = refused.value.problems
    assert problem.startswith(f"backbone.require_sha256=true: backbone.url={address} has no digest")
    assert f"backbone.sha256= the 64 digits that graft backbones {address} prints" in problem
    assert "backbone.require_sha256=false" in problem
    assert server.asked == []
    assert not (home / "mlruns").exists()


def test_every_option_is_pinned_by_graft_or_refused(make_config: MakeConfig) -> None:
    refused = {}
    for option in listing.options():
        try:
            make_config(f"backbone={option.name}", STRICT)
        except ConfigError as error:
            refused[option.name] = str(error)
    assert {option.name for option in listing.options()} - refused.keys() == set(package.PACKAGES)
    assert all(STRICT in text for text in refused.values())
    assert all(re.fullmatch("[0-9a-f]{64}", known.sha256) for known in package.PACKAGES.values())


def test_the_digest_to_pin_by_is_printed_and_accepted(
    server: Server, address: str, tiny: Path, home: Path, make_config: MakeConfig
) -> None:
    done = CliRunner().invoke(app, ["backbones", address])
    assert done.exit_code == 0, done.output
    assert re.search(r"^features +[1-9]", done.stdout, re.MULTILINE)  # although it was not there before
    (pin,) = re.findall(r"^backbone\.sha256=[0-9a-f]{64}$", done.stdout, re.MULTILINE)
    assert pin == f"backbone.sha256={saved_model.content_digest(tiny)}"
    config = make_config(f"backbone.url={address}", "backbone.value_range=[0,1]", pin, STRICT)
    assert backbones.resolve(config.backbone).sha256 == saved_model.content_digest(tiny)
    assert len(server.asked) == 1


def test_looking_at_a_backbone_loads_no_tensorflow(home: Path, tiny: Path) -> None:
    program = (
        "import sys; from graft.backbones import listing\n"
        f"print(listing.look_up({str(tiny)!r}).sha256, [m for m in ('tensorflow', 'tf_keras') if m in sys.modules])"
    )
    done = run_command(["python", "-c", program], home)
    assert done.stdout.strip() == f"{saved_model.content_digest(tiny)} []", done.stderr


def test_insisting_for_every_run_keeps_nobody_from_looking_for_digests(tmp_path: Path) -> None:
    for name in ("custom", "inception_v3"):
        text = (CHECKOUT / "conf" / "backbone" / f"{name}.yaml").read_text()
        (tmp_path / f"{name}.yaml").write_text(text.replace("require_sha256: false", "require_sha256: true"))
    assert [option.name for option in listing.options(tmp_path)] == ["inception_v3"]


@pytest.mark.parametrize("manifest", ["rewritten", "left"])
def test_a_cache_that_somebody_changed_is_not_loaded_under_a_pin(
    server: Server, address: str, tiny: Path, home: Path, manifest: str
) -> None:
    pinned = Choice(address, sha256=saved_model.content_digest(tiny))
    kept = backbones.resolve(pinned).path
    graph = kept / "saved_model.pb"
    graph.write_bytes(graph.read_bytes() + b"\x08\x01")  # another version of its format: a graph all the same
    if manifest == "left":  # as after damage: what is there is thrown away
        assert backbones.resolve(pinned).sha256 == pinned.sha256
        assert graph.read_bytes() == (tiny / "saved_model.pb").read_bytes()
        return
    content = {"sha256": saved_model.content_digest(kept)}
    (kept / folder_cache.MANIFEST).write_text(json.dumps(content))
    for refuse in (backbones.check, backbones.resolve, backbones.images_of):
        with pytest.raises(ConfigError, match=f"has the digest {content['sha256']}. It is not the"):
            refuse(pinned)
    assert len(server.asked) == 1


def test_insisting_changes_no_digest_of_a_configuration(make_config: MakeConfig) -> None:
    assert make_config(STRICT).sha256() == make_config().sha256()


def test_a_record_from_before_is_read_as_it_was(home: Path) -> None:
    recorded = from_hydra(composed()).model_dump()
    del recorded["backbone"]["require_sha256"]
    assert Config.model_validate(recorded).backbone.require_sha256 is False


def test_what_signs_an_address_is_not_kept_with_what_it_led_to(server: Server, address: str, home: Path) -> None:
    backbones.resolve(Choice(f"{address}?version=3&signature=hidden"))
    assert ("/models/tiny.tar.gz?version=3&signature=hidden", None) in server.asked
    files = [file for file in (home / "mlruns").rglob("*") if file.is_file()]
    assert [file for file in files if b"version=3" in file.read_bytes()]
    assert [file for file in files if b"hidden" in file.read_bytes()] == []
