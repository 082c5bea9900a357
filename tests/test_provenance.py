"""Where a result comes from: the commit of a checkout, and what is in no commit yet."""

from __future__ import annotations

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


def test_outside_git_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "CHECKOUT", tmp_path)
    forget()
    try:
        assert provenance.commit() == "unknown"
        assert provenance.uncommitted() == b""
    finally:
        forget()
