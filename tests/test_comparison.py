"""What `graft compare` prints, on narrow terminals and for sweeps in which something went wrong."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from graft.comparison import Comparison, TrialRow, by_key, read, show
from graft.comparison.record import UI
from graft.console import PlainConsole
from graft.errors import ConfigError

FROZEN = TrialRow(
    number=0,
    run_id="0" * 32,
    name="frozen lr=0.001 w=512 d=0",
    state="complete",
    failure=None,
    params={"head_width": "16", "dropout_rate": "0.3", "trainable": "False"},
    best_val_accuracy=0.9375,
    test_accuracy=0.9125,
    overfit_gap=-0.0625,
    epoch_seconds=123.45,
    epoch_seconds_live=130.0,
    cached_features=True,
    trainable_parameters=100,
    checkpoint="somewhere/checkpoints/best",
)


def printed(*trials: TrialRow, width: int = 80, server: str | None = None, **more: Any) -> str:
    console = PlainConsole(file=io.StringIO(), width=width)
    show(Comparison("sweep", "1" * 32, "1", trials, (), ui=server or UI, served=server is not None, **more), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_no_number_is_cut_off_on_a_narrow_terminal() -> None:
    others = [replace(FROZEN, number=n, params={**FROZEN.params, "head_width": str(16 * n)}) for n in (1, 2)]
    last = replace(others[1], params={**others[1].params, "dropout_rate": "0.5"})
    text = printed(FROZEN, others[0], last)
    for number in ("0.9375", "0.9125", "-0.0625", "123.45"):
        assert text.count(number) == 3
    assert "…" not in text


def test_a_trial_that_failed_before_its_params_were_recorded_varies_nothing() -> None:
    failed = replace(FROZEN, number=1, state="failed", failure="ConfigError", params={}, best_val_accuracy=None)
    text = printed(FROZEN, failed)
    assert "failed" in text
    assert "head_width" not in text.split("Best")[0]


def test_the_best_trial_comes_with_the_command_that_proves_it() -> None:
    better = replace(FROZEN, number=1, run_id="f" * 32, best_val_accuracy=0.95)
    assert f"graft rerun {'f' * 32} --verify\n" in printed(FROZEN, better)


def test_a_sweep_that_went_by_another_objective_says_so_and_shows_it() -> None:
    quick, slow = (
        replace(FROZEN, number=number, best_val_accuracy=accuracy, objectives={"total_seconds": seconds})
        for number, accuracy, seconds in ((0, 0.90, 12.5), (1, 0.95, 99.25))
    )
    unfinished = replace(FROZEN, number=2, state="pruned", best_val_accuracy=0.99)
    text = printed(quick, slow, unfinished, width=120, best_trial=0, objectives={"total_seconds": "minimize"})
    assert "Trials, best validation accuracy first" in text
    assert text.index("99.25") < text.index("12.5")  # a column, in the order of the accuracies
    best = "Best       trial 0: frozen lr=0.001 w=512 d=0\n"
    assert f"{best}           chosen by the sweep's objective, total_seconds (minimize) = 12.5, not by valid" in text
    both = {"best_val_accuracy": "maximize", "total_seconds": "minimize"}
    text = printed(quick, slow, width=120, best_trial=0, objectives=both)
    assert "one of those that no other trial beats in all of the sweep's objectives: best_val_accuracy (max" in text
    assert "chosen by another objective of the sweep, not by validation accuracy" in printed(quick, slow, best_trial=0)


@pytest.mark.parametrize("recorded", [{}, {"best_val_accuracy": "maximize"}])
def test_a_sweep_that_went_by_validation_accuracy_needs_no_words_about_it(recorded: dict[str, str]) -> None:
    better = replace(FROZEN, number=1, best_val_accuracy=0.95)
    unfinished = replace(FROZEN, number=2, state="pruned", best_val_accuracy=0.99)
    text = printed(FROZEN, better, unfinished, best_trial=1, objectives=recorded)
    assert "Trials, best first" in text
    assert "chosen by" not in text


def test_pages_that_a_server_shows_need_no_make_ui() -> None:
    assert "Curves     make ui, then http://127.0.0.1:5000/#/metric" in printed(FROZEN)
    for server in ("http://mlflow.example:5000", "http://127.0.0.1:5000"):
        assert f"Curves     {server}/#/metric" in printed(FROZEN, server=server)


def test_a_sweep_that_lost_its_name_is_passed_over() -> None:
    def run(run_id: str, **tags: str) -> Any:
        return SimpleNamespace(
            info=SimpleNamespace(run_id=run_id), data=SimpleNamespace(tags={f"graft.{k}": v for k, v in tags.items()})
        )

    class Store:
        uri, experiment_id, experiment_name = "sqlite:///nowhere.db", "1", "graft"

        def find(self, *, kind: str, **_: str) -> list[Any]:
            return [run("nameless"), run("named", sweep="widths")] if kind == "sweep" else []

    for sweep in (None, "widths", "named"):
        assert read(cast(Any, Store()), sweep).parent_run_id == "named"
    with pytest.raises(ConfigError, match="There is no sweep nameless; the latest are: widths"):
        read(cast(Any, Store()), "nameless")


def swept(*values: tuple[str, str, str, float]) -> Comparison:
    """A sweep by (trainable, seed, head width, test accuracy)."""
    trials = tuple(
        replace(
            FROZEN,
            number=number,
            params={"trainable": trainable, "seed": seed, "head_width": width},
            test_accuracy=accuracy,
            overfit_gap=1 - accuracy,
        )
        for number, (trainable, seed, width, accuracy) in enumerate(values)
    )
    return Comparison("sweep", "1" * 32, "1", trials, ())


WIDTHS = swept(
    ("False", "0", "64", 0.80),
    ("False", "1", "64", 0.90),
    ("False", "0", "8", 0.70),
    ("False", "1", "8", 0.76),
    ("True", "0", "8", 0.5),
)


def test_every_value_of_a_key_has_its_mean_and_interval_over_the_seeds() -> None:
    found = by_key.by_key(WIDTHS, "head_width")
    narrow, wide, fine_tuned = found.levels
    assert [(level.kind, level.value, level.trials) for level in found.levels] == [
        ("frozen", "8", 2),
        ("frozen", "64", 2),
        ("fine-tuned", "8", 1),
    ]
    assert wide.test_accuracy.mean == pytest.approx(0.85)
    # Half of it is t(0.975, 1) = 12.706 times the standard error, which of two values is half of their difference.
    assert wide.test_accuracy.high == pytest.approx(0.85 + 12.706 * 0.05, abs=1e-4)
    assert wide.overfit_gap.mean == pytest.approx(0.15)
    assert narrow.above_first is None
    assert wide.above_first is not None
    # Seed by seed 0.10 and 0.14: the spread of the seeds themselves is not in it.
    assert (wide.above_first.mean, wide.above_first.high) == pytest.approx((0.12, 0.12 + 12.706 * 0.02), abs=1e-4)
    assert (fine_tuned.above_first, fine_tuned.test_accuracy.why_none) == (None, "one seed")
    assert not found.uneven


def test_a_seed_counts_once_however_many_trials_it_has() -> None:
    twice = swept(
        ("False", "0", "8", 0.5), ("False", "1", "8", 0.8), ("False", "1", "8", 0.6), ("False", "0", "9", 0.5)
    )
    assert by_key.by_key(twice, "head_width").levels[0].test_accuracy.mean == pytest.approx(0.6)


def test_a_difference_is_from_trials_that_are_equal_in_everything_else() -> None:
    """A rate at which one optimiser diverged takes nothing from the other."""
    accuracies = {("sgd", "0.1"): None, ("sgd", "0.01"): 0.98, ("adam", "0.1"): 0.9, ("adam", "0.01"): 1.0}
    trials = tuple(
        replace(
            FROZEN,
            number=number,
            state="failed" if accuracy is None else "complete",
            params={"trainable": "False", "seed": "0", "optimizer.name": optimizer, "learning_rate": rate},
            test_accuracy=accuracy,
        )
        for number, ((optimizer, rate), accuracy) in enumerate(accuracies.items())
    )
    found = by_key.by_key(Comparison("sweep", "1" * 32, "1", trials, ()), "optimizer")
    sgd, adam = found.levels
    assert adam.test_accuracy.mean < sgd.test_accuracy.mean
    assert adam.above_first is not None
    assert adam.above_first.mean == pytest.approx(0.02)
    assert (found.left_out, found.uneven) == ((0,), True)
    text = shown(found)
    assert "Not in it, as they are not complete: 1 trials (0)." in text
    assert "were not tried with the same settings" in text


def test_sampled_settings_give_no_difference() -> None:
    trials = tuple(
        replace(FROZEN, number=number, params={"seed": "0", "trainable": "False", "x": x, "learning_rate": f"{number}"})
        for number, x in enumerate("aabb")
    )
    found = by_key.by_key(Comparison("sweep", "1" * 32, "1", trials, ()), "x")
    assert [level.above_first for level in found.levels] == [None, None]
    assert found.uneven


def test_a_group_is_called_by_its_name_and_what_was_not_varied_is_refused() -> None:
    named = tuple(
        replace(
            FROZEN, number=number, params={"trainable": "False", "backbone.name": name, "backbone.input_size": size}
        )
        for number, (name, size) in enumerate((("b64", "224"), ("b8", "240")))
    )
    found = by_key.by_key(Comparison("sweep", "1" * 32, "1", named, ()), "backbone")
    assert (found.key, [level.value for level in found.levels]) == ("backbone.name", ["b64", "b8"])
    assert found.levels[1].above_first is not None  # the size follows from the backbone
    with pytest.raises(ConfigError, match=r"--by head_with: .*head_width.*did you mean head_width\?"):
        by_key.by_key(WIDTHS, "head_with")
    for key in ("seed", "trainable"):
        with pytest.raises(ConfigError, match=rf"--by {key}: seeds make the intervals.*allowed are .*head_width"):
            by_key.by_key(WIDTHS, key)
    with pytest.raises(ConfigError, match="no trial of sweep is complete"):
        by_key.by_key(Comparison("sweep", "1" * 32, "1", (replace(FROZEN, state="failed"),), ()), "head_width")
    modes = tuple(
        replace(FROZEN, number=number, params={"trainable": "False", "features.mode": mode})
        for number, mode in enumerate(("auto", "live"))
    )
    assert by_key.by_key(Comparison("sweep", "1" * 32, "1", modes, ()), "features").key == "features.mode"


def test_the_table_by_a_key_says_what_its_numbers_are() -> None:
    text = shown(by_key.by_key(WIDTHS, "head_width"))
    assert "0.8500 ± 0.6353" in text
    assert "+0.1200 ± 0.2541" in text
    assert "± is half of the 95 % interval" in text
    assert "not tried with the same settings" not in text


def test_words_of_the_user_are_printed_as_they_are() -> None:
    paths = tuple(
        replace(FROZEN, number=number, params={"trainable": "False", "dataset.path": path})
        for number, path in enumerate(("/a/[red]odd[/x]", "/b"))
    )
    assert "[red]odd[/x]" in shown(by_key.by_key(Comparison("sweep", "1" * 32, "1", paths, ()), "dataset.path"))
    assert "[red]odd[/x]" in printed(*paths, width=160)


def shown(found: by_key.ByKey) -> str:
    console = PlainConsole(file=io.StringIO(), width=120)
    by_key.show(found, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
