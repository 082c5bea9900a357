"""The training loop on a small backbone: it learns, records, keeps the best, goes on, and says when it diverges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from sklearn.utils.class_weight import compute_sample_weight
from tensorflow.python.framework import config as tf_config
from tests.conftest import backbone_at
from tests.features.modules import Convolutions, save
from tests.images import write_classes
from tests.loop.laboratory import Laboratory, MakeConfig, curve

from graft.data.pipeline import InMemory
from graft.errors import ConfigError, FailedTrial
from graft.loop import gradient_tape
from graft.loop.optimizers import make_optimizer
from graft.loop.result import EPOCH_METRICS
from graft.model import trained_part
from graft.preparation import prepare
from graft.run import run
from graft.tracking.recorder import MemoryRecorder


def test_a_frozen_backbone_learns_and_every_metric_of_every_epoch_is_recorded(lab: Laboratory) -> None:
    result, recorder = lab.run("epochs=8", "dataset.max_images=1000")
    assert result.test_accuracy is not None
    assert result.test_accuracy > 0.75
    assert set(recorder.metrics) == set(EPOCH_METRICS)
    for name in EPOCH_METRICS:
        assert sorted(recorder.metrics[name]) == list(range(8))
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


@pytest.mark.parametrize(("trainable", "changed"), [("false", False), ("true", True)])
def test_only_fine_tuning_changes_the_backbone(lab: Laboratory, trainable: str, changed: bool) -> None:
    config = lab.config(f"trainable={trainable}", "features=live", "epochs=1")
    prepared = prepare(config)
    layer = prepared.model.get_layer("backbone")
    before = [weights.copy() for weights in layer.get_weights()]
    gradient_tape.fit(prepared.trainer, prepared.data, config, lab.folder / "direct", MemoryRecorder(), lambda: None)
    after = layer.get_weights()
    assert any((one != two).any() for one, two in zip(before, after, strict=True)) is changed


def test_the_test_accuracy_is_that_of_the_best_checkpoint(lab: Laboratory, tmp_path: Path) -> None:
    # A learning rate at which accuracy goes up and down, so that the best epoch is not the last.
    result, _ = lab.run("learning_rate=0.3", "epochs=5", "seed=1")
    accuracies = [epoch["val_accuracy"] for epoch in result.history]
    assert result.best_epoch == accuracies.index(max(accuracies))
    fresh = prepare(lab.config("learning_rate=0.3", "epochs=5", "seed=1"))
    model, data = fresh.model, fresh.data
    best = tf.train.latest_checkpoint(str(tmp_path / "run" / "checkpoints" / "best"))
    assert best.endswith(f"-{result.best_epoch}")
    tf.train.Checkpoint(model=trained_part(model, lab.config())).restore(best).assert_existing_objects_matched()
    logits = model.predict(data.inputs.take(data.splits.test), verbose=0)
    accuracy = (logits.argmax(axis=1) == data.images.labels[data.splits.test]).mean()
    assert result.test_accuracy == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["features=live"],
        ["trainable=true", "optimizer=sgd"],
        ["trainable=true", "augment=standard"],
        ["jit_compile=true"],
    ],
)
def test_the_same_run_again_is_the_same_to_the_last_bit(lab: Laboratory, settings: list[str]) -> None:
    settings = [*settings, "dropout_rate=0.3"]
    first, _ = lab.run(*settings, folder="first")
    lab.run("seed=5", "head_width=3", folder="between")  # whatever the process did before
    second, _ = lab.run(*settings, folder="second")
    assert curve(first) == curve(second)
    assert (first.test_loss, first.test_accuracy) == (second.test_loss, second.test_accuracy)
    other, _ = lab.run(*settings, "seed=1", folder="other")
    assert curve(other) != curve(first)


@pytest.mark.parametrize("settings", [[], ["features=live"], ["trainable=true"]])
def test_a_run_that_was_cut_off_goes_on_to_the_same_curve(lab: Laboratory, settings: list[str]) -> None:
    settings = [*settings, "dropout_rate=0.3", "epochs=4"]
    whole, _ = lab.run(*settings, folder="whole")
    answers = iter([None, "interrupted"])
    cut, _ = lab.run(*settings, folder="cut", stop=lambda: next(answers))
    assert cut.stopped == "interrupted"
    assert len(cut.history) == 2
    assert cut.test_accuracy is None
    resumed, recorder = lab.run(*settings, folder="cut")
    # An epoch that was saved and not recorded would be lost, so all are said again; recorders take each once.
    assert sorted(recorder.metrics["val_loss"]) == [0, 1, 2, 3]
    assert curve(resumed) == curve(whole)
    assert resumed.test_loss == whole.test_loss


@pytest.mark.parametrize("settings", [["head_width=32"], ["dropout_rate=0.4", "optimizer=sgd"]])
def test_stored_features_give_the_same_curves_as_the_live_backbone(lab: Laboratory, settings: list[str]) -> None:
    cached, _ = lab.run(*settings, "features=cached", folder="cached")
    live, _ = lab.run(*settings, "features=live", folder="live")
    for one, two in zip(curve(cached), curve(live), strict=True):
        assert one["train_accuracy"] == two["train_accuracy"]
        assert one["val_accuracy"] == two["val_accuracy"]
        assert one == pytest.approx(two, abs=1e-5)
    assert cached.test_accuracy == live.test_accuracy


@pytest.mark.parametrize("settings", [["dropout_rate=0.4"], ["optimizer=sgd", "batch_size=128"]])
def test_an_epoch_in_one_call_gives_what_step_after_step_gives(lab: Laboratory, settings: list[str]) -> None:
    settings = [*settings, "epochs=3", "loop.log_every=2"]
    at_once, _ = lab.run(*settings, folder="at_once")
    streamed, _ = lab.run(*settings, "features.memory_budget_mb=0", folder="streamed")
    assert isinstance(prepare(lab.config(*settings)).data.inputs, InMemory)
    assert not isinstance(prepare(lab.config(*settings, "features.memory_budget_mb=0")).data.inputs, InMemory)
    assert curve(at_once) == curve(streamed)
    assert (at_once.test_loss, at_once.test_accuracy) == (streamed.test_loss, streamed.test_accuracy)


@pytest.mark.parametrize("settings", [[], ["features=live"], ["trainable=true"]])
def test_trials_that_differ_in_the_sampled_values_share_what_was_traced(lab: Laboratory, settings: list[str]) -> None:
    settings = [*settings, "epochs=2"]
    first = prepare(lab.config(*settings, "dropout_rate=0.3")).trainer
    cold, _ = lab.run(*settings, "dropout_rate=0.2", "learning_rate=0.002", "seed=3", folder="cold")
    traced = traces(first)
    assert traced > 0
    lab.run(*settings, "dropout_rate=0", "learning_rate=0.01", folder="between")
    warm, _ = lab.run(*settings, "dropout_rate=0.2", "learning_rate=0.002", "seed=3", folder="warm")
    assert prepare(lab.config(*settings, "dropout_rate=0.3")).trainer is first
    assert traces(first) == traced
    assert curve(warm) == curve(cold)
    assert warm.history[0]["learning_rate"] == pytest.approx(0.002)
    assert prepare(lab.config(*settings, "dropout_rate=0.3", "optimizer=sgd")).trainer is not first


def test_a_backbone_with_random_numbers_of_its_own_starts_anew_with_every_trial(lab: Laboratory) -> None:
    module = save(WithSeededNoise(), lab.folder / "noisy")
    settings = [*backbone_at(module), "features=live", "epochs=2"]
    first, _ = lab.run(*settings, folder="first")
    second, _ = lab.run(*settings, folder="second")
    assert curve(first) == curve(second)


class WithSeededNoise(Convolutions):
    """The generator behind an operation with a seed goes on from call to call."""

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        features = super().__call__(images, training)
        return features + tf.random.normal(tf.shape(features), stddev=0.5, seed=7)


def traces(trainer: gradient_tape.Trainer) -> int:
    functions = (trainer.train_on_batch, trainer.evaluate_batch, trainer.train_on, trainer.evaluate_on)
    return sum(function.experimental_get_tracing_count() for function in functions)


def test_the_learning_rate_follows_its_schedule(lab: Laboratory) -> None:
    settings = ["epochs=4", "learning_rate=0.002"]
    curves = {}
    for schedule, wanted in {
        "constant": [0.002] * 4,
        "cosine": [0.002, 0.0017071, 0.001, 0.00029289],
        "exponential": [0.002, 6.3246e-4, 2e-4, 6.3246e-5],
    }.items():
        result, _ = lab.run(*settings, f"learning_rate_schedule={schedule}", folder=schedule)
        curves[schedule] = curve(result)
        assert [epoch["learning_rate"] for epoch in result.history] == pytest.approx(wanted, rel=1e-4)
    assert curves["cosine"][0] == curves["constant"][0]
    assert curves["cosine"][1]["train_loss"] != curves["constant"][1]["train_loss"]


@pytest.mark.parametrize("settings", [[], ["features.memory_budget_mb=0"], ["trainable=true", "optimizer=sgd"]])
def test_a_schedule_goes_on_after_a_restart_and_in_a_warm_process(lab: Laboratory, settings: list[str]) -> None:
    settings = [*settings, "learning_rate_schedule=cosine", "class_weights=balanced", "epochs=3", "dropout_rate=0.2"]
    whole, _ = lab.run(*settings, folder="whole")
    traced = traces(prepare(lab.config(*settings)).trainer)
    answers = iter(["interrupted"])
    lab.run(*settings, folder="cut", stop=lambda: next(answers))
    lab.run(*settings, "learning_rate_schedule=exponential", "seed=2", folder="between")
    resumed, _ = lab.run(*settings, folder="cut")
    assert curve(resumed) == curve(whole)
    assert traces(prepare(lab.config(*settings)).trainer) == traced


def test_schedules_and_weights_give_the_same_in_one_call_and_step_after_step(lab: Laboratory) -> None:
    settings = ["learning_rate_schedule=exponential", "class_weights=balanced"]
    at_once, _ = lab.run(*settings, folder="at_once")
    streamed, _ = lab.run(*settings, "features.memory_budget_mb=0", folder="streamed")
    assert curve(at_once) == curve(streamed)


def test_balanced_weights_are_those_of_scikit_learn_and_count_in_the_training_loss_alone(
    make_config: MakeConfig, tiny_backbone: Path, tmp_path: Path
) -> None:
    write_classes(tmp_path / "photos", {"cat": 40, "dog": 8}, size=16)
    always = ["dataset=image_folder", f"dataset.path={tmp_path}/photos", *backbone_at(tiny_backbone)]
    # Too small a rate to change anything: every loss is that of the same model.
    always += ["dataset.image_size=16", "epochs=1", "learning_rate=1e-12", "batch_size=64"]
    config = make_config(*always, "class_weights=balanced")
    prepared = prepare(config)
    labels = prepared.data.images.labels[prepared.data.splits.train]
    weights = compute_sample_weight("balanced", labels)
    assert {float(weight) for weight in weights} == {0.6, 3.0}
    logits = prepared.model.predict(prepared.data.inputs.take(prepared.data.splits.train), verbose=0)
    losses = tf_keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True).numpy()
    balanced = run(config, MemoryRecorder(), tmp_path / "balanced").history[0]
    plain = run(make_config(*always), MemoryRecorder(), tmp_path / "plain").history[0]
    assert balanced["train_loss"] == pytest.approx(float((losses * weights).mean()), rel=1e-5)
    assert plain["train_loss"] == pytest.approx(float(losses.mean()), rel=1e-5)
    assert balanced["val_loss"] == plain["val_loss"]


def test_fine_tuning_can_start_from_a_head_that_was_trained_on_the_frozen_backbone(lab: Laboratory) -> None:
    # Neither the rate nor the moving averages can change anything, so it ends where it starts.
    settings = ["trainable=true", "epochs=3", "learning_rate=1e-9", "backbone.batch_norm_momentum=0.9999"]
    frozen, _ = lab.run("epochs=3", "learning_rate=0.01", folder="frozen")
    plain, _ = lab.run(*settings, folder="plain")
    probed, _ = lab.run(*settings, "init_head=probe", "default_learning_rates.frozen=0.01", folder="probed")
    reached = frozen.history[frozen.best_epoch]["val_accuracy"]
    assert probed.summary()["probe_val_accuracy"] == reached
    assert probed.history[0]["val_accuracy"] == pytest.approx(reached, abs=0.02)
    assert plain.history[-1]["val_accuracy"] < reached - 0.3
    again, _ = lab.run(*settings, "init_head=probe", "default_learning_rates.frozen=0.01", folder="again")
    assert curve(again) == curve(probed)
    assert "probe_val_accuracy" not in plain.summary()


def test_a_live_run_goes_on_from_the_checkpoint_of_a_cached_one(lab: Laboratory) -> None:
    lab.run("features=cached", "epochs=2", folder="both")
    resumed, recorder = lab.run("features=live", "epochs=3", folder="both")
    assert sorted(recorder.metrics["val_loss"]) == [0, 1, 2]
    assert len(resumed.history) == 3


def test_patience_ends_training_without_a_better_epoch(lab: Laboratory) -> None:
    result, _ = lab.run("learning_rate=1e-12", "patience=2", "epochs=9")
    assert len(result.history) == 3
    assert result.stopped is None
    assert result.test_accuracy is not None


def test_a_run_that_lost_its_patience_has_no_more_of_it_after_a_restart(lab: Laboratory) -> None:
    settings = ["learning_rate=1e-12", "patience=1", "epochs=9"]
    first, _ = lab.run(*settings, folder="same")
    again, _ = lab.run(*settings, folder="same")
    assert len(first.history) == len(again.history) == 2


def test_an_epoch_that_was_saved_but_not_recorded_is_recorded_by_the_next_attempt(lab: Laboratory) -> None:
    class Dying(MemoryRecorder):
        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
            if step == 1:
                raise SystemExit
            super().log_metrics(metrics, step)

    dying = Dying()
    with pytest.raises(SystemExit):
        run(lab.config(), dying, lab.folder / "dying")
    assert sorted(dying.metrics["val_loss"]) == [0]
    _, recorder = lab.run(folder="dying")
    assert sorted(recorder.metrics["val_loss"]) == [0, 1, 2]


def test_validation_is_that_of_the_validation_split_and_every_image_counts_alike(lab: Laboratory) -> None:
    # 101 validation images in batches of 32: the last batch is smaller and must not weigh more.
    result, _ = lab.run("epochs=2", "trainable=true", "learning_rate=0.01")
    prepared = prepare(lab.config("trainable=true"))
    data, rows = prepared.data, prepared.data.splits.val
    assert len(rows) % 32
    best = tf.train.latest_checkpoint(str(lab.folder / "run" / "checkpoints" / "best"))
    tf.train.Checkpoint(model=prepared.model).restore(best).assert_existing_objects_matched()
    logits = prepared.model.predict(data.inputs.take(rows), verbose=0).astype(np.float64)
    labels = data.images.labels[rows]
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(rows)), labels]
    recorded = result.history[result.best_epoch]
    assert recorded["val_accuracy"] == pytest.approx((logits.argmax(axis=1) == labels).mean(), abs=1e-6)
    assert recorded["val_loss"] == pytest.approx(losses.mean(), rel=1e-4)


@pytest.mark.parametrize(
    "settings",
    [[], ["features.memory_budget_mb=0"], ["trainable=true"], ["jit_compile=true"], ["batch_size=24", "optimizer=sgd"]],
)
def test_the_confusion_is_that_of_the_test_split_alone(lab: Laboratory, settings: list[str]) -> None:
    config = lab.config("epochs=2", *settings)
    prepared = prepare(config)
    result, _ = lab.run("epochs=2", *settings)
    assert result.confusion is not None
    labels = prepared.data.images.labels[prepared.data.splits.test]
    # The process has one model of a kind: it is left as the best checkpoint, from which the test split was evaluated.
    predicted = prepared.model.predict(prepared.data.inputs.take(prepared.data.splits.test), verbose=0).argmax(axis=1)
    wanted = np.zeros((10, 10), dtype=int)
    np.add.at(wanted, (labels, predicted), 1)
    assert [list(row) for row in result.confusion] == wanted.tolist()
    assert result.test_accuracy == pytest.approx(np.trace(wanted) / len(labels), abs=1e-6)


def test_a_run_that_was_stopped_has_no_confusion(lab: Laboratory) -> None:
    result, _ = lab.run(stop=lambda: "pruned")
    assert result.confusion is None


def test_more_classes_than_anybody_reads_are_not_confused(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_tape, "MOST_CLASSES_CONFUSED", 9)
    result, _ = lab.run("head_width=24", "epochs=1")
    assert result.confusion is None
    assert result.test_accuracy is not None


def test_rates_and_speeds_are_what_they_say(lab: Laboratory) -> None:
    result, _ = lab.run("learning_rate=0.003", "epochs=2")
    images = len(prepare(lab.config()).data.splits.train)
    for epoch in result.history:
        assert epoch["learning_rate"] == pytest.approx(0.003)
        # The epoch also validates, so it takes longer than its training images alone.
        assert images / epoch["images_per_second"] < epoch["epoch_seconds"]


def test_the_optimisers_follow_their_settings(lab: Laboratory) -> None:
    sgd = make_optimizer(lab.config("optimizer=sgd", "optimizer.momentum=0.5", "learning_rate=0.25"))
    assert (type(sgd).__name__, sgd.momentum, float(sgd.learning_rate)) == ("SGD", 0.5, 0.25)
    adamw = make_optimizer(lab.config("optimizer=adamw", "optimizer.weight_decay=0.125"))
    assert (type(adamw).__name__, adamw.weight_decay) == ("AdamW", 0.125)
    assert type(make_optimizer(lab.config())).__name__ == "Adam"


def test_mixed_precision_is_refused_where_nothing_gains_from_it(lab: Laboratory) -> None:
    with pytest.raises(ConfigError, match=r"mixed_precision=true: there is no GPU.*7\.0.*auto and false"):
        lab.run("mixed_precision=true", "trainable=true")


@pytest.mark.usefixtures("tensor_cores")
def test_with_mixed_precision_the_loss_is_scaled_and_the_gradients_back(lab: Laboratory) -> None:
    settings = ["trainable=true", "epochs=2", "learning_rate=0.001"]
    single, _ = lab.run(*settings, "mixed_precision=false", folder="single")
    assert not tf.config.optimizer.get_experimental_options().get("auto_mixed_precision")
    half, _ = lab.run(*settings, folder="half")
    lab.run(*settings, "init_head=probe", folder="probed")  # on a head, which has nothing to gain
    assert tf.config.optimizer.get_experimental_options()["auto_mixed_precision"]
    trainer = prepare(lab.config(*settings)).trainer
    assert trainer.half_precision
    trainer.reset_optimizer(0.001)  # as every run does first
    assert int(trainer.optimizer.dynamic_counter) == 0
    # Scales are powers of two: they change no bit but where numbers vanish.
    for one, two in zip(curve(single), curve(half), strict=True):
        assert one == pytest.approx(two, abs=1e-5)
    assert not prepare(lab.config("features=cached")).trainer.half_precision
    assert not tf.config.optimizer.get_experimental_options()["auto_mixed_precision"]


def test_determinism_is_on_unless_it_is_given_up(lab: Laboratory) -> None:
    lab.run("epochs=1", "deterministic=false", folder="loose")
    assert not tf_config.is_op_determinism_enabled()
    lab.run("epochs=1", folder="strict")
    assert tf_config.is_op_determinism_enabled()


def test_xla_gives_the_same_training(lab: Laboratory) -> None:
    plain, _ = lab.run("epochs=1", folder="plain")
    compiled, _ = lab.run("epochs=1", "jit_compile=true", folder="compiled")
    assert compiled.history[0]["val_accuracy"] == pytest.approx(plain.history[0]["val_accuracy"], abs=0.02)
    assert compiled.history[0]["train_loss"] == pytest.approx(plain.history[0]["train_loss"], rel=1e-3)


def test_xla_does_with_batches_larger_than_a_split(lab: Laboratory) -> None:
    plain, _ = lab.run("batch_size=150", folder="plain")  # between the sizes of two splits
    compiled, _ = lab.run("batch_size=150", "jit_compile=true", folder="compiled")
    assert compiled.test_loss == pytest.approx(plain.test_loss, rel=1e-3)


def test_a_wrong_feature_width_is_refused_even_where_the_features_are_stored(lab: Laboratory) -> None:
    lab.run("epochs=1")
    with pytest.raises(ConfigError, match=r"feature_width=999: the module .* gives 128 features"):
        lab.run("epochs=1", "backbone.feature_width=999", folder="other")


def test_a_loss_that_is_no_number_fails_the_trial(lab: Laboratory) -> None:
    with pytest.raises(FailedTrial, match="learning_rate=1e") as caught:
        lab.run("learning_rate=1e30", "optimizer=sgd")
    assert caught.value.cause == "diverged"


def test_dropout_is_at_work_in_training(lab: Laboratory) -> None:
    without, _ = lab.run("epochs=2", folder="without")
    with_dropout, _ = lab.run("epochs=2", "dropout_rate=0.9", folder="with")
    assert with_dropout.history[-1]["train_loss"] > without.history[-1]["train_loss"]


def test_the_summary_describes_the_best_epoch(lab: Laboratory) -> None:
    result, _ = lab.run("head_width=5")
    best = result.history[result.best_epoch]
    summary = result.summary()
    assert summary["best_val_accuracy"] == max(epoch["val_accuracy"] for epoch in result.history)
    assert summary["overfit_gap"] == best["train_accuracy"] - best["val_accuracy"]
    width = 8 * 4 * 4  # the small backbone's features
    assert summary["trainable_parameters"] == width * 5 + 5 + 5 * 10 + 10
    assert summary["test_accuracy"] == result.test_accuracy


def test_loss_and_accuracy_are_reported_every_so_many_steps(lab: Laboratory) -> None:
    seen: list[int] = []

    class Steps(MemoryRecorder):
        def log_step(self, metrics: object, *, step: int, epoch: int, of: int) -> None:
            assert set(metrics) == {"loss", "accuracy"}  # type: ignore[call-overload]
            seen.append(step)

    config = lab.config("loop.log_every=2", "epochs=2", "batch_size=32")
    steps = int(np.ceil(len(prepare(config).data.splits.train) / 32))
    run(config, Steps(), lab.folder / "steps")
    first = [*range(2, steps + 1, 2)] + ([steps] if steps % 2 else [])
    assert seen == first + [steps + step for step in first]
