"""Checkpoints that are damaged: training goes back to what is whole, says so, and ends where it would have ended."""

from __future__ import annotations

import functools
import logging
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import tensorflow as tf
from tests.loop.laboratory import Laboratory, curve

import graft.run
from graft.errors import FailedTrial
from graft.loop.checkpoints import close
from graft.loop.result import TrainResult, best_epoch
from graft.run import run
from graft.tensorflow_paths import literal
from graft.tracking.recorder import MemoryRecorder

Damage = Callable[[Path], object]

DATA = "data-00000-of-00001"
EPOCHS = 5
SAVED = 4
# Every epoch is better than the one before it; and none is better than the first.
BETTER, WORSE = ("learning_rate=0.0005",), ("learning_rate=1e-12",)


def cut_short(file: Path, by: int = 100) -> None:
    file.write_bytes(file.read_bytes()[:-by])


def flip(file: Path, places: int = 1) -> None:
    content = bytearray(file.read_bytes())
    for place in random.Random(0).sample(range(len(content)), places):
        content[place] ^= 4
    file.write_bytes(content)


def half_written(checkpoints: Path) -> None:
    """What there is if the process dies between the data of a checkpoint and its index, or in the middle of them."""
    (checkpoints / "latest/ckpt-4_temp").mkdir()
    (checkpoints / "latest/ckpt-4_temp/part-00000-of-00001.data-00000-of-00001").write_bytes(b"begun")
    shutil.copy(checkpoints / f"latest/ckpt-3.{DATA}", checkpoints / f"latest/ckpt-4.{DATA}")
    shutil.copy(checkpoints / f"best/ckpt-3.{DATA}", checkpoints / f"best/ckpt-4.{DATA}")


def garble(file: Path) -> None:
    file.write_bytes(b'model_checkpoint_path: "ckpt-1"\n\0\xff')


def flip_one(checkpoints: Path, number: int) -> None:
    """A bit somewhere in the latest checkpoint or its best; in a place that is not used it does no harm."""
    place = random.Random(number)
    file = place.choice(sorted(checkpoints.rglob("ckpt-3.*")))
    content = bytearray(file.read_bytes())
    content[place.randrange(len(content))] ^= 1 << place.randrange(8)
    file.write_bytes(content)


# What becomes of the checkpoints, and after how many epochs training goes on; None: with or without the last one.
DAMAGES: dict[str, tuple[Damage, int | None]] = {
    "nothing": (lambda folder: None, 4),
    "data cut short": (lambda folder: cut_short(folder / f"latest/ckpt-3.{DATA}"), 3),
    "data empty": (lambda folder: cut_short(folder / f"latest/ckpt-3.{DATA}", by=10**9), 3),
    "a bit of the data": (lambda folder: flip(folder / f"latest/ckpt-3.{DATA}"), 3),
    "data missing": (lambda folder: (folder / f"latest/ckpt-3.{DATA}").unlink(), 3),
    "index missing": (lambda folder: (folder / "latest/ckpt-3.index").unlink(), 3),
    "index cut short": (lambda folder: cut_short(folder / "latest/ckpt-3.index"), 3),
    "index garbled": (lambda folder: flip(folder / "latest/ckpt-3.index", places=30), 3),
    "another one's index": (
        lambda folder: shutil.copy(folder / "latest/ckpt-2.index", folder / "latest/ckpt-3.index"),
        3,
    ),
    "the best that belongs to it": (lambda folder: cut_short(folder / f"best/ckpt-3.{DATA}"), 3),
    "the best one missing": (lambda folder: (folder / "best/ckpt-3.index").unlink(), 3),
    "half-written": (half_written, 4),
    "TensorFlow's record": (lambda folder: garble(folder / "latest/checkpoint"), 4),
    "the copy of the history": (lambda folder: garble(folder / "history.json"), 4),
    "both": (lambda folder: [flip(file) for file in folder.glob("latest/ckpt-*.data*")], 0),
    "every index": (lambda folder: [file.unlink() for file in folder.glob("latest/*.index")], 0),
    "every best": (lambda folder: [cut_short(file) for file in folder.glob("best/ckpt-*.data*")], 0),
    "everything": (lambda folder: shutil.rmtree(folder), 0),
    **{f"bit {number}": (functools.partial(flip_one, number=number), None) for number in range(5)},
}
UNSAID = {"nothing", "TensorFlow's record", "the copy of the history", "everything"}


def told(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "graft.loop.checkpoints" and record.levelno == level
    ]


def stopped_after(saved: int) -> Callable[[], str | None]:
    answers = iter([None] * (saved - 1) + ["interrupted"])
    return lambda: next(answers)


def assert_same(one: TrainResult, other: TrainResult) -> None:
    assert curve(one) == curve(other)
    assert (one.test_loss, one.test_accuracy) == (other.test_loss, other.test_accuracy)


