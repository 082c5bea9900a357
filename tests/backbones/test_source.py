from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.backbones.choice import LITE0, Choice

from graft import backbones, paths
from graft.backbones import package, saved_model
from graft.errors import ConfigError, FatalError

NO_GRAPH = b"\x08\x01"  # a SavedModel that says its version and no more


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the checkout, which relative paths start from."""
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path))
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path)
    return tmp_path


def refusal(choice: Choice) -> str:
    """Why `check` and `resolve` refuse it: with the same words."""
    with pytest.raises(ConfigError) as checked:
        backbones.check(choice)
    with pytest.raises(ConfigError) as resolved:
        backbones.resolve(choice)
    assert str(checked.value) == str(resolved.value)
    return str(checked.value)


def write_model(folder: Path) -> Path:
    """The files of a SavedModel, as far as they can be looked at without TensorFlow."""
    (folder / "variables").mkdir(parents=True)
    (folder / "assets").mkdir()
    (folder / "saved_model.pb").write_bytes(NO_GRAPH)
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / "assets" / "words.txt").write_bytes(b"words")
    return folder


def test_checking_imports_no_tensorflow() -> None:
    program = (
        "import sys; from graft import backbones; from tests.backbones.choice import LITE0, Choice\n"
        "backbones.check(Choice(LITE0)); print(sorted({'tensorflow', 'tf_keras', 'torch'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_package_of_another_name_is_refused_with_the_nearest() -> None:
    text = refusal(Choice("package:eficientnet_lite0"))
    assert "backbone.url=package:eficientnet_lite0" in text
    assert f"Did you mean {LITE0}?" in text
    assert "Did you mean" not in refusal(Choice("package:"))


def test_a_package_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = replace(package.PACKAGES["efficientnet_lite0"], distribution="no-such-distribution")
    monkeypatch.setattr(package, "PACKAGES", {"absent": absent})
    text = refusal(Choice("package:absent"))
    assert "backbone.url=package:absent" in text
    assert "pip install no-such-distribution" in text


def test_a_package_without_its_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied = replace(package.PACKAGES["efficientnet_lite0"], file="no/such/file.pth")
    monkeypatch.setattr(package, "PACKAGES", {"efficientnet_lite0": emptied})
    text = refusal(Choice(LITE0))
    assert f"backbone.url={LITE0}" in text
    assert "no/such/file.pth is missing" in text


def test_other_weights_than_the_known_ones_are_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = package.PACKAGES["efficientnet_lite0"]
    monkeypatch.setattr(package, "PACKAGES", {"efficientnet_lite0": replace(known, sha256="0" * 64)})
    with pytest.raises(ConfigError) as refused:
        backbones.resolve(Choice(LITE0))
    assert f"backbone.url={LITE0}" in str(refused.value)
    assert known.sha256 in str(refused.value)
    assert "0" * 64 in str(refused.value)
    assert [path.suffix for path in (home / "mlruns" / "cache" / "backbones").iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written_is_named(home: Path) -> None:
    (home / "mlruns").write_text("a file where the folder should be")
    with pytest.raises(FatalError) as failed:
        backbones.resolve(Choice(LITE0))
    assert str(home / "mlruns" / "cache" / "backbones") in str(failed.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("gs://bucket/model", "http and https only"),
        ("file:///models/mine.tar.gz", "http and https only"),
        ("https://", "names no host"),
        ("http://[::1/m.tar.gz", "this is no address"),
        ("http://127.0.0.1:99999/m.tar.gz", "this is no address"),
        ("kaggle:google/inception-v3", "kaggle:OWNER/MODEL/tensorFlow2/VARIATION/VERSION"),
        ("kaggle:google/inception-v3/tensorFlow2/feature-vector/latest", "the version has to be there"),
        ("kaggle:google/inception-v3/tensorFlow2/classification/2", "classifier"),
        ("kaggle:google/inception-v3/tfLite/feature-vector/2", "tfLite is another format"),
        ("kaggle:../x/tensorFlow2/feature-vector/2", "the version has to be there"),
        ("https://www.kaggle.com/models/google/inception-v3", "https://www.kaggle.com/models/OWNER/MODEL/tensorFlow2/"),
        ("https://tfhub.dev/google/imagenet/inception_v3/classification/5", "classifier"),
        ("https://www.kaggle.com/models/google/inception-v3/TfJs/feature-vector/2", "another format"),
    ],
)
def test_handles_of_nothing_usable_are_refused(url: str, reason: str) -> None:
    text = refusal(Choice(url))
    assert f"backbone.url={url}" in text
    assert reason in text


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    text = refusal(Choice("https://bob:hunter2@host/m.tar.gz"))
    assert "recorded" in text
    assert "hunter2" not in text


@pytest.mark.parametrize("url", ["", "/nowhere", "google/efficientnet", "~no-such-user/model", "model\0", "x" * 300])
def test_a_folder_that_is_not_there_is_refused(url: str, home: Path) -> None:
    text = refusal(Choice(url))
    assert f"backbone.url={url}" in text
    assert "package:NAME" in text


def test_a_file_that_is_no_archive_is_refused(home: Path) -> None:
    (home / "model.h5").write_bytes(b"\x89HDF\r\n")
    text = refusal(Choice("model.h5"))
    assert "backbone.url=model.h5: this archive is not taken: it is no tar file" in text
    assert not list((home / "mlruns" / "cache" / "backbones").glob("*[!k]"))


def test_a_folder_without_a_graph_is_refused(home: Path) -> None:
    (home / "model" / "saved_model.pb").mkdir(parents=True)
    text = refusal(Choice("model"))
    assert "backbone.url=model" in text
    assert "saved_model.pb" in text


def test_a_tf1_hub_module_is_refused(home: Path) -> None:
    (write_model(home / "model") / "tfhub_module.pb").write_bytes(b"\x08\x03")
    text = refusal(Choice("model"))
    assert "backbone.url=model" in text
    assert "TF1" in text


def test_a_folder_is_found_from_the_checkout_and_by_its_full_path(home: Path) -> None:
    folder = write_model(home / "model")
    assert backbones.resolve(Choice("model")) == backbones.resolve(Choice(str(folder)))
    assert backbones.resolve(Choice("model")).path == folder


def test_the_digest_says_what_a_model_computes(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    digest = saved_model.content_digest(folder)
    assert len(digest) == 64

    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    os.utime(copy / "saved_model.pb", (0, 0))
    (copy / "README.md").write_text("where it came from")
    (copy / "fingerprint.pb").write_bytes(b"random")
    assert saved_model.content_digest(copy) == digest

    (copy / "saved_model.pb").write_bytes(b"\x08\x02")
    assert saved_model.content_digest(copy) != digest
    (copy / "saved_model.pb").write_bytes(NO_GRAPH)
    (copy / "assets" / "words.txt").rename(copy / "assets" / "Words.txt")
    assert saved_model.content_digest(copy) != digest


def test_a_pinned_digest_is_compared(home: Path) -> None:
    digest = saved_model.content_digest(write_model(home / "model"))
    assert backbones.resolve(Choice("model", sha256=digest.upper())).sha256 == digest
    backbones.check(Choice("model", sha256=digest))
    for url, found in (("model", digest), (LITE0, package.digest("efficientnet_lite0"))):
        text = refusal(Choice(url, sha256="f" * 64))
        assert f"backbone.sha256={'f' * 64}" in text
        assert found in text


def test_the_digest_of_lite0_is_the_same_everywhere() -> None:
    """Recorded in runs and caches: another value means another backbone, and CONVERSION has to be raised."""
    assert package.digest("efficientnet_lite0") == "758f730bb616999b039048eb4171daacb413d6762098b827422b502c5e67a53f"
