"""`python train.py` as it is typed: exit statuses, words, and what is not imported on the way there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import Command, run_command

from graft.paths import CHECKOUT

WRONG = {
    "learning_rat=1": ["learning_rat=1: there is no such key; did you mean learning_rate?"],
    "dropout_rate=1.5 head_width=-3": ["dropout_rate=1.5", "head_width=-3"],
    "backbone=eficientnet_lite0": ["backbone=eficientnet_lite0: allowed are", "did you mean efficientnet_lite0?"],
    "dataset=image_folder dataset.path=/nowhere": ["dataset.path=/nowhere: there is no folder"],
    "epochs=0": ["epochs=0: allowed is a whole number from 1"],
    "trainable=true,false": ["-m", "python train.py -m trainable=true,false"],
    "experiments=dropuot": ["experiments=dropuot: allowed are", "did you mean dropout?"],
    "learning_rat=1 backbone=lite epoch=3": ["learning_rate?", "backbone=lite", "did you mean epochs?"],
    "momentum=0.9 optimizer=sgd": ["momentum=0.9: there is no such key; did you mean optimizer.momentum?"],
    "head.dropout=0.3": ["head.dropout=0.3: there is no such key; did you mean dropout_rate?"],
    "hydra.launcher.slot=3": ["hydra.launcher.slot=3: there is no such key; did you mean hydra.launcher.slots?"],
    "hydra.swep.dir=x": ["hydra.swep.dir=x: there is no such key; did you mean hydra.sweep.dir?"],
    "optimiser=sgd": ["optimiser=sgd: there is no such key; did you mean optimizer?"],
    "epochs": ["epochs"],
    "trainable=shuffle()": ["trainable=shuffle(): this is no override", "nothing to choose from"],
    "-m trainable=shuffle()": ["trainable has no values: trainable=shuffle() matches nothing"],
    "trainable=[": ["trainable=["],
    "epochs=" + "9" * 5_000: ["999: this is no override", "4300 digits"],
    "epochs=" + "[" * 500 + "]" * 500: ["epochs=[[[[", "nested too deeply to be read"],
    "-m learning_rat=1,2": ["learning_rat", "did you mean learning_rate?"],
    "-m head.dropout=0.3,0.4": ["head.dropout: there is no such key; did you mean dropout_rate?"],
    "-m backbone=resnet,digits_cnn": ["backbone=resnet: allowed are custom, ", "did you mean resnet_50?"],
    "-m epochs=0,-1 dropout_rate=0,2": ["epochs=0", "epochs=-1", "dropout_rate=2"],
    "-m experiments=dropuot": ["experiments=dropuot: allowed are", "did you mean dropout?"],
    "backbone.url=package:efficientnet_lite7": ["backbone.url=package:efficientnet_lite7", "efficientnet_lite0"],
    "backbone=null": ["backbone=null: allowed are custom, digits_cnn, efficientnet_lite0, "],
    r"""-m seed=1,2 hydra.sweeper.study_name="it's\"best\"" """: [
        """hydra.sweeper.study_name=it's"best": MLflow cannot search for what has both kinds of quotation marks""",
    ],
    r"-m seed=1,2 hydra.job.name='a\\'": ["hydra.job.name=a\\: MLflow cannot search for what ends with a backslash"],
    "tracking.artifacts=/dev/null/x": ["tracking.artifacts=/dev/null/x: /dev/null is no folder; allowed is a folder"],
    "-m seed=1,2 tracking.artifacts=/dev/null/x": ["tracking.artifacts=/dev/null/x: /dev/null is no folder"],
    "dataset=[true]": ["dataset=[true]: allowed are digits, "],
    "-m dataset=choice([true])": ["dataset", "allowed are digits, "],
    "size=smoke": ["size=smoke: there is no such key; did you mean +size=smoke?"],
    "+size=smoke hydra.run.dir=/proc/x": ["/proc/x: No such file or directory. Allowed is a place where you may make"],
    "backbone.url=/nowhere": ["backbone.url=/nowhere"],
    "backbone=custom": ["backbone.url is not set", "a TF Hub or Kaggle handle"],
    "-m backbone=inception_v3,efficientnet_lite0,digits_cnn backbone.require_sha256=true": [
        "backbone.require_sha256=true: backbone.url=https://tfhub.dev/google/tf2-preview/inception_v3/feature_vector/4",
        "graft backbones https://tfhub.dev/google/tf2-preview/inception_v3/feature_vector/4 prints",
        "(in backbone=inception_v3)",
        "backbone.url=trained:digits",
        "(in backbone=digits_cnn)",
    ],
    "backbone=inception_v3 backbone.url=gs://bucket/m": ["backbone.url=gs://bucket/m", "http and https only"],
}


@pytest.mark.parametrize("typed", WRONG, ids=lambda typed: typed[:60])
def test_a_mistake_gets_status_2_and_the_right_name(train: Command, home: Path, typed: str) -> None:
    done = train(*typed.split())
    assert done.returncode == 2, done.stderr
    for text in WRONG[typed]:
        assert text in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "tensorflow" not in (done.stderr + done.stdout).lower()
    assert not (home / "mlruns" / "mlflow.db").exists()
    assert not (home / "mlruns" / "optuna.journal").exists()


def test_a_mistake_beside_a_file_of_ones_own_is_the_only_one(train: Command, tmp_path: Path) -> None:
    (tmp_path / "a folder" / "head").mkdir(parents=True)
    (tmp_path / "a folder" / "head" / "wide.yaml").write_text("# @package _global_\nhead_width: 1024\n")
    done = train("--config-dir", "a folder", "head=wide", "epochss=3", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["epochss=3: there is no such key; did you mean epochs?"]
    assert "wide; did you mean wide?" in train("--config-dir", "a folder", "head=wid", cwd=tmp_path).stderr


def test_it_works_from_another_working_directory(train: Command, tmp_path: Path) -> None:
    done = train("learning_rat=1", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean learning_rate?" in done.stderr


@pytest.mark.parametrize(
    "flag",
    [
        ["--help"],
        ["--cfg", "job"],
        ["--cfg", "job", "epochs=3"],
        ["learning_rat=1"],
        ["epochs=0"],
        ["backbone=inception_v3", "backbone.require_sha256=true"],
    ],
)
def test_neither_tensorflow_nor_mlflow_is_imported_before_a_configuration_is_accepted(
    home: Path, flag: list[str]
) -> None:
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['train.py', *{flag!r}]\n"
        "try:\n"
        f"    runpy.run_path({str(CHECKOUT / 'train.py')!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('HEAVY', [m for m in ('tensorflow', 'tf_keras', 'mlflow', 'optuna') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=CHECKOUT, check=False)
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stdout + done.stderr


def test_help_lists_the_groups_and_the_keys(train: Command) -> None:
    done = train("--help")
    assert done.returncode == 0
    for text in (
        "backbone: custom, digits_cnn, efficientnet_lite0",
        "experiments: accuracy_vs_time, backbones, chapter, dropout",
        "trainable: false",
        "python train.py -m",
    ):
        assert text in done.stdout


def test_a_folder_for_a_sweep_that_cannot_be_made_is_named(train: Command) -> None:
    done = train("-m", "seed=0,1", "hydra.sweep.dir=/proc/x")
    assert done.returncode == 2
    assert "/proc/x: No such file or directory. Allowed is a place where you may make folders" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_error(home: Path) -> None:
    done = run_command(["sh", "-c", "python train.py --help | head -1"], home)
    assert done.returncode == 0
    assert done.stdout.startswith("Graft trains")
    assert done.stderr == ""
