"""What `graft compare` prints, on narrow terminals and for sweeps in which something went wrong."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from graft.comparison import Comparison, TrialRow, by_key, show
from graft.comparison.record import UI
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


def printed(*trials: TrialRow, width: int = 80, ui: str = UI) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(Comparison("sweep", "1" * 32, "1", trials, (), ui=ui), console)
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


def test_pages_that_a_server_shows_need_no_make_ui() -> None:
    assert "Curves     make ui, then http://127.0.0.1:5000/#/metric" in printed(FROZEN)
    assert "Curves     http://mlflow.example:5000/#/metric" in printed(FROZEN, ui="http://mlflow.example:5000")


def swept(*values: tuple[str, str, str, float]) -> Comparison:
    """A sweep by (trainable, seed, head width, test accuracy)."""
    trials = tuple(
        replace(
            FROZEN,
            number=number,
            params={"trainable": trainable, "seed": seed, "head_width": width, "backbone.name": f"b{width}"},
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
    narrow, wide, fine_tuned = by_key.levels(WIDTHS, "head_width")
    assert [(level.kind, level.value, level.trials) for level in (narrow, wide, fine_tuned)] == [
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


def test_a_seed_counts_once_however_many_trials_it_has() -> None:
    twice = swept(
        ("False", "0", "8", 0.5), ("False", "1", "8", 0.8), ("False", "1", "8", 0.6), ("False", "0", "9", 0.5)
    )
    assert by_key.levels(twice, "head_width")[0].test_accuracy.mean == pytest.approx(0.6)


def test_a_group_is_called_by_its_name_and_what_was_not_varied_is_refused() -> None:
    assert [level.value for level in by_key.levels(WIDTHS, "backbone")] == ["b64", "b8", "b8"]
    with pytest.raises(ConfigError, match=r"--by head_with: .*head_width.*did you mean head_width\?"):
        by_key.levels(WIDTHS, "head_with")
    with pytest.raises(ConfigError, match="no trial of sweep is complete"):
        by_key.levels(Comparison("sweep", "1" * 32, "1", (replace(FROZEN, state="failed"),), ()), "head_width")


def test_the_table_by_a_key_says_what_its_numbers_are() -> None:
    console = Console(file=io.StringIO(), width=120)
    by_key.show(by_key.levels(WIDTHS, "head_width"), "head_width", console)
    text = console.file.getvalue()
    assert "0.8500 ± 0.6353" in text
    assert "+0.1200 ± 0.2541" in text
    assert "± is half of the 95 % interval" in text
