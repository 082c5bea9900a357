"""The promise as a whole: runs of every kind, run again in a new process, in a used one, and two at once, are exact."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from tests.conftest import backbone_at, run_command
from tests.sweep.apps import LONG

from graft.paths import CHECKOUT

pytestmark = pytest.mark.skipif(not LONG, reason="trains some fifty times, for half an hour; GRAFT_LONG=1 runs it")

DIGITS = ["dataset.max_images=120", "dataset.image_size=32", "epochs=2"]
KINDS = {
    "frozen, cached, digits": [*DIGITS],
    "frozen, live, digits": [*DIGITS, "features=live"],
    "frozen, dropout, digits": [*DIGITS, "dropout_rate=0.4", "seed=3"],
    "fine-tuned, digits": [*DIGITS, "trainable=true"],
    "fine-tuned, dropout, sgd, digits": [*DIGITS, "trainable=true", "dropout_rate=0.4", "optimizer=sgd"],
    "fine-tuned from a probe, digits": [*DIGITS, "trainable=true", "init_head=probe"],
    "frozen, augmented, photos": ["PHOTOS", "augment=flip"],
    "fine-tuned, augmented, dropout, photos": ["PHOTOS", "trainable=true", "augment=standard", "dropout_rate=0.2"],
    "frozen, cached by XNNPACK, photos": ["PHOTOS", "features.engine=xnnpack"],
    "another backbone, frozen, photos": ["PHOTOS", "TINY"],
    "another backbone, fine-tuned, augmented, photos": ["PHOTOS", "TINY", "trainable=true", "augment=standard"],
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Path, photos: Path) -> tuple[Path, list[str]]:
    """Eleven runs of their own, each from a process of its own, and the tenth trial of a warm worker."""
    home = tmp_path_factory.mktemp("promise")
    stand_for = {
        "PHOTOS": ["dataset=image_folder", f"dataset.path={photos}", "dataset.max_images=60", "dataset.image_size=64"],
        "TINY": [*backbone_at(tiny_backbone)],
    }
    for kind, words in KINDS.items():
        overrides = [override for word in words for override in stand_for.get(word, [word])]
        overrides += [] if "epochs=2" in overrides else ["epochs=2"]
        done = run_command(["python", "train.py", *overrides, "tracking.log_model=false"], home)
        assert done.returncode == 0, (kind, done.stderr)
    ten = [
        "-m",
        "trainable=false,true",
        "dropout_rate=0,0.3",
        "head_width=16,64,128",
        *DIGITS,
        "tracking.log_model=false",
    ]
    assert run_command(["python", "train.py", *ten], home).returncode == 0
    client = MlflowClient(f"sqlite:///{home}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("graft")
    assert experiment is not None
    kinds = "tags.`graft.kind` = '{}'"
    single = client.search_runs([experiment.experiment_id], kinds.format("single"))
    trials = client.search_runs([experiment.experiment_id], kinds.format("trial"))
    tenth = next(run for run in trials if run.data.tags["graft.trial"] == "9")
    return home, [run.info.run_id for run in (*single, tenth)]


def start(run_ids: list[str], home: Path) -> subprocess.Popen[str]:
    """One process that runs them again, one after the other."""
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from graft.cli import app\n"
        "for run in sys.argv[1:]:\n"
        "    done = CliRunner().invoke(app, ['rerun', run, '--verify'])\n"
        "    print('VERDICT', run, done.exit_code, flush=True)\n"
        "    done.exit_code and print(done.output, done.exception, flush=True)\n"
    )
    environment = {**os.environ, "GRAFT_HOME": str(home)}
    command = [sys.executable, "-c", program, *run_ids]
    return subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, text=True)


def verdicts(process: subprocess.Popen[str]) -> dict[str, str]:
    output, _ = process.communicate()
    print(output)
    return {line.split()[1]: line.split()[2] for line in output.splitlines() if line.startswith("VERDICT")}


@pytest.mark.timeout(3600)
def test_twelve_runs_are_exact_in_a_process_of_their_own(recorded: tuple[Path, list[str]]) -> None:
    home, runs = recorded
    assert len(runs) == 12
    for run in runs:
        done = run_command(["graft", "rerun", run, "--verify", "--json"], home)
        (said,) = json.loads(done.stdout)
        print(said["name"], said["verified"], said["numbers"])
        assert (done.returncode, said["exact"]) == (0, True), said


@pytest.mark.timeout(3600)
def test_twelve_runs_are_exact_one_after_the_other_in_one_process(recorded: tuple[Path, list[str]]) -> None:
    home, runs = recorded
    shuffled = random.Random(0).sample(runs, len(runs))
    assert verdicts(start(shuffled, home)) == dict.fromkeys(shuffled, "0")


@pytest.mark.timeout(3600)
def test_twelve_runs_are_exact_two_at_once(recorded: tuple[Path, list[str]]) -> None:
    home, runs = recorded
    both = [start(half, home) for half in (runs[:6], runs[6:])]
    found = [verdicts(process) for process in both]
    assert found == [dict.fromkeys(half, "0") for half in (runs[:6], runs[6:])]
