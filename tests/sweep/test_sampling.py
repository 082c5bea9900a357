"""Sampled and mixed spaces, samplers and pruners, in real sweeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from optuna.trial import TrialState
from tests.sweep.apps import App


def test_a_mixed_space_has_a_study_for_each_cell(app: App) -> None:
    done = app.run(
        "x=1,2,3", "head_width=1,2,3,4", "y=interval(0,1)", "hydra.sweeper.n_trials=5",
        "hydra.sweeper.study_name=mixed", "hydra.launcher.slots=2",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert "60 trials (12 cells, 5 trials in each sampled one)" in done.out
    assert "draws its first 10 at random" in done.out
    cells = [name for name in app.studies() if name != "mixed"]
    assert len(cells) == 12
    assert "mixed/x=2,head_width=3" in cells
    numbers = []
    for name in cells:
        trials = app.study(name).trials
        assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 5
        assert len({trial.params["y"] for trial in trials}) == 5
        numbers += [trial.user_attrs["graft.number"] for trial in trials]
    assert sorted(numbers) == list(range(60))
    assert app.study("mixed").trials == []
    assert len(app.lines()) == 60


def test_params_in_yaml_with_overrides_on_top(app: App) -> None:
    done = app.run(
        "+hydra.sweeper.params.x='1,2'",
        "+hydra.sweeper.params.head_width='7,8'",
        "head_width=9",
    )
    assert done.status == 0, done.err
    assert [line.split()[0:3:2] for line in app.lines()] == [["1", "9"], ["2", "9"]]


def test_a_seed_makes_the_same_sweep_again(app: App) -> None:
    for name in ("one", "two"):
        assert app.run(
            "y=interval(0,1)", "hydra.sweeper.n_trials=4", "hydra.sweeper.seed=3", f"hydra.sweeper.study_name={name}"
        ).status == 0  # fmt: skip
    drawn = [[trial.params["y"] for trial in app.study(name).trials] for name in ("one", "two")]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 4


@pytest.mark.parametrize("sampler", ["QMCSampler", "{name: TPE, n_startup_trials: 2}", "NSGAIISampler"])
def test_samplers_by_name(app: App, sampler: str) -> None:
    done = app.run(
        "y=interval(0,1)", "hydra.sweeper.n_trials=4", "hydra.sweeper.seed=1", f"hydra.sweeper.sampler={sampler}"
    )
    assert done.status == 0, done.out + done.err
    assert len({trial.params["y"] for trial in app.study().trials}) == 4


def test_several_objectives_have_a_front(make_app: Callable[[str], App]) -> None:
    app = make_app("""
        import hydra

        @hydra.main(version_base=None)
        def main(config):
            return {"loss": config.x, "seconds": (config.x - 2) ** 2, "name": "ignored"}

        if __name__ == "__main__":
            main()
    """)
    done = app.run(
        "+x=0,1,2,3", "hydra.sweeper.direction=[minimize,minimize]", "hydra.sweeper.objective=[loss,seconds]"
    )
    assert done.status == 0, done.err
    assert [trial.values for trial in app.study().trials] == [[0, 4], [1, 1], [2, 0], [3, 1]]
    assert "Among the best: #1 loss=1 seconds=1 with +x=1" in done.out
    assert "#3" not in done.out.split("Sweep app")[-1]


LEARNING_APP = """
    import json
    import hydra
    from graft import trial

    # Trials with a low rate learn slowly: a pruner sees that after a step, the last one does not matter.
    @hydra.main(version_base=None, config_path=".", config_name="config")
    def main(config):
        value = 0.0
        for step in range(6):
            value = config.rate * (step + 1)
            trial.report(step, value, images_per_second=100.0)
            if trial.should_stop():
                break
        with open("log", "a") as log:
            log.write(json.dumps([trial.current().number, config.kind, config.rate, step]) + "\\n")
        return value

    if __name__ == "__main__":
        main()
