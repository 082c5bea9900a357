"""`graft report` and the paired difference of `graft compare`, on records written by hand."""

from __future__ import annotations

import io
import json
import logging
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.entities import Dataset, DatasetInput
from tests.conftest import run_command
from tests.report.conftest import Page, Records, Sweep, Trial, seeds

from graft.comparison.record import read
from graft.errors import ConfigError
from graft.paths import CHECKOUT
from graft.report import drawing, figures
from graft.report.after_sweep import write_after_sweep
from graft.report.reached import reached
from graft.report.record import collect

T_OF_2 = 4.302652729911275  # t(0.975) with two degrees of freedom, from a printed table


def paired(sweep: Sweep) -> dict[str, Any]:
    found = json.loads(sweep.graft("compare", "--json").stdout)["paired"]
    assert isinstance(found, dict)
    return found


def test_the_interval_is_students_t_over_seeds_of_differences_averaged_over_settings(records: Records) -> None:
    # With dropout 0.01, 0.03, 0.05; without 0.03, 0.03, 0.03; so 0.02, 0.03, 0.04 a seed.
    sweep = records.sweep([*seeds([0.01, 0.03, 0.05], dropout_rate=0.4), *seeds([0.03] * 3, dropout_rate=0.0)])
    half = T_OF_2 * 0.01 / math.sqrt(3)
    numbers = paired(sweep)
    assert numbers["difference_by_seed"] == pytest.approx({"0": 0.02, "1": 0.03, "2": 0.04})
    found = numbers["interval"]
    assert (found["mean"], found["seeds"]) == (pytest.approx(0.03), 3)
    assert (found["low"], found["high"]) == pytest.approx((0.03 - half, 0.03 + half))
    assert (numbers["better"], numbers["sure"]) == ("fine-tuned", True)
    page = sweep.report()
    assert "Fine-tuning is better, by 0.0300 test accuracy." in page.text
    assert "0.0300 more test accuracy (about 30 of 1,000 images)" in page.text
    assert f"95 % interval {0.03 - half:+.4f} to {0.03 + half:+.4f} (paired Student t over seeds, 3 seeds)" in page.text
    assert "6 pairs of trials (3 seeds × 2 settings)" in page.text
    assert "Fine-tuning is better, by 0.0300" in sweep.graft("compare").stdout


def test_an_interval_finer_than_the_test_split_comes_with_a_warning(records: Records) -> None:
    text = "Other images may move the difference further"
    assert text in records.sweep(seeds([0.030, 0.031, 0.032]), test_images=100).report().text
    assert text not in records.sweep(seeds([0.030, 0.031, 0.032]), test_images=10_000).report().text


def test_an_interval_that_holds_0_is_no_clear_difference_whatever_the_mean(records: Records) -> None:
    sweep = records.sweep(seeds([0.10, -0.02, 0.01]))
    assert (paired(sweep)["better"], paired(sweep)["sure"]) == ("none", False)
    page = sweep.report()
    assert "No clear difference" in page.text
    assert "it holds 0" in page.text
    assert "a frozen backbone is the cheaper choice" in page.text


def test_a_frozen_backbone_can_win(records: Records) -> None:
    sweep = records.sweep(seeds([-0.10, -0.11, -0.12]))
    assert (paired(sweep)["better"], paired(sweep)["sure"]) == ("frozen", True)
    assert "The frozen backbone is better, by 0.1100" in sweep.report().text


def test_one_seed_gives_no_interval_and_the_page_says_what_to_type(records: Records) -> None:
    sweep = records.sweep(seeds([0.02]), test_images=50)
    found = paired(sweep)["interval"]
    assert (found["low"], found["high"], found["why_none"]) == (None, None, "one seed")
    page = sweep.report()
    assert "one seed gives no interval" in page.text
    assert "This makes a new sweep, which stands beside this one:" in page.text
    assert "python train.py -m trainable=true,false seed=0,1,2,3,4" in page.text
    assert "One of the 50 test images is 0.0200" in page.text
    assert "95 % interval +" not in page.text
    assert "difference" not in page.figures
    assert "python train.py -m trainable=true,false seed=0,1,2,3,4\n" in sweep.graft("compare").stdout


