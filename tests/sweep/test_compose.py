"""Composing once for each combination of groups gives what Hydra gives."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir, version
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from graft.sweep.compose import Composer, job_directory
from graft.sweep.overrides import read_space

FILES = {
    "config.yaml": """
        defaults: [_self_, {model: small}, {optimizer@training.optimizer: adam}, {extra: null}]
        x: 1
        doubled: ${times_two:${x}}
        folder: ${hydra:job.num}
        when: ${now:%f}
        nested: {a: 1, b: {c: [1, 2, 3]}}
        home: ${oc.env:HOME}
        hydra: {sweep: {dir: swept, subdir: "${hydra.job.num}-${hydra.job.override_dirname}"}}
    """,
    "model/small.yaml": "width: 8\nname: small",
    "model/large.yaml": "width: 64\nname: large\ndepth: 3\ndropout: ${x}",
    "optimizer/adam.yaml": "lr: 0.1",
    "optimizer/sgd.yaml": "lr: 0.5\nmomentum: 0.9",
    "extra/more.yaml": "# @package _global_\nx: 5\nmore: true",
}


@pytest.fixture
def loader(tmp_path: Path, hydra_restore_singletons: None) -> Iterator[ConfigLoader]:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(
            "\n".join(line.strip() if name == "config.yaml" else line for line in text.splitlines())
        )
    OmegaConf.register_new_resolver("times_two", lambda x: 2 * x, replace=True)
    with initialize_config_dir(str(tmp_path), version_base="1.3", job_name="app"):
        yield GlobalHydra.instance().config_loader()
    OmegaConf.clear_resolver("times_two")


def master_of(loader: ConfigLoader, overrides: list[str]) -> DictConfig:
    return loader.load_configuration("config", overrides, RunMode.MULTIRUN)


def as_hydra_does(loader: ConfigLoader, master: DictConfig, overrides: list[str], number: int) -> DictConfig:
    """What BasicLauncher composes."""
    config = loader.load_sweep_config(master, overrides)
    with open_dict(config):
        config.hydra.job.id = number
        config.hydra.job.num = number
    return config


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["x=3"],
        ["model=large"],
        ["x=3", "model=large", "model.width=5"],
        ["model.width=5", "model=large", "x=2"],
        ["model.dropout=0.5", "model=large"],
        ["optimizer@training.optimizer=sgd", "training.optimizer.momentum=0.1"],
        ["extra=more", "x=9"],
        ["+new=1", "++x=7", "~nested.b"],
        ["nested.b.c=[4,5]", "nested={a:2}", "+nested.d=3"],
        ["nested={a:2,b:{c:[]}}", "nested.a=9"],
        ["x='a,b'", 'model.name="q\'uote"'],
        ["~model"],
        ["model=small", "x=null"],
    ],
)
def test_it_equals_hydras_own(loader: ConfigLoader, overrides: list[str]) -> None:
    master = master_of(loader, ["hydra.job.chdir=true", *overrides])
    assert master.when  # resolved by the sweep, so all jobs must have the same
    compose = Composer(loader, master)
    for number in (0, 7):  # the second time from the cache
        ours = compose(overrides, number)
        theirs = as_hydra_does(loader, master, overrides, number)
        assert OmegaConf.to_yaml(ours) == OmegaConf.to_yaml(theirs)
        assert OmegaConf.is_struct(ours) == OmegaConf.is_struct(theirs)
        assert ours.when == theirs.when == master.when


def test_jobs_do_not_share_what_they_change(loader: ConfigLoader) -> None:
    compose = Composer(loader, master_of(loader, []))
    first = compose(["x=1"], 0)
    with open_dict(first):
        first.nested.b.c.append(9)
        first.model.width = 1
    second = compose(["x=2"], 1)
    assert second.nested.b.c == [1, 2, 3]
    assert (second.x, second.doubled, second.model.width) == (2, 4, 8)


def test_it_composes_once_for_each_combination_of_groups(loader: ConfigLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    composed: list[list[str]] = []
    original = type(loader).load_sweep_config

    def counting(self: ConfigLoader, master: DictConfig, overrides: list[str]) -> DictConfig:
        composed.append(overrides)
        return original(self, master, overrides)

    monkeypatch.setattr(type(loader), "load_sweep_config", counting)
    compose = Composer(loader, master_of(loader, []))
    for number in range(20):
        compose([f"model={'large' if number % 2 else 'small'}", f"x={number}"], number)
    assert composed == [["model=small"], ["model=large"]]


@pytest.mark.parametrize("overrides", [["unknown=1"], ["model=huge"], ["+x=1"], ["~nowhere"]])
def test_it_refuses_what_hydra_refuses(loader: ConfigLoader, overrides: list[str]) -> None:
    master = master_of(loader, [])
    with pytest.raises(HydraException):
        as_hydra_does(loader, master, overrides, 0)
    with pytest.raises(HydraException):
        Composer(loader, master)(overrides, 0)


def test_the_folder_of_a_job(loader: ConfigLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    master = master_of(loader, [])
    assert version.base_at_least("1.3")
    assert job_directory(Composer(loader, master)(["x=3"], 4)) == tmp_path / "swept" / "4-x=3"
    resumed = Composer(loader, master, sweep_directory=Path("/elsewhere"))(["x=3"], 4)
    assert job_directory(resumed) == Path(os.sep, "elsewhere", "4-x=3")
    with_resolver = master_of(loader, ["hydra.sweep.subdir='job-${hydra:job.num}'"])
    assert job_directory(Composer(loader, with_resolver)([], 4)) == tmp_path / "swept" / "job-4"


def test_glob_stands_for_the_options_of_a_group(loader: ConfigLoader) -> None:
    space = read_space(["model=glob(*,exclude=lar*)", "x=1"], {"extra": "glob(*)"}, n_trials=None, config_loader=loader)
    assert [cell.overrides({}) for cell in space.cells] == [["extra=more", "model=small", "x=1"]]