"""


@pytest.fixture
def learner(make_app: Callable[[str], App]) -> App:
    app = make_app(LEARNING_APP)
    (app.folder / "config.yaml").write_text("rate: 1.0\nkind: frozen\n")
    return app


PRUNED = "hydra.sweeper.pruner={name: median, n_startup_trials: 1}"


def test_a_pruner_stops_the_worse_and_the_reports_are_kept(learner: App) -> None:
    done = learner.run(
        "rate=tag(sampled,choice(3,1,2))", "hydra.sweeper.n_trials=8", "hydra.sweeper.direction=maximize",
        "hydra.sweeper.seed=1", PRUNED, "hydra.sweeper.study_name=s",
    )  # fmt: skip
    assert done.status == 0, done.err
    trials = learner.study("s").trials
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert pruned
    best = max(trial.params["rate"] for trial in trials)
    assert all(trial.params["rate"] < best for trial in pruned)
    assert all(len(trial.intermediate_values) < 6 for trial in pruned)
    assert all(len(t.intermediate_values) == 6 for t in trials if t.state == TrialState.COMPLETE)
    assert f"{len(pruned)} pruned" in done.out


def test_a_pruner_compares_within_a_cell_only(learner: App) -> None:
    # Every fine-tuned trial is worse than every frozen one, and all of a kind are equal.
    (learner.folder / "config.yaml").write_text(
        "rate: 1.0\nkind: frozen\n"
        "defaults: [_self_, {override hydra/sweeper: graft}]\n"
        "hydra:\n  sweeper:\n    params:\n      kind: frozen,tuned\n      rate:\n"
        "        kind=frozen: tag(sampled, choice(9))\n"
        "        otherwise: tag(sampled, choice(1))\n"
    )
    done = learner.run("hydra.sweeper.n_trials=4", "hydra.sweeper.direction=maximize", PRUNED)
    assert done.status == 0, done.err
    assert "0 pruned" in done.out
    assert len(learner.lines()) == 8


def test_on_a_grid_a_pruner_has_nothing_to_compare_and_says_so(learner: App) -> None:
    done = learner.run("rate=9,1,2,3", "hydra.sweeper.direction=maximize", PRUNED)
    assert done.status == 0, done.err
    assert "each cell of a grid has one" in done.out
    assert "0 pruned" in done.out


@pytest.mark.parametrize(
    "pruner",
    [
        "hyperband",
        "{name: PatientPruner, patience: 1, wrapped_pruner: median}",
        "{name: Percentile, percentile: 50.0, n_startup_trials: 1}",
        "SuccessiveHalving",
        "{name: threshold, lower: 1.5}",
        "Wilcoxon",
    ],
)
def test_every_pruner_works(learner: App, pruner: str) -> None:
    done = learner.run(
        "rate=tag(sampled,choice(3,1,2))", "hydra.sweeper.n_trials=4", "hydra.sweeper.direction=maximize",
        f"hydra.sweeper.pruner={pruner}",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert "could not ask the pruner" not in done.out
    assert len(learner.lines()) == 4


def test_reports_outside_a_sweep_do_nothing(learner: App) -> None:
    assert learner.run(sweeping=False).status == 1  # trial.current() is None there
    assert not learner.journal.exists()


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("seed=-1", "hydra.sweeper.seed=-1 is not allowed. Allowed: a whole number from 0 and below 2^32, or null"),
        ("seed=4294967296", "hydra.sweeper.seed=4294967296 is not allowed"),
        ("params=false", "hydra.sweeper.params=False is not allowed. Allowed: keys and what they are"),
    ],
)
def test_options_that_would_fail_later_are_refused(app: App, option: str, told: str) -> None:
    done = app.run("x=1,2", f"hydra.sweeper.{option}")
    assert done.status == 2
    assert told in done.err
    assert "Traceback" not in done.err
