"""Hydra's own suite over our launcher, and our sweeper over every launcher there is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest
from hydra import version
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, LauncherTestSuite
from optuna.trial import TrialState
from tests.sweep.apps import App

# Hydra's suites run example configurations without a version, and log from processes of their own.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*:pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def hydra_1_1(hydra_restore_singletons: None) -> None:
    """The version whose behaviour Hydra's suites expect: a job's folder is its working directory."""
    version.setbase("1.1")


@pytest.mark.usefixtures("hydra_1_1")
@pytest.mark.parametrize(("launcher_name", "overrides"), [("graft", ["hydra.launcher.slots=2"])])
class TestGraftLauncher(LauncherTestSuite):
    """What Hydra asks of every launcher, under Hydra's basic sweeper."""


@pytest.mark.usefixtures("hydra_1_1")
@pytest.mark.parametrize(
    ("launcher_name", "overrides"),
    [("graft", ["hydra/sweeper=basic", "hydra.sweeper.max_batch_size=2", "hydra.launcher.slots=2"])],
)
class TestGraftLauncherInBatches(BatchedSweeperTestSuite):
    """The same for a sweeper that launches several batches."""


LAUNCHERS = {
    "graft": ["hydra/launcher=graft", "hydra.launcher.slots=2"],
    "graft fresh": ["hydra/launcher=graft", "hydra.launcher.fresh_process=true"],
    "ray": ["hydra/launcher=graft_ray"],
    "slurm local": ["hydra/launcher=graft_slurm", "hydra.launcher.cluster=local", "hydra.launcher.slots=2"],
    "slurm": ["hydra/launcher=graft_slurm", "hydra.launcher.slots=2"],
    "basic": ["hydra/launcher=basic"],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=2"],
}

CONFORMING_APP = """
    import json, math, os, sys
    import hydra
    from graft import trial

    @hydra.main(version_base=None, config_path=".", config_name="config")
    def main(config):
        now = trial.current()
        with open("log", "a") as log:
            fields = [now.sweep, now.number, now.attempt, now.directory.name, config.x, os.getpid()]
            log.write(json.dumps(fields) + "\\n")
        for step in range(4):
            trial.report(step, config.x * (step + 1))
            if trial.should_stop():
                return -1.0
        match config.x:
            case 3: raise ValueError("three")
            case 4: return math.nan
            case 5: return "five"
            case 6: sys.exit(6)
        return config.x

    if __name__ == "__main__":
        main()
"""


@pytest.fixture
def conforming(make_app: Callable[[str], App]) -> App:
    app = make_app(CONFORMING_APP)
    (app.folder / "config.yaml").write_text("x: 0\n")
    return app


@pytest.fixture(params=LAUNCHERS)
def launcher(request: pytest.FixtureRequest, conforming: App) -> list[str]:
    overrides = LAUNCHERS[request.param]
    if request.param == "ray":
        nodes, address = request.getfixturevalue("one_ray_node")
        conforming.environment |= nodes.environment
        overrides = [*overrides, f"hydra.launcher.address={address}"]
    if request.param.startswith("slurm"):
        pytest.importorskip("submitit", reason="submitit is not installed")
    if request.param == "slurm":
        conforming.environment |= request.getfixturevalue("slurm").environment
    return overrides


def test_every_launcher_gives_the_same_outcomes(conforming: App, launcher: list[str]) -> None:
    # joblib loses the whole batch to a job that exits, and a batch of two is retried with its neighbour.
    cells = "1,2,3,4,5" if "hydra/launcher=joblib" in launcher else "1,2,3,4,5,6"
    done = conforming.run(f"x={cells}", "hydra.sweep.dir=swept", "hydra.sweeper.study_name=s", *launcher)
    assert done.status == 1, done.err
    assert "Traceback" not in done.err
    trials = conforming.study().trials
    told = [(t.params["x"], t.state, t.user_attrs.get("graft.failure"), t.values) for t in trials]
    expected = [
        (1, TrialState.COMPLETE, None, [1]),
        (2, TrialState.COMPLETE, None, [2]),
        (3, TrialState.FAIL, "ValueError", None),
        (4, TrialState.FAIL, "diverged", None),
        (5, TrialState.FAIL, "no_value", None),
        (6, TrialState.FAIL, "SystemExit", None),
    ]
    assert told == expected[: len(told)]
    assert [t.intermediate_values for t in trials[:2]] == [{0: 1, 1: 2, 2: 3, 3: 4}, {0: 2, 1: 4, 2: 6, 3: 8}]
    notes = sorted(json.loads(line)[:5] for line in conforming.lines())
    assert notes == [["s", n, 0, str(n), n + 1] for n in range(len(trials))]
    for number in range(len(trials)):
        assert (conforming.folder / "swept" / str(number) / ".hydra" / "config.yaml").exists()


def test_every_launcher_prunes(conforming: App, launcher: list[str]) -> None:
    done = conforming.run(
        "x=tag(sampled,choice(1,2))", "hydra.sweeper.n_trials=6", "hydra.sweeper.direction=maximize",
        "hydra.sweeper.seed=1", "hydra.sweeper.pruner={name: median, n_startup_trials: 1}", *launcher,
    )  # fmt: skip
    assert done.status == 0, done.err
    states = Counter(trial.state for trial in conforming.study().trials)
    assert states[TrialState.PRUNED] >= 1
    assert sum(states.values()) == 6


def test_every_launcher_resumes(conforming: App, launcher: list[str]) -> None:
    command = ["hydra.sweeper.study_name=s", "hydra.sweeper.seed=1", "x=int(interval(10,20))", *launcher]
    for n_trials in (2, 4):
        done = conforming.run(*command, f"hydra.sweeper.n_trials={n_trials}")
        assert done.status == 0, done.err
        assert len(conforming.lines()) == n_trials
    assert [trial.state for trial in conforming.study().trials] == [TrialState.COMPLETE] * 4


def test_a_worker_is_warm_unless_a_fresh_process_is_asked_for(conforming: App) -> None:
    for options, workers in (
        ([], 1),
        (["hydra.launcher.recycle_after_trials=2"], 2),
        (["hydra.launcher.recycle_above_gib=0.001"], 4),
        (["hydra.launcher.fresh_process=true"], 4),
    ):
        before = len(conforming.lines())
        assert conforming.run("x=7,8,9,10", *options).status == 0
        pids = [json.loads(line)[5] for line in conforming.lines()[before:]]
        assert len(set(pids)) == workers, options