def test_equal_differences_have_no_spread_and_so_no_interval(records: Records) -> None:
    sweep = records.sweep(seeds([0.02, 0.02, 0.02]))
    found = paired(sweep)
    assert found["which"] == "Fine-tuning came out better in all 3 seeds, by the same."
    assert found["interval"]["why_none"] == "no spread"
    assert found["sure"] is False
    assert "without a spread there is no interval" in sweep.report().text


def test_two_seeds_are_both(records: Records) -> None:
    text = records.sweep(seeds([0.02, 0.02])).report().text
    assert "Fine-tuning came out better in both seeds, by the same." in text
    assert "Both seeds gave the same difference, and without" in text


def test_epochs_that_take_the_same_time_are_called_that(records: Records) -> None:
    trials = [replace(trial, once={"epoch_seconds_live": 5.0 + 0.1 * trial.trainable}) for trial in seeds([0.02])]
    assert "An epoch of fine-tuning takes about as long: 5.1 against 5 seconds" in records.sweep(trials).report().text


def test_the_same_accuracy_has_no_winner(records: Records) -> None:
    sweep = records.sweep(seeds([0.0]))
    assert paired(sweep)["better"] == "none"
    assert "the test accuracy is the same" in sweep.report().text


def test_a_learning_rate_of_its_own_default_breaks_no_pair_and_is_named(records: Records) -> None:
    sweep = records.sweep(seeds([0.02, 0.03]))
    assert paired(sweep)["aside"] == {"learning_rate": ["0.001", "1e-05"]}
    text = sweep.report().text
    assert "learning_rate differs with the kind and breaks no pair: 0.001 frozen, 1e-05 fine-tuned" in text


def test_learning_rates_that_both_kinds_were_given_are_paired_by_value(records: Records) -> None:
    # Averaged over kinds they would differ by 0.2: one rate suits each.
    rates = {0.001: (0.9, 0.8), 1e-05: (0.7, 0.98)}
    trials = [
        Trial(trainable, test=pair[trainable], params={"learning_rate": rate})
        for rate, pair in rates.items()
        for trainable in (False, True)
    ]
    found = paired(records.sweep(trials))
    settings = {pair["setting"]["learning_rate"]: pair["difference"] for pair in found["pairs"]}
    assert settings == pytest.approx({"0.001": -0.1, "1e-05": 0.28})


def test_trials_that_are_never_equal_are_not_paired(records: Records) -> None:
    trials = [Trial(False, test=0.8, params={"head_width": 16}), Trial(True, test=0.9, params={"head_width": 64})]
    sweep = records.sweep(trials)
    found = paired(sweep)
    assert (found["pairs"], found["interval"], found["sure"]) == ([], None, False)
    page = sweep.report()
    assert "the trials cannot be paired" in page.text
    assert "median against median: 0.9000 of one fine-tuned trial, 0.8000 of one frozen trial" in page.text
    assert "They also differ in head_width" in page.text
    assert "There are no pairs of frozen and fine-tuned trials" in page.text


def test_a_seed_without_its_partner_is_left_out_as_a_whole(records: Records) -> None:
    trials = [*seeds([0.01, 0.02, 0.03], dropout_rate=0.0), *seeds([0.01, 0.02, 0.03], dropout_rate=0.4)]
    lost = next(i for i, t in enumerate(trials) if t.seed == 1 and t.trainable and t.params["dropout_rate"] == 0.4)
    trials[lost] = replace(trials[lost], state="failed", failure="diverged", test=None)
    sweep = records.sweep(trials)
    found = paired(sweep)
    assert found["difference_by_seed"] == pytest.approx({"0": 0.01, "2": 0.03})
    of_seed = {number for number, trial in enumerate(trials) if trial.seed == 1 and number != lost}
    assert set(found["left_out"]) == of_seed
    assert f"left out: trials {', '.join(map(str, sorted(of_seed)))}." in sweep.report().text


def test_epochs_on_stored_features_are_never_set_beside_live_ones_without_saying_so(records: Records) -> None:
    sweep = records.sweep(seeds([0.02, 0.03]))
    page = sweep.report()
    assert "takes 3.0 times as long: 6 against 2 seconds, with the backbone run on every image" in page.text
    assert "on stored features, made once, an epoch took 0.1 seconds" in page.text
    assert "known from the extraction" in page.text
    (row,) = (row for row in page.tables["sides"] if row[0].startswith("seconds an epoch as it ran"))
    assert row[1:] == ["0.1 on stored features", "6 on images"]


