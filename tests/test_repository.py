"""What must hold of the repository itself."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from graft.paths import CHECKOUT


def tracked() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    return [CHECKOUT / name for name in names.split("\0") if name]


def test_locks_hold_versions_and_hashes_and_no_address() -> None:
    for lock in CHECKOUT.glob("requirements*.lock"):
        text = lock.read_text()
        assert "://" not in text, lock.name
        assert "--index" not in text
        assert "--find-links" not in text
        requirements = re.split(r"\n(?=\S)", text.strip())
        assert len(requirements) > 100
        for requirement in requirements:
            assert re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+", requirement), requirement
            assert "--hash=sha256:" in requirement


def test_the_lock_satisfies_what_the_project_asks_for() -> None:
    import tomllib

    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    locked = {
        re.match(r"[\w.-]+", line).group().lower()
        for line in (CHECKOUT / "requirements.lock").read_text().splitlines()
        if "==" in line
    }  # type: ignore[union-attr]
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        name = re.match(r"[\w.-]+", requirement)
        assert name is not None
        assert name.group().lower().replace("_", "-") in {entry.replace("_", "-") for entry in locked}


def test_neither_photos_nor_records_are_tracked() -> None:
    names = [str(path.relative_to(CHECKOUT)) for path in tracked()]
    assert [name for name in names if name.startswith("mlruns/")] == ["mlruns/README.md"]
    assert not [name for name in names if name.lower().endswith((".jpg", ".jpeg"))]
    assert "uv.lock" not in names


@pytest.mark.parametrize("group", ["backbone", "dataset", "features", "head", "loop", "optimizer", "tracking", "size"])
def test_every_option_says_what_it_is(group: str) -> None:
    for file in (CHECKOUT / "conf" / group).glob("*.yaml"):
        comments = [line for line in file.read_text().splitlines() if line.startswith("# ") and "@package" not in line]
        assert comments, file.name
        assert "TODO" not in file.read_text(), file.name


def test_experiments_are_a_config_group_and_trainable_is_none() -> None:
    assert (CHECKOUT / "conf" / "experiments").resolve() == CHECKOUT / "experiments"
    assert not (CHECKOUT / "conf" / "trainable").exists()


def without_encoding(call: ast.Call) -> bool:
    """Whether a call opens, reads or writes text, or a command's output as text, in the encoding of the locale."""
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    mode = next((each for each in modes if re.fullmatch("[rwax][bt+]*", each)), None)
    if "encoding" in named or "text" in named:
        return "text" in named
    if name in ("open", "fdopen"):
        return mode is not None and "b" not in mode
    return name in ("read_text", "write_text") and not (name == "read_text" and call.args)  # of importlib.metadata


def test_no_text_is_in_the_encoding_of_the_locale() -> None:
    found = [
        f"{file.relative_to(CHECKOUT)}:{node.lineno}"
        for file in [*(CHECKOUT / "src").rglob("*.py"), CHECKOUT / "train.py"]
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and without_encoding(node)
    ]
    assert not found, "give it encoding='utf-8'"


def test_the_sweep_engine_can_be_imported_without_anything_heavy() -> None:
    import sys

    program = (
        "import sys, graft.trial, graft.sweep, hydra_plugins.graft.sweeper, hydra_plugins.graft.launcher\n"
        "import graft.sweep.ray_cluster\n"
        "print([m for m in ('tensorflow', 'mlflow', 'optuna', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