def test_whatever_is_damaged_training_ends_where_it_would_have_ended(
    lab: Laboratory, caplog: pytest.LogCaptureFixture
) -> None:
    settings = (*BETTER, "dropout_rate=0.3", f"epochs={EPOCHS}")
    whole, _ = lab.run(*settings, folder="whole")
    cut, _ = lab.run(*settings, folder="cut", stop=stopped_after(SAVED))
    assert [best_epoch(cut.history[:epochs]) for epochs in (3, 4)] == [2, 3], "each has a best of its own"
    for name, (damage, expected) in DAMAGES.items():
        shutil.copytree(lab.folder / "cut", lab.folder / name)
        damage(lab.folder / name / "checkpoints")
        caplog.clear()
        with caplog.at_level(logging.INFO):
            resumed, recorder = lab.run(*settings, folder=name)
        assert_same(resumed, whole)
        assert sorted(recorder.metrics["val_loss"]) == list(range(EPOCHS))
        warnings = told(caplog, logging.WARNING)
        if expected is None:
            expected = 3 if warnings else 4
        else:
            assert bool(warnings) is (name not in UNSAID), (name, warnings)
        going_on = [message for message in told(caplog, logging.INFO) if message.startswith("Going on after")]
        assert going_on == (
            [f"Going on after {expected} epochs from {lab.folder / name / 'checkpoints/latest'}/ckpt-{expected - 1}"]
            if expected
            else []
        ), name
        assert any("ckpt-" in warning and "is damaged" in warning for warning in warnings) is bool(warnings)
        assert any("from the beginning" in warning for warning in warnings) is (bool(warnings) and not expected), name
        left = {file.name for file in (lab.folder / name / "checkpoints").rglob("*")}
        best = f"ckpt-{whole.best_epoch}"
        latest = {f"ckpt-{epoch}.{ending}" for epoch in (EPOCHS - 2, EPOCHS - 1) for ending in (DATA, "index")}
        assert left - {"latest", "best", "checkpoint", "history.json", "features_engine", "paid_seconds.json"} == (
            latest | {f"{best}.{DATA}", f"{best}.index"}
        )


@pytest.mark.parametrize("name", ["run [old]", "[lr=1]", r"run\old", "run?*"])
def test_a_folder_whose_name_is_a_pattern_has_checkpoints_as_any_other(lab: Laboratory, name: str) -> None:
    cut, _ = lab.run("epochs=2", folder=f"{name}/run", stop=stopped_after(1))
    assert cut.stopped == "interrupted"
    resumed, recorder = lab.run("epochs=2", folder=f"{name}/run")
    assert resumed.test_accuracy is not None
    assert list(recorder.metrics["epoch_seconds"]) == [0, 1]
    assert tf.train.latest_checkpoint(str(literal(lab.folder / name / "run/checkpoints/best")))


def test_an_early_best_that_all_later_ones_rest_on_takes_them_with_it(
    lab: Laboratory, caplog: pytest.LogCaptureFixture
) -> None:
    settings = (*WORSE, f"epochs={EPOCHS}")
    whole, _ = lab.run(*settings, folder="whole")
    cut, _ = lab.run(*settings, folder="cut", stop=stopped_after(SAVED))
    assert best_epoch(cut.history) == 0
    assert (lab.folder / "cut/checkpoints/best/ckpt-0.index").exists(), "kept for as long as it is the best"
    flip(lab.folder / f"cut/checkpoints/best/ckpt-0.{DATA}")
    resumed, _ = lab.run(*settings, folder="cut")
    assert_same(resumed, whole)
    assert any("No checkpoint" in warning for warning in told(caplog, logging.WARNING))


def test_a_best_checkpoint_that_is_damaged_during_training_fails_the_run_and_the_next_attempt_mends_it(
    lab: Laboratory,
) -> None:
    settings = (*BETTER, f"epochs={EPOCHS}")
    whole, _ = lab.run(*settings, folder="whole")

    class Striking(MemoryRecorder):
        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
            if step == EPOCHS - 1:
                flip(next((lab.folder / "struck/checkpoints/best").glob(f"ckpt-{whole.best_epoch}.data*")))

    with pytest.raises(FailedTrial, match=rf"best/ckpt-{whole.best_epoch} is damaged") as caught:
        run(lab.config(*settings), Striking(), lab.folder / "struck")
    assert caught.value.cause == "damaged_checkpoint"
    again, _ = lab.run(*settings, folder="struck")
    assert_same(again, whole)


def assert_nothing_is_trained_again(recorder: MemoryRecorder, first: TrainResult) -> None:
    assert recorder.metrics["epoch_seconds"] == {
        epoch: metrics["epoch_seconds"] for epoch, metrics in enumerate(first.history)
    }


def test_a_run_that_is_closed_leaves_its_best_and_its_history_and_no_state(lab: Laboratory) -> None:
    first, _ = lab.run(folder="over")
    state = lab.folder / "over/checkpoints/latest"
    assert state.is_dir()
    close(lab.folder / "over", first.history)
    assert not state.exists()
    left = sum(file.stat().st_size for file in (lab.folder / "over/checkpoints/closed").iterdir())
    assert left < 0.5 * (lab.folder / f"over/checkpoints/best/ckpt-{first.best_epoch}.{DATA}").stat().st_size
    again, recorder = lab.run(folder="over")  # as after a controller that died before it heard of the end
    assert_same(again, first)
    assert_nothing_is_trained_again(recorder, first)


