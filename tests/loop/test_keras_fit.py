"""Keras' own `fit`: from the same seed the curve of the loop that is written out, and all that goes with it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tensorflow as tf
import tf_keras
from tests.conftest import backbone_at
from tests.features.modules import Convolutions, save
from tests.loop.laboratory import Laboratory, curve

from graft.errors import FailedTrial
from graft.loop import course, gradient_tape, keras_fit
from graft.loop.result import TrainResult
from graft.preparation import prepare
from graft.run import run
from graft.tracking.recorder import MemoryRecorder

KERAS = "loop=keras_fit"
TAPE = "loop=gradient_tape"


def assert_same(one: TrainResult, two: TrainResult) -> None:
    assert len(one.history) == len(two.history)
    for epoch, other in zip(curve(one), curve(two), strict=True):
        assert epoch == pytest.approx(other, abs=1e-6)
    assert one.test_accuracy == pytest.approx(two.test_accuracy, abs=1e-6)
    assert one.test_loss == pytest.approx(two.test_loss, abs=1e-6)
    assert one.confusion == two.confusion
    assert one.trainable_parameters == two.trainable_parameters


@pytest.mark.parametrize(
    "settings",
    [
        ["dropout_rate=0.3"],
        ["features.memory_budget_mb=0", "optimizer=adamw", "batch_size=24"],
        ["features=live", "class_weights=balanced", "learning_rate_schedule=cosine"],
        ["trainable=true", "optimizer=sgd", "dropout_rate=0.3"],
        ["trainable=true", "augment=standard", "loop.log_every=2"],
        ["trainable=true", "init_head=probe", "backbone.batch_norm_momentum=0.8"],
    ],
    ids=" ".join,
)
def test_the_same_seed_gives_the_same_curve(lab: Laboratory, settings: list[str]) -> None:
    tape, _ = lab.run(*settings, TAPE, folder="tape")
    keras, recorder = lab.run(*settings, KERAS, folder="keras")
    assert_same(tape, keras)
    assert isinstance(prepare(lab.config(*settings, KERAS)).trainer, keras_fit.Trainer)
    assert set(recorder.metrics) == set(keras.history[0])


def test_what_regularises_the_weights_is_in_the_training_loss_alone(lab: Laboratory) -> None:
    module = save(Regularised(), lab.folder / "regularised")
    settings = [*backbone_at(module), "trainable=true", "epochs=2"]
    tape, _ = lab.run(*settings, TAPE, folder="tape")
    keras, _ = lab.run(*settings, KERAS, folder="keras")
    assert_same(tape, keras)
    assert keras.history[0]["train_loss"] > keras.history[0]["val_loss"] + 1


class Regularised(Convolutions):
    """As many modules of TF Hub, it says itself what its weights cost."""

    def __init__(self) -> None:
        super().__init__()
        self.regularization_losses = [tf.function(lambda: tf.reduce_mean(self.kernel**2) + 5, input_signature=[])]


@pytest.mark.parametrize("settings", [[], ["features=live"], ["trainable=true", "augment=flip"]], ids=str)
def test_a_run_that_was_cut_off_goes_on_to_the_same_curve(lab: Laboratory, settings: list[str]) -> None:
    settings = [*settings, KERAS, "dropout_rate=0.3", "epochs=4"]
    whole, _ = lab.run(*settings, folder="whole")
    answers = iter([None, "interrupted"])
    cut, _ = lab.run(*settings, folder="cut", stop=lambda: next(answers))
    assert (cut.stopped, len(cut.history), cut.test_accuracy) == ("interrupted", 2, None)
    resumed, recorder = lab.run(*settings, folder="cut")
    assert sorted(recorder.metrics["val_loss"]) == [0, 1, 2, 3]
    assert curve(resumed) == curve(whole)
    assert resumed.test_loss == whole.test_loss


def test_one_loop_goes_on_from_the_checkpoint_of_the_other(lab: Laboratory) -> None:
    settings = ["trainable=true", "dropout_rate=0.3"]
    whole, _ = lab.run(*settings, TAPE, "epochs=4", folder="whole")
    lab.run(*settings, TAPE, "epochs=1", folder="both")
    lab.run(*settings, KERAS, "epochs=3", folder="both")
    ended, _ = lab.run(*settings, TAPE, "epochs=4", folder="both")
    assert_same(whole, ended)


def test_pruning_and_patience_end_it_between_epochs(lab: Laboratory) -> None:
    answers = iter([None, "pruned"])
    pruned, _ = lab.run(KERAS, "epochs=9", folder="pruned", stop=lambda: next(answers))
    assert (pruned.stopped, len(pruned.history), pruned.test_accuracy) == ("pruned", 2, None)
    settings = [KERAS, "learning_rate=1e-12", "patience=2", "epochs=9"]
    impatient, _ = lab.run(*settings, folder="impatient")
    again, _ = lab.run(*settings, folder="impatient")
    assert len(impatient.history) == len(again.history) == 3
    assert impatient.test_accuracy is not None


@pytest.mark.parametrize("settings", [[], ["trainable=true"]], ids=str)
def test_trials_that_differ_in_the_sampled_values_share_what_was_traced(lab: Laboratory, settings: list[str]) -> None:
    settings = [*settings, KERAS, "epochs=2"]
    sampled = ["dropout_rate=0.2", "learning_rate=0.002", "seed=3"]
    cold, _ = lab.run(*settings, *sampled, folder="cold")
    first = prepare(lab.config(*settings)).trainer
    traced = first.compiled.train_function.experimental_get_tracing_count()
    lab.run(*settings, "dropout_rate=0", "learning_rate=0.01", "epochs=3", folder="between")
    warm, _ = lab.run(*settings, *sampled, folder="warm")
    assert prepare(lab.config(*settings)).trainer is first
    assert first.compiled.train_function.experimental_get_tracing_count() == traced
    assert curve(warm) == curve(cold)
    assert isinstance(prepare(lab.config(*settings, TAPE)).trainer, gradient_tape.Trainer)


def test_a_loss_that_is_no_number_fails_the_trial(lab: Laboratory) -> None:
    with pytest.raises(FailedTrial, match="learning_rate=1e") as caught:
        lab.run(KERAS, "learning_rate=1e30", "optimizer=sgd")
    assert caught.value.cause == "diverged"


def test_more_classes_than_anybody_reads_are_not_confused(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "MOST_CLASSES_CONFUSED", 9)
    result, _ = lab.run(KERAS, "epochs=1")
    assert result.confusion is None
    assert result.test_accuracy is not None


def test_loss_and_accuracy_are_reported_every_so_many_steps(lab: Laboratory) -> None:
    seen: dict[str, list[tuple[int, float]]] = {}

    class Steps(MemoryRecorder):
        def __init__(self, loop: str) -> None:
            super().__init__()
            self.loop = loop

        def log_step(self, metrics: dict[str, float], *, step: int, epoch: int, of: int) -> None:  # type: ignore[override]
            seen.setdefault(self.loop, []).append((step, metrics["loss"]))

    for loop in (TAPE, KERAS):
        config = lab.config("loop.log_every=3", "epochs=2", loop)
        run(config, Steps(loop), lab.folder / loop)
    steps = math.ceil(len(prepare(config).data.splits.train) / 32)
    assert steps % 3, "the last steps of an epoch are to be fewer"
    assert [step for step, _ in seen[KERAS]] == [step for step, _ in seen[TAPE]]
    assert [loss for _, loss in seen[KERAS]] == pytest.approx([loss for _, loss in seen[TAPE]], abs=1e-6)


def test_xla_compiles_it(lab: Laboratory) -> None:
    plain, _ = lab.run(KERAS, "epochs=1", folder="plain")
    compiled, _ = lab.run(KERAS, "epochs=1", "jit_compile=true", folder="compiled")
    assert prepare(lab.config(KERAS, "jit_compile=true")).trainer.compiled.jit_compile
    assert compiled.history[0]["train_loss"] == pytest.approx(plain.history[0]["train_loss"], rel=1e-3)
    assert compiled.test_accuracy == pytest.approx(plain.test_accuracy, abs=0.02)


@pytest.mark.usefixtures("tensor_cores")
def test_with_mixed_precision_the_loss_is_scaled(lab: Laboratory) -> None:
    settings = ["trainable=true", "epochs=2", "learning_rate=0.001"]
    tape, _ = lab.run(*settings, TAPE, folder="tape")
    keras, _ = lab.run(*settings, KERAS, folder="keras")
    trainer = prepare(lab.config(*settings, KERAS)).trainer
    assert isinstance(trainer.compiled.optimizer, tf_keras.mixed_precision.LossScaleOptimizer)
    assert_same(tape, keras)


def test_the_best_checkpoint_is_that_of_the_other_loop(lab: Laboratory, tmp_path: Path) -> None:
    names = []
    for loop in (TAPE, KERAS):
        lab.run(loop, "trainable=true", folder=loop)
        best = tf.train.latest_checkpoint(str(tmp_path / loop / "checkpoints" / "best"))
        names.append(sorted(tf.train.load_checkpoint(best).get_variable_to_shape_map().items()))
    assert names[0] == names[1]