def test_every_trial_is_in_the_table_with_its_state_and_its_page(records: Records) -> None:
    trials = [
        *seeds([0.02]),
        Trial(True, 1, state="pruned", test=None, val=0.5),
        Trial(True, 2, state="failed", failure="diverged", test=None, val=None),
        Trial(True, 3, state="failed", failure="ConfigError", test=None, val=None, name="trainable=maybe"),
    ]
    sweep = records.sweep(trials)
    page = sweep.report()
    states = {row[0]: row[-1] for row in page.tables["trials"][1:]}
    assert states == {
        "0": "complete",
        "1": "complete",
        "2": "pruned",
        "3": "failed: diverged",
        "4": "failed: ConfigError",
    }
    for run in sweep.runs:
        assert f"http://127.0.0.1:5000/#/experiments/{sweep.store.experiment_id}/runs/{run}" in page.links
    assert "5 trials (2 complete, 1 pruned, 2 failed)" in page.text
    assert "Trial 4 failed (ConfigError): trainable=maybe" in page.text
    curves_page = next(link for link, text in page.links.items() if "curves of all" in text)
    assert curves_page in sweep.graft("compare").stdout


def test_the_best_trial_comes_with_its_checkpoint_and_the_command_that_runs_it_again(records: Records) -> None:
    trials = [replace(trial, val=0.95 if trial.trainable else 0.9) for trial in seeds([0.02])]
    sweep = records.sweep(trials)
    page = sweep.report()
    assert "Trial 0 (trial 0): 0.9500 on the validation images" in page.text
    assert f"{sweep.runs[0]}/artifacts/checkpoints/best" in page.text
    assert f"In {CHECKOUT}, this trains it anew" in page.text
    assert f"rerun {sweep.runs[0]} --verify --experiment {sweep.experiment}" in page.text


HOSTILE = "$\\frac{$ <script>alert(1)</script> & more"


def test_what_users_named_is_shown_as_it_is_and_never_run(records: Records) -> None:
    trials = [
        replace(trial, name=HOSTILE, params={"dataset.name": HOSTILE, "backbone.name": f"{HOSTILE}{trial.seed}"})
        for trial in seeds([0.02, 0.03])
    ]
    confusion = {"class_names": [HOSTILE, "b"], "counts": [[3, 1], [2, 4]]}
    sweep = records.sweep([replace(trial, confusion=confusion) for trial in trials], name=f"a {HOSTILE}")
    page = sweep.report()
    assert "script" not in page.tags
    assert f"Graft report · a {HOSTILE}" in page.text
    assert f"Trial 0 ({HOSTILE})" in page.text
    assert f"b taken for {HOSTILE}, 2 times" in page.text
    assert f"{HOSTILE} taken for b, once" in page.text
    assert {"by_backbone_name", "confusion"} <= set(page.figures)


def test_the_page_loads_nothing(records: Records) -> None:
    page = records.sweep(varied()).report()
    assert len(page.figures) >= 8
    assert [each for each in page.loads if not each.startswith(("data:", "#"))] == []
    assert not re.search(r"@import|url\((?!#)", page.source)
    assert not {"script", "iframe", "object", "embed"} & set(page.tags)


def varied() -> list[Trial]:
    confusion = {"class_names": ["daisy", "rose"], "counts": [[30, 1], [4, 25]]}
    return [
        Trial(
            trainable,
            seed,
            test=0.8 + 0.1 * trainable + 0.01 * seed + width / 10_000,
            val=0.8 + 0.1 * trainable + 0.01 * seed + width / 10_000,
            params={"head_width": width, "dropout_rate": dropout},
            confusion=confusion,
        )
        for trainable in (False, True)
        for seed in (0, 1)
        for width in (16, 512)
        for dropout in (0.0, 0.4)
    ]


