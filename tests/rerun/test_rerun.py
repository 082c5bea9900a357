"""`graft rerun`: what has changed since is named before training, and every number is compared."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import tensorflow as tf
import yaml
from click.testing import Result
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from mlflow.tracking import MlflowClient
from PIL import Image
from tests.images import write_classes
from tests.tiny_backbone import save_tiny_backbone
from typer.testing import CliRunner

from graft import provenance
from graft.cli import app
from graft.config import Config, from_hydra
from graft.errors import ConfigError, FailedTrial, FatalError, GraftError
from graft.features import store as feature_store
from graft.loop.result import StopSignal
from graft.paths import CHECKOUT
from graft.preparation import prepare
from graft.recording import Occasion
from graft.run import carry_out
from graft.tracking.recorder import MemoryRecorder

TRAINING = "epoch 1/2"
SINGLE = {"graft.kind": "single"}


class Records:
    """Runs recorded in the test's home, by the same code as `train.py`'s."""

    def __init__(self, home: Path, make_config: Callable[..., Config]) -> None:
        self.home = home
        self._make_config = make_config
        self._count = 0

    def record(
        self, *overrides: str, stop: StopSignal = lambda: None, tags: Mapping[str, str] = MappingProxyType(SINGLE)
    ) -> str:
        config = self._make_config(
            "+size=smoke", "backbone.value_range=[0,1]", "dataset.max_images=80", "dataset.image_size=16", *overrides
        )
        directory = self.home / f"recorded{self._count}"
        self._count += 1
        occasion = Occasion(directory, MemoryRecorder(), tags, overrides)
        with contextlib.suppress(FailedTrial):
            carry_out(config, prepare(config), occasion, stop, time.perf_counter())
        return (directory / "checkpoints" / "mlflow_run_id").read_text()

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.home}/mlruns/mlflow.db")

    def tags(self, run_id: str) -> dict[str, str]:
        return self.client.get_run(run_id).data.tags

    def rerun_of(self, run_id: str) -> dict[str, str]:
        """The tags of its rerun."""
        return self.tags(self.tags(run_id)["graft.rerun"])

    def rewrite(self, run_id: str, change: Callable[[dict], None]) -> None:
        """Rewrites the configuration that was recorded."""
        config = yaml.safe_load(Path(self.client.download_artifacts(run_id, "config.yaml")).read_text())
        change(config)
        self.replace(run_id, yaml.safe_dump(config).encode())

    def replace(self, run_id: str, content: bytes) -> None:
        """Puts something in the place of the configuration that was recorded."""
        file = self.home / "config.yaml"
        file.write_bytes(content)
        self.client.log_artifact(run_id, str(file))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Records]:
    """One home for all tests: a new MLflow database takes longer to make than a run."""
    home = tmp_path_factory.mktemp("home")

    def make_config(*overrides: str) -> Config:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CHECKOUT / "conf"), version_base="1.3"):
            return from_hydra(compose("config", overrides=list(overrides)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_HOME", str(home))
        yield Records(home, make_config)


@pytest.fixture(scope="module")
def tiny(tiny_backbone: Path) -> str:
    return f"backbone.url={tiny_backbone}"


@pytest.fixture(scope="module")
def one_run(records: Records, tiny: str) -> str:
    """A run that the tests leave as it is."""
    return records.record(tiny, "seed=42")


def rerun(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["rerun", *arguments])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_classes(tmp_path / "photos", {"cat": 24, "dog": 24})
    return tmp_path / "photos"


@pytest.mark.parametrize(
    "kind",
    [
        ["dropout_rate=0.3"],
        ["features=live"],
        ["trainable=true", "augment=standard", "dropout_rate=0.3"],
        ["trainable=true", "init_head=probe"],
        ["trainable=true", "loop=keras_fit", "dropout_rate=0.3"],
    ],
    ids=" ".join,
)
def test_a_verified_rerun_is_exact_and_both_runs_say_so(records: Records, tiny: str, kind: list[str]) -> None:
    run_id = records.record(tiny, *kind)
    records.record(tiny, "seed=7", *kind)  # what another run leaves in this process must not matter
    done = rerun(run_id, "--verify")
    assert done.exit_code == 0, done.output
    assert "Code, lock, versions, device, data and backbone are what they were." in done.output
    assert "Exact: all " in done.output
    assert "of 2 epochs and of the whole run" in done.output
    again = records.rerun_of(run_id)
    assert (again["graft.kind"], again["graft.rerun_of"], again["graft.verified"]) == ("rerun", run_id, "exact")
    assert records.tags(run_id)["graft.verified"] == "exact"
    assert records.tags(run_id)["graft.verified_by"] == records.tags(run_id)["graft.rerun"]


def test_what_the_machine_did_is_recorded_and_not_compared(records: Records, tiny: str) -> None:
    run_id = records.record(tiny, "tracking.system_metrics=true")
    assert "system/cpu_utilization_percentage" in records.client.get_run(run_id).data.metrics
    assert rerun(run_id, "--verify").exit_code == 0


def test_a_trial_that_cannot_be_run_again_keeps_its_sweep_from_being_exact(records: Records, tiny: str) -> None:
    parent = records.client.create_run("1", tags={"graft.kind": "sweep", "graft.sweep": "gap"}).info.run_id
    of_sweep = {"graft.kind": "trial", "graft.sweep": "gap"}
    whole = records.record(tiny, tags={**of_sweep, "graft.trial": "0"})
    assert rerun("gap", "--verify").exit_code == 0
    records.client.create_run("1", tags={**of_sweep, "graft.trial": "1"}, run_name="failed at once")
    again = rerun("gap", "--verify", "--json")
    assert again.exit_code == 3
    of_each = {each["trial"]: each for each in json.loads(again.stdout)}
    assert (of_each[0]["of"], of_each[0]["verified"]) == (whole, "exact")
    assert of_each[1]["verified"] == "diverged"
    assert "cannot be run again" in of_each[1]["failure"]
    assert parent in {run.info.run_id for run in records.client.search_runs(["1"], "tags.`graft.sweep` = 'gap'")}


def test_a_verified_rerun_does_not_believe_the_feature_store(records: Records, tiny: str) -> None:
    run_id = records.record(tiny, "dataset.split_seed=3", "dataset.image_size=12")
    key = max((records.home / "mlruns/cache/features").glob("*/"), key=lambda folder: folder.stat().st_mtime_ns)
    (index_file,) = (file for file in key.glob("*.json") if file.name != "about.json")
    features = np.load(index_file.with_suffix(".npy")) * np.float32(1.01)
    np.save(index_file.with_suffix(".npy"), features)
    index = json.loads(index_file.read_text())
    index["sha256"] = feature_store.file_sha256(index_file.with_suffix(".npy"))
    index_file.write_text(json.dumps(index))
    records.record(tiny, "dataset.image_size=8")  # drives out the features that this process keeps in memory
    # Recorded with features that are wrong, and consistently so.
    wrong = records.record(tiny, "dataset.split_seed=3", "dataset.image_size=12", "seed=1")
    assert rerun(run_id, "--verify").exit_code == 0
    done = rerun(wrong, "--verify")
    assert done.exit_code == 3
    assert "train_loss of epoch 0:" in done.output
    assert records.tags(wrong)["graft.verified"] == "diverged"
    assert not list(records.home.glob("mlruns/runs/**/features-*"))


def test_a_changed_pixel_is_named_before_training(records: Records, tiny: str, photos: Path) -> None:
    run_id = records.record(tiny, "dataset=image_folder", f"dataset.path={photos}")
    image = photos / "cat" / "0003.png"
    pixels = np.asarray(Image.open(image)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(image)
    done = rerun(run_id, "--verify")
    assert "dataset sha256: " in done.output
    assert done.output.index("dataset sha256: ") < done.output.index(TRAINING)
    assert done.exit_code == 3
    assert "What has changed since may be why: dataset sha256." in done.output


def test_data_that_were_moved_are_found_by_set_and_can_be_verified_all_the_same(
    records: Records, tiny: str, photos: Path
) -> None:
    run_id = records.record(tiny, "dataset=image_folder", f"dataset.path={photos}")
    photos.rename(photos.with_name("moved"))
    gone = rerun(run_id)
    assert isinstance(gone.exception, ConfigError)
    assert f"dataset.path={photos}: there is no folder" in str(gone.exception)
    assert "--set key=value gives it another value" in str(gone.exception)
    done = rerun(run_id, "--verify", "--set", f"dataset.path={photos.with_name('moved')}")
    assert done.exit_code == 0, done.output
    assert f"dataset.path: {photos} then, {photos.with_name('moved')} now" in done.output
    assert "Exact: " in done.output


def test_another_bit_in_the_backbone_is_named_before_training(records: Records, tmp_path: Path) -> None:
    folder = save_tiny_backbone(tmp_path / "mine")
    run_id = records.record(f"backbone.url={folder}")
    reader = tf.train.load_checkpoint(str(folder / "variables/variables"))
    weights = reader.get_tensor("variables/0/.ATTRIBUTES/VARIABLE_VALUE").astype("<f4").tobytes()
    data = folder / "variables" / "variables.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[content.index(weights)] ^= 1
    data.write_bytes(content)
    done = rerun(run_id)
    assert "backbone sha256: " in done.output
    assert TRAINING not in done.output  # TensorFlow's own checksum does not let it through
    assert isinstance(done.exception, GraftError), done.output

    save_tiny_backbone(folder, seed=1)
    done = rerun(run_id, "--verify")
    assert done.output.index("backbone sha256: ") < done.output.index(TRAINING)
    assert done.exit_code == 3


def test_another_commit_lock_and_device_are_named(records: Records, tiny: str) -> None:
    run_id = records.record(tiny)
    for tag in ("commit", "lock_sha256", "python", "tensorflow", "device"):
        records.client.set_tag(run_id, f"graft.{tag}", "f00d" * 10)
    done = rerun(run_id)
    assert done.exit_code == 0, done.output
    for name in ("commit", "lock sha256", "python", "tensorflow", "device"):
        assert f"  {name}: f00d" in done.output
        assert done.output.index(f"  {name}: ") < done.output.index(TRAINING)
    assert "Exact: " in done.output
    assert "graft.verified" not in records.rerun_of(run_id)


def test_a_change_is_named_and_claims_no_identity(records: Records, tiny: str) -> None:
    run_id = records.record(tiny, "default_learning_rates.finetuned=0.0001")
    done = rerun(run_id, "--set", "seed=1", "--set", "trainable=true")
    assert done.exit_code == 0, done.output
    assert "seed: 0 then, 1 now" in done.output
    assert "learning_rate: 0.001 then, 0.0001 now" in done.output  # it follows trainable, as in train.py
    assert "With seed=1 trainable=true " in done.output
    assert "Exact" not in done.output
    again = records.rerun_of(run_id)
    assert again["graft.changed"] == "seed=1 trainable=true"
    assert "graft.verified" not in again


def test_a_record_that_was_edited_contradicts_itself(records: Records, tiny: str) -> None:
    run_id = records.record(tiny)
    records.rewrite(run_id, lambda config: config.update(seed=5))
    done = rerun(run_id)
    assert "seed: 0 then, 5 now" in done.output
    assert done.output.index("seed: 0 then") < done.output.index(TRAINING)


def test_a_key_that_is_younger_than_the_run_gets_its_default(records: Records, tiny: str) -> None:
    run_id = records.record(tiny)
    records.rewrite(run_id, lambda config: (config.pop("augment"), config["features"].pop("memory_budget_mb")))
    done = rerun(run_id, "--verify")
    assert done.exit_code == 0, done.output
    assert "augment: no such key then, none now" in done.output
    assert "features.memory_budget_mb: no such key then, 1024 now" in done.output


def test_what_is_not_deterministic_is_not_promised(records: Records, tiny: str) -> None:
    done = rerun(records.record(tiny, "deterministic=false"))
    assert "Note: deterministic=false: the numbers need not be the same." in done.output


def test_a_run_that_diverged_diverges_again(records: Records, tiny: str) -> None:
    run_id = records.record(tiny, "learning_rate=1e38", "optimizer=sgd")
    assert records.tags(run_id)["graft.failure"] == "diverged"
    done = rerun(run_id, "--verify")
    assert done.exit_code == 0, done.output
    assert "It failed as the recorded run had: diverged" in done.output
    assert rerun(run_id, "--set", "learning_rate=0.1").exit_code == 1  # it came to its end


def test_a_pruned_run_is_pruned_again(records: Records, tiny: str) -> None:
    run_id = records.record(tiny, "epochs=4", stop=lambda: "pruned")
    done = rerun(run_id, "--verify")
    assert done.exit_code == 0, done.output
    assert "epoch 1/4" in done.output
    assert "epoch 2/4" not in done.output
    assert "Exact: " in done.output


def test_an_interrupted_run_is_compared_as_far_as_it_came_and_keeps_no_verdict(records: Records, tiny: str) -> None:
    run_id = records.record(tiny, "epochs=4", stop=lambda: "interrupted")
    done = rerun(run_id, "--verify")
    assert done.exit_code == 0, done.output
    assert "the recorded run was interrupted after 1 epoch; the rerun stops there" in done.output
    assert "epoch 2/4" not in done.output
    assert "The same: all 5 recorded numbers, bit by bit." in done.output
    assert "of the whole run" not in done.output
    assert "graft.verified" not in records.tags(run_id)
    whole = rerun(run_id)
    assert "the rerun trains all 4" in whole.output
    assert "epoch 4/4" in whole.output


@pytest.mark.parametrize("content", [b"\xff\xfe no text", b"dataset: digits\n", b"- a list\n", b"a: [\n"])
def test_a_damaged_configuration_is_told(records: Records, one_run: str, content: bytes) -> None:
    file = Path(records.client.download_artifacts(one_run, "config.yaml"))
    before = file.read_bytes()
    try:
        records.replace(one_run, content)
        done = rerun(one_run)
    finally:
        records.replace(one_run, before)
    assert isinstance(done.exception, FatalError)
    assert "config.yaml" in str(done.exception)


def test_tags_that_were_edited_end_no_rerun_in_a_traceback(records: Records, tiny: str) -> None:
    run_id = records.record(tiny)
    for name, value in (("graft.overrides", "it's"), ("graft.trial", "abc")):
        records.client.set_tag(run_id, name, value)
    assert rerun(run_id).exit_code == 0
    records.client.set_tag(run_id, "graft.kind", "sweep")
    done = rerun(run_id)
    assert isinstance(done.exception, FatalError)
    assert "a sweep whose tag graft.sweep is gone" in str(done.exception)
    records.client.set_tag(run_id, "graft.kind", "single")  # for the other tests of this home


def test_a_record_with_a_gap_cannot_be_verified(records: Records, tiny: str) -> None:
    run_id = records.record(tiny)
    records.client.log_metric(run_id, "val_loss", 0.125, step=1)  # a second value
    done = rerun(run_id, "--verify")
    assert isinstance(done.exception, ConfigError)
    assert "its record is not whole: val_loss at step 1 has several values" in str(done.exception)
    assert "graft.rerun" not in records.tags(run_id)
    plain = rerun(run_id)
    assert plain.exit_code == 0, plain.output
    assert "identity cannot be claimed" in plain.output
    assert "Exact" not in plain.output


def test_json_says_what_the_tables_say(records: Records, tiny: str) -> None:
    run_id = records.record(tiny)
    done = rerun(run_id[:8], "--set", "seed=3", "--json")
    (said,) = json.loads(done.stdout)
    assert (said["of"], said["exact"], said["verified"]) == (run_id, False, None)
    assert [each["what"] for each in said["differences"]] == ["seed"]
    assert said["differing"][0]["metric"] == "train_loss"
    assert said["differing"][0]["epoch"] == 0


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        (["--verify", "--set", "seed=1"], ConfigError, ["--verify with --set seed=1", "dataset.path"]),
        (["--set", "sed=1"], ConfigError, ["--set sed=1: there is no such key; did you mean seed?"]),
        (["--set", "width=1"], ConfigError, ["did you mean head_width?"]),
        (["--set", "backbone=inception"], ConfigError, ["backbone is a group of keys; allowed are", "backbone.url"]),
        (["--set", "seed"], ConfigError, ["--set seed: this is no assignment"]),
        (["--set", "seed=1,2"], ConfigError, ["one value for one key"]),
        (["--set", "seed=-1", "--set", "epochs=0"], ConfigError, ["seed=-1: allowed is", "epochs=0: "]),
        (["--set", "tracking.uri=x"], ConfigError, ["--tracking-uri"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_before_anything_is_begun(
    records: Records, one_run: str, arguments: list[str], error: type[Exception], told: list[str]
) -> None:
    done = rerun(one_run, *arguments)
    assert isinstance(done.exception, error)
    for words in told:
        assert words in str(done.exception)
    assert "graft.rerun" not in records.tags(one_run)


def test_an_unknown_run_is_told_with_the_latest_ones(records: Records, tiny: str) -> None:
    run_id = records.record(tiny)
    done = rerun("0123456789abcdef")
    assert isinstance(done.exception, ConfigError)
    assert f"There is no run and no sweep 0123456789abcdef; the latest are: runs {run_id}" in str(done.exception)
    few = rerun(run_id[:4])
    assert isinstance(few.exception, ConfigError)
    assert "at least 6 characters" in str(few.exception)


def test_a_run_from_a_dirty_tree_carries_its_diff(records: Records, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patch = b"diff --git a/src/graft/model.py b/src/graft/model.py\n"
    monkeypatch.setattr(provenance, "uncommitted", lambda: patch)
    run_id = records.record(tiny)
    assert Path(records.client.download_artifacts(run_id, "uncommitted.diff")).read_bytes() == patch
    monkeypatch.setattr(provenance, "uncommitted", lambda: patch + b"+ another line\n")
    assert "uncommitted sha256: " in rerun(run_id).output