def test_a_recorded_run_does_not_fail_where_the_room_of_its_state_cannot_be_freed(
    lab: Laboratory, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = lab.run(folder="over")
    (lab.folder / "over/checkpoints/closed").write_text("in the way")
    graft.run._close(lab.folder / "over", first.history)
    assert f"The latest checkpoints in {lab.folder / 'over'} stay" in caplog.text
    again, recorder = lab.run(folder="over")
    assert_same(again, first)
    assert_nothing_is_trained_again(recorder, first)


# What there may be when the process dies while it closes a run; the latest ones are removed last.
CLOSINGS: dict[str, Damage] = {
    "before anything": lambda closed: shutil.rmtree(closed),
    "the data, and no index": lambda closed: (closed / "ckpt-2.index").unlink(),
    "half an index": lambda closed: cut_short(closed / "ckpt-2.index", by=10),
    "an index without anything": lambda closed: (closed / "ckpt-2.index").write_bytes(b""),
    "all of it": lambda closed: None,
}


@pytest.mark.parametrize("moment", CLOSINGS)
def test_a_death_while_a_run_is_closed_costs_nothing(lab: Laboratory, moment: str) -> None:
    first, _ = lab.run(*BETTER, folder="over")
    assert first.best_epoch == 2, "which the latest but one does not have"
    shutil.copytree(lab.folder / "over/checkpoints/latest", lab.folder / "latest")
    close(lab.folder / "over", first.history)
    shutil.move(lab.folder / "latest", lab.folder / "over/checkpoints/latest")
    CLOSINGS[moment](lab.folder / "over/checkpoints/closed")
    again, recorder = lab.run(*BETTER, folder="over")
    assert_same(again, first)
    assert_nothing_is_trained_again(recorder, first)
    close(lab.folder / "over", again.history)
    assert {file.name for file in (lab.folder / "over/checkpoints").iterdir()} >= {"closed", "best"}
    assert not (lab.folder / "over/checkpoints/latest").exists()


@pytest.mark.parametrize("file", [f"closed/ckpt-2.{DATA}", f"best/ckpt-2.{DATA}"])
def test_a_closed_run_that_is_damaged_starts_from_the_beginning_and_says_so(
    lab: Laboratory, caplog: pytest.LogCaptureFixture, file: str
) -> None:
    first, _ = lab.run(*BETTER, folder="over")
    close(lab.folder / "over", first.history)
    flip(lab.folder / "over/checkpoints" / file, places=3)
    again, _ = lab.run(*BETTER, folder="over")
    assert_same(again, first)
    assert any("from the beginning" in warning for warning in told(caplog, logging.WARNING))
    close(lab.folder / "over", again.history)
    caplog.clear()
    assert_same(lab.run(*BETTER, folder="over")[0], first)
    assert not told(caplog, logging.WARNING)


@pytest.mark.parametrize("loop", ["gradient_tape", "keras_fit"])
def test_a_pruned_trial_that_is_to_go_on_after_all_begins_anew(
    lab: Laboratory, caplog: pytest.LogCaptureFixture, loop: str
) -> None:
    settings = (*BETTER, "dropout_rate=0.3", f"epochs={EPOCHS}", f"loop={loop}")
    whole, _ = lab.run(*settings, folder="whole")
    answers = iter([None, "pruned"])
    pruned, _ = lab.run(*settings, folder="pruned", stop=lambda: next(answers))
    assert pruned.stopped == "pruned"
    close(lab.folder / "pruned", pruned.history)
    with caplog.at_level(logging.INFO):
        again, _ = lab.run(*settings, folder="pruned")
    assert_same(again, whole)
    assert "This run was over after 2 epochs, and its state is gone: it starts from the beginning" in caplog.messages


def test_a_folder_that_a_program_trains_in_is_gone_on_from_with_more_epochs(lab: Laboratory) -> None:
    whole, _ = lab.run(*BETTER, f"epochs={EPOCHS}", folder="whole")
    lab.run(*BETTER, "epochs=2", folder="longer")
    longer, recorder = lab.run(*BETTER, f"epochs={EPOCHS}", folder="longer")
    assert_same(longer, whole)
    assert min(recorder.metrics["epoch_seconds"]) == 0


def test_a_pruned_trial_that_dies_before_it_can_say_so_is_pruned_where_it_was(lab: Laboratory) -> None:
    def prune_after_two() -> str | None:
        return "pruned" if (lab.folder / "pruned/checkpoints/latest/ckpt-1.index").exists() else None

    first, _ = lab.run(f"epochs={EPOCHS}", folder="pruned", stop=prune_after_two)
    again, _ = lab.run(f"epochs={EPOCHS}", folder="pruned", stop=prune_after_two)
    assert first.stopped == again.stopped == "pruned"
    assert len(first.history) == len(again.history) == 2