def test_every_varied_key_has_its_figure_and_its_importance(records: Records) -> None:
    sweep = records.sweep(varied())
    page = sweep.report()
    assert {"by_head_width", "by_dropout_rate", "importance", "parallel_coordinates", "confusion"} <= set(page.figures)
    assert "by_learning_rate" not in page.figures, "it follows trainable"
    numbers = sweep.numbers()
    assert numbers["varied"] == ["trainable", "head_width", "dropout_rate", "seed"]
    importances = numbers["importances"]
    assert isinstance(importances, dict)
    assert sum(importances.values()) == pytest.approx(1)
    assert max(importances, key=lambda key: importances[key]) == "trainable"
    assert importances["dropout_rate"] < 0.05, "it changes nothing"


def test_a_sampled_key_over_decades_has_an_axis_of_powers_of_ten(records: Records) -> None:
    trials = [
        Trial(trainable, test=0.5 + 0.02 * place, val=0.9, params={"learning_rate": f"{10 ** -(place / 4 + 1):.3g}"})
        for place in range(16)
        for trainable in (False, True)
    ]
    page = records.sweep(trials).report()
    (drawn,) = re.findall(r'id="figure-by_learning_rate".*?</figure>', page.source, re.DOTALL)
    for label in ("0.0001", "0.001", "0.01", "0.1"):
        assert f">{label}</text>" in drawn
    assert "logarithmic" in drawn


def test_trials_that_differ_in_what_was_sampled_are_told_with_the_best_of_each(records: Records) -> None:
    trials = [
        Trial(trainable, test=0.7 + width / 1000, val=width / 100, params={"head_width": width})
        for width, trainable in ((10, False), (20, True), (30, False), (40, True))
    ]
    assert "The best of each by validation: 0.7400 fine-tuned, 0.7300 frozen." in records.sweep(trials).report().text


def test_epochs_to_an_accuracy_are_counted_and_told_in_seconds_of_live_epochs(records: Records) -> None:
    # Half of the validation accuracy comes with the first epoch: 0.48 frozen, 0.5 fine-tuned.
    trials = [replace(trial, val=1.0 if trial.trainable else 0.96) for trial in seeds([0.02, 0.03])]
    sweep = records.sweep(trials)
    rows = sweep.numbers()["epochs_to_reach"]
    assert isinstance(rows, list)
    told = {(row["accuracy"], row["kind"]): (row["epochs"], row["seconds"], row["reached"]) for row in rows}
    assert told[0.5, "frozen"] == (2, 4.0, 2)
    assert told[0.5, "fine-tuned"] == (1, 6.0, 2)
    assert told[0.99, "frozen"] == (None, None, 0)
    assert ["0.99", "reached by 0 of 2", "2 epochs, 12 s"] in sweep.report().tables["levels"]


def test_an_accuracy_of_float32_reaches_what_it_is_printed_as(records: Records) -> None:
    trials = [Trial(False, seed, val=0.81999999, curve=(0.5, 0.79999995, 0.81999999)) for seed in (0, 1)]
    sweep = records.sweep(trials)
    record = collect(sweep.store, read(sweep.store, None))
    assert [(row.epochs, row.reached) for row in reached(record, (0.8, 0.82, 0.83))] == [(2, 2), (3, 2)]
    rows = sweep.report().tables["levels"]
    assert [row[1] for row in rows[1:]] == ["1 epoch, 2 s", "2 epochs, 4 s", "2 epochs, 4 s", "2 epochs, 4 s"]


def test_the_line_of_epochs_to_an_accuracy_says_what_the_table_says(records: Records) -> None:
    trials = [
        Trial(trainable, seed, val=top, curve=(0.3, 0.51, 0.605 + 0.1 * seed, top))
        for trainable, top in ((False, 0.8), (True, 0.96))
        for seed in (0, 1, 2)
    ]
    sweep = records.sweep(trials)
    record = collect(sweep.store, read(sweep.store, None))
    figure = figures.epochs_to_reach(record).figure
    assert figure is not None
    lines = {line.get_label(): line for line in figure.axes[0].lines if not str(line.get_label()).startswith("_")}
    told = 0
    for row in reached(record):
        levels, epochs = (np.asarray(data).tolist() for data in lines[row.kind].get_data())
        assert lines[row.kind].get_drawstyle() == "steps-pre", "a step holds from the accuracy before it on"
        drawn = next((epoch for level, epoch in zip(levels, epochs, strict=True) if level >= row.accuracy - 1e-6), None)
        if row.accuracy >= levels[0]:
            assert drawn == row.epochs
            told += 1
    assert told > 6


