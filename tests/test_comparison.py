"""What `graft compare` prints, on narrow terminals and for sweeps in which something went wrong."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from graft.comparison import Comparison, TrialRow, show
from graft.comparison.record import UI

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
