"""The pages in docs/ say what is there: every option, and the YAML that they show."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from tests.conftest import run_command

from graft.paths import CHECKOUT
from hydra_plugins.graft.config import GraftLauncherConf, GraftSweeperConf

TEXT = (CHECKOUT / "docs" / "sweeps.md").read_text()


def section(title: str) -> str:
    return TEXT.split(f"## {title}")[1].split("\n## ")[0]


def named_in(part: str) -> set[str]:
    rows = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_every_option_is_explained_and_no_other() -> None:
    for title, conf, apart in (
        ("Options of `hydra.sweeper`", GraftSweeperConf, {"params"}),
        ("Options of `hydra.launcher`", GraftLauncherConf, set()),
    ):
        options = {field.name for field in fields(conf) if not field.name.startswith("_")}
        assert named_in(section(title)) == options - apart


def test_every_data_set_is_explained_and_no_other() -> None:
    page = (CHECKOUT / "docs" / "datasets.md").read_text()
    table = page.split("| `dataset=` |")[1].split("\n\n")[0]
    assert named_in(table) == {file.stem for file in (CHECKOUT / "conf" / "dataset").glob("*.yaml")}


def test_the_conditional_space_runs(tiny_backbone: Path, tmp_path: Path) -> None:
    example = re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert example is not None
    (tmp_path / "conf" / "mine").mkdir(parents=True)
    (tmp_path / "conf" / "mine" / "example.yaml").write_text("# @package _global_\n" + example.group(1))
    small = ["+size=smoke", "epochs=1", f"backbone.url={tiny_backbone}", "hydra.sweeper.n_trials=2"]
    command = ["python", "train.py", "--config-dir", str(tmp_path / "conf"), "+mine=example", *small]
    done = run_command(command, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 trials" in done.stdout