@pytest.mark.parametrize("times", [(10.7, 10.7), (10.698, 10.702), (0.01, 0.011), (5.0, 7.5), (2.0, 9.0)])
def test_times_are_readable_on_their_axis_without_an_offset(records: Records, times: tuple[float, float]) -> None:
    trials = [Trial(bool(place), once={"epoch_seconds_live": seconds}) for place, seconds in enumerate(times)]
    sweep = records.sweep(trials)
    with drawing.styled():
        drawn = figures.accuracy_against_time(collect(sweep.store, read(sweep.store, None)))
        assert drawn.figure is not None
        drawn.figure.savefig(io.BytesIO())
    (axes,) = drawn.figure.axes
    low, high = axes.get_xlim()
    labels = [float(label.get_text()) for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
    assert axes.xaxis.get_offset_text().get_text() == axes.yaxis.get_offset_text().get_text() == ""
    assert len(labels) >= 3
    assert 0 <= low < times[0]
    assert high - low >= 0.19 * times[0]
    assert ("logarithmic" in axes.get_xlabel()) is (times == (2.0, 9.0))


def rates(*differences: tuple[float, float], trainable: bool = False) -> list[Trial]:
    """Trials of one kind: a seed each, without dropout and with two rates of it that do so much better."""
    return [
        Trial(trainable, seed, test=0.9 + more, params={"dropout_rate": rate})
        for seed, each in enumerate(differences)
        for rate, more in zip((0.0, 0.2, 0.4), (0.0, *each), strict=True)
    ]


def test_the_values_of_another_key_are_paired_over_seeds_with_the_lowest(records: Records) -> None:
    sweep = records.sweep(rates((0.0, 0.01), (0.0, 0.02), (0.0, 0.03)))
    contrasts: Any = sweep.numbers()["contrasts"]
    assert contrasts["dropout_rate"]["frozen"]["interval"]["mean"] == pytest.approx(0.02)
    text = sweep.report().text
    half = T_OF_2 * 0.01 / math.sqrt(3)
    assert "Which dropout_rate?" in text
    assert "0.4 gave the best median test accuracy, 0.9200 against 0.9000 at 0.0; paired difference +0.0200" in text
    assert f"95 % interval {0.02 - half:+.4f} to {0.02 + half:+.4f} (paired Student t over seeds, 3 seeds)" in text
    assert "no clear difference" in text
    clear = records.sweep(rates((0.0, 0.019), (0.0, 0.02), (0.0, 0.021))).report().text
    assert "picking the best of 3 flatters it" in clear


def test_where_the_lowest_value_is_the_best_it_stands_beside_the_second_best(records: Records) -> None:
    sweep = records.sweep([*rates((-0.01, -0.03)), *rates((-0.02, 0.01), trainable=True)])
    text = sweep.report().text
    assert "Frozen: 0.0 gave the best median test accuracy, 0.9000 against 0.8900 at 0.2; paired difference" in text
    assert "Fine-tuned: 0.4 gave the best median test accuracy, 0.9100 against 0.9000 at 0.0" in text
    assert "from one seed, and so no interval" in text


def test_values_that_no_equal_trials_had_give_no_interval(records: Records) -> None:
    trials = [Trial(False, seed, test=0.9 - 0.1 * seed, params={"head_width": 16 * (seed + 1)}) for seed in (0, 1)]
    text = records.sweep(trials).report().text
    assert "16 gave the best median test accuracy, 0.9000 against 0.8000 at 32; no pairs, and so no interval." in text


def test_few_test_images_and_accuracies_near_guessing_are_warned_of_in_the_card(records: Records) -> None:
    confusion: dict[str, object] = {"class_names": [*"abcde"], "counts": [[1] * 5] * 5}
    poor = [replace(trial, confusion=confusion) for trial in seeds([0.2, 0.2], frozen=0.3)]
    text = records.sweep(poor, test_images=50).report().text
    assert "the test split has only 50 images, and one of them is 0.0200 of test accuracy" in text
    assert (
        "guessing among 5 classes gives 0.2000, and the median test accuracy is not far from it (frozen 0.3000)" in text
    )
    good = [replace(trial, confusion=confusion) for trial in seeds([0.02, 0.02])]
    text = records.sweep(good, test_images=100).report().text
    assert "Take this for a hint" not in text
    assert "This says little" not in text


def test_a_last_epoch_that_was_the_best_asks_for_more_of_them(records: Records) -> None:
    trials = [
        replace(trial, curve=(0.5, 0.7, 0.9) if trial.trainable else (0.5, 0.9, 0.9)) for trial in seeds([0.02, 0.03])
    ]
    text = records.sweep(trials).report().text
    assert "The last epoch was the best one in 2 of 2 fine-tuned trials: more epochs may help it." in text
    flat = [replace(trial, curve=(0.9, 0.8)) for trial in trials]
    assert "more epochs may help" not in records.sweep(flat).report().text


def test_the_tables_say_what_each_kind_was_given_and_who_paid_for_the_features(records: Records) -> None:
    trials = seeds([0.02, 0.03])
    trials[1] = replace(trials[1], once={"feature_extraction_seconds": 12.0})
    page = records.sweep(trials, test_images=1000).report()
    for row in (
        ["learning rate", "0.001", "1e-05"],
        ["epochs at most", "2", "2"],
        ["training images", "2,000", "2,000"],
    ):
        assert row in page.tables["sides"]
    assert "lr is the learning rate, w the width of the head, d the dropout rate" in page.text
    assert "which the first trial pays: trial 1 12 s." in page.text


def test_a_sweep_of_one_kind_says_how_to_compare(records: Records) -> None:
    sweep = records.sweep([trial for trial in seeds([0.0, 0.0]) if not trial.trainable])
    page = sweep.report()
    assert "All completed trials have a frozen backbone" in page.text
    assert "python train.py -m trainable=true,false seed=0,1,2,3,4" in page.text
    assert "fine-tuned" not in [cell for row in page.tables["sides"] for cell in row]
    assert sweep.numbers()["paired"] is None


def test_the_command_for_a_comparison_keeps_the_settings_of_the_sweep(records: Records) -> None:
    fixed = ["dataset=image_folder", "dataset.path='/my photos, of $5'", "+size=smoke", "learning_rate=0.01"]
    trials = [
        Trial(False, seed, overrides=shlex.join(["trainable=false", *fixed, f"seed={seed}", f"dropout_rate={rate}"]))
        for seed in (0, 1)
        for rate in (0.0, 0.4)
    ]
    sweep = records.sweep(trials)
    page = sweep.report()
    (command,) = (line for line in page.codes if "train.py -m" in line)
    assert shlex.split(command)[1:] == [
        "train.py",
        "-m",
        "trainable=true,false",
        *fixed[:3],
        "dropout_rate=0.0,0.4",
        "seed=0,1,2,3,4",
    ]
    assert "learning_rate may suit one kind only, and is left to the default." in page.text


def test_the_command_for_more_seeds_keeps_lists_and_takes_the_best_of_what_was_sampled(records: Records) -> None:
    trials = [
        Trial(
            trainable,
            val=0.5 + place / 100,
            params={"learning_rate": 10**-place, "head_width": width},
            overrides=f"trainable={trainable} learning_rate={10**-place:g} head_width={width} epochs=3",
        )
        for place in range(1, 8)
        for width in (16, 64)
        for trainable in (True, False)
    ]
    command = records.sweep(trials).graft("compare").stdout
    assert "train.py -m trainable=true,false learning_rate=1e-07 head_width=16,64 epochs=3 seed=0,1,2,3,4\n" in command


@pytest.mark.parametrize("trials", [[], [Trial(False, state="failed", failure="diverged", test=None, val=None)]])
def test_a_sweep_without_a_complete_trial_has_a_page_that_says_so(records: Records, trials: list[Trial]) -> None:
    sweep = records.sweep(trials)
    page = sweep.report()
    assert "No trial was completed" in page.text
    assert page.figures == []
    assert "No trial was both timed and tested." in page.text
    assert len(page.tables.get("trials", [])) == (2 if trials else 0)
    assert sweep.graft("compare").exit_code == 0


def test_page_and_figures_lie_in_the_sweeps_folder_and_in_its_run(records: Records) -> None:
    sweep = records.sweep(seeds([0.02, 0.03]))
    assert f"graft report {sweep.name} --experiment {sweep.experiment}" in sweep.graft("compare").stdout
    page = sweep.report()
    html = sweep.folder / "report" / "report.html"
    plots = {file.name for file in (sweep.folder / "report" / "plots").iterdir()}
    assert plots == {f"{name}.png" for name in page.figures}
    client = sweep.store.client
    assert "report.html" in {each.path for each in client.list_artifacts(sweep.parent)}
    assert {each.path for each in client.list_artifacts(sweep.parent, "plots")} == {f"plots/{name}" for name in plots}
    assert f"Report     {html}\n" in sweep.graft("compare").stdout


def test_a_sweep_whose_folder_is_elsewhere_has_its_report_in_the_home(records: Records) -> None:
    sweep = records.sweep(seeds([0.02]), name="../of/another machine", folder=False)
    sweep.report()
    assert [made.name for made in (records.home / "mlruns" / "reports").iterdir()] == ["_of_another_machine"]
    assert not sweep.folder.exists()


def test_another_folder_can_be_named_and_one_that_cannot_be_made_is_refused(records: Records, tmp_path: Path) -> None:
    sweep = records.sweep(seeds([0.02]))
    sweep.report("--output", str(tmp_path / "new" / "folder"))
    assert (tmp_path / "new" / "folder" / "report.html").is_file()
    (tmp_path / "file").touch()
    result = sweep.graft("report", "--output", str(tmp_path / "file" / "page"))
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception).startswith("--output=")


