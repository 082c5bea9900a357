"""Where a result comes from: the commit of a checkout, and what is in no commit yet."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from graft import provenance


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "code.py").write_text("a = 1\n")
    (tmp_path / "README.md").write_text("words\n")
    for arguments in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=b", "commit", "-qm", "c"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "CHECKOUT", tmp_path)
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    provenance.commit.cache_clear()
    provenance.uncommitted.cache_clear()


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    (checkout / "README.md").write_text("other words, which decide no result\n")
    assert len(provenance.commit()) == 40
    assert provenance.uncommitted() == b""


def test_a_dirty_one_has_a_patch_that_brings_the_code_back(checkout: Path) -> None:
    (checkout / "src" / "code.py").write_text("a = 2\n")
    (checkout / "src" / "new file.py").write_text("b = 3\n")
    (checkout / "src" / "binary").write_bytes(bytes(range(256)))
    assert provenance.commit().endswith("-dirty")
    patch = provenance.uncommitted()
    subprocess.run(["git", "stash", "-uq"], cwd=checkout, check=True)
    assert (checkout / "src" / "code.py").read_text() == "a = 1\n"
    subprocess.run(["git", "apply"], cwd=checkout, check=True, input=patch)
    assert (checkout / "src" / "code.py").read_text() == "a = 2\n"
    assert (checkout / "src" / "new file.py").read_text() == "b = 3\n"
    assert (checkout / "src" / "binary").read_bytes() == bytes(range(256))


def test_a_repository_in_it_and_a_link_to_a_folder_are_no_clean_commit(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "linked.yaml").write_text("learning_rate: 0.1\n")
    (checkout / "src" / "link").symlink_to(elsewhere)
    own = checkout / "src" / "own"
    own.mkdir()
    (own / "nested.yaml").write_text("learning_rate: 0.2\n")
    subprocess.run(["git", "init", "-q"], cwd=own, check=True)
    assert provenance.commit().endswith("-dirty")
    patch = provenance.uncommitted().decode()
    assert "src/link/linked.yaml" in patch
    assert "+learning_rate: 0.1" in patch
    assert "src/own/nested.yaml" in patch
    assert "+learning_rate: 0.2" in patch


def test_what_cannot_be_read_makes_it_dirty_all_the_same(checkout: Path) -> None:
    (checkout / "src" / "lost").symlink_to(checkout / "nowhere")
    os.mkfifo(checkout / "src" / "pipe")
    assert provenance.commit().endswith("-dirty")
    assert provenance.uncommitted()


@pytest.mark.parametrize("setting", ["diff.noprefix=true", "diff.mnemonicPrefix=true", "color.ui=always"])
def test_the_patch_applies_whatever_the_users_settings_are(
    checkout: Path, setting: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path_factory.mktemp("settings") / "gitconfig"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    subprocess.run(["git", "config", "--global", *setting.split("=")], check=True)
    (checkout / "src" / "code.py").write_text("a = 2\n")
    patch = provenance.uncommitted()
    subprocess.run(["git", "checkout", "-q", "."], cwd=checkout, check=True)
    subprocess.run(["git", "apply"], cwd=checkout, check=True, input=patch)
    assert (checkout / "src" / "code.py").read_text() == "a = 2\n"


def test_outside_git_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "CHECKOUT", tmp_path)
    forget()
    try:
        assert provenance.commit() == "unknown"
        assert provenance.uncommitted() == b""
    finally:
        forget()
