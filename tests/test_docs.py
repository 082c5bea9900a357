"""The documents say what is there: every option, every backbone, and the YAML that they show."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from tests.conftest import backbone_at, run_command

from graft.backbones import listing
from graft.paths import CHECKOUT
from hydra_plugins.graft.config import (
    GraftLauncherConf,
    GraftRayLauncherConf,
    GraftSlurmLauncherConf,
    GraftSweeperConf,
)

TEXT = (CHECKOUT / "docs" / "sweeps.md").read_text()


def section(title: str) -> str:
    return TEXT.split(f"## {title}\n")[1].split("\n## ")[0]


def named_in(part: str) -> set[str]:
    rows = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_every_option_is_explained_and_no_other() -> None:
    for title, conf, apart in (
        ("Options of `hydra.sweeper`", GraftSweeperConf, {"params"}),
        ("Options of `hydra.launcher`", GraftLauncherConf, set()),
        ("Options of `hydra.launcher` with `hydra/launcher=graft_ray`", GraftRayLauncherConf, set()),
        ("Options of `hydra.launcher` with `hydra/launcher=graft_slurm`", GraftSlurmLauncherConf, set()),
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
    small = ["+size=smoke", "epochs=1", *backbone_at(tiny_backbone), "hydra.sweeper.n_trials=2"]
    command = ["python", "train.py", "--config-dir", str(tmp_path / "conf"), "+mine=example", *small]
    done = run_command(command, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 trials" in done.stdout


BACKBONES = (CHECKOUT / "docs" / "backbones.md").read_text()


def test_every_backbone_is_in_its_table_with_its_numbers() -> None:
    rows = [line.split("|")[1:-1] for line in BACKBONES.split("\n## ")[0].splitlines() if line.startswith("| `")]
    listed = {
        name: (int(pixels), int(features.replace(",", "")))
        for names, _, pixels, features in rows
        for name in re.findall(r"`(\w+)`", names)
    }
    assert listed == {option.name: (option.input_size, option.feature_width) for option in listing.options()}


def test_the_backbone_of_the_example_is_one(tmp_path: Path) -> None:
    example = re.search(r"```yaml\n# conf/backbone/mine.yaml\n(.*?)```", BACKBONES, re.DOTALL)
    assert example is not None
    (tmp_path / "mine.yaml").write_text(example.group(1))
    (tmp_path / "custom.yaml").write_text((CHECKOUT / "conf" / "backbone" / "custom.yaml").read_text())
    (mine,) = listing.options(tmp_path)
    assert (mine.url, mine.input_size, mine.value_range) == ("/models/mine.tar.gz", 224, (-1.0, 1.0))


def test_every_exercise_is_answered_with_experiments_and_pictures_that_are_there() -> None:
    page = (CHECKOUT / "docs" / "chapter.md").read_text()
    assert [int(number) for number in re.findall(r"^\*\*(\d+)\. ", page, re.MULTILINE)] == list(range(1, 18))
    experiments = {file.stem for file in (CHECKOUT / "experiments").glob("*.yaml")}
    named = set(re.findall(r"experiments[=/](\w+)", page)) | set(re.findall(r"experiment NAME=(\w+)", page))
    assert named == experiments - {"chapter"}  # whose own numbers are the chapter's
    for picture in re.findall(r"\]\(([\w/.-]+)\)", page):
        assert (CHECKOUT / "docs" / picture).is_file()


def test_every_experiment_is_in_the_table_of_the_readme() -> None:
    table = (CHECKOUT / "README.md").read_text().split("| `experiments=` |")[1].split("\n\n")[0]
    assert named_in(table) == {file.stem for file in (CHECKOUT / "experiments").glob("*.yaml")}