def test_an_unknown_sweep_is_answered_with_the_nearest(records: Records) -> None:
    sweep = records.sweep(seeds([0.02]), name="flowers-monday")
    result = sweep.graft("report", "flowers-mondy")
    assert isinstance(result.exception, ConfigError)
    assert "did you mean flowers-monday?" in str(result.exception)


def test_name_and_parent_run_find_the_same_sweep(records: Records) -> None:
    sweep = records.sweep(seeds([0.02, 0.04]), name="by name")
    asked = [json.loads(sweep.graft("report", *which, "--json").stdout) for which in ([], ["by name"], [sweep.parent])]
    assert asked[0] == asked[1] == asked[2]


@pytest.mark.parametrize("name", ["it's", 'the "best"', r"a\b"])
def test_a_name_with_a_quotation_mark_finds_its_sweep(records: Records, name: str) -> None:
    sweep = records.sweep(seeds([0.01, 0.02]), name=name)
    assert sweep.graft("compare", name).exit_code == 0
    assert len(sweep.numbers()["trials"]) == 4


def test_where_the_locale_is_ascii_names_are_written_whole_and_printed_escaped(records: Records) -> None:
    trials = [Trial(True, name="größer"), Trial(False, name="größer")]
    sweep = records.sweep(trials, name="größen", test_images=200)
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    for command in ("compare", "report"):
        words = ["graft", command, sweep.parent, "--experiment", sweep.experiment]
        done = run_command(words, records.home, **ascii_alone)
        assert done.returncode == 0, done.stderr
        if command == "compare":
            assert r"gr\xf6\xdfer" in done.stdout
    assert "größen" in (sweep.folder / "report/report.html").read_text(encoding="utf-8")


