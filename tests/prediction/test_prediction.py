"""What a run trained is used: the classes of image files, and the model as other programs load it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError

import numpy as np
import pytest
import tensorflow as tf
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run
from mlflow.models import Model
from tests.conftest import backbone_at, run_command
from tests.images import write_classes
from tests.serving import ask, free_port, post, serving
from typer.testing import CliRunner

from graft.cli import app
from graft.errors import ConfigError, GraftError
from graft.prediction import predict

CLASSES = ["dark", "grey", "light"]
SPLITS = {"train": 16, "val": 8, "test": 8}
SIZE = 32
KINDS = {"frozen": ["trainable=false"], "finetuned": ["trainable=true", "dropout_rate=0.2"]}
NOT_LOGGED = "finetuned"
"""The kind whose model could not be logged when the run came to its end."""


class Done(NamedTuple):
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Trained:
    """Runs in a home of their own.

    Attributes:
        home: Holds their record, and the backbone; what they were trained on is gone.
        images: Those of the test split, PNGs larger than the model's.
        runs: By their kind.
        printed: What `train.py` printed, by kind.
    """

    home: Path
    images: list[Path]
    runs: dict[str, Run]
    printed: dict[str, str]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.home}/mlruns/mlflow.db")

    def graft(self, command: str, kind: str, *words: object, **environment: str) -> Done:
        """In this process, which has TensorFlow already."""
        words = (command, self.runs[kind].info.run_id, *map(str, words))
        done = CliRunner().invoke(app, list(words), env={"GRAFT_HOME": str(self.home), **environment})
        if isinstance(done.exception, GraftError):
            return Done(done.exception.status, done.stdout, str(done.exception))
        assert done.exception is None, done.exception
        return Done(done.exit_code, done.stdout, done.stderr)

    def predicted(self, kind: str, images: list[Path]) -> list[dict[str, Any]]:
        done = self.graft("predict", kind, *images, "--json")
        assert done.returncode == 0, done.stderr
        said: list[dict[str, Any]] = json.loads(done.stdout)
        return said

    def probabilities(self, kind: str) -> np.ndarray[Any, Any]:
        """What `graft predict` says of `images`, [images, classes]."""
        return np.array(
            [[each["probabilities"][name] for name in CLASSES] for each in self.predicted(kind, self.images)]
        )


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny_backbone import save_tiny_backbone

    return save_tiny_backbone(tmp_path_factory.mktemp("backbone"), antialias=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, backbone: Path) -> Trained:
    home = tmp_path_factory.mktemp("home [old]")  # TensorFlow would take it for a pattern
    photos = home / "photos"
    for seed, (split, count) in enumerate(SPLITS.items()):
        write_classes(photos / split, dict.fromkeys(CLASSES, count), size=40, seed=seed)
    always = ["dataset=image_folder", f"dataset.path='{photos}'", f"dataset.image_size={SIZE}", "epochs=3"]
    printed: dict[str, str] = {}
    for kind, words in KINDS.items():
        settings = [*always, *words, "learning_rate=0.003", *backbone_at(backbone)]
        if kind == NOT_LOGGED:  # a folder in the place of the lock
            (home / "mlruns/log-model.lock").unlink()
            (home / "mlruns/log-model.lock").mkdir()
        done = run_command(["python", "train.py", *settings], home)
        assert done.returncode == 0, done.stderr
        printed[kind] = done.stdout
    (home / "mlruns/log-model.lock").rmdir()
    shutil.move(photos / "test", home / "test")
    shutil.rmtree(photos)
    client = MlflowClient(f"sqlite:///{home}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("graft")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    by_kind = {"finetuned" if run.data.params["trainable"] == "True" else "frozen": run for run in runs}
    return Trained(home, sorted((home / "test").glob("*/*.png")), by_kind, printed)


@pytest.mark.parametrize("kind", KINDS)
def test_the_test_split_is_predicted_as_accurately_as_it_was_tested(trained: Trained, kind: str) -> None:
    predictions = trained.predicted(kind, trained.images)
    assert [each["image"] for each in predictions] == [str(image) for image in trained.images]
    right = sum(each["class"] == Path(each["image"]).parent.name for each in predictions)
    assert right / len(predictions) == pytest.approx(trained.runs[kind].data.metrics["test_accuracy"])
    assert right > len(predictions) / 2, "a model that learnt nothing would prove nothing"
    for each in predictions:
        assert sum(each["probabilities"].values()) == pytest.approx(1)
        assert each["probability"] == max(each["probabilities"].values())
        assert list(each["probabilities"]) == sorted(each["probabilities"], key=each["probabilities"].get, reverse=True)


def test_the_table_names_image_class_and_probability(trained: Trained) -> None:
    image = trained.images[0]
    (said,) = trained.predicted("frozen", [image])
    done = trained.graft("predict", "frozen", image, COLUMNS="300")
    assert done.returncode == 0, done.stderr
    for text in (str(image), said["class"], f"{said['probability']:.4f}"):
        assert text in done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_model_gives_the_same_without_graft(trained: Trained, kind: str, tmp_path: Path) -> None:
    done = trained.graft("export", kind, tmp_path / "model", "--tflite")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "model/classes.json").read_text()) == CLASSES
    program = (
        "import glob, json, sys\n"
        "import numpy as np, tensorflow as tf\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('graft', 'tensorflow_hub', 'tf_keras')]\n"
        "folder, *images = sys.argv[1:]\n"
        "model = tf.saved_model.load(folder)\n"
        "contents = [open(image, 'rb').read() for image in images]\n"
        "decoded = tf.stack([tf.io.decode_png(content, channels=3) for content in contents])\n"
        "resized = tf.cast(tf.round(tf.image.resize(decoded, (32, 32))), tf.uint8)\n"
        "said = {\n"
        "    'decoded': model.signatures['serving_default'](images=decoded),\n"
        "    'encoded': model.signatures['encoded'](contents=tf.constant(contents)),\n"
        "}\n"
        "lite = tf.lite.Interpreter(folder + '/model.tflite')\n"
        "lite.allocate_tensors()\n"
        "(given,), (gives,) = lite.get_input_details(), lite.get_output_details()\n"
        "alone = []\n"
        "for image in resized:\n"
        "    lite.set_tensor(given['index'], image[None].numpy())\n"
        "    lite.invoke()\n"
        "    alone.append(lite.get_tensor(gives['index'])[0].tolist())\n"
        "told = {key: {name: value.numpy().tolist() for name, value in of.items()} for key, of in said.items()}\n"
        "told = {key: {**of, 'label': [label.decode() for label in of['label']]} for key, of in told.items()}\n"
        "json.dump({**told, 'tflite': alone}, open(folder + '/told.json', 'w'))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "model"), *map(str, trained.images)]
    alone = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"TF_CPP_MIN_LOG_LEVEL": "3"})
    assert alone.returncode == 0, alone.stderr
    told = json.loads((tmp_path / "model/told.json").read_text())
    expected = trained.probabilities(kind)
    for signature in ("decoded", "encoded"):
        np.testing.assert_allclose(told[signature]["probabilities"], expected, atol=1e-4)
        assert told[signature]["label"] == [CLASSES[place] for place in expected.argmax(axis=1)]
    np.testing.assert_allclose(told["tflite"], expected, atol=2e-2)


def test_what_is_there_is_not_written_over(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = trained.graft("export", "frozen", tmp_path)
    assert done.returncode == 2
    assert "a folder with files in it" in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_may_be_a_link_or_the_one_that_the_user_is_in(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "link").symlink_to("linked")
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    for named in (".", tmp_path / "link"):
        done = trained.graft("export", "frozen", named)
        assert done.returncode == 0, done.stderr
        assert {entry.name for entry in Path(named).iterdir()} >= {"saved_model.pb", "variables", "classes.json"}
        assert not [entry for entry in Path(named).iterdir() if entry.name.startswith(".")]
        assert trained.graft("export", "frozen", named).returncode == 2, "it is not empty any more"
    assert Path.cwd() == tmp_path / "inside"
    assert (tmp_path / "link").is_symlink()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["inside", "link", "linked"]


def test_images_that_cannot_be_read_are_all_named(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("no image")
    done = trained.graft("predict", "frozen", tmp_path / "empty.jpg", trained.images[0], tmp_path / "text.png")
    assert done.returncode == 2
    assert "empty.jpg: the file is empty" in done.stderr
    assert "text.png: no JPEG" in done.stderr
    done = trained.graft("predict", "frozen", tmp_path / "lost.jpg", tmp_path)
    assert done.returncode == 2
    assert "lost.jpg: there is no such file" in done.stderr
    assert f"{tmp_path}: this is a folder" in done.stderr


def test_a_name_that_no_file_can_have_is_that_of_no_file() -> None:
    with pytest.raises(ConfigError, match="x: there is no such file"):
        predict.check(["x" * 300])


def test_a_backbone_that_is_not_what_it_was_is_refused(trained: Trained, backbone: Path) -> None:
    variables = next((backbone / "variables").glob("variables.data*"))
    content = variables.read_bytes()
    try:
        variables.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        done = trained.graft("predict", "frozen", trained.images[0])
    finally:
        variables.write_bytes(content)
    assert done.returncode == 1
    assert "it is not the backbone that the run" in done.stderr


def test_a_damaged_checkpoint_and_a_run_without_one_are_told(trained: Trained) -> None:
    run = trained.runs["finetuned"]
    best = Path(run.info.artifact_uri.removeprefix("file://")) / "checkpoints/best"
    (data,) = best.glob("*.data-*")
    content = data.read_bytes()
    try:
        data.write_bytes(content[: len(content) // 2])
        done = trained.graft("predict", "finetuned", trained.images[0])
        assert done.returncode == 1
        assert "The best checkpoint cannot be read" in done.stderr
        best.rename(best.with_name("elsewhere"))
        done = trained.graft("export", "finetuned", trained.home / "model")
        assert done.returncode == 1
        assert "its artifact checkpoints/best cannot be read" in done.stderr
        assert not (trained.home / "model").exists()
    finally:
        if not best.exists():
            best.with_name("elsewhere").rename(best)
        data.write_bytes(content)


def logged_models(trained: Trained, condition: str) -> list[LoggedModel]:
    experiment = trained.runs["frozen"].info.experiment_id
    return list(trained.client.search_logged_models([experiment], condition))


def test_a_run_leaves_a_model_in_mlflow_that_says_what_it_takes_gives_and_needs(trained: Trained) -> None:
    run = trained.runs["frozen"]
    best = int(run.data.metrics["best_epoch"])
    (model,) = logged_models(trained, f"metrics.test_accuracy > 0.5 and source_run_id = '{run.info.run_id}'")
    assert f"Model: models:/{model.model_id}" in trained.printed["frozen"]
    assert run.data.tags["graft.model"] == model.model_id
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert model.params == run.data.params
    assert model.tags["graft.backbone_sha256"] == run.data.tags["graft.backbone_sha256"]
    of_model = {metric.key: metric.value for metric in model.metrics}
    for name in run.data.metrics:
        history = trained.client.get_metric_history(run.info.run_id, name)
        steps = [point.step for point in history]
        assert steps == sorted(set(steps)), f"{name} of the run was logged again"
        assert of_model[name] == next(point.value for point in history if point.step in (best, max(steps)))
    described = Model.load(model.artifact_location)
    assert described.signature is not None
    assert described.signature.inputs.to_dict() == [
        {"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": (-1, -1, -1, 3)}}
    ]
    assert described.signature.outputs.input_names() == ["label", "probabilities"]
    requirements = (Path(model.artifact_location) / "requirements.txt").read_text().splitlines()
    assert requirements == [f"{name}=={metadata.version(name)}" for name in ("tensorflow", "numpy", "mlflow")]
    assert not list(Path(model.artifact_location).rglob("*.pkl"))
    code = (Path(model.artifact_location) / "served_model.py").read_text()
    assert set(re.findall(r"^\s*(?:from|import) (\w+)", code, re.MULTILINE)) <= {
        *("__future__", "json", "pathlib", "tempfile", "typing"),
        *("mlflow", "numpy", "tensorflow"),
    }


def test_a_model_that_could_not_be_logged_costs_a_warning_and_is_served_once_it_is(
    trained: Trained, tmp_path: Path
) -> None:
    run = trained.runs[NOT_LOGGED]
    assert run.info.status == "FINISHED"
    assert "graft.model" not in run.data.tags
    assert re.search(rf"To log it: \S*graft log-model {run.info.run_id}", trained.printed[NOT_LOGGED])
    for _ in range(2):  # what is logged already is not logged again
        done = trained.graft("log-model", NOT_LOGGED)
        assert done.returncode == 0, done.stderr
    (model,) = logged_models(trained, "params.trainable = 'True'")
    assert f"models:/{model.model_id}" in done.stdout
    serve = done.stdout.partition("To serve it: ")[2].strip()
    port = free_port()
    command = ["bash", "-c", f"exec env {serve} --host 127.0.0.1 --port {port}"]
    with serving(command, trained.home, port, tmp_path / "serve.log", "/ping"):
        decoded = [tf.io.decode_png(image.read_bytes(), channels=3).numpy() for image in trained.images]
        answers = ask(port, np.stack(decoded))
        example = json.loads((Path(model.artifact_location) / "serving_input_example.json").read_text())
        (of_example,) = post(port, example)
        with pytest.raises(HTTPError, match="400"):
            ask(port, decoded[0])  # one image is no batch
    assert of_example["label"] in CLASSES
    expected = trained.probabilities(NOT_LOGGED)
    served = [[each["probabilities"][name] for name in CLASSES] for each in answers]
    np.testing.assert_allclose(served, expected, atol=1e-4)
    assert [each["label"] for each in answers] == [CLASSES[place] for place in expected.argmax(axis=1)]
    assert all(next(iter(each["probabilities"])) == each["label"] for each in answers)