def test_a_report_that_fails_takes_no_sweep_with_it(
    records: Records, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = records.sweep(seeds([0.02]))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("graft.report.written.files.write", fail)
    with caplog.at_level(logging.WARNING):
        write_after_sweep(sweep.store, sweep.name, sweep.parent)
    assert "No space left on device" in caplog.text
    assert f"graft report {sweep.name} --experiment {sweep.experiment}" in caplog.text


def test_a_heavy_figure_is_a_picture_in_the_page(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.report.drawing.HEAVY", 10)
    page = records.sweep(seeds([0.02, 0.03])).report()
    assert sum(each.startswith("data:image/png;base64,") for each in page.loads) == len(page.figures)
    assert isinstance(page, Page)


def test_a_record_that_was_edited_ends_in_no_traceback(records: Records) -> None:
    trials = [Trial(trainable, once={"epoch_seconds_live": 0.0}) for trainable in (True, False)]
    sweep = records.sweep([*trials, Trial(True, seed=1, test=math.nan, val=math.nan), Trial(False, seed=1)])
    client = sweep.store.client
    client.set_tag(sweep.runs[3], "graft.trial", "last")
    for command in ("compare", "report"):
        done = sweep.graft(command, sweep.name)
        assert done.exit_code == 0, done.output
    assert [trial["number"] for trial in json.loads(sweep.graft("compare", "--json").stdout)["trials"]] == [0, 1, 2]


@pytest.mark.parametrize(
    "edited",
    [
        {"test_accuracy": 1e308},
        {"test_accuracy": -0.5, "best_val_accuracy": math.inf},
        {"epoch_seconds_live": 1e308},
        {"epoch_seconds_live": 1e-320},
        {"trainable_parameters": 1e300, "overfit_gap": 1e308},
        {"total_seconds": math.inf, "feature_extraction_seconds": 1e308},
    ],
    ids=str,
)
def test_a_number_that_nothing_measures_was_not_measured(records: Records, edited: dict[str, float]) -> None:
    sweep = records.sweep([*seeds([0.01, 0.02]), Trial(False, seed=2, once=edited), Trial(True, seed=2)])
    for command in ("compare", "report"):
        done = sweep.graft(command)
        assert done.exit_code == 0, done.output
        done = sweep.graft(command, "--json")
        trial = json.loads(done.stdout, parse_constant=pytest.fail)["trials"][4]
        assert not set(edited.values()) & {value for value in trial.values() if isinstance(value, float | int)}


@pytest.mark.parametrize("value", ["1e999", "-1", "[" * 100_000], ids=lambda value: value[:9])
def test_what_nobody_counted_is_no_count(records: Records, value: str) -> None:
    sweep = records.sweep([Trial(False, val=0.95), Trial(True)])
    client, (run, _) = sweep.store.client, sweep.runs
    (given,) = [each for each in client.get_run(run).inputs.dataset_inputs if each.tags[0].value == "test"]
    edited = Dataset("edited", "1" * 36, "local", "digits", profile=f'{{"images": {value}}}')
    other = client.create_run(sweep.store.experiment_id, tags={**client.get_run(run).data.tags, "graft.trial": "2"})
    client.log_inputs(other.info.run_id, [DatasetInput(edited, given.tags)])
    client.log_text(run, f'{{"class_names": ["a"], "counts": [[{value}]]}}', "confusion.json")
    client.set_tag(sweep.runs[1], "graft.trial", "1" * 5_000)
    client.set_tag(sweep.parent, "graft.best_trial", "9" * 5_000)
    for command in ("compare", "report"):
        done = sweep.graft(command, "--json")
        assert done.exit_code == 0, done.output
        told = json.loads(done.stdout)
        assert [(trial["number"], trial["test_images"]) for trial in told["trials"]] == [(0, 200), (2, None)]
    assert told["confusion"] is None


def test_the_best_trial_is_the_one_that_the_sweep_calls_so(records: Records) -> None:
    sweep = records.sweep([Trial(False, val=0.9), Trial(False, seed=1, val=0.8)])
    sweep.store.client.set_tag(sweep.parent, "graft.best_trial", "1")
    assert "Best       trial 1" in sweep.graft("compare").stdout
    assert "0.8000 on the validation images; the sweep chose it by another objective" in sweep.report().text
    sweep.store.client.set_tag(sweep.parent, "graft.objectives", '{"test_loss": "minimize"}')
    for run, loss in zip(sweep.runs, (0.7, 0.25), strict=True):
        sweep.store.client.log_metric(run, "test_loss", loss)
    assert "by the sweep's objective, test_loss (minimize) = 0.25, not by" in sweep.graft("compare").stdout
    assert "the sweep chose it by another objective (test_loss)" in sweep.report().text
    compared = json.loads(sweep.graft("compare", "--json").stdout)
    assert (compared["objectives"], compared["trials"][0]["objectives"]) == (
        {"test_loss": "minimize"},
        {"test_loss": 0.7},
    )
    sweep.store.client.set_tag(sweep.parent, "graft.objectives", "[1")
    sweep.store.client.set_tag(sweep.parent, "graft.best_trial", "x")
    assert "Best       trial 0" in sweep.graft("compare").stdout
